//! One more process in a container's task: what it is, how it answers requests, and what moves it on.
//!
//! Several are made at once, each by an execution of the runtime's `exec --detach` of its own. Invariant: an exit is
//! kept until somebody deletes the process, and everybody who waits for it is told the same.

use std::path::Path;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    DeleteResponse, ExecProcessRequest, KillRequest, StartResponse, StateResponse, Status, WaitResponse,
};
use containerd_shim_protos::events::task::{TaskExecStarted, TaskExit};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use containerd_shim_protos::ttrpc::proto::Code;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitStatus, getpgid, kill_process, kill_process_group};

use super::job::Job;
use super::note::note;
use super::protocol::AttachRequest;
use super::reply::{attach, encode, exit_code, precondition, proto_time, resize, signal};
use super::runc::{Execution, Runtime, Verb, is_child, named_pid};
use super::server::{Context, ReplyTo};
use super::stdio::{Streaming, Wanted, Whose};
use super::task::OUTPUT_GRACE;
use super::wire::{Answer, Refusal};
use super::{args, record};

/// What is known of the container that the process belongs to.
#[derive(Clone, Copy)]
pub struct Home<'a> {
    pub bundle: &'a Path,
    pub runtime: &'a Runtime,
    pub id: &'a str,
    pub patience: Duration,
}

/// See the module.
pub struct Exec {
    /// Its name, unique in its task.
    pub id: String,
    verb: Verb,
    wanted: Wanted,
    stdio: Streaming,
    phase: Phase,
    last_pid: u32,
    waiters: Vec<ReplyTo>,
    deletions: Vec<ReplyTo>,
    /// Until when a deletion waits for output that its reader has not taken.
    delete_until: Option<Instant>,
    /// How long it may run once it does.
    lasts: Option<Duration>,
    /// When its time is over.
    until: Option<Instant>,
}

/// Where it is.
enum Phase {
    /// Its process is described, in JSON.
    Added(Vec<u8>),
    /// The runtime is making it. The exit may be seen before the runtime's own.
    Starting { job: Job, reply: ReplyTo, early: Option<(WaitStatus, Timestamp)> },
    /// It lives. Reaped by nobody else, so its number is its own.
    Running(Pid),
    /// It ended, or never began.
    Ended(Ended),
}

/// How it ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    code: u32,
    at: Timestamp,
}

impl Exec {
    /// Takes a description over. `number` is unique in the shim's life.
    pub fn add(request: &ExecProcessRequest, wanted: Wanted, whose: Whose, number: u32) -> Result<Self, Refusal> {
        let name = format!("process {} of task {}", request.exec_id, request.id);
        let invalid = |message: String| Refusal::new(Code::INVALID_ARGUMENT, message);
        if !args::valid_id(&request.exec_id) {
            return Err(invalid(format!("task {}: {}", request.id, args::ArgsError::Id(request.exec_id.clone()))));
        }
        let spec = request.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let mut spec: serde_json::Value = serde_json::from_slice(spec)
            .map_err(|error| invalid(format!("{name}: its description is not the JSON of an OCI process: {error}")))?;
        if spec.pointer("/args/0").and_then(serde_json::Value::as_str).is_none_or(str::is_empty) {
            return Err(invalid(format!("{name}: its description names no command; \"args\" must not be empty")));
        }
        spec["terminal"] = request.terminal.into();
        let spec = serde_json::to_vec(&spec).map_err(|error| invalid(format!("{name}: {error}")))?;
        let stdio = Streaming::open(&wanted, whose).map_err(|error| invalid(format!("{name}: {error}")))?;
        Ok(Self {
            id: request.exec_id.clone(),
            verb: Verb::Exec(number),
            wanted,
            stdio,
            phase: Phase::Added(spec),
            last_pid: 0,
            waiters: Vec::new(),
            deletions: Vec::new(),
            delete_until: None,
            lasts: None,
            until: None,
        })
    }

    fn name(&self, home: Home) -> String {
        format!("process {} of task {}", self.id, home.id)
    }

    /// `Start`: answered when its program was executed.
    pub fn start(&mut self, home: Home, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        let Phase::Added(spec) = &mut self.phase else {
            return Err(precondition(format!("{} cannot be started: it is {}", self.name(home), self.describe())));
        };
        let spec = std::mem::take(spec);
        match self.launch(home, &spec, cx) {
            Ok(job) => {
                self.phase = Phase::Starting { job, reply, early: None };
                Ok(())
            }
            Err(message) => {
                self.never_began(&message, cx);
                self.verb.forget(home.bundle);
                Err(Refusal::new(Code::INTERNAL, format!("{}: {message}", self.name(home))))
            }
        }
    }

    fn launch(&mut self, home: Home, spec: &[u8], cx: &mut Context) -> Result<Job, String> {
        if let Some(path) = self.verb.own_file(home.bundle, "json") {
            record::write_private(&path, spec).map_err(|error| error.to_string())?;
        }
        let ends = self.stdio.attempt(None, &mut cx.poll)?;
        let Home { bundle, runtime, id, patience } = home;
        let execution = Execution { verb: self.verb, bundle, id, ends };
        Job::begin(runtime, execution, patience, cx.now, &mut cx.poll)
    }

    /// `Kill`; `all` means its process group.
    pub fn kill(&mut self, home: Home, request: &KillRequest) -> Answer {
        let number = signal(request.signal)?;
        let name = self.name(home);
        match &mut self.phase {
            Phase::Running(pid) => send(*pid, number, request.all)
                .map_err(|error| Refusal::new(Code::INTERNAL, format!("{name}: signal {}: {error}", request.signal)))?,
            Phase::Starting { job, .. } if number == Signal::KILL => job.hurry(Instant::now()),
            Phase::Added(_) | Phase::Starting { .. } => {
                return Err(precondition(format!("{name} cannot be signalled: it is {}", self.describe())));
            }
            Phase::Ended(_) => return Err(Refusal::new(Code::NOT_FOUND, format!("{name} already finished"))),
        }
        Ok(Vec::new())
    }

    /// `Wait`: answered when it has ended.
    pub fn wait(&mut self, reply: ReplyTo, cx: &mut Context) {
        match self.phase {
            Phase::Ended(ended) => cx.answer(reply, encode(&wait_response(Some(ended)))),
            _ => self.waiters.push(reply),
        }
    }

    /// `Delete`: answered when its output is through.
    pub fn delete(&mut self, home: Home, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        if let Phase::Starting { .. } | Phase::Running(_) = self.phase {
            let name = self.name(home);
            return Err(precondition(format!("{name} cannot be deleted: it is {}; stop it first", self.describe())));
        }
        self.deletions.push(reply);
        self.delete_until.get_or_insert(cx.now + OUTPUT_GRACE);
        Ok(())
    }

    /// `Expire` of our own protocol.
    pub fn expire(&mut self, after: Duration, now: Instant) {
        match self.phase {
            Phase::Added(_) | Phase::Starting { .. } => self.lasts = Some(after),
            Phase::Running(_) => self.until = now.checked_add(after),
            Phase::Ended(_) => {}
        }
    }

    /// `CloseIO` of standard input.
    pub fn close_stdin(&mut self, cx: &mut Context) {
        self.stdio.close_stdin(&mut cx.poll);
    }

    /// `ResizePty`.
    pub fn resize(&mut self, home: Home, width: u32, height: u32) -> Answer {
        let name = self.name(home);
        resize(&mut self.stdio, &name, width, height)
    }

    /// `Attach` of our own protocol.
    pub fn attach(&mut self, home: Home, request: &AttachRequest, cx: &mut Context) -> Answer {
        let name = self.name(home);
        match self.phase {
            Phase::Running(_) => attach(&mut self.stdio, &name, self.wanted.terminal, request, &mut cx.poll),
            _ => Err(precondition(format!("{name} cannot be attached to: it is {}", self.describe()))),
        }
    }

    /// `State`.
    pub fn report(&self, home: Home, paused: bool) -> Answer {
        let (status, ended) = match self.phase {
            Phase::Added(_) | Phase::Starting { .. } => (Status::CREATED, None),
            Phase::Running(_) if paused => (Status::PAUSED, None),
            Phase::Running(_) => (Status::RUNNING, None),
            Phase::Ended(ended) => (Status::STOPPED, Some(ended)),
        };
        encode(&StateResponse {
            id: home.id.to_owned(),
            exec_id: self.id.clone(),
            bundle: home.bundle.display().to_string(),
            pid: self.last_pid,
            status: status.into(),
            stdin: self.wanted.stdin.clone(),
            stdout: self.wanted.stdout.clone(),
            stderr: self.wanted.stderr.clone(),
            terminal: self.wanted.terminal,
            exit_status: ended.map_or(0, |ended| ended.code),
            exited_at: ended.map_or_else(MessageField::none, |ended| proto_time(ended.at)),
            ..Default::default()
        })
    }

    /// Its process, while it lives.
    pub fn pid(&self) -> Option<Pid> {
        match self.phase {
            Phase::Running(pid) => Some(pid),
            _ => None,
        }
    }

    /// Whether the runtime is making it.
    pub fn is_executing(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    /// Whether it has ended and nobody is about to delete it.
    pub fn is_spent(&self) -> bool {
        matches!(self.phase, Phase::Ended(_)) && self.deletions.is_empty()
    }

    /// The container has ended: what is being made now would be made in nothing.
    pub fn hurry(&mut self, cx: &Context) {
        if let Phase::Starting { job, .. } = &mut self.phase {
            job.hurry(cx.now);
            job.tick(cx.now);
        }
    }

    /// A child of the shim has ended; false if it is none of this process's.
    pub fn reaped(&mut self, home: Home, pid: Pid, status: WaitStatus, cx: &mut Context) -> bool {
        match &mut self.phase {
            Phase::Starting { job, .. } if job.pid == pid => self.executed(home, status, cx),
            Phase::Starting { early, .. } if named_pid(home.bundle, self.verb) == Some(pid) => {
                *early = Some((status, Timestamp::now()));
            }
            Phase::Running(own) if *own == pid => self.exited(home, status, Timestamp::now(), cx),
            _ => return false,
        }
        true
    }

    fn executed(&mut self, home: Home, status: WaitStatus, cx: &mut Context) {
        let Phase::Starting { job, reply, early } = std::mem::replace(&mut self.phase, Phase::Added(Vec::new())) else {
            return;
        };
        let ok = status.exit_status() == Some(0);
        if !ok {
            self.stdio.drain(&mut cx.poll);
        }
        let said = self.stdio.take_said();
        let pid = named_pid(home.bundle, self.verb).filter(|pid| early.is_some() || is_child(*pid));
        match pid.filter(|_| ok) {
            Some(pid) => {
                self.last_pid = pid.as_raw_nonzero().get().unsigned_abs();
                self.phase = Phase::Running(pid);
                self.until = self.lasts.and_then(|lasts| cx.now.checked_add(lasts));
                cx.events.tell(topics::TASK_EXEC_STARTED_EVENT_TOPIC, || TaskExecStarted {
                    container_id: home.id.to_owned(),
                    exec_id: self.id.clone(),
                    pid: self.last_pid,
                    ..Default::default()
                });
                cx.answer(reply, encode(&StartResponse { pid: self.last_pid, ..Default::default() }));
                if let Some((status, at)) = early {
                    self.exited(home, status, at, cx);
                }
            }
            None => {
                let message = match ok {
                    true => format!("runtime exec of container {} named no process of its own", home.id),
                    false => job.why(home.bundle, home.id, status, &said),
                };
                self.never_began(&message, cx);
                cx.answer(reply, Err(Refusal::new(Code::INTERNAL, format!("process {}: {message}", self.id))));
            }
        }
        self.verb.forget(home.bundle);
    }

    fn never_began(&mut self, message: &str, cx: &mut Context) {
        self.end(Ended { code: status_of(message), at: Timestamp::now() }, cx);
    }

    fn exited(&mut self, home: Home, status: WaitStatus, at: Timestamp, cx: &mut Context) {
        let code = exit_code(status);
        cx.events.tell(topics::TASK_EXIT_EVENT_TOPIC, || TaskExit {
            container_id: home.id.to_owned(),
            id: self.id.clone(),
            pid: self.last_pid,
            exit_status: code,
            exited_at: proto_time(at),
            ..Default::default()
        });
        self.end(Ended { code, at }, cx);
    }

    fn end(&mut self, ended: Ended, cx: &mut Context) {
        self.phase = Phase::Ended(ended);
        self.until = None;
        self.stdio.drain(&mut cx.poll);
        self.stdio.ended(true, &mut cx.poll);
        for reply in std::mem::take(&mut self.waiters) {
            cx.answer(reply, encode(&wait_response(Some(ended))));
        }
    }

    /// Something happened to a descriptor; false if it is none of this process's.
    pub fn event(&mut self, token: u64, cx: &mut Context) -> bool {
        self.stdio.event(token, &mut cx.poll)
    }

    /// When [`Self::tick`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let rest = match &self.phase {
            Phase::Starting { job, .. } => Some(job.deadline).into_iter().chain(self.stdio.deadline()).min(),
            _ if self.stdio.is_delivering() => self.stdio.deadline(),
            _ => self.delete_until,
        };
        self.until.into_iter().chain(rest).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, cx: &mut Context) {
        self.stdio.tick(cx.now, &mut cx.poll);
        match &mut self.phase {
            Phase::Starting { job, .. } => job.tick(cx.now),
            Phase::Running(pid) if self.until.is_some_and(|until| cx.now >= until) => {
                self.until = None;
                if let Err(error) = send(*pid, Signal::KILL, true) {
                    note(format_args!("process {}: its time is over: {error}", self.id));
                }
            }
            _ => {}
        }
    }

    /// Whether a deletion was asked for and can be answered, which is done then; nothing of it is left after.
    pub fn is_gone(&mut self, cx: &mut Context) -> bool {
        let Some(until) = self.delete_until else { return false };
        if self.stdio.is_open() && (cx.now < until || self.stdio.is_delivering()) {
            return false;
        }
        self.leave(cx);
        true
    }

    /// It goes, by a deletion or with its task.
    pub fn leave(&mut self, cx: &mut Context) {
        let ended = match self.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        };
        if let Phase::Starting { job, reply, .. } = &mut self.phase {
            // The end of its container was waited for and did not come.
            note(format_args!("process {}: its execution {} is left behind", self.id, job.pid.as_raw_nonzero()));
            cx.answer(*reply, Err(precondition(format!("process {}: its task was deleted", self.id))));
        }
        for reply in std::mem::take(&mut self.waiters) {
            cx.answer(reply, encode(&wait_response(ended)));
        }
        let wait = wait_response(ended);
        for reply in std::mem::take(&mut self.deletions) {
            let (exit_status, exited_at) = (wait.exit_status, wait.exited_at.clone());
            let pid = self.last_pid;
            cx.answer(reply, encode(&DeleteResponse { pid, exit_status, exited_at, ..Default::default() }));
        }
    }

    /// The connection has gone: nobody is to be told over it.
    pub fn forget(&mut self, connection: u64) {
        self.waiters.retain(|reply| reply.connection != connection);
    }

    fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Added(_) => "not started",
            Phase::Starting { .. } => "being started",
            Phase::Running(_) => "running",
            Phase::Ended(_) => "at its end",
        }
    }
}

/// Signals a child that nobody has reaped, or its process group. Only a group that it leads, as what a runtime makes does,
/// holds no others.
fn send(pid: Pid, signal: Signal, group: bool) -> rustix::io::Result<()> {
    match group && getpgid(Some(pid)) == Ok(pid) {
        true => kill_process_group(pid, signal),
        false => kill_process(pid, signal),
    }
}

fn wait_response(ended: Option<Ended>) -> WaitResponse {
    WaitResponse {
        exit_status: ended.map_or(255, |ended| ended.code),
        exited_at: ended.map_or_else(MessageField::none, |ended| proto_time(ended.at)),
        ..Default::default()
    }
}

/// What a shell's status would be for a process that could not be executed: 127 where there is no such program, 126
/// where it may not be executed or anything else is wrong.
fn status_of(message: &str) -> u32 {
    let missing = message.contains("executable file not found") || message.contains("no such file or directory");
    // The working directory is no program.
    if missing && !message.contains("chdir to cwd") { 127 } else { 126 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_told_from_one_that_cannot_be_executed() {
        for (message, status) in [
            ("exec failed: exec: \"nope\": executable file not found in $PATH", 127),
            ("exec failed: exec: \"/nope\": stat /nope: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("chdir to cwd (\"/x\") set in config.json failed: no such file or directory", 126),
        ] {
            assert_eq!(status_of(message), status, "{message}");
        }
    }
}
