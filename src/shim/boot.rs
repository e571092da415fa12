//! `start`: from an execution by the host to a serving process whose parent is init.
//!
//! Fork and go on, without executing the binary again: the socket listens before the host hears of it, and a start
//! takes about a millisecond.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::ForkResult;
use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

use super::args::Args;
use super::note::note;
use super::protocol::{LOCK_FILE, SOCKET_FILE, SUPERVISION_FILE};
use super::server::{Server, signals};

/// Longest path that a socket address holds.
const LONGEST_ADDRESS: usize = 107;
/// Where containerd's shims put sockets, for hosts whose bundles have long paths.
const SHORT_DIR: &str = "/run/containerd/s";

/// Somebody who only looks whether a shim lives holds the lock for an instant.
const PROBE: Duration = Duration::from_millis(100);

/// Why a shim did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Another one lives.
    #[error("a shim is alive in bundle {}; connect to its socket, or end it first", .0.display())]
    Alive(PathBuf),
    /// Something with a path went wrong.
    #[error("{what}: {source}")]
    Io {
        /// On what.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Names the object of an I/O error.
pub fn on<E: Into<std::io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> BootError {
    move |source| BootError::Io { what: what.to_string(), source: source.into() }
}

/// Takes the bundle's lock, trying until `patience` is over. It is held as long as the file, or a copy of its
/// descriptor in a forked child, is open.
pub fn lock(bundle: &Path, patience: Duration) -> Result<File, BootError> {
    let path = bundle.join(LOCK_FILE);
    let until = Instant::now() + patience;
    loop {
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(on(path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // The shim before us may have removed the file when it went; the lock must be on the one that is seen.
            Ok(()) => {
                let same = |seen: std::fs::Metadata| {
                    file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (seen.dev(), seen.ino()))
                };
                if std::fs::metadata(&path).is_ok_and(same) {
                    return Ok(file);
                }
            }
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BootError::Alive(bundle.to_owned())),
            Err(error) => return Err(on(path.display())(error)),
        }
    }
}

/// The path that the host is told. The socket itself is always in the bundle, bound by its bare name from there, so that
/// no bundle's path is too long. Our own engine reaches it through a descriptor of the bundle; another host dials what it
/// is told, and gets a short link if it has to.
fn told(args: &Args, bundle: &Path) -> PathBuf {
    let path = bundle.join(SOCKET_FILE);
    if path.as_os_str().len() <= LONGEST_ADDRESS || is_ours(bundle) {
        return path;
    }
    let mut name = String::new();
    for byte in Sha256::digest(format!("{}\n{}\n{}", bundle.display(), args.namespace, args.id)) {
        name.push_str(&format!("{byte:02x}"));
    }
    Path::new(SHORT_DIR).join(name)
}

/// Whether our own engine made this bundle.
fn is_ours(bundle: &Path) -> bool {
    bundle.join(SUPERVISION_FILE).exists()
}

/// Takes socket and link away.
pub fn unlisten(args: &Args, bundle: &Path) {
    for path in [bundle.join(SOCKET_FILE), told(args, bundle)] {
        let _ = std::fs::remove_file(path);
    }
}

/// Listens in the bundle, which is the working directory.
fn listen() -> Result<OwnedFd, BootError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bind = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(SOCKET_FILE)?);
        rustix::process::umask(before);
        bound?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket)
    };
    bind().map_err(on(SOCKET_FILE))
}

/// Binds, forks twice, prints the address and returns in the host's child; serves in the grandchild.
pub fn start(args: &Args, bundle: &Path) -> Result<(), BootError> {
    let lock = lock(bundle, PROBE)?;
    // What a dead shim left; the lock says that it is dead.
    unlisten(args, bundle);
    let listener = listen()?;
    let told = told(args, bundle);
    if told.parent() != Some(bundle) {
        std::fs::create_dir_all(SHORT_DIR).map_err(on(SHORT_DIR))?;
        std::os::unix::fs::symlink(bundle.join(SOCKET_FILE), &told).map_err(on(told.display()))?;
    }
    if !is_ours(bundle) {
        // containerd finds the shim again by this file after its own restart.
        std::fs::write(bundle.join("address"), format!("unix://{}", told.display())).map_err(on("address"))?;
    }
    signals().thread_block().map_err(on("signal mask"))?;
    if fork().map_err(on("fork"))? {
        // The child in between ends at once, and only then is the grandchild init's.
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
        let mut out = std::io::stdout();
        return write!(out, "unix://{}", told.display()).and_then(|()| out.flush()).map_err(on("standard output"));
    }
    let _ = rustix::process::setsid();
    match fork() {
        Ok(false) => {}
        Ok(true) => std::process::exit(0),
        Err(error) => {
            note(format_args!("fork: {error}"));
            std::process::exit(1);
        }
    }
    let code = match serve(args, listener) {
        Ok(()) => {
            unlisten(args, bundle);
            let _ = std::fs::remove_file(bundle.join(LOCK_FILE));
            0
        }
        Err(error) => {
            note(format_args!("the shim ends: {error}"));
            1
        }
    };
    drop(lock);
    std::process::exit(code)
}

/// True in the parent.
fn fork() -> nix::Result<bool> {
    #[allow(unsafe_code, reason = "fork is unsafe in a process with threads; the shim never has a second one")]
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(matches!(forked, ForkResult::Parent { .. }))
}

fn serve(args: &Args, listener: OwnedFd) -> Result<(), BootError> {
    // The host reads our standard output to its end.
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(on("/dev/null"))?;
    let null = null.as_fd();
    rustix::stdio::dup2_stdin(null).map_err(on("/dev/null"))?;
    rustix::stdio::dup2_stdout(null).map_err(on("/dev/null"))?;
    rustix::stdio::dup2_stderr(null).map_err(on("/dev/null"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(on("sub-reaper"))?;
    let mut server = Server::new(listener, args.namespace.clone()).map_err(on("the event loop"))?;
    server.run().map_err(on("the event loop"))
}
