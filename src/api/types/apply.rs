//! Declaring, planning, deleting, reconciling: requests and the events of their steps.

use serde::{Deserialize, Serialize};

use super::Transfer;
use crate::error::Fault;
use crate::manifest::ResourceKey;
use crate::plan::{Declared, Problem, Step};

/// The name of the `apply` set when none is given.
pub const DEFAULT_SET: &str = "default";

/// Declares resources and brings them about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest {
    /// What; each with source `apply:SET`.
    pub declared: Vec<Declared>,
    /// The set; `None` is [`DEFAULT_SET`], which is never pruned.
    #[serde(default)]
    pub set: Option<String>,
    /// Removes what the set declared before and `declared` does not hold. Needs `set`.
    #[serde(default)]
    pub prune: bool,
    /// Only tells the steps ([`ApplyEvent::Planned`]) and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Goes on until every container among `declared` runs (or, with `restart: Never`, has ended).
    #[serde(default)]
    pub wait: bool,
    /// Milliseconds for the whole; a time-out is a fault of class `No`.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Asks for the plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffRequest {
    /// As `apply` would be given; `None`: what the controller would do now.
    #[serde(default)]
    pub declared: Option<Vec<Declared>>,
    /// The set that `apply` would be given.
    #[serde(default)]
    pub set: Option<String>,
    /// As in [`ApplyRequest`].
    #[serde(default)]
    pub prune: bool,
}

/// Removes what was applied or made by hand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteRequest {
    /// What. Images and tags by reference or handle.
    pub keys: Vec<ResourceKey>,
    /// Keys that are not there are no fault.
    #[serde(default)]
    pub ignore_missing: bool,
    /// Only tells the steps and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Reconciles now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// Only this source: `dir`, `apply:NAME`.
    #[serde(default)]
    pub source: Option<String>,
    /// Releases a removal that was held.
    #[serde(default)]
    pub confirm_removal: bool,
}

/// What happens during `apply`, `delete` and `sync`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ApplyEvent {
    /// A step that would be taken (dry run).
    Planned {
        /// The step.
        step: Step,
    },
    /// A step begins, or waits for a free place; steps begin side by side and are told done in the plan's order.
    Started {
        /// The step.
        step: Step,
    },
    /// A step is done.
    Done {
        /// The step.
        step: Step,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// A step failed, or was not tried because one it needs failed.
    Failed {
        /// The step.
        step: Step,
        /// Why.
        fault: Fault,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// Something wanted that cannot be planned; counts as failed.
    Problem {
        /// What and why.
        problem: Problem,
    },
    /// Something worth saying that is no step: `waiting for container shop/web to run`.
    Note {
        /// A sentence for people.
        message: String,
    },
    /// A blob of an image that one of the steps pulls moves on. Not every byte is told.
    Progress {
        /// Where it is.
        transfer: Transfer,
    },
    /// The last event, before the fault of a `sync` that leaves a removal held.
    Summary {
        /// Steps done (with a dry run: to do).
        changed: u64,
        /// Resources that were as wanted.
        unchanged: u64,
        /// Steps failed and problems.
        failed: u64,
    },
}
