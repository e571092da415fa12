//! The Docker side of an archive: `manifest.json`, configurations, and layers by name.
//!
//! Such an archive holds no manifest with digests, so one is made: always the same bytes for the same
//! archive, so that an unchanged archive is an unchanged image.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{Archived, Contents, Imported};
use crate::image::compression::Compression;
use crate::image::descriptor::{Descriptor, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::image::document;
use crate::image::error::ImageError;
use crate::oci::{Digest, Reference};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The manifest that is made. The order of its fields is part of its digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

pub(super) fn images(shown: &str, contents: &Contents) -> Result<Archived, ImageError> {
    let broken = |why: String| ImageError::Archive { archive: shown.to_owned(), why };
    let bytes = contents.documents.get("manifest.json").map(Vec::as_slice).unwrap_or_default();
    let saved: Vec<Saved> =
        serde_json::from_slice(bytes).map_err(|e| broken(format!("its manifest.json is malformed: {e}")))?;
    let mut archived = Archived { images: Vec::new(), blobs: HashSet::new(), made: Vec::new() };
    for image in saved {
        let name = super::clean(&image.config);
        let config_bytes = contents
            .documents
            .get(&name)
            .ok_or_else(|| broken(format!("{} is named in its manifest and is not there", image.config)))?;
        let config = Descriptor {
            media_type: OCI_CONFIG.into(),
            digest: Digest::of(config_bytes),
            size: config_bytes.len() as u64,
        };
        let mut layers = Vec::new();
        let mut packings = Vec::new();
        for layer in image.layers.iter().flatten() {
            let found = contents.file(shown, layer)?;
            packings.push(found.compression);
            layers.push(Descriptor {
                media_type: format!("{OCI_LAYER}{}", found.compression.suffix()),
                digest: found.digest.clone(),
                size: found.size,
            });
        }
        let what = format!("archive {shown}: {}", image.config);
        let (_, _, paired) = document::parse_config(&what, config_bytes, layers.clone())?;
        for (layer, packing) in paired.iter().zip(packings) {
            if packing == Compression::Plain && layer.diff_id != layer.descriptor.digest {
                let what = format!("{what}: layer {}", layer.diff_id);
                let (expected, actual) = (layer.diff_id.clone(), layer.descriptor.digest.clone());
                return Err(ImageError::Digest { what, expected, actual });
            }
        }
        archived.blobs.extend(layers.iter().map(|layer| layer.digest.clone()));
        archived.made.push(config_bytes.clone());
        let manifest = Manifest { schema_version: 2, media_type: OCI_MANIFEST, config: &config, layers: &layers };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| broken(e.to_string()))?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let target = Descriptor { media_type: OCI_MANIFEST.into(), digest, size };
        archived.made.push(bytes);
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            archived.images.push(Imported { reference: None, name: None, target: target.clone() });
        }
        for tag in tags {
            let reference = Reference::parse_docker(&tag).map_err(|e| broken(e.to_string()))?;
            archived.images.push(Imported { reference: Some(reference), name: Some(tag), target: target.clone() });
        }
    }
    Ok(archived)
}
