//! A container's metrics from cgroup v2 (`Documentation/admin-guide/cgroup-v2.rst`).

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, NetworkStat, PSIData, PSIStats, PidsStat,
};
use containerd_shim_protos::protobuf::MessageField;
use rustix::process::Pid;

use super::super::cgroup::Cgroup;
use super::{Table, device, huge_page_sizes, interfaces, number, text};

pub fn metrics(cgroup: &Cgroup, init: Option<Pid>) -> Metrics {
    metrics_of(cgroup.dir(""), init)
}

pub(super) fn metrics_of(dir: Option<&Path>, init: Option<Pid>) -> Metrics {
    let events = Table::read(dir, "memory.events");
    Metrics {
        pids: MessageField::some(PidsStat {
            current: number(dir, "pids.current", 0),
            limit: number(dir, "pids.max", u64::MAX),
            ..Default::default()
        }),
        cpu: MessageField::some(cpu(dir)),
        memory: MessageField::some(memory(dir)),
        io: MessageField::some(IOStat {
            usage: text(dir, "io.stat").lines().filter_map(entry).collect(),
            psi: pressure(dir, "io.pressure"),
            ..Default::default()
        }),
        hugetlb: hugetlb(dir),
        memory_events: MessageField::some(MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
            oom_group_kill: events.get("oom_group_kill"),
            ..Default::default()
        }),
        network: interfaces(init).into_iter().map(network).collect(),
        ..Default::default()
    }
}

fn cpu(dir: Option<&Path>) -> CPUStat {
    let stat = Table::read(dir, "cpu.stat");
    CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: pressure(dir, "cpu.pressure"),
        ..Default::default()
    }
}

fn memory(dir: Option<&Path>) -> MemoryStat {
    let stat = Table::read(dir, "memory.stat");
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: stat.get("workingset_refault_anon") + stat.get("workingset_refault_file"),
        workingset_activate: stat.get("workingset_activate_anon") + stat.get("workingset_activate_file"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: number(dir, "memory.current", 0),
        usage_limit: number(dir, "memory.max", u64::MAX),
        swap_usage: number(dir, "memory.swap.current", 0),
        swap_limit: number(dir, "memory.swap.max", u64::MAX),
        max_usage: number(dir, "memory.peak", 0),
        swap_max_usage: number(dir, "memory.swap.peak", 0),
        psi: pressure(dir, "memory.pressure"),
        ..Default::default()
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`; a device that was never used has a line without numbers.
fn entry(line: &str) -> Option<IOEntry> {
    let (name, rest) = line.split_once(' ')?;
    let (major, minor) = device(name)?;
    let of = |key: &str| {
        let value = rest.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok())
    };
    Some(IOEntry {
        major,
        minor,
        rbytes: of("rbytes")?,
        wbytes: of("wbytes")?,
        rios: of("rios")?,
        wios: of("wios")?,
        ..Default::default()
    })
}

/// Pressure stall information; none where the kernel does not keep it.
fn pressure(dir: Option<&Path>, file: &str) -> MessageField<PSIStats> {
    let text = text(dir, file);
    let of = |which: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(' '))?;
        let of = |key: &str| line.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let average = |key| of(key).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        Some(PSIData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: of("total").and_then(|value| value.parse().ok()).unwrap_or(0),
            ..Default::default()
        })
    };
    let (some, full) = (of("some"), of("full"));
    if some.is_none() && full.is_none() {
        return MessageField::none();
    }
    MessageField::some(PSIStats { some: some.into(), full: full.into(), ..Default::default() })
}

fn hugetlb(dir: Option<&Path>) -> Vec<HugeTlbStat> {
    let sizes = huge_page_sizes(dir, ".current").into_iter();
    let stat = |pagesize: String| HugeTlbStat {
        current: number(dir, &format!("hugetlb.{pagesize}.current"), 0),
        max: number(dir, &format!("hugetlb.{pagesize}.max"), u64::MAX),
        failcnt: Table::read(dir, &format!("hugetlb.{pagesize}.events")).get("max"),
        pagesize,
        ..Default::default()
    };
    sizes.map(stat).collect()
}

fn network(interface: super::Interface) -> NetworkStat {
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped] = interface.counts;
    NetworkStat {
        name: interface.name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..Default::default()
    }
}
