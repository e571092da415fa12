//! An image's files at a path of a person's choice: one overlay mount, marked as ours by its source.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::error::SnapshotError;
use super::{Snapshots, chain_ids};
use crate::image::Image;

/// What the mount's source begins with, in `/proc/self/mountinfo`.
const MARK: &str = "bayplan:";

impl Snapshots {
    /// Mounts the image's files at `target`, an existing directory: read-only, or with changes kept in `scratch`
    /// (made here) until that goes. `id` tells this view from others.
    pub fn mount_view(
        &self,
        id: &str,
        image: &Image,
        target: &Path,
        scratch: Option<&Path>,
    ) -> Result<(), SnapshotError> {
        let store = &self.inner.store;
        let target = target.canonicalize().map_err(SnapshotError::at("open", target))?;
        let mut lower = Vec::with_capacity(image.layers.len() + 1);
        for chain in chain_ids(&image.layers).into_iter().rev() {
            let Some(name) = store.name(&chain) else {
                return Err(SnapshotError::NotUnpacked { image: image.target.digest.clone(), chain });
            };
            // Relative to the directory that is entered below: 127 layers fit into the page that mount(2) takes.
            lower.push(format!("l/{name}/fs"));
        }
        let (kind, flags) = match (scratch, lower.is_empty()) {
            (None, true) => ("tmpfs", MountFlags::RDONLY),
            (None, false) => ("overlay", MountFlags::RDONLY),
            (Some(_), _) => ("overlay", MountFlags::empty()),
        };
        // Without an upper directory overlayfs wants two below.
        if lower.len() < 2 {
            lower.push("empty".to_owned());
        }
        let mut data = match kind {
            "tmpfs" => "size=4k".to_owned(),
            _ => format!("lowerdir={}", lower.join(":")),
        };
        if let Some(scratch) = scratch {
            for name in ["upper", "work"] {
                let directory = scratch.join(name);
                fs::create_dir_all(&directory).map_err(SnapshotError::at("make", &directory))?;
                data.push_str(&format!(",{name}dir={}", directory.display()));
            }
        }
        let root = store.path("");
        let source = format!("{MARK}{id}");
        // A thread with a working directory of its own: the process' stays where it is.
        let mount = || -> std::io::Result<()> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            let directory = rustix::fs::openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            rustix::process::fchdir(&directory)?;
            let data = std::ffi::CString::new(data)?;
            Ok(rustix::mount::mount(source.as_str(), &target, kind, flags, Some(data.as_c_str()))?)
        };
        std::thread::scope(|scope| scope.spawn(mount).join())
            .unwrap_or_else(|_| Err(std::io::Error::other("the mounting thread ended badly")))
            .map_err(SnapshotError::at("mount the image at", &target))
    }
}

/// Whether a view is mounted, and is what lies uppermost at its target.
pub fn is_mounted(id: &str, target: &Path) -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&mounts);
    let mut at_target = text.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let point = front.split(' ').nth(4)?;
        (unescape(point).as_bytes() == target.as_os_str().as_encoded_bytes()).then(|| back.split(' ').nth(1))
    });
    // The last one mounted lies uppermost.
    at_target.next_back().flatten() == Some(&format!("{MARK}{id}"))
}

/// Whether a view is mounted anywhere.
pub fn is_anywhere(id: &str) -> bool {
    let mark = format!(" {MARK}{id} ");
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&mounts).lines().any(|line| line.contains(&mark))
}

/// Takes a view down. Busy ones say so.
pub fn unmount(target: &Path) -> Result<(), SnapshotError> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW).map_err(SnapshotError::at("unmount", target))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits, proc(5).
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, character);
    }
    plain
}
