//! Whether a thread that waits for a socket first looks a few times more.
//!
//! A sleeping core takes tens of microseconds to wake, several times what a short
//! round trip takes. A thread that keeps looking for that long saves both ends the
//! wake-up, and wastes its core if nothing comes. So it looks only while that has
//! paid of late, and only where there is another core for the other end. Between two
//! looks it yields: the other end may have been put on this very core.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// What one link has learned. It is a guess: races on it are harmless.
pub(crate) struct Spin {
    longest: Duration,
    /// Waits that sleep at once before the next try.
    pause: AtomicU32,
    /// How long the next pause is.
    penalty: AtomicU32,
}

impl Spin {
    /// Looks for at most `longest`; zero: never.
    pub(super) fn new(longest: Duration) -> Spin {
        // Finding out reads files: once is enough.
        static ALONE: LazyLock<bool> =
            LazyLock::new(|| available_parallelism().is_ok_and(|n| n.get() == 1));
        Spin {
            longest: if *ALONE { Duration::ZERO } else { longest },
            pause: AtomicU32::new(0),
            penalty: AtomicU32::new(1),
        }
    }

    /// The same while a handshake waits for the other end, which computes meanwhile.
    pub(crate) fn of_handshakes(longest: Duration) -> Spin {
        Spin::new(if longest.is_zero() { longest } else { longest + KEY_WORK })
    }

    /// Looks until `found`, where and for as long as that pays. Returns whether it was.
    pub(super) fn until(&self, mut found: impl FnMut() -> bool) -> bool {
        let Some(limit) = self.limit() else { return false };
        let start = Instant::now();
        let paid = loop {
            if found() {
                break true;
            }
            if start.elapsed() >= limit {
                break false;
            }
            std::thread::yield_now();
        };
        self.learn(paid);
        paid
    }

    /// How long to look this time, if at all.
    fn limit(&self) -> Option<Duration> {
        if self.longest.is_zero() {
            return None;
        }
        match self.pause.load(Relaxed) {
            0 => Some(self.longest),
            left => {
                self.pause.store(left - 1, Relaxed);
                None
            }
        }
    }

    /// Whether it paid.
    fn learn(&self, paid: bool) {
        let penalty = self.penalty.load(Relaxed);
        if paid {
            self.penalty.store((penalty / 2).max(1), Relaxed);
        } else {
            self.pause.store(penalty, Relaxed);
            self.penalty.store((penalty * 2).min(LONGEST_PAUSE), Relaxed);
        }
    }
}

/// In which an end wakes and computes what it says next in a handshake: three agreements,
/// and a signature to verify.
const KEY_WORK: Duration = Duration::from_micros(200);

/// Waits without a try, at most.
const LONGEST_PAUSE: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_where_it_does_not_pay_and_comes_back_where_it_does() {
        let spin = Spin {
            longest: Duration::from_micros(30),
            pause: AtomicU32::new(0),
            penalty: AtomicU32::new(1),
        };
        let tries = |paid: bool| {
            let look = |_| spin.limit().inspect(|_| spin.learn(paid)).is_some();
            (0..10_000).map(look).filter(|&tried| tried).count()
        };
        assert!(tries(false) < 60);
        assert!(tries(true) > 9_000);
        assert_eq!(Spin::new(Duration::ZERO).limit(), None);
        assert_eq!(Spin::of_handshakes(Duration::ZERO).limit(), None);
    }

    #[test]
    fn it_looks_until_it_finds_or_its_time_is_over() {
        let of = |longest| Spin { longest, pause: AtomicU32::new(0), penalty: AtomicU32::new(1) };
        let mut looks = 0;
        assert!(of(Duration::from_secs(60)).until(|| {
            looks += 1;
            looks == 3
        }));
        assert_eq!(looks, 3);
        let longest = Duration::from_millis(1);
        let (spin, start) = (of(longest), Instant::now());
        assert!(!spin.until(|| false));
        assert!(start.elapsed() >= longest);
        // That did not pay: the next wait sleeps at once.
        assert!(!spin.until(|| true));
        assert!(spin.until(|| true));
    }
}
