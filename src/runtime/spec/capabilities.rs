//! Capabilities as containerd gives them, as sets of bits numbered like the kernel's (capabilities(7)).

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::{Problem, Warnings};
use crate::manifest::SecurityContext;
use crate::runtime::HostFacts;

/// CAP_SYS_RESOURCE, as a bit.
pub(crate) const SYS_RESOURCE: u64 = 1 << 24;

/// Each capability at its kernel number.
const TABLE: [(&str, Capability); 41] = [
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What containerd and Docker leave to a container.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn bit(name: &str) -> Option<u64> {
    TABLE.iter().position(|(known, _)| *known == name).map(|number| 1 << number)
}

/// The bits of one written name: with or without `CAP_`, in any case; `ALL` is `all`.
fn written(name: &str, all: u64) -> Result<u64, Problem> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" {
        return Ok(all);
    }
    bit(plain).ok_or_else(|| {
        let near = TABLE.iter().map(|(known, _)| *known).min_by_key(|known| strsim::levenshtein(known, plain));
        Problem::UnknownCapability { name: name.to_owned(), near: near.unwrap_or("NET_ADMIN") }
    })
}

/// The set a container gets, by the rules of containerd's CRI plugin: `ALL` counts before single names, in
/// `add` before `drop`; then single ones are added, then dropped. Never more than the node has.
pub(super) fn bits(context: &SecurityContext, host: &HostFacts, warnings: &mut Warnings) -> Result<u64, Problem> {
    let node = host.capabilities;
    let is_all = |name: &String| matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL");
    let mut set = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
    if context.privileged || context.capabilities.add.iter().any(is_all) {
        set = node;
    }
    if context.capabilities.drop.iter().any(is_all) {
        set = 0;
    }
    for name in context.capabilities.add.iter().filter(|name| !is_all(name)) {
        let wanted = written(name, node)?;
        if wanted & node == 0 {
            warnings.push(format!("capability {name} is left out: this node does not have it to give"));
        }
        set |= wanted;
    }
    for name in context.capabilities.drop.iter().filter(|name| !is_all(name)) {
        set &= !written(name, node)?;
    }
    Ok(set & node)
}

/// As the runtime spec writes them. Nothing is inheritable or ambient (CVE-2022-24769), so a process that is
/// not root has none after `execve`, and can only regain those in the bounding set.
pub(super) fn spec(bits: u64) -> LinuxCapabilities {
    let set = || {
        let given = TABLE.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0);
        given.map(|(_, (_, capability))| *capability).collect::<std::collections::HashSet<_>>()
    };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set()))
        .set_effective(Some(set()))
        .set_permitted(Some(set()))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Capabilities;
    use crate::runtime::spec::tests::host;

    fn names(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>, Problem> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let context = SecurityContext {
            capabilities: Capabilities { add: list(add), drop: list(drop) },
            ..SecurityContext::default()
        };
        let set = bits(&context, &host(), &mut Vec::new())?;
        Ok(TABLE.iter().enumerate().filter(|(n, _)| set & (1 << n) != 0).map(|(_, (name, _))| *name).collect())
    }

    #[test]
    fn a_container_has_the_fourteen_that_docker_gives() {
        assert_eq!(
            names(&[], &[]).unwrap().join(" "),
            "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD \
             AUDIT_WRITE SETFCAP"
        );
    }

    #[test]
    fn all_counts_before_single_names() {
        assert_eq!(names(&[], &["ALL"]).unwrap(), Vec::<&str>::new());
        assert_eq!(names(&["net_bind_service"], &["all"]).unwrap(), ["NET_BIND_SERVICE"]);
        assert_eq!(names(&["ALL"], &["CHOWN"]).unwrap().len(), 40);
        assert_eq!(names(&["ALL", "CAP_BPF"], &["ALL"]).unwrap(), ["BPF"]);
        assert_eq!(names(&["CAP_SYS_TIME"], &["cap_sys_time", "ALL"]).unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_one() {
        let Err(Problem::UnknownCapability { name, near }) = names(&["NET_ADMNI"], &[]) else { panic!() };
        assert_eq!((name.as_str(), near), ("NET_ADMNI", "NET_ADMIN"));
    }

    #[test]
    fn what_the_node_lacks_is_left_out_with_a_warning() {
        let mut node = host();
        node.capabilities &= !SYS_RESOURCE;
        let context = SecurityContext {
            capabilities: Capabilities { add: vec!["SYS_RESOURCE".into()], drop: vec![] },
            ..SecurityContext::default()
        };
        let mut warnings = Vec::new();
        assert_eq!(bits(&context, &node, &mut warnings).unwrap() & SYS_RESOURCE, 0);
        assert_eq!(warnings, ["capability SYS_RESOURCE is left out: this node does not have it to give"]);
        let privileged = SecurityContext { privileged: true, ..SecurityContext::default() };
        assert_eq!(bits(&privileged, &node, &mut Vec::new()).unwrap(), node.capabilities);
    }

    #[test]
    fn nothing_is_inheritable_or_ambient() {
        let sets = spec(1);
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
    }
}
