//! The one `epoll` instance: registration under tokens that are never used twice, so that an event that was
//! already fetched when its source went away finds nobody, and the two buffers that all streams share.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Bytes taken from a pipe at a time: what a pipe holds.
pub const CHUNK: usize = 64 << 10;

/// See the module.
pub struct Poll {
    epoll: OwnedFd,
    next: u64,
    /// What was read last; empty while idle.
    pub chunk: Vec<u8>,
    /// Log lines on their way to a file; empty while idle.
    pub text: Vec<u8>,
}

impl Poll {
    /// A new instance.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, next: 1, chunk: Vec::new(), text: Vec::new() })
    }

    /// Watches `source`; its events carry the token that comes back.
    pub fn add(&mut self, source: impl AsFd, flags: EventFlags) -> rustix::io::Result<u64> {
        let token = self.next;
        epoll::add(&self.epoll, source, EventData::new_u64(token), flags)?;
        self.next += 1;
        Ok(token)
    }

    /// Watches for something else.
    pub fn modify(&self, source: impl AsFd, token: u64, flags: EventFlags) -> rustix::io::Result<()> {
        epoll::modify(&self.epoll, source, EventData::new_u64(token), flags)
    }

    /// Watches no longer. (A closed descriptor leaves by itself.)
    pub fn remove(&self, source: impl AsFd) {
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Waits until something happens or `deadline`; fills `events`.
    pub fn wait(&mut self, events: &mut Vec<Event>, deadline: Option<Instant>) -> rustix::io::Result<()> {
        events.clear();
        // What is over a millisecond is rounded up by the kernel interface below; never wake too early and spin.
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| {
            let whole = left + Duration::from_nanos(999_999);
            Timespec {
                tv_sec: whole.as_secs().min(1 << 30) as i64,
                tv_nsec: i64::from(whole.subsec_millis()) * 1_000_000,
            }
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads what there is, up to a pipe's capacity, into [`Self::chunk`]; 0 at the end.
    pub fn read(&mut self, source: impl AsFd) -> rustix::io::Result<usize> {
        self.chunk.clear();
        self.chunk.reserve_exact(CHUNK);
        rustix::io::retry_on_intr(|| rustix::io::read(&source, rustix::buffer::spare_capacity(&mut self.chunk)))
    }

    /// Gives the buffers back to the kernel.
    pub fn shrink(&mut self) {
        self.chunk = Vec::new();
        self.text = Vec::new();
        crate::heap::trim();
    }
}
