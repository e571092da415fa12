//! Where a container's raw output goes beside the log: a FIFO that the host reads, or a file.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;

use super::poll::Poll;
use super::stdio::{open_nonblocking, write_some};

/// See the module.
pub struct Sink {
    path: String,
    flags: OFlags,
    /// `None` while nobody reads.
    fd: Option<OwnedFd>,
    /// What the reader has not taken yet; reading from the container is paused meanwhile.
    backlog: Vec<u8>,
    token: Option<u64>,
}

impl Sink {
    /// Opens what `target` names: nothing, a FIFO, or a `file://` URI. A FIFO without a reader is tried again with each output.
    pub fn open(target: &str) -> Result<Option<Self>, String> {
        let (path, flags) = match (target.strip_prefix("file://"), target) {
            (_, "") => return Ok(None),
            (Some(path), _) => (path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE),
            (None, uri) if uri.contains("://") => {
                return Err(format!("output to {uri} is not supported; use a FIFO or file:///path"));
            }
            (None, path) => (path, OFlags::WRONLY),
        };
        let mut sink = Self { path: path.to_owned(), flags, fd: None, backlog: Vec::new(), token: None };
        match open_nonblocking(path, flags) {
            Ok(fd) => sink.fd = Some(fd),
            Err(rustix::io::Errno::NXIO) => {}
            Err(error) => return Err(format!("output to {path}: {error}")),
        }
        Ok(Some(sink))
    }

    /// Whether the token is this sink's.
    pub fn owns(&self, token: u64) -> bool {
        self.token == Some(token)
    }

    /// Whether a reader is there and has not taken what came before.
    pub fn is_full(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Hands `bytes` over, keeping what the reader does not take at once. Without a reader they are gone.
    pub fn put(&mut self, bytes: &[u8], poll: &mut Poll) {
        if self.fd.is_none() {
            self.fd = open_nonblocking(&self.path, self.flags).ok();
        }
        let Some(fd) = &self.fd else { return };
        match write_some(fd, bytes) {
            Ok(done) if done == bytes.len() => {}
            Ok(done) => {
                self.backlog.extend_from_slice(&bytes[done..]);
                self.token = poll.add(fd, EventFlags::OUT).ok();
                if self.token.is_none() {
                    self.leave();
                }
            }
            Err(_) => self.leave(),
        }
    }

    /// The reader took something, or went away.
    pub fn flush(&mut self, poll: &mut Poll) {
        let Some(fd) = &self.fd else { return self.leave() };
        match write_some(fd, &self.backlog) {
            Ok(done) if done < self.backlog.len() => drop(self.backlog.drain(..done)),
            Ok(_) => {
                poll.remove(fd);
                self.token = None;
                self.backlog = Vec::new();
            }
            Err(_) => self.leave(),
        }
    }

    /// Nobody reads any more.
    fn leave(&mut self) {
        self.fd = None;
        self.token = None;
        self.backlog = Vec::new();
    }
}
