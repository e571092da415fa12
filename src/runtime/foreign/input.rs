//! Standard input of another runtime's task. Such a shim holds its FIFO open for writing itself, so that a process never
//! reads an end of file that is none; it wants to be told (`CloseIO`) when whoever writes has gone.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::oneshot;

use crate::runtime::ShimClient;

/// A FIFO that is watched. To be made before the shim knows of it.
pub struct InputEnd(OwnedFd);

impl InputEnd {
    /// Watches for the writer's end, however it comes; the kernel tells.
    pub fn watch(fifo: &Path) -> Option<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC).ok()?;
        inotify::add_watch(&watch, fifo, WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF).ok()?;
        Some(Self(watch))
    }

    /// Tells the shim when it has come. `exec_id` empty is the task itself.
    pub fn tell(self, client: ShimClient, exec_id: String) {
        let (ended, end) = oneshot::channel();
        // A thread that nobody waits for: it ends with the FIFO, which goes with the command in the foreground.
        std::thread::spawn(move || {
            while poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
            let _ = ended.send(());
        });
        tokio::spawn(async move {
            if end.await.is_ok() {
                // Its process may have ended first.
                if let Err(error) = client.close_stdin(&exec_id).await {
                    tracing::debug!(%error, "the end of standard input");
                }
            }
        });
    }
}
