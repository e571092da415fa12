//! The planner's vocabulary: what is wanted, what is there, and the steps between.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::manifest::{ContainerSpec, Kind, NamespaceSpec, Place, RegistrySpec, Resource, ResourceKey};
use crate::oci::{Digest, Reference};

/// Who declared a resource. Printed as `dir:shop/web.yaml`, `apply:NAME`, `cli`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// A file of the manifest directory, by its path relative to it.
    Directory(String),
    /// An `apply` set.
    Apply(String),
    /// Made by hand.
    Cli,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Directory(file) => write!(f, "dir:{file}"),
            Source::Apply(set) => write!(f, "apply:{set}"),
            Source::Cli => f.write_str("cli"),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", file)) => Ok(Source::Directory(file.into())),
            Some(("apply", set)) => Ok(Source::Apply(set.into())),
            None if text == "cli" => Ok(Source::Cli),
            _ => Err(format!("{text:?} is not a source")),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

/// A resource somebody wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// What.
    pub resource: Resource,
    /// Who.
    pub source: Source,
    /// Where it was written, if it was written.
    pub place: Option<Place>,
    /// Places of fields that a plan may complain about, by field path (`spec.image`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Place>,
}

impl Declared {
    /// Where this field (`spec.image`) was written, else where the resource was.
    pub fn place_of(&self, field: &str) -> Option<Place> {
        self.fields.get(field).or(self.place.as_ref()).cloned()
    }
}

/// All that is wanted on the node, from every source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// By key.
    pub resources: BTreeMap<ResourceKey, Declared>,
}

/// All that the node has, as far as planning needs it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Namespaces with settings of their own that have been applied.
    pub namespaces: BTreeMap<String, ObservedNamespace>,
    /// How registries are reached by what was applied, by host.
    pub registries: BTreeMap<String, ObservedRegistry>,
    /// Names of credentials that the configuration knows.
    pub pull_secrets: BTreeSet<String>,
    /// References by namespace.
    pub references: BTreeMap<(String, Reference), ObservedReference>,
    /// Containers by namespace and name.
    pub containers: BTreeMap<(String, String), ObservedContainer>,
    /// What registries answered when asked for the digest of a reference (policy `Always`, or not on the node).
    pub remote: BTreeMap<Reference, Result<Digest, String>>,
    /// What declared archives hold, by absolute path.
    pub archives: BTreeMap<String, Result<Vec<ArchivedImage>, String>>,
}

/// A namespace's applied settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedNamespace {
    /// Labels applied.
    pub labels: BTreeMap<String, String>,
    /// Annotations applied.
    pub annotations: BTreeMap<String, String>,
    /// Settings applied.
    pub spec: NamespaceSpec,
}

/// A registry's applied policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRegistry {
    /// Labels applied.
    pub labels: BTreeMap<String, String>,
    /// Annotations applied.
    pub annotations: BTreeMap<String, String>,
    /// The policy applied.
    pub spec: RegistrySpec,
}

/// Why a reference is on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferenceRole {
    /// An `Image` resource, or a pull by hand.
    Image,
    /// A `Tag` resource, or a tag by hand.
    Tag,
    /// Pulled because a container names it; goes when none does.
    Implied,
}

/// A reference in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedReference {
    /// What it points at (an index or a manifest).
    pub digest: Digest,
    /// Why it is here.
    pub role: ReferenceRole,
    /// Who declared it.
    pub source: Source,
    /// Labels and annotations applied (those of the `Image` or `Tag`).
    pub labels: BTreeMap<String, String>,
    /// Annotations applied.
    pub annotations: BTreeMap<String, String>,
    /// Every blob of it is in the store and its layers are unpacked.
    pub complete: bool,
    /// Garbage collection spares it though nothing uses it.
    pub kept: bool,
}

/// One image inside an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// Its name in the archive, expanded as Docker does.
    pub reference: Option<Reference>,
    /// Its manifest's (or index's) digest as it would be in the store.
    pub digest: Digest,
}

/// A container on the node.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    /// What it was made from, last in-place update included.
    pub spec: ContainerSpec,
    /// Labels applied.
    pub labels: BTreeMap<String, String>,
    /// Annotations applied.
    pub annotations: BTreeMap<String, String>,
    /// The digest it runs.
    pub image_digest: Digest,
    /// Who declared it.
    pub source: Source,
    /// Where its task is.
    pub task: ObservedTask,
    /// A person stopped it: it stays down until a person starts it or its spec changes.
    pub stopped_by_hand: bool,
}

/// The task of a container, to the planner's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedTask {
    /// None was ever started, or its start did not finish.
    None,
    /// Its shim looks after it: running, paused, or waiting for its next restart.
    Supervised,
    /// It ended for good by its restart policy.
    Ended,
    /// Shim and state are gone (reboot, `kill -9` of the shim) while it ran.
    Lost,
}

/// What a step does to its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// `+`: make it (pull or import an image, set a tag, create and start a container).
    Create,
    /// `~`: change it in place.
    Update,
    /// `-/+`: take it away and make it anew.
    Replace,
    /// `>`: start the task of a container that is made already. Its step's changes, if any, are ones that
    /// are made in place; they are made first, as by an update. What is left of a task that ended is cleared
    /// before either, so that a crash in between leaves a container that is seen as not started.
    Start,
    /// `-`: take it away.
    Remove,
}

impl Action {
    /// The mark in front of a step's line.
    pub fn mark(self) -> &'static str {
        match self {
            Action::Create => "+",
            Action::Update => "~",
            Action::Replace => "-/+",
            Action::Start => ">",
            Action::Remove => "-",
        }
    }
}

/// One field that differs. Values as compact YAML/JSON; absent means not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Field path without `spec.`: `env.TZ`, `resources.limits.memory`, `image digest`.
    pub field: String,
    /// The value on the node.
    pub from: Option<String>,
    /// The value wanted.
    pub to: Option<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// To what.
    pub key: ResourceKey,
    /// Why, for people: `not on the node`, `no longer declared`, `env.TZ "UTC" → "CET"`.
    pub reason: String,
    /// The fields that differ (updates and replacements).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Keys of steps of the same plan that must have succeeded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ResourceKey>,
    /// What to bring about; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Who declares it, to be recorded with it; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

impl Step {
    /// The step that takes this away.
    pub(super) fn removal(key: ResourceKey, reason: &str) -> Self {
        let reason = reason.into();
        Self { action: Action::Remove, key, reason, changes: Vec::new(), needs: Vec::new(), target: None, source: None }
    }
}

/// `-/+ container shop/web: env.TZ "UTC" → "CET"`.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.action.mark(), self.key, self.reason)
    }
}

/// What a step brings about: all that the executor needs, so that it decides nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// Apply a namespace's settings.
    Namespace(Resource),
    /// Reach a host by this policy from now on.
    Registry(Resource),
    /// Have this reference point at an image fetched from its registry. When the digest is known and all of
    /// it is in the store, only the reference (role, labels, source) is written and no registry is asked.
    Pull {
        /// The reference.
        reference: Reference,
        /// The digest it gets; absent when none is known yet, then whatever the registry gives for it.
        digest: Option<Digest>,
        /// The `Image` behind it; absent when a container implies it.
        resource: Option<Resource>,
    },
    /// Have this reference point at an image of an archive. When all of it is in the store, only the
    /// reference is written and the archive is not read.
    Import {
        /// The reference it gets.
        reference: Reference,
        /// Absolute path of the archive.
        archive: String,
        /// Which image of it.
        digest: Digest,
        /// The `Image` behind it. For an archive that names its images itself, one for this image: named by
        /// the reference, with the manifest's name as its annotation [`crate::manifest::HANDLE`].
        resource: Resource,
    },
    /// Have this reference point at what another points at.
    Tag {
        /// The new name.
        reference: Reference,
        /// Its source.
        source: Reference,
        /// The digest, where it is known before execution.
        digest: Option<Digest>,
        /// The `Tag` behind it.
        resource: Resource,
    },
    /// Make, update, replace or start a container.
    Container {
        /// The `Container`.
        resource: Resource,
        /// The digest to run, where it is known before execution; else what the reference gives then.
        digest: Option<Digest>,
    },
}

/// How much a [`Problem`] matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// The node is as wanted as far as can be told, but something about it should be known: a registry that
    /// does not answer while the image is here.
    Warning,
    /// Something wanted cannot be brought about as things are.
    #[default]
    Error,
}

/// Something wanted that cannot be planned, and why. It stops nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The resource.
    pub key: ResourceKey,
    /// Why.
    pub message: String,
    /// Where it was written.
    pub place: Option<Place>,
    /// What to do.
    pub help: Option<String>,
    /// How much it matters.
    #[serde(default)]
    pub severity: Severity,
}

/// Ordered steps and what could not be planned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In an order that is safe to execute one after the other.
    pub steps: Vec<Step>,
    /// Wanted, but impossible as things are.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Whether the node is as wanted. Warnings do not speak against it.
    pub fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.problems.iter().all(|problem| problem.severity == Severity::Warning)
    }

    /// The step for a key, if there is one (a plan has at most one for each).
    pub fn step(&self, key: &ResourceKey) -> Option<&Step> {
        self.steps.iter().find(|step| step.key == *key)
    }
}

/// Orders kinds for planning: what a resource needs comes before it.
pub fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Namespace | Kind::Registry => 0,
        Kind::Image => 1,
        Kind::Tag => 2,
        Kind::Container => 3,
    }
}
