//! Processes of a container, as `/proc` shows them. What ends while it is looked at is left out.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::snapshot::beneath;

/// Ticks a second of the times in `/proc` (USER_HZ, 100 on every architecture that runs containers).
const TICKS: u64 = 100;
/// Bytes read of a command line and of a passwd file.
const COMMAND: u64 = 4 << 10;
const PASSWD: u64 = 1 << 20;

/// One process.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Number on the node.
    pub pid: u32,
    /// Its number inside of the container.
    pub inner_pid: u32,
    /// Its parent, on the node.
    pub parent: u32,
    /// User ID.
    pub uid: u32,
    /// The user's name in the container, if it has one there.
    pub user: Option<String>,
    /// `R`, `S`, `D`, `T`, `Z`.
    pub state: char,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds of processors.
    pub cpu_ms: u64,
    /// Resident bytes.
    pub resident: u64,
    /// Bytes of its address space.
    pub virtual_size: u64,
    /// Threads.
    pub threads: u32,
    /// `pts/0`; `None` without a terminal.
    pub terminal: Option<String>,
    /// The name of its program, cut at 15 bytes.
    pub name: String,
    /// Its command line; of one without, its name in brackets.
    pub command: String,
}

/// Looks at each.
pub fn look(pids: &[u32]) -> Vec<Process> {
    let uptime = fs::read_to_string("/proc/uptime").ok();
    let uptime = uptime.and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0);
    let mut users = HashMap::new();
    pids.iter().filter_map(|pid| one(*pid, uptime, &mut users)).collect()
}

fn one(pid: u32, uptime: f64, users: &mut HashMap<u32, Option<String>>) -> Option<Process> {
    let of = PathBuf::from(format!("/proc/{pid}"));
    let stat = String::from_utf8_lossy(&fs::read(of.join("stat")).ok()?).into_owned();
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // proc(5) counts from 1, and these begin with the third.
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let status = String::from_utf8_lossy(&fs::read(of.join("status")).ok()?).into_owned();
    let said = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    let last = |text: &str| text.split_whitespace().last().and_then(|word| word.parse().ok());
    let uid = said("Uid:").split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let user = users.entry(uid).or_insert_with(|| name_of(pid, uid)).clone();
    let ticks = |ticks: u64| ticks.saturating_mul(1000) / TICKS;
    let began = number(22) as f64 / TICKS as f64;
    let mut command = Vec::new();
    File::open(of.join("cmdline")).ok()?.take(COMMAND).read_to_end(&mut command).ok()?;
    let command =
        String::from_utf8_lossy(command.trim_ascii_end().strip_suffix(b"\0").unwrap_or(&command)).replace('\0', " ");
    let terminal = number(7);
    Some(Process {
        pid,
        inner_pid: last(said("NSpid:")).unwrap_or(pid),
        parent: u32::try_from(number(4)).unwrap_or(0),
        uid,
        user,
        state: fields.first().and_then(|state| state.chars().next()).unwrap_or('?'),
        age_ms: ((uptime - began).max(0.0) * 1000.0) as u64,
        cpu_ms: ticks(number(14) + number(15)),
        resident: number(24).saturating_mul(page_size()),
        virtual_size: number(23),
        threads: u32::try_from(number(20)).unwrap_or(1),
        // Unix98 terminals have the major numbers 136 to 143.
        terminal: match (terminal >> 8) & 0xfff {
            major @ 136..=143 => {
                let minor = (terminal & 0xff) | ((terminal >> 12) & 0xf_ff00);
                Some(format!("pts/{}", (major - 136) * 256 + minor))
            }
            _ => None,
        },
        command: if command.trim().is_empty() { format!("[{name}]") } else { command },
        name: name.to_owned(),
    })
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// A user's name, by the container's own passwd. Nobody waits for what stands in its place.
fn name_of(pid: u32, uid: u32) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
    let file = File::from(beneath::open(root, b"etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut text = Vec::new();
    file.take(PASSWD).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Bytes that came and went over the network interfaces a process sees, loopback aside.
pub fn network(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(text.lines().skip(2).fold((0, 0), |(came, went), line| {
        let Some((name, counts)) = line.split_once(':').filter(|(name, _)| name.trim() != "lo") else {
            return (came, went);
        };
        let _ = name;
        let count =
            |at: usize| counts.split_whitespace().nth(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        (came + count(0), went + count(8))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let own = std::process::id();
        let seen = look(&[own, 0x7fff_fff0]);
        assert_eq!(seen.len(), 1, "what is gone is left out");
        assert_eq!(seen[0].parent, nix::unistd::getppid().as_raw().unsigned_abs());
        assert_eq!((seen[0].pid, seen[0].uid), (own, nix::unistd::getuid().as_raw()));
        assert!(seen[0].resident > 1 << 20 && seen[0].virtual_size > seen[0].resident && seen[0].threads >= 1);
        assert!(seen[0].command.contains("bayplan"), "{}", seen[0].command);
        assert!(network(own).is_some());
    }
}
