//! What a node leaves on the machine: found, to be asserted upon; or swept away after a failure.

use std::fs;
use std::path::{Path, PathBuf};

use bayplan::oci::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything of the node below `dir` that outlived its containers. Empty is what a test wants.
pub fn find(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(processes(dir).into_iter().map(|(pid, command)| format!("process {pid}: {command}")));
    found.extend(mounts(dir).into_iter().map(|target| format!("mount {}", target.display())));
    for parent in cgroup_parents(dir) {
        found.extend(children(&parent).into_iter().map(|path| format!("cgroup {}", path.display())));
    }
    for (what, path) in [
        ("network namespace", dir.join("s/netns")),
        ("half-written blob", dir.join("r/content/ingest")),
        ("bundle", dir.join("s/tasks")),
        ("runtime state", dir.join("s/runtime")),
    ] {
        found.extend(leaves(&path).into_iter().map(|path| format!("{what} {}", path.display())));
    }
    for blob in leaves(&dir.join("r/content/blobs/sha256")) {
        let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if fs::read(&blob).is_ok_and(|bytes| Digest::of(&bytes).hex() != name) {
            found.push(format!("blob whose bytes are not its digest's: {name}"));
        }
    }
    found
}

/// Sockets that other runtimes' shims of these containers (namespace, id) left where containerd's shims have them: named
/// after their host's address, namespace and id.
pub fn shim_sockets(state: &Path, containers: &[(String, String)]) -> Vec<String> {
    let sockets = containers.iter().map(|(namespace, id)| shim_socket(state, namespace, id));
    sockets.filter(|socket| socket.exists()).map(|socket| format!("socket {}", socket.display())).collect()
}

/// One of them.
pub fn shim_socket(state: &Path, namespace: &str, id: &str) -> PathBuf {
    let path = state.join("bayplan.sock").join(namespace).join(id);
    Path::new("/run/containerd/s").join(Digest::of(path.as_os_str().as_encoded_bytes()).hex())
}

/// Ends and removes whatever the node left, however it went.
pub fn sweep(dir: &Path) {
    // Shims first, so that none restarts what is killed after it.
    let mut left = processes(dir);
    left.sort_by_key(|(_, command)| !command.contains("bayplan-shim"));
    for (pid, _) in left {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    for parent in cgroup_parents(dir) {
        for cgroup in children(&parent) {
            for pid in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Ok(pid) = pid.parse() {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
            }
        }
        for _ in 0..200 {
            for cgroup in children(&parent).into_iter().rev() {
                fs::remove_dir(cgroup).ok();
            }
            if fs::remove_dir(&parent).is_ok() || !parent.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    for target in mounts(dir).into_iter().rev() {
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).ok();
    }
    fs::remove_dir_all(dir).ok();
}

/// Processes that belong to the node: its directory is in their arguments, or they work in it.
pub fn processes(dir: &Path) -> Vec<(i32, String)> {
    let needle = dir.to_string_lossy().into_owned();
    let myself = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == myself {
            continue;
        }
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if works_there || command.contains(&needle) {
            found.push((i32::try_from(pid).unwrap_or_default(), command));
        }
    }
    found
}

/// Mount points below the directory, in the order in which they were mounted.
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| PathBuf::from(target.replace("\\040", " ")))
        .filter(|target| target.starts_with(dir))
        .collect()
}

/// The node's parent cgroup, in every hierarchy that has it. Its name comes from the root's path.
fn cgroup_parents(dir: &Path) -> Vec<PathBuf> {
    let root = dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).join("r");
    let mark = Digest::of(root.as_os_str().as_encoded_bytes()).hex()[..8].to_owned();
    // By cgroup v2 or v1 with its controllers, and one slice deeper where systemd makes cgroups.
    let mut found = Vec::new();
    let mut level = vec![PathBuf::from("/sys/fs/cgroup")];
    for _ in 0..3 {
        let (marked, others): (Vec<_>, Vec<_>) =
            level.iter().flat_map(|path| directories(path)).partition(|path| path.to_string_lossy().contains(&mark));
        found.extend(marked);
        level = others;
    }
    found
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Cgroups below one, parents before children.
fn children(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in directories(cgroup) {
        let below = children(&path);
        found.push(path);
        found.extend(below);
    }
    found
}

/// Everything below a directory that is not a directory.
fn leaves(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(leaves(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
