//! How often something may happen: so many times a second, and so many at once.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// A token bucket that is told the time.
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Hands, NoOpMiddleware<Nanos>>,
    start: Instant,
}

/// `burst` at once, and the same again in `refill`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) burst: NonZeroU32,
    pub(crate) refill: Duration,
}

impl Rate {
    /// Zero counts as one.
    pub(crate) fn new(burst: u32, refill: Duration) -> Rate {
        Rate { burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN), refill }
    }
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate, now: Instant) -> Bucket {
        let each = (rate.refill / rate.burst.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).expect("the period is not zero");
        let quota = quota.allow_burst(rate.burst);
        Bucket { limiter: RateLimiter::direct_with_clock(quota, Hands::default()), start: now }
    }

    /// Takes one; `false`: there is none.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.limiter.clock().set(now.saturating_duration_since(self.start));
        self.limiter.check().is_ok()
    }

    /// Takes several at once; `false`: there are not so many.
    pub(crate) fn take_many(&self, n: u32, now: Instant) -> bool {
        let Some(n) = NonZeroU32::new(n) else { return true };
        self.limiter.clock().set(now.saturating_duration_since(self.start));
        matches!(self.limiter.check_n(n), Ok(Ok(())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(Rate::new(64, Duration::from_millis(6400)), start);
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 64);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 10);
        let much_later = start + Duration::from_secs(60);
        assert!(!bucket.take_many(65, much_later));
        assert!(bucket.take_many(64, much_later));
        assert!(bucket.take_many(0, much_later) && !bucket.take(much_later));
    }
}
