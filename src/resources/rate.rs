//! How fast a sender may send: token buckets.

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::error::{Error, ErrorCode, Result};

/// A bucket that fills at a rate; at most a tenth of a second's worth waits in it.
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Duration>>,
    clock: Monotonic,
    /// What one token stands for: above a million a second it is more than one.
    unit: u64,
    burst: NonZeroU32,
    /// Less than a token.
    owed: u64,
}

impl Bucket {
    /// `per_second` must not be zero.
    pub(crate) fn new(per_second: u64) -> Result<Bucket> {
        let zero = || Error::new(ErrorCode::InvalidInput, "a rate of zero");
        let unit = per_second.div_ceil(FINEST).max(1);
        let tokens = NonZeroU32::new((per_second / unit) as u32).ok_or_else(zero)?;
        let burst = tokens.get() / BURSTS_PER_SECOND;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let clock = Monotonic(Instant::now());
        let quota = Quota::per_second(tokens).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        Ok(Bucket { limiter, clock, unit, burst, owed: 0 })
    }

    /// How much can be taken at once without a wait, if all of it is there.
    pub(crate) fn burst(&self) -> u64 {
        u64::from(self.burst.get()) * self.unit
    }

    /// Waits until `n` may go.
    pub(crate) fn take(&mut self, n: u64) {
        self.owed = self.owed.saturating_add(n);
        while self.owed >= self.unit {
            let piece = (self.owed / self.unit).min(u64::from(self.burst.get()));
            let tokens = NonZeroU32::new(piece as u32).unwrap_or(NonZeroU32::MIN);
            match self.limiter.check_n(tokens) {
                Ok(Ok(())) => self.owed -= piece * self.unit,
                Ok(Err(not_yet)) => thread::sleep(not_yet.wait_time_from(self.clock.now())),
                Err(_) => unreachable!("a piece is not above the burst"),
            }
        }
    }
}

/// The clock of the process, for a limiter built without one.
#[derive(Clone)]
struct Monotonic(Instant);

impl Clock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Tokens are counted in whole nanoseconds between them: at most so many a
/// second keep the rate exact to a thousandth.
const FINEST: u64 = 1_000_000;

const BURSTS_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_all_orders_of_magnitude() {
        for rate in [1_000, 1_000_000, 1_500_001, 300_000_000, 40_000_000_000] {
            let mut bucket = Bucket::new(rate).unwrap();
            let start = Instant::now();
            // A full bucket and as much again as fills in 100 ms.
            bucket.take(bucket.burst() + rate / 10);
            let took = start.elapsed().as_secs_f64();
            assert!(took > 0.09, "{rate} a second: {took}");
        }
    }

    #[test]
    fn a_rate_of_zero_is_refused() {
        assert_eq!(Bucket::new(0).err().unwrap().code(), ErrorCode::InvalidInput);
    }
}
