//! What can go wrong between the engine, `runc`, a shim and the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Class, Fault};

/// A failure of `runc`, a shim or the kernel.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No OCI runtime where it was looked for.
    #[error("{} is not there: containers cannot be run", shown(.looked_for))]
    RuntimeMissing {
        /// The name on PATH, or the configured path.
        looked_for: PathBuf,
    },
    /// No shim for this runtime.
    #[error("the shim {} {whose} is not there", shown(.looked_for))]
    ShimMissing {
        /// Whose: `of runtime io.containerd.kata.v2`, `of shop/web`.
        whose: String,
        /// The binary's name or path.
        looked_for: PathBuf,
    },
    /// Our own shim is not beside us.
    #[error("the shim {} is not there: containers cannot be run", shown(.looked_for))]
    OwnShimMissing {
        /// Where it should be.
        looked_for: PathBuf,
    },
    /// Not a runtime name.
    #[error("{0:?} is not a runtime: a name such as io.containerd.kata.v2 or an absolute path is expected")]
    RuntimeName(String),
    /// A name that cannot be part of a path: it is empty, too long, `.`, `..` or holds a `/` or NUL.
    #[error("{what} {name:?} cannot be part of a path")]
    BadName {
        /// `namespace`, `container` or `cgroup parent`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The shim's `start` or `delete` command ended badly.
    #[error("shim of {object}: {command}: {reason}")]
    ShimCommand {
        /// `namespace/id`.
        object: String,
        /// `start` or `delete`.
        command: &'static str,
        /// Its standard error, shortened, or its exit status.
        reason: String,
    },
    /// Nobody listens where the shim should.
    #[error("shim of {object} does not answer at {}: {source}", shown(.socket))]
    Connect {
        /// `namespace/id`.
        object: String,
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke: the shim is gone.
    #[error("shim of {object} went away during {call}: {reason}")]
    Gone {
        /// `namespace/id`.
        object: String,
        /// The call.
        call: &'static str,
        /// What the connection said.
        reason: String,
    },
    /// It did not answer in time.
    #[error("{what} of {object} took longer than {after:?}")]
    TimedOut {
        /// `namespace/id`.
        object: String,
        /// The call or command.
        what: &'static str,
        /// The time allowed.
        after: Duration,
    },
    /// The shim answered with an error.
    #[error("{call} of {object}: {message}")]
    Refused {
        /// `namespace/id`.
        object: String,
        /// The call.
        call: &'static str,
        /// ttrpc's (gRPC's) status code.
        code: ttrpc::Code,
        /// The shim's message.
        message: String,
    },
    /// `runc` ended badly.
    #[error("runc {command} of {object}: {message}")]
    Runc {
        /// Its subcommand.
        command: &'static str,
        /// The container's id.
        object: String,
        /// Its message.
        message: String,
    },
    /// A mount below a bundle could not be taken away, so nothing was removed.
    #[error("{} stays: {} is still mounted in it", shown(.bundle), shown(.mount))]
    StillMounted {
        /// The bundle.
        bundle: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// Processes of a cgroup outlive SIGKILL.
    #[error("cgroup {}: processes {pids:?} do not end though they were killed", shown(.cgroup))]
    CgroupBusy {
        /// Its directory.
        cgroup: PathBuf,
        /// Those that remain.
        pids: Vec<u32>,
    },
    /// The kernel said no.
    #[error("{doing} {}: {source}", shown(.path))]
    Io {
        /// What was done: `reading`, `mounting` …
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A value of ours that does not become JSON, or JSON that is not what it should be.
    #[error("{what}: {source}")]
    Json {
        /// What.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl RuntimeError {
    /// A failed system call on a path.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { doing, path: path.into(), source: source.into() }
    }

    /// Whether the shim knows no such task or process (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: ttrpc::Code::NOT_FOUND, .. })
    }

    /// Whether what was asked for is there already.
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Refused { code: ttrpc::Code::ALREADY_EXISTS, .. })
    }

    /// Whether the shim let the time pass.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Whether there is no living shim at the other end.
    pub fn shim_is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Connect { .. })
    }

    /// Whether the shim does not know the call, as another runtime's shim does not know ours.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { code: ttrpc::Code::UNIMPLEMENTED, .. })
    }

    /// Whether what is asked does not fit what the task does at the moment.
    pub fn is_precondition(&self) -> bool {
        matches!(self, Self::Refused { code: ttrpc::Code::FAILED_PRECONDITION, .. })
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::RuntimeMissing { looked_for } if looked_for.is_absolute() => {
                format!(
                    "{} comes from [runtimes.runc] path in the configuration; correct it, or remove it and apt-get install runc",
                    looked_for.display()
                )
            }
            Self::RuntimeMissing { .. } => "apt-get install runc".into(),
            Self::ShimMissing { looked_for, .. } => {
                format!("install the package that brings {}, or leave `runtime` out", looked_for.display())
            }
            Self::OwnShimMissing { .. } => {
                "put bayplan-shim, which comes with bayplan, beside it, or name it in the configuration: [shim] path"
                    .into()
            }
            Self::RuntimeName(_) => "leave `runtime` out to run with runc".into(),
            Self::StillMounted { mount, .. } => format!("see what holds it: fuser -vm {}", mount.display()),
            Self::CgroupBusy { pids, .. } => {
                let pid = pids.first().copied().unwrap_or_default();
                format!("a process in uninterruptible sleep waits for a disk or a server: see cat /proc/{pid}/stack")
            }
            Self::Refused { message, .. } if message.contains("executable file not found") => {
                "its command (or the image's ENTRYPOINT and CMD) names a program that the image does not have".into()
            }
            Self::TimedOut { .. } => "see whether the node is short of memory or its disk hangs".into(),
            _ => return None,
        })
    }
}

/// What runc says in the end, behind who called whom.
fn cause(message: &str) -> Option<&str> {
    let (_, said) = ["runc create failed: ", "exec failed: "].iter().find_map(|mark| message.split_once(mark))?;
    Some(said.strip_prefix("unable to start container process: ").unwrap_or(said))
}

impl From<RuntimeError> for Fault {
    fn from(error: RuntimeError) -> Self {
        let class = match &error {
            RuntimeError::RuntimeName(_) | RuntimeError::BadName { .. } => Class::Invalid,
            RuntimeError::Refused { code: ttrpc::Code::NOT_FOUND, .. } => Class::NotFound,
            RuntimeError::Json { .. } => Class::Bug,
            _ => Class::Runtime,
        };
        let message = match &error {
            RuntimeError::Refused { message, .. } => cause(message).map(|cause| format!("runc: {cause}")),
            _ => None,
        };
        let fault = Fault::new(class, message.unwrap_or_else(|| error.to_string()));
        match error.help() {
            Some(help) => fault.help(help),
            None => fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runc_says_is_told_without_who_called_it() {
        let fault = Fault::from(RuntimeError::Refused {
            object: "shop/web".into(),
            call: "Create",
            code: ttrpc::Code::UNKNOWN,
            message: "runtime create of container web: runc create failed: unable to start container process: \
                      exec: \"nope\": executable file not found in $PATH"
                .into(),
        });
        assert_eq!(fault.message, "runc: exec: \"nope\": executable file not found in $PATH");
        assert!(fault.help.is_some_and(|help| help.contains("ENTRYPOINT")));
    }

    #[test]
    fn a_missing_runc_names_the_package_to_install() {
        let fault = Fault::from(RuntimeError::RuntimeMissing { looked_for: "runc".into() });
        assert_eq!(fault.class, Class::Runtime);
        assert_eq!(fault.message, "runc is not there: containers cannot be run");
        assert_eq!(fault.help.as_deref(), Some("apt-get install runc"));
    }
}
