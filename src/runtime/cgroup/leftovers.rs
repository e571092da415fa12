//! What a dead shim left behind in the cgroup hierarchies: found, killed, removed. Blocking.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{CgroupDriver, CgroupParent, CgroupPath, is_below, of_scope};
use crate::runtime::{HostFacts, RuntimeError};

/// Killed processes end within this time, or hang in the kernel.
const DEADLINE: Duration = Duration::from_secs(5);
/// A cgroup whose last process was reaped may still be busy for a moment, and the kernel does not say when
/// it no longer is.
const RETRY: Duration = Duration::from_millis(2);

/// The containers that have a cgroup below our parent, in any hierarchy.
pub fn leftovers(host: &HostFacts, driver: CgroupDriver, parent: &CgroupParent) -> Vec<CgroupPath> {
    let mut found: Vec<CgroupPath> = Vec::new();
    let mut add = |path: CgroupPath| {
        if !found.contains(&path) {
            found.push(path);
        }
    };
    for mount in host.cgroup_mounts.all() {
        let directory = mount.join(parent.relative(driver));
        for name in children(&directory) {
            match driver {
                CgroupDriver::Systemd => of_scope(parent, &name).into_iter().for_each(&mut add),
                CgroupDriver::Cgroupfs => {
                    let ids = children(&directory.join(&name));
                    ids.iter().filter_map(|id| CgroupPath::below(parent, &name, id).ok()).for_each(&mut add);
                }
            }
        }
    }
    found
}

/// Kills every process of a container's cgroup and of those below it, and removes them in every hierarchy.
/// Nothing there is success.
pub fn remove(host: &HostFacts, driver: CgroupDriver, path: &CgroupPath) -> Result<(), RuntimeError> {
    let deadline = Instant::now() + DEADLINE;
    let parent = path.parent.relative(driver);
    for mount in host.cgroup_mounts.all() {
        let directory = mount.join(path.relative(driver));
        if is_below(&directory, &mount.join(&parent)) && directory.is_dir() {
            kill(&directory, deadline)?;
        }
    }
    for directory in path.directories(host, driver) {
        remove_tree(&directory, deadline)?;
    }
    Ok(())
}

/// Removes the directories of namespaces that have no task (`busy` names those that have one, running or not:
/// its shim may start it at any time), and the parent when no namespace has. A systemd slice is stopped, since
/// systemd keeps it when its last scope ends. What is in use stays.
pub fn prune(host: &HostFacts, driver: CgroupDriver, parent: &CgroupParent, busy: &BTreeSet<String>) {
    let directories: Vec<PathBuf> = host.cgroup_mounts.all().map(|mount| mount.join(parent.relative(driver))).collect();
    match driver {
        CgroupDriver::Cgroupfs => {
            for directory in &directories {
                for name in children(directory).into_iter().filter(|name| !busy.contains(name)) {
                    // The kernel refuses to remove what is in use, which is what we want.
                    let _ = fs::remove_dir(directory.join(name));
                }
                if busy.is_empty() {
                    let _ = fs::remove_dir(directory);
                }
            }
        }
        CgroupDriver::Systemd => {
            let there = directories.iter().any(|directory| directory.is_dir());
            // Stopping a slice would stop what is in it.
            if busy.is_empty() && there && directories.iter().all(|directory| children(directory).is_empty()) {
                // An empty slice that stays costs nothing, so nothing is said when systemd says no.
                let _ = Command::new("systemctl").args(["stop", &parent.slice()]).stdin(Stdio::null()).output();
            }
        }
    }
}

fn children(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A cgroup and all below it, the innermost first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = children(directory).iter().flat_map(|name| tree(&directory.join(name))).collect();
    all.push(directory.to_owned());
    all
}

/// Processes of a cgroup and all below it.
fn processes(directory: &Path) -> BTreeSet<i32> {
    let list = |cgroup: PathBuf| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another pid namespace, out of our reach.
    let pids =
        |list: String| list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect::<Vec<_>>();
    tree(directory).into_iter().map(list).flat_map(pids).collect()
}

/// SIGKILL to everything in the cgroup until it is empty.
fn kill(directory: &Path, deadline: Instant) -> Result<(), RuntimeError> {
    loop {
        let pids = processes(directory);
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let pids = pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect();
            return Err(RuntimeError::CgroupBusy { cgroup: directory.to_owned(), pids });
        }
        // Open handles first and look again: a pid that is still in the cgroup belongs to its handle.
        let handles: Vec<(i32, OwnedFd)> = pids
            .iter()
            .filter_map(|pid| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?)))
            .collect();
        if fs::write(directory.join("cgroup.kill"), "1").is_err() {
            let still = processes(directory);
            for (_, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
                // It may have ended since.
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
        // On v1 a frozen process takes no signal, not even this one, until it is thawed.
        for cgroup in tree(directory) {
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
        }
        for (_, handle) in &handles {
            await_end(handle, deadline);
        }
        // Those that ended stay listed until their parent reaps them.
        std::thread::sleep(RETRY);
    }
}

/// Waits for a process to end: its handle becomes readable.
fn await_end(handle: &OwnedFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
    // An interruption makes the caller look again.
    let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout));
}

/// `rmdir` from the inside out; the files of a cgroup are the kernel's and go with it.
fn remove_tree(directory: &Path, deadline: Instant) -> Result<(), RuntimeError> {
    for cgroup in tree(directory) {
        loop {
            match fs::remove_dir(&cgroup) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(RuntimeError::io("removing", cgroup, error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Child;

    /// Needs a hierarchy that can be written; false where there is none (an unprivileged build).
    fn hierarchy(host: &HostFacts) -> Option<PathBuf> {
        let mount = host.cgroup_mounts.all().last()?.to_owned();
        let probe = mount.join(format!("bayplan-probe-{}", std::process::id()));
        fs::create_dir(&probe).ok()?;
        fs::remove_dir(probe).ok()?;
        Some(mount)
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn what_is_left_is_found_killed_and_removed_and_nothing_else() {
        let host = HostFacts::detect().unwrap();
        if hierarchy(&host).is_none() {
            return;
        }
        let parent = CgroupParent::new(&format!("/bayplan-test-{}", std::process::id())).unwrap();
        let driver = CgroupDriver::Cgroupfs;
        let path = CgroupPath::below(&parent, "shop", "web").unwrap();
        let other = CgroupPath::below(&parent, "shop", "db").unwrap();
        let (mut ours, mut theirs) = (sleeper(), sleeper());
        for mount in host.cgroup_mounts.all() {
            // v1's cpuset takes no process before it is told its processors.
            if mount.ends_with("cpuset") {
                continue;
            }
            let inner = mount.join(path.relative(driver)).join("nested");
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("cgroup.procs"), ours.id().to_string()).unwrap();
            let beside = mount.join(other.relative(driver));
            fs::create_dir_all(&beside).unwrap();
            fs::write(beside.join("cgroup.procs"), theirs.id().to_string()).unwrap();
        }
        let mut found = leftovers(&host, driver, &parent);
        found.sort_by(|a, b| a.id().cmp(b.id()));
        assert_eq!(found, [other.clone(), path.clone()]);

        // The child is ours to reap, and a cgroup is busy until it is reaped.
        let reaper = std::thread::spawn(move || ours.wait().unwrap());
        remove(&host, driver, &path).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert_eq!(path.directories(&host, driver), Vec::<PathBuf>::new());
        assert_eq!(theirs.try_wait().unwrap(), None);
        remove(&host, driver, &path).unwrap();

        // Neither a namespace with a task nor one with a cgroup goes.
        prune(&host, driver, &parent, &BTreeSet::from(["shop".to_owned()]));
        prune(&host, driver, &parent, &BTreeSet::new());
        assert_eq!(leftovers(&host, driver, &parent), std::slice::from_ref(&other));
        let reaper = std::thread::spawn(move || theirs.wait().unwrap());
        remove(&host, driver, &other).unwrap();
        reaper.join().unwrap();
        prune(&host, driver, &parent, &BTreeSet::from(["shop".to_owned()]));
        assert!(host.cgroup_mounts.all().any(|mount| mount.join(parent.relative(driver)).join("shop").exists()));
        prune(&host, driver, &parent, &BTreeSet::new());
        assert!(host.cgroup_mounts.all().all(|mount| !mount.join(parent.relative(driver)).exists()));
    }
}
