//! What moves a task on: executions that end, processes that exit, deadlines that pass. Each handler changes values
//! and then calls [`Task::advance`], which looks at all of them and takes the one next step.

use std::time::{Duration, Instant};

use containerd_shim_protos::api::{CreateTaskResponse, DeleteResponse, StartResponse};
use containerd_shim_protos::events::task::{TaskDelete, TaskExit, TaskStart};
use containerd_shim_protos::topics;
use containerd_shim_protos::ttrpc::proto::Code;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::binary::Readiness;
use super::cgroup::Cgroup;
use super::job::Job;
use super::log::CriLog;
use super::note::note;
use super::protocol::{Exit, Policy, TaskPhase};
use super::reply::{encode, exit_code, precondition, proto_time, signal};
use super::restart::{History, Verdict, Why, after_exit, is_wanted};
use super::runc::{Execution, Verb, is_child, named_pid};
use super::server::Context;
use super::start::FifoStart;
use super::stdio::Ends;
use super::task::Task;
use super::wire::{Answer, Refusal};
use super::{cleanup, mounts, oom, record};

/// An execution that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long cleaning up by the runtime may take when the end is wanted; then it is done without it.
const CLEANING: Duration = Duration::from_secs(5);
/// Between looks at processes that were left behind and killed.
const REMAINS_EVERY: Duration = Duration::from_millis(5);
/// Between states that say of more log lines that were dropped.
const DROPPED_EVERY: Duration = Duration::from_secs(1);
/// How long such processes are waited for.
const REMAINS_PATIENCE: Duration = Duration::from_secs(10);

impl Task {
    /// Begins an attempt: log, pipes, the runtime's `create`.
    pub(super) fn launch(&mut self, cx: &mut Context) -> Result<(), String> {
        let log = self.supervision.as_ref().and_then(|supervision| {
            let dir = supervision.log_dir.as_ref()?;
            Some(CriLog::open(dir, self.state.attempt, supervision.log_max_size, supervision.log_max_files))
        });
        let ends = self.stdio.attempt(log, &mut cx.poll)?;
        self.execute(Verb::Create, ends, cx)?;
        self.dirty = true;
        Ok(())
    }

    fn execute(&mut self, verb: Verb, ends: Ends, cx: &mut Context) -> Result<(), String> {
        let execution = Execution { verb, bundle: &self.bundle, id: &self.id, ends };
        self.job = Some(Job::begin(&self.runtime, execution, self.patience(), cx.now, &mut cx.poll)?);
        if self.stop.is_some() || self.delete.is_some() || self.abandoned.is_some() {
            self.hurry(CLEANING, cx);
        }
        Ok(())
    }

    /// The end of the container is wanted: an execution under way is not waited for much longer, `patience` where it
    /// makes or starts the container.
    pub(super) fn hurry(&mut self, patience: Duration, cx: &mut Context) {
        if let Some(job) = &mut self.job {
            let making = matches!(job.verb, Verb::Create | Verb::Start);
            job.hurry(cx.now + if making { patience } else { patience.max(CLEANING) });
        }
        if let Some(fifo) = &mut self.fifo {
            fifo.deadline = fifo.deadline.min(cx.now + patience);
        }
    }

    /// Whether the runtime is making the container right now.
    pub(super) fn is_creating(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.verb == Verb::Create)
    }

    /// How long an execution may take.
    pub(super) fn patience(&self) -> Duration {
        let wanted = self.supervision.as_ref().and_then(|supervision| supervision.runtime_timeout_ms);
        wanted.map_or(PATIENCE, Duration::from_millis)
    }

    /// Lets the created process go.
    pub(super) fn begin_start(&mut self, cx: &mut Context) {
        self.held = false;
        match self.stdio.readiness() {
            Readiness::Ready => {}
            Readiness::Waiting => {
                self.held = true;
                return;
            }
            Readiness::Failed(message) => return self.start_failed(message, cx),
        }
        self.fifo = FifoStart::begin(&self.runtime, &self.id, cx.now, &mut cx.poll);
        if self.fifo.is_none()
            && let Err(message) = self.execute(Verb::Start, Ends::default(), cx)
        {
            self.start_failed(message, cx);
        }
    }

    /// A child of the shim has ended; false if it is none of this task's.
    pub fn reaped(&mut self, pid: Pid, status: WaitStatus, cx: &mut Context) -> bool {
        if self.job.as_ref().is_some_and(|job| job.pid == pid) {
            if let Some(mut job) = self.job.take() {
                self.executed(&mut job, status, cx);
            }
        } else if self.init == Some(pid) {
            self.early = Some((status, Timestamp::now()));
            if self.fifo.is_some() {
                self.fifo_event(cx);
            }
        } else if self.is_creating() && named_pid(&self.bundle, Verb::Create) == Some(pid) {
            // The container's first process may end before its `create` was reaped.
            self.early = Some((status, Timestamp::now()));
            return true;
        } else if !self.reaped_beside(pid, status, cx) {
            return false;
        }
        self.advance(cx);
        true
    }

    /// Something happened to a descriptor; false if it is none of this task's.
    pub fn event(&mut self, token: u64, cx: &mut Context) -> bool {
        if self.fifo.as_ref().is_some_and(|fifo| fifo.owns(token)) {
            self.fifo_event(cx);
        } else if let Some(job) = self.job.as_mut().filter(|job| job.said.owns(token)) {
            job.said.read(&mut cx.poll);
        } else if !self.stdio.event(token, &mut cx.poll) && !self.event_beside(token, cx) {
            return false;
        }
        self.tell_dropped(cx);
        self.advance(cx);
        true
    }

    /// That log lines are dropped is told at once, and then as often as one can follow.
    fn tell_dropped(&mut self, cx: &mut Context) {
        let due = self.told_dropped.is_none_or(|at| cx.now >= at + DROPPED_EVERY);
        if self.stdio.dropped() != self.state.dropped_lines && due {
            self.told_dropped = Some(cx.now);
            self.transition(false, cx);
        }
    }

    fn fifo_event(&mut self, cx: &mut Context) {
        let Some(looked) = self.fifo.as_ref().map(FifoStart::look) else { return };
        match looked {
            Some(true) => {
                self.fifo = None;
                self.running(cx);
            }
            // The process ended or is ending; SIGCHLD says how.
            None if self.early.is_none() => {}
            _ => {
                self.fifo = None;
                self.start_failed("its process ended before it could be started".to_owned(), cx);
            }
        }
    }

    fn executed(&mut self, job: &mut Job, status: WaitStatus, cx: &mut Context) {
        let ok = status.exit_status() == Some(0);
        // It may have ended before its last words were read.
        let said = match job.verb {
            Verb::Create => {
                if !ok {
                    self.stdio.drain(&mut cx.poll);
                }
                self.stdio.take_said()
            }
            _ => {
                job.said.read(&mut cx.poll);
                std::mem::take(&mut job.said)
            }
        };
        let why = || job.why(&self.bundle, &self.id, status, &said);
        match job.verb {
            Verb::Create => match named_pid(&self.bundle, Verb::Create).filter(|pid| ok && self.owns(*pid)) {
                Some(pid) => self.created(pid, cx),
                None => {
                    let nobody = || format!("runtime create of container {} named no process of its own", self.id);
                    let message = if ok { nobody() } else { why() };
                    self.early = None;
                    self.stubborn = true;
                    self.half_made = job.killed;
                    self.create_failed(message, cx);
                }
            },
            Verb::Start if ok => self.running(cx),
            Verb::Start => {
                let message = why();
                self.start_failed(message, cx);
            }
            Verb::Delete if ok => self.dirty = false,
            Verb::Delete => {
                // Gone already is as good; else once more, the hard way.
                self.stubborn = true;
                self.dirty = self.runtime.state_dir(&self.id).exists();
            }
            Verb::DeleteForce => {
                if !ok && self.runtime.state_dir(&self.id).exists() {
                    note(why());
                    self.half_made = true;
                }
                self.dirty = false;
                self.stubborn = false;
            }
            Verb::Exec(_) | Verb::Update(_) => {}
        }
    }

    /// Whether the process that the runtime named is the shim's child, or was until just now.
    fn owns(&self, pid: Pid) -> bool {
        self.early.is_some() || is_child(pid)
    }

    fn created(&mut self, pid: Pid, cx: &mut Context) {
        self.init = Some(pid);
        self.started = false;
        self.last_pid = pid.as_raw_nonzero().get().unsigned_abs();
        self.state.pid = Some(self.last_pid);
        self.cgroup = Cgroup::of(pid);
        self.oom = oom::Watch::begin(&self.cgroup, &mut cx.poll);
        self.state.oom_kills = 0;
        match self.asker.take() {
            Some(reply) => {
                self.state.phase = TaskPhase::Created;
                self.transition(false, cx);
                self.announce(cx);
                cx.answer(reply, encode(&CreateTaskResponse { pid: self.last_pid, ..Default::default() }));
                if let Some(reply) = self.eager.take()
                    && let Err(refusal) = self.start(reply, cx)
                {
                    cx.answer(reply, Err(refusal));
                }
            }
            None if self.early.is_some() => {
                self.start_failed("its process ended before it could be started".to_owned(), cx)
            }
            None if self.stop.is_none() && self.delete.is_none() => self.begin_start(cx),
            None => {}
        }
    }

    fn create_failed(&mut self, message: String, cx: &mut Context) {
        self.stdio.drain(&mut cx.poll);
        if let Some(reply) = self.eager.take() {
            let refusal = precondition(format!("task {} cannot be started: it could not be created", self.id));
            cx.answer(reply, Err(refusal));
        }
        match self.asker.take() {
            Some(reply) => {
                self.state.phase = TaskPhase::Failed;
                self.state.reason = Some(message.clone());
                self.stdio.ended(true, &mut cx.poll);
                self.transition(true, cx);
                self.abandoned = Some((reply, Refusal::new(Code::INTERNAL, message)));
            }
            None => self.restart_failed(message, cx),
        }
    }

    fn start_failed(&mut self, message: String, cx: &mut Context) {
        let message = format!("start of container {}: {message}", self.id);
        match self.asker.take() {
            Some(reply) => {
                cx.answer(reply, Err(Refusal::new(Code::INTERNAL, message.clone())));
                self.state.reason = Some(message);
            }
            None => self.restart_failed(message, cx),
        }
        // Whatever it is doing, it is not what was asked for; its exit is on the way.
        if let Some(init) = self.init.filter(|_| self.early.is_none()) {
            let _ = kill_process(init, Signal::KILL);
        }
    }

    /// The runtime could not make it again: that counts as a failure for the policy.
    fn restart_failed(&mut self, message: String, cx: &mut Context) {
        self.history.started = None;
        let next = self.judge(1, cx);
        self.state.phase = TaskPhase::Failed;
        self.state.reason = Some(match next {
            Ok(()) => message,
            Err(Why::Limit) => format!("{message}; the limit of restarts is reached"),
            Err(Why::Policy) => message,
        });
        self.stdio.ended(self.next_start.is_none(), &mut cx.poll);
        self.transition(true, cx);
        self.answer_waiters(cx);
    }

    fn running(&mut self, cx: &mut Context) {
        self.started = true;
        self.history.started = Some(cx.now);
        self.state.phase = TaskPhase::Running;
        self.state.started = Some(Timestamp::now());
        self.state.next_start = None;
        if self.stop.is_none() {
            self.state.reason = None;
        }
        self.transition(false, cx);
        let (container_id, pid) = (self.id.clone(), self.last_pid);
        cx.events.tell(topics::TASK_START_EVENT_TOPIC, || TaskStart { container_id, pid, ..Default::default() });
        if let Some(reply) = self.asker.take() {
            cx.answer(reply, encode(&StartResponse { pid: self.last_pid, ..Default::default() }));
        }
    }

    /// Asks the policy and keeps the answer.
    fn judge(&mut self, code: u32, cx: &Context) -> Result<(), Why> {
        self.next_start = None;
        self.state.next_start = None;
        let ending = self.stop.is_some() || self.delete.is_some();
        let Some(supervision) = self.supervision.as_ref().filter(|_| !ending) else { return Err(Why::Policy) };
        match after_exit(&supervision.restart, &self.history, code, cx.now) {
            Verdict::Restart { at, in_a_row } => {
                self.history = History { in_a_row, started: None };
                self.next_start = Some(at);
                self.state.next_start = Timestamp::now().checked_add(at.saturating_duration_since(cx.now)).ok();
                Ok(())
            }
            Verdict::Stay(why) => Err(why),
        }
    }

    /// The policy has changed: a restart that waits for its time is not for one that wants none.
    pub(super) fn reconsider(&mut self, policy: Policy, cx: &mut Context) {
        let code = self.state.exit.as_ref().map_or(1, |exit| exit.code);
        if self.next_start.is_none() || is_wanted(policy, code) {
            return;
        }
        self.next_start = None;
        self.state.next_start = None;
        if self.state.phase == TaskPhase::BackOff {
            self.state.phase = TaskPhase::Exited;
        }
        self.stdio.ended(true, &mut cx.poll);
        self.transition(true, cx);
        self.answer_waiters(cx);
    }

    fn exited(&mut self, status: WaitStatus, at: Timestamp, cx: &mut Context) {
        let ran = std::mem::take(&mut self.started);
        let signal = status.terminating_signal();
        let pid = self.state.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        // First of all: systemd removes the group of a scope as soon as it is empty.
        let for_memory = || self.cgroup.oom_kills().map_or_else(|| pid.is_some_and(oom::killed), |kills| kills > 0);
        let oom_killed = signal == Some(Signal::KILL.as_raw()) && for_memory();
        self.count_kills(cx);
        self.oom = None;
        self.init = None;
        self.stdio.drain(&mut cx.poll);
        let code = exit_code(status);
        // What is being added would be added to nothing.
        self.execs.iter_mut().for_each(|exec| exec.hurry(cx));
        self.forget_freezing(cx);
        self.state.paused = false;
        self.state.ended(Exit { code, signal, oom_killed, at });
        self.state.pid = None;
        let verdict = if ran { self.judge(code, cx) } else { Err(Why::Policy) };
        let how = match (oom_killed, signal) {
            (true, _) => "killed by the kernel at its memory limit".to_owned(),
            (false, Some(signal)) => format!("ended by signal {signal}"),
            (false, None) => format!("exited with status {code}"),
        };
        // A failed restart has said what it is already, and may have a next one planned.
        if ran || self.state.phase != TaskPhase::Failed {
            (self.state.phase, self.state.reason) = match verdict {
                _ if self.state.stop_requested => (TaskPhase::Stopped, Some(format!("{how}, as was asked for"))),
                Ok(()) => (TaskPhase::BackOff, Some(how)),
                Err(Why::Limit) => (TaskPhase::Exited, Some(format!("{how}; the limit of restarts is reached"))),
                Err(Why::Policy) if ran || self.state.reason.is_none() => (TaskPhase::Exited, Some(how)),
                Err(Why::Policy) => (TaskPhase::Failed, self.state.reason.take()),
            };
        }
        self.stdio.ended(self.next_start.is_none(), &mut cx.poll);
        self.transition(true, cx);
        cx.events.tell(topics::TASK_EXIT_EVENT_TOPIC, || TaskExit {
            container_id: self.id.clone(),
            id: self.id.clone(),
            pid: self.last_pid,
            exit_status: code,
            exited_at: proto_time(at),
            ..Default::default()
        });
        self.answer_waiters(cx);
        self.remains = Some((cx.now, cx.now + REMAINS_PATIENCE));
    }

    /// Takes the next step that all wishes together ask for, if one can be taken now.
    pub fn advance(&mut self, cx: &mut Context) {
        self.execs.retain_mut(|exec| !exec.is_gone(cx));
        if self.gone || self.job.is_some() || self.fifo.is_some() {
            return;
        }
        if self.held && self.early.is_some() {
            self.held = false;
            self.start_failed("its process ended before it could be started".to_owned(), cx);
        }
        if let Some((status, at)) = self.early.take() {
            self.exited(status, at, cx);
        }
        if let Some(init) = self.init {
            self.press(init, cx);
            if self.held && self.stdio.readiness() != Readiness::Waiting {
                self.begin_start(cx);
            }
            return;
        }
        if let Some((next, until)) = self.remains {
            if cx.now < next {
                return;
            }
            let left = self.cgroup.kill() + self.execs.iter().filter(|exec| exec.is_executing()).count();
            if left > 0 && cx.now < until {
                self.remains = Some((cx.now + REMAINS_EVERY, until));
                return;
            }
            if left > 0 {
                note(format_args!("container {}: {left} processes do not end; leaving them", self.id));
            }
            self.remains = None;
        }
        if self.dirty && !self.runtime.state_dir(&self.id).exists() {
            self.dirty = false;
        }
        if self.half_made && !self.dirty {
            self.half_made = false;
            cleanup::wipe(&self.runtime, &self.id, &self.bundle);
        }
        let ours = self.supervision.is_some() || self.delete.is_some() || self.abandoned.is_some();
        if self.dirty && ours && !self.stubborn && cleanup::forget(&self.runtime, &self.id, &self.bundle) {
            self.dirty = false;
        }
        if self.dirty && ours {
            let verb = if self.stubborn { Verb::DeleteForce } else { Verb::Delete };
            match self.execute(verb, Ends::default(), cx) {
                Ok(()) => return,
                Err(message) => {
                    note(message);
                    self.dirty = false;
                }
            }
        }
        if let Some((reply, refusal)) = self.abandoned.take() {
            self.unmount();
            cx.answer(reply, Err(refusal));
            self.leave(cx);
        } else if let Some(deletion) = &self.delete {
            if !self.stdio.is_open() || (cx.now >= deletion.deadline && !self.stdio.is_delivering()) {
                self.unmount();
                let replies = self.delete.take().map(|deletion| deletion.replies).unwrap_or_default();
                for reply in replies {
                    cx.answer(reply, encode(&self.delete_response()));
                }
                let DeleteResponse { pid, exit_status, exited_at, .. } = self.delete_response();
                let container_id = self.id.clone();
                cx.events.tell(topics::TASK_DELETE_EVENT_TOPIC, || TaskDelete {
                    container_id,
                    pid,
                    exit_status,
                    exited_at,
                    ..Default::default()
                });
                self.leave(cx);
            }
        } else if let Some(stop) = self.stop.take() {
            if self.state.stop_requested {
                self.state.phase = TaskPhase::Stopped;
            }
            self.transition(true, cx);
            self.answer_waiters(cx);
            for reply in stop.replies {
                cx.answer(reply, self.state_json());
            }
        } else if self.next_start.is_some_and(|at| cx.now >= at) {
            self.restart(cx);
        }
    }

    /// Brings a living process to its end, if that is wanted.
    fn press(&mut self, init: Pid, cx: &mut Context) {
        let ending = self.stop.is_some() || self.delete.is_some() || self.abandoned.is_some();
        if !ending {
            return;
        }
        if !self.started {
            let _ = kill_process(init, Signal::KILL);
            return;
        }
        let Some(stop) = &mut self.stop else { return };
        if stop.deadline.is_none() && !stop.grace.is_zero() {
            stop.deadline = Some(cx.now + stop.grace);
            if let Ok(signal) = signal(stop.signal.unsigned_abs()) {
                let _ = kill_process(init, signal);
            }
            self.thaw(cx);
        } else if stop.deadline.is_none_or(|deadline| cx.now >= deadline) {
            // Once is not enough for a group that forks meanwhile.
            stop.deadline = Some(cx.now + Duration::from_millis(100));
            stop.grace = Duration::ZERO;
            let _ = kill_process(init, Signal::KILL);
            self.cgroup.kill();
        }
    }

    fn restart(&mut self, cx: &mut Context) {
        self.next_start = None;
        self.state.next_start = None;
        self.state.restarts = self.state.restarts.saturating_add(1);
        self.state.attempt = self.state.attempt.saturating_add(1);
        if let Err(message) = self.launch(cx) {
            self.restart_failed(message, cx);
        }
    }

    fn unmount(&mut self) {
        let rootfs = self.bundle.join("rootfs");
        if !mounts::unmount_all(&rootfs) {
            note(format_args!("container {}: {} cannot be unmounted", self.id, rootfs.display()));
        }
    }

    fn leave(&mut self, cx: &mut Context) {
        self.gone = true;
        self.execs.drain(..).for_each(|mut exec| exec.leave(cx));
        for (job, reply) in self.updates.drain(..) {
            job.verb.forget(&self.bundle);
            cx.answer(reply, Err(precondition(format!("task {} was deleted", self.id))));
        }
        let gone = || Err(Refusal::new(Code::NOT_FOUND, format!("task {} was deleted", self.id)));
        for reply in std::mem::take(&mut self.waiters) {
            cx.answer(reply, encode(&self.wait_response()));
        }
        // Wishes for the end of what was never made.
        for reply in self.stop.take().map(|stop| stop.replies).unwrap_or_default() {
            cx.answer(reply, self.state_json());
        }
        for reply in self.delete.take().map(|deletion| deletion.replies).unwrap_or_default() {
            cx.answer(reply, encode(&self.delete_response()));
        }
        for (reply, _) in std::mem::take(&mut self.watchers) {
            cx.answer(reply, gone());
        }
    }

    /// Whether an execution of the runtime is under way.
    pub fn is_executing(&self) -> bool {
        self.job.is_some()
    }

    /// When [`Self::tick`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let busy = self.job.is_some() || self.fifo.is_some();
        let job = self.job.as_ref().map(|job| job.deadline);
        let fifo = self.fifo.as_ref().map(|fifo| fifo.deadline);
        let stop = self.stop.as_ref().and_then(|stop| stop.deadline).filter(|_| !busy && self.init.is_some());
        let idle = !busy && self.init.is_none();
        let remains = self.remains.map(|(next, _)| next).filter(|_| idle);
        let delete = self.delete.as_ref().map(|deletion| deletion.deadline).filter(|_| idle && remains.is_none());
        let delete = delete.filter(|_| !self.stdio.is_delivering());
        let untold = self.told_dropped.filter(|_| self.stdio.dropped() != self.state.dropped_lines);
        let untold = untold.map(|at| at + DROPPED_EVERY);
        let streams = self.stdio.deadline().into_iter().chain(untold).min();
        let next = self.next_start.filter(|_| idle && remains.is_none());
        [job, fifo, stop, remains, delete, streams, next, self.deadline_beside()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, cx: &mut Context) {
        self.stdio.tick(cx.now, &mut cx.poll);
        self.tell_dropped(cx);
        if let Some(job) = &mut self.job {
            job.tick(cx.now);
        }
        self.tick_beside(cx);
        if self.fifo.as_ref().is_some_and(|fifo| cx.now >= fifo.deadline) {
            self.fifo = None;
            let message = match self.stop {
                Some(_) => "its end was asked for before it was executed".to_owned(),
                None => format!("nothing happened for {} seconds", PATIENCE.as_secs()),
            };
            self.start_failed(message, cx);
        }
        self.advance(cx);
    }

    /// Writes the state down, then tells who waits for it.
    pub(super) fn transition(&mut self, durable: bool, cx: &mut Context) {
        self.state.seq += 1;
        self.state.dropped_lines = self.stdio.dropped();
        if let Err(error) = record::save(&self.bundle, &self.state, durable) {
            note(format_args!("container {}: {error}", self.id));
        }
        self.answer_watchers(cx);
    }

    fn state_json(&self) -> Answer {
        serde_json::to_vec(&self.state).map_err(|error| Refusal::new(Code::INTERNAL, format!("the state: {error}")))
    }

    pub(super) fn answer_watchers(&mut self, cx: &mut Context) {
        if self.state.seq == 0 || self.watchers.is_empty() {
            return;
        }
        let (ready, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.watchers).into_iter().partition(|(_, since)| *since < self.state.seq);
        self.watchers = later;
        for (reply, _) in ready {
            cx.answer(reply, self.state_json());
        }
    }

    pub(super) fn answer_waiters(&mut self, cx: &mut Context) {
        let ended = matches!(self.state.phase, TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed);
        if ended && self.init.is_none() && self.next_start.is_none() {
            for reply in std::mem::take(&mut self.waiters) {
                cx.answer(reply, encode(&self.wait_response()));
            }
        }
    }
}
