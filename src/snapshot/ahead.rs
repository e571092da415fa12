//! A stream read ahead on a thread of its own, so that what produces it (inflating) and what uses it (hashing,
//! writing files) run at once. A few buffers go round between the two; nothing else is allocated.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// One buffer in bytes.
const BUFFER: usize = 256 << 10;
/// Buffers of one stream.
const BUFFERS: usize = 4;

/// A full buffer with the number of bytes in it, or what reading failed by.
type Filled = io::Result<(Vec<u8>, usize)>;

/// The reading end. Everything that comes is hashed.
pub struct Ahead {
    full: Receiver<Filled>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    hasher: Sha256,
    total: u64,
    limit: u64,
    failed: Option<(io::ErrorKind, String)>,
}

impl Ahead {
    /// Reads `stream` ahead until its end or until this is dropped. More than `limit` bytes are an error.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        stream: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'scope,
        limit: u64,
    ) -> Self {
        let (filled, full) = sync_channel::<Filled>(BUFFERS);
        let (empty, free) = sync_channel::<Vec<u8>>(BUFFERS);
        scope.spawn(move || {
            let mut stream = match stream() {
                Ok(stream) => stream,
                Err(error) => return drop(filled.send(Err(error))),
            };
            for turn in 0.. {
                let mut buffer = match if turn < BUFFERS { Ok(vec![0; BUFFER]) } else { free.recv() } {
                    Ok(buffer) => buffer,
                    Err(_) => return,
                };
                let result = fill(&mut stream, &mut buffer);
                let last = !matches!(result, Ok(BUFFER));
                // What came before a failure is used first: a cut archive is told by its entry.
                match result {
                    Ok(0) => {}
                    Ok(length) => drop(filled.send(Ok((buffer, length)))),
                    Err((length, error)) => {
                        if length > 0 {
                            drop(filled.send(Ok((buffer, length))));
                        }
                        drop(filled.send(Err(error)));
                    }
                }
                if last {
                    return;
                }
            }
        });
        let hasher = Sha256::new();
        Self { full, empty, buffer: Vec::new(), at: 0, end: 0, hasher, total: 0, limit, failed: None }
    }

    /// The digest of all that came.
    pub fn digest(self) -> Digest {
        Digest::from_sha256(&self.hasher.finalize())
    }
}

/// Fills the buffer as far as the stream goes; with what was read when it failed.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((length, e)),
        }
    }
    Ok(length)
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            if let Some((kind, text)) = &self.failed {
                return Err(io::Error::new(*kind, text.clone()));
            }
            let used = std::mem::take(&mut self.buffer);
            if !used.is_empty() {
                // The other side may have ended already.
                let _ = self.empty.send(used);
            }
            (self.at, self.end) = (0, 0);
            match self.full.recv() {
                // The other side ended: so did the stream.
                Err(_) => {}
                Ok(Err(error)) => {
                    self.failed = Some((error.kind(), error.to_string()));
                    return Err(error);
                }
                Ok(Ok((buffer, length))) => {
                    self.total += length as u64;
                    if self.total > self.limit {
                        let text = format!("it unpacks to more than {} bytes", self.limit);
                        self.failed = Some((io::ErrorKind::FileTooLarge, text.clone()));
                        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
                    }
                    self.hasher.update(&buffer[..length]);
                    (self.buffer, self.end) = (buffer, length);
                }
            }
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.end);
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let n = ready.len().min(buffer.len());
        buffer[..n].copy_from_slice(&ready[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: Vec<u8>, limit: u64) -> (io::Result<Vec<u8>>, Digest) {
        std::thread::scope(|scope| {
            let stream = move || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(bytes))) };
            let mut ahead = Ahead::start(scope, stream, limit);
            let mut out = Vec::new();
            let result = ahead.read_to_end(&mut out).map(|_| out);
            (result, ahead.digest())
        })
    }

    #[test]
    fn every_byte_comes_in_order_and_is_hashed() {
        for length in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 7 * BUFFER + 3] {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
            let (read, digest) = read(bytes.clone(), u64::MAX);
            assert!(read.unwrap() == bytes);
            assert_eq!(digest, Digest::of(&bytes));
        }
    }

    #[test]
    fn more_than_the_limit_is_an_error() {
        let (read, _) = read(vec![1; 3 * BUFFER], 2 * BUFFER as u64);
        assert_eq!(read.unwrap_err().to_string(), format!("it unpacks to more than {} bytes", 2 * BUFFER));
    }
}
