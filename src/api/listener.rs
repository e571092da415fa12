//! The unix socket: bound with mode 0600, never over a living one, of any path length.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Class, Fault, Result};

/// A path of this many bytes or more does not fit `sockaddr_un` (unix(7): 108 with the final zero).
const SUN_PATH: usize = 108;

/// A bound socket, not answering yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    remove: RemoveAtEnd,
}

/// Removes the socket's name when dropped, unless another process has put its own there.
#[derive(Debug)]
pub(super) struct RemoveAtEnd {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for RemoveAtEnd {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Binds `address`. A dead socket there is replaced; a living one is `Refused`.
    ///
    /// The socket gets its mode under another name and then its own by rename, so that nobody but root
    /// ever reaches it.
    pub fn bind(address: &Path) -> Result<Self> {
        let fault = |error: &io::Error| {
            Fault::new(Class::Refused, format!("socket {} cannot be made: {error}", address.display()))
                .help("give another one with --address, or run as root")
        };
        match connect(address) {
            Ok(_) => {
                return Err(Fault::new(Class::Refused, format!("a daemon answers on {} already", address.display()))
                    .help("end it first, or give this one another --state and --address"));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(fault(&error)),
        }
        let mut name = address.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let temporary = address.with_file_name(name);
        let bound = (|| {
            let _ = fs::remove_file(&temporary);
            let socket = reach(&temporary, |path| UnixListener::bind(path))?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
            socket.set_nonblocking(true)?;
            let metadata = fs::symlink_metadata(&temporary)?;
            fs::rename(&temporary, address)?;
            Ok((socket, (metadata.dev(), metadata.ino())))
        })();
        match bound {
            Ok((socket, inode)) => Ok(Self { socket, remove: RemoveAtEnd { path: address.into(), inode } }),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(fault(&error))
            }
        }
    }

    /// Where it is bound.
    pub fn address(&self) -> &Path {
        &self.remove.path
    }

    pub(super) fn into_parts(self) -> io::Result<(tokio::net::UnixListener, RemoveAtEnd)> {
        Ok((tokio::net::UnixListener::from_std(self.socket)?, self.remove))
    }
}

/// Connects to a socket at a path of any length.
pub(super) fn connect(address: &Path) -> io::Result<UnixStream> {
    reach(address, |path| UnixStream::connect(path))
}

/// Whether nobody listens there: no name, or a name that a dead process left.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Runs `operation` with a path that fits a socket address: the given one, or its name beneath a
/// descriptor of its directory (proc(5), `/proc/self/fd`).
fn reach<T>(path: &Path, operation: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < SUN_PATH {
        return operation(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no directory"));
    };
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    operation(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_and_gone_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(&path).unwrap();
        drop(listener);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(is_absent(&connect(&path).unwrap_err()));
        let living = Listener::bind(&path).unwrap();
        let fault = Listener::bind(&path).unwrap_err();
        assert_eq!((fault.class, fault.message.contains("answers on")), (Class::Refused, true));
        drop(living);
    }

    #[test]
    fn a_socket_of_a_later_process_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.sock");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        drop(first);
        connect(&path).unwrap();
    }

    #[test]
    fn paths_longer_than_a_socket_address_work() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let listener = Listener::bind(&deep.join("b.sock")).unwrap();
        connect(listener.address()).unwrap();
    }
}
