//! What an execution of the runtime says on its standard error: the end of it is kept, because a runtime that breaks
//! before it has opened its log says why nowhere else.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::poll::Poll;

/// Bytes kept of the end.
const KEPT: usize = 4 << 10;

/// See the module.
#[derive(Default)]
pub struct Said {
    tail: Vec<u8>,
    /// Where it comes from, and under which token; `None` when somebody else reads it and [`Self::add`]s.
    pipe: Option<(OwnedFd, u64)>,
}

impl Said {
    /// The one that listens, and the end for the execution to write to. `None` where there is no descriptor for it:
    /// then its words are lost, and nothing else.
    pub fn pipe(poll: &mut Poll) -> Option<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        rustix::io::ioctl_fionbio(&ours, true).ok()?;
        let token = poll.add(&ours, EventFlags::IN).ok()?;
        Some((Self { tail: Vec::new(), pipe: Some((ours, token)) }, theirs))
    }

    /// Keeps the last of `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        self.tail.drain(..self.tail.len().saturating_sub(KEPT));
    }

    /// Whether the token is this pipe's.
    pub fn owns(&self, token: u64) -> bool {
        self.pipe.as_ref().is_some_and(|(_, own)| *own == token)
    }

    /// Takes what the pipe holds now. Never waits.
    pub fn read(&mut self, poll: &mut Poll) {
        // One chunk is what a pipe holds; a writer that is faster than this is called again for.
        let Some((fd, _)) = &self.pipe else { return };
        match poll.read(fd) {
            Ok(length) if length > 0 => {
                let chunk = std::mem::take(&mut poll.chunk);
                self.add(&chunk);
                poll.chunk = chunk;
            }
            Err(Errno::AGAIN) => {}
            _ => self.pipe = None,
        }
    }

    /// The last lines as one, fit for a message; `None` if nothing was said.
    pub fn text(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let plain = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned();
        let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_made_plain() {
        let mut said = Said::default();
        assert_eq!(said.text(), None);
        said.add(b"\n \x1b\n");
        assert_eq!(said.text(), None);
        said.add(b"panic: \x1b[31mno\n\n\tat main.go:1\n");
        assert_eq!(said.text().as_deref(), Some("panic: [31mno; at main.go:1"));
        for _ in 0..3 {
            said.add(&vec![b'x'; 3 * KEPT]);
            said.add(b"\nlast words");
            assert_eq!(said.tail.len(), KEPT);
        }
        assert!(said.text().is_some_and(|text| text.ends_with("x; last words")));
    }
}
