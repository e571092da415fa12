//! Brings what is written to the disk while more is being written, so that the sync before a name is given finds little.
//!
//! Owns a descriptor of the file system and a thread. Invariant: nothing here makes a promise; whoever needs bytes to be
//! durable syncs them, as without this. Depends on nothing.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::syncfs;

/// What is written between two looks, in bytes: short enough to leave little to the end, long enough that the disk is
/// not asked to commit its journal all the time.
const STEP: u64 = 48 << 20;
/// What a file weighs beside its bytes: its inode, its name, its place in the journal.
const FILE: u64 = 16 << 10;

/// See the module. Dropped, it is at rest.
pub struct Writeback {
    /// Wakes the thread; one wish waits while another is carried out.
    wishes: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    written: AtomicU64,
}

impl Writeback {
    /// Over the file system that holds `file`.
    pub fn over(file: File) -> std::io::Result<Self> {
        let (sender, wishes) = sync_channel(1);
        // Whatever is wrong with the disk, the sync that counts says it.
        let run = move || {
            for () in wishes {
                let _ = syncfs(&file);
            }
        };
        let thread = std::thread::Builder::new().name("writeback".to_owned()).stack_size(64 << 10).spawn(run)?;
        Ok(Self { wishes: Some(sender), thread: Some(thread), written: AtomicU64::new(0) })
    }

    /// One more file of so many bytes was written.
    pub fn wrote(&self, bytes: u64) {
        let weight = bytes.saturating_add(FILE);
        let before = self.written.fetch_add(weight, Ordering::Relaxed);
        if before / STEP != before.wrapping_add(weight) / STEP
            && let Some(wishes) = &self.wishes
        {
            let _ = wishes.try_send(());
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
