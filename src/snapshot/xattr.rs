//! Extended attributes of layers: which are taken, and how they get onto files that cannot be opened.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{XattrFlags, fsetxattr, lsetxattr};
use rustix::io::Errno;

/// What makes a directory hide what lies below it, as overlayfs defines it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Marks a directory opaque.
pub fn set_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether a layer may set this attribute. Overlayfs' own would let a layer redirect lookups; SELinux
/// labels belong to the host's policy.
pub fn is_taken(name: &[u8]) -> bool {
    let refused = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux", b"security.apparmor"];
    let spaces = [&b"user."[..], b"trusted.", b"security.", b"system.posix_acl_"];
    spaces.iter().any(|s| name.starts_with(s)) && !refused.iter().any(|r| name.starts_with(r))
}

/// Whether a refusal means that this file system or file type has no such attribute, which is no reason
/// to refuse the layer.
fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::NOTSUP | Errno::PERM | Errno::INVAL)
}

/// Sets an entry's attributes on an open file or directory.
pub fn apply(file: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> rustix::io::Result<()> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_taken(name)) {
        match fsetxattr(file.as_fd(), name.as_slice(), value, XattrFlags::empty()) {
            Err(error) if is_unsupported(error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Sets an entry's attributes on what must not be opened: links, devices, FIFOs. `name` is one component.
pub fn apply_at(directory: impl AsFd, name: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> rustix::io::Result<()> {
    if xattrs.iter().all(|(name, _)| !is_taken(name)) {
        return Ok(());
    }
    // There is no setxattrat before Linux 6.13; the magic link is the directory itself, whatever its path.
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    for (name, value) in xattrs.iter().filter(|(name, _)| is_taken(name)) {
        match lsetxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty()) {
            Err(error) if is_unsupported(error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether a directory hides what lies below it.
pub fn is_opaque(directory: impl AsFd) -> bool {
    rustix::fs::fgetxattr(directory, OPAQUE, &mut [0u8; 4]).is_ok()
}
