//! What happens to tasks, told to another host than our own engine: by ttrpc (`containerd.services.events.ttrpc.v1.Events`),
//! or by its publish program where there is no such address. Our engine reads states and gets none.
//!
//! Invariant: events leave in the order in which they happened, one at a time, and nothing here ever waits. A host that is
//! away is tried again for some minutes, and while nothing is to be said nothing is open.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use jiff::Timestamp;
use rustix::event::epoll::EventFlags;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process_group};

use super::note::note;
use super::poll::Poll;
use super::reply::proto_time;
use super::spawn::spawn;
use super::stdio::write_some;
use super::wire::{self, HEADER, Next};

/// Events kept for a host that is away.
const MAX_QUEUE: usize = 512;
/// A host that has not answered by then is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the first new try; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Tries without an answer, about five minutes, after which what waits is dropped: a host that comes back asks for states.
const MAX_TRIES: u32 = 16;

/// Who is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Host {
    /// Nobody.
    #[default]
    Nobody,
    /// A ttrpc server's socket.
    Socket(PathBuf),
    /// `PROGRAM --address ADDRESS publish …`.
    Program {
        /// The host's own binary.
        program: PathBuf,
        /// What it is told as its address.
        address: String,
    },
}

/// See the module.
#[derive(Default)]
pub struct Events {
    host: Host,
    namespace: String,
    queue: VecDeque<Event>,
    dropped: u64,
    tries: u32,
    retry: Option<Instant>,
    saying: Option<Saying>,
}

struct Event {
    topic: &'static str,
    event: Any,
    at: Timestamp,
}

/// The first event of the queue on its way.
enum Saying {
    Socket { fd: OwnedFd, token: u64, output: Vec<u8>, input: Vec<u8>, stream: u32, until: Instant },
    Program { pid: Pid, until: Instant },
}

impl Events {
    /// Tells `host`.
    pub fn new(host: Host, namespace: &str) -> Self {
        Self { host, namespace: namespace.to_owned(), ..Self::default() }
    }

    /// Whether anybody wants to know.
    pub fn are_wanted(&self) -> bool {
        self.host != Host::Nobody
    }

    /// Keeps an event for [`Self::advance`]; `M` is one of containerd's `containerd.events`.
    pub fn tell<M: Message>(&mut self, topic: &'static str, event: impl FnOnce() -> M) {
        if !self.are_wanted() {
            return;
        }
        let Ok(value) = event().write_to_bytes() else { return };
        if self.queue.len() >= MAX_QUEUE {
            // Not the first: it may be half said.
            self.queue.remove(1);
            self.dropped += 1;
        }
        let event = Any { type_url: format!("containerd.events.{}", M::NAME), value, ..Default::default() };
        self.queue.push_back(Event { topic, event, at: Timestamp::now() });
    }

    /// Nothing waits to be said.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When [`Self::advance`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.saying {
            Some(Saying::Socket { until, .. } | Saying::Program { until, .. }) => Some(*until),
            None => self.retry.filter(|_| !self.queue.is_empty()),
        }
    }

    /// Says what can be said now.
    pub fn advance(&mut self, now: Instant, poll: &mut Poll) {
        match &self.saying {
            Some(Saying::Socket { until, .. }) if now < *until => return,
            Some(Saying::Program { until, .. }) if now < *until => return,
            Some(Saying::Program { pid, .. }) => {
                // Reaped with the others.
                let _ = kill_process_group(*pid, Signal::KILL);
                self.fail(now);
            }
            Some(Saying::Socket { .. }) => self.fail(now),
            None => {}
        }
        if self.queue.is_empty() || self.retry.is_some_and(|at| now < at) {
            return;
        }
        if self.begin(now, poll).is_none() {
            self.fail(now);
        }
    }

    fn begin(&mut self, now: Instant, poll: &mut Poll) -> Option<()> {
        let until = now + PATIENCE;
        match self.host.clone() {
            Host::Nobody => self.queue.clear(),
            Host::Socket(path) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
                rustix::net::connect(&fd, &SocketAddrUnix::new(&path).ok()?).ok()?;
                let token = poll.add(&fd, EventFlags::IN | EventFlags::OUT).ok()?;
                let (output, input) = (Vec::new(), Vec::new());
                self.saying = Some(Saying::Socket { fd, token, output, input, stream: 1, until });
                self.request(now);
            }
            Host::Program { program, address } => {
                let event = self.queue.front()?;
                let file = rustix::fs::memfd_create(c"event", MemfdFlags::CLOEXEC).ok()?;
                let mut file = std::fs::File::from(file);
                file.write_all(&event.event.write_to_bytes().ok()?).ok()?;
                file.seek(SeekFrom::Start(0)).ok()?;
                let arguments = [
                    program.as_os_str(),
                    OsStr::new("--address"),
                    OsStr::new(&address),
                    OsStr::new("publish"),
                    OsStr::new("--topic"),
                    OsStr::new(event.topic),
                    OsStr::new("--namespace"),
                    OsStr::new(&self.namespace),
                ];
                let pid = spawn(&arguments, [Some(file.into()), None, None]).ok()?;
                self.saying = Some(Saying::Program { pid, until });
            }
        }
        Some(())
    }

    /// Puts the first event of the queue on the open connection.
    fn request(&mut self, now: Instant) {
        let Some(event) = self.queue.front() else { return };
        let Some(Saying::Socket { output, stream, until, .. }) = &mut self.saying else { return };
        let envelope = Envelope {
            timestamp: proto_time(event.at),
            namespace: self.namespace.clone(),
            topic: event.topic.to_owned(),
            event: MessageField::some(event.event.clone()),
            ..Default::default()
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        wire::call(output, *stream, "containerd.services.events.ttrpc.v1.Events", "Forward", &request, PATIENCE);
        *until = now + PATIENCE;
    }

    /// Something happened to a descriptor; false if it is somebody else's.
    pub fn event(&mut self, token: u64, now: Instant, poll: &mut Poll) -> bool {
        let Some(Saying::Socket { fd, token: own, output, input, stream, .. }) = &mut self.saying else { return false };
        if *own != token {
            return false;
        }
        let Ok(done) = write_some(&*fd, output) else {
            self.fail(now);
            return true;
        };
        output.drain(..done);
        let mut closed = false;
        loop {
            match poll.read(&*fd) {
                Ok(0) => closed = true,
                Ok(_) => {
                    input.extend_from_slice(&poll.chunk);
                    continue;
                }
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => closed = true,
            }
            break;
        }
        let mut answered = false;
        let mut broken = closed;
        loop {
            match wire::next(input) {
                Next::Incomplete => break,
                Next::Other { length } | Next::Request { length, .. } => {
                    answered |= input[HEADER - 2] == wire::RESPONSE;
                    input.drain(..length);
                }
                Next::TooLong { .. } => {
                    broken = true;
                    break;
                }
            }
        }
        let wanted = if output.is_empty() { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
        let _ = poll.modify(&*fd, token, wanted);
        *stream += if answered { 2 } else { 0 };
        if answered {
            // Also a refusal is an answer: the same event would be refused again.
            self.said();
        }
        match (answered, broken, self.queue.is_empty()) {
            (true, _, true) | (true, true, false) => self.saying = None,
            (true, false, false) => {
                self.request(now);
                if let Some(Saying::Socket { fd, token, .. }) = &self.saying {
                    let _ = poll.modify(fd, *token, EventFlags::IN | EventFlags::OUT);
                }
            }
            (false, true, _) => self.fail(now),
            (false, false, _) => {}
        }
        true
    }

    /// A child of the shim has ended; false if it is somebody else's.
    pub fn reaped(&mut self, pid: Pid, ok: bool, now: Instant) -> bool {
        match &self.saying {
            Some(Saying::Program { pid: own, .. }) if *own == pid => {}
            _ => return false,
        }
        if ok {
            self.saying = None;
            self.said();
        } else {
            self.fail(now);
        }
        true
    }

    fn said(&mut self) {
        self.queue.pop_front();
        (self.tries, self.retry) = (0, None);
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        if std::mem::take(&mut self.dropped) > 0 {
            note("events were dropped: the host was away for too long");
        }
    }

    fn fail(&mut self, now: Instant) {
        self.saying = None;
        self.tries += 1;
        if self.tries > MAX_TRIES {
            note(format_args!("{} events are dropped: the host takes none", self.queue.len()));
            self.queue = VecDeque::new();
            self.tries = 0;
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.tries.min(10)).min(LAST_RETRY);
        self.retry = Some(now + pause);
    }
}
