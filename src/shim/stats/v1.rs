//! A container's metrics from the controllers of cgroup v1 (`Documentation/admin-guide/cgroup-v1`).

use std::fs;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    NetworkStat, PidsStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;
use rustix::process::Pid;

use super::super::cgroup::Cgroup;
use super::{Table, device, huge_page_sizes, interfaces, number, text};

/// Nanoseconds of one of the kernel's clock ticks, which are a hundred a second wherever Linux shows them (`USER_HZ`).
const TICK: u64 = 10_000_000;

pub fn metrics(cgroup: &Cgroup, init: Option<Pid>) -> Metrics {
    metrics_of(&|controller| cgroup.dir(controller), init)
}

pub(super) fn metrics_of<'a>(dir: &dyn Fn(&str) -> Option<&'a Path>, init: Option<Pid>) -> Metrics {
    let pids = dir("pids");
    let oom = Table::read(dir("memory"), "memory.oom_control");
    Metrics {
        hugetlb: hugetlb(dir("hugetlb")),
        pids: MessageField::some(PidsStat {
            current: number(pids, "pids.current", 0),
            limit: number(pids, "pids.max", 0),
            ..Default::default()
        }),
        cpu: MessageField::some(cpu(dir("cpu"), dir("cpuacct"))),
        memory: MessageField::some(memory(dir("memory"))),
        blkio: MessageField::some(blkio(dir("blkio"))),
        network: interfaces(init).into_iter().map(network).collect(),
        memory_oom_control: MessageField::some(MemoryOomControl {
            oom_kill_disable: oom.get("oom_kill_disable"),
            under_oom: oom.get("under_oom"),
            oom_kill: oom.get("oom_kill"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cpu(cpu: Option<&Path>, accounted: Option<&Path>) -> CPUStat {
    let throttled = Table::read(cpu, "cpu.stat");
    let ticks = Table::read(accounted, "cpuacct.stat");
    let each = text(accounted, "cpuacct.usage_percpu");
    CPUStat {
        usage: MessageField::some(CPUUsage {
            total: number(accounted, "cpuacct.usage", 0),
            kernel: ticks.get("system").saturating_mul(TICK),
            user: ticks.get("user").saturating_mul(TICK),
            per_cpu: each.split_whitespace().filter_map(|time| time.parse().ok()).collect(),
            ..Default::default()
        }),
        throttling: MessageField::some(Throttle {
            periods: throttled.get("nr_periods"),
            throttled_periods: throttled.get("nr_throttled"),
            throttled_time: throttled.get("throttled_time"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory(dir: Option<&Path>) -> MemoryStat {
    let stat = Table::read(dir, "memory.stat");
    let entry = |kind: &str| {
        let of = |what: &str| number(dir, &format!("memory.{kind}{what}"), 0);
        MessageField::some(MemoryEntry {
            limit: of("limit_in_bytes"),
            usage: of("usage_in_bytes"),
            max: of("max_usage_in_bytes"),
            failcnt: of("failcnt"),
            ..Default::default()
        })
    };
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..Default::default()
    }
}

fn blkio(dir: Option<&Path>) -> BlkIOStat {
    // What every scheduler counts, sub-groups included where the kernel can say that (4.17).
    let read = |file: &str| {
        let whole = text(dir, &format!("blkio.throttle.{file}_recursive"));
        let lines = if whole.is_empty() { text(dir, &format!("blkio.throttle.{file}")) } else { whole };
        lines.lines().filter_map(entry).collect()
    };
    BlkIOStat {
        io_service_bytes_recursive: read("io_service_bytes"),
        io_serviced_recursive: read("io_serviced"),
        ..Default::default()
    }
}

/// `8:0 Read 4096`.
fn entry(line: &str) -> Option<BlkIOEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = device(words.next()?)?;
    let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let about = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    let name = about.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let device = name.map(|name| format!("/dev/{name}")).unwrap_or_default();
    Some(BlkIOEntry { op, device, major, minor, value, ..Default::default() })
}

fn hugetlb(dir: Option<&Path>) -> Vec<HugetlbStat> {
    let sizes = huge_page_sizes(dir, ".usage_in_bytes").into_iter();
    let stat = |pagesize: String| HugetlbStat {
        usage: number(dir, &format!("hugetlb.{pagesize}.usage_in_bytes"), 0),
        max: number(dir, &format!("hugetlb.{pagesize}.max_usage_in_bytes"), 0),
        failcnt: number(dir, &format!("hugetlb.{pagesize}.failcnt"), 0),
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
