//! When to look at the tree: hints in, one moment out. Pure; the caller brings the time.
//!
//! A look follows the last event by one window (default 50 ms), or by [`SHORT`] when something complete
//! was renamed into place; a burst is one look. Under a continuous stream a look is never later than
//! [`CAP`] (or one longer window) after the first event, but then it is not *quiet*: what vanished must not be acted on yet,
//! because the rest of an `rm -rf` may still be under way.
//!
//! Writes into an open file delay nobody else: they only mark the file, until its writer closes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a hint says happened. Hints are never trusted beyond this: the tree is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Data was written; its writer may go on.
    Written,
    /// A writer closed it.
    Closed,
    /// It was renamed into place, and so is complete.
    Renamed,
    /// It was removed or renamed away.
    Removed,
    /// Anything else: created, mode changed, a new directory.
    Other,
    /// Events were lost: anything may have happened.
    Overflow,
    /// The directory itself came, went, or is another one.
    RootChanged,
    /// Time to look at a file system that does not notify.
    Poll,
}

/// Something happened to `path` (relative to the directory; empty for the directory itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
}

/// Quiet time after a rename into place.
pub const SHORT: Duration = Duration::from_millis(10);
/// A look is never later than this after the first event.
pub const CAP: Duration = Duration::from_secs(1);
/// After this long without quiet, a look counts as quiet all the same.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A moment to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Events had paused for a window: what is gone is gone.
    pub quiet: bool,
    /// Removals were among the events: what a scan lacks has been gone for a window.
    pub removals: bool,
    /// Files written to and not closed since, as far as events told.
    pub writing: BTreeSet<PathBuf>,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Debounce {
    window: Duration,
    /// First event since the last look.
    first: Option<Instant>,
    /// When events will have paused long enough.
    due: Option<Instant>,
    /// A look that only writes asked for: truncate(2) writes and never closes.
    late: Option<Instant>,
    /// When looks stopped being quiet.
    restless: Option<Instant>,
    removals: bool,
    writing: BTreeSet<PathBuf>,
}

impl Debounce {
    /// A machine that has seen nothing.
    pub fn new(window: Duration) -> Self {
        Self { window, first: None, due: None, late: None, restless: None, removals: false, writing: BTreeSet::new() }
    }

    /// Takes another window into use.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// The latest look after a first event. A window that is longer was asked for.
    fn cap(&self) -> Duration {
        CAP.max(self.window)
    }

    /// A hint arrived.
    pub fn event(&mut self, hint: &Hint, now: Instant) {
        let wait = match hint.kind {
            Kind::Written => {
                self.writing.insert(hint.path.clone());
                let late = now + self.cap();
                self.late.get_or_insert(late);
                return;
            }
            Kind::Renamed => SHORT.min(self.window),
            Kind::Poll => Duration::ZERO,
            Kind::Closed | Kind::Removed | Kind::Other | Kind::Overflow | Kind::RootChanged => self.window,
        };
        match hint.kind {
            // What was lost may have been the close.
            Kind::Overflow | Kind::RootChanged => self.writing.clear(),
            Kind::Closed | Kind::Renamed | Kind::Removed => {
                self.writing.remove(&hint.path);
            }
            _ => {}
        }
        self.removals |= matches!(hint.kind, Kind::Removed | Kind::Overflow | Kind::RootChanged);
        let due = now + wait;
        self.due = Some(self.due.map_or(due, |pending| pending.max(due)));
        self.first.get_or_insert(now);
    }

    /// When to look next; `None` while there is nothing to look for.
    pub fn due(&self) -> Option<Instant> {
        let capped = self.first.zip(self.due).map(|(first, due)| due.min(first + self.cap()));
        capped.into_iter().chain(self.late).min()
    }

    /// Files written to and not closed since, as far as events told.
    pub fn writing(&self) -> &BTreeSet<PathBuf> {
        &self.writing
    }

    /// The look that is due by now, if one is.
    pub fn take(&mut self, now: Instant) -> Option<Look> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let settled = self.due.is_none_or(|due| due <= now);
        let restless = *self.restless.get_or_insert(now);
        let quiet = settled || now.duration_since(restless) >= PATIENCE;
        if quiet {
            self.restless = None;
        }
        // Not settled: look again when it is, though no further event comes.
        (self.first, self.due) = if settled { (None, None) } else { (Some(now), self.due) };
        self.late = None;
        let removals = std::mem::take(&mut self.removals);
        Some(Look { quiet, removals, writing: self.writing.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(50);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn hint(path: &str, kind: Kind) -> Hint {
        Hint { path: path.into(), kind }
    }

    #[test]
    fn each_kind_has_its_wait() {
        for (kind, wait) in [
            (Kind::Closed, 50),
            (Kind::Renamed, 10),
            (Kind::Removed, 50),
            (Kind::Other, 50),
            (Kind::Overflow, 50),
            (Kind::RootChanged, 50),
            (Kind::Poll, 0),
            (Kind::Written, 1000),
        ] {
            let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
            debounce.event(&hint("a", kind), t0);
            assert_eq!(debounce.due(), Some(t0 + ms(wait)), "{kind:?}");
            assert_eq!(debounce.take(t0 + ms(wait) - Duration::from_nanos(1)), None);
            assert!(debounce.take(t0 + ms(wait)).unwrap().quiet);
            assert_eq!(debounce.due(), None, "idle costs nothing");
        }
    }

    #[test]
    fn a_burst_is_one_look() {
        let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
        for i in 0..500 {
            debounce.event(&hint("a", Kind::Renamed), t0 + ms(i));
            assert_eq!(debounce.take(t0 + ms(i)), None);
        }
        assert_eq!(debounce.due(), Some(t0 + ms(509)));
    }

    #[test]
    fn a_rename_away_is_not_hastened_by_the_rename_behind_it() {
        // An editor: x.yaml → x.yaml~, then a new x.yaml is made and written.
        let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
        debounce.event(&hint("x.yaml", Kind::Removed), t0);
        debounce.event(&hint("x.yaml~", Kind::Renamed), t0);
        assert_eq!(debounce.due(), Some(t0 + ms(50)));
    }

    #[test]
    fn an_open_file_delays_nobody_and_is_named_until_it_is_closed() {
        let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
        for i in 0..100 {
            debounce.event(&hint("open.yaml", Kind::Written), t0 + ms(i));
        }
        debounce.event(&hint("other.yaml", Kind::Renamed), t0 + ms(100));
        debounce.event(&hint("open.yaml", Kind::Written), t0 + ms(105));
        assert_eq!(debounce.due(), Some(t0 + ms(110)));
        let look = debounce.take(t0 + ms(110)).unwrap();
        assert!(look.quiet && look.writing.contains(&PathBuf::from("open.yaml")));
        debounce.event(&hint("open.yaml", Kind::Closed), t0 + ms(120));
        assert_eq!(
            debounce.take(t0 + ms(170)).unwrap(),
            Look { quiet: true, removals: false, writing: BTreeSet::new() }
        );
    }

    #[test]
    fn a_continuous_stream_is_looked_at_every_second_without_calling_it_quiet() {
        let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
        let mut looks = Vec::new();
        for i in 0..12_000 {
            let now = t0 + ms(i);
            debounce.event(&hint("noisy", Kind::Removed), now);
            looks.extend(debounce.take(now).map(|look| (i, look.quiet)));
        }
        assert_eq!(looks[0], (1000, false));
        assert!(looks.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 1001), "{looks:?}");
        assert_eq!(looks.iter().filter(|(_, quiet)| *quiet).count(), 1, "patience ends: {looks:?}");
        // The stream stops without a further event: the quiet look still comes.
        let mut last = None;
        while let Some(due) = debounce.due() {
            last = debounce.take(due).map(|look| (due, look.quiet));
        }
        assert_eq!(last, Some((t0 + ms(11_999 + 50), true)));
    }

    #[test]
    fn lost_events_may_have_been_the_close() {
        let (mut debounce, t0) = (Debounce::new(WINDOW), Instant::now());
        debounce.event(&hint("a", Kind::Written), t0);
        debounce.event(&hint("", Kind::Overflow), t0);
        assert!(debounce.take(t0 + ms(50)).unwrap().writing.is_empty());
    }
}
