//! Which of an index's manifests is for a platform.

use super::descriptor::{self, Kind};
use super::document::Child;
use crate::oci::Platform;

/// How many indexes may lie inside one another.
pub const MAX_DEPTH: usize = 4;

/// How well an image for `offered` runs on `wanted`: smaller is better, `None` not at all. Exact
/// matches come first, then older variants, then the 32-bit architecture that the 64-bit one runs,
/// as containerd orders them.
pub fn distance(wanted: &Platform, offered: &Platform) -> Option<u32> {
    if !wanted.os.eq_ignore_ascii_case(&offered.os) {
        return None;
    }
    let (want_arch, want) = normal(wanted);
    let (have_arch, have) = normal(offered);
    let level = |variant: Option<&str>| variant.and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse::<u32>().ok());
    let older = |want: Option<u32>, have: Option<u32>| match (want, have) {
        (Some(want), Some(have)) if have <= want => Some(want - have),
        _ => None,
    };
    match (want_arch, have_arch) {
        (w, h) if w == h => match (want, have) {
            (want, have) if want == have => Some(0),
            // No variant is the baseline; a node that named none promises no more than that.
            (Some(_), None) => Some(50),
            (want, have) => older(level(want), level(have)),
        },
        ("amd64", "386") => Some(100),
        ("arm64", "arm") => older(Some(8), level(have)).map(|d| 100 + d),
        _ => None,
    }
}

/// Architecture and variant with the names that mean the same made the same, as containerd's
/// `platforms.Normalize` has it.
fn normal(platform: &Platform) -> (&str, Option<&str>) {
    let variant = platform.variant.as_deref();
    match (platform.architecture.as_str(), variant) {
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", Some("v8")),
        ("aarch64", other) => ("arm64", other),
        ("armhf" | "arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("armel", _) => ("arm", Some("v6")),
        ("x86_64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("i386" | "386", _) => ("386", None),
        (arch, other) => (arch, other),
    }
}

/// The entries worth looking at for a platform, best first: images for it, then nested indexes and
/// entries that do not say what they are for.
pub fn candidates<'a>(children: &'a [Child], wanted: &Platform) -> Vec<&'a Child> {
    let mut ranked: Vec<(u32, &Child)> = children
        .iter()
        .filter(|child| !child.attached)
        .filter_map(|child| {
            let kind = descriptor::kind(&child.descriptor.media_type);
            let rank = match (&child.platform, kind) {
                (_, Kind::Schema1 | Kind::Other) => return None,
                (Some(platform), _) => distance(wanted, platform)?,
                (None, _) => 1000,
            };
            Some((rank, child))
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, child)| child).collect()
}

/// What the entries offer, for people.
pub fn offered(children: &[Child]) -> Vec<Platform> {
    let mut platforms: Vec<_> = children.iter().filter(|c| !c.attached).filter_map(|c| c.platform.clone()).collect();
    platforms.sort();
    platforms.dedup();
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(wanted: &str, offered: &str) -> Option<u32> {
        distance(&wanted.parse().unwrap(), &offered.parse().unwrap())
    }

    #[test]
    fn exact_before_older_variant_before_the_32_bit_architecture() {
        assert_eq!(d("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(d("linux/arm64/v8", "linux/arm64"), Some(0));
        assert!(d("linux/arm/v7", "linux/arm/v6") < d("linux/arm/v7", "linux/arm/v5"));
        assert!(d("linux/arm64", "linux/arm64").unwrap() < d("linux/arm64", "linux/arm/v7").unwrap());
        assert!(d("linux/amd64", "linux/386").is_some());
    }

    #[test]
    fn what_the_node_cannot_run_is_no_candidate() {
        assert_eq!(d("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(d("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(d("linux/amd64", "windows/amd64"), None);
        assert_eq!(d("linux/amd64", "linux/arm64"), None);
    }
}
