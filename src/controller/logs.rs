//! Reads a container's log: CRI lines, over rotations and restarts, woken by the kernel and by the task's own changes.
//!
//! Every line comes once and in order. Following ends when the task has ended for good, or when the container is
//! removed or replaced: what it had written until then is read through descriptors that are open already.

mod files;
mod lines;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::api::{LogLine, LogRequest, LogStream};
use crate::engine::ContainerKey;
use crate::error::{Class, Fault, Result};
use crate::shim::protocol::TaskPhase;

use self::files::{Files, Missing};
use super::Node;

/// One reading of a log.
pub(super) struct Follower {
    node: Arc<Node>,
    id: ContainerKey,
    uid: String,
    directory: PathBuf,
    request: LogRequest,
    files: Files,
}

/// What one step of reading came to.
struct Step {
    offset: u64,
    /// There were lines.
    found: bool,
    /// There is nothing more to say: nobody listens, or all further lines are too late.
    over: bool,
}

impl Follower {
    /// Finds the container and its attempt.
    pub fn open(node: &Arc<Node>, request: LogRequest) -> Result<Self> {
        let id = (request.namespace.clone(), request.name.clone());
        let record = node.engine.memory().read().containers.get(&id).cloned();
        let Some(record) = record else { return Err(node.no_container(&id)) };
        if let Some(driver) = record.resource.container().and_then(|spec| spec.logs.driver.as_deref()) {
            return Err(elsewhere(&id, driver));
        }
        let directory = node.engine.log_dir(&id);
        let current = node.engine.task(&id).or(record.last).map_or(0, |state| state.attempt);
        let none = |what: String| Fault::new(Class::NotFound, format!("container {}/{} {what}", id.0, id.1));
        let attempt = match (request.previous, current) {
            (false, attempt) => attempt,
            (true, 0 | 1) => return Err(none("had no attempt before".into())),
            (true, attempt) => attempt - 1,
        };
        let follow = request.follow && !request.previous;
        let files = Files::open(directory.clone(), attempt, follow);
        if request.previous && files.newest_attempt().is_none() {
            return Err(none(format!("has no log of attempt {attempt} any more")));
        }
        Ok(Self { node: Arc::clone(node), id, uid: record.uid, directory, request, files })
    }

    /// Sends every line, and with `follow` those to come.
    pub async fn run(mut self, sender: mpsc::Sender<Result<LogLine>>) {
        let follow = self.request.follow && !self.request.previous;
        if self.request.tail.is_some() || self.request.since.is_some() {
            self = match tokio::task::spawn_blocking(move || self.skip()).await {
                Ok(skipped) => skipped,
                Err(_) => return,
            };
        }
        let mut changes = self.node.engine.changes();
        let last_moment = until(self.request.until.filter(|_| follow));
        tokio::pin!(last_moment);
        let mut step: Option<BoxFuture<'static, Step>> = None;
        // The file was read to its end and nothing has happened since.
        let mut idle = false;
        // The task had ended before the step began.
        let mut ended = false;
        loop {
            if step.is_none() && !idle {
                ended = !follow || self.has_ended();
                if follow {
                    self.files.gather();
                }
                step = self.step(&sender, follow);
                if step.is_none() && ended {
                    return;
                }
                idle = step.is_none();
            }
            tokio::select! {
                () = sender.closed() => return,
                done = async { match &mut step { Some(step) => step.await, None => std::future::pending().await } } => {
                    step = None;
                    if done.over {
                        return;
                    }
                    self.files.was_read(done.offset);
                    if !done.found && !self.files.pop() {
                        if ended {
                            return;
                        }
                        idle = true;
                    }
                }
                () = self.files.changed(), if idle => idle = false,
                changed = changes.changed(), if idle => {
                    if changed.is_err() {
                        return;
                    }
                    idle = false;
                }
                () = &mut last_moment => return,
            }
        }
    }

    /// Passes over what is too old or too much.
    fn skip(self) -> Self {
        let all = self.files.all();
        let sized: Vec<_> = all.iter().map(|file| (&*file.file, file.file.metadata().map_or(0, |m| m.len()))).collect();
        let (place, offset) = lines::tail(&sized, self.request.tail.unwrap_or(u64::MAX), self.request.since);
        for _ in 0..place {
            self.files.pop();
        }
        self.files.was_read(offset);
        self
    }

    /// Reads one piece of the front file and sends it.
    fn step(&self, sender: &mpsc::Sender<Result<LogLine>>, follow: bool) -> Option<BoxFuture<'static, Step>> {
        let sender = sender.clone();
        let (since, until) = (self.request.since, self.request.until);
        let front = self.files.front()?;
        let (file, offset, missing) = (front.file, front.offset, front.missing);
        let limit = if follow { u64::MAX } else { front.size };
        let directory = self.directory.clone();
        let reading = async move {
            if let Some(gap) = gap(missing)
                && sender.send(Ok(gap)).await.is_err()
            {
                return Step { offset, found: false, over: true };
            }
            let read = tokio::task::spawn_blocking(move || lines::read(&file, offset, limit)).await;
            let (lines, next) = match read {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    let message = format!("the log in {} cannot be read: {error}", directory.display());
                    let _ = sender.send(Err(Fault::new(Class::Runtime, message))).await;
                    return Step { offset, found: false, over: true };
                }
                Err(_) => return Step { offset, found: false, over: true },
            };
            for line in lines {
                if until.is_some_and(|until| line.time > until) {
                    return Step { offset, found: false, over: true };
                }
                if since.is_some_and(|since| line.time < since) {
                    continue;
                }
                if sender.send(Ok(line)).await.is_err() {
                    return Step { offset, found: false, over: true };
                }
            }
            Step { offset: next, found: next != offset, over: false }
        };
        Some(reading.boxed())
    }

    /// Whether nothing more will be written: the container is another or gone, or its task ended for good.
    fn has_ended(&self) -> bool {
        let record = self.node.engine.memory().read().containers.get(&self.id).cloned();
        let Some(record) = record.filter(|record| record.uid == self.uid) else { return true };
        let final_phase = |phase| matches!(phase, TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed);
        match self.node.engine.task(&self.id) {
            Some(state) => final_phase(state.phase) && state.next_start.is_none(),
            // A task that was lost comes back; one that ended does not by itself.
            None => record.last.is_some_and(|state| final_phase(state.phase) && state.next_start.is_none()),
        }
    }
}

/// What a container writes that has another driver is not here to be read.
fn elsewhere(id: &ContainerKey, driver: &str) -> Fault {
    let whose = format!("container {}/{}", id.0, id.1);
    match driver.strip_prefix("file://") {
        Some(path) => Fault::new(Class::Refused, format!("{whose} writes to {path}")).help(format!("cat {path}")),
        None if driver == "none" => Fault::new(Class::Refused, format!("{whose} keeps no log: its driver is none"))
            .help("leave `logs.driver` out of its manifest to have one"),
        None => Fault::new(Class::Refused, format!("{whose} writes to the logger {driver}"))
            .help("ask that program for what it has taken"),
    }
}

/// What is said in the place of lines that nobody can read any more.
fn gap(missing: Missing) -> Option<LogLine> {
    let text = match missing {
        Missing::Files(0) => return None,
        Missing::Files(1) => "bayplan: a log file was rotated away here before it could be read".to_owned(),
        Missing::Files(files) => format!("bayplan: {files} log files were rotated away here before they could be read"),
        Missing::Unknown => "bayplan: log files may have been rotated away here before they could be read".to_owned(),
    };
    Some(LogLine { time: Timestamp::now(), stream: LogStream::Stderr, text: text.into_bytes(), partial: false })
}

/// Until that moment; for ever without one.
async fn until(moment: Option<Timestamp>) {
    match moment {
        None => std::future::pending().await,
        Some(moment) => {
            let left = moment.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
    }
}
