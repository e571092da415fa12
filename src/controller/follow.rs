//! The manifest directory over time: hints → the moment to look → a snapshot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::debounce::{Debounce, Hint, Kind, Look};
use super::scan::{RootState, SETTLE, Scan, Scanner};
use super::watch::Watch;

/// A directory that is watched, debounced and read.
#[derive(Debug)]
pub struct Follow {
    watch: Watch,
    debounce: Debounce,
    /// `None` while a scan runs on a blocking thread.
    scanner: Option<Scanner>,
    scanning: Option<tokio::task::JoinHandle<(Scanner, Scan, Look)>>,
    /// Look again then, though no event may come.
    recheck: Option<Instant>,
    window: Duration,
    /// What the last snapshot had.
    names: BTreeSet<String>,
    root: PathBuf,
}

/// A snapshot, and whether events had paused before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The tree.
    pub scan: Scan,
    /// What is absent is gone; else more may be happening, and another snapshot follows.
    pub quiet: bool,
}

impl Follow {
    /// Follows this directory (absolute; it may not exist). The first snapshot comes by itself.
    /// Needs a tokio runtime.
    pub fn start(root: &Path, debounce: Duration, poll: Duration) -> Self {
        Self {
            watch: Watch::start(root, poll),
            debounce: Debounce::new(debounce),
            scanner: Some(Scanner::new(root)),
            scanning: None,
            recheck: None,
            window: debounce,
            names: BTreeSet::new(),
            root: root.to_path_buf(),
        }
    }

    /// The next snapshot, when something may have changed and events paused. Each must be given to the
    /// directory source. Cancel-safe.
    pub async fn next(&mut self) -> Snapshot {
        loop {
            if let Some(scanning) = &mut self.scanning {
                let done = scanning.await;
                self.scanning = None;
                let (scanner, scan, look) = match done {
                    Ok(done) => done,
                    Err(error) => {
                        // The runtime is shutting down, or a bug: either way start over rather than stop seeing.
                        tracing::error!("reading {} ended early: {error}", self.root.display());
                        self.scanner = Some(Scanner::new(&self.root));
                        self.look_soon();
                        continue;
                    }
                };
                self.scanner = Some(scanner);
                return self.snapshot(scan, &look);
            }
            let due = self.debounce.due().into_iter().chain(self.recheck).min();
            tokio::select! {
                biased;
                hint = self.watch.next() => self.debounce.event(&hint, Instant::now()),
                () = sleep_until(due) => self.look(),
            }
        }
    }

    /// Looks without waiting for an event: `bayplan sync`.
    pub fn look_soon(&mut self) {
        self.debounce.event(&Hint { path: PathBuf::new(), kind: Kind::Poll }, Instant::now());
    }

    /// Takes another debounce window and another time between polls into use.
    pub fn configure(&mut self, window: Duration, poll: Duration) {
        self.debounce.set_window(window);
        self.window = window;
        self.watch.set_poll(poll);
    }

    /// Why the directory is polled; `None` while the kernel notifies.
    pub fn polling(&self) -> Option<String> {
        self.watch.polling()
    }

    fn look(&mut self) {
        let now = Instant::now();
        let again = self.recheck.is_some_and(|at| at <= now);
        if again {
            self.recheck = None;
        }
        let look = match self.debounce.take(now) {
            Some(look) => look,
            // A file is looked at again while events go on, or while none come at all.
            None if again => {
                let writing = self.debounce.writing().clone();
                Look { quiet: self.debounce.due().is_none(), removals: false, writing }
            }
            None => return,
        };
        if let Some(mut scanner) = self.scanner.take() {
            self.scanning = Some(tokio::task::spawn_blocking(move || {
                let scan = scanner.scan(&look.writing);
                (scanner, scan, look)
            }));
        }
    }

    /// Decides whether a scan can be trusted about what it lacks. One that was made for another reason
    /// than removals, or while events came, may have been made in the middle of an `rm -rf`.
    fn snapshot(&mut self, scan: Scan, look: &Look) -> Snapshot {
        let mut disturbed = !look.removals;
        while let Some(hint) = self.watch.try_next() {
            disturbed |= hint.kind != Kind::Written;
            self.debounce.event(&hint, Instant::now());
        }
        let names: BTreeSet<String> = scan.files.keys().cloned().collect();
        let lacks = matches!(scan.root, RootState::Present(_)) && !self.names.is_subset(&names);
        self.names = names;
        let confirm = (lacks && disturbed).then(|| if self.polling().is_some() { SETTLE } else { self.window });
        let wait = scan.recheck.into_iter().chain(confirm).min();
        self.recheck = wait.map(|wait| Instant::now() + wait);
        Snapshot { scan, quiet: look.quiet && confirm.is_none() }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
