//! Brings what is written to the disk while more is being written, so that the sync before a name is given finds little.
//!
//! Owns no file. Invariant: nothing here makes anything durable or waits for the disk; whoever needs the bytes there
//! syncs them, as without this. Depends on nothing.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A file of which less is written is left to the sync: asking costs as much as writing it.
pub const WORTH_IT: u64 = 256 << 10;

/// Files that wait to be looked at. One more is left to the sync.
const WAITING: usize = 64;

/// Lets the kernel begin to write `length` bytes from `offset` on; 0 is to the end of the file. It may wait until the
/// device takes the request.
pub fn begin(file: &File, offset: u64, length: u64) {
    let signed = |number: u64| i64::try_from(number).unwrap_or(0);
    #[allow(unsafe_code, reason = "neither rustix nor nix has sync_file_range(2), which takes no pointer")]
    // Best effort: the file system may not know it.
    let _ = unsafe {
        nix::libc::sync_file_range(file.as_raw_fd(), signed(offset), signed(length), nix::libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// A thread to which finished files are given, so that nobody who has more to do waits for the device. Dropped, it has
/// begun with all that it took, and holds no file open: a program that is open for writing cannot be executed.
pub struct Writeback {
    files: Option<SyncSender<File>>,
    thread: Option<JoinHandle<()>>,
}

impl Writeback {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, files) = sync_channel::<File>(WAITING);
        let run = move || files.iter().for_each(|file| begin(&file, 0, 0));
        let thread = std::thread::Builder::new().name("writeback".to_owned()).stack_size(64 << 10).spawn(run)?;
        Ok(Self { files: Some(sender), thread: Some(thread) })
    }

    /// Takes a file of which `written` bytes were written.
    pub fn give(&self, file: File, written: u64) {
        if written >= WORTH_IT
            && let Some(files) = &self.files
        {
            let _ = files.try_send(file);
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.files = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
