//! Whether somebody has a file open for writing.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc;

/// `Some(true)` while any process has the file open for writing, `Some(false)` when none has, `None` where
/// the file system or our rights cannot tell. The file must be open for reading only.
///
/// A read lease is granted exactly when nobody has the file open for writing (`fcntl(2)`, "Leases"); it is
/// given back at once. This needs no memory of events, so it is right after a restart and an overflow too.
#[allow(unsafe_code)] // Neither rustix nor nix has leases.
pub(super) fn open_for_writing(file: &File) -> Option<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open for as long as `file` is borrowed; these commands take integers only.
    let set = |command: libc::c_int, argument: libc::c_int| unsafe { libc::fcntl(fd, command, argument) };
    // A writer that opens the file in the microsecond between lease and release is made to wait, and we are
    // sent a signal: by default SIGIO, whose default is to kill. SIGURG's is to be ignored.
    if set(F_SETSIG, libc::SIGURG) != 0 {
        return None;
    }
    if set(libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) == 0 {
        set(libc::F_SETLEASE, libc::F_UNLCK as libc::c_int);
        return Some(false);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Some(true),
        _ => None,
    }
}

/// `fcntl.h` of Linux; the same on every architecture.
const F_SETSIG: libc::c_int = 10;
