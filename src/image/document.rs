//! The JSON documents of an image, checked: indexes, manifests, configurations.
//!
//! Everything here is pure. What comes out has sha256 digests, one diff ID a layer, and is an image;
//! schema 1, artifacts and foreign layers are refused by name.

use oci_spec::image as oci;

use super::descriptor::{self, Descriptor, Kind, Layer};
use super::error::ImageError;
use crate::oci::Platform;

/// Bound of an index or a manifest in bytes, as distribution-spec recommends it.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Bound of a configuration in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Bound of what a blob is said to have in bytes: more than disks hold, and few enough to be added up.
const MAX_BLOB: u64 = 1 << 50;
/// Layers that one image may have. Overlayfs takes 500; Docker stops at 127.
pub const MAX_LAYERS: usize = 500;

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// What it points at.
    pub descriptor: Descriptor,
    /// The platform it is said to be for.
    pub platform: Option<Platform>,
    /// An attestation or another document that is about an image rather than one.
    pub attached: bool,
    /// Names by which an OCI layout knows it, most telling first.
    pub names: Vec<String>,
}

/// An index or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Entries in their order.
    Index(Vec<Child>),
    /// Configuration and layers, lowest first.
    Manifest {
        /// The configuration.
        config: Descriptor,
        /// The layers.
        layers: Vec<Descriptor>,
    },
}

/// The fields by which a document tells what it is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn malformed(what: &str, why: impl ToString) -> ImageError {
    ImageError::Malformed { what: what.to_owned(), why: why.to_string() }
}

/// Whether the bytes are an index or a manifest by their own word, else by their shape; the media type
/// that goes into a descriptor.
pub fn media_type_of(what: &str, bytes: &[u8]) -> Result<String, ImageError> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
    if let Some(own) = shape.media_type {
        return Ok(own);
    }
    Ok(match (&shape.manifests, &shape.layers, &shape.fs_layers) {
        (Some(_), _, _) => descriptor::OCI_INDEX,
        (_, Some(_), _) => descriptor::OCI_MANIFEST,
        (_, _, Some(_)) => "application/vnd.docker.distribution.manifest.v1+json",
        _ => return Err(malformed(what, "it is neither an index nor a manifest")),
    }
    .to_owned())
}

/// Reads an index or a manifest. `what` names it in errors.
pub fn parse(what: &str, bytes: &[u8]) -> Result<Document, ImageError> {
    let unsupported = |why: String| ImageError::Unsupported { image: what.to_owned(), why };
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
    // CVE-2021-41190: a document that is both would mean different things to different readers.
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(malformed(what, "it claims to be an index and a manifest at once"));
    }
    if shape.schema_version == 1 || shape.fs_layers.is_some() {
        return Err(unsupported("it is a Docker schema 1 manifest; push it again with a current tool".into()));
    }
    let media_type = media_type_of(what, bytes)?;
    match descriptor::kind(&media_type) {
        Kind::Index => index(what, bytes),
        Kind::Manifest => {
            let manifest: oci::ImageManifest = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
            let config = convert(what, manifest.config())?;
            let image_config = matches!(config.media_type.as_str(), descriptor::OCI_CONFIG | descriptor::DOCKER_CONFIG);
            if let Some(artifact) = shape.artifact_type.filter(|t| !t.is_empty() && !image_config) {
                return Err(unsupported(format!("it is an artifact of type {artifact}, not an image")));
            }
            if !image_config {
                return Err(unsupported(format!(
                    "it is an artifact with a configuration of type {}",
                    config.media_type
                )));
            }
            if manifest.layers().len() > MAX_LAYERS {
                return Err(unsupported(format!(
                    "it has {} layers; {MAX_LAYERS} can be mounted",
                    manifest.layers().len()
                )));
            }
            let layers = manifest.layers().iter().map(|l| layer(what, l)).collect::<Result<_, _>>()?;
            Ok(Document::Manifest { config, layers })
        }
        Kind::Schema1 => Err(unsupported("it is a Docker schema 1 manifest; push it again with a current tool".into())),
        Kind::Other => Err(unsupported(format!("its media type is {media_type}, which is not an image's"))),
    }
}

/// Configuration and layers of a manifest, whatever they are.
pub fn blobs(what: &str, bytes: &[u8]) -> Result<Vec<Descriptor>, ImageError> {
    let manifest: oci::ImageManifest = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
    std::iter::once(manifest.config()).chain(manifest.layers()).map(|d| convert(what, d)).collect()
}

fn index(what: &str, bytes: &[u8]) -> Result<Document, ImageError> {
    let index: oci::ImageIndex = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
    let mut children = Vec::with_capacity(index.manifests().len());
    for entry in index.manifests() {
        let platform = entry.platform().as_ref().map(|p| Platform {
            os: p.os().to_string(),
            architecture: p.architecture().to_string(),
            variant: p.variant().clone().filter(|v| !v.is_empty()),
        });
        let note = |key: &str| entry.annotations().as_ref().and_then(|a| a.get(key)).cloned();
        let attached = note("vnd.docker.reference.type").is_some()
            || platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"].into_iter().filter_map(note);
        children.push(Child { names: names.collect(), descriptor: convert(what, entry)?, platform, attached });
    }
    Ok(Document::Index(children))
}

fn convert(what: &str, descriptor: &oci::Descriptor) -> Result<Descriptor, ImageError> {
    let digest = descriptor.digest().to_string().parse().map_err(|e| malformed(what, e))?;
    if descriptor.size() > MAX_BLOB {
        return Err(malformed(what, format!("it says that {digest} has {} bytes", descriptor.size())));
    }
    Ok(Descriptor { media_type: descriptor.media_type().to_string(), digest, size: descriptor.size() })
}

fn layer(what: &str, descriptor: &oci::Descriptor) -> Result<Descriptor, ImageError> {
    let layer = convert(what, descriptor)?;
    let media_type = &layer.media_type;
    if media_type.contains("foreign") || media_type.contains("nondistributable") {
        return Err(ImageError::Unsupported {
            image: what.to_owned(),
            why: format!("its layer {} is foreign: registries do not hold it", layer.digest),
        });
    }
    if media_type.ends_with("+encrypted") {
        return Err(ImageError::Unsupported {
            image: what.to_owned(),
            why: format!("its layer {} is encrypted, and there are no keys here", layer.digest),
        });
    }
    if !media_type.contains("tar") {
        return Err(ImageError::Unsupported {
            image: what.to_owned(),
            why: format!("its layer {} is of type {media_type}, not a tar archive", layer.digest),
        });
    }
    Ok(layer)
}

/// Reads a configuration and pairs its diff IDs with the layers of its manifest.
pub fn parse_config(
    what: &str,
    bytes: &[u8],
    layers: Vec<Descriptor>,
) -> Result<(oci::ImageConfiguration, Platform, Vec<Layer>), ImageError> {
    let config: oci::ImageConfiguration = serde_json::from_slice(bytes).map_err(|e| malformed(what, e))?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers.len() {
        return Err(malformed(what, format!("it lists {} diff IDs for {} layers", diff_ids.len(), layers.len())));
    }
    let layers = layers
        .into_iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| {
            let diff_id = diff_id.parse().map_err(|e| malformed(what, e))?;
            Ok(Layer { descriptor, diff_id })
        })
        .collect::<Result<_, _>>()?;
    let platform = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone().filter(|v| !v.is_empty()),
    };
    Ok((config, platform, layers))
}
