//! A container's standard input: what any of several FIFOs brings goes to its pipe or terminal, in the order in which
//! it comes.
//!
//! Invariants: what is kept here is at most one pipe's worth, and nothing is read before the container has taken it. The
//! end of input comes when it was wished for *and* nobody can write any more, so that nothing given before is lost.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::poll::Poll;
use super::stdio::{open_nonblocking, write_some};

/// One who may write.
struct Feed {
    fifo: OwnedFd,
    /// Our own write end: while it is there, a writer that goes is not the end.
    hold: Option<OwnedFd>,
    token: Option<u64>,
    /// Its end is the wish for the end of input.
    ends: bool,
}

/// See the module.
pub struct Input {
    feeds: Vec<Feed>,
    /// The write end of the container's pipe, or a copy of its terminal's master.
    to: Option<OwnedFd>,
    to_token: Option<u64>,
    /// What the container has not taken yet; no feed is read meanwhile.
    backlog: Vec<u8>,
    /// The end follows the last feed.
    ending: bool,
    terminal: bool,
}

impl Input {
    /// Opens the host's FIFO, if there is one, without waiting for a writer. `hold`: only a wish ends the input, not
    /// the writer's going, as containerd has it. A terminal may always be written to, by whom there is.
    pub fn open(path: &str, terminal: bool, hold: bool) -> Result<Option<Self>, String> {
        let mut feeds = Vec::new();
        if !path.is_empty() {
            let fail = |error: Errno| format!("input from {path}: {error}");
            let fifo = open_nonblocking(path, OFlags::RDONLY).map_err(fail)?;
            let keep = if hold { Some(open_nonblocking(path, OFlags::WRONLY).map_err(fail)?) } else { None };
            feeds.push(Feed { fifo, hold: keep, token: None, ends: !hold && !terminal });
        } else if !terminal && !hold {
            return Ok(None);
        }
        Ok(Some(Self { feeds, to: None, to_token: None, backlog: Vec::new(), ending: false, terminal }))
    }

    /// Makes a pipe for an attempt and gives the container's end.
    pub fn pipe(&mut self, poll: &mut Poll) -> Option<OwnedFd> {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        rustix::io::ioctl_fionbio(&ours, true).ok()?;
        self.connect(ours, poll);
        Some(theirs)
    }

    /// What comes from now on goes to `to`, which does not block.
    pub fn connect(&mut self, to: OwnedFd, poll: &mut Poll) {
        self.to = Some(to);
        self.listen(poll);
    }

    /// One more who may write; its going ends nothing.
    pub fn add(&mut self, fifo: OwnedFd, poll: &mut Poll) {
        self.feeds.push(Feed { fifo, hold: None, token: None, ends: false });
        if self.to.is_some() && self.backlog.is_empty() {
            self.listen(poll);
        }
    }

    fn listen(&mut self, poll: &mut Poll) {
        for feed in self.feeds.iter_mut().filter(|feed| feed.token.is_none()) {
            feed.token = poll.add(&feed.fifo, EventFlags::IN).ok();
        }
    }

    fn ignore(&mut self, poll: &mut Poll) {
        for feed in &mut self.feeds {
            if feed.token.take().is_some() {
                poll.remove(&feed.fifo);
            }
        }
    }

    /// The attempt is over; what comes now waits in the FIFOs for the next one.
    pub fn disconnect(&mut self, poll: &mut Poll) {
        self.ignore(poll);
        self.to = None;
        self.to_token = None;
        self.backlog = Vec::new();
    }

    /// The wish for the end of input.
    pub fn finish(&mut self, poll: &mut Poll) {
        self.ending = true;
        for feed in &mut self.feeds {
            // A FIFO that never had a writer tells of none; one that has come and gone makes it tell.
            if feed.hold.take().is_none() {
                let path = format!("/proc/self/fd/{}", feed.fifo.as_raw_fd());
                drop(open_nonblocking(&path, OFlags::WRONLY));
            }
        }
        self.settle(poll);
    }

    /// Whether nothing will ever come again.
    pub fn is_over(&self) -> bool {
        self.ending && self.feeds.is_empty() && self.backlog.is_empty()
    }

    /// Handles an event; false if the token is somebody else's.
    pub fn event(&mut self, token: u64, poll: &mut Poll) -> bool {
        if let Some(at) = self.feeds.iter().position(|feed| feed.token == Some(token)) {
            self.take(at, poll);
            return true;
        }
        if self.to_token == Some(token) {
            self.give(poll);
            return true;
        }
        false
    }

    fn take(&mut self, at: usize, poll: &mut Poll) {
        match poll.read(&self.feeds[at].fifo) {
            Err(Errno::AGAIN) => {}
            // The last writer has gone.
            Ok(0) | Err(_) => {
                let feed = self.feeds.remove(at);
                poll.remove(&feed.fifo);
                self.ending |= feed.ends;
                self.settle(poll);
            }
            Ok(_) => {
                self.backlog.extend_from_slice(&poll.chunk);
                self.give(poll);
            }
        }
    }

    fn give(&mut self, poll: &mut Poll) {
        let Some(to) = &self.to else {
            self.backlog = Vec::new();
            return;
        };
        match write_some(to, &self.backlog) {
            // The container closed its end: nobody will read what follows either.
            Err(_) => {
                self.disconnect(poll);
                self.feeds = Vec::new();
                self.ending = true;
            }
            Ok(done) => {
                self.backlog.drain(..done);
                if self.backlog.is_empty() {
                    self.backlog = Vec::new();
                    if self.to_token.take().is_some() {
                        poll.remove(to);
                    }
                    self.listen(poll);
                    self.settle(poll);
                } else {
                    if self.to_token.is_none() {
                        self.to_token = poll.add(to, EventFlags::OUT).ok();
                    }
                    self.ignore(poll);
                }
            }
        }
    }

    /// Closes the container's end, if all is through. (A terminal's is closed by whoever has its other copy.)
    fn settle(&mut self, poll: &mut Poll) {
        if self.is_over() && !self.terminal {
            self.disconnect(poll);
        }
    }
}
