//! Who broke the rules waits, longer each time, and is forgotten slowly.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was turned away. Only many of these in a short time count.
    Refused,
    /// It broke the protocol, or flooded. One is enough.
    Broken,
}

/// The faults of peers, or of addresses.
pub(crate) struct Penalties<K> {
    times: Times,
    known: Mutex<HashMap<K, Record>>,
}

/// How long who broke the rules waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// The first time; each further time it is twice as long.
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { first: Duration::from_secs(1), longest: Duration::from_secs(600) }
    }
}

struct Record {
    /// A moving average of the faults: it halves every minute.
    score: f64,
    /// How often it was made to wait, less one for every ten quiet minutes.
    bans: u32,
    until: Option<Instant>,
    last: Instant,
}

impl<K: Hash + Eq> Penalties<K> {
    pub(crate) fn new(times: Times) -> Penalties<K> {
        Penalties { times, known: Mutex::default() }
    }

    /// Notes a fault. Returns how long it waits from now on, if that begins now.
    pub(crate) fn note(&self, who: K, fault: Fault, now: Instant) -> Option<Duration> {
        let mut known = self.known.lock();
        if known.len() >= MOST_KNOWN {
            known.retain(|_, record| record.is_remembered(now));
        }
        if known.len() >= MOST_KNOWN && !known.contains_key(&who) {
            // So many at once are not stopped one by one.
            return None;
        }
        let fresh = || Record { score: 0.0, bans: 0, until: None, last: now };
        known.entry(who).or_insert_with(fresh).note(fault, now, self.times)
    }

    /// Whether it has to wait still.
    pub(crate) fn is_banned(&self, who: &K, now: Instant) -> bool {
        let known = self.known.lock();
        known.get(who).and_then(|record| record.until).is_some_and(|until| now < until)
    }
}

impl Record {
    fn note(&mut self, fault: Fault, now: Instant, times: Times) -> Option<Duration> {
        let quiet = now.saturating_duration_since(self.last);
        self.last = now;
        self.score *= 0.5_f64.powf(quiet.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.bans = self.bans.saturating_sub(pardoned(quiet));
        self.score += match fault {
            Fault::Refused => 1.0,
            Fault::Broken => TOO_MUCH,
        };
        let waits = self.until.is_some_and(|until| now < until);
        if waits || self.score < TOO_MUCH {
            return None;
        }
        let time = times.first.saturating_mul(1 << self.bans.min(16)).min(times.longest);
        self.score = 0.0;
        self.bans += 1;
        self.until = now.checked_add(time);
        Some(time)
    }

    fn is_remembered(&self, now: Instant) -> bool {
        pardoned(now.saturating_duration_since(self.last)) < self.bans.max(1)
    }
}

fn pardoned(quiet: Duration) -> u32 {
    u32::try_from(quiet.as_secs() / PARDON.as_secs()).unwrap_or(u32::MAX)
}

const HALF_LIFE: Duration = Duration::from_secs(60);
/// A quiet time after which one ban is forgotten.
const PARDON: Duration = Duration::from_secs(600);
const TOO_MUCH: f64 = 32.0;
const MOST_KNOWN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_breaks_the_rules_waits_twice_as_long_each_time() {
        let penalties = Penalties::new(Times::default());
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let wait = penalties.note(7, Fault::Broken, now).expect("a ban");
            assert_eq!(penalties.note(7, Fault::Broken, now), None, "it waits already");
            assert!(penalties.is_banned(&7, now + wait - SECOND / 2));
            assert!(!penalties.is_banned(&8, now));
            now += wait;
            assert!(!penalties.is_banned(&7, now));
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn refusals_count_only_where_they_are_many_in_a_short_time() {
        let penalties = Penalties::new(Times::default());
        let start = Instant::now();
        for n in 0..200 {
            assert_eq!(penalties.note('a', Fault::Refused, start + n * 3 * SECOND), None);
        }
        let banned = (0..40).filter_map(|_| penalties.note('b', Fault::Refused, start)).count();
        assert_eq!(banned, 1);
    }

    #[test]
    fn bans_are_forgotten_slowly() {
        let penalties = Penalties::new(Times::default());
        let start = Instant::now();
        penalties.note(1, Fault::Broken, start);
        penalties.note(1, Fault::Broken, start + 2 * SECOND);
        let wait = penalties.note(1, Fault::Broken, start + PARDON + 5 * SECOND);
        assert_eq!(wait, Some(2 * SECOND), "one of two is forgotten");
        let wait = penalties.note(1, Fault::Broken, start + 20 * PARDON);
        assert_eq!(wait, Some(SECOND));
    }

    #[test]
    fn those_who_are_known_are_bounded() {
        let penalties = Penalties::new(Times::default());
        let now = Instant::now();
        for n in 0..2 * MOST_KNOWN {
            penalties.note(n, Fault::Broken, now);
        }
        assert_eq!(penalties.known.lock().len(), MOST_KNOWN);
        assert!(penalties.note(usize::MAX, Fault::Broken, now + 3 * PARDON).is_some());
        assert_eq!(penalties.known.lock().len(), 1);
    }
}
