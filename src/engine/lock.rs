//! The node's lock: one process at a time works on a root and a state directory.
//!
//! `flock` on a file in each, so the kernel lets go when the holder dies. The file says who holds it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Class, Fault, Result};

/// Held as long as it lives.
pub struct NodeLock {
    _files: Vec<File>,
}

impl NodeLock {
    /// Takes the lock of both directories, which must exist. Refused when another process has it and
    /// keeps it for two seconds.
    pub fn take(root: &Path, state: &Path) -> Result<Self> {
        let mut files = Vec::with_capacity(2);
        for directory in [root, state] {
            files.push(take_one(&directory.join("lock"))?);
        }
        Ok(Self { _files: files })
    }
}

fn take_one(path: &Path) -> Result<File> {
    let runtime =
        |error: &dyn std::fmt::Display| Fault::new(Class::Runtime, format!("lock {}: {error}", path.display()));
    let descriptor =
        rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map_err(
            |error| {
                runtime(&error)
                    .help("bayplan works as root, on directories that it can write; or start `bayplan daemon`")
            },
        )?;
    let mut file = File::from(descriptor);
    match lock_patiently(&file) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&mut file).take(300).read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() { "another process".to_owned() } else { holder.to_owned() };
            return Err(Fault::new(Class::Refused, format!("{} is held by {who}", path.display()))
                .help("wait for it to end, or use --address to reach its socket"));
        }
        Err(error) => return Err(runtime(&error)),
    }
    // Who holds it is a courtesy to whoever finds it held; the lock itself is the flock.
    let line = format!("process {} ({})\n", std::process::id(), verb(std::env::args_os()));
    let _ = file.set_len(0);
    let _ = file.write_all(line.as_bytes());
    Ok(file)
}

/// The program and its verb. What stands behind may be a password (`pull --user`, `run --env`).
fn verb(arguments: impl Iterator<Item = OsString>) -> String {
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    // Flags that stand before a verb have a value, behind them or behind `=`; `-A` has none.
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.strip_prefix('-') {
            None if word.bytes().all(|byte| byte.is_ascii_lowercase()) => return format!("{program} {word}"),
            None => break,
            Some("A" | "-all-namespaces") => {}
            Some(long) if long.starts_with('-') && long.contains('=') => {}
            // A short flag with its value in the same word.
            Some(short) if !short.starts_with('-') && short.len() > 1 => {}
            Some(_) => drop(rest.next()),
        }
    }
    program.to_owned()
}

/// Two commands at a time are no mistake: most are done within this.
const PATIENCE: Duration = Duration::from_secs(2);

fn lock_patiently(file: &File) -> rustix::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_line_only_the_verb_is_told() {
        let told = |line: &str| verb(line.split_whitespace().map(OsString::from));
        assert_eq!(told("/usr/bin/bayplan pull --user me:secret registry.local/a:1"), "bayplan pull");
        assert_eq!(told("bayplan --root /x --state=/y -n shop -ojson -A run -e KEY=secret a b"), "bayplan run");
        assert_eq!(told("bayplan --log-level debug daemon"), "bayplan daemon");
        assert_eq!(told("bayplan --user me:secret pull"), "bayplan pull");
        assert_eq!(told("bayplan me:secret"), "bayplan");
        assert_eq!(told(""), "");
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = NodeLock::take(root.path(), state.path()).unwrap();
        let refused = NodeLock::take(root.path(), state.path()).err().unwrap();
        assert_eq!(refused.class, Class::Refused);
        assert!(refused.message.contains(&format!("process {}", std::process::id())), "{}", refused.message);
        drop(first);
        assert!(NodeLock::take(root.path(), state.path()).is_ok());
    }
}
