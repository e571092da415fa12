//! `<state>/fifo/<id>`: the pipes between a task's shim and the command in whose foreground it runs.
//!
//! Invariant: a directory belongs to the process that holds a lock on it, and is removed with it; what a killed process
//! left is swept by the next node and the next command. Paths go out; nobody else's are touched. Depends on nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Two commands that begin at once may sweep what the other has just made and not locked yet.
const ATTEMPTS: usize = 16;

/// A directory of one's own, removed when dropped.
pub struct Fifos {
    path: PathBuf,
    _lock: File,
}

impl Fifos {
    /// Makes one.
    pub fn make(state: &Path) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            let path = state.join("fifo").join(uuid::Uuid::new_v4().simple().to_string());
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            match lock(&path) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {
                    last = error;
                }
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
        Err(last)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories whose processes are gone.
pub fn sweep(state: &Path) {
    for entry in fs::read_dir(state.join("fifo")).into_iter().flatten().flatten() {
        if let Ok(_lock) = lock(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The lock of a directory, on the one that is seen.
fn lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let (own, seen) = (file.metadata()?, fs::metadata(path)?);
    if (own.dev(), own.ino()) == (seen.dev(), seen.ino()) { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_use_stays() {
        let state = tempfile::tempdir().unwrap();
        sweep(state.path());
        let mine = Fifos::make(state.path()).unwrap();
        let left = state.path().join("fifo/left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("stdout"), "").unwrap();
        sweep(state.path());
        assert!(mine.path().exists() && !left.exists());
        drop(mine);
        assert_eq!(fs::read_dir(state.path().join("fifo")).unwrap().count(), 0);
    }
}
