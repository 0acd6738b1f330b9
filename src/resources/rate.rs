//! How often something may happen: token buckets, of which `governor` does the
//! arithmetic.
//!
//! A [`Bucket`] is told the time and says no; a [`Throttle`] waits until it may.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::error::{Error, ErrorCode, Result};

/// So many at once, and one more each time that `each` has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    burst: NonZeroU32,
    each: Duration,
}

impl Rate {
    /// `burst` at once, and the same again in `refill`. Zero counts as one.
    pub(crate) fn new(burst: u32, refill: Duration) -> Rate {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Rate { burst, each: (refill / burst.get()).max(Duration::from_nanos(1)) }
    }

    /// `burst` at once, and `rate` a second. Zero counts as one.
    pub(crate) fn per_second(rate: u32, burst: u32) -> Rate {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Rate { burst, each: (A_SECOND / rate.max(1)).max(Duration::from_nanos(1)) }
    }

    /// After so long an empty bucket is full again.
    pub(crate) fn refill(&self) -> Duration {
        self.each.saturating_mul(self.burst.get())
    }
}

/// A token bucket that is told the time.
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Hands, NoOpMiddleware<Nanos>>,
    start: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate, now: Instant) -> Bucket {
        let quota = Quota::with_period(rate.each).expect("the period is not zero");
        let quota = quota.allow_burst(rate.burst);
        Bucket { limiter: RateLimiter::direct_with_clock(quota, Hands::default()), start: now }
    }

    /// Takes one; `false`: there is none.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes several at once; `false`: there are not so many.
    pub(crate) fn take_many(&self, n: u32, now: Instant) -> bool {
        self.wait_for(n, now).is_some_and(|wait| wait.is_zero())
    }

    /// Takes several at once, or says how long until they are there; `None`: there
    /// are never so many.
    fn wait_for(&self, n: u32, now: Instant) -> Option<Duration> {
        let Some(n) = NonZeroU32::new(n) else { return Some(Duration::ZERO) };
        let clock = self.limiter.clock();
        clock.set(now.saturating_duration_since(self.start));
        match self.limiter.check_n(n).ok()? {
            Ok(()) => Some(Duration::ZERO),
            // Never zero: that would be a yes.
            Err(not_yet) => {
                let wait = not_yet.earliest_possible().duration_since(clock.now());
                Some(Duration::from(wait).max(Duration::from_nanos(1)))
            }
        }
    }
}

/// A bucket that makes a sender wait; at most a tenth of a second's worth is in it.
pub(crate) struct Throttle {
    bucket: Bucket,
    /// What one token stands for: above a million a second it is more than one.
    unit: u64,
    burst: u32,
    /// What was taken for those who still have to wait, less what is not yet a token.
    aside: i64,
}

impl Throttle {
    /// `per_second` must not be zero.
    pub(crate) fn new(per_second: u64) -> Result<Throttle> {
        if per_second == 0 {
            return Err(Error::new(ErrorCode::InvalidInput, "a rate of zero"));
        }
        let unit = per_second.div_ceil(FINEST).max(1);
        let tokens = u32::try_from(per_second / unit).unwrap_or(u32::MAX);
        let burst = (tokens / BURSTS_PER_SECOND).max(1);
        let bucket = Bucket::new(Rate::per_second(tokens, burst), Instant::now());
        Ok(Throttle { bucket, unit, burst, aside: 0 })
    }

    /// How much can be taken at once without a wait, if all of it is there.
    pub(crate) fn burst(&self) -> u64 {
        u64::from(self.burst) * self.unit
    }

    /// Waits until `n` may go.
    pub(crate) fn take(&mut self, n: u64) {
        while let Some(wait) = self.try_take(n) {
            thread::sleep(wait);
        }
    }

    /// Lets `n` go; or says how long to wait before the same is asked again: a tenth
    /// of a second, unless a single token takes longer.
    pub(crate) fn try_take(&mut self, n: u64) -> Option<Duration> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        loop {
            let tokens = u64::try_from(n.saturating_sub(self.aside)).unwrap_or(0) / self.unit;
            if tokens == 0 {
                self.aside -= n;
                return None;
            }
            let tokens = u32::try_from(tokens).unwrap_or(self.burst).min(self.burst);
            match self.bucket.wait_for(tokens, Instant::now()) {
                Some(Duration::ZERO) => self.aside += i64::from(tokens) * self.unit as i64,
                Some(wait) => return Some(wait),
                None => unreachable!("a piece is not above the burst"),
            }
        }
    }
}

/// A clock that is set, so that time stays an argument.
#[derive(Default)]
struct Hands(AtomicU64);

impl Hands {
    fn set(&self, since_start: Duration) {
        self.0.store(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX / 2), Relaxed);
    }
}

impl Clone for Hands {
    fn clone(&self) -> Hands {
        Hands(AtomicU64::new(self.0.load(Relaxed)))
    }
}

impl Clock for Hands {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Relaxed).into()
    }
}

const A_SECOND: Duration = Duration::from_secs(1);

/// Tokens are counted in whole nanoseconds between them: at most so many a
/// second keep the rate exact to a thousandth.
const FINEST: u64 = 1_000_000;

const BURSTS_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        for rate in [Rate::new(64, Duration::from_millis(6400)), Rate::per_second(10, 64)] {
            let start = Instant::now();
            let bucket = Bucket::new(rate, start);
            assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 64);
            let later = start + Duration::from_secs(1);
            assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 10);
            let much_later = start + Duration::from_secs(60);
            assert!(!bucket.take_many(65, much_later));
            assert!(bucket.take_many(64, much_later));
            assert!(bucket.take_many(0, much_later) && !bucket.take(much_later));
            assert_eq!(rate.refill(), Duration::from_millis(6400));
        }
    }

    #[test]
    fn a_rate_is_kept_over_all_orders_of_magnitude() {
        for rate in [1_000, 1_000_000, 1_500_001, 300_000_000, 40_000_000_000] {
            let mut throttle = Throttle::new(rate).unwrap();
            let start = Instant::now();
            // A full bucket and as much again as fills in 100 ms.
            throttle.take(throttle.burst() + rate / 10);
            let took = start.elapsed().as_secs_f64();
            assert!(took > 0.09, "{rate} a second: {took}");
        }
    }

    #[test]
    fn a_rate_of_zero_is_refused() {
        assert_eq!(Throttle::new(0).err().unwrap().code(), ErrorCode::InvalidInput);
    }
}
