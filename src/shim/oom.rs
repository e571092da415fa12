//! What the kernel's log says of a process that was killed for want of memory.
//!
//! Asked only when the container's control group, whose counter says it better, is gone already: systemd
//! removes a scope at the exit of its last process, often before the shim has looked. Read-only, bounded, and
//! where the log may not be read the answer is no.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

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
