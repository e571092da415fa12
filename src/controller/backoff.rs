//! How long to wait after failures in a row. Pure: the caller brings the randomness.

use std::time::Duration;

/// Exponential back-off with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// Never longer than this, jitter apart.
    pub max: Duration,
}

/// Waits differ by up to this share in either direction, so that what failed together does not
/// return together.
pub const JITTER: f64 = 0.2;

impl Backoff {
    /// The wait after `failures` in a row (at least 1): `initial`, doubled for each further one, at most
    /// `max`, times 0.8 to 1.2. `random` is uniform in 0 to 1.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(31));
        let base = self.initial.saturating_mul(factor).min(self.max);
        base.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };

    #[test]
    fn waits_double_up_to_the_longest() {
        for (failures, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (4_000_000_000, 300)] {
            assert_eq!(BACKOFF.delay(failures, 0.5), Duration::from_secs(seconds), "{failures}");
        }
    }

    #[test]
    fn jitter_is_a_fifth_either_way() {
        assert_eq!(BACKOFF.delay(1, 0.0), Duration::from_millis(800));
        assert_eq!(BACKOFF.delay(1, 1.0), Duration::from_millis(1200));
        assert_eq!(BACKOFF.delay(1, f64::INFINITY), Duration::from_millis(1200));
    }
}
