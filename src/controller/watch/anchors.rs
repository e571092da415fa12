//! Where the directory is, by which names, and what has to be watched to see it change places.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::{RecursiveMode, Watcher};

use super::filesystem;

/// The way to the directory, link by link. Equal ones lead to the same directory by the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchors {
    /// Names whose change may mean another directory: the path itself, what each link leads to, or, while
    /// something is missing, the first missing name.
    names: Vec<PathBuf>,
    /// The directory by its real path, and its identity; `None` while there is none.
    real: Option<(PathBuf, u64, u64)>,
    /// File systems mounted at or below it.
    mounts: Vec<String>,
}

impl Anchors {
    /// Looks where the directory is now.
    pub fn find(root: &Path) -> Self {
        let mut names = Vec::new();
        let mut at = root.to_path_buf();
        // 40 links in a row are a loop, path_resolution(7).
        for _ in 0..40 {
            if let Some(missing) = first_missing(&at) {
                names.push(missing);
                break;
            }
            names.push(at.clone());
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        let real = root.canonicalize().ok().and_then(|real| {
            let metadata = real.metadata().ok().filter(std::fs::Metadata::is_dir)?;
            Some((real, metadata.dev(), metadata.ino()))
        });
        let mounts = real.as_ref().map(|(path, ..)| filesystem::mounts_below(path)).unwrap_or_default();
        Self { names, real, mounts }
    }

    /// The directory's real path.
    pub fn real(&self) -> Option<&Path> {
        self.real.as_ref().map(|(path, ..)| path.as_path())
    }

    /// Whether an event at `path` may mean that the directory is another one.
    pub fn concern(&self, path: &Path) -> bool {
        self.names.iter().any(|name| name == path || name.parent() == Some(path)) || self.real() == Some(path)
    }

    /// A path inside the directory, relative to it.
    pub fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(self.real()?).ok().map(Path::to_path_buf)
    }

    /// Sets up the watches: the tree itself, and the parents of all names on the way to it.
    pub fn watch(&self, watcher: &mut impl Watcher) -> notify::Result<()> {
        for parent in self.names.iter().filter_map(|name| name.parent()) {
            if self.real().is_some_and(|real| parent.starts_with(real)) {
                continue;
            }
            vanished_is_fine(watcher.watch(parent, RecursiveMode::NonRecursive))?;
        }
        match self.real() {
            Some(real) => vanished_is_fine(watcher.watch(real, RecursiveMode::Recursive)),
            None => Ok(()),
        }
    }
}

/// What vanished between looking and watching is seen by looking again.
fn vanished_is_fine(result: notify::Result<()>) -> notify::Result<()> {
    match result {
        Err(notify::Error { kind: notify::ErrorKind::PathNotFound, .. }) => Ok(()),
        Err(notify::Error { kind: notify::ErrorKind::Io(error), .. })
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The shortest prefix of `path` that does not exist (a dangling link does).
fn first_missing(path: &Path) -> Option<PathBuf> {
    if std::fs::symlink_metadata(path).is_ok() {
        return None;
    }
    let mut prefix = PathBuf::new();
    for part in path.components() {
        prefix.push(AsRef::<OsStr>::as_ref(&part));
        if std::fs::symlink_metadata(&prefix).is_err() {
            return Some(prefix);
        }
    }
    Some(path.to_path_buf())
}
