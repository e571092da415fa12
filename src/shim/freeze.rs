//! `Pause` and `Resume` by the freezer of the container's control group, which is all that the runtime's own `pause`
//! does: its state file says nothing of it, and whoever asks the runtime is told what the freezer says.
//!
//! A group of v1 says nowhere that it stands still, so it is looked at, for as long as it takes and no longer.

use std::time::{Duration, Instant};

use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};
use containerd_shim_protos::topics;
use containerd_shim_protos::ttrpc::proto::Code;

use super::reply::precondition;
use super::server::{Context, ReplyTo};
use super::task::Task;
use super::wire::Refusal;

/// Between looks.
const EVERY: Duration = Duration::from_millis(2);
/// After so many looks a group of v1 goes on for a moment: one that gets processes while it freezes, as by an exec, may not
/// come to the end of it otherwise.
const LOOKS: u32 = 50;
const A_MOMENT: Duration = Duration::from_millis(10);
/// What does not stand still by then waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A change of the freezer that is not through yet.
pub struct Freezing {
    frozen: bool,
    replies: Vec<ReplyTo>,
    looks: u32,
    /// When to look again.
    pub next: Instant,
    until: Instant,
}

impl Task {
    /// `Pause` (`frozen`) and `Resume`: answered when every process stands still, or goes on.
    pub fn freeze(&mut self, frozen: bool, reply: ReplyTo, cx: &mut Context) -> Result<(), Refusal> {
        let verb = if frozen { "paused" } else { "resumed" };
        if self.is_running().is_none() || self.is_paused() == frozen {
            return Err(precondition(format!("task {} cannot be {verb}: it is {}", self.id, self.describe())));
        }
        match &mut self.freezing {
            Some(freezing) if freezing.frozen == frozen => freezing.replies.push(reply),
            Some(_) => return Err(precondition(format!("task {} cannot be {verb} yet", self.id))),
            None => {
                self.cgroup.freeze(frozen).map_err(|error| {
                    Refusal::new(Code::INTERNAL, format!("task {} cannot be {verb}: its freezer: {error}", self.id))
                })?;
                let until = cx.now + PATIENCE;
                self.freezing = Some(Freezing { frozen, replies: vec![reply], looks: 0, next: cx.now, until });
                self.look_at_freezer(cx);
            }
        }
        Ok(())
    }

    /// Whether every process of it stands still, whoever had it so.
    pub fn is_paused(&self) -> bool {
        self.freezing.is_none() && self.is_running().is_some() && self.cgroup.is_frozen() == Some(true)
    }

    /// Looks whether the change is through.
    pub(super) fn look_at_freezer(&mut self, cx: &mut Context) {
        let Some(freezing) = &mut self.freezing else { return };
        if cx.now < freezing.next {
            return;
        }
        let through = self.cgroup.is_frozen() == Some(freezing.frozen);
        if !through && cx.now < freezing.until {
            freezing.looks += 1;
            if freezing.frozen && freezing.looks.is_multiple_of(LOOKS) && !self.cgroup.is_v2() {
                self.cgroup.thaw();
                freezing.next = cx.now + A_MOMENT;
            } else {
                // A group of v1 that gets a process meanwhile has to be told again.
                let _ = self.cgroup.freeze(freezing.frozen);
                freezing.next = cx.now + EVERY;
            }
            return;
        }
        let Some(Freezing { frozen, replies, .. }) = self.freezing.take() else { return };
        if !through {
            self.cgroup.thaw();
        }
        for reply in replies {
            let late = || {
                let verb = if frozen { "stand still" } else { "go on" };
                let message = format!("task {}: its processes did not {verb} in {} s", self.id, PATIENCE.as_secs());
                Refusal::new(Code::DEADLINE_EXCEEDED, message + "; one of them waits in the kernel")
            };
            cx.answer(reply, if through { Ok(Vec::new()) } else { Err(late()) });
        }
        if through {
            self.set_paused(frozen, cx);
        }
    }

    /// Lets it go on, because what it was sent would not be heard otherwise.
    pub(super) fn thaw(&mut self, cx: &mut Context) {
        if self.freezing.is_some() || self.is_paused() {
            self.cgroup.thaw();
            self.forget_freezing(cx);
            self.set_paused(false, cx);
        }
    }

    /// A change under way will not come to its end.
    pub(super) fn forget_freezing(&mut self, cx: &mut Context) {
        for reply in self.freezing.take().map(|freezing| freezing.replies).unwrap_or_default() {
            cx.answer(reply, Err(precondition(format!("task {}: its end came first", self.id))));
        }
    }

    fn set_paused(&mut self, paused: bool, cx: &mut Context) {
        if self.state.paused != paused {
            self.state.paused = paused;
            self.transition(false, cx);
            let container_id = self.id.clone();
            match paused {
                true => cx
                    .events
                    .tell(topics::TASK_PAUSED_EVENT_TOPIC, || TaskPaused { container_id, ..Default::default() }),
                false => cx
                    .events
                    .tell(topics::TASK_RESUMED_EVENT_TOPIC, || TaskResumed { container_id, ..Default::default() }),
            }
        }
    }
}
