//! A file or tree as a tar stream, and back: what `cp` carries in both directions.
//!
//! Invariant: nothing outside the root is read or written, whatever links are in it, whoever swaps them meanwhile, and
//! whatever names a stream holds. Paths are resolved by the kernel beneath a descriptor (openat2(2)); directories are
//! walked by descriptors and their links never followed. A path and a root flow in, a stream flows out, or the other
//! way. May use [`crate::image`]'s tar reader and [`crate::snapshot`]'s `beneath`; knows neither containers nor the API.

mod pack;
mod place;
mod stream;
mod unpack;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Class, Fault};

pub use pack::pack;
pub use stream::{Incoming, Outgoing};
pub use unpack::{Mode, Options, Report, unpack};

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing of that name.
    #[error("{path} is not there")]
    NotFound {
        /// As it was asked for.
        path: String,
    },
    /// What is there and what comes do not go together.
    #[error("{path} {why}")]
    Refused {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// The stream is none that can be taken.
    #[error("the archive: {0}")]
    Stream(io::Error),
    /// The file system.
    #[error("{path}: {source}")]
    System {
        /// Where.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// Nobody takes the stream any more, or its writer gave up.
    #[error("the reader of the archive went away")]
    Gone,
}

impl CopyError {
    /// As a fault about `object`, such as `container shop/web`; without one, about a path of this machine.
    pub fn into_fault(self, object: Option<&str>) -> Fault {
        let class = match &self {
            Self::NotFound { .. } => Class::NotFound,
            Self::Refused { .. } => Class::Refused,
            Self::Stream(_) => Class::Invalid,
            Self::System { .. } => Class::Runtime,
            Self::Gone => Class::No,
        };
        match object {
            Some(object) => Fault::new(class, format!("{object}: {self}")),
            None => Fault::new(class, self.to_string()),
        }
    }

    fn system(path: &[u8]) -> impl Fn(Errno) -> Self + use<> {
        let path = shown(path);
        move |error| match error {
            Errno::NOENT => Self::NotFound { path: path.clone() },
            error => Self::System { path: path.clone(), source: error.into() },
        }
    }

    fn refused(path: &[u8], why: &str) -> Self {
        Self::Refused { path: shown(path), why: why.to_owned() }
    }
}

/// A path for people.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(300).collect()
}

/// The last component that names something: `b` of `/a/b/`, nothing of `/`, and of `.` and `..` neither.
fn base_name(path: &[u8]) -> &[u8] {
    let path = trimmed(path);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    if matches!(name, b"." | b"..") { b"" } else { name }
}

/// Without slashes at its end.
fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    &path[..end]
}

/// Whether a path asks for what a directory holds and not for itself: `dir/.`, `.`, `/`.
fn means_contents(path: &[u8]) -> bool {
    base_name(path).is_empty()
}

/// A path as bytes.
pub fn bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes()
}
