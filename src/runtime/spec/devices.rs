//! Devices: the cgroup's rules, and the node's devices for privileged containers.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::Problem;

/// What containerd leaves out of a privileged container's `/dev`: file systems of their own, and the console.
const LEFT_OUT: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
/// Directories below `/dev` are not nested deeper than this anywhere.
const DEPTH: u32 = 8;

/// Deny everything (`runc` adds `/dev/null` and its like, and those of `linux.devices`), or allow everything.
pub(super) fn rules(privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, Problem> {
    let rule = LinuxDeviceCgroupBuilder::default().allow(privileged).access("rwm").build();
    Ok(vec![rule.map_err(Problem::oci)?])
}

/// Every device node below `/dev`, as it is on the node. What vanishes while looking is left out.
pub(super) fn of_node() -> Result<Vec<LinuxDevice>, Problem> {
    let mut devices = Vec::new();
    walk(Path::new("/dev"), DEPTH, &mut devices).map_err(Problem::oci)?;
    Ok(devices)
}

fn walk(directory: &Path, depth: u32, devices: &mut Vec<LinuxDevice>) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        let kind = meta.file_type();
        if kind.is_dir() && depth > 0 {
            walk(&entry.path(), depth - 1, devices)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let built = LinuxDeviceBuilder::default()
                .path(entry.path())
                .typ(if kind.is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C })
                .major(rustix::fs::major(meta.rdev()))
                .minor(rustix::fs::minor(meta.rdev()))
                .file_mode(meta.mode() & 0o7777)
                .uid(meta.uid())
                .gid(meta.gid())
                .build();
            devices.push(built.map_err(io::Error::other)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_devices_are_found_with_their_numbers() {
        let devices = of_node().unwrap();
        let null = devices.iter().find(|device| device.path() == Path::new("/dev/null")).unwrap();
        assert_eq!((null.typ(), null.major(), null.minor()), (LinuxDeviceType::C, 1, 3));
        assert!(!devices.iter().any(|device| device.path().starts_with("/dev/pts")));
    }
}
