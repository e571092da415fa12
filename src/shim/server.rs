//! The loop: one `epoll` for signals, clients, pipes and deadlines, and the dispatch of requests to tasks.
//!
//! In: ttrpc requests, SIGCHLD, output. Out: answers, log files, state files. It never waits for anything else.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use containerd_shim_protos::ttrpc::proto::{Code, Request};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;
use rustix::net::SocketFlags;
use rustix::process::WaitOptions;

use super::api;
use super::conn::{Connection, Heard};
use super::events::{Events, Host};
use super::note::note;
use super::poll::Poll;
use super::protocol::{
    ATTACH, AttachRequest, EXPIRE, ExpireRequest, RELOAD, SERVICE, STOP, StopRequest, WATCH, WatchRequest,
};
use super::task::Task;
use super::wire::{Answer, Refusal};

/// Clients at a time; one more takes the place of the one that was silent longest, of those that never asked for anything
/// if there are such: a host that keeps a quiet connection takes its end for the shim's.
const MAX_CONNECTIONS: usize = 64;
/// A shim with no task and no client goes after this long: nobody knows of it.
const LONELY: Duration = Duration::from_secs(300);
/// Quiet time after which memory is given back.
const QUIET: Duration = Duration::from_secs(1);

/// How long a shim that has to go tries to tell its last events.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The connection's token.
    pub connection: u64,
    /// Stream on it.
    pub stream: u32,
}

/// What tasks need of their surroundings.
pub struct Context {
    /// Descriptors are watched here.
    pub poll: Poll,
    /// The time of this turn of the loop.
    pub now: Instant,
    /// What the host is told beside its answers.
    pub events: Events,
    /// The host wants the shim to go.
    pub ending: bool,
    outbox: Vec<(ReplyTo, Answer)>,
}

impl Context {
    /// Sends an answer at the end of this turn.
    pub fn answer(&mut self, to: ReplyTo, answer: Answer) {
        self.outbox.push((to, answer));
    }
}

/// See the module.
pub struct Server {
    cx: Context,
    namespace: String,
    listener: OwnedFd,
    listener_token: u64,
    signals: SignalFd,
    signals_token: u64,
    connections: Vec<Connection>,
    tasks: Vec<Task>,
    going_down: bool,
}

/// The signals that arrive by descriptor. Those that would end the shim are read and dropped: it ends when its host
/// says so, by SIGKILL, or by SIGTERM from init, which says that the machine goes down. They are blocked and not ignored, because what is ignored stays so in the container.
pub fn signals() -> SigSet {
    [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]
    .into_iter()
    .collect()
}

impl Server {
    /// Serves on a bound and listening socket. [`signals`] must be blocked.
    pub fn new(listener: OwnedFd, namespace: String, host: Host) -> std::io::Result<Self> {
        let mut poll = Poll::new()?;
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let signals_token = poll.add(&signals, EventFlags::IN)?;
        let listener_token = poll.add(&listener, EventFlags::IN)?;
        let events = Events::new(host, &namespace);
        let cx = Context { poll, now: Instant::now(), events, ending: false, outbox: Vec::new() };
        let (connections, tasks) = (Vec::new(), Vec::new());
        Ok(Self {
            cx,
            namespace,
            listener,
            listener_token,
            signals,
            signals_token,
            connections,
            tasks,
            going_down: false,
        })
    }

    /// Runs until the host shuts it down.
    pub fn run(&mut self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(32);
        let mut restless = true;
        let mut alone_since = None;
        let mut last_words = None;
        while !self.cx.ending || (!self.cx.events.is_empty() && last_words.is_none_or(|until| self.cx.now < until)) {
            if self.cx.ending {
                last_words.get_or_insert(self.cx.now + LAST_WORDS);
            }
            let alone = self.tasks.is_empty() && self.connections.is_empty();
            alone_since = if alone { alone_since.or(Some(self.cx.now)) } else { None };
            let lonely = alone_since.map(|since| since + LONELY);
            let quiet = restless.then(|| self.cx.now + QUIET);
            let others = [lonely, quiet, last_words, self.cx.events.deadline()];
            let deadline = self.tasks.iter().filter_map(Task::deadline).chain(others.into_iter().flatten()).min();
            self.cx.poll.wait(&mut events, deadline)?;
            self.cx.now = Instant::now();
            if lonely.is_some_and(|at| self.cx.now >= at) && events.is_empty() {
                break;
            }
            let mut worked = !events.is_empty();
            for event in &events {
                self.event(event.data.u64(), event.flags);
            }
            for task in &mut self.tasks {
                if task.deadline().is_some_and(|at| self.cx.now >= at) {
                    worked = true;
                    task.tick(&mut self.cx);
                }
            }
            self.deliver();
            let Context { events, now, poll, .. } = &mut self.cx;
            events.advance(*now, poll);
            self.tasks.retain(|task| !task.gone);
            if !worked && restless {
                self.cx.poll.shrink();
            }
            restless = worked;
            self.cx.ending |= self.going_down && self.tasks.iter().all(Task::is_down);
        }
        Ok(())
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        if token == self.signals_token {
            while let Ok(Some(signal)) = self.signals.read_signal() {
                // Whoever goes on about it from init says it to all: the machine goes down, and waits for us.
                if signal.ssi_signo == Signal::SIGTERM as u32 && signal.ssi_pid == 1 {
                    self.going_down = true;
                    for task in &mut self.tasks {
                        task.go_down(&mut self.cx);
                    }
                }
            }
            self.reap();
        } else if token == self.listener_token {
            self.accept();
        } else if let Some(at) = self.connections.iter().position(|connection| connection.token == token) {
            self.hear(at, flags);
        } else if !self.tell(token) {
            for task in &mut self.tasks {
                if task.event(token, &mut self.cx) {
                    break;
                }
            }
        }
    }

    fn tell(&mut self, token: u64) -> bool {
        let Context { events, now, poll, .. } = &mut self.cx;
        events.event(token, *now, poll)
    }

    /// Several exits may share one SIGCHLD, and orphans of the container come here too, which nobody knows.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let cx = &mut self.cx;
            if !cx.events.reaped(pid, status.exit_status() == Some(0), cx.now) {
                self.tasks.iter_mut().any(|task| task.reaped(pid, status, cx));
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(fd) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if self.connections.len() >= MAX_CONNECTIONS {
                let idle = self.connections.iter().enumerate().filter(|(_, connection)| connection.pending == 0);
                let Some((at, _)) = idle.min_by_key(|(_, connection)| (connection.asked, connection.last_heard)) else {
                    continue;
                };
                self.close(at);
            }
            match Connection::new(fd, self.cx.now, &mut self.cx.poll) {
                Ok(connection) => self.connections.push(connection),
                Err(error) => note(format_args!("a client's connection: {error}")),
            }
        }
    }

    fn close(&mut self, at: usize) {
        let connection = self.connections.swap_remove(at);
        for task in &mut self.tasks {
            task.forget(connection.token);
        }
    }

    fn hear(&mut self, at: usize, flags: EventFlags) {
        let connection = &mut self.connections[at];
        if flags.contains(EventFlags::OUT) && !connection.flush(&self.cx.poll) {
            return self.close(at);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let token = connection.token;
        let Heard { requests, closed } = connection.hear(self.cx.now, &mut self.cx.poll);
        for (stream, request) in requests {
            let reply = ReplyTo { connection: token, stream };
            if let Err(refusal) = self.dispatch(&request, reply) {
                self.cx.answer(reply, Err(refusal));
            }
        }
        // Who asks and hangs up has asked.
        if closed {
            self.close(at);
        }
    }

    fn deliver(&mut self) {
        for (to, answer) in std::mem::take(&mut self.cx.outbox) {
            if let Some(connection) = self.connections.iter_mut().find(|connection| connection.token == to.connection) {
                connection.say(to.stream, answer);
            }
        }
        for at in (0..self.connections.len()).rev() {
            if !self.connections[at].flush(&self.cx.poll) {
                self.close(at);
            }
        }
    }

    fn dispatch(&mut self, request: &Request, reply: ReplyTo) -> Result<(), Refusal> {
        match request.service.as_str() {
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                let Self { tasks, namespace, cx, .. } = self;
                api::call(tasks, namespace, &request.method, &request.payload, reply, cx)
            }
            SERVICE => self.supervisor(&request.method, &request.payload, reply),
            other => Err(Refusal::new(Code::UNIMPLEMENTED, format!("service {other:?} is not served by this shim"))),
        }
    }

    fn supervisor(&mut self, method: &str, payload: &[u8], reply: ReplyTo) -> Result<(), Refusal> {
        let none = || Refusal::new(Code::NOT_FOUND, "this shim has no task");
        let task = self.tasks.first_mut().ok_or_else(none)?;
        match method {
            WATCH => {
                let request: WatchRequest = from_json(payload)?;
                task.watch(request.since, reply, &mut self.cx);
            }
            RELOAD => {
                let answer = task.reload(&mut self.cx);
                self.cx.answer(reply, answer);
            }
            ATTACH => {
                let request: AttachRequest = from_json(payload)?;
                let answer = match request.exec_id.as_str() {
                    "" => task.attach(&request, &mut self.cx),
                    exec_id => task.exec(exec_id).and_then(|(home, exec)| exec.attach(home, &request, &mut self.cx)),
                };
                self.cx.answer(reply, answer);
            }
            EXPIRE => {
                let request: ExpireRequest = from_json(payload)?;
                task.exec(&request.exec_id)?.1.expire(Duration::from_millis(request.after_ms), self.cx.now);
                self.cx.answer(reply, Ok(b"{}".to_vec()));
            }
            STOP => {
                let request: StopRequest = from_json(payload)?;
                task.stop(&request, reply, &mut self.cx)?;
                task.advance(&mut self.cx);
            }
            other => {
                return Err(Refusal::new(Code::UNIMPLEMENTED, format!("method {other:?} is not known to this shim")));
            }
        }
        Ok(())
    }
}

fn from_json<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload)
        .map_err(|error| Refusal::new(Code::INVALID_ARGUMENT, format!("the request is not readable: {error}")))
}
