//! An image of one layer from the tar file of a root file system.
//!
//! One pass: the bytes go into the store as they are given (plain ones by gzip, always the same way) while
//! they are hashed packed and unpacked, and are looked through as a tar file. The same file and the same
//! settings give the same digest.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::Images;
use super::archive::unreadable;
use super::compression::{self, Compression, Packing};
use super::descriptor::{Descriptor, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::error::ImageError;
use super::ingest::Ingest;
use super::tar::Reader;
use crate::oci::{Digest, Platform};

/// What the image's configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsConfig {
    /// The machine it is for.
    pub platform: Platform,
    /// ENTRYPOINT.
    pub entrypoint: Option<Vec<String>>,
    /// CMD.
    pub cmd: Option<Vec<String>>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// WORKDIR.
    pub workdir: Option<String>,
    /// USER.
    pub user: Option<String>,
    /// LABEL.
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL.
    pub stop_signal: Option<String>,
    /// EXPOSE, as `80/tcp`.
    pub expose: Vec<String>,
}

impl Images {
    /// Imports the tar file as an image; `shown` names it in errors. Blocking.
    pub fn import_rootfs(
        &self,
        shown: &str,
        stream: impl Read + Send,
        config: &RootfsConfig,
    ) -> Result<Descriptor, ImageError> {
        let (layer, diff_id) = self.layer(shown, stream)?;
        let config = config.document(&diff_id).to_string();
        let config = self.put(OCI_CONFIG, config.as_bytes())?;
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}).to_string();
        self.put(OCI_MANIFEST, manifest.as_bytes())
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ImageError> {
        let digest = self.store().put(bytes)?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 })
    }

    fn layer(&self, shown: &str, stream: impl Read + Send) -> Result<(Descriptor, Digest), ImageError> {
        let failed = |error: io::Error| failure(shown, error);
        let mut ingest = Blob(self.store().ingest()?);
        let (given, whole) = compression::look(stream).map_err(failed)?;
        let (kind, diff_id) = match given {
            Compression::Plain => {
                let mut packer = compression::writer(Packing::Gzip, &mut ingest).map_err(failed)?;
                let mut plain = Tee { from: whole, into: Both(Sha256::new(), &mut packer) };
                look_through(&mut plain).map_err(failed)?;
                let hasher = plain.into.0;
                packer.finish().map_err(failed)?;
                (Compression::Gzip, Digest::from_sha256(&hasher.finalize()))
            }
            packed => {
                let mut raw = Tee { from: whole, into: &mut ingest };
                let hasher = {
                    let unpacked = compression::unpacked(packed, BufReader::new(&mut raw)).map_err(failed)?;
                    let mut plain = Tee { from: unpacked, into: Sum(Sha256::new()) };
                    look_through(&mut plain).map_err(failed)?;
                    plain.into.0
                };
                // What lies behind the packed stream belongs to the file all the same.
                io::copy(&mut raw, &mut io::sink()).map_err(failed)?;
                (packed, Digest::from_sha256(&hasher.finalize()))
            }
        };
        let (digest, size) = ingest.0.commit(None)?;
        Ok((Descriptor { media_type: format!("{OCI_LAYER}{}", kind.suffix()), digest, size }, diff_id))
    }
}

impl RootfsConfig {
    /// The image configuration, without a time: it would be another image at each import.
    fn document(&self, diff_id: &Digest) -> Value {
        let mut config = Map::new();
        let mut set = |key: &str, value: Option<Value>| drop(value.map(|value| config.insert(key.to_owned(), value)));
        set("Entrypoint", self.entrypoint.as_ref().map(|words| json!(words)));
        set("Cmd", self.cmd.as_ref().map(|words| json!(words)));
        set("Env", (!self.env.is_empty()).then(|| json!(self.env)));
        set("WorkingDir", self.workdir.as_ref().map(|dir| json!(dir)));
        set("User", self.user.as_ref().map(|user| json!(user)));
        set("Labels", (!self.labels.is_empty()).then(|| json!(self.labels)));
        set("StopSignal", self.stop_signal.as_ref().map(|signal| json!(signal)));
        let ports: Map<String, Value> = self.expose.iter().map(|port| (port.clone(), json!({}))).collect();
        set("ExposedPorts", (!ports.is_empty()).then_some(Value::Object(ports)));
        let mut document = json!({
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "bayplan image import --rootfs"}],
        });
        if let Some(variant) = &self.platform.variant {
            document["variant"] = json!(variant);
        }
        document
    }
}

/// Reads a tar file to its end; it must look like a root file system.
fn look_through(from: &mut impl Read) -> io::Result<()> {
    let mut reader = Reader::new(from);
    let (mut entries, mut documents) = (0u64, 0);
    while let Some(entry) = reader.next()? {
        entries += 1;
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        documents += u8::from(matches!(name, b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories"));
    }
    reader.drain()?;
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match (entries, documents) {
        (0, _) => wrong("it holds no file"),
        (_, 2..) => wrong("it is an archive of images"),
        _ => Ok(()),
    }
}

/// What the store says stays what it is; anything else is the file's fault.
fn failure(shown: &str, error: io::Error) -> ImageError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ImageError>()) {
        Some(own) => own.clone(),
        None => ImageError::Rootfs { archive: shown.to_owned(), why: unreadable(&error) },
    }
}

/// Writes down what is read through it.
struct Tee<R, W> {
    from: R,
    into: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.into.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// A blob on its way into the store, as a writer.
struct Blob(Ingest);

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A digest, as a writer.
struct Sum(Sha256);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A digest, and another writer.
struct Both<W>(Sha256, W);

impl<W: Write> Write for Both<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write_all(bytes)?;
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}
