//! A task's standard streams: pipes from the container to the log and to the host's FIFOs, and from the host's
//! standard input to the container.
//!
//! Invariant: the container never waits for a reader that is not there. It does wait for one that is there and
//! slow, with at most one pipe's worth kept here, so that a foreground `run` loses nothing.

use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::input::Input;
use super::log::{Channel, CriLog};
use super::poll::Poll;
use super::runc::Streams;
use super::said::Said;
use super::sink::Sink;

/// Most that is drained from a pipe at an exit before the exit is announced: more than any pipe holds.
const DRAIN: usize = 2 << 20;

/// The read end of a pipe whose write end a container has.
struct Source {
    fd: OwnedFd,
    /// `None` while reading is paused. (A registered pipe that hung up would wake the loop for ever.)
    token: Option<u64>,
}

/// What belongs to one attempt; it outlives the process while somebody holds its pipes.
struct Attempt {
    log: Option<CriLog>,
    sources: [Option<Source>; 2],
}

/// Where a host wants the streams; empty is nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// FIFO to read from.
    pub stdin: String,
    /// FIFO, or `file://` URI, to write to.
    pub stdout: String,
    /// FIFO, or `file://` URI, to write to.
    pub stderr: String,
}

/// See the module.
pub struct Streaming {
    attempts: Vec<Attempt>,
    sinks: [Option<Sink>; 2],
    input: Option<Input>,
    /// While the runtime makes a container, what comes on standard error is the runtime's.
    said: Option<Said>,
    /// No attempt follows: the sinks close when the last byte is through.
    last: bool,
}

const CHANNELS: [Channel; 2] = [Channel::Out, Channel::Err];

impl Streaming {
    /// Opens the host's ends.
    pub fn open(paths: &Paths) -> Result<Self, String> {
        let sinks = [Sink::open(&paths.stdout)?, Sink::open(&paths.stderr)?];
        Ok(Self { attempts: Vec::new(), sinks, input: Input::open(&paths.stdin)?, said: None, last: false })
    }

    /// Makes the container's ends for one attempt. Without log and sinks, output goes nowhere without costing a pipe.
    pub fn attempt(&mut self, log: Option<CriLog>, poll: &mut Poll) -> Result<Streams, String> {
        let fail = |error: Errno| format!("pipe for the container's output: {error}");
        let mut ends = [None, None];
        let mut sources = [None, None];
        for channel in CHANNELS {
            let index = channel as usize;
            if log.is_none() && self.sinks[index].is_none() {
                continue;
            }
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
            rustix::io::ioctl_fionbio(&ours, true).map_err(fail)?;
            let paused = self.sinks[index].as_ref().is_some_and(Sink::is_full);
            let token = if paused { None } else { Some(poll.add(&ours, EventFlags::IN).map_err(fail)?) };
            sources[index] = Some(Source { fd: ours, token });
            ends[index] = Some(theirs);
        }
        if sources.iter().any(Option::is_some) {
            self.attempts.push(Attempt { log, sources });
        }
        self.said = Some(Said::default());
        let [stdout, stderr] = ends;
        let stdin = self.input.as_mut().and_then(|input| input.connect(poll));
        Ok([stdin, stdout, stderr])
    }

    /// What was said on standard error since the attempt was made; from here on it is the container that speaks.
    pub fn take_said(&mut self) -> Said {
        self.said.take().unwrap_or_default()
    }

    /// Handles an event; false if the token belongs to somebody else.
    pub fn event(&mut self, token: u64, poll: &mut Poll) -> bool {
        if let Some(input) = &mut self.input
            && input.event(token, poll)
        {
            if input.is_over() {
                self.input = None;
            }
            return true;
        }
        for channel in CHANNELS {
            if self.sinks[channel as usize].as_ref().is_some_and(|sink| sink.owns(token)) {
                self.unblock(channel, poll);
                return true;
            }
            let owns = |attempt: &Attempt| {
                attempt.sources[channel as usize].as_ref().is_some_and(|source| source.token == Some(token))
            };
            if let Some(at) = self.attempts.iter().position(owns) {
                self.pump(at, channel, poll);
                self.tidy();
                return true;
            }
        }
        false
    }

    /// Moves one chunk; says how much, `None` if nothing more can be had now.
    fn pump(&mut self, at: usize, channel: Channel, poll: &mut Poll) -> Option<usize> {
        let index = channel as usize;
        let attempt = self.attempts.get_mut(at)?;
        let source = attempt.sources[index].as_mut()?;
        match poll.read(&source.fd) {
            Ok(0) => {}
            Ok(length) => {
                let Poll { chunk, text, .. } = poll;
                if let Some(log) = &mut attempt.log {
                    log.write(channel, chunk, Timestamp::now(), text);
                }
                if let Some(said) = self.said.as_mut().filter(|_| channel == Channel::Err) {
                    said.add(chunk);
                }
                if let Some(sink) = &mut self.sinks[index] {
                    let chunk = std::mem::take(&mut poll.chunk);
                    sink.put(&chunk, poll);
                    poll.chunk = chunk;
                    if sink.is_full() {
                        self.pause(channel, poll);
                        return None;
                    }
                }
                return Some(length);
            }
            Err(Errno::AGAIN) => return None,
            // Nothing but the end can be made of any other error of a pipe.
            Err(_) => {}
        }
        if let Some(log) = &mut attempt.log {
            log.finish(channel, Timestamp::now(), &mut poll.text);
        }
        attempt.sources[index] = None;
        None
    }

    fn pause(&mut self, channel: Channel, poll: &mut Poll) {
        for source in self.attempts.iter_mut().filter_map(|attempt| attempt.sources[channel as usize].as_mut()) {
            if source.token.take().is_some() {
                poll.remove(&source.fd);
            }
        }
    }

    fn unblock(&mut self, channel: Channel, poll: &mut Poll) {
        let Some(sink) = &mut self.sinks[channel as usize] else { return };
        sink.flush(poll);
        if sink.is_full() {
            return;
        }
        for source in self.attempts.iter_mut().filter_map(|attempt| attempt.sources[channel as usize].as_mut()) {
            if source.token.is_none() {
                source.token = poll.add(&source.fd, EventFlags::IN).ok();
            }
        }
        self.tidy();
    }

    /// Takes what the pipes hold now, so that an exit is announced after the output that came before it. Never waits.
    pub fn drain(&mut self, poll: &mut Poll) {
        for at in 0..self.attempts.len() {
            for channel in CHANNELS {
                let mut total = 0;
                while total < DRAIN && !self.sinks[channel as usize].as_ref().is_some_and(Sink::is_full) {
                    let Some(length) = self.pump(at, channel, poll) else { break };
                    total += length;
                }
            }
        }
        self.tidy();
    }

    /// The process has gone; `last`: and no other follows it.
    pub fn ended(&mut self, last: bool, poll: &mut Poll) {
        if let Some(input) = &mut self.input {
            input.disconnect(poll);
        }
        self.last = last;
        if last {
            self.input = None;
        }
        self.tidy();
    }

    /// Gives the terminal another size, in characters.
    pub fn resize(&mut self, _width: u32, _height: u32) -> Result<(), String> {
        Err("it has no terminal".to_owned())
    }

    /// Closes the container's standard input, once what was already given is through.
    pub fn close_stdin(&mut self, poll: &mut Poll) {
        if let Some(input) = &mut self.input {
            input.finish(poll);
            if input.is_over() {
                self.input = None;
            }
        }
    }

    fn tidy(&mut self) {
        self.attempts.retain(|attempt| attempt.sources.iter().any(Option::is_some));
        if self.last && self.attempts.is_empty() {
            for sink in &mut self.sinks {
                if sink.as_ref().is_some_and(|sink| !sink.is_full()) {
                    *sink = None;
                }
            }
        }
    }

    /// Whether output may still come or has not reached its reader.
    pub fn is_open(&self) -> bool {
        !self.attempts.is_empty() || self.sinks.iter().flatten().any(Sink::is_full)
    }
}

/// Opens a path of the host's without ever waiting for its other end.
pub fn open_nonblocking(path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path,
        flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::from_raw_mode(0o640),
    )
}

/// Writes as much as the other end takes; `Ok` says how much.
pub fn write_some(fd: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(&fd, &bytes[done..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
