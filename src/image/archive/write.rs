//! Images as a tar file that everybody reads: an OCI layout with Docker's `manifest.json` beside it, or a
//! Docker archive as it was before there were layouts.
//!
//! The same images give the same bytes: fixed order, no times, no owners. Every blob is hashed again on its
//! way out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::image::closure::{Closure, Part};
use crate::image::compression::{self, Packing};
use crate::image::descriptor::{Descriptor, OCI_INDEX};
use crate::image::document::MAX_CONFIG;
use crate::image::error::ImageError;
use crate::image::index;
use crate::image::{Image, Images};
use crate::oci::{Digest, Platform, Reference};

/// What an archive is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI layout, with what Docker needs beside it.
    Oci,
    /// A Docker archive with unpacked layers, for tools that know nothing else.
    Docker,
}

/// How an archive is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// Which part of each image.
    pub part: Part,
    /// The kind of archive.
    pub format: Format,
    /// Around the archive.
    pub packing: Packing,
}

/// An archive that can be written: everything that it needs was found.
pub struct Export {
    images: Images,
    options: ExportOptions,
    named: Vec<Named>,
}

struct Named {
    reference: Reference,
    closure: Closure,
    /// The image that Docker's side of the archive shows.
    shown: Image,
}

impl Images {
    /// Looks for everything that an archive of these images needs. Blocking.
    pub fn export(&self, wanted: &[(Reference, Descriptor)], options: &ExportOptions) -> Result<Export, ImageError> {
        let mut named = BTreeMap::new();
        for (reference, target) in wanted {
            let name = reference.to_string();
            let closure = match options.format {
                Format::Oci => self.for_archive(&name, target, &options.part)?,
                Format::Docker => self.for_push(&name, target, &options.part)?,
            };
            let shown = self.shown(&closure.root, &options.part)?;
            named.insert(name, Named { reference: reference.clone(), closure, shown });
        }
        Ok(Export { images: self.clone(), options: options.clone(), named: named.into_values().collect() })
    }

    /// The image of an index that an archive with room for one shows: the node's, else the first.
    fn shown(&self, root: &Descriptor, part: &Part) -> Result<Image, ImageError> {
        let wanted = match part {
            Part::Platform(platform) => platform.clone(),
            Part::Here | Part::All => {
                let here = self.platforms(&root.digest);
                let own = here.iter().filter_map(|p| Some((index::distance(&Platform::host(), p)?, p))).min();
                own.map(|(_, p)| p).or(here.first()).cloned().unwrap_or_else(Platform::host)
            }
        };
        self.load_image(&root.digest, &wanted)
    }
}

impl Export {
    /// What each name in the archive points at.
    pub fn contents(&self) -> Vec<(Reference, Digest)> {
        self.named.iter().map(|one| (one.reference.clone(), one.closure.root.digest.clone())).collect()
    }

    /// Writes the archive. Blocking.
    pub fn write(&self, to: impl Write) -> Result<(), ImageError> {
        let failed = |error: io::Error| ImageError::io("write the archive", error);
        let packer = compression::writer(self.options.packing, to).map_err(failed)?;
        let mut tar = Tar(Builder::new(io::BufWriter::with_capacity(256 << 10, packer)));
        match self.options.format {
            Format::Oci => self.oci(&mut tar)?,
            Format::Docker => self.docker(&mut tar)?,
        }
        let buffered = tar.0.into_inner().map_err(failed)?;
        let packer = buffered.into_inner().map_err(|error| failed(error.into_error()))?;
        packer.finish().map_err(failed)
    }

    fn oci(&self, tar: &mut Tar<impl Write>) -> Result<(), ImageError> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": self.named.iter().map(entry).collect::<Vec<_>>(),
        });
        tar.document("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        tar.document("index.json", &index)?;
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let config = |image: &Image| config_of(&self.images, image).map(|digest| blob(&digest));
        self.docker_documents(tar, config, |image| {
            image.layers.iter().map(|layer| blob(&layer.descriptor.digest)).collect()
        })?;
        tar.directory("blobs/")?;
        tar.directory("blobs/sha256/")?;
        let reached = self.named.iter().flat_map(|one| one.closure.blobs.iter().chain(&one.closure.documents));
        let all: BTreeMap<&Digest, u64> = reached.map(|d| (&d.digest, d.size)).collect();
        for (digest, size) in all {
            let file = self.images.store().open_blob(digest)?;
            tar.verified(&blob(digest), digest, size, file)?;
        }
        Ok(())
    }

    /// As `docker save` wrote until version 24: configurations, and layers as they unpack.
    fn docker(&self, tar: &mut Tar<impl Write>) -> Result<(), ImageError> {
        let config = |image: &Image| config_of(&self.images, image).map(|digest| format!("{}.json", digest.hex()));
        let layer = |diff_id: &Digest| format!("{}.tar", diff_id.hex());
        self.docker_documents(tar, config, |image| image.layers.iter().map(|l| layer(&l.diff_id)).collect())?;
        let mut configs = BTreeSet::new();
        let mut layers = BTreeMap::new();
        for one in &self.named {
            configs.insert(config_of(&self.images, &one.shown)?);
            layers.extend(one.shown.layers.iter().map(|l| (&l.diff_id, &l.descriptor.digest)));
        }
        for digest in configs {
            let bytes = self.images.store().read(&digest, MAX_CONFIG)?;
            tar.bytes(&format!("{}.json", digest.hex()), &bytes)?;
        }
        for (diff_id, blob) in layers {
            // Once to know how much it is, once to write it.
            let open = || {
                let file = self.images.store().open_blob(blob)?;
                compression::reader(file).map_err(|e| ImageError::io(format!("unpack layer {blob}"), e))
            };
            let size = io::copy(&mut open()?, &mut io::sink())
                .map_err(|e| ImageError::io(format!("unpack layer {blob}"), e))?;
            tar.verified(&layer(diff_id), diff_id, size, open()?)?;
        }
        Ok(())
    }

    /// `manifest.json` and `repositories`: one entry an image, with all of its names.
    fn docker_documents(
        &self,
        tar: &mut Tar<impl Write>,
        config: impl Fn(&Image) -> Result<String, ImageError>,
        layers: impl Fn(&Image) -> Vec<String>,
    ) -> Result<(), ImageError> {
        let mut manifest: Vec<Value> = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
        let mut entries: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
        for one in &self.named {
            let (config, layers) = (config(&one.shown)?, layers(&one.shown));
            // Docker knows no digests as names.
            let tag = one.reference.tag().filter(|_| one.reference.digest().is_none());
            let name = tag.map(|_| one.reference.to_string());
            match entries.iter_mut().find(|(c, l, _)| *c == config && *l == layers) {
                Some((_, _, names)) => names.extend(name),
                None => entries.push((config, layers, name.into_iter().collect())),
            }
            if let (Some(tag), Some(top)) = (tag, one.shown.layers.last()) {
                let repository = format!("{}/{}", one.reference.host(), one.reference.path());
                repositories.entry(repository).or_default().insert(tag, top.diff_id.hex());
            }
        }
        for (config, layers, names) in entries {
            let names = if names.is_empty() { Value::Null } else { json!(names) };
            manifest.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
        }
        tar.document("manifest.json", &json!(manifest))?;
        tar.document("repositories", &json!(repositories))
    }
}

/// The index entry of an image. Both names are whole: containerd and podman read the first, skopeo and umoci
/// the second, where a bare tag would be ambiguous among several images.
fn entry(one: &Named) -> Value {
    let mut entry = json!(one.closure.root);
    entry["annotations"] = json!({
        "io.containerd.image.name": one.reference,
        "org.opencontainers.image.ref.name": one.reference,
    });
    entry
}

/// The digest of an image's configuration.
fn config_of(images: &Images, image: &Image) -> Result<Digest, ImageError> {
    use crate::image::document::Document;
    match crate::image::pull::stored(images.store(), &image.manifest.digest)? {
        (_, Document::Manifest { config, .. }) => Ok(config.digest),
        _ => Err(ImageError::Malformed {
            what: format!("image {}", image.manifest.digest),
            why: "its manifest is an index".into(),
        }),
    }
}

/// A tar file whose headers hold nothing of this machine or moment.
struct Tar<W: Write>(Builder<W>);

impl<W: Write> Tar<W> {
    fn append(&mut self, name: &str, kind: EntryType, mode: u32, size: u64, data: impl Read) -> Result<(), ImageError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let written = self.0.append_data(&mut header, name, data);
        written.map_err(|error| ImageError::io(format!("write {name} into the archive"), error))
    }

    fn directory(&mut self, name: &str) -> Result<(), ImageError> {
        self.append(name, EntryType::Directory, 0o755, 0, io::empty())
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.append(name, EntryType::Regular, 0o644, bytes.len() as u64, bytes)
    }

    /// Keys in sorted order, no blanks.
    fn document(&mut self, name: &str, value: &Value) -> Result<(), ImageError> {
        self.bytes(name, value.to_string().as_bytes())
    }

    /// Bytes that must have this digest and size.
    fn verified(&mut self, name: &str, digest: &Digest, size: u64, from: impl Read) -> Result<(), ImageError> {
        let mut hashed = Hashed { from, hasher: Sha256::new(), read: 0 };
        let written = self.append(name, EntryType::Regular, 0o644, size, (&mut hashed).take(size));
        if hashed.read != size {
            let what = format!("blob {digest}");
            return written.and(Err(ImageError::Size { what, expected: size, actual: hashed.read }));
        }
        written?;
        let actual = Digest::from_sha256(&hashed.hasher.finalize());
        if actual != *digest {
            return Err(ImageError::Digest { what: format!("blob {digest}"), expected: digest.clone(), actual });
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    from: R,
    hasher: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.read += n as u64;
        Ok(n)
    }
}
