//! The way a terminal comes: the runtime connects to a socket of ours and sends the terminal's master (runc, "Detached
//! and new terminal"). Everything here is non-blocking; the execution that is to send it has its own deadline.
//!
//! Invariant: the socket lies in the bundle under a name of its own, and is gone from there once the master has come or
//! is no longer waited for.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::termios::Winsize;

use super::poll::Poll;

/// A terminal that is on its way.
pub struct Console {
    bundle: OwnedFd,
    name: String,
    /// The listener, and once somebody connected, the connection.
    socket: OwnedFd,
    token: u64,
    connected: bool,
}

impl Console {
    /// Listens; gives the path that the runtime is told, which is short wherever the bundle is.
    pub fn listen(bundle: &Path, poll: &mut Poll) -> Result<(Self, PathBuf), String> {
        let fail = |error: rustix::io::Errno| format!("console socket in {}: {error}", bundle.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(bundle, flags, Mode::empty()).map_err(fail)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail)?;
        let token = poll.add(&socket, EventFlags::IN).map_err(fail)?;
        let name = format!("console-{token}.sock");
        // Our own name for the bundle is as good as its path and has no length.
        let path = PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), dir.as_raw_fd()));
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = SocketAddrUnix::new(&path).and_then(|address| rustix::net::bind(&socket, &address));
        rustix::process::umask(before);
        bound.and_then(|()| rustix::net::listen(&socket, 1)).map_err(fail)?;
        Ok((Self { bundle: dir, name, socket, token, connected: false }, path))
    }

    /// Whether the token is this one's.
    pub fn owns(&self, token: u64) -> bool {
        self.token == token
    }

    /// Takes the next step: accepts the runtime, then the master, which comes back non-blocking. `Err`: it will not come.
    pub fn advance(&mut self, poll: &mut Poll) -> Result<Option<OwnedFd>, String> {
        let fail = |error: rustix::io::Errno| format!("console socket: {error}");
        if !self.connected {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(connection) => {
                    poll.remove(&self.socket);
                    self.token = poll.add(&connection, EventFlags::IN).map_err(fail)?;
                    self.socket = connection;
                    self.connected = true;
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => return Ok(None),
                Err(error) => return Err(fail(error)),
            }
        }
        // The message is the terminal's name; what counts comes beside it.
        let mut name = [0; 128];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut name)];
        match rustix::net::recvmsg(&self.socket, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(fail(error)),
            Ok(_) => {}
        }
        let mut files = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let master = files.next().ok_or("console socket: the runtime sent no terminal")?;
        if !rustix::termios::isatty(&master) {
            return Err("console socket: what the runtime sent is no terminal".to_owned());
        }
        rustix::io::ioctl_fionbio(&master, true).map_err(fail)?;
        Ok(Some(master))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.bundle, &self.name, AtFlags::empty());
    }
}

/// Tells a terminal, by its master, how large it is.
pub fn resize(master: &OwnedFd, (width, height): (u16, u16)) -> rustix::io::Result<()> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size)
}
