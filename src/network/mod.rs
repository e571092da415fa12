//! Network namespaces: made, pinned under the state directory, removed.
//!
//! Invariant: a namespace of ours is one pinned at our path; nothing else is touched. Knows nothing of
//! containers but the name it is given.
//!
//! A namespace is pinned by a bind mount at `<state>/netns/<namespace>_<id>` (names hold no `_`), so it lives
//! without any process and is found again after a crash. It has a loopback device that is up, nothing else:
//! connecting it is somebody else's work.

mod loopback;
mod netns;

use std::path::PathBuf;

use crate::error::{Class, Fault};

pub use netns::{create, list, path, remove};

/// A network namespace could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A name that cannot be part of the pinned file's name.
    #[error("{0:?} cannot name a network namespace")]
    BadName(String),
    /// The kernel said no.
    #[error("network namespace {}: {doing}: {source}", .path.display())]
    Kernel {
        /// Where it is pinned.
        path: PathBuf,
        /// What was done.
        doing: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl From<NetworkError> for Fault {
    fn from(error: NetworkError) -> Self {
        let class = match error {
            NetworkError::BadName(_) => Class::Invalid,
            NetworkError::Kernel { .. } => Class::Runtime,
        };
        let refused = matches!(&error, NetworkError::Kernel { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied);
        let fault = Fault::new(class, error.to_string());
        if refused { fault.help("run as root: network namespaces need CAP_SYS_ADMIN") } else { fault }
    }
}
