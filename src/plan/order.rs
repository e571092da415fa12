//! The plan in the making, and the order of its steps.
//!
//! Steps are added in any order with the steps they need. What needs nothing stands by phase: removals
//! first, because they make room, then what others build upon. What needs something stands behind it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Action, Plan, Problem, Step};
use crate::manifest::{Kind, ResourceKey};

/// A step of a [`Draft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StepId(usize);

/// Steps and problems found so far.
#[derive(Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
    needs: Vec<Vec<StepId>>,
    /// What could not be planned.
    pub problems: Vec<Problem>,
}

impl Draft {
    /// Adds a step behind the steps that it needs; `step.needs` itself is filled in by [`Draft::finish`].
    pub fn add(&mut self, step: Step, needs: Vec<StepId>) -> StepId {
        let id = StepId(self.steps.len());
        debug_assert!(needs.iter().all(|need| *need < id), "a step can only need earlier ones, so there is no cycle");
        self.steps.push(step);
        self.needs.push(needs);
        id
    }

    /// The plan, sorted.
    pub fn finish(self) -> Plan {
        let Draft { mut steps, mut needs, mut problems } = self;
        for (step, needs) in steps.iter_mut().zip(&mut needs) {
            needs.sort_unstable();
            needs.dedup();
            step.needs.clear();
            step.needs.reserve_exact(needs.len());
        }
        for (index, needs) in needs.iter().enumerate() {
            for StepId(need) in needs {
                let key = steps[*need].key.clone();
                steps[index].needs.push(key);
            }
        }
        let order = sorted(&steps, &needs);
        let mut slots: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
        let steps = order.into_iter().filter_map(|index| slots[index].take()).collect();
        problems.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.message.cmp(&b.message)));
        Plan { steps, problems }
    }
}

/// Kahn's algorithm; among the steps that are ready, the lowest phase and key goes first.
fn sorted(steps: &[Step], needs: &[Vec<StepId>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (index, needs) in needs.iter().enumerate() {
        for StepId(need) in needs {
            followers[*need].push(index);
        }
    }
    let rank = |index: usize| -> Reverse<(u8, &ResourceKey, usize)> {
        Reverse((phase(&steps[index]), &steps[index].key, index))
    };
    let mut ready: BinaryHeap<_> = (0..steps.len()).filter(|index| waiting[*index] == 0).map(rank).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(Reverse((_, _, index))) = ready.pop() {
        order.push(index);
        for follower in &followers[index] {
            waiting[*follower] -= 1;
            if waiting[*follower] == 0 {
                ready.push(rank(*follower));
            }
        }
    }
    order
}

/// Removals make room and go first, users before what they use; then each kind behind what it builds upon.
fn phase(step: &Step) -> u8 {
    match (step.action, step.key.kind) {
        (Action::Remove, Kind::Container) => 0,
        (Action::Remove, Kind::Tag) => 1,
        (Action::Remove, Kind::Image) => 2,
        (Action::Remove, Kind::Namespace | Kind::Registry) => 3,
        (_, kind) => 4 + super::rank(kind),
    }
}
