//! The end of a shim that lives and does not answer: stopped, traced, or caught in a bug.
//!
//! Invariant: only a process is killed that holds the lock file of this very bundle open and runs the shim's program;
//! its number is pinned before either is looked at, so that it cannot become another's in between.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::shim::protocol::LOCK_FILE;

/// How long the kernel may take to end a process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills our shim of this bundle; blocking. Whether one was killed and has ended.
pub fn kill_shim(bundle: &Path, shim_binary: &Path) -> bool {
    let Ok(lock) = std::fs::metadata(bundle.join(LOCK_FILE)) else { return false };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pids = numbers.filter_map(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid());
    let mut ended = false;
    for pid in pids.filter(|pid| is_shim(*pid, shim_binary)) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if !is_shim(pid, shim_binary) || !has_open(pid, &lock) || pidfd_send_signal(&process, Signal::KILL).is_err() {
            continue;
        }
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        ended |= poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).is_ok_and(|ready| ready > 0);
    }
    ended
}

/// Whether it runs the shim's program; an upgrade may have put another file in its place.
fn is_shim(pid: Pid, shim_binary: &Path) -> bool {
    let program = shim_binary.canonicalize().unwrap_or_else(|_| shim_binary.to_owned());
    let Ok(own) = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())) else { return false };
    let name = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    program.file_name().and_then(|name| name.to_str()) == Some(name.trim_end_matches(" (deleted)"))
}

fn has_open(pid: Pid, file: &std::fs::Metadata) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { return false };
    // Followed, so that the file itself is compared and not a name.
    open.flatten()
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .any(|its| (its.dev(), its.ino()) == (file.dev(), file.ino()))
}
