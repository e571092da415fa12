//! Running the OCI runtime (`runc` and what has its command line): start an execution, and say why one failed.
//!
//! No execution is waited for here: its exit comes by SIGCHLD like every other.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Pid, Uid, WaitId, WaitIdOptions, WaitStatus, waitid};

use super::said::Said;
use super::spawn::spawn;
use super::stdio::Ends;

/// File in the bundle that the runtime logs to, in JSON lines.
pub const LOG: &str = "runc.log";
/// What the names of an exec's and an update's files begin with, in the bundle.
pub const EXECUTION: &str = "execution-";
/// Bytes of the end of the log that are looked at.
const TAIL: u64 = 64 << 10;

/// What an execution does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `create`.
    Create,
    /// `start`.
    Start,
    /// `delete`.
    Delete,
    /// `delete --force`, for what a killed or failed execution left.
    DeleteForce,
    /// `exec --detach`: one more process. The number tells the files of the task's executions from each other.
    Exec(u32),
    /// `update`, with the limits on its standard input.
    Update(u32),
}

impl Verb {
    /// The runtime's word.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Start => "start",
            Verb::Delete | Verb::DeleteForce => "delete",
            Verb::Exec(_) => "exec",
            Verb::Update(_) => "update",
        }
    }

    /// What the runtime logs to. Executions about the container itself follow one another and share one.
    fn log(self, bundle: &Path) -> PathBuf {
        self.own_file(bundle, "log").unwrap_or_else(|| bundle.join(LOG))
    }

    /// Where the runtime names the process that it made.
    fn pid_file(self, bundle: &Path) -> PathBuf {
        self.own_file(bundle, "pid").unwrap_or_else(|| bundle.join("init.pid"))
    }

    /// The file with the ending that this exec or update alone has.
    pub fn own_file(self, bundle: &Path, ending: &str) -> Option<PathBuf> {
        match self {
            Verb::Exec(number) | Verb::Update(number) => Some(bundle.join(format!("{EXECUTION}{number}.{ending}"))),
            _ => None,
        }
    }

    /// Removes the files of an exec or update that is over and whose words were read.
    pub fn forget(self, bundle: &Path) {
        for file in ["log", "pid", "json"].iter().filter_map(|ending| self.own_file(bundle, ending)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// Which runtime, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Runtime {
    /// Path, or a name found in `PATH`.
    pub binary: PathBuf,
    /// `--root`.
    pub root: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    /// `--no-pivot`.
    #[serde(default)]
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// User and group that the pipes of containers belong to.
    #[serde(default)]
    pub io_owner: (u32, u32),
}

/// The container's ends of its standard streams; `None` is nowhere.
pub type Streams = [Option<OwnedFd>; 3];

/// One call of the runtime.
pub struct Execution<'a> {
    /// What it does.
    pub verb: Verb,
    /// The container's bundle.
    pub bundle: &'a Path,
    /// The container.
    pub id: &'a str,
    /// Its standard streams, which those of `create` and `exec` hand on to the container, or where its terminal goes.
    pub ends: Ends,
}

impl Runtime {
    /// As our own engine has it.
    pub fn new(binary: PathBuf, root: PathBuf, systemd: bool) -> Self {
        Self { binary, root, systemd, no_pivot: false, no_new_keyring: false, io_owner: (0, 0) }
    }

    /// Starts an execution.
    pub fn spawn(&self, execution: Execution) -> Result<Pid, String> {
        let Execution { verb, bundle, id, ends } = execution;
        let (log, pid_file) = (verb.log(bundle), verb.pid_file(bundle));
        let process = verb.own_file(bundle, "json").unwrap_or_default();
        let _ = fs::remove_file(&log);
        let mut arguments: Vec<&OsStr> = vec![self.binary.as_os_str(), OsStr::new("--root"), self.root.as_os_str()];
        arguments.extend([OsStr::new("--log"), log.as_os_str(), OsStr::new("--log-format"), OsStr::new("json")]);
        if self.systemd {
            arguments.push(OsStr::new("--systemd-cgroup"));
        }
        arguments.push(OsStr::new(verb.name()));
        match verb {
            Verb::Create => {
                arguments.extend([OsStr::new("--bundle"), bundle.as_os_str()]);
                arguments.extend(self.no_pivot.then_some(OsStr::new("--no-pivot")));
                arguments.extend(self.no_new_keyring.then_some(OsStr::new("--no-new-keyring")));
            }
            Verb::Exec(_) => {
                arguments.extend([OsStr::new("--detach"), OsStr::new("--process"), process.as_os_str()]);
            }
            Verb::Update(_) => arguments.extend([OsStr::new("--resources"), OsStr::new("-")]),
            Verb::DeleteForce => arguments.push(OsStr::new("--force")),
            Verb::Start | Verb::Delete => {}
        }
        if let Verb::Create | Verb::Exec(_) = verb {
            self.hand_over(&ends)?;
            let _ = fs::remove_file(&pid_file);
            arguments.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
            if let Some(console) = &ends.console {
                arguments.extend([OsStr::new("--console-socket"), console.as_os_str()]);
            }
        }
        arguments.push(OsStr::new(id));
        spawn(&arguments, ends.streams).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "the OCI runtime {} is not installed; install the package runc or name another runtime in the configuration",
                self.binary.display()
            ),
            _ => format!("the OCI runtime {}: {error}", self.binary.display()),
        })
    }

    /// Gives the container's ends of its pipes to whom the host says.
    fn hand_over(&self, ends: &Ends) -> Result<(), String> {
        let (user, group) = self.io_owner;
        for stream in ends.streams.iter().flatten().filter(|_| self.io_owner != (0, 0)) {
            rustix::fs::fchown(stream, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
                .map_err(|error| format!("pipe for user {user} and group {group}: {error}"))?;
        }
        Ok(())
    }

    /// Where the runtime keeps what it knows of container `id`.
    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

/// The process that a `create` or `exec` has made, as it noted it: before it ends, and so before that process can
/// become the shim's child.
pub fn named_pid(bundle: &Path, verb: Verb) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(verb.pid_file(bundle)).ok()?.trim().parse().ok()?)
}

/// Whether a process is the shim's child, ended or not. A runtime that names another one has to be wrong, and its
/// number must not be signalled.
pub fn is_child(pid: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), look).is_ok()
}

/// Why an execution failed: the last error of its log, else how it ended and what it `said` on standard error.
pub fn failure(bundle: &Path, verb: Verb, id: &str, status: WaitStatus, said: &Said) -> String {
    let why = last_error(&tail(&verb.log(bundle))).unwrap_or_else(|| {
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("it exited with status {code}"),
            (None, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
        };
        match said.text() {
            Some(text) => format!("{ended} and said: {text}"),
            None => format!("{ended} and said nothing"),
        }
    });
    format!("runtime {} of container {id}: {why}", verb.name())
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last message of level error or worse; without one, the last line, whatever it is.
fn last_error(log: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let errors = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let error = errors.into_iter().find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"));
    error.map(|line| line.msg).or_else(|| {
        let last = log.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with('{'))?;
        Some(last.chars().filter(|c| !c.is_control()).take(500).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_error_of_the_log() {
        let log = "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"x\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n\
                   {\"level\":\"error\",\"msg\":\"exec: \\\"nope\\\": not found\"}\n{\"level\":\"info\",\"msg\":\"bye\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("exec: \"nope\": not found"));
        assert_eq!(last_error("panic: rubbish\x1b[31m\n\n").as_deref(), Some("panic: rubbish[31m"));
        assert_eq!(last_error("{\"level\":\"info\",\"msg\":\"fine\"}\n"), None);
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named_with_the_package() {
        let runtime = Runtime::new("/nonexistent/runc".into(), "/tmp".into(), false);
        let (verb, bundle, ends) = (Verb::Start, Path::new("/nonexistent"), Ends::default());
        let error = runtime.spawn(Execution { verb, bundle, id: "x", ends }).unwrap_err();
        assert!(error.contains("/nonexistent/runc") && error.contains("package runc"), "{error}");
    }
}
