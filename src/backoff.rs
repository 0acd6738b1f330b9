//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays that double from `first` to `most`, each a random part of its
/// ceiling ("full jitter"): attempts of many that failed together spread out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most }
    }

    /// The longest delay before this attempt; the first is number 0.
    pub(crate) fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }

    /// A random delay up to the ceiling.
    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        // std seeds each RandomState from the system's randomness; nothing
        // secret hangs on this number.
        let random = RandomState::new().hash_one(attempt);
        self.ceiling(attempt).mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn ceilings_double_and_stop_at_the_most() {
        let ceilings = [0, 1, 2, 5, 6, 31, 32, u32::MAX].map(|n| BACKOFF.ceiling(n).as_millis());
        assert_eq!(ceilings, [100, 200, 400, 3200, 5000, 5000, 5000, 5000]);
    }

    #[test]
    fn delays_stay_below_their_ceiling_and_differ() {
        let delays: Vec<_> = (0..100).map(|_| BACKOFF.delay(3)).collect();
        assert!(delays.iter().all(|d| *d <= BACKOFF.ceiling(3)));
        assert!(delays.windows(2).any(|w| w[0] != w[1]));
    }
}
