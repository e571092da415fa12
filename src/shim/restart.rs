//! The restart policy, pure: values in, a verdict out. The caller keeps the clock and starts.

use std::time::{Duration, Instant};

use super::protocol::{Policy, Restart};

/// A run at least this long counts as stable, whatever the back-off.
pub const STABLE: Duration = Duration::from_secs(10);

/// What was before this exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Restarts since the last stable run.
    pub in_a_row: u32,
    /// When the attempt that ended was started; `None` if it never ran.
    pub started: Option<Instant>,
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start again.
    Restart {
        /// Not before this.
        at: Instant,
        /// How many restarts in a row it will be, itself included.
        in_a_row: u32,
    },
    /// It ended for good.
    Stay(Why),
}

/// Why an exit is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The policy wants no restart after such an exit.
    Policy,
    /// As many restarts in a row as allowed were made.
    Limit,
}

/// The back-off before the restart that follows `in_a_row` others: the initial one, doubled each time up to the maximum.
pub fn backoff(policy: &Restart, in_a_row: u32) -> Duration {
    let factor = 1u64.checked_shl(in_a_row).unwrap_or(u64::MAX);
    Duration::from_millis(policy.initial_ms.saturating_mul(factor).min(policy.max_ms.max(policy.initial_ms)))
}

/// Whether a policy wants a restart after an exit with status `code`, limits apart.
pub fn is_wanted(policy: Policy, code: u32) -> bool {
    match policy {
        Policy::Always => true,
        Policy::OnFailure => code != 0,
        Policy::Never => false,
    }
}

/// What the restart policy says after an exit with status `code`. A run of [`STABLE`] and of the back-off before it
/// starts the count anew. Pure: the caller waits and starts.
pub fn after_exit(policy: &Restart, history: &History, code: u32, now: Instant) -> Verdict {
    if !is_wanted(policy.policy, code) {
        return Verdict::Stay(Why::Policy);
    }
    let last = history.in_a_row.checked_sub(1).map_or(Duration::ZERO, |before| backoff(policy, before));
    let ran = history.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
    let in_a_row = if ran >= last.max(STABLE) { 0 } else { history.in_a_row };
    if policy.limit.is_some_and(|limit| in_a_row >= limit) {
        return Verdict::Stay(Why::Limit);
    }
    Verdict::Restart { at: now + backoff(policy, in_a_row), in_a_row: in_a_row.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(policy: Policy, limit: Option<u32>) -> Restart {
        Restart { policy, limit, initial_ms: 10, max_ms: 300_000 }
    }

    #[test]
    fn the_policy_looks_at_the_status() {
        let now = Instant::now();
        let restarts = |which, code| {
            matches!(after_exit(&policy(which, None), &History::default(), code, now), Verdict::Restart { .. })
        };
        for (which, code, expected) in [
            (Policy::Always, 0, true),
            (Policy::Always, 1, true),
            (Policy::OnFailure, 0, false),
            (Policy::OnFailure, 137, true),
            (Policy::Never, 0, false),
            (Policy::Never, 1, false),
        ] {
            assert_eq!(restarts(which, code), expected, "{which:?} after {code}");
        }
    }

    #[test]
    fn the_back_off_doubles_to_its_maximum() {
        let policy = policy(Policy::Always, None);
        let times: Vec<u128> = (0..18).map(|n| backoff(&policy, n).as_millis()).collect();
        assert_eq!(times[..4], [10, 20, 40, 80]);
        assert_eq!(times[15..], [300_000; 3]);
        assert_eq!(backoff(&policy, u32::MAX).as_millis(), 300_000);
    }

    #[test]
    fn a_stable_run_starts_the_count_anew() {
        let start = Instant::now();
        let history = History { in_a_row: 3, started: Some(start) };
        let after = |ran| after_exit(&policy(Policy::Always, None), &history, 1, start + ran);
        let unstable = STABLE - Duration::from_millis(1);
        assert_eq!(after(unstable), Verdict::Restart { at: start + unstable + Duration::from_millis(80), in_a_row: 4 });
        assert_eq!(after(STABLE), Verdict::Restart { at: start + STABLE + Duration::from_millis(10), in_a_row: 1 });
        // With a long back-off, a run must also be as long as that.
        let history = History { in_a_row: 16, started: Some(start) };
        let verdict = after_exit(&policy(Policy::Always, None), &history, 1, start + Duration::from_secs(200));
        assert!(matches!(verdict, Verdict::Restart { in_a_row: 17, .. }));
    }

    #[test]
    fn the_limit_counts_restarts_in_a_row() {
        let start = Instant::now();
        let policy = policy(Policy::OnFailure, Some(2));
        let after = |in_a_row, ran| after_exit(&policy, &History { in_a_row, started: Some(start) }, 1, start + ran);
        assert!(matches!(after(1, Duration::ZERO), Verdict::Restart { .. }));
        assert_eq!(after(2, Duration::ZERO), Verdict::Stay(Why::Limit));
        assert!(matches!(after(2, STABLE), Verdict::Restart { in_a_row: 1, .. }));
    }

    proptest! {
        /// Whatever the history, a restart is neither before the initial back-off nor past the maximum,
        /// and a process that only ever fails is started at most `limit` times.
        #[test]
        fn restarts_are_bounded(initial in 0u64..10_000, more in 0u64..1_000_000, limit in 0u32..40, runs in prop::collection::vec(0u64..9_999, 1..60)) {
            let policy = Restart { policy: Policy::OnFailure, limit: Some(limit), initial_ms: initial, max_ms: initial + more };
            let mut now = Instant::now();
            let mut history = History { in_a_row: 0, started: Some(now) };
            let mut restarts = 0;
            for ran in runs {
                now += Duration::from_millis(ran);
                match after_exit(&policy, &history, 1, now) {
                    Verdict::Restart { at, in_a_row } => {
                        let waited = at - now;
                        prop_assert!(waited >= Duration::from_millis(initial) && waited <= Duration::from_millis(initial + more));
                        restarts += 1;
                        prop_assert_eq!(in_a_row, restarts);
                        now = at;
                        history = History { in_a_row, started: Some(now) };
                    }
                    Verdict::Stay(why) => { prop_assert_eq!(why, Why::Limit); prop_assert_eq!(restarts, limit); break }
                }
            }
            prop_assert!(restarts <= limit);
        }
    }
}
