//! Why a container has no runtime spec.

use std::path::PathBuf;

use crate::error::{Class, Fault};

/// A container cannot become a runtime spec.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", .container.as_ref().map(|name| format!("container {name}: ")).unwrap_or_default())]
pub struct SpecError {
    /// `namespace/name`, where it is known.
    pub container: Option<String>,
    /// Why.
    pub problem: Problem,
}

impl SpecError {
    /// A problem of this container.
    pub fn of(namespace: &str, name: &str, problem: Problem) -> Self {
        Self { container: Some(format!("{namespace}/{name}")), problem }
    }
}

impl From<Problem> for SpecError {
    fn from(problem: Problem) -> Self {
        Self { container: None, problem }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Neither manifest nor image says what to run.
    #[error("there is nothing to run: the image has neither ENTRYPOINT nor CMD, and no command is given")]
    NothingToRun,
    /// `command` or the image's ENTRYPOINT starts with an empty word.
    #[error("the program to run is an empty word")]
    EmptyProgram,
    /// A further process without a program.
    #[error("there is no command to execute")]
    NothingToExecute,
    /// A word that no program can be given.
    #[error("the word {0:?} holds NUL")]
    Word(String),
    /// A user name that the image does not know.
    #[error("user {0:?} is not in the image's /etc/passwd")]
    UnknownUser(String),
    /// A group name that the image does not know.
    #[error("group {0:?} is not in the image's /etc/group")]
    UnknownGroup(String),
    /// An id that Linux does not have.
    #[error("user or group id {0:?} is out of range: 0 to 2147483647 is expected")]
    IdRange(String),
    /// Not `user[:group]`.
    #[error("user {0:?} is not of the form user[:group]")]
    UserForm(String),
    /// A file of the image could not be read.
    #[error("reading {path} of the image: {source}")]
    ImageFile {
        /// Its path inside.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A working directory that is not absolute.
    #[error("working directory {0:?} is not absolute")]
    WorkingDir(String),
    /// An environment variable that cannot be one.
    #[error("environment variable {0:?}: a name has no `=` and is not empty, and neither it nor its value holds NUL")]
    EnvName(String),
    /// A stop signal that does not exist.
    #[error("stop signal {0:?} does not exist")]
    UnknownSignal(String),
    /// A capability that does not exist.
    #[error("capability {name:?} does not exist")]
    UnknownCapability {
        /// As written.
        name: String,
        /// The nearest that does.
        near: &'static str,
    },
    /// A limit that does not exist.
    #[error("rlimit {name:?} does not exist")]
    UnknownRlimit {
        /// As written.
        name: String,
        /// The nearest that does.
        near: &'static str,
    },
    /// Soft above hard.
    #[error("rlimit {name} has a soft limit of {soft} above its hard limit of {hard}")]
    RlimitOrder {
        /// As written.
        name: String,
        /// Its soft limit.
        soft: u64,
        /// Its hard limit.
        hard: u64,
    },
    /// The same limit twice.
    #[error("rlimit {0} is given twice")]
    RlimitTwice(String),
    /// A mount target that cannot be one.
    #[error("mount target {0:?} is not an absolute path below /")]
    MountTarget(String),
    /// Two mounts at one place.
    #[error("two mounts have the target {}", .0.display())]
    MountTwice(PathBuf),
    /// A bind mount of nothing.
    #[error("the bind mount at {target} has no source")]
    NoSource {
        /// Its target.
        target: String,
    },
    /// A relative source that survived the manifest.
    #[error("the source {source_path:?} of the mount at {target} is not an absolute path")]
    RelativeSource {
        /// The source.
        source_path: String,
        /// Its target.
        target: String,
    },
    /// A source that is not there.
    #[error("the source {} of the mount at {target} is not there", .source_path.display())]
    SourceMissing {
        /// The source.
        source_path: PathBuf,
        /// Its target.
        target: String,
    },
    /// A source that cannot be made or looked at.
    #[error("the source {} of the mount at {target}: {error}", .source_path.display())]
    Source {
        /// The source.
        source_path: PathBuf,
        /// Its target.
        target: String,
        /// Why.
        error: std::io::Error,
    },
    /// `oci-spec` refused what we built.
    #[error("building the runtime spec: {0}")]
    Oci(String),
}

impl Problem {
    pub(super) fn oci(error: impl std::fmt::Display) -> Self {
        Self::Oci(error.to_string())
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NothingToRun => "set `command`".into(),
            Self::NothingToExecute => "write it behind the container's name".into(),
            Self::EmptyProgram => "write the program as the first word of `command`".into(),
            Self::UnknownUser(_) | Self::UnknownGroup(_) => "use numeric ids, such as user: \"1000:1000\"".into(),
            Self::UserForm(_) => "write uid, uid:gid, name or name:group".into(),
            Self::WorkingDir(_) => "begin workingDir with /".into(),
            Self::UnknownSignal(_) => "write a name such as SIGTERM or a number".into(),
            Self::UnknownCapability { near, .. } | Self::UnknownRlimit { near, .. } => format!("did you mean {near}?"),
            Self::RlimitOrder { .. } => "raise `hard` or lower `soft`".into(),
            Self::MountTarget(_) => "write an absolute path without `..`, such as /data".into(),
            Self::NoSource { .. } => "name a host path as `source`".into(),
            Self::SourceMissing { .. } => "make it, or set `create: true` to have it made as a directory".into(),
            _ => return None,
        })
    }
}

impl From<SpecError> for Fault {
    fn from(error: SpecError) -> Self {
        let class = match error.problem {
            Problem::Oci(_) => Class::Bug,
            Problem::ImageFile { .. } | Problem::SourceMissing { .. } | Problem::Source { .. } => Class::Runtime,
            _ => Class::Invalid,
        };
        let fault = Fault::new(class, error.to_string());
        match error.problem.help() {
            Some(help) => fault.help(help),
            None => fault,
        }
    }
}
