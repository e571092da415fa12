//! A container's root file system, for a look or a change from outside.
//!
//! Of a running one as its processes see it, mounts included; of one that has no task it is mounted for the moment, on a
//! thread with a mount namespace of its own, so that nobody else sees it and nothing of it outlives the thread. As long as
//! that lasts the container is not started: two mounts of one writable layer are undefined (overlayfs). Whoever gets the
//! descriptor resolves beneath it (openat2(2)).

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, fstat};

use crate::error::{Class, Fault, Result};
use crate::manifest::{Mount, MountKind};
use crate::runtime::RootMount;
use crate::shim::protocol::TaskPhase;
use crate::snapshot::beneath;

use super::container::{container_key, container_spec, not_found, snapshot_key};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

/// How long nothing may move while a container that does not run is kept from starting.
pub const STANDSTILL: Duration = Duration::from_secs(60);

impl Engine {
    /// Gives `work` the root of a container, on a thread that may wait. Its second argument is how long it may stand
    /// still: with a bound where a start waits for its end.
    pub async fn in_root<T: Send + 'static>(
        self: &Arc<Self>,
        id: &ContainerKey,
        work: impl FnOnce(BorrowedFd<'_>, Option<Duration>) -> T + Send + 'static,
    ) -> Result<T> {
        if let Some(root) = self.live_root(id)? {
            return on_thread(move || Ok(work(root.as_fd(), None))).await;
        }
        let key = container_key(id);
        let _key = self.keys.lock(&key).await;
        // It may have been started meanwhile.
        if let Some(root) = self.live_root(id)? {
            return on_thread(move || Ok(work(root.as_fd(), None))).await;
        }
        let Some(record) = self.memory.read().containers.get(id).cloned() else { return Err(not_found(id)) };
        // Made and not started, or between two attempts: its shim has it mounted.
        let rootfs = self.bundle(id)?.path().join("rootfs");
        if let Some(root) = mounted(&rootfs) {
            return on_thread(move || Ok(work(root.as_fd(), Some(STANDSTILL)))).await;
        }
        let spec = container_spec(&record.resource)?.clone();
        let _lease = self.lease();
        let image = self.ready_image(&spec.image, &record.image).await?;
        let mounts = self.snapshots.prepare(&snapshot_key(&record), &image).map_err(Fault::from)?;
        let place = self.config().state.clone();
        on_thread(move || {
            let root = mount_apart(&mounts, &spec.mounts, &place)
                .map_err(|error| Fault::new(Class::Runtime, format!("{key}: its root cannot be mounted: {error}")))?;
            Ok(work(root.as_fd(), Some(STANDSTILL)))
        })
        .await
    }

    /// The root of a task that runs; `None` when none does.
    fn live_root(&self, id: &ContainerKey) -> Result<Option<OwnedFd>> {
        let pid = || {
            let tasks = lock_of(&self.tasks);
            tasks.get(id).filter(|task| task.state.phase == TaskPhase::Running).and_then(|task| task.state.pid)
        };
        if !self.memory.read().containers.contains_key(id) {
            return Err(not_found(id));
        }
        let Some(before) = pid() else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{before}/root"), flags, Mode::empty());
        match root {
            // A number may have been given to another process: it is still this one's.
            Ok(root) if pid() == Some(before) && is_alive(before) => Ok(Some(root)),
            // It has just ended.
            Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(Fault::new(Class::Runtime, format!("{}: its root: {error}", container_key(id)))),
        }
    }
}

/// Whether a process is there and no zombie, which has no root any more.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Not one of the runtime's: a mount namespace ends with its thread.
    std::thread::Builder::new()
        .name("root".into())
        .spawn(move || drop(sender.send(work())))
        .map_err(|error| Fault::new(Class::Runtime, format!("a thread cannot be started: {error}")))?;
    receiver.await.unwrap_or_else(|_| Err(Fault::new(Class::Bug, "the thread in a container's root ended early")))
}

/// The directory, if something is mounted on it.
fn mounted(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).ok();
    let root = open(path)?;
    let above = open(path.parent()?)?;
    (fstat(&root).ok()?.st_dev != fstat(&above).ok()?.st_dev).then_some(root)
}

/// Mounts a root for this thread alone, and the host's directories in it that its container has. `place` is any
/// directory that holds nothing of what is mounted.
fn mount_apart(mounts: &[RootMount], binds: &[Mount], place: &PathBuf) -> std::io::Result<OwnedFd> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the node unmounts meanwhile goes here, too; what is mounted here stays here.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    for one in mounts {
        let options = one.options.join(",");
        mount(Some(one.source.as_str()), place, Some(one.kind.as_str()), MsFlags::empty(), Some(options.as_str()))?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(place, flags, Mode::empty())?;
    for bind in binds.iter().filter(|bind| bind.kind == MountKind::Bind) {
        let Some(source) = &bind.source else { continue };
        // A target that is not there is made by the start.
        let Ok(target) = beneath::open(&root, bind.target.as_bytes(), OFlags::PATH) else { continue };
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        if mount(Some(source.as_str()), target.as_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none).is_err() {
            continue;
        }
        if bind.read_only
            && let Ok(over) = beneath::open(&root, bind.target.as_bytes(), OFlags::PATH)
        {
            let over = File::from(over);
            let target = format!("/proc/self/fd/{}", over.as_raw_fd());
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, target.as_str(), none, flags, none)?;
        }
    }
    Ok(root)
}
