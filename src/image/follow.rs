//! Layers of a pull, each to be read as it comes: for whoever unpacks while it is downloaded.

use std::io::{self, Read};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::ImageError;
use super::fetch::{Fetcher, Flight, Flow};
use super::store::ContentStore;
use super::{Images, Inner};
use crate::oci::Digest;

/// How a pull ended; `None` as long as it goes on.
pub(super) type End = watch::Receiver<Option<Result<(), ImageError>>>;

/// The blobs of one pull: those in the store from there, the others while they are downloaded. For blocking
/// threads. Ends when the pull ends, or is given up.
pub struct Following {
    inner: Arc<Inner>,
    end: End,
    /// Where the downloads are carried on; readers wait for it from threads of their own.
    runtime: Handle,
}

/// One blob, opened.
pub struct Packed {
    /// Its bytes from the first on.
    pub bytes: Box<dyn Read + Send>,
    /// The download that they come from; absent for what is verified and in the store.
    watched: Option<(watch::Receiver<Flow>, Handle)>,
}

impl Packed {
    /// Bytes that are the blob's by their digest.
    pub fn verified(bytes: impl Read + Send + 'static) -> Self {
        Self { bytes: Box::new(bytes), watched: None }
    }

    /// The bytes, and what tells whether they were the right ones. Blocking: that is known when the download
    /// has ended. `false` when it was broken off or began anew: what was read means nothing then.
    pub fn split(self) -> (Box<dyn Read + Send>, impl FnOnce() -> bool) {
        let Self { bytes, watched } = self;
        let right = move || match watched {
            None => true,
            Some((mut flow, runtime)) => runtime
                .block_on(flow.wait_for(|flow| flow.end.is_some()))
                .is_ok_and(|flow| matches!(flow.end, Some(Ok(())))),
        };
        (bytes, right)
    }
}

impl Following {
    /// Must be called on the runtime that carries the downloads on.
    pub(super) fn new(images: &Images, end: End) -> Self {
        Self { inner: Arc::clone(&images.inner), end, runtime: Handle::current() }
    }

    fn store(&self) -> &ContentStore {
        &self.inner.store
    }

    fn fetcher(&self) -> &Fetcher {
        &self.inner.fetcher
    }

    /// A blob of the pull. Waits until it is here or begins to come; an error when the pull fails first.
    pub fn open(&self, digest: &Digest, size: u64) -> Result<Packed, ImageError> {
        let mut end = self.end.clone();
        loop {
            // Subscribed before looking: what lands in between is not missed.
            let mut landed = self.fetcher().landed();
            let over = end.borrow_and_update().clone();
            if self.store().size(digest) == Some(size) {
                return Ok(Packed::verified(self.store().open_blob(digest)?));
            }
            if let Some(growing) = self.fetcher().follow(digest) {
                let watched = Some((growing.flight.flow.clone(), self.runtime.clone()));
                return Ok(Packed { bytes: Box::new(growing), watched });
            }
            match over {
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => {
                    let missing = vec![digest.to_string()];
                    return Err(ImageError::NotPresent { image: digest.to_string(), missing });
                }
                None => {}
            }
            let ended = self.runtime.block_on(async {
                tokio::select! {
                    _ = landed.changed() => Ok(()),
                    ended = end.changed() => ended,
                }
            });
            if ended.is_err() {
                return Err(given_up());
            }
        }
    }
}

fn given_up() -> ImageError {
    ImageError::io("download layers", io::Error::new(io::ErrorKind::Interrupted, "the pull was given up"))
}

/// A blob that is still coming, to be read on a blocking thread.
pub(super) struct Growing {
    flight: Flight,
    at: u64,
}

impl Growing {
    /// From the first byte on.
    pub(super) fn new(flight: Flight) -> Self {
        Self { flight, at: 0 }
    }
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        loop {
            let (done, end) = {
                let flow = self.flight.flow.borrow_and_update();
                (flow.done, flow.end.clone())
            };
            if self.at < done {
                let ready = usize::try_from(done - self.at).unwrap_or(usize::MAX).min(buffer.len());
                let n = self.flight.file.read_at(&mut buffer[..ready], self.at)?;
                self.at += n as u64;
                return Ok(n);
            }
            match end {
                Some(Ok(())) => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => {
                    let runtime = self.flight.runtime.clone();
                    runtime
                        .block_on(self.flight.flow.changed())
                        .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up"))?;
                }
            }
        }
    }
}
