//! How fast bytes move.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts bytes in a window of time that slides.
pub(crate) struct Meter {
    since: Instant,
    /// Bytes by the tenth of a second in which they came.
    slots: VecDeque<(Instant, u64)>,
    sum: u64,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Meter {
        Meter { since: now, slots: VecDeque::new(), sum: 0 }
    }

    pub(crate) fn add(&mut self, bytes: u64, now: Instant) {
        self.sum = self.sum.saturating_add(bytes);
        match self.slots.back_mut() {
            Some((start, sum)) if now.duration_since(*start) < SLOT => {
                *sum = sum.saturating_add(bytes);
            }
            _ => self.slots.push_back((now, bytes)),
        }
        self.slide(now);
    }

    /// Bytes a second over the last [`WINDOW`], or since it was made.
    pub(crate) fn rate(&mut self, now: Instant) -> f64 {
        self.slide(now);
        let time = now.duration_since(self.since).clamp(SLOT, WINDOW);
        self.sum as f64 / time.as_secs_f64()
    }

    fn slide(&mut self, now: Instant) {
        while let Some((start, bytes)) = self.slots.front()
            && now.duration_since(*start) >= WINDOW
        {
            self.sum = self.sum.saturating_sub(*bytes);
            self.slots.pop_front();
        }
    }
}

const WINDOW: Duration = Duration::from_secs(3);
const SLOT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_told_and_forgotten_when_it_ends() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 0..1000 {
            meter.add(1000, start + Duration::from_millis(10 * i));
        }
        let end = start + Duration::from_millis(9990);
        assert!((meter.rate(end) - 100_000.0).abs() < 5_000.0, "{}", meter.rate(end));
        assert_eq!(meter.rate(end + WINDOW), 0.0);
        assert!(meter.slots.is_empty());
    }

    #[test]
    fn the_window_holds_few_slots_however_many_bytes_come() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 0..100_000 {
            meter.add(u64::MAX / 4, start + Duration::from_millis(i));
        }
        assert!(meter.slots.len() <= 31);
    }
}
