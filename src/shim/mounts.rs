//! Mounting a container's root file system as the engine describes it (containerd's `Mount` messages), and taking
//! it down again.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// `mount(2)` takes one page of options, the terminating zero included.
const PAGE: usize = 4096;

/// Why a root file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel refused.
    #[error("mount of {kind} {source_path:?} at {}: {reason}{hint}", target.display())]
    Refused {
        /// File system type.
        kind: String,
        /// What was to be mounted.
        source_path: String,
        /// Where.
        target: PathBuf,
        /// The kernel's answer.
        reason: rustix::io::Errno,
        /// What to look at, or nothing.
        hint: &'static str,
    },
    /// Too many layers for `mount(2)`, also with short names.
    #[error("mount of overlay at {}: its options take {length} bytes and the kernel takes {max}; use an image with fewer layers", target.display(), max = PAGE - 1)]
    TooLong {
        /// Where.
        target: PathBuf,
        /// Bytes with the shortest names.
        length: usize,
    },
    /// A zero byte or the like.
    #[error("mount option {0:?} holds a zero byte")]
    Zero(String),
}

/// containerd's textual options, taken apart.
#[derive(Debug)]
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    propagation: Option<MountPropagationFlags>,
    data: Vec<String>,
}

fn parse(options: &[String]) -> Options {
    let mut parsed =
        Options { flags: MountFlags::empty(), bind: false, recursive: false, propagation: None, data: Vec::new() };
    for option in options {
        let (set, clear) = match option.as_str() {
            "ro" => (MountFlags::RDONLY, MountFlags::empty()),
            "rw" => (MountFlags::empty(), MountFlags::RDONLY),
            "nosuid" => (MountFlags::NOSUID, MountFlags::empty()),
            "suid" => (MountFlags::empty(), MountFlags::NOSUID),
            "nodev" => (MountFlags::NODEV, MountFlags::empty()),
            "dev" => (MountFlags::empty(), MountFlags::NODEV),
            "noexec" => (MountFlags::NOEXEC, MountFlags::empty()),
            "exec" => (MountFlags::empty(), MountFlags::NOEXEC),
            "sync" => (MountFlags::SYNCHRONOUS, MountFlags::empty()),
            "dirsync" => (MountFlags::DIRSYNC, MountFlags::empty()),
            "noatime" => (MountFlags::NOATIME, MountFlags::empty()),
            "nodiratime" => (MountFlags::NODIRATIME, MountFlags::empty()),
            "relatime" => (MountFlags::RELATIME, MountFlags::empty()),
            "strictatime" => (MountFlags::STRICTATIME, MountFlags::empty()),
            "defaults" | "async" | "atime" | "diratime" | "loop" => continue,
            "bind" | "rbind" => {
                parsed.bind = true;
                parsed.recursive = option == "rbind";
                continue;
            }
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                let (recursive, kind) = match option.strip_prefix('r') {
                    Some(kind) => (MountPropagationFlags::REC, kind),
                    None => (MountPropagationFlags::empty(), option.as_str()),
                };
                let kind = match kind {
                    "private" => MountPropagationFlags::PRIVATE,
                    "shared" => MountPropagationFlags::SHARED,
                    "slave" => MountPropagationFlags::DOWNSTREAM,
                    _ => MountPropagationFlags::UNBINDABLE,
                };
                parsed.propagation = Some(kind | recursive);
                continue;
            }
            // Meant for containerd's own snapshotters, not for the kernel.
            other if other.starts_with("X-containerd.") => continue,
            _ => {
                parsed.data.push(option.clone());
                continue;
            }
        };
        parsed.flags = (parsed.flags | set) - clear;
    }
    parsed
}

/// Overlay options that fit a page: as they are, or with lower directories relative to the directory to enter.
fn shorten(data: &[String]) -> (Option<PathBuf>, String) {
    let whole = data.join(",");
    if whole.len() < PAGE {
        return (None, whole);
    }
    let Some(lower) = data.iter().find_map(|option| option.strip_prefix("lowerdir=")) else { return (None, whole) };
    let layers: Vec<&str> = lower.split(':').collect();
    let Some(first) = layers.first() else { return (None, whole) };
    // The longest directory that is above all of them.
    let mut common = first.len();
    for layer in &layers {
        common = first.bytes().zip(layer.bytes()).take(common).take_while(|(a, b)| a == b).count();
    }
    let Some(slash) = first[..common].rfind('/').filter(|slash| *slash > 0) else { return (None, whole) };
    let relative: Vec<&str> = layers.iter().map(|layer| &layer[slash + 1..]).collect();
    let relative = format!("lowerdir={}", relative.join(":"));
    let data: Vec<&str> =
        data.iter().map(|option| if option.starts_with("lowerdir=") { relative.as_str() } else { option }).collect();
    (Some(PathBuf::from(&first[..slash])), data.join(","))
}

/// Mounts one after the other at `rootfs`. On an error nothing stays mounted.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), MountError> {
    for mount in mounts {
        if let Err(error) = mount_one(mount, rootfs) {
            unmount_all(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(mount: &Mount, rootfs: &Path) -> Result<(), MountError> {
    let options = parse(&mount.options);
    let target = match mount.target.trim_start_matches('/') {
        "" => rootfs.to_owned(),
        below => rootfs.join(below),
    };
    let refused = |reason: rustix::io::Errno| MountError::Refused {
        kind: mount.type_.clone(),
        source_path: mount.source.clone(),
        target: target.clone(),
        reason,
        hint: match reason {
            rustix::io::Errno::NODEV => "; load the kernel module of that file system",
            rustix::io::Errno::NOENT => "; a directory named in it is missing",
            _ => "",
        },
    };
    let (enter, data) = shorten(&options.data);
    if data.len() >= PAGE {
        return Err(MountError::TooLong { target, length: data.len() });
    }
    if options.bind || matches!(mount.type_.as_str(), "bind" | "rbind") {
        let recursive = options.recursive || mount.type_ == "rbind";
        if recursive {
            rustix::mount::mount_bind_recursive(&mount.source, &target).map_err(refused)?;
        } else {
            rustix::mount::mount_bind(&mount.source, &target).map_err(refused)?;
        }
        if !options.flags.is_empty() {
            rustix::mount::mount_remount(&target, options.flags | MountFlags::BIND, c"").map_err(refused)?;
        }
    } else {
        let data = CString::new(data)
            .map_err(|error| MountError::Zero(String::from_utf8_lossy(&error.into_vec()).into_owned()))?;
        // The shim has one thread, so its working directory can be borrowed.
        let back = match &enter {
            None => None,
            Some(dir) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let here = rustix::fs::openat(CWD, ".", flags, Mode::empty()).map_err(refused)?;
                rustix::process::chdir(dir).map_err(refused)?;
                Some(here)
            }
        };
        let mounted = rustix::mount::mount(&mount.source, &target, &mount.type_, options.flags, data.as_c_str());
        if let Some(here) = back {
            rustix::process::fchdir(here).map_err(refused)?;
        }
        mounted.map_err(refused)?;
    }
    if let Some(propagation) = options.propagation {
        rustix::mount::mount_change(&target, propagation).map_err(refused)?;
    }
    Ok(())
}

/// Detaches whatever is mounted at `rootfs`, however often; says whether nothing is left.
pub fn unmount_all(rootfs: &Path) -> bool {
    for _ in 0..1000 {
        match rustix::mount::unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or not there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return true,
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn options_are_told_from_data() {
        let parsed = parse(&strings(&["ro", "nosuid", "rbind", "rslave", "index=off", "X-containerd.uidmap=1", "rw"]));
        assert_eq!(parsed.flags, MountFlags::NOSUID);
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.propagation, Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC));
        assert_eq!(parsed.data, ["index=off"]);
    }

    #[test]
    fn more_layers_than_a_page_holds_become_relative() {
        let lower: Vec<String> = (0..127).map(|n| format!("/var/lib/bayplan/snapshots/layers/{n:x}")).collect();
        let upper = "upperdir=/var/lib/bayplan/u";
        let data = strings(&[upper, &format!("lowerdir={}", lower.join(":"))]);
        let (enter, short) = shorten(&data);
        assert_eq!(enter, Some(PathBuf::from("/var/lib/bayplan/snapshots/layers")));
        assert!(short.starts_with(&format!("{upper},lowerdir=0:1:2:3")) && short.len() < PAGE, "{short}");
        let (enter, whole) = shorten(&data[..1]);
        assert_eq!((enter, whole.as_str()), (None, upper));
    }
}
