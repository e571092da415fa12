//! A container's standard input, from a FIFO that the host writes: half-closed when the writer goes.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::poll::Poll;
use super::stdio::{open_nonblocking, write_some};

/// See the module.
pub struct Input {
    /// The host's FIFO; `None` once its writer went.
    fifo: Option<OwnedFd>,
    fifo_token: Option<u64>,
    /// The write end of the container's pipe.
    pipe: Option<OwnedFd>,
    pipe_token: Option<u64>,
    /// What the container has not taken yet; the FIFO is not read meanwhile.
    backlog: Vec<u8>,
}

impl Input {
    /// Opens the FIFO, without waiting for a writer.
    pub fn open(path: &str) -> Result<Option<Self>, String> {
        if path.is_empty() {
            return Ok(None);
        }
        let fifo = open_nonblocking(path, OFlags::RDONLY).map_err(|error| format!("input from {path}: {error}"))?;
        Ok(Some(Self { fifo: Some(fifo), fifo_token: None, pipe: None, pipe_token: None, backlog: Vec::new() }))
    }

    /// Makes a pipe for an attempt and gives the container's end.
    pub fn connect(&mut self, poll: &mut Poll) -> Option<OwnedFd> {
        let fifo = self.fifo.as_ref()?;
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        rustix::io::ioctl_fionbio(&ours, true).ok()?;
        if self.fifo_token.is_none() {
            self.fifo_token = Some(poll.add(fifo, EventFlags::IN).ok()?);
        }
        self.pipe = Some(ours);
        Some(theirs)
    }

    /// The attempt is over; what comes now waits in the FIFO for the next one.
    pub fn disconnect(&mut self, poll: &mut Poll) {
        if let (Some(fifo), Some(_)) = (&self.fifo, self.fifo_token.take()) {
            poll.remove(fifo);
        }
        self.pipe = None;
        self.pipe_token = None;
        self.backlog = Vec::new();
    }

    /// No more input: the container sees the end after what was already given.
    pub fn finish(&mut self, poll: &mut Poll) {
        if let Some(fifo) = self.fifo.take() {
            poll.remove(&fifo);
            self.fifo_token = None;
        }
        if self.backlog.is_empty() {
            self.pipe = None;
        }
    }

    /// Whether nothing will ever come again.
    pub fn is_over(&self) -> bool {
        self.fifo.is_none() && self.pipe.is_none()
    }

    /// Handles an event; false if the token is somebody else's.
    pub fn event(&mut self, token: u64, poll: &mut Poll) -> bool {
        if self.fifo_token == Some(token) {
            self.take(poll);
            return true;
        }
        if self.pipe_token == Some(token) {
            self.give(poll);
            return true;
        }
        false
    }

    fn take(&mut self, poll: &mut Poll) {
        let Some(fifo) = &self.fifo else { return };
        match poll.read(fifo) {
            Err(Errno::AGAIN) => {}
            // The last writer has gone.
            Ok(0) | Err(_) => self.finish(poll),
            Ok(_) => {
                self.backlog.extend_from_slice(&poll.chunk);
                self.give(poll);
            }
        }
    }

    fn give(&mut self, poll: &mut Poll) {
        let Some(pipe) = &self.pipe else {
            self.backlog = Vec::new();
            return;
        };
        match write_some(pipe, &self.backlog) {
            // The container closed its end: nobody will read what follows either.
            Err(_) => {
                self.backlog = Vec::new();
                self.pipe = None;
                self.pipe_token = None;
                if let Some(fifo) = self.fifo.take() {
                    poll.remove(&fifo);
                    self.fifo_token = None;
                }
            }
            Ok(done) => {
                self.backlog.drain(..done);
                if self.backlog.is_empty() {
                    self.backlog = Vec::new();
                    if self.pipe_token.take().is_some() {
                        poll.remove(pipe);
                    }
                    match &self.fifo {
                        None => self.pipe = None,
                        Some(fifo) if self.fifo_token.is_none() => {
                            self.fifo_token = poll.add(fifo, EventFlags::IN).ok()
                        }
                        Some(_) => {}
                    }
                } else {
                    if self.pipe_token.is_none() {
                        self.pipe_token = poll.add(pipe, EventFlags::OUT).ok();
                    }
                    if let (Some(fifo), Some(_)) = (&self.fifo, self.fifo_token.take()) {
                        poll.remove(fifo);
                    }
                }
            }
        }
    }
}
