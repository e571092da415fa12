//! A process's standard streams: from its pipes or its terminal to the log and to the host's FIFOs, and from the host's
//! standard input to the process.
//!
//! Invariant: the container never waits for a reader that is not there. It does wait for one that is there and
//! slow, with at most one pipe's worth kept here, so that a foreground `run` loses nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::console::{self, Console};
use super::input::Input;
use super::log::{Channel, CriLog};
use super::note::note;
use super::poll::Poll;
use super::runc::Streams;
use super::said::Said;
use super::sink::Sink;

/// Most that is drained from a pipe at an exit before the exit is announced: more than any pipe holds.
const DRAIN: usize = 2 << 20;

/// The read end of a pipe whose write end a container has, or the master of its terminal.
struct Source {
    fd: OwnedFd,
    /// `None` while reading is paused. (A registered pipe that hung up would wake the loop for ever.)
    token: Option<u64>,
}

/// What belongs to one attempt; it outlives the process while somebody holds its pipes.
struct Attempt {
    log: Option<CriLog>,
    /// A terminal that has not come yet; it will be the first source.
    console: Option<Console>,
    sources: [Option<Source>; 2],
}

impl Attempt {
    fn is_open(&self) -> bool {
        self.console.is_some() || self.sources.iter().any(Option::is_some)
    }
}

/// Where a host wants the streams; empty is nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// FIFO to read from.
    pub stdin: String,
    /// FIFO, or `file://` URI, to write to.
    pub stdout: String,
    /// FIFO, or `file://` URI, to write to.
    pub stderr: String,
    /// The process gets a terminal in place of three streams; its output goes where `stdout` says.
    pub terminal: bool,
    /// Standard input stays open when its writer goes, and is there also with no FIFO: it ends by [`Streaming::close_stdin`].
    pub hold_stdin: bool,
}

/// Whose streams they are.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "names are for the loggers that come next")]
pub struct Whose<'a> {
    /// The container's, or the execution's, name.
    pub id: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// A directory that is the container's, for sockets.
    pub bundle: &'a Path,
}

/// The process's ends for one attempt.
#[derive(Default)]
pub struct Ends {
    /// What the runtime is given as its standard streams.
    pub streams: Streams,
    /// The process has a terminal: the runtime is told `--console-socket` and this path.
    pub console: Option<PathBuf>,
}

/// See the module.
pub struct Streaming {
    attempts: Vec<Attempt>,
    sinks: [Option<Sink>; 2],
    input: Option<Input>,
    terminal: bool,
    /// Columns and rows that were asked for last.
    size: Option<(u16, u16)>,
    bundle: PathBuf,
    /// While the runtime makes a container, what comes on standard error is the runtime's.
    said: Option<Said>,
    /// No attempt follows: the sinks close when the last byte is through.
    last: bool,
}

const CHANNELS: [Channel; 2] = [Channel::Out, Channel::Err];

impl Streaming {
    /// Opens the host's ends.
    pub fn open(wanted: &Wanted, whose: Whose<'_>) -> Result<Self, String> {
        let stderr = if wanted.terminal { "" } else { &wanted.stderr };
        Ok(Self {
            attempts: Vec::new(),
            sinks: [Sink::open(&wanted.stdout)?, Sink::open(stderr)?],
            input: Input::open(&wanted.stdin, wanted.terminal, wanted.hold_stdin)?,
            terminal: wanted.terminal,
            size: None,
            bundle: whose.bundle.to_owned(),
            said: None,
            last: false,
        })
    }

    /// Makes the process's ends for one attempt. Without log and sinks, output goes nowhere without costing a pipe.
    pub fn attempt(&mut self, log: Option<CriLog>, poll: &mut Poll) -> Result<Ends, String> {
        if self.terminal {
            return self.attempt_with_terminal(log, poll);
        }
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
            sources[index] = Some(self.source(ours, channel, poll).map_err(fail)?);
            ends[index] = Some(theirs);
        }
        if sources.iter().any(Option::is_some) {
            self.attempts.push(Attempt { log, console: None, sources });
        }
        self.said = Some(Said::default());
        let [stdout, stderr] = ends;
        let stdin = self.input.as_mut().and_then(|input| input.pipe(poll));
        Ok(Ends { streams: [stdin, stdout, stderr], console: None })
    }

    /// The process will have its streams from the terminal; those of the runtime are the runtime's.
    fn attempt_with_terminal(&mut self, log: Option<CriLog>, poll: &mut Poll) -> Result<Ends, String> {
        let (console, path) = Console::listen(&self.bundle, poll)?;
        self.attempts.push(Attempt { log, console: Some(console), sources: [None, None] });
        let (said, stderr) = Said::pipe(poll).unzip();
        self.said = said;
        Ok(Ends { streams: [None, None, stderr], console: Some(path) })
    }

    fn source(&self, fd: OwnedFd, channel: Channel, poll: &mut Poll) -> rustix::io::Result<Source> {
        let paused = self.sinks[channel as usize].as_ref().is_some_and(Sink::is_full);
        let token = if paused { None } else { Some(poll.add(&fd, EventFlags::IN)?) };
        Ok(Source { fd, token })
    }

    /// The terminal's socket has something.
    fn console_event(&mut self, at: usize, poll: &mut Poll) {
        let Some(console) = self.attempts.get_mut(at).and_then(|attempt| attempt.console.as_mut()) else { return };
        let arrived = match console.advance(poll) {
            Ok(None) => return,
            Ok(Some(master)) => self.begin_terminal(at, master, poll),
            Err(message) => Err(message),
        };
        self.attempts[at].console = None;
        if let Err(message) = arrived {
            note(message);
        }
    }

    fn begin_terminal(&mut self, at: usize, master: OwnedFd, poll: &mut Poll) -> Result<(), String> {
        let fail = |error: Errno| format!("the container's terminal: {error}");
        if let Some(size) = self.size {
            console::resize(&master, size).map_err(fail)?;
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(&master, 0).map_err(fail)?;
        self.attempts[at].sources[0] = Some(self.source(master, Channel::Out, poll).map_err(fail)?);
        if let Some(input) = &mut self.input {
            input.connect(copy, poll);
        }
        Ok(())
    }

    /// Gives the terminal, and those that follow it, a size in columns and rows; false if there is none.
    pub fn resize(&mut self, width: u16, height: u16) -> rustix::io::Result<bool> {
        if !self.terminal {
            return Ok(false);
        }
        self.size = Some((width, height));
        let current = self.attempts.last().and_then(|attempt| attempt.sources[0].as_ref());
        current.map_or(Ok(()), |source| console::resize(&source.fd, (width, height)))?;
        Ok(true)
    }

    /// The terminals go, and whoever still has one is told by SIGHUP.
    fn hang_up(&mut self, poll: &mut Poll) {
        for attempt in &mut self.attempts {
            attempt.console = None;
            if attempt.sources[0].take().is_some()
                && let Some(log) = &mut attempt.log
            {
                log.finish(Channel::Out, Timestamp::now(), &mut poll.text);
            }
        }
        if let Some(input) = &mut self.input {
            input.disconnect(poll);
        }
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
            self.end_input(poll);
            return true;
        }
        if let Some(said) = self.said.as_mut().filter(|said| said.owns(token)) {
            said.read(poll);
            return true;
        }
        let waits = |attempt: &Attempt| attempt.console.as_ref().is_some_and(|console| console.owns(token));
        if let Some(at) = self.attempts.iter().position(waits) {
            self.console_event(at, poll);
            self.tidy();
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
                if let Some(said) = self.said.as_mut().filter(|_| channel == Channel::Err && !self.terminal) {
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
            // Nothing but the end can be made of any other error of a pipe. EIO is the end of a terminal: nobody has it open.
            Err(_) => {}
        }
        if let Some(log) = &mut attempt.log {
            log.finish(channel, Timestamp::now(), &mut poll.text);
        }
        attempt.sources[index] = None;
        if self.terminal
            && let Some(input) = &mut self.input
        {
            input.disconnect(poll);
        }
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
        if let Some(said) = &mut self.said {
            said.read(poll);
        }
        for at in 0..self.attempts.len() {
            self.console_event(at, poll);
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

    /// The process has gone, and with it its terminal; `last`: and no other follows it.
    pub fn ended(&mut self, last: bool, poll: &mut Poll) {
        if let Some(input) = &mut self.input {
            input.disconnect(poll);
        }
        if self.terminal {
            self.hang_up(poll);
        }
        self.last = last;
        if last {
            self.input = None;
        }
        self.tidy();
    }

    /// No more input: the process sees the end once what was already given is through and nobody can write any more. A
    /// terminal is hung up then, as containerd has it.
    pub fn close_stdin(&mut self, poll: &mut Poll) {
        if let Some(input) = &mut self.input {
            input.finish(poll);
            self.end_input(poll);
        }
    }

    fn end_input(&mut self, poll: &mut Poll) {
        if self.input.as_ref().is_some_and(Input::is_over) {
            if self.terminal {
                self.drain(poll);
                self.hang_up(poll);
                self.tidy();
            }
            self.input = None;
        }
    }

    fn tidy(&mut self) {
        self.attempts.retain(Attempt::is_open);
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
