//! One container's task: what it is, and how it answers requests. What moves it on is in [`super::lifecycle`].
//!
//! Invariant: at most one execution of the runtime about a task at a time; everything that is wanted meanwhile is
//! kept as a wish (`stop`, `delete`, `next_start`) and looked at when the execution is over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteResponse, KillRequest, PidsResponse, ProcessInfo, StateResponse, StatsResponse, Status,
    WaitResponse,
};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::topics;
use containerd_shim_protos::ttrpc::proto::Code;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::cgroup::Cgroup;
use super::exec::Exec;
use super::freeze::Freezing;
use super::job::Job;
use super::protocol::{AttachRequest, StopRequest, Supervision, TaskPhase, TaskState};
use super::reply::{attach, encode, precondition, proto_time, resize, signal};
use super::restart::History;
use super::runc::{Runtime, Verb};
use super::server::{Context, ReplyTo};
use super::start::FifoStart;
use super::stdio::{Streaming, Wanted, Whose};
use super::wire::{Answer, Refusal};
use super::{args, mounts, oom, options, record, stats};

/// How long a `Delete` waits for output that its reader has not taken yet.
pub(super) const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// How long an execution that makes or starts a container may still take when the end of the container is wanted: ten
/// times what a healthy one needs.
const HURRY: Duration = Duration::from_millis(500);

/// How long a container has to end when the machine goes down, where nobody said.
const DOWN_GRACE: Duration = Duration::from_secs(10);

/// A wish to end.
pub(super) struct Stop {
    pub signal: i32,
    pub grace: Duration,
    /// When SIGKILL follows; `None` until the first signal was sent.
    pub deadline: Option<Instant>,
    pub replies: Vec<ReplyTo>,
}

/// A wish to go.
pub(super) struct Deletion {
    pub replies: Vec<ReplyTo>,
    pub deadline: Instant,
}

/// See the module.
pub struct Task {
    /// The container's name.
    pub id: String,
    /// Nothing of it is left; the server drops it.
    pub gone: bool,
    pub(super) namespace: Box<str>,
    pub(super) bundle: PathBuf,
    pub(super) runtime: Runtime,
    pub(super) supervision: Option<Supervision>,
    pub(super) wanted: Wanted,
    pub(super) stdio: Streaming,
    pub(super) state: TaskState,
    pub(super) init: Option<Pid>,
    pub(super) last_pid: u32,
    /// Whether the process that `init` names has been started.
    pub(super) started: bool,
    pub(super) job: Option<Job>,
    pub(super) fifo: Option<FifoStart>,
    /// When it was told last that log lines are dropped.
    pub(super) told_dropped: Option<Instant>,
    /// The start waits for the logger.
    pub(super) held: bool,
    /// Whose request the execution in flight answers; `None` for the shim's own restarts.
    pub(super) asker: Option<ReplyTo>,
    /// An exit that was seen before its start was confirmed.
    pub(super) early: Option<(WaitStatus, Timestamp)>,
    /// The runtime may hold something under this id.
    pub(super) dirty: bool,
    /// Deleting by the gentle way went wrong before.
    pub(super) stubborn: bool,
    /// A `create` was ended in the middle: what it had made may be anywhere.
    pub(super) half_made: bool,
    pub(super) cgroup: Cgroup,
    /// After an exit: look for processes left in the group, next at, at most until.
    pub(super) remains: Option<(Instant, Instant)>,
    pub(super) history: History,
    pub(super) next_start: Option<Instant>,
    pub(super) stop: Option<Stop>,
    pub(super) delete: Option<Deletion>,
    /// Who asked for the start while the runtime was still creating.
    pub(super) eager: Option<ReplyTo>,
    /// The creation failed: who is told what, once everything is cleaned.
    pub(super) abandoned: Option<(ReplyTo, Refusal)>,
    pub(super) waiters: Vec<ReplyTo>,
    pub(super) watchers: Vec<(ReplyTo, u64)>,
    /// The processes that were added.
    pub(super) execs: Vec<Exec>,
    /// Changes of limits under way, and who asked for them.
    pub(super) updates: Vec<(Job, ReplyTo)>,
    /// Numbers execs and updates.
    pub(super) executions: u32,
    /// A pause or resumption that is not through.
    pub(super) freezing: Option<Freezing>,
    /// Listens for kills at the memory limit.
    pub(super) oom: Option<oom::Watch>,
    /// What the host is told once it is created.
    announcement: Option<Box<TaskCreate>>,
}

impl Task {
    /// Mounts the root file system and starts the runtime's `create`; `reply` is answered when that is over.
    pub fn create(
        request: CreateTaskRequest,
        namespace: &str,
        reply: ReplyTo,
        cx: &mut Context,
    ) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(Code::INVALID_ARGUMENT, message);
        let id = request.id;
        if !args::valid_id(&id) {
            return Err(invalid(args::ArgsError::Id(id).to_string()));
        }
        if !request.checkpoint.is_empty() {
            let message = format!("task {id}: restoring a checkpoint is not supported by this shim");
            return Err(Refusal::new(Code::UNIMPLEMENTED, message));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(invalid(format!("task {id}: bundle {:?} is not an absolute path", request.bundle)));
        }
        let supervision = record::supervision(&bundle).map_err(|error| invalid(format!("task {id}: {error}")))?;
        let runtime = match &supervision {
            Some(supervision) => {
                Runtime::new(supervision.runtime.clone(), supervision.runtime_root.clone(), supervision.systemd_cgroup)
            }
            None => {
                let options = options::read(request.options.as_ref());
                options::runtime(&options.map_err(|error| invalid(format!("task {id}: {error}")))?, namespace)
            }
        };
        if supervision.is_none() {
            record::save_runtime(&bundle, &runtime).map_err(|error| Refusal::new(Code::INTERNAL, error.to_string()))?;
        }
        if let Some(adj) = supervision.as_ref().and_then(|supervision| supervision.oom_score_adj) {
            // Lowering it needs CAP_SYS_RESOURCE; without, the shim is as likely a victim as any.
            let _ = std::fs::write("/proc/self/oom_score_adj", adj.to_string());
        }
        // Without a writer's path, another host than ours means no input at all.
        let hold_stdin = supervision.as_ref().map_or(!request.stdin.is_empty(), |supervision| supervision.stdin);
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            hold_stdin,
        };
        let whose = Whose { id: &id, namespace, bundle: &bundle };
        let mut stdio = Streaming::open(&wanted, whose).map_err(|error| invalid(format!("task {id}: {error}")))?;
        let patience = supervision.as_ref().and_then(|supervision| supervision.reader_patience_ms);
        stdio.set_patience(patience.map(Duration::from_millis));
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            mounts::mount_all(&request.rootfs, &rootfs)
                .map_err(|error| Refusal::new(Code::INTERNAL, format!("task {id}: {error}")))?;
        }
        let announcement = cx.events.are_wanted().then(|| {
            let io = TaskIO {
                stdin: wanted.stdin.clone(),
                stdout: wanted.stdout.clone(),
                stderr: wanted.stderr.clone(),
                terminal: wanted.terminal,
                ..Default::default()
            };
            Box::new(TaskCreate {
                container_id: id.clone(),
                bundle: request.bundle,
                rootfs: request.rootfs,
                io: MessageField::some(io),
                ..Default::default()
            })
        });
        let mut task = Self {
            state: TaskState {
                // Counts on from a shim before this one: who watches must not wait for a number that was passed.
                seq: record::load(&bundle).map_or(0, |before| before.seq),
                phase: TaskPhase::Created,
                shim_pid: std::process::id(),
                pid: None,
                attempt: supervision.as_ref().map_or(0, |s| s.first_attempt),
                restarts: supervision.as_ref().map_or(0, |s| s.restarts),
                started: None,
                exit: None,
                exits: Vec::new(),
                next_start: None,
                reason: None,
                stop_requested: false,
                paused: false,
                dropped_lines: 0,
                oom_kills: 0,
            },
            id,
            gone: false,
            namespace: namespace.into(),
            bundle,
            runtime,
            supervision,
            wanted,
            stdio,
            init: None,
            last_pid: 0,
            started: false,
            job: None,
            fifo: None,
            told_dropped: None,
            held: false,
            asker: Some(reply),
            eager: None,
            early: None,
            dirty: false,
            stubborn: false,
            half_made: false,
            cgroup: Cgroup::default(),
            remains: None,
            history: History::default(),
            next_start: None,
            stop: None,
            delete: None,
            abandoned: None,
            waiters: Vec::new(),
            watchers: Vec::new(),
            execs: Vec::new(),
            updates: Vec::new(),
            executions: 0,
            freezing: None,
            oom: None,
            announcement,
        };
        if let Err(message) = task.launch(cx) {
            mounts::unmount_all(&rootfs);
            return Err(Refusal::new(Code::INTERNAL, message));
        }
        Ok(task)
    }

    /// Tells the host that it is created.
    pub(super) fn announce(&mut self, cx: &mut Context) {
        if let Some(announcement) = self.announcement.take() {
            let pid = self.last_pid;
            cx.events.tell(topics::TASK_CREATE_EVENT_TOPIC, || TaskCreate { pid, ..*announcement });
        }
    }

    /// `Start`: answered when the container's program was executed. During the creation it is a wish for after it, so that
    /// a host can ask for both at once.
    pub fn start(&mut self, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        let ending = self.stop.is_some() || self.delete.is_some();
        if self.is_creating() && self.asker.is_some() && self.eager.is_none() && !ending {
            self.eager = Some(reply);
            return Ok(());
        }
        if self.job.is_some() || self.fifo.is_some() || self.held || self.init.is_none() || self.started || ending {
            return Err(precondition(format!("task {} cannot be started: it is {}", self.id, self.describe())));
        }
        self.asker = Some(reply);
        self.begin_start(cx);
        Ok(())
    }

    /// `Kill`. Before there is a process, SIGKILL ends the runtime's `create`.
    pub fn kill(&mut self, request: &KillRequest, cx: &mut Context) -> Answer {
        let signal = signal(request.signal)?;
        if self.init.is_none() && self.is_creating() && signal == Signal::KILL {
            self.hurry(Duration::ZERO, cx);
            return Ok(Vec::new());
        }
        let Some(init) = self.init else {
            return Err(Refusal::new(Code::NOT_FOUND, format!("task {}: its process already finished", self.id)));
        };
        if !request.all || self.cgroup.signal_all(signal) == 0 {
            // Not waited for yet, so the number is still its own.
            kill_process(init, signal).map_err(|error| {
                Refusal::new(Code::INTERNAL, format!("task {}: signal {}: {error}", self.id, request.signal))
            })?;
        }
        if signal == Signal::KILL {
            self.thaw(cx);
        }
        Ok(Vec::new())
    }

    /// `Delete`: answered when nothing is left.
    pub fn delete(&mut self, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        let starting = self.held || self.fifo.is_some() || self.job.as_ref().is_some_and(|job| job.verb == Verb::Start);
        if starting || (self.init.is_some() && self.started) {
            return Err(precondition(format!(
                "task {} cannot be deleted: it is {}; stop it first",
                self.id,
                self.describe()
            )));
        }
        self.next_start = None;
        match &mut self.delete {
            Some(deletion) => deletion.replies.push(reply),
            None => self.delete = Some(Deletion { replies: vec![reply], deadline: cx.now + OUTPUT_GRACE }),
        }
        self.hurry(HURRY, cx);
        Ok(())
    }

    /// `Stop` of our own protocol: answered when the process is gone and cleaned up after.
    pub fn stop(&mut self, request: &StopRequest, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        signal(request.signal.unsigned_abs())?;
        self.next_start = None;
        let grace = Duration::from_millis(request.grace_ms);
        match &mut self.stop {
            // Asked again: the more impatient one counts.
            Some(stop) => {
                stop.replies.push(reply);
                let sooner = cx.now + grace;
                stop.deadline = stop.deadline.map(|deadline| deadline.min(sooner));
                stop.grace = stop.grace.min(grace);
            }
            None => {
                self.stop = Some(Stop { signal: request.signal, grace, deadline: None, replies: vec![reply] });
                self.state.stop_requested = true;
                self.state.next_start = None;
                self.state.reason = Some("a stop was asked for".to_owned());
                if self.init.is_none() && self.job.is_none() {
                    self.state.phase = TaskPhase::Stopped;
                }
                self.transition(true, cx);
            }
        }
        self.hurry(HURRY, cx);
        Ok(())
    }

    /// The machine goes down. The container ends as by a stop and is not started again by this shim; but nobody asked
    /// for its end, so whoever finds its state later starts it again.
    pub fn go_down(&mut self, cx: &mut Context) {
        self.next_start = None;
        let wanted = self.supervision.as_ref();
        let signal = wanted.and_then(|wanted| wanted.stop_signal).unwrap_or(Signal::TERM.as_raw());
        let grace = wanted.and_then(|wanted| wanted.grace_ms).map_or(DOWN_GRACE, Duration::from_millis);
        self.stop.get_or_insert(Stop { signal, grace, deadline: None, replies: Vec::new() });
        self.hurry(HURRY, cx);
        self.advance(cx);
    }

    /// Nothing of it lives and nothing is under way.
    pub fn is_down(&self) -> bool {
        self.init.is_none() && self.early.is_none() && !self.is_executing() && self.remains.is_none()
    }

    /// `Wait`: answered when the process ended and no restart follows.
    pub fn wait(&mut self, reply: ReplyTo, cx: &mut Context) {
        self.waiters.push(reply);
        self.answer_waiters(cx);
    }

    /// `Watch` of our own protocol.
    pub fn watch(&mut self, since: u64, reply: ReplyTo, cx: &mut Context) {
        self.watchers.push((reply, since));
        self.answer_watchers(cx);
    }

    /// `Reload` of our own protocol.
    pub fn reload(&mut self, cx: &mut Context) -> Answer {
        match record::supervision(&self.bundle) {
            Ok(Some(supervision)) => {
                let policy = supervision.restart.policy;
                self.supervision = Some(supervision);
                self.reconsider(policy, cx);
                Ok(b"{}".to_vec())
            }
            Ok(None) => {
                Err(precondition(format!("task {}: its bundle has no {}", self.id, super::protocol::SUPERVISION_FILE)))
            }
            Err(error) => Err(Refusal::new(Code::INVALID_ARGUMENT, format!("task {}: {error}", self.id))),
        }
    }

    /// `CloseIO` of standard input.
    pub fn close_stdin(&mut self, cx: &mut Context) {
        self.stdio.close_stdin(&mut cx.poll);
    }

    /// `ResizePty`.
    pub fn resize(&mut self, width: u32, height: u32) -> Answer {
        resize(&mut self.stdio, &format!("task {}", self.id), width, height)
    }

    /// `Attach` of our own protocol.
    pub fn attach(&mut self, request: &AttachRequest, cx: &mut Context) -> Answer {
        let name = format!("task {}", self.id);
        if self.init.is_none() {
            return Err(precondition(format!("{name} cannot be attached to: it is {}", self.describe())));
        }
        attach(&mut self.stdio, &name, self.wanted.terminal, request, &mut cx.poll)
    }

    /// `State`.
    pub fn report(&self) -> Answer {
        let status = match (self.init, self.started) {
            (Some(_), true) if self.is_paused() => Status::PAUSED,
            (Some(_), true) => Status::RUNNING,
            (Some(_), false) => Status::CREATED,
            (None, _) if self.is_creating() => Status::CREATED,
            (None, _) => Status::STOPPED,
        };
        let exit = self.state.exit.as_ref().filter(|_| status == Status::STOPPED);
        encode(&StateResponse {
            id: self.id.clone(),
            bundle: self.bundle.display().to_string(),
            pid: self.last_pid,
            status: status.into(),
            stdin: self.wanted.stdin.clone(),
            stdout: self.wanted.stdout.clone(),
            stderr: self.wanted.stderr.clone(),
            terminal: self.wanted.terminal,
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: exit.map_or_else(MessageField::none, |exit| proto_time(exit.at)),
            ..Default::default()
        })
    }

    /// `Pids`: with the names of those that were added.
    pub fn pids(&self) -> Answer {
        let mut pids = self.cgroup.pids();
        if pids.is_empty() {
            pids.extend(self.init);
        }
        let details = |pid: Pid| {
            let exec = self.execs.iter().find(|exec| exec.pid() == Some(pid))?;
            let value = ProcessDetails { exec_id: exec.id.clone(), ..Default::default() }.write_to_bytes().ok()?;
            Some(Any { type_url: "containerd.runc.v1.ProcessDetails".to_owned(), value, ..Default::default() })
        };
        let info = |pid: Pid| ProcessInfo {
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            info: details(pid).into(),
            ..Default::default()
        };
        encode(&PidsResponse { processes: pids.into_iter().map(info).collect(), ..Default::default() })
    }

    /// `Stats`.
    pub fn stats(&self) -> Answer {
        if self.init.is_none() {
            return Err(precondition(format!("task {} uses nothing: it is {}", self.id, self.describe())));
        }
        let internal = |message: String| Refusal::new(Code::INTERNAL, format!("task {}: {message}", self.id));
        let stats = stats::of(&self.cgroup, self.init).map_err(internal)?;
        encode(&StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    /// Its process, if it runs and its end is not known yet.
    pub(super) fn is_running(&self) -> Option<Pid> {
        self.init.filter(|_| self.started && self.early.is_none())
    }

    /// Process id of the container's process, or of the last one.
    pub fn pid(&self) -> u32 {
        self.last_pid
    }

    /// The connection has gone: nobody is to be told over it.
    pub fn forget(&mut self, connection: u64) {
        self.waiters.retain(|reply| reply.connection != connection);
        self.execs.iter_mut().for_each(|exec| exec.forget(connection));
        self.watchers.retain(|(reply, _)| reply.connection != connection);
    }

    pub(super) fn wait_response(&self) -> WaitResponse {
        let exit = self.state.exit.as_ref();
        WaitResponse {
            exit_status: exit.map_or(255, |exit| exit.code),
            exited_at: exit.map_or_else(MessageField::none, |exit| proto_time(exit.at)),
            ..Default::default()
        }
    }

    pub(super) fn delete_response(&self) -> DeleteResponse {
        let wait = self.wait_response();
        DeleteResponse {
            pid: self.last_pid,
            exit_status: wait.exit_status,
            exited_at: wait.exited_at,
            ..Default::default()
        }
    }

    /// Where it is, in a word, for refusals.
    pub(super) fn describe(&self) -> &'static str {
        match (self.init, self.started, &self.job) {
            _ if self.abandoned.is_some() || self.delete.is_some() => "being deleted",
            _ if self.stop.is_some() => "being stopped",
            (_, _, Some(job)) if job.verb == Verb::Create => "being created",
            (_, _, Some(job)) if job.verb == Verb::Start => "being started",
            (Some(_), true, _) if self.is_paused() => "paused",
            (Some(_), true, _) => "running",
            (Some(_), false, _) => "created",
            _ if self.next_start.is_some() => "waiting to be started again",
            _ => "stopped",
        }
    }
}
