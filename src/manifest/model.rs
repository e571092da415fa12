//! The resources, typed, defaulted and in their one canonical form.
//!
//! Short forms (env maps, mount strings, `BayPlan`) are gone by the time a value of these types exists.
//! Serialising one gives a manifest that parses back equal.

use std::collections::BTreeMap;
use std::fmt;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::{PullSecret, RegistrySpec};
use crate::oci::{Platform, Reference};

/// The version of the envelope.
pub const API_VERSION: &str = "bayplan.dev/v1";

/// What sort of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// Settings of a namespace.
    Namespace,
    /// How a host of images is reached.
    Registry,
    /// An image kept present.
    Image,
    /// A second name for an image.
    Tag,
    /// A container kept running.
    Container,
}

impl Kind {
    /// Every kind, in the order in which they are brought about.
    pub const ALL: [Kind; 5] = [Kind::Namespace, Kind::Registry, Kind::Image, Kind::Tag, Kind::Container];

    /// Lower-case plural.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Registry => "registries",
            Kind::Image => "images",
            Kind::Tag => "tags",
            Kind::Container => "containers",
        }
    }

    /// Whether it belongs to the node and to no namespace.
    pub fn is_node_wide(self) -> bool {
        matches!(self, Kind::Namespace | Kind::Registry)
    }

    /// Lower-case singular, as listings and steps write it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Namespace => "namespace",
            Kind::Registry => "registry",
            Kind::Image => "image",
            Kind::Tag => "tag",
            Kind::Container => "container",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which resource: kind + namespace + name. A `Namespace` has itself as namespace and name, a `Registry` has
/// no namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its kind.
    pub kind: Kind,
    /// Its name: a DNS label; for an image or tag its full reference (or the manifest's handle where
    /// an archive gives the reference).
    pub name: String,
}

impl ResourceKey {
    /// A key from its parts.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), kind, name: name.into() }
    }
}

/// `container shop/web`, `image shop/docker.io/library/nginx:1.27`, `namespace shop`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Namespace | Kind::Registry => write!(f, "{} {}", self.kind, self.name),
            kind => write!(f, "{kind} {}/{}", self.namespace, self.name),
        }
    }
}

/// Kubernetes' object metadata, as far as we have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A DNS label of at most 63 characters; for `Image` and `Tag` also a full reference.
    pub name: String,
    /// The namespace; `default` unless said otherwise. A `Namespace` has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels to select and group by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The annotation that keeps an image's or tag's own name when its reference became its name.
pub const HANDLE: &str = "bayplan.dev/handle";

/// One resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// What is wanted. Its variant is the kind.
    #[serde(flatten)]
    pub spec: Spec,
}

/// What is wanted, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "spec")]
pub enum Spec {
    /// Settings of a namespace.
    Namespace(NamespaceSpec),
    /// How a host of images is reached.
    Registry(Box<RegistrySpec>),
    /// An image kept present.
    Image(ImageSpec),
    /// A second name for an image.
    Tag(TagSpec),
    /// A container kept running.
    Container(Box<ContainerSpec>),
}

impl Resource {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match &self.spec {
            Spec::Namespace(_) => Kind::Namespace,
            Spec::Registry(_) => Kind::Registry,
            Spec::Image(_) => Kind::Image,
            Spec::Tag(_) => Kind::Tag,
            Spec::Container(_) => Kind::Container,
        }
    }

    /// The key: what must be unique.
    pub fn key(&self) -> ResourceKey {
        match self.kind() {
            Kind::Namespace => ResourceKey::new(Kind::Namespace, &self.metadata.name, &self.metadata.name),
            Kind::Registry => ResourceKey::new(Kind::Registry, "", &self.metadata.name),
            kind => ResourceKey::new(kind, &self.metadata.namespace, &self.metadata.name),
        }
    }

    /// The container spec, if it is one.
    pub fn container(&self) -> Option<&ContainerSpec> {
        match &self.spec {
            Spec::Container(spec) => Some(spec),
            _ => None,
        }
    }
}

/// `Namespace`: settings only; a namespace exists as soon as something is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSpec {}

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At every reconcile the reference is resolved again.
    Always,
    /// Only when the node does not have it.
    IfNotPresent,
    /// Never: it must be on the node.
    Never,
}

/// `Image`: a reference or an archive, kept present and protected from garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSpec {
    /// The image's full reference. Beside `archive` it names what the archive holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// An OCI or Docker archive, plain, gzip or zstd. Relative to its manifest when written; absolute here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// When the registry is asked. Default: `Always` for `:latest`, else `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Another platform than the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Credentials for its registry, tried in this order and before the node's own: names of `[registry.pull_secrets]`
    /// in the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::short_forms::pull_secrets")]
    pub pull_secrets: Vec<PullSecret>,
    /// Whether garbage collection spares it. With `false` it is fetched, and its content may go while no container
    /// and no tag uses it; it is not fetched again before one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub keep: Option<bool>,
}

impl ImageSpec {
    /// Whether garbage collection spares it though nothing uses it.
    pub fn is_kept(&self) -> bool {
        self.keep.unwrap_or(true)
    }
}

/// `Tag`: a new name for an image that the namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagSpec {
    /// The new name.
    pub reference: Reference,
    /// What it points at: an image's or another tag's reference in the same namespace.
    pub source: Reference,
}

/// `Container`: metadata, and a task that a shim keeps alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image to run.
    pub image: Reference,
    /// When the registry is asked. Default: `Always` for `:latest`, else `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Replaces the image's ENTRYPOINT (and its CMD).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's CMD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Working directory. Default: the image's, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Environment, over the image's; a map, or Kubernetes' list of `{name, value}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    #[schemars(schema_with = "super::short_forms::env")]
    pub env: IndexMap<String, String>,
    /// `uid[:gid]` or names from the image's own passwd and group. Default: the image's, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::short_forms::text_or_number")]
    pub user: Option<String>,
    /// Host name inside. Default: the container's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Standard input of the main process stays open, and who attaches can write to it. Default: it is empty; a terminal
    /// (`tty`) can always be written to.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub stdin: bool,
    /// Terminal (`tty: true`) for the main process.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub tty: bool,
    /// Bind and tmpfs mounts; short form `SOURCE:TARGET[:ro,…]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::short_forms::mounts")]
    pub mounts: Vec<Mount>,
    /// The node's network instead of a network namespace of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub host_network: bool,
    /// Limits of memory, processor time and processes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// What the shim does after an exit.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "Always"))]
    pub restart: RestartPolicy,
    /// At most this many restarts in a row; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub restart_limit: Option<u32>,
    /// How long the shim waits before a restart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backoff: Backoff,
    /// What a stop sends first. Default: the image's STOPSIGNAL, else SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::short_forms::text_or_number")]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    #[serde(default = "default_grace", skip_serializing_if = "is_default_grace")]
    #[schemars(extend("default" = 30))]
    pub termination_grace_period_seconds: u32,
    /// Privileges.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security_context: SecurityContext,
    /// Resource limits of the process (`setrlimit`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Size and number of log files. The logs of a container's last five attempts are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: Logs,
    /// What runs it: `runc`, a runtime of `[runtimes.NAME]`, or another shim such as `io.containerd.runc.v2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_grace() -> u32 {
    30
}

fn is_default_grace(value: &u32) -> bool {
    *value == 30
}

impl ContainerSpec {
    /// The smallest container: this image, everything else by default.
    pub fn of(image: Reference) -> Self {
        Self {
            image,
            image_pull_policy: None,
            command: None,
            args: None,
            working_dir: None,
            env: IndexMap::new(),
            user: None,
            hostname: None,
            stdin: false,
            tty: false,
            mounts: Vec::new(),
            host_network: false,
            resources: Resources::default(),
            restart: RestartPolicy::default(),
            restart_limit: None,
            backoff: Backoff::default(),
            stop_signal: None,
            termination_grace_period_seconds: default_grace(),
            security_context: SecurityContext::default(),
            rlimits: Vec::new(),
            logs: Logs::default(),
            runtime: None,
        }
    }

    /// The pull policy in force, by Kubernetes' default rule.
    pub fn pull_policy(&self) -> PullPolicy {
        pull_policy_or_default(self.image_pull_policy, &self.image)
    }
}

/// Kubernetes' rule: `Always` for `:latest` or no tag, else `IfNotPresent`.
pub fn pull_policy_or_default(policy: Option<PullPolicy>, reference: &Reference) -> PullPolicy {
    policy.unwrap_or(if reference.is_mutable_latest() { PullPolicy::Always } else { PullPolicy::IfNotPresent })
}

/// A mount in its long form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// What is mounted.
    #[serde(rename = "type")]
    pub kind: MountKind,
    /// The host path of a bind mount: absolute, or relative to the manifest when written. None for tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where it appears inside; absolute.
    pub target: String,
    /// Read-only.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub read_only: bool,
    /// Further mount options, such as `rbind`, `noexec`, `size=64m`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Make a missing bind source as a directory, instead of failing.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub create: bool,
}

/// The kinds of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A host file or directory.
    Bind,
    /// Memory, gone with the task.
    Tmpfs,
}

/// Kubernetes' resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What may not be exceeded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What is asked for; read for Kubernetes' sake (cpu becomes the cgroup's weight).
    #[serde(default, skip_serializing_if = "is_default")]
    pub requests: Limits,
}

/// Amounts of memory, processor time and processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Bytes, such as `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Processors, such as `500m` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pids: Option<i64>,
}

/// What the shim does after an exit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// Start again, whatever the exit status.
    #[default]
    Always,
    /// Start again after a status other than 0.
    OnFailure,
    /// Leave it ended.
    Never,
}

/// Waiting time before a restart; doubles from `initial` to `max`, and starts over after a stable run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Before the first restart. Default `10ms`.
    #[serde(default = "Backoff::default_initial")]
    pub initial: Span,
    /// Never longer than this. Default `5m`.
    #[serde(default = "Backoff::default_max")]
    pub max: Span,
}

impl Backoff {
    fn default_initial() -> Span {
        Span::from_millis(10)
    }
    fn default_max() -> Span {
        Span::from_millis(300_000)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Self::default_initial(), max: Self::default_max() }
    }
}

/// Privileges of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityContext {
    /// Every capability, every device, nothing masked.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub privileged: bool,
    /// Capabilities over and under the default set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    /// The root file system cannot be written.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub read_only_root_filesystem: bool,
    /// User id; wins over `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// Group id; wins over `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// `no_new_privs`. Default: true, and false when privileged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_new_privileges: Option<bool>,
}

/// Capability names with or without `CAP_`; `ALL` means every one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// Added to the default set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Taken from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// One `setrlimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`; written with or without `RLIMIT_`, in any case.
    #[serde(rename = "type")]
    pub kind: String,
    /// The limit in force.
    #[schemars(schema_with = "super::short_forms::rlimit")]
    pub soft: u64,
    /// What the process may raise it to.
    #[schemars(schema_with = "super::short_forms::rlimit")]
    pub hard: u64,
}

/// The container's log files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logs {
    /// A file is rotated when it grows past this. Default `10Mi`.
    #[serde(default = "Logs::default_size")]
    pub max_size: Quantity,
    /// Files kept of one attempt, the current one included. Default 5.
    #[serde(default = "Logs::default_files")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_files: u32,
    /// Where the output goes instead: `file:///PATH` appends to a file, `binary:///PROGRAM?KEY=VALUE` is a logger of
    /// containerd's kind, `none` drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

impl Logs {
    fn default_size() -> Quantity {
        Quantity::mebibytes(10)
    }
    fn default_files() -> u32 {
        5
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { max_size: Self::default_size(), max_files: Self::default_files(), driver: None }
    }
}

pub use super::quantity::{Quantity, Span};
