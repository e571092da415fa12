//! What this node can do, read once at start.
//!
//! Everything here is a plain value, so that specs for other nodes (cgroup v2, no swap accounting, fewer
//! capabilities) can be built in tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Entry};
use super::{RuntimeError, spec::capabilities};

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Controllers on v1 hierarchies, no v2.
    V1,
    /// Controllers on v1 hierarchies, v2 mounted beside them.
    Hybrid,
    /// v2 only.
    V2,
}

impl std::fmt::Display for CgroupMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        })
    }
}

/// Where the hierarchies are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupMounts {
    /// Each v1 hierarchy's directory.
    pub v1: Vec<PathBuf>,
    /// The v2 hierarchy's directory.
    pub v2: Option<PathBuf>,
}

impl CgroupMounts {
    /// Every hierarchy.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().chain(&self.v2).map(PathBuf::as_path)
    }
}

/// What this node can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// How cgroups are mounted.
    pub cgroup: CgroupMode,
    /// Where.
    pub cgroup_mounts: CgroupMounts,
    /// Controllers that can limit something: `memory`, `cpu`, `pids` …
    pub controllers: BTreeSet<String>,
    /// systemd is the init, so cgroups are asked from it.
    pub systemd: bool,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// The kernel counts swap by cgroup, so that it can be limited.
    pub swap_accounting: bool,
    /// The kernel has cgroup namespaces.
    pub cgroup_namespaces: bool,
    /// This process may raise hard limits and lower `oom_score_adj` (CAP_SYS_RESOURCE).
    pub can_raise_rlimits: bool,
    /// `oom_score_adj` of this process, which shims and containers inherit.
    pub oom_score_adj: i32,
    /// Capabilities that containers can be given, bit N for capability N: what this process's bounding and
    /// permitted sets share.
    pub capabilities: u64,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
}

impl HostFacts {
    /// Reads `/proc` and `/sys`.
    pub fn detect() -> Result<Self, RuntimeError> {
        let (cgroup, cgroup_mounts, mut controllers) = cgroups(&mountinfo::read()?);
        if let (CgroupMode::V2, Some(root)) = (cgroup, &cgroup_mounts.v2) {
            let list = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            controllers = list.split_whitespace().map(str::to_owned).collect();
        }
        let status = "/proc/self/status";
        let status = fs::read_to_string(status).map_err(|e| RuntimeError::io("reading", status, e))?;
        let set = |name| capability_set(&status, name).unwrap_or(0);
        let effective = set("CapEff");
        Ok(Self {
            cgroup,
            swap_accounting: swap_accounting(cgroup, &cgroup_mounts),
            cgroup_mounts,
            controllers,
            systemd: Path::new("/run/systemd/system").is_dir(),
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.first() == Some(&b'Y')),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
            can_raise_rlimits: effective & capabilities::SYS_RESOURCE != 0,
            oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
            capabilities: set("CapBnd") & set("CapPrm"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        })
    }
}

fn cgroups(table: &[Entry]) -> (CgroupMode, CgroupMounts, BTreeSet<String>) {
    let mut mounts = CgroupMounts::default();
    let mut controllers = BTreeSet::new();
    for entry in table.iter().filter(|entry| entry.target.starts_with("/sys/fs/cgroup")) {
        match entry.kind.as_str() {
            "cgroup2" => mounts.v2 = Some(entry.target.clone()),
            "cgroup" if !mounts.v1.contains(&entry.target) => {
                mounts.v1.push(entry.target.clone());
                let names = entry.super_options.split(',').filter(|name| !matches!(*name, "rw" | "ro"));
                controllers.extend(names.filter(|name| !name.contains('=')).map(str::to_owned));
            }
            _ => {}
        }
    }
    let mode = match (&mounts.v2, mounts.v1.is_empty()) {
        (Some(_), true) => CgroupMode::V2,
        (Some(_), false) => CgroupMode::Hybrid,
        (None, _) => CgroupMode::V1,
    };
    (mode, mounts, controllers)
}

/// Whether swap can be limited. On v2 the root has no limit files, so any child tells.
fn swap_accounting(mode: CgroupMode, mounts: &CgroupMounts) -> bool {
    match (mode, &mounts.v2) {
        (CgroupMode::V2, Some(root)) => fs::read_dir(root)
            .map(|entries| entries.flatten().any(|child| child.path().join("memory.swap.max").exists()))
            .unwrap_or(false),
        _ => mounts.v1.iter().any(|hierarchy| hierarchy.join("memory.memsw.limit_in_bytes").exists()),
    }
}

fn capability_set(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The directories searched beside PATH: a daemon started by hand often lacks the `sbin` ones.
const SEARCHED: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds an executable by name on PATH and in the usual directories; a name with a `/` is taken as it is.
pub(crate) fn find_executable(name: &Path) -> Option<PathBuf> {
    let executable =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if name.components().count() != 1 {
        return executable(name).then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(SEARCHED.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| executable(candidate))
}

/// The OCI runtime: the configured path, else `runc` where programs are.
pub fn find_runc(configured: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let name = configured.unwrap_or(Path::new("runc"));
    find_executable(name).ok_or_else(|| RuntimeError::RuntimeMissing { looked_for: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
    const HYBRID: &[u8] = b"32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        50 31 0:29 / /var/lib/x/rootfs/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn the_mount_table_tells_the_cgroup_mode() {
        for (table, mode, hierarchies, controllers) in [
            (V2, CgroupMode::V2, 1, vec![]),
            (V1, CgroupMode::V1, 2, vec!["cpu", "cpuacct"]),
            (HYBRID, CgroupMode::Hybrid, 2, vec!["memory"]),
        ] {
            let (found, mounts, names) = cgroups(&mountinfo::parse(table));
            assert_eq!(found, mode);
            assert_eq!(mounts.all().count(), hierarchies);
            assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), controllers);
        }
    }

    #[test]
    fn capability_sets_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapPrm:\t000001fffeffffff\nCapBnd:\t0000000000000401\n";
        assert_eq!(capability_set(status, "CapBnd"), Some(0x401));
        assert_eq!(capability_set(status, "CapAmb"), None);
    }

    #[test]
    fn this_node_has_a_kernel_and_controllers() {
        let facts = HostFacts::detect().unwrap();
        assert!(!facts.kernel.is_empty());
        assert!(facts.cgroup_mounts.all().count() > 0, "{facts:?}");
    }

    #[test]
    fn a_configured_runc_that_is_not_there_is_named() {
        let error = find_runc(Some(Path::new("/nowhere/runc"))).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/runc is not there: containers cannot be run");
    }
}
