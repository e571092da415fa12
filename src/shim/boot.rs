//! `start`: from an execution by the host to a serving process whose parent is init.
//!
//! Fork and go on, without executing the binary again: the socket listens before the host hears of it, and a start
//! takes about a millisecond.

use std::collections::HashMap;
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
use super::bootstrap::{Bootstrap, LONGEST_ADDRESS};
use super::cgroup::Cgroup;
use super::events::Host;
use super::note::note;
use super::protocol::{LOCK_FILE, SOCKET_FILE, SUPERVISION_FILE};
use super::server::{Server, signals};

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
/// is told, and gets a short link if it has to, or if several containers share the shim.
fn told(args: &Args, bundle: &Path, socket_dir: &Path) -> PathBuf {
    let path = bundle.join(SOCKET_FILE);
    let group = if is_ours(bundle) { None } else { group(bundle) };
    if group.is_none() && (path.as_os_str().len() <= LONGEST_ADDRESS || is_ours(bundle)) {
        return path;
    }
    let whose = match group {
        Some(group) => format!("{}\n{}\n{group}", args.address, args.namespace),
        None => format!("{}\n{}\n{}", bundle.display(), args.namespace, args.id),
    };
    let mut name = String::new();
    for byte in Sha256::digest(whose) {
        name.push_str(&format!("{byte:02x}"));
    }
    socket_dir.join(name)
}

/// Whether our own engine made this bundle.
fn is_ours(bundle: &Path) -> bool {
    bundle.join(SUPERVISION_FILE).exists()
}

/// What the containers that share a shim have in common, by containerd's annotations.
fn group(bundle: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let spec: Spec = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).ok()?).ok()?;
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"]
        .iter()
        .find_map(|name| spec.annotations.get(*name))
        .cloned()
}

/// Takes socket and link away, unless the link leads to another container's shim.
pub fn unlisten(args: &Args, bundle: &Path, socket_dir: &Path) {
    let (own, told) = (bundle.join(SOCKET_FILE), told(args, bundle, socket_dir));
    if std::fs::read_link(&told).is_ok_and(|target| target == own) {
        let _ = std::fs::remove_file(told);
    }
    let _ = std::fs::remove_file(own);
}

/// Whether a shim serves at the end of a link.
fn is_served(path: &Path) -> bool {
    let connect = || -> rustix::io::Result<()> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connect().is_ok()
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

/// Binds, forks twice, prints the address and returns in the host's child; serves in the grandchild. A container whose
/// group has a shim is served by that one.
pub fn start(args: &Args, bundle: &Path) -> Result<(), BootError> {
    let other = |error: String| on("the host's request")(std::io::Error::other(error));
    let ours = is_ours(bundle);
    let host = if ours { Bootstrap::ours() } else { Bootstrap::read(args).map_err(other)? };
    let told = told(args, bundle, &host.socket_dir);
    let address = format!("unix://{}", told.display());
    let answer = || -> Result<(), BootError> {
        if !ours {
            // containerd finds the shim again by this file after its own restart.
            std::fs::write(bundle.join("address"), &address).map_err(on("address"))?;
        }
        let mut out = std::io::stdout();
        let bytes = host.answer(&address).map_err(other)?;
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(on("standard output"))
    };
    let linked = told.parent() != Some(bundle);
    // The first two of a group must not both make its shim.
    let mut turn = None;
    if linked {
        std::fs::create_dir_all(&host.socket_dir).map_err(on(host.socket_dir.display()))?;
        let dir = File::open(&host.socket_dir).map_err(on(host.socket_dir.display()))?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(on(host.socket_dir.display()))?;
        turn = Some(dir);
        if is_served(&told) {
            return answer();
        }
    }
    let lock = lock(bundle, PROBE)?;
    // What a dead shim left; the lock says that it is dead.
    unlisten(args, bundle, &host.socket_dir);
    let listener = listen()?;
    if linked {
        let _ = std::fs::remove_file(&told);
        std::os::unix::fs::symlink(bundle.join(SOCKET_FILE), &told).map_err(on(told.display()))?;
    }
    if !ours {
        settle(&host.shim_cgroup)?;
    }
    drop(turn);
    signals().thread_block().map_err(on("signal mask"))?;
    if fork().map_err(on("fork"))? {
        // The child in between ends at once, and only then is the grandchild init's.
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
        return answer();
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
    let Bootstrap { host, socket_dir, .. } = host;
    let code = match serve(args, listener, host) {
        Ok(()) => {
            unlisten(args, bundle, &socket_dir);
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

/// Takes the place that a shim has at another host than ours: its control group, and one above the host in the order in
/// which the kernel kills for memory, as containerd's own shims have it.
fn settle(cgroup: &str) -> Result<(), BootError> {
    if !cgroup.is_empty() {
        let directories = Cgroup::directories(cgroup);
        let join = |dir: &PathBuf| std::fs::write(dir.join("cgroup.procs"), "0");
        if directories.is_empty() {
            return Err(on(format!("the shim's cgroup {cgroup}"))(std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        directories.iter().try_for_each(join).map_err(on(format!("the shim's cgroup {cgroup}")))?;
    }
    let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
    let score = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj")).unwrap_or_default();
    if let Ok(score) = score.trim().parse::<i32>() {
        // Without the right to it, the shim is as likely a victim as any.
        let _ = std::fs::write("/proc/self/oom_score_adj", (score + 1).min(1000).to_string());
    }
    Ok(())
}

fn serve(args: &Args, listener: OwnedFd, host: Host) -> Result<(), BootError> {
    // The host reads our standard output to its end.
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(on("/dev/null"))?;
    let null = null.as_fd();
    rustix::stdio::dup2_stdin(null).map_err(on("/dev/null"))?;
    rustix::stdio::dup2_stdout(null).map_err(on("/dev/null"))?;
    rustix::stdio::dup2_stderr(null).map_err(on("/dev/null"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(on("sub-reaper"))?;
    let mut server = Server::new(listener, args.namespace.clone(), host).map_err(on("the event loop"))?;
    server.run().map_err(on("the event loop"))
}
