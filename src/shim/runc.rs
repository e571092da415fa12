//! Running the OCI runtime (`runc` and what has its command line): start an execution, and say why one failed.
//!
//! No execution is waited for here: its exit comes by SIGCHLD like every other.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, WaitStatus};

use super::said::Said;
use super::spawn::spawn;
use super::stdio::Ends;

/// File in the bundle that the runtime logs to, in JSON lines.
pub const LOG: &str = "runc.log";
/// File in the bundle with the process id of the container's first process.
const PID_FILE: &str = "init.pid";
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
}

impl Verb {
    /// The runtime's word.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Start => "start",
            Verb::Delete | Verb::DeleteForce => "delete",
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
}

/// The container's ends of its standard streams; `None` is nowhere.
pub type Streams = [Option<OwnedFd>; 3];

impl Runtime {
    /// Starts an execution about container `id`; `create` passes the streams of `ends` on to the container, or sends its
    /// terminal.
    pub fn spawn(&self, verb: Verb, bundle: &Path, id: &str, ends: Ends) -> Result<Pid, String> {
        let log = bundle.join(LOG);
        let _ = fs::remove_file(&log);
        let pid_file = bundle.join(PID_FILE);
        let mut arguments: Vec<&OsStr> = vec![self.binary.as_os_str(), OsStr::new("--root"), self.root.as_os_str()];
        arguments.extend([OsStr::new("--log"), log.as_os_str(), OsStr::new("--log-format"), OsStr::new("json")]);
        if self.systemd {
            arguments.push(OsStr::new("--systemd-cgroup"));
        }
        arguments.push(OsStr::new(verb.name()));
        match verb {
            Verb::Create => {
                let _ = fs::remove_file(&pid_file);
                arguments.extend([OsStr::new("--bundle"), bundle.as_os_str()]);
                arguments.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
                if let Some(socket) = &ends.console {
                    arguments.extend([OsStr::new("--console-socket"), socket.as_os_str()]);
                }
            }
            Verb::DeleteForce => arguments.push(OsStr::new("--force")),
            Verb::Start | Verb::Delete => {}
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

    /// Where the runtime keeps what it knows of container `id`.
    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

/// The container's first process, as `create` noted it.
pub fn created_pid(bundle: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(bundle.join(PID_FILE)).ok()?.trim().parse().ok()?)
}

/// Why an execution failed: the last error of its log, else how it ended and what it `said` on standard error.
pub fn failure(bundle: &Path, verb: Verb, id: &str, status: WaitStatus, said: &Said) -> String {
    let why = last_error(&tail(&bundle.join(LOG))).unwrap_or_else(|| {
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
        let runtime = Runtime { binary: "/nonexistent/runc".into(), root: "/tmp".into(), systemd: false };
        let error = runtime.spawn(Verb::Start, Path::new("/nonexistent"), "x", Ends::default()).unwrap_err();
        assert!(error.contains("/nonexistent/runc") && error.contains("package runc"), "{error}");
    }
}
