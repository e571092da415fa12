//! A process's standard streams: from its pipes or its terminal to the log and to the host's FIFOs, and from the host's
//! standard input to the process.
//!
//! Invariant: the process never waits for a reader that is not there, nor for one that is merely attached. It waits for
//! the host's, so that a foreground `run` loses nothing, but not for ever (docs/decisions/0025).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::epoll::EventFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::binary::{Logger, Readiness, unescape};
use super::console::{self, Console};
use super::input::Input;
use super::log::{Channel, CriLog};
use super::note::note;
use super::outlet::Outlet;
use super::poll::{CHUNK, Poll};
use super::runc::Streams;
use super::said::Said;
use super::sink::Sink;

/// Most that is drained from a pipe at an exit before the exit is announced: more than any pipe holds.
const DRAIN: usize = 2 << 20;
/// What a pipe is grown to, where the kernel allows, when it was found full: bytes. Its writer is then woken a
/// sixteenth as often.
const HEAVY: usize = 1 << 20;
/// Chunks that are taken from one pipe before anybody else has a turn: as many as a grown pipe holds.
const BURST: usize = HEAVY / CHUNK;
/// How long such a turn lasts at most: a disk that is slow takes its time for each piece.
const TURN: Duration = Duration::from_millis(20);
/// How long a host's reader that takes nothing is waited for, and once nothing follows.
const PATIENCE: Duration = Duration::from_secs(60);
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// The read end of a pipe whose write end a container has, or the master of its terminal.
struct Source {
    fd: OwnedFd,
    /// `None` while reading is paused. (A registered pipe that hung up would wake the loop for ever.)
    token: Option<u64>,
    /// It has been grown, if it could be.
    grown: bool,
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

    fn brings(&self, channel: Channel) -> bool {
        self.sources[channel as usize].is_some() || (self.console.is_some() && channel == Channel::Out)
    }
}

/// Where a host wants the streams; empty is nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// FIFO to read from.
    pub stdin: String,
    /// FIFO to write to, or `file://` or `binary://` URI, which is for both streams.
    pub stdout: String,
    /// FIFO to write to.
    pub stderr: String,
    /// The process gets a terminal in place of three streams; its output goes where `stdout` says.
    pub terminal: bool,
    /// Standard input stays open when its writer goes, and is there also with no FIFO: it ends by [`Streaming::close_stdin`].
    pub hold_stdin: bool,
}

/// Whose streams they are.
#[derive(Debug, Clone, Copy)]
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
    outlets: [Outlet; 2],
    /// The logger's URI; it is started with the first attempt, and again with a later one if it has gone.
    binary: Option<String>,
    logger: Option<Logger>,
    id: String,
    namespace: String,
    input: Option<Input>,
    terminal: bool,
    /// Columns and rows that were asked for last.
    size: Option<(u16, u16)>,
    bundle: PathBuf,
    /// While the runtime makes a container, what comes on standard error is the runtime's.
    said: Option<Said>,
    patience: Duration,
    dropped: u64,
    /// No attempt follows: the sinks close when the last byte is through.
    last: bool,
}

const CHANNELS: [Channel; 2] = [Channel::Out, Channel::Err];

impl Streaming {
    /// Opens the host's ends.
    pub fn open(wanted: &Wanted, whose: Whose<'_>) -> Result<Self, String> {
        let input = Input::open(&wanted.stdin, wanted.terminal, wanted.hold_stdin)?;
        let mut outlets = [Outlet::default(), Outlet::default()];
        let mut binary = None;
        let channels = if wanted.terminal { &CHANNELS[..1] } else { &CHANNELS };
        match wanted.stdout.split_once("://") {
            Some(("binary", _)) => binary = Some(wanted.stdout.clone()),
            Some(("file", path)) => {
                let path = String::from_utf8(unescape(path, false))
                    .map_err(|_| format!("output to {}: its path is not text", wanted.stdout))?;
                for channel in channels {
                    outlets[*channel as usize].add(Sink::file(&path)?);
                }
            }
            _ => {
                for (channel, path) in CHANNELS.iter().zip([&wanted.stdout, &wanted.stderr]) {
                    if path.contains("://") {
                        let message = format!("output to {path} is not supported; use a FIFO, file:// or binary://");
                        return Err(message);
                    }
                    if !path.is_empty() && channels.contains(channel) {
                        outlets[*channel as usize].add(Sink::fifo(path)?);
                    }
                }
            }
        }
        Ok(Self {
            attempts: Vec::new(),
            outlets,
            binary,
            logger: None,
            id: whose.id.to_owned(),
            namespace: whose.namespace.to_owned(),
            input,
            terminal: wanted.terminal,
            size: None,
            bundle: whose.bundle.to_owned(),
            said: None,
            patience: PATIENCE,
            dropped: 0,
            last: false,
        })
    }

    /// Changes how long a host's reader that takes nothing is waited for.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience.unwrap_or(PATIENCE);
    }

    /// Whether the process may run: its logger reads.
    pub fn readiness(&self) -> Readiness {
        self.logger.as_ref().map_or(Readiness::Ready, |logger| logger.readiness.clone())
    }

    /// A client gets the output from now on, and may write; each path is that of a FIFO, or empty. Its going ends nothing.
    pub fn attach(&mut self, client: &Wanted, poll: &mut Poll) -> Result<(), String> {
        let stderr = if self.terminal { "" } else { &client.stderr };
        let mut sinks = Vec::new();
        for (channel, path) in CHANNELS.into_iter().zip([client.stdout.as_str(), stderr]) {
            if !path.is_empty() {
                sinks.push((channel, Sink::client(path, poll)?));
            }
        }
        if !client.stdin.is_empty() {
            let fail = |error: Errno| format!("input from {}: {error}", client.stdin);
            let fifo = open_nonblocking(&client.stdin, OFlags::RDONLY).map_err(fail)?;
            // Where there is no input, the client finds that nobody reads.
            if let Some(input) = &mut self.input {
                input.add(fifo, poll);
            }
        }
        for (channel, sink) in sinks {
            // What cannot come is at its end.
            if self.attempts.iter().any(|attempt| attempt.brings(channel)) {
                self.outlets[channel as usize].add(sink);
            }
        }
        Ok(())
    }

    /// Whether a client could write.
    pub fn takes_input(&self) -> bool {
        self.input.is_some()
    }

    /// Makes the process's ends for one attempt. Without log and sinks, output goes nowhere without costing a pipe.
    pub fn attempt(&mut self, log: Option<CriLog>, poll: &mut Poll) -> Result<Ends, String> {
        self.start_logger(poll)?;
        if self.terminal {
            return self.attempt_with_terminal(log, poll);
        }
        let fail = |error: Errno| format!("pipe for the container's output: {error}");
        let mut ends = [None, None];
        let mut sources = [None, None];
        for channel in CHANNELS {
            let index = channel as usize;
            if log.is_none() && self.outlets[index].is_empty() {
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

    fn start_logger(&mut self, poll: &mut Poll) -> Result<(), String> {
        let Some(uri) = self.binary.as_ref().filter(|_| !self.logger.as_ref().is_some_and(Logger::is_alive)) else {
            return Ok(());
        };
        let whose = Whose { id: &self.id, namespace: &self.namespace, bundle: &self.bundle };
        let (logger, pipes) = Logger::start(uri, whose, poll)?;
        self.logger = Some(logger);
        for (outlet, pipe) in self.outlets.iter_mut().zip(pipes) {
            outlet.add(Sink::pipe(pipe));
        }
        Ok(())
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
        let paused = self.outlets[channel as usize].is_full();
        let token = if paused { None } else { Some(poll.add(&fd, EventFlags::IN)?) };
        Ok(Source { fd, token, grown: self.terminal })
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

    /// Gives the terminal, and those that follow it, a size in characters.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<(), String> {
        if !self.terminal {
            return Err("it has no terminal".to_owned());
        }
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = (small(width), small(height));
        self.size = Some(size);
        let current = self.attempts.last().and_then(|attempt| attempt.sources[0].as_ref());
        current.map_or(Ok(()), |source| console::resize(&source.fd, size)).map_err(|error| error.to_string())
    }

    /// The terminals go, and whoever still has one is told by SIGHUP.
    fn hang_up(&mut self, poll: &mut Poll) {
        for attempt in &mut self.attempts {
            attempt.console = None;
            if attempt.sources[0].take().is_some()
                && let Some(log) = &mut attempt.log
            {
                log.finish(Channel::Out, Timestamp::now(), &mut poll.text);
                self.dropped += log.take_dropped();
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
        if self.logger.as_mut().is_some_and(|logger| logger.event(token)) {
            return true;
        }
        for channel in CHANNELS {
            if self.outlets[channel as usize].event(token, poll) {
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

    /// Moves what there is, [`BURST`] chunks at most; says how much, `None` if nothing more can be had now.
    fn pump(&mut self, at: usize, channel: Channel, poll: &mut Poll) -> Option<usize> {
        let mut total = 0;
        let until = Instant::now() + TURN;
        for _ in 0..BURST {
            let Some(length) = self.chunk(at, channel, poll) else { break };
            total += length;
            if self.outlets[channel as usize].is_full() {
                self.pause(channel, poll);
                break;
            }
            if Instant::now() >= until {
                break;
            }
        }
        let log = self.attempts.get_mut(at).and_then(|attempt| attempt.log.as_mut());
        if let Some(log) = log {
            log.flush(&mut poll.text);
            self.dropped += log.take_dropped();
        }
        Some(total).filter(|total| *total > 0)
    }

    /// Moves one chunk. Its log lines may wait in `poll.text`.
    fn chunk(&mut self, at: usize, channel: Channel, poll: &mut Poll) -> Option<usize> {
        let index = channel as usize;
        let attempt = self.attempts.get_mut(at)?;
        let source = attempt.sources[index].as_mut()?;
        match poll.read(&source.fd) {
            Ok(0) => {}
            Ok(length) => {
                if length == CHUNK && !std::mem::replace(&mut source.grown, true) {
                    let _ = rustix::pipe::fcntl_setpipe_size(&source.fd, HEAVY);
                }
                let Poll { chunk, text, .. } = poll;
                if let Some(log) = &mut attempt.log {
                    log.write(channel, chunk, Timestamp::now(), text);
                }
                if let Some(said) = self.said.as_mut().filter(|_| channel == Channel::Err && !self.terminal) {
                    said.add(chunk);
                }
                let outlet = &mut self.outlets[index];
                if !outlet.is_empty() {
                    let chunk = std::mem::take(&mut poll.chunk);
                    outlet.put(&chunk, poll);
                    poll.chunk = chunk;
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
        if self.outlets[channel as usize].is_full() {
            return self.tidy();
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
                while total < DRAIN && !self.outlets[channel as usize].is_full() {
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
            for outlet in &mut self.outlets {
                outlet.finish();
            }
            if let Some(logger) = self.logger.as_mut().filter(|_| self.outlets.iter().all(Outlet::is_empty)) {
                logger.finish(Instant::now());
            }
        }
    }

    /// When [`Self::tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let patience = self.patience();
        let outlets = self.outlets.iter().filter_map(|outlet| outlet.deadline(patience));
        outlets.chain(self.logger.as_ref().and_then(Logger::deadline)).min()
    }

    /// Time has passed: who does not read is left behind, and a logger that does not end is ended.
    pub fn tick(&mut self, now: Instant, poll: &mut Poll) {
        let patience = self.patience();
        if let Some(logger) = &mut self.logger {
            logger.tick(now);
        }
        for channel in CHANNELS {
            let outlet = &mut self.outlets[channel as usize];
            if outlet.deadline(patience).is_some_and(|at| now >= at) {
                outlet.tick(now, patience);
                self.unblock(channel, poll);
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.last { self.patience.min(LAST_PATIENCE) } else { self.patience }
    }

    /// Log lines that the disk did not take, so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether output may still come or has not reached its reader.
    pub fn is_open(&self) -> bool {
        !self.attempts.is_empty() || self.is_delivering()
    }

    /// Whether somebody who is waited for has not got everything that was read, which ends by its own deadlines.
    pub fn is_delivering(&self) -> bool {
        self.outlets.iter().any(Outlet::is_full) || self.logger.as_ref().is_some_and(Logger::is_alive)
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
