//! `Stats`: what a container's control group has used, as containerd's messages have it (containerd/cgroups,
//! `stats.proto` of v1 and of v2). What a kernel does not count is left out.

mod v1;
mod v2;

use std::fs;
use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rustix::process::Pid;

use super::cgroup::Cgroup;

/// The metrics, under the name by which containerd's clients know them.
pub fn of(cgroup: &Cgroup, init: Option<Pid>) -> Result<Any, String> {
    let (type_url, value) = if cgroup.is_v2() {
        ("io.containerd.cgroups.v2.Metrics", v2::metrics(cgroup, init).write_to_bytes())
    } else {
        ("io.containerd.cgroups.v1.Metrics", v1::metrics(cgroup, init).write_to_bytes())
    };
    let value = value.map_err(|error| error.to_string())?;
    Ok(Any { type_url: type_url.to_owned(), value, ..Default::default() })
}

/// A control file's text; empty where there is none.
fn text(dir: Option<&Path>, file: &str) -> String {
    dir.and_then(|dir| fs::read_to_string(dir.join(file)).ok()).unwrap_or_default()
}

/// A control file's number; `max` is `without`.
fn number(dir: Option<&Path>, file: &str, without: u64) -> u64 {
    match text(dir, file).trim() {
        "max" => without,
        number => number.parse().unwrap_or(0),
    }
}

/// Lines of a key and a number.
struct Table(String);

impl Table {
    fn read(dir: Option<&Path>, file: &str) -> Self {
        Self(text(dir, file))
    }

    /// The number of a key, 0 where the kernel does not have it.
    fn get(&self, key: &str) -> u64 {
        let of = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
        self.0.lines().find_map(of).unwrap_or(0)
    }
}

/// `MAJOR:MINOR`.
fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Sizes of huge pages that a group accounts for, as its files spell them.
fn huge_page_sizes(dir: Option<&Path>, ending: &str) -> Vec<String> {
    let names = dir.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let size = |name: &str| Some(name.strip_prefix("hugetlb.")?.strip_suffix(ending)?.to_owned());
    names.filter_map(|entry| size(entry.file_name().to_str()?)).filter(|size| !size.contains('.')).collect()
}

/// What went through one interface.
struct Interface {
    name: String,
    /// Bytes, packets, errors, dropped: received, then sent.
    counts: [u64; 8],
}

/// The interfaces of the container's network, but for the loopback; none where it shares the shim's.
fn interfaces(init: Option<Pid>) -> Vec<Interface> {
    let Some(init) = init.map(|pid| pid.as_raw_nonzero()) else { return Vec::new() };
    let network = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
    if network("self") == network(&init.to_string()) {
        return Vec::new();
    }
    parse_interfaces(&fs::read_to_string(format!("/proc/{init}/net/dev")).unwrap_or_default())
}

fn parse_interfaces(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let all: Vec<u64> = rest.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        let (received, sent) = (all.get(..4)?, all.get(8..12)?);
        let counts = [received, sent].concat().try_into().ok()?;
        Some(Interface { name: name.trim().to_owned(), counts })
    };
    text.lines().filter_map(interface).filter(|found| found.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let table = Table("cache 1\ntotal_cache 20\noom 3\noom_kill 4\nhigh x\n".to_owned());
        assert_eq!(
            ["cache", "total_cache", "oom", "oom_kill", "high", "no"].map(|key| table.get(key)),
            [1, 20, 3, 4, 0, 0]
        );
    }

    #[test]
    fn interfaces_but_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
                    eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found = parse_interfaces(text);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].counts), (1, "eth0", [1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn the_files_of_a_group_become_its_metrics() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("pids.current", "3\n");
        write("pids.max", "max\n");
        write("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1 \n");
        write(
            "memory.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n",
        );
        write("hugetlb.2MB.current", "4\n");
        write("hugetlb.2MB.rsvd.current", "9\n");
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 5\n8:0 Write 6\nTotal 11\n");
        write("cpuacct.stat", "user 2\nsystem 3\n");
        let files = Some(dir.path());
        let seen = v2::metrics_of(files, None);
        assert_eq!((seen.pids.current, seen.pids.limit), (3, u64::MAX));
        assert_eq!((seen.io.usage.len(), seen.io.usage[0].wios, seen.io.usage[0].rbytes), (1, 4, 1));
        assert_eq!((seen.memory.psi.some.avg10, seen.memory.psi.full.total), (1.5, 2));
        assert_eq!((seen.hugetlb.len(), seen.hugetlb[0].current, seen.hugetlb[0].pagesize.as_str()), (1, 4, "2MB"));
        let seen = v1::metrics_of(&|_| files, None);
        assert_eq!((seen.pids.current, seen.pids.limit), (3, 0));
        assert_eq!((seen.cpu.usage.user, seen.cpu.usage.kernel), (20_000_000, 30_000_000));
        let blocks = &seen.blkio.io_service_bytes_recursive;
        assert_eq!((blocks.len(), blocks[1].op.as_str(), blocks[1].value, blocks[1].major), (2, "Write", 6, 8));
    }
}
