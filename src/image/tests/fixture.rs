//! Images made by hand, small and exactly known; shared with the snapshot tests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::image::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::oci::Digest;

/// A layer under construction.
pub struct LayerTar(tar::Builder<Vec<u8>>);

impl LayerTar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// An entry whose name and link are taken as they are, hostile or not.
    pub fn raw(mut self, kind: tar::EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.raw(tar::EntryType::Regular, path, "", 0o644, data)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(tar::EntryType::Directory, path, "", mode, b"")
    }

    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.raw(tar::EntryType::Symlink, path, to, 0o777, b"")
    }

    pub fn hard_link(self, path: &str, to: &str) -> Self {
        self.raw(tar::EntryType::Link, path, to, 0o644, b"")
    }

    /// Extended records for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Bytes that do not compress, the same at every call.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// A file system in memory of so many MiB; it goes when this is dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(mebibytes: u32) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let size = std::ffi::CString::new(format!("size={mebibytes}m")).unwrap();
        mount("full", disk.0.path(), "tmpfs", MountFlags::empty(), Some(size.as_c_str())).unwrap();
        disk
    }

    /// A directory on it, to be dropped before it.
    pub fn root(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.0.path()).unwrap()
    }

    /// Blocks that are free.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(self.0.path()).unwrap().f_bfree
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Blobs by digest, as a registry or a layout holds them.
#[derive(Default, Clone)]
pub struct Blobs(pub BTreeMap<Digest, Vec<u8>>);

impl Blobs {
    pub fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        self.0.insert(digest.clone(), bytes);
        Descriptor { media_type: media_type.into(), digest, size }
    }

    /// An image of these tar streams, lowest first; each second one by zstd, the others by gzip.
    pub fn image(&mut self, architecture: &str, tars: &[Vec<u8>]) -> Descriptor {
        let layers: Vec<Descriptor> = tars
            .iter()
            .enumerate()
            .map(|(at, tar)| match at % 2 {
                0 => self.add(&format!("{OCI_LAYER}+gzip"), gzip(tar)),
                _ => self.add(&format!("{OCI_LAYER}+zstd"), zstd(tar)),
            })
            .collect();
        self.image_of(architecture, layers, &tars.iter().map(|t| Digest::of(t)).collect::<Vec<_>>())
    }

    /// The same by gzip alone, for those who know nothing else.
    pub fn gzip_image(&mut self, tars: &[Vec<u8>]) -> Descriptor {
        let layers = tars.iter().map(|tar| self.add(&format!("{OCI_LAYER}+gzip"), gzip(tar))).collect();
        self.image_of("amd64", layers, &tars.iter().map(|t| Digest::of(t)).collect::<Vec<_>>())
    }

    pub fn image_of(&mut self, architecture: &str, layers: Vec<Descriptor>, diff_ids: &[Digest]) -> Descriptor {
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["A=b"], "ExposedPorts": null, "Volumes": {"/data": {}}, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(OCI_CONFIG, config.to_string().into_bytes());
        let manifest =
            serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        self.add(OCI_MANIFEST, manifest.to_string().into_bytes())
    }

    pub fn index(&mut self, entries: &[(&Descriptor, Option<&str>)]) -> Descriptor {
        let manifests: Vec<_> = entries
            .iter()
            .map(|(d, architecture)| {
                let mut entry = serde_json::to_value(d).unwrap();
                if let Some(architecture) = architecture {
                    entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
                }
                entry
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        self.add(OCI_INDEX, index.to_string().into_bytes())
    }

    /// Writes an OCI layout in which `names` name images.
    pub fn layout(&self, dir: &Path, names: &[(&str, &Descriptor)]) {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for (digest, bytes) in &self.0 {
            std::fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        }
        std::fs::write(dir.join("index.json"), layout_index(names)).unwrap();
    }

    /// The same as a tar stream.
    pub fn archive(&self, names: &[(&str, &Descriptor)]) -> Vec<u8> {
        let mut archive = LayerTar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        for (digest, bytes) in &self.0 {
            archive = archive.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        }
        archive.file("index.json", layout_index(names).as_bytes()).done()
    }
}

fn layout_index(names: &[(&str, &Descriptor)]) -> String {
    let manifests: Vec<_> = names
        .iter()
        .map(|(name, d)| {
            let mut entry = serde_json::to_value(d).unwrap();
            if !name.is_empty() {
                entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
            }
            entry
        })
        .collect();
    serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string()
}
