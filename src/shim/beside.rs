//! What goes on in a task beside the life of its first process: processes that are added, limits that change, a pause.
//! None of it waits for the container's own executions of the runtime, and none of those waits for it.

use std::io::{Seek, SeekFrom, Write};
use std::time::Instant;

use containerd_shim_protos::api::{ExecProcessRequest, UpdateTaskRequest};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskOOM};
use containerd_shim_protos::topics;
use containerd_shim_protos::ttrpc::proto::Code;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, WaitStatus};

use super::exec::{Exec, Home};
use super::job::Job;
use super::reply::precondition;
use super::runc::{Execution, Verb};
use super::server::{Context, ReplyTo};
use super::stdio::{Ends, Wanted, Whose};
use super::task::Task;
use super::wire::Refusal;

/// Processes that a task may have been given and nobody has deleted.
const MAX_EXECS: usize = 1024;
/// Of these, such as have ended: whoever was to delete the others has died.
const MAX_SPENT: usize = 64;

/// Of OCI's resources, what is looked at here.
#[derive(serde::Deserialize)]
struct Limits {
    memory: Option<Memory>,
}

#[derive(serde::Deserialize)]
struct Memory {
    limit: Option<i64>,
}

impl Task {
    /// `Exec`: keeps the description of one more process.
    pub fn add(&mut self, mut request: ExecProcessRequest, cx: &mut Context) -> Result<(), Refusal> {
        self.takes_processes()?;
        if self.execs.iter().any(|exec| exec.id == request.exec_id) {
            let message = format!("process {} of task {} already exists", request.exec_id, self.id);
            return Err(Refusal::new(Code::ALREADY_EXISTS, message));
        }
        if self.execs.iter().filter(|exec| exec.is_spent()).count() >= MAX_SPENT
            && let Some(oldest) = self.execs.iter().position(Exec::is_spent)
        {
            self.execs.remove(oldest);
        }
        if self.execs.len() >= MAX_EXECS {
            let message = format!("task {} has {MAX_EXECS} processes that were added; delete some", self.id);
            return Err(Refusal::new(Code::RESOURCE_EXHAUSTED, message));
        }
        // Another host than ours says by a request when its input ends.
        let hold_stdin = self.supervision.is_none() && !request.stdin.is_empty();
        let wanted = Wanted {
            stdin: std::mem::take(&mut request.stdin),
            stdout: std::mem::take(&mut request.stdout),
            stderr: std::mem::take(&mut request.stderr),
            terminal: request.terminal,
            hold_stdin,
        };
        self.executions += 1;
        let whose = Whose { id: &request.exec_id, namespace: &self.namespace, bundle: &self.bundle };
        self.execs.push(Exec::add(&request, wanted, whose, self.executions)?);
        let (container_id, exec_id) = (request.id, request.exec_id);
        cx.events.tell(topics::TASK_EXEC_ADDED_EVENT_TOPIC, || TaskExecAdded {
            container_id,
            exec_id,
            ..Default::default()
        });
        Ok(())
    }

    /// Starts a process that was added.
    pub fn start_exec(&mut self, exec_id: &str, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        self.takes_processes()?;
        let (home, exec) = self.exec(exec_id)?;
        exec.start(home, reply, cx)
    }

    fn takes_processes(&self) -> Result<(), Refusal> {
        if self.is_running().is_none() || self.stop.is_some() || self.is_paused() {
            return Err(precondition(format!(
                "no process can be added to task {}: it is {}",
                self.id,
                self.describe()
            )));
        }
        Ok(())
    }

    /// A process that was added, and what it has to know of its container.
    pub fn exec(&mut self, exec_id: &str) -> Result<(Home<'_>, &mut Exec), Refusal> {
        let patience = self.patience();
        let home = Home { bundle: &self.bundle, runtime: &self.runtime, id: &self.id, patience };
        let missing = || {
            let message = format!("process {exec_id} of task {} does not exist", home.id);
            Refusal::new(Code::NOT_FOUND, message)
        };
        let exec = self.execs.iter_mut().find(|exec| exec.id == exec_id).ok_or_else(missing)?;
        Ok((home, exec))
    }

    /// `Update` of the limits, by the runtime, which knows how each is written: answered when they are in force.
    pub fn update(&mut self, request: &UpdateTaskRequest, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        if self.init.is_none() || self.early.is_some() {
            return Err(precondition(format!("task {} has no limits to change: it is {}", self.id, self.describe())));
        }
        let resources = request.resources.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let limits: Limits = serde_json::from_slice(resources).map_err(|error| {
            let message = format!("task {}: its limits are not the JSON of OCI resources: {error}", self.id);
            Refusal::new(Code::INVALID_ARGUMENT, message)
        })?;
        // On v1 the kernel refuses what it cannot bring about; on v2 it kills until it fits.
        let limit = limits.memory.and_then(|memory| u64::try_from(memory.limit?).ok()).filter(|limit| *limit > 0);
        if let (Some(limit), Some(held)) = (limit, self.cgroup.held_memory())
            && held > limit
        {
            let message =
                format!("its processes hold {held} bytes of memory, and would be killed at a limit of {limit}");
            return Err(Refusal::new(Code::INTERNAL, format!("update of task {}: {message}; stop it first", self.id)));
        }
        self.executions += 1;
        let verb = Verb::Update(self.executions);
        let mut begin = || -> Result<Job, String> {
            let file =
                rustix::fs::memfd_create(c"resources", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
            let mut file = std::fs::File::from(file);
            let written = file.write_all(resources).and_then(|()| file.seek(SeekFrom::Start(0)));
            written.map_err(|error| error.to_string())?;
            let ends = Ends { streams: [Some(file.into()), None, None], console: None };
            let execution = Execution { verb, bundle: &self.bundle, id: &self.id, ends };
            Job::begin(&self.runtime, execution, self.patience(), cx.now, &mut cx.poll)
        };
        let job =
            begin().map_err(|error| Refusal::new(Code::INTERNAL, format!("update of task {}: {error}", self.id)))?;
        self.updates.push((job, reply));
        Ok(())
    }

    /// A child of the shim has ended; false if nothing here knows it.
    pub(super) fn reaped_beside(&mut self, pid: Pid, status: WaitStatus, cx: &mut Context) -> bool {
        if let Some(at) = self.updates.iter().position(|(job, _)| job.pid == pid) {
            let (mut job, reply) = self.updates.swap_remove(at);
            job.said.read(&mut cx.poll);
            let said = std::mem::take(&mut job.said);
            let answer = match status.exit_status() {
                Some(0) => Ok(Vec::new()),
                _ => Err(Refusal::new(Code::INTERNAL, job.why(&self.bundle, &self.id, status, &said))),
            };
            job.verb.forget(&self.bundle);
            cx.answer(reply, answer);
            return true;
        }
        let patience = self.patience();
        let home = Home { bundle: &self.bundle, runtime: &self.runtime, id: &self.id, patience };
        self.execs.iter_mut().any(|exec| exec.reaped(home, pid, status, cx))
    }

    /// Something happened to a descriptor; false if nothing here knows it.
    pub(super) fn event_beside(&mut self, token: u64, cx: &mut Context) -> bool {
        if let Some((job, _)) = self.updates.iter_mut().find(|(job, _)| job.said.owns(token)) {
            job.said.read(&mut cx.poll);
            return true;
        }
        if let Some(oom) = self.oom.as_mut().filter(|oom| oom.owns(token)) {
            if !oom.heard(cx.now) {
                self.count_kills(cx);
                self.oom = None;
            }
            return true;
        }
        self.execs.iter_mut().any(|exec| exec.event(token, cx))
    }

    /// Looks how many processes the kernel has killed, and tells of new ones.
    pub(super) fn count_kills(&mut self, cx: &mut Context) {
        let Some(oom) = &mut self.oom else { return };
        oom.look = None;
        let Some(kills) = self.cgroup.oom_kills().filter(|kills| *kills > self.state.oom_kills) else { return };
        self.state.oom_kills = kills;
        self.transition(false, cx);
        let container_id = self.id.clone();
        cx.events.tell(topics::TASK_OOM_EVENT_TOPIC, || TaskOOM { container_id, ..Default::default() });
    }

    /// When [`Self::tick_beside`] is wanted at the latest.
    pub(super) fn deadline_beside(&self) -> Option<Instant> {
        let execs = self.execs.iter().filter_map(Exec::deadline);
        let updates = self.updates.iter().map(|(job, _)| job.deadline);
        let freezing = self.freezing.as_ref().map(|freezing| freezing.next);
        let oom = self.oom.as_ref().and_then(|oom| oom.look);
        execs.chain(updates).chain(freezing).chain(oom).min()
    }

    /// Time has passed.
    pub(super) fn tick_beside(&mut self, cx: &mut Context) {
        self.execs.iter_mut().for_each(|exec| exec.tick(cx));
        self.updates.iter_mut().for_each(|(job, _)| job.tick(cx.now));
        self.look_at_freezer(cx);
        if self.oom.as_ref().and_then(|oom| oom.look).is_some_and(|at| cx.now >= at) {
            self.count_kills(cx);
        }
    }
}
