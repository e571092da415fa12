//! Processes that the kernel kills for want of memory: that it does, as it does, and what its log says of one.
//!
//! The log is asked only when the container's control group, whose counter says it better, is gone already: systemd
//! removes a scope at the exit of its last process, often before the shim has looked. Read-only, bounded, and
//! where the log may not be read the answer is no.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::cgroup::Cgroup;
use super::poll::Poll;

/// A kill is told before the exit that it causes; older words are about another process of that number.
const RECENT_US: u64 = 10_000_000;
/// The log's clock is not corrected as the system's is: it may have gone so much of the uptime ahead or behind (200 ppm).
const DRIFT: u64 = 5_000;
/// Records looked at, at most; the log's ring holds fewer.
const MAX_RECORDS: usize = 100_000;
/// Longest record (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;

/// Whether the kernel says that it killed the process for want of memory a moment ago.
pub fn killed(pid: Pid) -> bool {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg") else { return false };
    let now = clock_gettime(ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
    let since = now.saturating_sub(RECENT_US + now / DRIFT);
    let mut record = [0; RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(count) => {
                if tells_of(&String::from_utf8_lossy(&record[..count]), pid.as_raw_nonzero().get(), since) {
                    return true;
                }
            }
            // What was overwritten while we read is gone; the next record is there.
            Err(error) if error.kind() == ErrorKind::BrokenPipe || error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    false
}

/// One record: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;MESSAGE` (Documentation/ABI/testing/dev-kmsg).
fn tells_of(record: &str, pid: i32, since: u64) -> bool {
    let Some((head, message)) = record.split_once(';') else { return false };
    let at = head.split(',').nth(2).and_then(|at| at.parse::<u64>().ok());
    let killed =
        message.starts_with("Memory cgroup out of memory: ") && message.contains(&format!("Killed process {pid} ("));
    let chosen = message.starts_with("oom-kill:") && message.contains(&format!(",pid={pid},"));
    at.is_some_and(|at| at >= since) && (killed || chosen)
}

/// How long a kill may take after it was told.
const KILL: Duration = Duration::from_millis(20);

/// Told by the kernel that it looks for somebody to kill in a group, while the group's container runs.
pub struct Watch {
    /// An `eventfd` (v1), or `memory.events` (v2).
    fd: OwnedFd,
    token: u64,
    v2: bool,
    /// When to look what came of it.
    pub look: Option<Instant>,
}

impl Watch {
    /// `None` where there is nothing to watch.
    pub fn begin(cgroup: &Cgroup, poll: &mut Poll) -> Option<Self> {
        let dir = cgroup.dir("memory")?;
        if cgroup.is_v2() {
            let fd = OwnedFd::from(OpenOptions::new().read(true).open(dir.join("memory.events")).ok()?);
            let token = poll.add(&fd, EventFlags::PRI).ok()?;
            // What was told before the first reading is not told again.
            let watch = Self { fd, token, v2: true, look: None };
            watch.listen();
            return Some(watch);
        }
        // cgroup-v1/memory.rst, 10: "OOM Control".
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
        let about = OpenOptions::new().read(true).open(dir.join("memory.oom_control")).ok()?;
        let text = format!("{} {}", fd.as_raw_fd(), about.as_raw_fd());
        OpenOptions::new().write(true).open(dir.join("cgroup.event_control")).ok()?.write_all(text.as_bytes()).ok()?;
        let token = poll.add(&fd, EventFlags::IN).ok()?;
        Some(Self { fd, token, v2: false, look: None })
    }

    /// Whether the token is this one's.
    pub fn owns(&self, token: u64) -> bool {
        self.token == token
    }

    /// The kernel said something; false if it will say nothing more.
    pub fn heard(&mut self, now: Instant) -> bool {
        self.look = Some(now + KILL);
        self.listen()
    }

    /// Takes what was said, so that the next is heard.
    fn listen(&self) -> bool {
        let mut some = [0; 512];
        let taken = match self.v2 {
            true => rustix::io::pread(&self.fd, &mut some, 0),
            false => rustix::io::read(&self.fd, &mut some[..8]),
        };
        !matches!(taken, Err(error) if error != rustix::io::Errno::AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_known_by_its_process_and_its_time() {
        let killed =
            "3,1202,5000000,-;Memory cgroup out of memory: Killed process 2266 (dd) total-vm:68kB, anon-rss:1kB\n";
        let chosen = "6,1201,5000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=dd,pid=2266,uid=0\n";
        for record in [killed, chosen] {
            assert!(tells_of(record, 2266, 4_000_000), "{record}");
            assert!(!tells_of(record, 2266, 6_000_000), "long ago: {record}");
            assert!(!tells_of(record, 226, 4_000_000), "another process: {record}");
        }
        for record in ["", "6,1,5000000,-;a program says: Killed process 2266 (dd)", ";oom-kill:,pid=2266,"] {
            assert!(!tells_of(record, 2266, 0), "{record}");
        }
    }
}
