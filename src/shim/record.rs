//! The two files of [`super::protocol`]: what the engine asks for, and what the shim knows. A state appears by
//! rename, so a reader sees the one before or the one after; an exit or a stop is on the disk before anybody is told.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::protocol::{STATE_FILE, SUPERVISION_FILE, Supervision, TaskState};
use super::runc::Runtime;

/// File in a bundle without supervision: what the host said of the runtime, for the clean-up after a dead shim.
const RUNTIME_FILE: &str = "runtime.json";

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Reading or writing went wrong.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("{path}: {source}; it was written by another version of bayplan, or is damaged")]
    Json {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A version this shim does not know.
    #[error("{path}: version {version} is not known to this shim, which knows 1; use the bayplan-shim of the engine")]
    Version {
        /// The file.
        path: String,
        /// What it says.
        version: u32,
    },
}

/// Reads what the engine asks for; `None` if the file is not there.
pub fn supervision(bundle: &Path) -> Result<Option<Supervision>, RecordError> {
    let path = bundle.join(SUPERVISION_FILE);
    let name = || path.display().to_string();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Io { path: name(), source }),
    };
    let read: Supervision =
        serde_json::from_slice(&text).map_err(|source| RecordError::Json { path: name(), source })?;
    match read.version {
        1 => Ok(Some(read)),
        version => Err(RecordError::Version { path: name(), version }),
    }
}

/// Reads the last state; `None` if there is none that can be read.
pub fn load(bundle: &Path) -> Option<TaskState> {
    serde_json::from_slice(&std::fs::read(bundle.join(STATE_FILE)).ok()?).ok()
}

/// Keeps what the host said of the runtime.
pub fn save_runtime(bundle: &Path, runtime: &Runtime) -> Result<(), RecordError> {
    let path = bundle.join(RUNTIME_FILE);
    let name = || path.display().to_string();
    let text = serde_json::to_vec(runtime).map_err(|source| RecordError::Json { path: name(), source })?;
    std::fs::write(&path, text).map_err(|source| RecordError::Io { path: name(), source })
}

/// Reads it again.
pub fn load_runtime(bundle: &Path) -> Option<Runtime> {
    serde_json::from_slice(&std::fs::read(bundle.join(RUNTIME_FILE)).ok()?).ok()
}

/// Writes a file that may hold secrets: an environment.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), RecordError> {
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text)
    };
    write().map_err(|source| RecordError::Io { path: path.display().to_string(), source })
}

/// Replaces the state. `durable`: it survives a power failure once this returns, where the file system can do that.
pub fn save(bundle: &Path, state: &TaskState, durable: bool) -> Result<(), RecordError> {
    let path = bundle.join(STATE_FILE);
    let temporary = bundle.join(".state.json.new");
    let text =
        serde_json::to_vec(state).map_err(|source| RecordError::Json { path: path.display().to_string(), source })?;
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        file.write_all(&text)?;
        if durable {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, &path)?;
        if durable {
            File::open(bundle)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| RecordError::Io { path: path.display().to_string(), source })
}
