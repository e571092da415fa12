//! Starting a created container without executing the runtime again.
//!
//! After `runc create` the container's first process waits in `open(2)` of `exec.fifo` in the runtime's state
//! directory; `runc start` opens the other side, reads the byte that comes and removes the FIFO, and the FIFO's
//! absence is what makes the state "running" for every later runc (libcontainer's `exec`, the same since 1.0). Doing
//! these three calls here saves an execution of 8 ms out of 40. Other runtimes' `start` is executed: crun has a FIFO of
//! the same name and the opposite direction.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::poll::Poll;
use super::runc::Runtime;
use super::stdio::open_nonblocking;

/// The process only has to be scheduled; a machine that cannot do that in this time is in trouble.
const PATIENCE: Duration = Duration::from_secs(60);

/// A start under way.
pub struct FifoStart {
    fd: OwnedFd,
    token: u64,
    path: PathBuf,
    /// When it has failed.
    pub deadline: Instant,
}

impl FifoStart {
    /// Lets the container go; `None` if this runtime has to do it.
    pub fn begin(runtime: &Runtime, id: &str, now: Instant, poll: &mut Poll) -> Option<Self> {
        if runtime.binary.file_name()? != "runc" {
            return None;
        }
        let path = runtime.state_dir(id).join("exec.fifo");
        let is_fifo = |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo();
        let fd = open_nonblocking(path.to_str()?, OFlags::RDONLY | OFlags::NOFOLLOW).ok()?;
        if !rustix::fs::fstat(&fd).is_ok_and(is_fifo) {
            return None;
        }
        let token = poll.add(&fd, EventFlags::IN).ok()?;
        Some(Self { fd, token, path, deadline: now + PATIENCE })
    }

    /// Whether the token is this start's.
    pub fn owns(&self, token: u64) -> bool {
        self.token == token
    }

    /// Looks: `Some(true)` it was started, `Some(false)` it never will be, `None` not yet.
    pub fn look(&self) -> Option<bool> {
        let mut byte = [0u8; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut byte[..])) {
            Ok(0) => Some(false),
            Ok(_) => {
                let _ = std::fs::remove_file(&self.path);
                Some(true)
            }
            Err(Errno::AGAIN) => None,
            Err(_) => Some(false),
        }
    }
}
