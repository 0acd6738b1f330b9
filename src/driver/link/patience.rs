//! How long a call waits.

use std::time::{Duration, Instant};

use crate::driver::waiter::remaining;

/// How long a call may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until then.
    Until(Instant),
    Forever,
}

impl Patience {
    /// So long from now.
    pub(crate) fn lasting(time: Duration) -> Patience {
        match Instant::now().checked_add(time) {
            _ if time.is_zero() => Patience::None,
            Some(at) => Patience::Until(at),
            None => Patience::Forever,
        }
    }

    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Until(at) => Some(at),
            Patience::None | Patience::Forever => None,
        }
    }

    /// Whether there is none left.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Patience::None => true,
            Patience::Until(at) => remaining(at).is_none(),
            Patience::Forever => false,
        }
    }

    /// Its end, or that of `time` from now if that comes first.
    pub(crate) fn within(self, time: Duration) -> Instant {
        let at = Instant::now() + time;
        self.deadline().map_or(at, |deadline| deadline.min(at))
    }
}
