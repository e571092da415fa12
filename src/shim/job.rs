//! An execution of the runtime under way: bounded in time, with what it started, and asked why when it failed.
//!
//! Invariant: its process is not waited for elsewhere, so its number is its own until [`Job::why`] is wanted.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

use super::poll::Poll;
use super::runc::{Execution, Runtime, Verb, failure};
use super::said::Said;

/// After it was killed, again: it may have forked meanwhile.
const AGAIN: Duration = Duration::from_secs(60);

/// See the module.
pub struct Job {
    /// Its process, which leads a group.
    pub pid: Pid,
    /// What it does.
    pub verb: Verb,
    /// When it is ended.
    pub deadline: Instant,
    /// It was ended by us.
    pub killed: bool,
    /// What it says where its standard error is not the container's; there, [`super::stdio::Streaming`] keeps it.
    pub said: Said,
    /// Why it was, or will be at its deadline, ended.
    cut: Cut,
    patience: Duration,
}

/// Why an execution is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It took too long.
    Patience,
    /// Somebody wants the end of the container.
    Unwanted,
}

impl Job {
    /// Begins one that may take `patience`. Whether its standard error is for the shim alone is for `verb` to say.
    pub fn begin(
        runtime: &Runtime,
        mut execution: Execution,
        patience: Duration,
        now: Instant,
        poll: &mut Poll,
    ) -> Result<Self, String> {
        let verb = execution.verb;
        let mut said = Said::default();
        if !matches!(verb, Verb::Create | Verb::Exec(_))
            && let Some((ours, theirs)) = Said::pipe(poll)
        {
            said = ours;
            execution.ends.streams[2] = Some(theirs);
        }
        let pid = runtime.spawn(execution)?;
        Ok(Self { pid, verb, deadline: now + patience, killed: false, said, cut: Cut::Patience, patience })
    }

    /// It is not wanted any longer: it may go on until `until` at most.
    pub fn hurry(&mut self, until: Instant) {
        if !self.killed && until < self.deadline {
            self.deadline = until;
            self.cut = Cut::Unwanted;
        }
    }

    /// Ends it, with what it started itself, when its time is over.
    pub fn tick(&mut self, now: Instant) {
        if now >= self.deadline {
            self.killed = true;
            self.deadline = now + AGAIN;
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Why it failed, as a sentence about container `id`.
    pub fn why(&self, bundle: &Path, id: &str, status: WaitStatus, said: &Said) -> String {
        if !self.killed {
            return failure(bundle, self.verb, id, status, said);
        }
        let what = format!("runtime {} of container {id}", self.verb.name());
        let cut = match self.cut {
            Cut::Patience => format!("took longer than {:?} and was ended", self.patience),
            Cut::Unwanted => "was ended, because the end of the container was asked for".to_owned(),
        };
        let words = said.text().map(|text| format!("; it said: {text}")).unwrap_or_default();
        format!("{what}: {cut}{words}")
    }
}
