//! Memory that is held for a peer and stays where it is: what a host that is out of memory
//! can have back.

use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use super::stream::Priority;

/// So much that does not move, whose it is, since when, and how to have it back.
pub(crate) struct Holding {
    pub(crate) peer: PeerId,
    pub(crate) priority: Priority,
    pub(crate) bytes: usize,
    pub(crate) since: Instant,
    /// Ends what holds it, and says so to who uses it. Called without a lock.
    pub(crate) give_back: Box<dyn FnOnce()>,
}

/// Whether something that waits for its peer to take it gets less: it stands still unless
/// half of it is on its way to be gone within [`HALF_LIFE`].
#[derive(Default)]
pub(crate) struct Pace {
    mark: Option<Mark>,
}

/// Where it was once, and until when that is known.
struct Mark {
    taken: u64,
    waiting: u64,
    since: Instant,
    looked: Instant,
}

impl Pace {
    /// The peer has taken so much in all, and so much waits. Returns since when that stands
    /// still, if it does. It takes two looks, [`STILL`] apart, to know.
    pub(crate) fn look(&mut self, taken: u64, waiting: u64, now: Instant) -> Option<Instant> {
        let mark = self.mark.as_mut().filter(|mark| {
            waiting > 0
                && now.saturating_duration_since(mark.looked) <= STILL * 3
                && taken.saturating_sub(mark.taken) < mark.waiting.div_ceil(2)
        });
        let Some(mark) = mark else {
            let here = Mark { taken, waiting, since: now, looked: now };
            self.mark = (waiting > 0).then_some(here);
            return None;
        };
        mark.looked = now;
        let time = now.saturating_duration_since(mark.since);
        let gone = u128::from(taken.saturating_sub(mark.taken));
        let due = u128::from(mark.waiting.div_ceil(2)) * time.as_millis();
        (time >= STILL && gone * HALF_LIFE.as_millis() < due).then_some(mark.since)
    }
}

/// What nothing was taken of for so long stands still.
pub(crate) const STILL: Duration = Duration::from_secs(2);

/// A peer that takes half of what waits for it in this time moves.
const HALF_LIFE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::some_moment;

    const SECOND: Duration = Duration::from_secs(1);

    /// Each second so much more was taken, and as much waits again. When it was seen to
    /// stand still first.
    fn still_after(each: u64, waiting: u64) -> Option<u32> {
        let (mut pace, start) = (Pace::default(), some_moment());
        (0..100).find(|&n| pace.look(u64::from(n) * each, waiting, start + n * SECOND).is_some())
    }

    #[test]
    fn it_stands_still_unless_half_of_it_goes_in_time() {
        assert_eq!(still_after(0, 1000), Some(2));
        assert_eq!(still_after(1, 1000), Some(2), "a byte now and then is not enough");
        assert_eq!(still_after(16, 1000), Some(2));
        assert_eq!(still_after(17, 1000), None);
        assert_eq!(still_after(1, 1), None);
    }

    #[test]
    fn since_when_is_the_last_time_that_half_of_it_had_gone() {
        let (mut pace, start) = (Pace::default(), some_moment());
        let looks = [(0, 1000), (400, 600), (500, 1000), (510, 990), (510, 990)];
        let at = |n: usize| start + SECOND * n as u32;
        let still = looks.iter().enumerate().map(|(n, look)| pace.look(look.0, look.1, at(n)));
        let still: Vec<_> = still.collect();
        assert_eq!(still, [None, None, None, None, Some(at(2))]);
    }

    #[test]
    fn nothing_stands_still_that_was_not_looked_at_lately_or_is_not_there() {
        let (mut pace, start) = (Pace::default(), some_moment());
        assert_eq!((pace.look(0, 0, start), pace.look(0, 0, start + 2 * STILL)), (None, None));
        assert_eq!(pace.look(0, 9, start + 3 * STILL), None);
        assert_eq!(pace.look(0, 9, start + 7 * STILL), None);
        assert!(pace.look(0, 9, start + 8 * STILL).is_some());
        assert_eq!(pace.look(9, 0, start + 9 * STILL), None);
        assert_eq!(pace.look(9, 9, start + 10 * STILL), None);
    }
}
