//! The OCI side of an archive: `index.json` and what it reaches.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Archived, Contents, Found, Imported, Sink};
use crate::image::descriptor::Descriptor;
use crate::image::document::{self, Document, MAX_CONFIG, MAX_MANIFEST};
use crate::image::error::ImageError;
use crate::image::index::MAX_DEPTH;
use crate::image::pull::leads_to_images;
use crate::oci::{Digest, Reference};

/// The images that `index.json` names, each whole for at least one platform.
pub(super) fn images(shown: &str, contents: &Contents, sink: &Sink<'_>) -> Result<Archived, ImageError> {
    let bytes = contents.documents.get("index.json").map(Vec::as_slice).unwrap_or_default();
    let Document::Index(children) = document::parse(&format!("archive {shown}: index.json"), bytes)? else {
        let why = "its index.json is not an index".to_owned();
        return Err(ImageError::Archive { archive: shown.to_owned(), why });
    };
    let mut images = Vec::new();
    for child in children.into_iter().filter(|c| !c.attached && leads_to_images(&c.descriptor)) {
        let mut missing = Vec::new();
        if !whole(shown, contents, sink, &child.descriptor, 0, &mut HashSet::new(), &mut missing)? {
            missing.sort();
            missing.dedup();
            let why = format!("image {} is not whole: {} missing", child.descriptor.digest, missing.join(", "));
            return Err(ImageError::Archive { archive: shown.to_owned(), why });
        }
        // A name without a host is a tag or a nickname here, not one of Docker Hub's.
        let reference = child.names.iter().find_map(|name| name.parse::<Reference>().ok());
        images.push(Imported { reference, name: child.names.into_iter().next(), target: child.descriptor });
    }
    // With what no platform's image reaches: what is attached to one, above all.
    let is_blob = |(name, found): (&String, &Found)| name.starts_with(super::BLOBS).then(|| found.digest.clone());
    Ok(Archived { images, blobs: contents.files.iter().filter_map(is_blob).collect(), made: Vec::new() })
}

/// Whether a blob is here; one of another size than it is named with is a lie.
fn has(contents: &Contents, sink: &Sink<'_>, blob: &Descriptor) -> Result<bool, ImageError> {
    let given = contents.files.get(&name(&blob.digest)).map(|found| found.size);
    let stored = || match sink {
        Sink::Store(store, _) => store.size(&blob.digest),
        Sink::Hash => None,
    };
    match given.or_else(stored) {
        Some(actual) if actual != blob.size => {
            Err(ImageError::Size { what: format!("blob {}", blob.digest), expected: blob.size, actual })
        }
        size => Ok(size.is_some()),
    }
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small blob that is here; `None` where nothing was kept of it.
fn read<'c>(
    contents: &'c Contents,
    sink: &Sink<'_>,
    digest: &Digest,
    max: u64,
) -> Result<Option<Cow<'c, [u8]>>, ImageError> {
    let (name, what) = (name(digest), format!("blob {digest}"));
    match (contents.documents.get(&name), contents.files.get(&name), sink) {
        (_, Some(found), _) if found.size > max => Err(ImageError::TooLarge { what, limit: max }),
        (Some(bytes), ..) => Ok(Some(Cow::Borrowed(bytes))),
        // Nothing is kept of what does not begin as one does.
        (None, Some(_), _) => Err(ImageError::Malformed { what, why: "it is no JSON document".into() }),
        (None, None, Sink::Store(store, _)) => store.read(digest, max).map(|bytes| Some(Cow::Owned(bytes))),
        (None, None, Sink::Hash) => Ok(None),
    }
}

/// Whether an image can be run from what is here. An index may be whole for some platforms only: `ctr` and
/// `docker save` leave the others out.
fn whole(
    shown: &str,
    contents: &Contents,
    sink: &Sink<'_>,
    descriptor: &Descriptor,
    depth: usize,
    seen: &mut HashSet<Digest>,
    missing: &mut Vec<String>,
) -> Result<bool, ImageError> {
    if depth > MAX_DEPTH || !seen.insert(descriptor.digest.clone()) {
        return Ok(false);
    }
    let here = has(contents, sink, descriptor)?;
    let bytes = if here { read(contents, sink, &descriptor.digest, MAX_MANIFEST)? } else { None };
    let Some(bytes) = bytes else {
        missing.push(descriptor.digest.to_string());
        return Ok(false);
    };
    match document::parse(&format!("archive {shown}: manifest {}", descriptor.digest), &bytes) {
        Ok(Document::Manifest { config, layers }) => {
            let mut whole = true;
            for blob in std::iter::once(&config).chain(&layers) {
                if !has(contents, sink, blob)? {
                    missing.push(blob.digest.to_string());
                    whole = false;
                }
            }
            if whole && let Some(bytes) = read(contents, sink, &config.digest, MAX_CONFIG)? {
                document::parse_config(&format!("archive {shown}: configuration {}", config.digest), &bytes, layers)?;
            }
            Ok(whole)
        }
        Ok(Document::Index(children)) => {
            let mut any = false;
            for child in children.iter().filter(|c| !c.attached) {
                any |= whole(shown, contents, sink, &child.descriptor, depth + 1, seen, missing)?;
            }
            Ok(any)
        }
        Err(ImageError::Unsupported { .. }) if depth > 0 => Ok(false),
        Err(error) => Err(error),
    }
}
