//! Images in and out by hand: to registries, into archives, from archives and root file systems.
//!
//! What moves is kept from collection until it has moved, or has its name.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Class, Fault, Result};
use crate::image::{
    Counted, Descriptor, Export, ExportOptions, Image, ImageError, Imported, PushOptions, PushProgress, Pushed,
    Reading, RootfsConfig, closure,
};
use crate::oci::{Digest, Platform, Reference};

use super::image::of_image;
use super::{ContentLease, Engine};

/// Where an archive comes from.
pub enum Incoming {
    /// A file of the node.
    File(PathBuf),
    /// Bytes, as they come. Read once, and kept nowhere but in the content store.
    Bytes(BoxStream<'static, Result<Bytes>>),
}

/// Something of an import moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportMove {
    /// So much of the archive was read.
    Archive {
        /// Bytes, as they come.
        done: u64,
        /// In all, where that is known.
        total: Option<u64>,
    },
    /// A file in it is being read.
    Reading {
        /// Its name.
        name: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A file in it was read.
    Read {
        /// Its name.
        name: String,
        /// Its digest.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// The store had it before.
        known: bool,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Its digest.
        digest: Digest,
    },
}

/// Hears of an import; called from many threads, must not block.
pub type ImportProgress = Arc<dyn Fn(ImportMove) + Send + Sync>;

impl std::convert::From<Reading<'_>> for ImportMove {
    fn from(reading: Reading<'_>) -> Self {
        match reading {
            Reading::Archive { done, total } => Self::Archive { done, total },
            Reading::Member { name, done, total } => Self::Reading { name: name.to_owned(), done, total },
            Reading::Ended { name, digest, size, known } => {
                Self::Read { name: name.to_owned(), digest: digest.clone(), size, known }
            }
        }
    }
}

/// Bytes that nobody wants any more are still taken, up to so many: who sends them listens only after that.
const DRAINED: u64 = 1 << 30;
/// Bytes of an archive that is written, handed on at once.
const CHUNK: usize = 256 << 10;

/// What an archive will hold, which no collection takes until it is dropped.
pub struct HeldExport {
    export: Export,
    _lease: ContentLease,
}

impl Engine {
    /// Pushes what a reference points at.
    pub async fn push_by_hand(
        &self,
        name: &str,
        target: &Descriptor,
        to: &Reference,
        options: &PushOptions,
        progress: PushProgress,
    ) -> Result<Pushed> {
        let _lease = self.lease();
        self.hold(&target.digest);
        Ok(self.images.push(name, target, to, options, progress).await?)
    }

    /// Looks for everything that an archive needs. Nothing is written yet.
    pub async fn export_by_hand(
        self: &Arc<Self>,
        wanted: Vec<(Reference, Descriptor)>,
        options: ExportOptions,
    ) -> Result<HeldExport> {
        let engine = Arc::clone(self);
        blocking("look for what an archive needs", move || {
            let lease = engine.lease();
            wanted.iter().for_each(|(_, target)| engine.hold(&target.digest));
            Ok(HeldExport { export: engine.images.export(&wanted, &options)?, _lease: lease })
        })
        .await
    }

    /// Writes an archive into a channel, until its end or until nobody listens.
    pub async fn write_export(held: HeldExport, to: mpsc::Sender<Result<Bytes>>) {
        let failed = to.clone();
        let written = blocking("write an archive", move || {
            let mut sink = Sink { to, chunk: Vec::with_capacity(CHUNK) };
            held.export.write(&mut sink)?;
            sink.flush().map_err(|error| Fault::new(Class::No, format!("the archive was given up: {error}")))
        })
        .await;
        if let Err(fault) = written {
            let _ = failed.send(Err(fault)).await;
        }
    }

    /// Imports every image of an archive and unpacks those for the platform; absent, the node's. With `all`
    /// every image that an index names must be there.
    pub async fn import_by_hand(
        self: &Arc<Self>,
        archive: Incoming,
        platform: Option<&Platform>,
        all: bool,
        progress: &ImportProgress,
    ) -> Result<Vec<Imported>> {
        let _lease = self.lease();
        // Those that get no name are nobody's.
        self.leave_garbage();
        let engine = Arc::clone(self);
        let telling = Arc::clone(progress);
        let imported = self
            .incoming(archive, move |shown, from| {
                let tell = |reading: Reading<'_>| telling(reading.into());
                match from {
                    From::File(path) => engine.images.import_file_telling(&path, &tell),
                    From::Stream(stream) => {
                        engine.images.import_telling(shown, Counted::new(stream, None, &tell), &tell)
                    }
                }
            })
            .await?;
        for one in &imported {
            if all {
                self.must_be_whole(one)?;
            }
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            match (self.images.load_named(&shown(one), &one.target.digest, &wanted), platform) {
                (Ok(image), _) => self.unpack_imported(&shown(one), &image, progress).await?,
                (Err(error), Some(_)) => return Err(error.into()),
                // An image for another machine is kept, and unpacked nowhere.
                (Err(_), None) => {}
            }
        }
        Ok(imported)
    }

    async fn unpack_imported(self: &Arc<Self>, name: &str, image: &Image, progress: &ImportProgress) -> Result<()> {
        let telling = Arc::clone(progress);
        let told = move |digest: &Digest| telling(ImportMove::Unpacking { digest: digest.clone() });
        self.unpack_telling(image, told).await.map_err(|fault| of_image(name, fault))
    }

    fn must_be_whole(&self, image: &Imported) -> Result<()> {
        let found = closure::of(self.images.store(), &image.target)?;
        if found.missing.is_empty() {
            return Ok(());
        }
        let missing = found.missing.iter().map(ToString::to_string).collect();
        Err(ImageError::NotPresent { image: shown(image), missing }.into())
    }

    /// Imports a root file system as an image, and unpacks it if it is for this machine.
    pub async fn import_rootfs_by_hand(
        self: &Arc<Self>,
        archive: Incoming,
        config: RootfsConfig,
        name: &Reference,
        progress: &ImportProgress,
    ) -> Result<Descriptor> {
        let _lease = self.lease();
        let engine = Arc::clone(self);
        let platform = config.platform.clone();
        let telling = Arc::clone(progress);
        let target = self
            .incoming(archive, move |shown, from| {
                let tell = |reading: Reading<'_>| telling(reading.into());
                match from {
                    From::File(path) => {
                        let failed = |error| ImageError::io(format!("open {}", path.display()), error);
                        let file = std::fs::File::open(&path).map_err(failed)?;
                        let size = file.metadata().ok().map(|metadata| metadata.len());
                        engine.images.import_rootfs(shown, Counted::new(file, size, &tell), &config)
                    }
                    From::Stream(stream) => {
                        engine.images.import_rootfs(shown, Counted::new(stream, None, &tell), &config)
                    }
                }
            })
            .await?;
        let image = self.images.load_image(&target.digest, &platform)?;
        for layer in image.layers.iter().map(|layer| &layer.descriptor) {
            let (name, digest, size) = (layer.digest.to_string(), layer.digest.clone(), layer.size);
            progress(ImportMove::Read { name, digest, size, known: false });
        }
        self.unpack_imported(&name.to_string(), &image, progress).await?;
        Ok(target)
    }

    /// Works on what comes in, on a thread that may block.
    async fn incoming<T: Send + 'static>(
        self: &Arc<Self>,
        archive: Incoming,
        work: impl FnOnce(&str, From) -> std::result::Result<T, ImageError> + Send + 'static,
    ) -> Result<T> {
        match archive {
            Incoming::File(path) => {
                let shown = path.display().to_string();
                blocking("import", move || {
                    work(&shown, From::File(path)).map_err(|error| of_archive(&shown, error.into()))
                })
                .await
            }
            Incoming::Bytes(stream) => {
                let runtime = Handle::current();
                let shared = Arc::new(std::sync::Mutex::new(Arrival { stream, rest: Bytes::new(), broke: None }));
                let reader = Stream { arrival: Arc::clone(&shared), runtime: runtime.clone() };
                blocking("import", move || {
                    let shown = "standard input";
                    let result = work(shown, From::Stream(reader));
                    let mut arrival = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if result.is_err() {
                        arrival.drain(&runtime);
                    }
                    // Bytes that stopped coming say why themselves.
                    match arrival.broke.take() {
                        Some(fault) => Err(fault),
                        None => result.map_err(|error| of_archive(shown, error.into())),
                    }
                })
                .await
            }
        }
    }
}

/// What went wrong with an archive says with which.
fn of_archive(shown: &str, fault: Fault) -> Fault {
    match fault.message.contains(shown) {
        true => fault,
        false => Fault { message: format!("archive {shown}: {}", fault.message), ..fault },
    }
}

async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::new(Class::Bug, format!("{what}: {error}"))))
}

/// What people know an image of an archive by.
fn shown(image: &Imported) -> String {
    let name = image.reference.as_ref().map(ToString::to_string).or_else(|| image.name.clone());
    name.unwrap_or_else(|| image.target.digest.to_string())
}

/// What is read.
enum From {
    File(PathBuf),
    Stream(Stream),
}

/// A stream of bytes, to be read on a thread that may block.
struct Stream {
    arrival: Arc<std::sync::Mutex<Arrival>>,
    runtime: Handle,
}

struct Arrival {
    stream: BoxStream<'static, Result<Bytes>>,
    rest: Bytes,
    broke: Option<Fault>,
}

impl Arrival {
    fn drain(&mut self, runtime: &Handle) {
        let mut taken = 0;
        while let Some(Ok(chunk)) = runtime.block_on(self.stream.next()) {
            taken += chunk.len() as u64;
            if taken > DRAINED {
                return;
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut arrival = self.arrival.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while arrival.rest.is_empty() {
            match self.runtime.block_on(arrival.stream.next()) {
                None => return Ok(0),
                Some(Ok(chunk)) => arrival.rest = chunk,
                Some(Err(fault)) => {
                    let text = fault.message.clone();
                    arrival.broke = Some(fault);
                    return Err(io::Error::other(text));
                }
            }
        }
        let n = arrival.rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&arrival.rest.split_to(n));
        Ok(n)
    }
}

/// Hands on what is written, in chunks.
struct Sink {
    to: mpsc::Sender<Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.to.blocking_send(Ok(chunk.into())).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody listens"))
    }
}
