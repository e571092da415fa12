//! What a shim says of its container's use of the machine: containerd's cgroups metrics, of v1 and of v2, as one shape.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

/// One sample. Sums since the control group was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Nanoseconds of processors.
    pub cpu: u64,
    /// Bytes in use that could not simply be given back: without file pages that nobody used lately.
    pub memory: u64,
    /// Bytes; `None` without a limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// At most so many.
    pub pids_limit: Option<u64>,
    /// Bytes from and to block devices; `None` where the kernel does not count them.
    pub block: Option<(u64, u64)>,
    /// Everything, by the names of `ctr task metrics`.
    pub all: Vec<(String, u64)>,
}

/// Reads what `Stats` answered.
pub fn read(any: &Any) -> Result<Metrics, String> {
    let unreadable = |error: containerd_shim_protos::protobuf::Error| format!("{}: {error}", any.type_url);
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "io.containerd.cgroups.v2.Metrics" => {
            Ok(of_v2(&v2::Metrics::parse_from_bytes(&any.value).map_err(unreadable)?))
        }
        // Also by the name of the Go package's messages.
        "io.containerd.cgroups.v1.Metrics" => {
            Ok(of_v1(&v1::Metrics::parse_from_bytes(&any.value).map_err(unreadable)?))
        }
        other => Err(format!("{other:?} is not known")),
    }
}

/// More than this is no limit: v1 says the largest number of pages that there can be, v2 the largest number.
const NO_LIMIT: u64 = 1 << 62;

fn limit(number: u64) -> Option<u64> {
    (number > 0 && number < NO_LIMIT).then_some(number)
}

fn of_v1(metrics: &v1::Metrics) -> Metrics {
    let (cpu, memory, pids) = (&metrics.cpu, &metrics.memory, &metrics.pids);
    let usage = memory.usage.usage;
    let mut all = Vec::new();
    let mut add = |name: &str, value: u64| all.push((name.to_owned(), value));
    add("memory.usage_in_bytes", usage);
    add("memory.limit_in_bytes", memory.usage.limit);
    add("memory.max_usage_in_bytes", memory.usage.max);
    add("memory.failcnt", memory.usage.failcnt);
    add("memory.stat.cache", memory.total_cache);
    add("memory.stat.rss", memory.total_rss);
    add("memory.stat.mapped_file", memory.total_mapped_file);
    add("memory.stat.inactive_file", memory.total_inactive_file);
    add("memory.stat.active_file", memory.total_active_file);
    add("memory.stat.pgfault", memory.total_pg_fault);
    add("memory.stat.pgmajfault", memory.total_pg_maj_fault);
    add("memory.oom_kill", metrics.memory_oom_control.oom_kill);
    add("cpuacct.usage", cpu.usage.total);
    add("cpuacct.usage_user", cpu.usage.user);
    add("cpuacct.usage_kernel", cpu.usage.kernel);
    add("cpu.nr_periods", cpu.throttling.periods);
    add("cpu.nr_throttled", cpu.throttling.throttled_periods);
    add("cpu.throttled_time", cpu.throttling.throttled_time);
    add("pids.current", pids.current);
    add("pids.limit", pids.limit);
    let io = &metrics.blkio.io_service_bytes_recursive;
    let sum = |op: &str| io.iter().filter(|one| one.op.eq_ignore_ascii_case(op)).map(|one| one.value).sum::<u64>();
    let block = (!io.is_empty()).then(|| (sum("read"), sum("write")));
    if let Some((read, written)) = block {
        add("blkio.read_bytes", read);
        add("blkio.write_bytes", written);
    }
    Metrics {
        cpu: cpu.usage.total,
        memory: usage.saturating_sub(memory.total_inactive_file),
        memory_limit: limit(memory.usage.limit),
        pids: pids.current,
        pids_limit: limit(pids.limit),
        block,
        all,
    }
}

fn of_v2(metrics: &v2::Metrics) -> Metrics {
    let (cpu, memory, pids) = (&metrics.cpu, &metrics.memory, &metrics.pids);
    let mut all = Vec::new();
    let mut add = |name: &str, value: u64| all.push((name.to_owned(), value));
    add("pids.current", pids.current);
    add("pids.limit", pids.limit);
    add("cpu.usage_usec", cpu.usage_usec);
    add("cpu.user_usec", cpu.user_usec);
    add("cpu.system_usec", cpu.system_usec);
    add("cpu.nr_periods", cpu.nr_periods);
    add("cpu.nr_throttled", cpu.nr_throttled);
    add("cpu.throttled_usec", cpu.throttled_usec);
    add("memory.usage", memory.usage);
    add("memory.usage_limit", memory.usage_limit);
    add("memory.swap_usage", memory.swap_usage);
    add("memory.swap_limit", memory.swap_limit);
    add("memory.anon", memory.anon);
    add("memory.file", memory.file);
    add("memory.kernel_stack", memory.kernel_stack);
    add("memory.slab", memory.slab);
    add("memory.sock", memory.sock);
    add("memory.shmem", memory.shmem);
    add("memory.file_mapped", memory.file_mapped);
    add("memory.file_dirty", memory.file_dirty);
    add("memory.inactive_anon", memory.inactive_anon);
    add("memory.active_anon", memory.active_anon);
    add("memory.inactive_file", memory.inactive_file);
    add("memory.active_file", memory.active_file);
    add("memory.pgfault", memory.pgfault);
    add("memory.pgmajfault", memory.pgmajfault);
    add("memory.oom_kill", metrics.memory_events.oom_kill);
    let io = &metrics.io.usage;
    let block =
        metrics.io.is_some().then(|| (io.iter().map(|one| one.rbytes).sum(), io.iter().map(|one| one.wbytes).sum()));
    if let Some((read, written)) = block {
        add("io.rbytes", read);
        add("io.wbytes", written);
    }
    Metrics {
        cpu: cpu.usage_usec.saturating_mul(1000),
        memory: memory.usage.saturating_sub(memory.inactive_file),
        memory_limit: limit(memory.usage_limit),
        pids: pids.current,
        pids_limit: limit(pids.limit),
        block,
        all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_come_to_one_shape() {
        let mut one = v1::Metrics::new();
        one.memory.mut_or_insert_default().usage.mut_or_insert_default().usage = 5000;
        one.memory.mut_or_insert_default().usage.mut_or_insert_default().limit = 0x7fff_ffff_ffff_f000;
        one.memory.mut_or_insert_default().total_inactive_file = 1000;
        one.cpu.mut_or_insert_default().usage.mut_or_insert_default().total = 7_000;
        let mut two = v2::Metrics::new();
        two.memory.mut_or_insert_default().usage = 5000;
        two.memory.mut_or_insert_default().usage_limit = u64::MAX;
        two.memory.mut_or_insert_default().inactive_file = 1000;
        two.cpu.mut_or_insert_default().usage_usec = 7;
        let any = |version: u32, value| Any {
            type_url: format!("io.containerd.cgroups.v{version}.Metrics"),
            value,
            ..Any::default()
        };
        let one = read(&any(1, one.write_to_bytes().unwrap())).unwrap();
        let two = read(&any(2, two.write_to_bytes().unwrap())).unwrap();
        assert_eq!((one.cpu, one.memory, one.memory_limit, one.block), (7000, 4000, None, None));
        assert_eq!(Metrics { all: vec![], ..one }, Metrics { all: vec![], ..two });
        assert!(read(&any(3, vec![])).is_err());
    }
}
