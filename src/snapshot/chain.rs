//! Chain IDs: what a stack of layers is called.

use crate::image::Layer;
use crate::oci::Digest;

/// Chain ID of layers up to and including `diff`, as image-spec "Layer ChainID" defines it. `parent` is
/// `None` for the lowest layer.
pub fn chain_id(parent: Option<&Digest>, diff: &Digest) -> Digest {
    match parent {
        None => diff.clone(),
        Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
    }
}

/// The chain IDs of an image's layers, lowest first.
pub fn chain_ids(layers: &[Layer]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        chain.push(chain_id(chain.last(), &layer.diff_id));
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_its_diff_id_and_each_above_hashes_both() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(chain_id(Some(&a), &b), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
