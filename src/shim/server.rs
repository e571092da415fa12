//! The loop: one `epoll` for signals, clients, pipes and deadlines, and the dispatch of requests to tasks.
//!
//! In: ttrpc requests, SIGCHLD, output. Out: answers, log files, state files. It never waits for anything else.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, DeleteRequest, KillRequest, PidsRequest,
    ResizePtyRequest, ShutdownRequest, StartRequest, StateRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Code, Request};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;
use rustix::net::SocketFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::conn::{Connection, Heard};
use super::note::note;
use super::poll::Poll;
use super::protocol::{RELOAD, SERVICE, STOP, StopRequest, WATCH, WatchRequest};
use super::task::{Task, encode};
use super::wire::{Answer, Refusal};

/// Clients at a time; one more takes the place of the one that was silent longest.
const MAX_CONNECTIONS: usize = 64;
/// A shim with no task and no client goes after this long: nobody knows of it.
const LONELY: Duration = Duration::from_secs(300);
/// Quiet time after which memory is given back.
const QUIET: Duration = Duration::from_secs(1);
/// Exits kept of processes that may turn out to be a container's.
const MAX_STRAYS: usize = 128;

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
    outbox: Vec<(ReplyTo, Answer)>,
    strays: Vec<(Pid, WaitStatus)>,
}

impl Context {
    /// Sends an answer at the end of this turn.
    pub fn answer(&mut self, to: ReplyTo, answer: Answer) {
        self.outbox.push((to, answer));
    }

    /// The exit of a process that nobody knew when it was reaped: a container's first process may end before the
    /// runtime has told its number.
    pub fn take_stray(&mut self, pid: Pid) -> Option<(WaitStatus, jiff::Timestamp)> {
        let at = self.strays.iter().position(|(stray, _)| *stray == pid)?;
        Some((self.strays.swap_remove(at).1, jiff::Timestamp::now()))
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
    ending: bool,
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
    pub fn new(listener: OwnedFd, namespace: String) -> std::io::Result<Self> {
        let mut poll = Poll::new()?;
        let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let signals_token = poll.add(&signals, EventFlags::IN)?;
        let listener_token = poll.add(&listener, EventFlags::IN)?;
        let cx = Context { poll, now: Instant::now(), outbox: Vec::new(), strays: Vec::new() };
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
            ending: false,
            going_down: false,
        })
    }

    /// Runs until the host shuts it down.
    pub fn run(&mut self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(32);
        let mut restless = true;
        let mut alone_since = None;
        while !self.ending {
            let alone = self.tasks.is_empty() && self.connections.is_empty();
            alone_since = if alone { alone_since.or(Some(self.cx.now)) } else { None };
            let lonely = alone_since.map(|since| since + LONELY);
            let quiet = restless.then(|| self.cx.now + QUIET);
            let deadline = self.tasks.iter().filter_map(Task::deadline).chain(lonely).chain(quiet).min();
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
            self.tasks.retain(|task| !task.gone);
            if !self.tasks.iter().any(Task::is_executing) {
                self.cx.strays.clear();
            }
            if !worked && restless {
                self.cx.poll.shrink();
            }
            restless = worked;
            self.ending |= self.going_down && self.tasks.iter().all(Task::is_down);
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
        } else {
            for task in &mut self.tasks {
                if task.event(token, &mut self.cx) {
                    break;
                }
            }
        }
    }

    /// Several exits may share one SIGCHLD, and orphans of the container come here too.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let cx = &mut self.cx;
            let known = self.tasks.iter_mut().any(|task| task.reaped(pid, status, cx));
            if !known && self.tasks.iter().any(Task::is_executing) {
                if self.cx.strays.len() == MAX_STRAYS {
                    self.cx.strays.remove(0);
                }
                self.cx.strays.push((pid, status));
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(fd) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if self.connections.len() >= MAX_CONNECTIONS {
                let idle = self.connections.iter().enumerate().filter(|(_, connection)| connection.pending == 0);
                let Some((at, _)) = idle.min_by_key(|(_, connection)| connection.last_heard) else { continue };
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
            // The second generation and the third differ in their names only.
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                self.task_api(&request.method, &request.payload, reply)
            }
            SERVICE => self.supervisor(&request.method, &request.payload, reply),
            other => Err(Refusal::new(Code::UNIMPLEMENTED, format!("service {other:?} is not served by this shim"))),
        }
    }

    fn task_api(&mut self, method: &str, payload: &[u8], reply: ReplyTo) -> Result<(), Refusal> {
        match method {
            "Create" => {
                let request: CreateTaskRequest = parse(payload)?;
                if self.tasks.iter().any(|task| task.id == request.id) {
                    return Err(Refusal::new(Code::ALREADY_EXISTS, format!("task {} already exists", request.id)));
                }
                let task = Task::create(request, &self.namespace, reply, &mut self.cx)?;
                self.tasks.push(task);
            }
            "Start" => {
                let request: StartRequest = parse(payload)?;
                let task = process(&mut self.tasks, &request.id, &request.exec_id)?;
                task.start(reply, &mut self.cx)?;
                task.advance(&mut self.cx);
            }
            "Delete" => {
                let request: DeleteRequest = parse(payload)?;
                let task = process(&mut self.tasks, &request.id, &request.exec_id)?;
                task.delete(reply, &mut self.cx)?;
                task.advance(&mut self.cx);
            }
            "Wait" => {
                let request: WaitRequest = parse(payload)?;
                process(&mut self.tasks, &request.id, &request.exec_id)?.wait(reply, &mut self.cx);
            }
            "Kill" => {
                let request: KillRequest = parse(payload)?;
                let answer = process(&mut self.tasks, &request.id, &request.exec_id)?.kill(&request, &mut self.cx)?;
                self.cx.answer(reply, Ok(answer));
            }
            "State" => {
                let request: StateRequest = parse(payload)?;
                let answer = process(&mut self.tasks, &request.id, &request.exec_id)?.report();
                self.cx.answer(reply, answer);
            }
            "Pids" => {
                let request: PidsRequest = parse(payload)?;
                let answer = process(&mut self.tasks, &request.id, "")?.pids();
                self.cx.answer(reply, answer);
            }
            "CloseIO" => {
                let request: CloseIORequest = parse(payload)?;
                let task = process(&mut self.tasks, &request.id, &request.exec_id)?;
                if request.stdin {
                    task.close_stdin(&mut self.cx);
                }
                self.cx.answer(reply, Ok(Vec::new()));
            }
            "ResizePty" => {
                let request: ResizePtyRequest = parse(payload)?;
                let task = process(&mut self.tasks, &request.id, &request.exec_id)?;
                let answer = task.resize(request.width, request.height);
                self.cx.answer(reply, answer);
            }
            "Connect" => {
                let request: ConnectRequest = parse(payload)?;
                let task = self.tasks.iter().find(|task| task.id == request.id);
                let answer = encode(&ConnectResponse {
                    shim_pid: std::process::id(),
                    task_pid: task.map_or(0, Task::pid),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..Default::default()
                });
                self.cx.answer(reply, answer);
            }
            "Shutdown" => {
                let _: ShutdownRequest = parse(payload)?;
                // As containerd's own shim does: with tasks left, the request is taken and nothing is ended.
                self.ending = self.tasks.is_empty();
                self.cx.answer(reply, Ok(Vec::new()));
            }
            "Pause" | "Resume" | "Checkpoint" | "Exec" | "Update" | "Stats" => {
                return Err(Refusal::new(
                    Code::UNIMPLEMENTED,
                    format!("{method} is not supported by this version of the shim"),
                ));
            }
            other => {
                return Err(Refusal::new(Code::UNIMPLEMENTED, format!("method {other:?} is not known to this shim")));
            }
        }
        Ok(())
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
                let answer = task.reload();
                self.cx.answer(reply, answer);
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

fn parse<M: Message>(payload: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(payload)
        .map_err(|error| Refusal::new(Code::INVALID_ARGUMENT, format!("{} is not readable: {error}", M::NAME)))
}

fn from_json<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload)
        .map_err(|error| Refusal::new(Code::INVALID_ARGUMENT, format!("the request is not readable: {error}")))
}

fn process<'a>(tasks: &'a mut [Task], id: &str, exec_id: &str) -> Result<&'a mut Task, Refusal> {
    let task = tasks.iter_mut().find(|task| task.id == id);
    let task = task.ok_or_else(|| Refusal::new(Code::NOT_FOUND, format!("task {id} does not exist in this shim")))?;
    if exec_id.is_empty() {
        Ok(task)
    } else {
        Err(Refusal::new(Code::NOT_FOUND, format!("process {exec_id} of task {id} does not exist")))
    }
}
