//! How often to plan. Pure: the caller brings the time and waits.
//!
//! Every end of a step asks for a new plan. Where a plan takes long (a thousand new containers), that would be
//! most of the work; so planning has a bounded share of the time, and what ends in a pause is planned for together.
//! The first plan after a quiet time, and every plan of a small node, is made at once.

use std::time::{Duration, Instant};

/// Pauses are so many times as long as the plan before them: planning takes at most a tenth of the time.
const SHARE: u32 = 9;
/// Plans shorter than this need no pause.
const SHORT: Duration = Duration::from_millis(1);
/// Plans for fewer resources than this are short, however long a busy machine took for one.
const FEW: usize = 200;
/// No change waits longer than this for its plan.
const LONGEST: Duration = Duration::from_millis(200);

/// Between one plan and the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    not_before: Option<Instant>,
}

impl Pace {
    /// A plan for so many resources was made.
    pub fn planned(&mut self, resources: usize, began: Instant, ended: Instant) {
        let took = ended.saturating_duration_since(began);
        self.not_before = (resources >= FEW && took >= SHORT).then(|| ended + (took * SHARE).min(LONGEST));
    }

    /// When the next one may be made; `None` when that is now.
    pub fn pause(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans a burst of `steps` whose ends come every `every`, where a plan takes `plan`; gives the plans made and
    /// the longest that an end waited for one to begin.
    fn burst(steps: u32, every: Duration, plan: Duration) -> (u32, Duration) {
        let start = Instant::now();
        let (mut pace, mut now, mut plans, mut longest) = (Pace::default(), start, 0, Duration::ZERO);
        let mut next = 0;
        while next < steps {
            let ended = start + every * next;
            now = now.max(ended);
            now = pace.pause(now).unwrap_or(now);
            longest = longest.max(now - ended);
            while next < steps && start + every * next <= now {
                next += 1;
            }
            plans += 1;
            pace.planned(FEW, now, now + plan);
            now += plan;
        }
        (plans, longest)
    }

    #[test]
    fn a_long_plan_is_made_for_many_ends_and_no_end_waits_long() {
        let (plans, longest) = burst(1000, Duration::from_millis(10), Duration::from_millis(10));
        assert!((90..=110).contains(&plans), "a tenth of ten seconds: {plans}");
        assert!(longest <= Duration::from_millis(100), "{longest:?}");
        let (_, longest) = burst(1000, Duration::from_millis(10), Duration::from_secs(1));
        assert!(longest <= Duration::from_secs(1) + LONGEST, "{longest:?}");
    }

    #[test]
    fn a_short_plan_and_the_first_one_wait_for_nothing() {
        assert_eq!(burst(1000, Duration::from_millis(2), Duration::from_micros(900)), (1000, Duration::ZERO));
        assert_eq!(burst(10, Duration::from_secs(1), Duration::from_millis(20)), (10, Duration::ZERO));
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.planned(FEW - 1, now, now + Duration::from_millis(20));
        assert_eq!(pace.pause(now), None);
    }
}
