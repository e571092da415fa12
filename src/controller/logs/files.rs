//! The files of a container's log in the order they were written, over rotations and attempts.
//!
//! A file is known by its inode and read through a descriptor, so that its name may change and even go. A thread of its
//! own opens files as soon as the kernel tells of them, whatever their reader does meanwhile: a writer that rotates
//! faster than its reader reads loses nothing, within [`HELD`]. What is beyond that is never passed over in silence: it is
//! counted by what the kernel told, and where that may not be all, said to be unknown.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
use tokio::sync::Notify;

/// Bytes of files that are kept from vanishing for one reader.
const HELD: u64 = 256 << 20;
/// Descriptors that one reader has at most.
const OPEN: usize = 256;
/// Where the kernel gives no watch, a look this often.
const LOOK: Duration = Duration::from_secs(1);

/// How many files were rotated away before anybody opened them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// So many.
    Files(u64),
    /// There may have been some: the kernel could not be asked, or had too much to tell.
    Unknown,
}

impl Missing {
    const NONE: Self = Self::Files(0);
}

/// One file.
#[derive(Clone)]
pub struct LogFile {
    /// Its attempt.
    pub attempt: u32,
    /// Itself.
    pub file: Arc<File>,
    /// How far it was read.
    pub offset: u64,
    /// Files before it that nobody reads any more: they were rotated away.
    pub missing: Missing,
    /// Its bytes when it was opened: where a reader that does not follow ends.
    pub size: u64,
    inode: u64,
}

/// See the module.
pub struct Files {
    shared: Arc<Shared>,
    /// What the thread is ended by; none while there is none.
    stop: Option<OwnedFd>,
    follow: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Queue {
    directory: PathBuf,
    /// The watch on the directory, once there is one.
    watch: Option<OwnedFd>,
    /// Not read to their ends yet, oldest first; the last one stays, also when it is: its inode is what those that come
    /// are told apart by.
    files: VecDeque<LogFile>,
    first_attempt: u32,
    /// Something happened in the directory that was not looked at.
    stirred: bool,
    /// Files that the kernel told of, less those that were found.
    untold: i64,
    /// There may be more than it told of.
    unsure: bool,
}

impl Files {
    /// Those of an attempt that are there; with `follow` those to come as well, of later attempts too.
    pub fn open(directory: PathBuf, attempt: u32, follow: bool) -> Self {
        let files = VecDeque::new();
        let mut queue =
            Queue { directory, watch: None, files, first_attempt: attempt, stirred: true, untold: 0, unsure: false };
        if follow {
            queue.begin();
        }
        queue.gather();
        // What was found is not told from what the kernel tells of meanwhile; from here on it is.
        queue.drain();
        (queue.untold, queue.unsure) = (0, false);
        if !follow {
            queue.files.retain(|file| file.attempt == attempt);
        }
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Notify::new() });
        let mut files = Self { shared, stop: None, follow };
        files.gather();
        files
    }

    /// The file to read from.
    pub fn front(&self) -> Option<LogFile> {
        self.shared.queue().files.front().cloned()
    }

    /// The front file was read so far, and what was missing before it was told.
    pub fn was_read(&self, offset: u64) {
        if let Some(front) = self.shared.queue().files.front_mut() {
            (front.offset, front.missing) = (offset, Missing::NONE);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<LogFile> {
        self.shared.queue().files.iter().cloned().collect()
    }

    /// The front file was read to its end; whether there is another.
    pub fn pop(&self) -> bool {
        let mut queue = self.shared.queue();
        if queue.files.len() > 1 {
            queue.files.pop_front();
            // There may be room for those that were not taken.
            queue.stirred |= queue.untold > 0;
            return true;
        }
        false
    }

    /// The attempt of the newest file.
    pub fn newest_attempt(&self) -> Option<u32> {
        self.shared.queue().files.back().map(|file| file.attempt)
    }

    /// Until something happened in the directory.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Opens what is new, if anything happened, and begins to watch where the directory has come to be.
    pub fn gather(&mut self) {
        let mut queue = self.shared.queue();
        if self.follow && queue.watch.is_none() {
            queue.begin();
        }
        queue.gather();
        drop(queue);
        if self.follow && self.stop.is_none() {
            self.stop = attend(Arc::clone(&self.shared));
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(stop) = &self.stop {
            let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
        }
    }
}

/// Starts the thread that opens what comes, until the descriptor that it gives is written to.
fn attend(shared: Arc<Shared>) -> Option<OwnedFd> {
    let stop = eventfd(0, EventfdFlags::CLOEXEC).ok()?;
    let told = stop.try_clone().ok()?;
    let look = Timespec { tv_sec: i64::try_from(LOOK.as_secs()).unwrap_or(1), tv_nsec: 0 };
    let attending = move || {
        // It does little, and that at once or in vain: on a busy machine it goes first, where that is permitted. (0 is this
        // thread, setpriority(2).)
        let _ = rustix::process::setpriority_process(None, -10);
        let mut watch: Option<OwnedFd> = None;
        loop {
            if watch.is_none() {
                watch = shared.queue().watch.as_ref().and_then(|watch| watch.try_clone().ok());
            }
            let stopped = PollFd::new(&told, PollFlags::IN);
            let polled = match &watch {
                Some(watch) => poll(&mut [stopped, PollFd::new(watch, PollFlags::IN)], None),
                None => poll(&mut [stopped], Some(&look)),
            };
            if polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
                return;
            }
            let mut end = [PollFd::new(&told, PollFlags::IN)];
            if poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
                return;
            }
            let mut queue = shared.queue();
            if queue.watch.is_none() {
                queue.begin();
                queue.stirred = true;
            }
            queue.gather();
            drop(queue);
            shared.changed.notify_one();
        }
    };
    std::thread::Builder::new().name("log".into()).spawn(attending).ok()?;
    Some(stop)
}

impl Queue {
    /// Opens what is new, if anything happened. Quick: a listing and a few `open`s.
    fn gather(&mut self) {
        self.drain();
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        if self.files.len() >= OPEN || self.held() > HELD {
            return;
        }
        // A file may be between two names at the moment of a look; one that has a name is found by the next.
        for _ in 0..5 {
            let (found, reached) = self.look();
            let gone = self.files.back().is_some_and(|newest| newest.file.metadata().is_ok_and(|m| m.nlink() == 0));
            if !reached && !gone && !self.files.is_empty() {
                continue;
            }
            self.take(found, reached);
            return;
        }
        self.stirred = true;
    }

    fn take(&mut self, mut found: Vec<LogFile>, reached: bool) {
        self.untold -= found.len() as i64;
        // Where the last one is gone, those in between may be, too; the kernel told of each.
        if !reached && let Some(first) = found.first_mut() {
            first.missing = match self.unsure || self.watch.is_none() {
                true => Missing::Unknown,
                false => Missing::Files(self.untold.max(0).unsigned_abs()),
            };
        }
        if reached || !found.is_empty() {
            self.untold = self.untold.min(0);
            self.unsure = false;
        }
        self.files.extend(found);
    }

    fn held(&self) -> u64 {
        self.files.iter().map(|file| file.file.metadata().map_or(0, |metadata| metadata.len())).sum()
    }

    /// Files that are newer than the newest known one, oldest first, and whether that one was met.
    fn look(&self) -> (Vec<LogFile>, bool) {
        let newest = self.files.back();
        let from = newest.map_or(self.first_attempt, |file| file.attempt);
        let mut names: Vec<(u32, u32)> = std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| parse(entry.file_name().to_str()?))
            .filter(|(attempt, _)| *attempt >= from)
            .collect();
        names.sort_unstable();
        let (mut found, mut reached) = (Vec::new(), newest.is_none());
        for part in names.chunk_by(|a, b| a.0 == b.0) {
            let attempt = part[0].0;
            let last = part[part.len() - 1].1;
            let mut own: Vec<LogFile> = Vec::new();
            // From the newest name to the oldest: files move that way, so that one is seen twice rather than never.
            for number in 0..=last.saturating_add(2) {
                let Some(file) = self.open_one(attempt, number) else { continue };
                if newest.is_some_and(|newest| newest.inode == file.inode) {
                    reached = true;
                    break;
                }
                if own.iter().all(|other| other.inode != file.inode) {
                    own.push(file);
                }
            }
            found.extend(own.into_iter().rev());
        }
        (found, reached)
    }

    fn open_one(&self, attempt: u32, number: u32) -> Option<LogFile> {
        let name = if number == 0 { format!("{attempt}.log") } else { format!("{attempt}.log.{number}") };
        let mut options = File::options();
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.read(true).custom_flags(flags.bits().cast_signed());
        let file = options.open(self.directory.join(name)).ok()?;
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let (inode, size) = (metadata.ino(), metadata.len());
        Some(LogFile { attempt, file: Arc::new(file), offset: 0, missing: Missing::NONE, inode, size })
    }

    // The descriptor is owned here and lives as long as its watch, which is all that the deprecation is about.
    #[allow(deprecated)]
    fn begin(&mut self) {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let Ok(descriptor) = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) else { return };
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        if add_watch(&descriptor, &self.directory, events).is_ok() {
            self.watch = Some(descriptor);
            self.stirred = true;
        }
    }

    /// Takes what the kernel has to tell.
    fn drain(&mut self) {
        use rustix::fs::inotify::{ReadFlags, Reader};
        let from = self.files.back().map_or(self.first_attempt, |file| file.attempt);
        let Some(watch) = &self.watch else { return };
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut reader = Reader::new(watch.as_fd(), &mut buffer);
        let mut created = 0;
        while let Ok(event) = reader.next() {
            let flags = event.events();
            self.unsure |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().and_then(|name| name.to_str().ok()).and_then(parse);
            let is_new = name.is_some_and(|(attempt, number)| attempt >= from && number == 0);
            created += i64::from(flags.contains(ReadFlags::CREATE) && is_new);
        }
        self.untold += created;
        self.stirred |= created > 0 || self.unsure;
    }
}

/// `3.log` → (3, 0), `3.log.2` → (3, 2).
fn parse(name: &str) -> Option<(u32, u32)> {
    let (attempt, rest) = name.split_once(".log")?;
    let number = match rest {
        "" => 0,
        rest => rest.strip_prefix('.')?.parse().ok()?,
    };
    Some((attempt.parse().ok()?, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// As the shim rotates.
    fn rotate(directory: &Path, files: u32) {
        let name = |number: u32| directory.join(format!("1.log.{number}"));
        for number in (1..files - 1).rev() {
            let _ = std::fs::rename(name(number), name(number + 1));
        }
        std::fs::rename(directory.join("1.log"), name(1)).unwrap();
    }

    fn text(file: &LogFile) -> String {
        std::io::read_to_string(&*file.file).unwrap()
    }

    #[tokio::test]
    async fn what_is_there_comes_oldest_first_and_then_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(dir.path().join(name), name).unwrap();
        for name in ["1.log.2", "1.log.1", "1.log", "0.log", "x.log", "1.txt"] {
            put(name);
        }
        let mut files = Files::open(dir.path().into(), 1, true);
        assert_eq!(files.all().iter().map(text).collect::<Vec<_>>(), ["1.log.2", "1.log.1", "1.log"]);
        rotate(dir.path(), 4);
        put("1.log");
        put("2.log");
        files.gather();
        while files.pop() {}
        assert_eq!(files.newest_attempt(), Some(2));
    }

    #[tokio::test]
    async fn files_are_held_through_any_number_of_rotations_and_those_that_are_missed_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.log"), "0").unwrap();
        let mut files = Files::open(dir.path().into(), 1, true);
        for number in 1..=20 {
            rotate(dir.path(), 3);
            std::fs::write(dir.path().join("1.log"), number.to_string()).unwrap();
            files.gather();
        }
        let seen: Vec<String> = files.all().iter().map(text).collect();
        assert_eq!(seen, (0..=20).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(files.all().iter().all(|file| file.missing == Missing::NONE));
        // Nobody looks while twenty more are written; three are left.
        {
            let mut queue = files.shared.queue();
            for number in 21..=40 {
                rotate(dir.path(), 3);
                std::fs::write(dir.path().join("1.log"), number.to_string()).unwrap();
            }
            queue.gather();
        }
        let last: Vec<(String, Missing)> = files.all().iter().skip(21).map(|file| (text(file), file.missing)).collect();
        let expected =
            [("38", 17), ("39", 0), ("40", 0)].map(|(text, missing)| (text.to_owned(), Missing::Files(missing)));
        assert_eq!(last, expected);
    }

    #[tokio::test]
    async fn what_may_be_missing_is_said_also_where_the_kernel_cannot_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.log"), "0").unwrap();
        let files = Files::open(dir.path().into(), 1, false);
        let mut queue = files.shared.queue();
        for number in 1..=4 {
            rotate(dir.path(), 3);
            std::fs::write(dir.path().join("1.log"), number.to_string()).unwrap();
        }
        queue.stirred = true;
        queue.gather();
        let seen: Vec<(String, Missing)> = queue.files.iter().map(|file| (text(file), file.missing)).collect();
        let none = Missing::NONE;
        let expected = [("0", none), ("2", Missing::Unknown), ("3", none), ("4", none)];
        assert_eq!(seen, expected.map(|(text, missing)| (text.to_owned(), missing)));
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_yet_is_watched_once_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("web");
        let mut files = Files::open(own.clone(), 1, true);
        std::fs::create_dir(&own).unwrap();
        files.gather();
        std::fs::write(own.join("1.log"), "a").unwrap();
        while files.front().is_none() {
            files.changed().await;
        }
        assert_eq!(files.all().iter().map(text).collect::<Vec<_>>(), ["a"]);
        // What is open can be read when its directory is gone. (The kernel tells of that only when nothing in it is open:
        // whoever follows learns it from the container's end.)
        std::fs::remove_dir_all(&own).unwrap();
        files.gather();
        assert!(files.front().is_some());
    }
}
