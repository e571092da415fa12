//! Waiting for the exit of an attempt, through restarts and removals.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{Ended, WaitExitRequest};
use crate::controller::Node;
use crate::engine::{ContainerKey, container_key};
use crate::error::{Class, Fault, Result};
use crate::manifest::RestartPolicy;
use crate::shim::protocol::{AttemptExit, Exit, TaskPhase, TaskState};
use crate::store::ContainerRecord;

/// How long a container that removes itself may take for that; who waited removes it then, and hears why it stays.
const REMOVAL: Duration = Duration::from_secs(30);

impl Node {
    /// Returns when an attempt has ended, and if asked for, when the container that removes itself is gone.
    pub(in crate::controller) async fn wait_exit(self: &Arc<Self>, request: WaitExitRequest) -> Result<Ended> {
        let uid = request.uid.clone();
        let id = (request.namespace.clone(), request.name.clone());
        let removed = request.removed;
        let exit = self.exit_of(request).await?;
        if !removed {
            return Ok(Ended { exit, removed: false });
        }
        let mut changes = self.engine.changes();
        let gone = async {
            loop {
                let record = self.engine.memory().read().containers.get(&id).cloned();
                let same = |record: &ContainerRecord| uid.as_ref().is_none_or(|uid| *uid == record.uid);
                match record.filter(same) {
                    None => return true,
                    Some(record) if !record.auto_remove => return false,
                    Some(_) if changes.changed().await.is_err() => return false,
                    Some(_) => {}
                }
            }
        };
        let removed = tokio::time::timeout(REMOVAL, gone).await.unwrap_or(false);
        Ok(Ended { exit, removed })
    }

    async fn exit_of(self: &Arc<Self>, request: WaitExitRequest) -> Result<Exit> {
        let id = (request.namespace, request.name);
        let key = container_key(&id);
        // One that ended before its start was answered is waited for by no number.
        let asked = request.attempt.filter(|attempt| *attempt > 0);
        let mut uid = request.uid;
        let (mut was_there, mut was_to_begin) = (false, false);
        let mut changes = self.engine.changes();
        loop {
            // The task first: when it goes, the record has been told.
            let task = self.engine.task_of(&id);
            let claimed = self.is_claimed(&key);
            let record = {
                let records = self.engine.memory().read();
                let record = records.containers.get(&id);
                // Another container of this name: what it does says nothing about the one that is asked about.
                record.filter(|record| uid.as_ref().is_none_or(|uid| *uid == record.uid)).map(|record| {
                    let restarts = record.resource.container().is_some_and(|spec| spec.restart != RestartPolicy::Never);
                    let lost =
                        record.started && record.last.as_ref().is_none_or(|state| state.phase == TaskPhase::BackOff);
                    let begins = !record.stopped_by_hand && (!record.started || (lost && restarts));
                    (record.uid.clone(), record.last.clone(), record.exits.clone(), record.started, begins)
                })
            };
            let departed = |uid: Option<&str>| self.engine.departed(&id, uid).map(|departed| departed.exits);
            let Some((own, last, mut kept, started, begins)) = record else {
                let Some(exits) = departed(uid.as_deref()) else {
                    return Err(if was_there { removed_unseen(&id) } else { self.no_container(&id) });
                };
                let exit = match asked {
                    Some(attempt) => exits.into_iter().find(|exit| exit.attempt == attempt),
                    None => exits.into_iter().next_back(),
                };
                return exit.map(|exit| exit.exit).ok_or_else(|| removed_unseen(&id));
            };
            let task = task.filter(|(whose, _)| *whose == own).map(|(_, state)| state);
            // One that removes itself is on its way.
            kept.extend(departed(Some(&own)).into_iter().flatten());
            uid = Some(own);
            was_there = true;
            let begins = claimed || (task.is_none() && begins);
            was_to_begin |= begins;
            let seen = Seen { task: task.as_ref(), last: last.as_ref(), kept: &kept, started, begins, was_to_begin };
            match seen.verdict(asked) {
                Verdict::Ended(exit) => return Ok(exit),
                Verdict::Wait => {}
                Verdict::NeverRan(why) => return Err(never_ran(&id, asked, why)),
                Verdict::Unseen => return Err(unseen(&id, asked)),
            }
            if changes.changed().await.is_err() {
                return Err(Fault::new(Class::Runtime, "the node goes down"));
            }
        }
    }
}

/// What is known of a container whose exit is waited for.
#[derive(Clone, Copy)]
struct Seen<'a> {
    /// Its task, where it has one.
    task: Option<&'a TaskState>,
    /// The last state of the task before.
    last: Option<&'a TaskState>,
    /// Exits of earlier attempts.
    kept: &'a [AttemptExit],
    /// It has had a task.
    started: bool,
    /// A start is under way, or is what the next plan takes.
    begins: bool,
    /// One was, while it was waited for.
    was_to_begin: bool,
}

/// What is to be told to who waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ended(Exit),
    /// It may yet come.
    Wait,
    /// There is no such end: the attempt never ran.
    NeverRan(Option<String>),
    /// It has ended, and nobody saw how, or it is too long ago.
    Unseen,
}

impl Seen<'_> {
    /// Whoever waits for an attempt hears how that one ended, and never how another did. Pure.
    fn verdict(self, asked: Option<u32>) -> Verdict {
        let state = self.task.or(self.last);
        let told = state.map(TaskState::known_exits).unwrap_or_default();
        let exit_of = |attempt: u32| {
            let mut exits = told.iter().chain(self.kept);
            exits.find(|exit| exit.attempt == attempt).map(|exit| exit.exit.clone())
        };
        let Some(attempt) = asked else { return self.current(exit_of) };
        if let Some(exit) = exit_of(attempt) {
            return Verdict::Ended(exit);
        }
        match state {
            Some(state) if state.attempt > attempt => Verdict::Unseen,
            Some(state) if state.attempt == attempt => match state.phase {
                TaskPhase::Failed => Verdict::NeverRan(state.reason.clone()),
                _ if self.begins => Verdict::Wait,
                TaskPhase::Created | TaskPhase::Running | TaskPhase::BackOff if self.task.is_some() => Verdict::Wait,
                TaskPhase::Stopped => Verdict::NeverRan(state.reason.clone()),
                _ => Verdict::Unseen,
            },
            _ if self.begins || self.task.is_some_and(goes_on) => Verdict::Wait,
            // Its end was not written down before the machine, or all who knew, went down.
            None if self.started => Verdict::Unseen,
            _ => Verdict::NeverRan(None),
        }
    }

    /// The same for whichever attempt is the current one.
    fn current(self, exit_of: impl Fn(u32) -> Option<Exit>) -> Verdict {
        match self.task.or(self.last) {
            Some(TaskState { phase: TaskPhase::Created | TaskPhase::Running, .. }) if self.task.is_some() => {
                Verdict::Wait
            }
            Some(state) => match exit_of(state.attempt).or_else(|| state.exit.clone()) {
                Some(exit) => Verdict::Ended(exit),
                None if self.begins || self.task.is_some_and(goes_on) => Verdict::Wait,
                None => Verdict::NeverRan(state.reason.clone()),
            },
            None if self.begins => Verdict::Wait,
            None if self.started => self.kept.last().map_or(Verdict::Unseen, |exit| Verdict::Ended(exit.exit.clone())),
            None if self.was_to_begin => Verdict::NeverRan(None),
            // Made, to be started when somebody likes.
            None => Verdict::Wait,
        }
    }
}

/// Whether another attempt follows by its shim.
fn goes_on(state: &TaskState) -> bool {
    match state.phase {
        TaskPhase::Created | TaskPhase::Running | TaskPhase::BackOff => true,
        TaskPhase::Failed => state.next_start.is_some(),
        TaskPhase::Exited | TaskPhase::Stopped => false,
    }
}

fn named(id: &ContainerKey, attempt: Option<u32>) -> String {
    let container = container_key(id);
    attempt.map_or_else(|| container.to_string(), |attempt| format!("attempt {attempt} of {container}"))
}

fn never_ran(id: &ContainerKey, attempt: Option<u32>, why: Option<String>) -> Fault {
    let why = why.unwrap_or_else(|| "its start was given up, because its end was wanted".to_owned());
    Fault::new(Class::Refused, format!("{} never ran: {why}", named(id, attempt)))
        .help(format!("start it: bayplan -n {} start {}", id.0, id.1))
}

fn unseen(id: &ContainerKey, attempt: Option<u32>) -> Fault {
    let message = format!("{} ended unseen: its exit is not kept", named(id, attempt));
    Fault::new(Class::Runtime, message).help(format!("bayplan -n {} events tells what happened to it", id.0))
}

fn removed_unseen(id: &ContainerKey) -> Fault {
    Fault::new(Class::Runtime, format!("{} was removed before its exit was seen", container_key(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(attempt: u32) -> Exit {
        Exit { code: 10 + attempt, signal: None, oom_killed: false, at: jiff::Timestamp::UNIX_EPOCH }
    }

    fn state(phase: TaskPhase, attempt: u32, ended: &[u32]) -> TaskState {
        let exits = ended.iter().map(|attempt| AttemptExit { attempt: *attempt, exit: exit(*attempt) }).collect();
        let mut state: TaskState = serde_json::from_value(serde_json::json!({
            "seq": 1, "phase": "Created", "shimPid": 1, "pid": null, "attempt": attempt, "restarts": 0, "started": null,
            "exit": null, "nextStart": null, "reason": null,
        }))
        .unwrap();
        (state.phase, state.exits, state.exit) = (phase, exits, ended.last().map(|attempt| exit(*attempt)));
        state
    }

    const NOTHING: Seen<'static> =
        Seen { task: None, last: None, kept: &[], started: false, begins: false, was_to_begin: false };

    #[test]
    fn each_attempt_has_its_own_exit_however_far_the_task_has_gone_on() {
        let task = state(TaskPhase::Running, 4, &[2, 3]);
        let kept = [AttemptExit { attempt: 1, exit: exit(1) }];
        let seen = Seen { task: Some(&task), kept: &kept, started: true, ..NOTHING };
        for attempt in 1..4 {
            assert_eq!(seen.verdict(Some(attempt)), Verdict::Ended(exit(attempt)));
        }
        assert_eq!(seen.verdict(Some(4)), Verdict::Wait);
        assert_eq!(seen.verdict(Some(5)), Verdict::Wait);
        assert_eq!(seen.verdict(None), Verdict::Wait);
    }

    #[test]
    fn an_attempt_that_nobody_saw_end_is_not_given_the_exit_of_another() {
        let task = state(TaskPhase::Running, 3, &[2]);
        let seen = Seen { task: Some(&task), started: true, ..NOTHING };
        assert_eq!(seen.verdict(Some(1)), Verdict::Unseen);
        // The shim could not make the third: the second's exit is still its last.
        let mut failed = state(TaskPhase::Failed, 3, &[2]);
        failed.reason = Some("no such file".to_owned());
        let seen = Seen { task: Some(&failed), started: true, ..NOTHING };
        assert_eq!(seen.verdict(Some(3)), Verdict::NeverRan(failed.reason.clone()));
        assert_eq!(seen.verdict(Some(2)), Verdict::Ended(exit(2)));
    }

    #[test]
    fn an_older_shim_tells_the_last_exit_of_the_attempt_that_it_is_of() {
        let mut old = state(TaskPhase::Running, 3, &[2]);
        old.exits.clear();
        let seen = Seen { task: Some(&old), started: true, ..NOTHING };
        assert_eq!(seen.verdict(Some(2)), Verdict::Ended(exit(2)));
        assert_eq!(seen.verdict(Some(3)), Verdict::Wait);
        let mut old = state(TaskPhase::BackOff, 2, &[2]);
        old.exits.clear();
        let seen = Seen { task: Some(&old), started: true, ..NOTHING };
        assert_eq!(seen.verdict(Some(2)), Verdict::Ended(exit(2)));
    }

    #[test]
    fn a_start_that_was_given_up_ends_the_wait_for_it() {
        let waiting = Seen { begins: true, was_to_begin: true, ..NOTHING };
        let given_up = Seen { begins: false, ..waiting };
        for asked in [None, Some(1)] {
            assert_eq!(waiting.verdict(asked), Verdict::Wait);
            assert_eq!(given_up.verdict(asked), Verdict::NeverRan(None));
        }
        // The next attempt of one that has ended before.
        let last = state(TaskPhase::Exited, 1, &[1]);
        let ended = Seen { last: Some(&last), started: true, ..NOTHING };
        assert_eq!(ended.verdict(Some(2)), Verdict::NeverRan(None));
        assert_eq!(Seen { begins: true, ..ended }.verdict(Some(2)), Verdict::Wait);
        assert_eq!(ended.verdict(Some(1)), Verdict::Ended(exit(1)));
        // One that was made and not started may be at any time.
        assert_eq!(NOTHING.verdict(None), Verdict::Wait);
    }
}
