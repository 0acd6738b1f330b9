//! Whether a thread that waits for a socket first looks a few times more.
//!
//! A sleeping core takes tens of microseconds to wake, several times what a short
//! round trip takes. A thread that keeps looking for that long saves both ends the
//! wake-up, and wastes its core if nothing comes. So it looks only while that has
//! paid of late, and only where there is another core for the other end.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::available_parallelism;
use std::time::Duration;

/// What one link has learned. It is a guess: races on it are harmless.
pub(super) struct Spin {
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

    /// How long to look this time, if at all.
    pub(super) fn limit(&self) -> Option<Duration> {
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
    pub(super) fn learn(&self, paid: bool) {
        let penalty = self.penalty.load(Relaxed);
        if paid {
            self.penalty.store((penalty / 2).max(1), Relaxed);
        } else {
            self.pause.store(penalty, Relaxed);
            self.penalty.store((penalty * 2).min(LONGEST_PAUSE), Relaxed);
        }
    }
}

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
    }
}
