//! Task directories: `<state>/tasks/<namespace>/<id>`, which are the shims' bundles.
//!
//! Invariant: a file has its name only when it is whole (rename; nothing here outlives a reboot, so nothing
//! is synced), and removal never walks into a mount.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::mount::{UnmountFlags, unmount};
use serde::Serialize;

use super::cgroup::checked;
use super::{RuntimeError, mountinfo};
use crate::shim::protocol::{SUPERVISION_FILE, Supervision};

/// The runtime spec's file, as the runtime spec names it.
pub const CONFIG_FILE: &str = "config.json";
/// Where the root file system is mounted.
pub const ROOTFS: &str = "rootfs";

/// The directory of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    path: PathBuf,
    namespace: String,
    id: String,
}

impl Bundle {
    /// Where the bundle of a container is, whether it exists or not. The path is absolute: shims work in it.
    pub fn at(state: &Path, namespace: &str, id: &str) -> Result<Self, RuntimeError> {
        let state = std::path::absolute(state).map_err(|error| RuntimeError::io("looking for", state, error))?;
        let namespace = checked("namespace", namespace)?.to_owned();
        let id = checked("container", id)?.to_owned();
        Ok(Self { path: state.join("tasks").join(&namespace).join(&id), namespace, id })
    }

    /// Makes it (0700) with an empty `rootfs`. A bundle that is there is taken as it is.
    pub fn create(state: &Path, namespace: &str, id: &str) -> Result<Self, RuntimeError> {
        let bundle = Self::at(state, namespace, id)?;
        let make = |path: &Path, mode| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            made.map_err(|error| RuntimeError::io("making", path, error))
        };
        make(&bundle.path, 0o700)?;
        // Open to every user, since without a mount on it (other runtimes) it is the container's `/`.
        make(&bundle.path.join(ROOTFS), 0o755)?;
        Ok(bundle)
    }

    /// Every bundle below a state directory, in no particular order.
    pub fn list(state: &Path) -> Result<Vec<Self>, RuntimeError> {
        let mut found = Vec::new();
        let tasks = state.join("tasks");
        for namespace in directories(&tasks)? {
            for id in directories(&tasks.join(&namespace))? {
                found.extend(Self::at(state, &namespace, &id).ok());
            }
        }
        Ok(found)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether its directory is there.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Writes `config.json`.
    pub fn write_config(&self, spec: &Spec) -> Result<(), RuntimeError> {
        self.write_json(CONFIG_FILE, spec)
    }

    /// Puts other limits into `config.json`, for the next attempt; its device rules stay.
    pub fn write_limits(&self, limits: &LinuxResources) -> Result<(), RuntimeError> {
        let path = self.path.join(CONFIG_FILE);
        let text = fs::read(&path).map_err(|error| RuntimeError::io("reading", &path, error))?;
        let wrong = |source| RuntimeError::Json { what: path.display().to_string(), source };
        let mut spec: Spec = serde_json::from_slice(&text).map_err(wrong)?;
        if let Some(linux) = spec.linux_mut() {
            let mut limits = limits.clone();
            limits.set_devices(linux.resources().as_ref().and_then(|resources| resources.devices().clone()));
            linux.set_resources(Some(limits));
        }
        self.write_config(&spec)
    }

    /// The container's own process, as `config.json` has it.
    pub fn read_process(&self) -> Result<Process, RuntimeError> {
        let path = self.path.join(CONFIG_FILE);
        let text = fs::read(&path).map_err(|error| RuntimeError::io("reading", &path, error))?;
        let json = |source| RuntimeError::Json { what: path.display().to_string(), source };
        let spec: Spec = serde_json::from_slice(&text).map_err(json)?;
        let none = || RuntimeError::io("reading", &path, std::io::Error::other("it has no process"));
        spec.process().clone().ok_or_else(none)
    }

    /// Writes `bayplan.json`. A living shim reads it again only when told to.
    pub fn write_supervision(&self, supervision: &Supervision) -> Result<(), RuntimeError> {
        self.write_json(SUPERVISION_FILE, supervision)
    }

    /// Reads `bayplan.json`; `None` when there is none.
    pub fn read_supervision(&self) -> Result<Option<Supervision>, RuntimeError> {
        let path = self.path.join(SUPERVISION_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RuntimeError::io("reading", path, error)),
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| RuntimeError::Json { what: path.display().to_string(), source })
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RuntimeError> {
        let path = self.path.join(name);
        let text = serde_json::to_vec(value)
            .map_err(|source| RuntimeError::Json { what: path.display().to_string(), source })?;
        write_file(&path, &text)
    }

    /// Takes away what is mounted in it, and then the directory, and its namespace's when that is empty.
    /// Nothing there is success. The shim must be gone. Blocking.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let path = match fs::canonicalize(&self.path) {
            Ok(path) => path,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(RuntimeError::io("looking for", &self.path, error)),
        };
        let mounts = mountinfo::below(&path)?;
        for mount in &mounts {
            unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|error| RuntimeError::io("unmounting", mount, error))?;
        }
        // The table is read again, since removing a mounted tree would remove what is mounted.
        if !mounts.is_empty()
            && let Some(mount) = mountinfo::below(&path)?.into_iter().next()
        {
            return Err(RuntimeError::StillMounted { bundle: path, mount });
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(RuntimeError::io("removing", path, error));
            }
            _ => {}
        }
        if let Some(namespace) = path.parent() {
            // Refused as long as it holds another bundle.
            let _ = fs::remove_dir(namespace);
        }
        Ok(())
    }
}

/// Replaces a file by rename; mode 0600.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), RuntimeError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| RuntimeError::io("writing", path, error))
}

fn directories(path: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RuntimeError::io("reading", path, error)),
    };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::{Policy, Restart};
    use rustix::mount::mount_bind;
    use std::os::unix::fs::PermissionsExt;

    fn supervision() -> Supervision {
        Supervision {
            version: 1,
            runtime: "/usr/sbin/runc".into(),
            runtime_root: "/run/runc".into(),
            systemd_cgroup: false,
            restart: Restart { policy: Policy::Never, limit: None, initial_ms: 10, max_ms: 100 },
            log_dir: None,
            log_max_size: 1,
            log_max_files: 1,
            first_attempt: 1,
            restarts: 0,
            oom_score_adj: None,
            runtime_timeout_ms: None,
            stop_signal: None,
            grace_ms: None,
            stdin: false,
            reader_patience_ms: None,
        }
    }

    #[test]
    fn a_bundle_is_private_listed_and_removed_whole() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Bundle::list(state.path()).unwrap(), []);
        let bundle = Bundle::create(state.path(), "shop", "web").unwrap();
        assert_eq!(bundle.path(), state.path().join("tasks/shop/web"));
        assert_eq!(fs::metadata(bundle.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(bundle.read_supervision().unwrap(), None);
        bundle.write_supervision(&supervision()).unwrap();
        assert_eq!(bundle.read_supervision().unwrap(), Some(supervision()));
        assert!(!bundle.path().join("bayplan.json.new").exists());
        assert_eq!(Bundle::create(state.path(), "shop", "web").unwrap(), bundle);
        assert_eq!(Bundle::list(state.path()).unwrap(), std::slice::from_ref(&bundle));
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert!(!state.path().join("tasks/shop").exists());
        assert!(Bundle::at(state.path(), "..", "web").is_err());
    }

    #[test]
    fn removal_unmounts_and_spares_what_was_mounted() {
        let state = tempfile::tempdir().unwrap();
        let precious = state.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "kept").unwrap();
        let bundle = Bundle::create(state.path(), "shop", "we b").unwrap();
        let rootfs = bundle.path().join(ROOTFS);
        // Two, one on top of the other, at a path that the mount table escapes.
        for _ in 0..2 {
            if mount_bind(&precious, &rootfs).is_err() {
                return;
            }
        }
        bundle.remove().unwrap();
        assert!(!bundle.exists());
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    }
}
