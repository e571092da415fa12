//! Further processes of running containers, their terminals, further streams, and the freezer.
//!
//! Invariant: no byte of a process goes through here, only the paths of its FIFOs; and a further process lives in its
//! shim, so that a daemon that ends forgets nothing but who waited. Whoever waits again, here or in the next daemon,
//! hears the same exit. May use [`crate::runtime`] and the records.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::FileType;
use tokio::sync::watch;

use crate::error::{Class, Fault, Result};
use crate::runtime::spec::{self, ExecSpec};
use crate::runtime::{ExitRecord, RuntimeError, ShimClient, Stdio, TaskStatus};
use crate::shim::protocol::{AttachResponse, Exit, TaskPhase, TaskState};
use crate::store::ContainerRecord;

use super::container::{container_key, container_spec, not_found};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

/// Exits kept of processes that nobody has asked about yet.
const KEPT: usize = 256;
/// What ends a process whose time is over.
const SIGKILL: i32 = 9;

/// Which process of which container.
type ExecKey = (ContainerKey, String);
/// How it ended, once it has.
type Known = watch::Receiver<Option<Result<Exit>>>;

/// The further processes that are waited for here.
#[derive(Default)]
pub(super) struct Execs {
    known: Mutex<HashMap<ExecKey, Known>>,
    ended: Mutex<VecDeque<ExecKey>>,
}

/// Which further process is asked for.
#[derive(Debug, Clone, Default)]
pub struct ExecWhose {
    /// Its id; absent: one is made up.
    pub exec_id: Option<String>,
    /// One of this id that is there is the one that is meant.
    pub again: bool,
    /// Ends it, whether or not anybody waits.
    pub timeout: Option<Duration>,
}

/// A further process that was started.
#[derive(Debug, Clone)]
pub struct ExecStarted {
    /// Its id in the container.
    pub exec_id: String,
    /// Its process id.
    pub pid: u32,
    /// What is not as asked for.
    pub warnings: Vec<String>,
}

/// A task that can be asked for something.
struct Running {
    client: ShimClient,
    state: TaskState,
    record: ContainerRecord,
}

impl Engine {
    /// Runs a further process in a running container.
    pub async fn exec(
        self: &Arc<Self>,
        id: &ContainerKey,
        whose: ExecWhose,
        asked: &ExecSpec,
        stdio: &Stdio,
    ) -> Result<ExecStarted> {
        let ExecWhose { exec_id, again, timeout } = whose;
        if let (Some(exec_id), true) = (&exec_id, again)
            && let Some(pid) = self.is_begun(id, exec_id).await
        {
            return Ok(ExecStarted { exec_id: exec_id.clone(), pid, warnings: Vec::new() });
        }
        let running = self.running(id)?;
        let key = container_key(id);
        let exec_id = match exec_id {
            Some(exec_id) => checked_exec_id(exec_id)?,
            None => uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
        };
        let bundle = self.bundle(id)?;
        let own = bundle.read_process().map_err(|error| Fault::from(error).help("restart the container"))?;
        let files = self.root_of(&running, bundle.path())?;
        let container = container_spec(&running.record.resource)?;
        let (process, mut warnings) = spec::exec(&own, container, asked, &files, &self.host)
            .map_err(|error| exec_fault(&key.to_string(), error))?;
        if let Some(cwd) = asked.cwd.as_deref()
            && files.kind(cwd).is_ok_and(|kind| kind != Some(FileType::Directory))
        {
            let message = format!("{key}: the working directory {cwd} is not a directory inside");
            return Err(Fault::new(Class::Invalid, message)
                .help(format!("make it: bayplan -n {} exec {} mkdir -p {cwd}", id.0, id.1)));
        }
        let client = &running.client;
        let unable = |error| self.in_exec(id, &running.record, "exec", error);
        // Ours takes requests in the order in which they come: both are asked for at once.
        let mut started = None;
        let added = if is_own_shim(&running.record) && timeout.is_none() {
            let (added, answer) = tokio::join!(client.exec(&exec_id, &process, stdio), client.start_exec(&exec_id));
            started = added.is_ok().then_some(answer);
            added
        } else {
            client.exec(&exec_id, &process, stdio).await
        };
        if let Err(error) = added {
            // One that has ended and that nobody asked about any more is in nobody's way.
            let over = error.already_exists()
                && matches!(client.exec_state(&exec_id).await, Ok(info) if info.status == TaskStatus::Stopped);
            if error.already_exists() && !over {
                let message = format!("{key}: there is a process {exec_id} in it already");
                return Err(Fault::new(Class::Refused, message).help("choose another --exec-id, or leave it out"));
            }
            if !over {
                return Err(unable(error));
            }
            client.delete_exec(&exec_id).await.map_err(unable)?;
            client.exec(&exec_id, &process, stdio).await.map_err(unable)?;
        }
        let timeout = match self.expire(&running, &exec_id, timeout, &mut warnings).await {
            Ok(timeout) => timeout,
            Err(error) => {
                let _ = client.delete_exec(&exec_id).await;
                return Err(unable(error));
            }
        };
        let started = match started {
            Some(started) => started,
            None => client.start_exec(&exec_id).await,
        };
        let pid = match started {
            Ok(pid) => pid,
            Err(error) => {
                let _ = client.delete_exec(&exec_id).await;
                return Err(unable(error));
            }
        };
        self.follow_exec(id, &exec_id, client.clone(), timeout);
        Ok(ExecStarted { exec_id, pid, warnings })
    }

    /// Has the shim keep the time of a process, so that no daemon need live that long. What is left to be kept here.
    async fn expire(
        &self,
        running: &Running,
        exec_id: &str,
        timeout: Option<Duration>,
        warnings: &mut Vec<String>,
    ) -> std::result::Result<Option<Duration>, RuntimeError> {
        let Some(after) = timeout.filter(|_| is_own_shim(&running.record)) else { return Ok(timeout) };
        match running.client.expire_exec(exec_id, after).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_unimplemented() => {
                warnings.push("its shim is of an older release: its time is kept as long as this node runs".to_owned());
                Ok(timeout)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of a further process that was started before, if it was. One that a daemon prepared and did not start
    /// is forgotten.
    async fn is_begun(&self, id: &ContainerKey, exec_id: &str) -> Option<u32> {
        let client = lock_of(&self.tasks).get(id).and_then(|task| task.client.clone())?;
        let info = client.exec_state(exec_id).await.ok()?;
        if info.status == TaskStatus::Created {
            let _ = client.delete_exec(exec_id).await;
            return None;
        }
        Some(info.pid)
    }

    /// Returns when a further process has ended.
    pub async fn wait_exec(self: &Arc<Self>, id: &ContainerKey, exec_id: &str) -> Result<Exit> {
        let key = (id.clone(), exec_id.to_owned());
        let known = lock_of(&self.execs.known).get(&key).cloned();
        let mut known = match known {
            Some(known) => known,
            None => {
                // Of a daemon before this one.
                let client = lock_of(&self.tasks).get(id).and_then(|task| task.client.clone());
                let client = client.ok_or_else(|| unseen(id, exec_id))?;
                client.exec_state(exec_id).await.map_err(|error| match error.is_not_found() {
                    true => unseen(id, exec_id),
                    false => Fault::from(error),
                })?;
                self.follow_exec(id, exec_id, client, None)
            }
        };
        let ended = known.wait_for(Option::is_some).await.map(|ended| ended.clone());
        match ended {
            Ok(Some(ended)) => ended,
            _ => Err(unseen(id, exec_id)),
        }
    }

    /// Waits for the exit, has the shim forget the process, and tells whoever waits.
    fn follow_exec(&self, id: &ContainerKey, exec_id: &str, client: ShimClient, timeout: Option<Duration>) -> Known {
        let (sender, known) = watch::channel(None);
        let key: ExecKey = (id.clone(), exec_id.to_owned());
        lock_of(&self.execs.known).insert(key.clone(), known.clone());
        let execs = Arc::clone(&self.execs);
        let own = self.memory.read().containers.get(id).is_some_and(is_own_shim);
        tokio::spawn(async move {
            let exec_id = key.1.clone();
            let exit = match timeout {
                None => client.wait_exec(&exec_id).await,
                Some(timeout) => match tokio::time::timeout(timeout, client.wait_exec(&exec_id)).await {
                    Ok(exit) => exit,
                    Err(_) => {
                        if let Err(error) = client.kill_exec(&exec_id, SIGKILL, own).await {
                            tracing::warn!(container = %container_key(&key.0), %error, "a process outlived its time");
                        }
                        client.wait_exec(&exec_id).await
                    }
                },
            };
            if exit.is_ok()
                && let Err(error) = client.delete_exec(&exec_id).await
            {
                tracing::debug!(container = %container_key(&key.0), %error, "forgetting a process");
            }
            let object = container_key(&key.0);
            let told = exit.map(exit_of).map_err(|error| {
                Fault::new(Class::Runtime, format!("{object}: the exit of process {exec_id} was not seen: {error}"))
                    .help("its container was ended, or its shim died")
            });
            let _ = sender.send(Some(told));
            execs.keep(key);
        });
        known
    }

    /// Sends a signal to a further process; `group`: to its process group, where the shim is ours.
    pub async fn kill_exec(&self, id: &ContainerKey, exec_id: &str, signal: i32, group: bool) -> Result<()> {
        let running = self.live(id)?;
        running
            .client
            .kill_exec(exec_id, signal, group && is_own_shim(&running.record))
            .await
            .map_err(|error| self.in_exec(id, &running.record, "kill", error))
    }

    /// Gives a terminal another size: of a further process, or of the task.
    pub async fn resize(&self, id: &ContainerKey, exec_id: Option<&str>, width: u16, height: u16) -> Result<()> {
        let running = self.live(id)?;
        let resized = running.client.resize(exec_id.unwrap_or_default(), width, height).await;
        resized.map_err(|error| self.in_exec(id, &running.record, "resize", error))
    }

    /// Says that no more input comes, to a shim that does not see the end of a FIFO. Ours does: there, what is still in
    /// the FIFO would be lost.
    pub async fn close_input(&self, id: &ContainerKey, exec_id: Option<&str>) -> Result<()> {
        let running = self.live(id)?;
        if is_own_shim(&running.record) {
            return Ok(());
        }
        running.client.close_stdin(exec_id.unwrap_or_default()).await.map_err(Fault::from)
    }

    /// Connects further streams to a running task, or to one of its processes. Its state, and what it has.
    pub async fn attach(
        &self,
        id: &ContainerKey,
        exec_id: Option<&str>,
        stdio: &Stdio,
    ) -> Result<(TaskState, AttachResponse)> {
        let running = self.live(id)?;
        let attached = running.client.attach(exec_id, stdio).await;
        let attached = attached.map_err(|error| self.in_exec(id, &running.record, "attach", error))?;
        Ok((running.state, attached))
    }

    /// Freezes every process of a running task. One that is frozen stays so.
    pub async fn pause(self: &Arc<Self>, id: &ContainerKey) -> Result<()> {
        self.freeze(id, true).await
    }

    /// Lets a frozen task go on. One that is not frozen is refused.
    pub async fn resume(self: &Arc<Self>, id: &ContainerKey) -> Result<()> {
        self.freeze(id, false).await
    }

    async fn freeze(self: &Arc<Self>, id: &ContainerKey, wanted: bool) -> Result<()> {
        let key = container_key(id);
        let running = self.live(id)?;
        if running.state.paused == wanted {
            return match wanted {
                true => Ok(()),
                false => Err(Fault::new(Class::Refused, format!("{key} is not paused"))),
            };
        }
        // By whoever writes its state down.
        let supervisor = lock_of(&self.tasks).get(id).map(|task| task.supervisor.clone());
        let supervisor = supervisor.unwrap_or_else(|| running.client.clone().into());
        let (verb, done) = match wanted {
            true => ("pause", supervisor.pause().await),
            false => ("unpause", supervisor.resume().await),
        };
        done.map_err(|error| self.in_exec(id, &running.record, verb, error))?;
        // Seen at once by whoever asks next; the shim's own word follows.
        if let Some(task) = lock_of(&self.tasks).get_mut(id)
            && task.state.attempt == running.state.attempt
            && task.state.phase == TaskPhase::Running
        {
            task.state.paused = wanted;
        }
        let (reason, message) = match wanted {
            true => ("Paused", "its processes are frozen"),
            false => ("Resumed", "its processes go on"),
        };
        self.event(&key, crate::store::EventType::Normal, reason, message);
        self.touch();
        Ok(())
    }

    /// A task that runs and is not frozen.
    fn running(&self, id: &ContainerKey) -> Result<Running> {
        let running = self.live(id)?;
        if running.state.paused {
            return Err(Fault::new(Class::Refused, format!("{} is paused", container_key(id)))
                .help(format!("bayplan -n {} unpause {} lets it go on", id.0, id.1)));
        }
        Ok(running)
    }

    /// A task that runs, frozen or not.
    fn live(&self, id: &ContainerKey) -> Result<Running> {
        let Some(record) = self.memory.read().containers.get(id).cloned() else { return Err(not_found(id)) };
        let task = lock_of(&self.tasks).get(id).map(|task| (task.client.clone(), task.state.clone()));
        let key = container_key(id);
        match task {
            Some((Some(client), state)) if state.phase == TaskPhase::Running => Ok(Running { client, state, record }),
            Some((_, state)) if super::container::is_supervised(&state) => {
                let fault = Fault::new(Class::Refused, format!("{key} does not run now: it waits to be started again"));
                Err(fault.help(format!("bayplan -n {} logs {} says why it ended", id.0, id.1)))
            }
            _ => Err(Fault::new(Class::Refused, format!("{key} has no running task"))
                .help(format!("start it: bayplan -n {} start {}", id.0, id.1))),
        }
    }

    /// The files of a container as its processes see them; of one whose processes are not this kernel's, as its bundle
    /// has them.
    fn root_of(&self, running: &Running, bundle: &Path) -> Result<spec::RootFs> {
        let path = match running.state.pid {
            Some(pid) if is_own_shim(&running.record) => format!("/proc/{pid}/root").into(),
            _ => bundle.join(crate::runtime::bundle::ROOTFS),
        };
        spec::RootFs::open(&path).map_err(|error| {
            let key = container_key(&(running.record.namespace.clone(), running.record.name.clone()));
            Fault::new(Class::Runtime, format!("{key}: its root {} cannot be opened: {error}", path.display()))
                .help("it has just ended, or was never started: see bayplan ps")
        })
    }

    /// A failure, with its container named; of a shim that cannot do it, with whose it is and what to do.
    fn in_exec(&self, id: &ContainerKey, record: &ContainerRecord, verb: &str, error: RuntimeError) -> Fault {
        let key = container_key(id);
        let runtime = record.resource.container().and_then(|spec| spec.runtime.as_deref());
        if error.is_unimplemented() {
            return match is_own_shim(record) {
                true => Fault::new(Class::Refused, format!("{key}: its shim is of an older release and has no {verb}"))
                    .help(format!("bayplan -n {} restart {} gives it the shim of this release", id.0, id.1)),
                false => {
                    let runtime = runtime.unwrap_or("its runtime");
                    Fault::new(Class::Refused, format!("{key}: the shim of {runtime} has no {verb}"))
                        .help("leave `runtime` out to run it with bayplan's own shim")
                }
            };
        }
        let gone = error.shim_is_gone();
        let mut fault = Fault::from(error);
        fault.message = format!("{key}: {}", fault.message);
        if gone {
            fault.help = Some(format!("bayplan -n {} get container/{} says what became of it", id.0, id.1));
        }
        fault
    }
}

impl Execs {
    /// Keeps the exit of one that has ended; the oldest is forgotten.
    fn keep(&self, key: ExecKey) {
        let mut ended = lock_of(&self.ended);
        ended.retain(|other| *other != key);
        ended.push_back(key);
        if ended.len() > KEPT
            && let Some(oldest) = ended.pop_front()
        {
            let mut known = lock_of(&self.known);
            // One that runs under the same id is not meant.
            if known.get(&oldest).is_some_and(|known| known.borrow().is_some()) {
                known.remove(&oldest);
            }
        }
    }
}

/// Whether the task is looked after by our own shim.
fn is_own_shim(record: &ContainerRecord) -> bool {
    let runtime = record.resource.container().and_then(|spec| spec.runtime.as_deref());
    // A name with dots or slashes is a shim's; others are OCI runtimes under our own.
    crate::runtime::is_own(runtime) || runtime.is_none_or(|name| !name.contains(['.', '/']))
}

fn unseen(id: &ContainerKey, exec_id: &str) -> Fault {
    Fault::new(Class::NotFound, format!("{}: there is no process {exec_id} in it", container_key(id)))
        .help("it has ended and was asked about before, or its container was ended")
}

fn exec_fault(object: &str, error: spec::SpecError) -> Fault {
    let mut fault = Fault::from(error);
    fault.message = format!("{object}: {}", fault.message);
    fault
}

/// By containerd's rule for ids, and short enough to be part of a path.
fn checked_exec_id(exec_id: String) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=76).contains(&exec_id.len()) && exec_id.bytes().all(good) && exec_id.as_bytes()[0].is_ascii_alphanumeric() {
        return Ok(exec_id);
    }
    Err(Fault::new(Class::Usage, format!("{exec_id:?} is not a process's id"))
        .help("letters, digits, dots, dashes and underscores, at most 76, a letter or digit first"))
}

fn exit_of(record: ExitRecord) -> Exit {
    Exit {
        code: record.code,
        // The Task API tells a status only.
        signal: None,
        oom_killed: false,
        at: record.at.unwrap_or_else(jiff::Timestamp::now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_processes_are_fit_for_a_path() {
        for good in ["0", "a.b-c_d", &"x".repeat(76)] {
            assert!(checked_exec_id(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "-x", ".", "..", "a/b", "a b", "ä", &"x".repeat(77)] {
            assert_eq!(checked_exec_id(bad.to_owned()).unwrap_err().class, Class::Usage, "{bad}");
        }
    }
}
