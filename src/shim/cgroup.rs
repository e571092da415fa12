//! The control group of a container, as far as its monitor needs it: who is in it, kill all of it, stop it and let it
//! go on, and did the kernel kill in it. Cgroup v1, hybrid and v2 at their usual places below `/sys/fs/cgroup`.
//!
//! Invariant: a group that holds the shim itself, or the root group, is never taken for a container's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of v1 by which processes are found, best first.
const HIERARCHIES: [&str; 5] = ["freezer", "pids", "memory", "devices", "name=systemd"];

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Controllers, as `/proc/PID/cgroup` has them, and the directory. No names at all are those of v2.
    groups: Vec<(Box<str>, Box<Path>)>,
}

impl Cgroup {
    /// The group that `pid` is in.
    pub fn of(pid: Pid) -> Self {
        let read = |who: &str| fs::read_to_string(format!("/proc/{who}/cgroup")).unwrap_or_default();
        Self::from_lines(&read(&pid.as_raw_nonzero().to_string()), &read("self"), Path::new(ROOT))
    }

    /// From `/proc/PID/cgroup` of the container and of the shim.
    fn from_lines(theirs: &str, ours: &str, root: &Path) -> Self {
        let unified = root.join("cgroup.controllers").exists();
        let part = |line: &str| -> Option<(String, String)> {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            Some((names.to_owned(), path.to_owned()))
        };
        let ours: Vec<_> = ours.lines().filter_map(part).collect();
        let inside = |outer: &str, inner: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
        let group = |(names, path): (String, String)| {
            let ours_too = ours.iter().any(|(same, ours)| *same == names && inside(&path, ours));
            // Beside v1, the hierarchy of v2 has no controllers; nobody is looked for in it.
            if names.is_empty() != unified || path == "/" || ours_too || path.contains("/..") {
                return None;
            }
            let mount = names.split(',').next().unwrap_or_default().trim_start_matches("name=");
            let dir = root.join(mount).join(path.trim_start_matches('/'));
            Some((names.into(), dir.into()))
        };
        Self { groups: theirs.lines().filter_map(part).filter_map(group).collect() }
    }

    /// The group at this directory, whoever is in it: for what a dead shim left behind.
    pub fn at(processes: PathBuf) -> Self {
        let name = if is_unified() { "" } else { HIERARCHIES[0] };
        Self { groups: vec![(name.into(), processes.into())] }
    }

    /// The group's directory for a controller of v1; for any, where there is v2.
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        let has = |names: &str| names.is_empty() || names.split(',').any(|name| name == controller);
        self.groups.iter().find(|(names, _)| has(names)).map(|(_, dir)| dir.as_ref())
    }

    /// Whether it is one of v2.
    pub fn is_v2(&self) -> bool {
        self.groups.first().is_some_and(|(names, _)| names.is_empty())
    }

    /// Directory whose `cgroup.procs` lists the processes.
    fn processes(&self) -> Option<&Path> {
        HIERARCHIES.iter().find_map(|hierarchy| self.dir(hierarchy))
    }

    /// Directories that `cgroupsPath` of a runtime spec stands for: a path, or systemd's `slice:prefix:name`.
    pub fn directories(spec: &str) -> Vec<PathBuf> {
        let root = Path::new(ROOT);
        let path = match spec.split(':').collect::<Vec<_>>()[..] {
            [slice, prefix, name] => systemd_path(slice, &format!("{prefix}-{name}.scope")),
            _ => spec.trim_start_matches('/').to_owned(),
        };
        if is_unified() {
            return vec![root.join(path)];
        }
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
        hierarchies.map(|hierarchy| hierarchy.path().join(&path)).filter(|dir| dir.is_dir()).collect()
    }

    /// Lets a frozen group run: a frozen process of v1 does not even die.
    pub fn thaw(&self) {
        let _ = self.freeze(false);
    }

    /// Asks for it to stand still, or to go on. Told by [`Self::is_frozen`] when it does.
    pub fn freeze(&self, frozen: bool) -> std::io::Result<()> {
        let (file, value) = match (self.is_v2(), frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let dir = self.dir("freezer").ok_or(std::io::ErrorKind::NotFound)?;
        // Without O_CREAT: what is not there is no control file.
        fs::OpenOptions::new().write(true).open(dir.join(file))?.write_all(value.as_bytes())
    }

    /// Whether every process in it stands still; `None` where there is no freezer.
    pub fn is_frozen(&self) -> Option<bool> {
        let file = if self.is_v2() { "cgroup.events" } else { "freezer.state" };
        let text = fs::read_to_string(self.dir("freezer")?.join(file)).ok()?;
        Some(text.lines().any(|line| matches!(line, "frozen 1" | "FROZEN")))
    }

    /// Ends every process in it, frozen ones too; says how many there were.
    pub fn kill(&self) -> usize {
        if !self.is_v2() {
            self.thaw();
            return self.signal_all(Signal::KILL);
        }
        let count = self.pids().len();
        let kill = || fs::OpenOptions::new().write(true).open(self.dir("")?.join("cgroup.kill")).ok();
        // All at once, whoever forks meanwhile (Linux 5.14).
        if count > 0 && kill().is_none_or(|mut file| file.write_all(b"1").is_err()) {
            return self.signal_all(Signal::KILL);
        }
        count
    }

    /// Removes an empty group with the groups below it.
    pub fn remove(dir: &Path) {
        // Most have none.
        if fs::remove_dir(dir).is_ok() {
            return;
        }
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                Self::remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(dir);
    }

    /// How often the kernel killed in the group for want of memory; `None` when it is gone.
    pub fn oom_kills(&self) -> Option<u64> {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.dir("memory")?.join(file)).ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Some(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    /// Bytes of memory that the kernel cannot take back from the group by itself; `None` on v1.
    pub fn held_memory(&self) -> Option<u64> {
        let dir = self.dir("memory").filter(|_| self.is_v2())?;
        let current: u64 = fs::read_to_string(dir.join("memory.current")).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
        let free = stat.lines().filter_map(|line| line.split_once(' '));
        let free = free.filter(|(key, _)| ["inactive_file", "active_file", "slab_reclaimable"].contains(key));
        Some(current.saturating_sub(free.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum()))
    }

    /// Every process in it, sub-groups included. Empty if the group is gone or unknown.
    pub fn pids(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        if let Some(dir) = self.processes() {
            collect(dir, &mut found, 0);
        }
        found
    }

    /// Sends `signal` to every process in it; says how many there were.
    pub fn signal_all(&self, signal: Signal) -> usize {
        let Some(dir) = self.processes() else { return 0 };
        let pids = self.pids();
        // A number may have been given to another process since it was listed: hold them, then look again.
        for some in pids.chunks(64) {
            let held = some.iter().filter(|pid| **pid != getpid());
            let held: Vec<_> =
                held.filter_map(|pid| Some((pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?))).collect();
            let mut again = Vec::new();
            collect(dir, &mut again, 0);
            for (_, fd) in held.iter().filter(|(pid, _)| again.contains(pid)) {
                let _ = pidfd_send_signal(fd, signal);
            }
        }
        pids.len()
    }
}

/// Whether this system has cgroup v2 alone.
fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Where systemd puts `scope` of `slice`: `a-b.slice` lives in `a.slice`.
fn systemd_path(slice: &str, scope: &str) -> String {
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let name = slice.trim_end_matches(".slice");
    let mut path = String::new();
    if name != "-" {
        for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
            path.push_str(&name[..at]);
            path.push_str(".slice/");
        }
    }
    path + scope
}

fn collect(dir: &Path, found: &mut Vec<Pid>, depth: u32) {
    let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else { return };
    found.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| depth < 16 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), found, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_on_v1_and_v2() {
        let root = tempfile::tempdir().unwrap();
        let theirs = "9:name=systemd:/b/x\n6:freezer:/b/x\n4:memory:/b/x\n0::/\n";
        let found = Cgroup::from_lines(theirs, "6:freezer:/\n4:memory:/session\n", root.path());
        assert_eq!(found.processes(), Some(root.path().join("freezer/b/x").as_path()));
        assert_eq!(found.dir("memory"), Some(root.path().join("memory/b/x").as_path()));
        assert_eq!((found.dir("pids"), found.is_v2()), (None, false));
        std::fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let found = Cgroup::from_lines("0::/b/x\n", "0::/system.slice/bayplan.service\n", root.path());
        assert_eq!(found.processes(), Some(root.path().join("b/x").as_path()));
        assert_eq!((found.dir("memory"), found.is_v2()), (found.processes(), true));
    }

    #[test]
    fn systemd_nests_slices_by_their_dashes() {
        assert_eq!(systemd_path("bayplan-web.slice", "x-y.scope"), "bayplan.slice/bayplan-web.slice/x-y.scope");
        assert_eq!(systemd_path("", "x-y.scope"), "system.slice/x-y.scope");
        assert_eq!(systemd_path("-.slice", "x-y.scope"), "x-y.scope");
    }

    #[test]
    fn the_root_and_our_own_group_are_never_a_containers() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        for (theirs, ours) in [("/", "/x"), ("/x", "/x"), ("/x", "/x/shim"), ("/../y", "/x")] {
            let found = Cgroup::from_lines(&format!("0::{theirs}\n"), &format!("0::{ours}\n"), root.path());
            assert_eq!(found, Cgroup::default(), "{theirs} seen from {ours}");
        }
    }
}
