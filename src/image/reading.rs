//! How far the reading of an archive is.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::oci::Digest;

/// How often bytes are told.
const TOLD: Duration = Duration::from_millis(100);

/// Hears how far an archive is; called from the thread that reads, must not block.
pub type Telling<'a> = &'a (dyn Fn(Reading<'_>) + Send + Sync);

/// Something of an archive was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading<'a> {
    /// So many bytes of all of it, as they come.
    Archive {
        /// So far.
        done: u64,
        /// In all; `None` for a stream.
        total: Option<u64>,
    },
    /// Of one file in it.
    Member {
        /// Its name in the archive.
        name: &'a str,
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A file in it was read to its end.
    Ended {
        /// Its name in the archive.
        name: &'a str,
        /// Of its bytes.
        digest: &'a Digest,
        /// Bytes.
        size: u64,
        /// The store had them before.
        known: bool,
    },
}

/// Tells of bytes, not more than some ten times a second.
pub(super) struct Counter<'a> {
    tell: Telling<'a>,
    last: Option<Instant>,
    done: u64,
}

impl<'a> Counter<'a> {
    pub(super) fn new(tell: Telling<'a>) -> Self {
        Self { tell, last: None, done: 0 }
    }

    /// So many more; `reading` says it with their sum.
    pub(super) fn add<'b>(&mut self, bytes: usize, reading: impl FnOnce(u64) -> Reading<'b>) {
        self.done += bytes as u64;
        let now = Instant::now();
        // At the end, too, and only once there.
        if bytes == 0 || self.last.is_none_or(|last| now.duration_since(last) >= TOLD) {
            self.last = Some(now);
            (self.tell)(reading(self.done));
        }
    }
}

/// A stream whose bytes are told of.
pub struct Counted<'a, R> {
    inner: R,
    counter: Counter<'a>,
    total: Option<u64>,
}

impl<'a, R> Counted<'a, R> {
    /// Over an archive of so many bytes, where that is known.
    pub fn new(inner: R, total: Option<u64>, tell: Telling<'a>) -> Self {
        Self { inner, counter: Counter::new(tell), total }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let total = self.total;
        self.counter.add(n, |done| Reading::Archive { done, total });
        Ok(n)
    }
}
