//! A container's manifest and its image's configuration → an OCI runtime spec.
//!
//! Semantics are Kubernetes' and containerd's. The only I/O of [`build`] is reading the image's passwd and
//! group through [`RootFiles`], and the node's `/dev` for privileged containers; what a node can do comes in
//! as [`HostFacts`], and limits that cannot be had there become warnings.

pub(crate) mod capabilities;
mod devices;
mod error;
mod etc_files;
mod exec;
mod expand;
mod mounts;
mod process;
mod resources;
mod rlimits;
mod root_files;
mod user;

#[cfg(test)]
mod runc_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime as oci;

use super::{CgroupDriver, CgroupMode, CgroupPath, HostFacts};
use crate::manifest::ContainerSpec;

pub use error::{Problem, SpecError};
pub use etc_files::{EtcFiles, write_etc_files};
pub use exec::{ExecSpec, exec};
pub use mounts::check_sources;
pub use process::{signal_number, stop_signal};
pub use resources::{limits, resources};
pub use root_files::{LayerFiles, RootFiles, RootFs};
pub use user::{ResolvedUser, resolve};

/// The version of the runtime spec that we write; every runc since 1.0 reads it.
const OCI_VERSION: &str = "1.0.2";
/// The annotations by which a task of ours is known: its namespace and its container's name.
pub const NAMESPACE_ANNOTATION: &str = "dev.bayplan.namespace";
/// See [`NAMESPACE_ANNOTATION`].
pub const NAME_ANNOTATION: &str = "dev.bayplan.name";

/// What a container must not read, as containerd masks it.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What a container must not write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Things left out or lowered because this node cannot do them, each a sentence for people.
pub type Warnings = Vec<String>;

/// All that a spec is made from.
pub struct SpecInput<'a> {
    /// The container's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// What is wanted.
    pub container: &'a ContainerSpec,
    /// What the image says.
    pub image: &'a ImageConfiguration,
    /// The image's own files, for user and group names.
    pub files: &'a dyn RootFiles,
    /// The network namespace to join. `None`: the node's with `hostNetwork`, else a new one without anything.
    pub netns: Option<PathBuf>,
    /// Its cgroup.
    pub cgroup: &'a CgroupPath,
    /// Who makes that cgroup.
    pub cgroup_driver: CgroupDriver,
    /// The node.
    pub host: &'a HostFacts,
    /// Columns and rows of its terminal at the start.
    pub console: Option<(u16, u16)>,
    /// The bundle, absolute: its `hostname`, `hosts` and `resolv.conf` are mounted (see [`write_etc_files`]).
    pub bundle: &'a Path,
}

/// A runtime spec, and what to tell about it.
#[derive(Debug, Clone)]
pub struct Built {
    /// For `config.json`.
    pub spec: oci::Spec,
    /// What is not as asked for.
    pub warnings: Warnings,
    /// The host name inside, for [`EtcFiles`].
    pub hostname: String,
    /// The signal number that a stop sends first.
    pub stop_signal: i32,
}

/// Builds the runtime spec. Bind sources are not looked at (see [`check_sources`]).
pub fn build(input: &SpecInput<'_>) -> Result<Built, SpecError> {
    build_inner(input).map_err(|problem| SpecError::of(input.namespace, input.name, problem))
}

fn build_inner(input: &SpecInput<'_>) -> Result<Built, Problem> {
    let container = input.container;
    let context = &container.security_context;
    let config = input.image.config().as_ref();
    let mut warnings = Warnings::new();
    let hostname = container.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| input.name.to_owned());

    let image_user = config.and_then(|config| config.user().as_deref());
    let user = user::resolve(container, image_user, input.files)?;
    let own_env = process::own_env(container)?;
    let capabilities = capabilities::bits(context, input.host, &mut warnings)?;
    let rlimits = rlimits::rlimits(&container.rlimits, input.host, &mut warnings)?;
    let mut process = oci::ProcessBuilder::default()
        .terminal(container.tty)
        .user(user.spec()?)
        .args(process::args(container, config, &own_env)?)
        .env(process::env(container, config, &own_env, &user, &hostname))
        .cwd(process::working_dir(container, config)?)
        .capabilities(capabilities::spec(capabilities))
        .rlimits(rlimits)
        .oom_score_adj(oom_score_adj(input.host))
        .no_new_privileges(context.no_new_privileges.unwrap_or(!context.privileged))
        .build()
        .map_err(Problem::oci)?;
    if let Some((width, height)) = input.console.filter(|_| container.tty) {
        process.set_console_size(Some(exec::console(width, height)?));
    }

    let mut wanted = mounts::wanted(&container.mounts)?;
    for ours in etc_files::etc_mounts(input.bundle, container.host_network) {
        // Theirs at the same place wins.
        if !wanted.iter().any(|mount| mount.destination() == ours.destination()) {
            wanted.push(ours);
        }
    }
    let mounts = mounts::ordered(mounts::defaults(context.privileged, input.host), wanted);

    let stop_signal = process::stop_signal(container, input.image)?;
    let root = oci::RootBuilder::default().path("rootfs").readonly(context.read_only_root_filesystem);
    let spec = oci::SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root.build().map_err(Problem::oci)?)
        .process(process)
        .hostname(&hostname)
        .mounts(mounts)
        .annotations(annotations(input, stop_signal))
        .linux(linux(input, &mut warnings)?)
        .build()
        .map_err(Problem::oci)?;
    Ok(Built { spec, warnings, hostname, stop_signal })
}

/// Our marks, and for systemd how the scope ends when the machine goes down: without these it gets SIGTERM, whatever it
/// listens to, and 90 seconds.
fn annotations(input: &SpecInput<'_>, stop_signal: i32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (NAMESPACE_ANNOTATION.to_owned(), input.namespace.to_owned()),
        (NAME_ANNOTATION.to_owned(), input.name.to_owned()),
    ]);
    if input.cgroup_driver == CgroupDriver::Systemd {
        let grace = Duration::from_secs(input.container.termination_grace_period_seconds.into());
        // Zero would be for ever.
        let microseconds = grace.max(Duration::from_millis(1)).as_micros();
        annotations.insert("org.systemd.property.KillSignal".to_owned(), format!("int32 {stop_signal}"));
        annotations.insert("org.systemd.property.TimeoutStopUSec".to_owned(), format!("uint64 {microseconds}"));
    }
    annotations
}

/// Said always, since a container would else inherit the protection that its shim gives itself. Raising it back
/// to 0 is allowed to everybody, lowering it is not.
fn oom_score_adj(host: &HostFacts) -> i32 {
    if host.can_raise_rlimits { 0 } else { host.oom_score_adj.max(0) }
}

fn linux(input: &SpecInput<'_>, warnings: &mut Warnings) -> Result<oci::Linux, Problem> {
    let privileged = input.container.security_context.privileged;
    let mut resources = resources::for_create(&input.container.resources, input.host, warnings);
    resources.set_devices(Some(devices::rules(privileged)?));
    let paths = |list: &[&str]| -> Vec<String> {
        if privileged { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    let linux = oci::LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .cgroups_path(input.cgroup.for_spec(input.cgroup_driver))
        .resources(resources)
        .masked_paths(paths(&MASKED))
        .readonly_paths(paths(&READ_ONLY));
    let linux = if privileged { linux.devices(devices::of_node()?) } else { linux };
    linux.build().map_err(Problem::oci)
}

fn namespaces(input: &SpecInput<'_>) -> Result<Vec<oci::LinuxNamespace>, Problem> {
    use oci::LinuxNamespaceType as Type;
    let mut types = vec![Type::Pid, Type::Ipc, Type::Uts, Type::Mount];
    if !input.container.host_network {
        types.push(Type::Network);
    }
    if input.host.cgroup == CgroupMode::V2 && input.host.cgroup_namespaces {
        types.push(Type::Cgroup);
    }
    let build = |kind: Type| {
        let builder = oci::LinuxNamespaceBuilder::default().typ(kind);
        let builder = match &input.netns {
            Some(path) if kind == Type::Network => builder.path(path.clone()),
            _ => builder,
        };
        builder.build().map_err(Problem::oci)
    };
    types.into_iter().map(build).collect()
}
