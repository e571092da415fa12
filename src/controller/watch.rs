//! Kernel notifications about the manifest directory, as hints.
//!
//! Invariant: whatever changes in the tree, a hint follows; that a hint says the truth is not promised
//! (the tree is read again at each). The directory itself may be missing, replaced, moved, mounted over
//! or unmounted at any time: watches follow it. Where the kernel cannot notify (network and stacked file
//! systems, the watch limit), hints come from a slow clock instead; elsewhere nothing runs while nothing happens.

mod anchors;
mod filesystem;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::debounce::{Hint, Kind};
use super::scan::is_manifest;
use anchors::Anchors;
use filesystem::Mounts;

/// Raw events waiting to be looked at; past this they are one overflow.
const RAW: usize = 4096;
/// Hints waiting to be taken; the kernel's own queue is behind them.
const HINTS: usize = 256;

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    hints: mpsc::Receiver<Hint>,
    polling: Arc<Mutex<Option<String>>>,
    often: watch::Sender<Duration>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Watches the directory (absolute; it may not exist yet). `poll`: how often to hint where the kernel
    /// does not notify. The first hint comes when the watches are in place. Needs a tokio runtime.
    pub fn start(root: &Path, poll: Duration) -> Self {
        let (to, hints) = mpsc::channel(HINTS);
        let polling = Arc::new(Mutex::new(None));
        let (often, poll) = watch::channel(poll);
        let task = Task { root: root.to_path_buf(), poll, to, polling: polling.clone(), mounts: Mounts::open() };
        Self { hints, polling, often, task: tokio::spawn(task.run()) }
    }

    /// The next hint. Cancel-safe.
    pub async fn next(&mut self) -> Hint {
        match self.hints.recv().await {
            Some(hint) => hint,
            // The task ends only with us.
            None => std::future::pending().await,
        }
    }

    /// A hint that is there already.
    pub fn try_next(&mut self) -> Option<Hint> {
        self.hints.try_recv().ok()
    }

    /// Hints so often from now on where the kernel does not notify.
    pub fn set_poll(&self, poll: Duration) {
        self.often.send_if_modified(|often| std::mem::replace(often, poll) != poll);
    }

    /// Why the directory is polled; `None` while the kernel notifies.
    pub fn polling(&self) -> Option<String> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    root: PathBuf,
    poll: watch::Receiver<Duration>,
    to: mpsc::Sender<Hint>,
    polling: Arc<Mutex<Option<String>>>,
    mounts: Option<Mounts>,
}

/// Watches as they stand, for one state of the directory and the way to it.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<notify::Result<notify::Event>>,
    overflow: Arc<AtomicBool>,
    anchors: Anchors,
}

/// What an event asks for.
enum Verdict {
    Nothing,
    Tell(Hint),
    /// The directory may be another one.
    LookAtRoot,
    /// Events were lost: watches on new directories may be missing too.
    StartAgain,
}

impl Task {
    async fn run(mut self) {
        let mut watches = self.set_up();
        let mut kind = Kind::RootChanged;
        loop {
            if self.to.send(Hint { path: PathBuf::new(), kind }).await.is_err() {
                return;
            }
            kind = self.follow(&mut watches).await;
            watches = self.set_up();
        }
    }

    /// Passes events on until the watches must be set up anew; says what to tell then.
    async fn follow(&mut self, watches: &mut Watches) -> Kind {
        let polls = self.polling.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let often = *self.poll.borrow_and_update();
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + often, often);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let verdict = tokio::select! {
                event = watches.events.recv() => match event {
                    Some(event) => self.judge(watches, event),
                    // No watcher at all: only the clock is left.
                    None => std::future::pending().await,
                },
                () = mounts_changed(self.mounts.as_mut()) => match watches.anchors == Anchors::find(&self.root) {
                    // Every container's start mounts something: no reason to read the tree.
                    true => Verdict::Nothing,
                    false => return Kind::RootChanged,
                },
                Ok(()) = self.poll.changed() => return Kind::Poll,
                _ = clock.tick(), if polls => {
                    if watches.anchors != Anchors::find(&self.root) {
                        return Kind::RootChanged;
                    }
                    Verdict::Tell(Hint { path: PathBuf::new(), kind: Kind::Poll })
                }
            };
            if watches.overflow.load(Ordering::Acquire) {
                return Kind::Overflow;
            }
            match verdict {
                Verdict::Nothing => {}
                Verdict::Tell(hint) => {
                    if self.to.send(hint).await.is_err() {
                        return Kind::Other;
                    }
                }
                Verdict::LookAtRoot => {
                    if watches.anchors != Anchors::find(&self.root) {
                        return Kind::RootChanged;
                    }
                    if self.to.send(Hint { path: PathBuf::new(), kind: Kind::Other }).await.is_err() {
                        return Kind::Other;
                    }
                }
                Verdict::StartAgain => return Kind::Overflow,
            }
        }
    }

    fn judge(&self, watches: &mut Watches, event: notify::Result<notify::Event>) -> Verdict {
        let event = match event {
            Ok(event) => event,
            // Setting up again meets the same limit, and says so.
            Err(_) => return Verdict::StartAgain,
        };
        if event.need_rescan() {
            return Verdict::StartAgain;
        }
        let Some(path) = event.paths.first() else { return Verdict::Nothing };
        let kind = match event.kind {
            // Reading is an event too, and so our own would be: never answer it.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Kind::Closed,
            EventKind::Access(_) => return Verdict::Nothing,
            // A log or an editor's swap file is written all the time; its close is told all the same.
            EventKind::Modify(ModifyKind::Data(_))
                if !path.file_name().is_some_and(|name| is_manifest(name.as_bytes())) =>
            {
                return Verdict::Nothing;
            }
            EventKind::Modify(ModifyKind::Data(_)) => Kind::Written,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Kind::Removed,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Kind::Renamed,
            // Told by its two halves already.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return Verdict::Nothing,
            _ => Kind::Other,
        };
        if watches.anchors.concern(path) {
            return Verdict::LookAtRoot;
        }
        let Some(inside) = watches.anchors.inside(path) else { return Verdict::Nothing };
        let folder = event.kind == EventKind::Create(CreateKind::Folder) || kind == Kind::Renamed;
        if folder
            && std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
            && let Some(watcher) = &mut watches.watcher
            && let Err(error) = watcher.watch(path, RecursiveMode::Recursive)
            && matches!(error.kind, notify::ErrorKind::MaxFilesWatch)
        {
            // notify watches new directories by itself, but after it has told us: what is put into them
            // before that would go unnoticed. Watched before the hint goes on, it is found by the look.
            return Verdict::StartAgain;
        }
        Verdict::Tell(Hint { path: inside, kind })
    }

    /// Watches the directory, if it is there, and the places where it would appear or be swapped.
    fn set_up(&mut self) -> Watches {
        let mut watches = self.watch(Anchors::find(&self.root));
        // Swapped while we were at it: once more. If it is swapped all the time, the next event tells.
        for _ in 0..3 {
            let anchors = Anchors::find(&self.root);
            if watches.anchors == anchors {
                break;
            }
            watches = self.watch(anchors);
        }
        watches
    }

    fn watch(&self, anchors: Anchors) -> Watches {
        let (to, events) = mpsc::channel(RAW);
        let overflow = Arc::new(AtomicBool::new(false));
        let lost = overflow.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            let noise = event.as_ref().is_ok_and(
                |event| matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)),
            );
            if !noise && to.try_send(event).is_err() {
                lost.store(true, Ordering::Release);
            }
        };
        // Links are followed by reading, never by watching: one to `/` would watch the whole machine.
        let config = notify::Config::default().with_follow_symlinks(false);
        let (watcher, trouble) = match RecommendedWatcher::new(handler, config) {
            Ok(mut watcher) => {
                let trouble = anchors.watch(&mut watcher).err();
                (Some(watcher), trouble)
            }
            Err(error) => (None, Some(error)),
        };
        let why = match trouble {
            Some(error) => Some(match error.kind {
                notify::ErrorKind::MaxFilesWatch => {
                    "the kernel's limit of watches is reached (raise fs.inotify.max_user_watches)".to_owned()
                }
                notify::ErrorKind::Io(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => {
                    "the kernel's limit of watchers is reached (raise fs.inotify.max_user_instances)".to_owned()
                }
                _ => format!("the kernel refuses to watch it: {error}"),
            }),
            None => anchors.real().and_then(filesystem::needs_polling),
        };
        if let Some(why) = &why {
            self.warn_once(why.clone());
        }
        *self.polling.lock().unwrap_or_else(PoisonError::into_inner) = why;
        Watches { watcher, events, overflow, anchors }
    }

    /// Says why the directory is polled, once for each reason.
    fn warn_once(&self, why: String) {
        let mut polling = self.polling.lock().unwrap_or_else(PoisonError::into_inner);
        if polling.as_ref() != Some(&why) {
            let every =
                crate::manifest::Span::from_millis(u64::try_from(self.poll.borrow().as_millis()).unwrap_or(u64::MAX));
            tracing::warn!(directory = %self.root.display(), %every, "the manifest directory is polled: {why}");
            *polling = Some(why);
        }
    }
}

async fn mounts_changed(mounts: Option<&mut Mounts>) {
    match mounts {
        Some(mounts) => mounts.changed().await,
        None => std::future::pending().await,
    }
}
