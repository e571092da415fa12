//! One who gets a stream's raw output beside the log: the host's FIFO, a file, a logger's pipe, an attached client.
//!
//! Invariants: bytes arrive in their order; what is kept of them is bounded; whoever does not take them in time is left
//! behind and, when it goes on, told in the stream itself how much it has missed (docs/decisions/0025).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::poll::Poll;
use super::stdio::{open_nonblocking, write_some};

/// Kept for a client that does not read, in bytes.
const BACKLOG: usize = 1 << 20;
/// What a pipe is grown to, where the kernel allows, for a reader that lags: bytes.
const LAGGING: usize = 512 << 10;

/// See the module.
pub struct Sink {
    /// A FIFO that is opened anew when a reader has come back.
    path: Option<String>,
    /// The process waits while this one has something to read, so that it misses nothing; but not for ever. The others
    /// get no more than a backlog.
    awaited: bool,
    /// Its going is looked out for, also while there is nothing to say.
    watched: bool,
    /// A regular file, which is waited for as the disk is.
    file: bool,
    /// `None` while nobody reads.
    fd: Option<OwnedFd>,
    /// What was not taken yet.
    backlog: VecDeque<u8>,
    token: Option<u64>,
    /// When something was taken last, while there is a backlog.
    since: Option<Instant>,
    /// Left behind: what comes is only counted until the backlog has been taken.
    behind: bool,
    missed: u64,
}

impl Sink {
    fn new(fd: Option<OwnedFd>) -> Self {
        Self {
            path: None,
            awaited: true,
            watched: false,
            file: false,
            fd,
            backlog: VecDeque::new(),
            token: None,
            since: None,
            behind: false,
            missed: 0,
        }
    }

    /// Opens the host's FIFO. One without a reader is tried again with each output.
    pub fn fifo(path: &str) -> Result<Self, String> {
        let fd = match open_nonblocking(path, OFlags::WRONLY) {
            Ok(fd) => Some(fd),
            Err(Errno::NXIO) => None,
            Err(error) => return Err(format!("output to {path}: {error}")),
        };
        Ok(Self { path: Some(path.to_owned()), ..Self::new(fd) })
    }

    /// Opens a file for appending, and makes it and its directories, as containerd does for `file://`.
    pub fn file(path: &str) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("output to {path}: {error}");
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let fd = open_nonblocking(path, flags).map_err(|error| fail(error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| fail(error.into()))?;
        let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(Self { file, ..Self::new(Some(fd)) })
    }

    /// The write end of a pipe to one who was started for it.
    pub fn pipe(fd: OwnedFd) -> Self {
        Self::new(Some(fd))
    }

    /// The FIFO of a client, which reads already. Its going is noticed at once.
    pub fn client(path: &str, poll: &mut Poll) -> Result<Self, String> {
        let fail = |error: Errno| match error {
            Errno::NXIO => format!("output to {path}: nobody has it open for reading"),
            error => format!("output to {path}: {error}"),
        };
        let fd = open_nonblocking(path, OFlags::WRONLY).map_err(fail)?;
        let token = poll.add(&fd, EventFlags::empty()).map_err(fail)?;
        Ok(Self { token: Some(token), awaited: false, watched: true, ..Self::new(Some(fd)) })
    }

    /// Whether the token is this sink's.
    pub fn owns(&self, token: u64) -> bool {
        self.token == Some(token)
    }

    /// Whether it is waited for now.
    pub fn is_full(&self) -> bool {
        self.awaited && !self.behind && !self.backlog.is_empty()
    }

    /// Nothing follows: it is waited for, whoever it is. False if it has everything.
    pub fn finish(&mut self) -> bool {
        self.awaited = true;
        !self.backlog.is_empty()
    }

    /// Whether it is of no more use.
    pub fn is_over(&self) -> bool {
        self.fd.is_none() && self.path.is_none()
    }

    /// When it is waited for no longer, after `patience` without a byte taken.
    pub fn deadline(&self, patience: Duration) -> Option<Instant> {
        self.since.filter(|_| self.is_full()).map(|since| since + patience)
    }

    /// Waits no longer for it.
    pub fn leave_behind(&mut self) {
        self.behind = true;
    }

    /// Hands `bytes` over, keeping what is not taken at once. Without a reader they are gone.
    pub fn put(&mut self, bytes: &[u8], poll: &mut Poll) {
        if self.fd.is_none() {
            self.fd = self.path.as_ref().and_then(|path| open_nonblocking(path, OFlags::WRONLY).ok());
        }
        let Some(fd) = &self.fd else { return };
        if self.file {
            return self.append(bytes);
        }
        if self.behind {
            self.missed += bytes.len() as u64;
            return;
        }
        let mut rest = bytes;
        if self.backlog.is_empty() {
            match write_some(fd, rest) {
                Ok(done) => rest = &rest[done..],
                Err(_) => return self.leave(),
            }
        }
        if rest.is_empty() {
            return;
        }
        if self.since.is_none() && rustix::pipe::fcntl_setpipe_size(fd, LAGGING).is_ok() {
            match write_some(fd, rest) {
                Ok(done) => rest = &rest[done..],
                Err(_) => return self.leave(),
            }
        }
        self.since.get_or_insert_with(Instant::now);
        if !self.awaited && self.backlog.len() + rest.len() > BACKLOG {
            self.behind = true;
            self.missed += rest.len() as u64;
        } else {
            self.backlog.extend(rest);
        }
        self.await_room(poll);
    }

    /// A full disk loses what comes while it is full, and nothing else.
    fn append(&mut self, bytes: &[u8]) {
        let Some(fd) = &self.fd else { return };
        if self.missed > 0 {
            let told = words(self.missed, "the disk did not take them");
            match write_some(fd, told.as_bytes()) {
                Ok(_) => self.missed = 0,
                Err(_) => self.missed += bytes.len() as u64,
            }
            if self.missed > 0 {
                return;
            }
        }
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::write(fd, &bytes[done..]) {
                Ok(count) if count > 0 => done += count,
                Err(Errno::INTR) => {}
                _ => {
                    self.missed += (bytes.len() - done) as u64;
                    return;
                }
            }
        }
    }

    fn await_room(&mut self, poll: &mut Poll) {
        let Some(fd) = &self.fd else { return };
        match self.token {
            Some(token) if self.watched => {
                let _ = poll.modify(fd, token, EventFlags::OUT);
            }
            Some(_) => {}
            None => {
                self.token = poll.add(fd, EventFlags::OUT).ok();
                if self.token.is_none() {
                    self.leave();
                }
            }
        }
    }

    /// The reader took something, or went away.
    pub fn flush(&mut self, poll: &mut Poll) {
        let Some(fd) = &self.fd else { return self.leave() };
        loop {
            let (front, _) = self.backlog.as_slices();
            match write_some(fd, front) {
                Err(_) => return self.leave(),
                Ok(0) if !front.is_empty() => break,
                Ok(done) => {
                    if done > 0 {
                        self.since = Some(Instant::now());
                    }
                    self.backlog.drain(..done);
                }
            }
            if self.backlog.is_empty() {
                self.behind = false;
                if self.missed == 0 {
                    break;
                }
                self.backlog.extend(words(self.missed, "nobody read them in time").as_bytes());
                self.missed = 0;
            }
        }
        if !self.backlog.is_empty() {
            return;
        }
        self.backlog = VecDeque::new();
        self.since = None;
        // A client's going is looked out for as long as it is attached.
        match (self.watched, self.token) {
            (true, Some(token)) => {
                let gone = !has_reader(fd);
                let _ = poll.modify(fd, token, EventFlags::empty());
                if gone {
                    self.leave();
                }
            }
            _ => {
                poll.remove(fd);
                self.token = None;
            }
        }
    }

    /// Nobody reads any more.
    fn leave(&mut self) {
        self.fd = None;
        self.token = None;
        self.backlog = VecDeque::new();
        self.since = None;
        self.behind = false;
        self.missed = 0;
    }
}

/// A pipe without readers says so (Linux, `pipe_poll`).
fn has_reader(fd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut look = [PollFd::new(fd, PollFlags::empty())];
    let _ = rustix::event::poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    !look[0].revents().contains(PollFlags::ERR)
}

fn words(missed: u64, why: &str) -> String {
    format!("\r\nbayplan: {missed} bytes of output are missing here: {why}\r\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pair() -> (Sink, std::fs::File, Poll) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let mut poll = Poll::new().unwrap();
        let token = poll.add(&write, EventFlags::empty()).unwrap();
        let sink = Sink { token: Some(token), awaited: false, watched: true, ..Sink::new(Some(write)) };
        (sink, read.into(), poll)
    }

    fn take(reader: &mut std::fs::File, sink: &mut Sink, poll: &mut Poll) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let before = all.len();
            let _ = reader.read_to_end(&mut all);
            sink.flush(poll);
            if all.len() == before {
                return all;
            }
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_left_behind_with_a_bounded_backlog_and_told() {
        let (mut sink, mut reader, mut poll) = pair();
        let line: Vec<u8> = (0..=255u8).cycle().take(60_000).collect();
        for _ in 0..100 {
            sink.put(&line, &mut poll);
            assert!(!sink.is_full() && sink.backlog.len() <= BACKLOG);
        }
        let got = take(&mut reader, &mut sink, &mut poll);
        let text = String::from_utf8_lossy(&got).into_owned();
        let told = text.split("bayplan: ").nth(1).unwrap();
        let missed: usize = told.split(' ').next().unwrap().parse().unwrap();
        let marker = words(missed as u64, "nobody read them in time");
        assert_eq!(got.len() - marker.len() + missed, 6_000_000);
        assert!(got.ends_with(marker.as_bytes()));
        sink.put(b"and on", &mut poll);
        assert_eq!(take(&mut reader, &mut sink, &mut poll), b"and on");
        assert_eq!(sink.backlog.capacity(), 0);
    }

    #[test]
    fn one_that_is_awaited_misses_nothing_until_it_is_given_up() {
        let (mut sink, mut reader, mut poll) = pair();
        (sink.awaited, sink.watched) = (true, false);
        poll.remove(sink.fd.as_ref().unwrap());
        sink.token = None;
        let mut given = 0;
        while !sink.is_full() {
            sink.put(&[b'x'; 10_000], &mut poll);
            given += 10_000;
        }
        assert!(sink.deadline(Duration::from_secs(1)).is_some());
        sink.leave_behind();
        assert!(!sink.is_full() && sink.deadline(Duration::from_secs(1)).is_none());
        sink.put(b"lost", &mut poll);
        let got = take(&mut reader, &mut sink, &mut poll);
        assert!(got[..given].iter().all(|byte| *byte == b'x'));
        assert_eq!(&got[given..], words(4, "nobody read them in time").as_bytes());
    }

    #[test]
    fn a_client_that_goes_is_noticed() {
        let (mut sink, reader, mut poll) = pair();
        drop(reader);
        let mut events = Vec::with_capacity(4);
        poll.wait(&mut events, None).unwrap();
        assert!(sink.owns(events[0].data.u64()));
        sink.flush(&mut poll);
        assert!(sink.is_over());
    }
}
