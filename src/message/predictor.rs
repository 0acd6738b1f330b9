//! Which class a stream of unknown size belongs to, while it runs.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::message::strategy::SizeClass;

/// Watches the chunks of a stream and moves it between classes.
///
/// A stream starts small. Four chunks in a row that the source filled move it
/// up, unless the larger class was measured not to be faster by a tenth; four
/// in a row that it filled by less than a quarter move it down to what it
/// needs; and a class that turns out slower by a tenth than the one before is
/// left again. Rates are kept from stream to stream.
#[derive(Clone, Debug)]
pub struct Predictor {
    class: SizeClass,
    /// Chunks in a row, in this class, that were full, or nearly empty.
    full: u32,
    scant: u32,
    /// The class that a move up came from, until the new one is measured.
    tried_from: Option<SizeClass>,
    /// What the next chunk is expected to be.
    expected: f64,
    accuracy: f64,
    rates: [Option<f64>; SizeClass::ALL.len()],
    /// How often a move up was not made because of its rate.
    declined: u32,
    sent: u64,
    history: VecDeque<Switch>,
}

/// One move between classes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Switch {
    /// The class before.
    pub from: SizeClass,
    /// The class after.
    pub to: SizeClass,
    /// How many bytes of the stream had been sent.
    pub at: u64,
    /// Why.
    pub reason: SwitchReason,
}

/// Why a stream moved to another class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SwitchReason {
    /// The sizer took its first bytes for those of a stream of that class.
    Estimate,
    /// The source fills every chunk.
    FullChunks,
    /// The source gives much less than fits into a chunk.
    ScantChunks,
    /// The class was measured to be slower than the one before.
    Slower,
}

impl Predictor {
    pub(crate) fn new() -> Predictor {
        Predictor {
            class: SizeClass::Small,
            full: 0,
            scant: 0,
            tried_from: None,
            expected: 0.0,
            accuracy: 1.0,
            rates: [None; SizeClass::ALL.len()],
            declined: 0,
            sent: 0,
            history: VecDeque::new(),
        }
    }

    /// The class of the stream now.
    pub fn class(&self) -> SizeClass {
        self.class
    }

    /// How many of the last chunks were about as large as expected (within a
    /// factor of two), from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.accuracy
    }

    /// How fast full chunks of this class went, in bytes a second, if any did.
    pub fn rate(&self, class: SizeClass) -> Option<f64> {
        self.rates[class as usize]
    }

    /// The last moves, the oldest first; [`HISTORY`](Predictor::HISTORY) at most.
    pub fn switch_history(&self) -> impl ExactSizeIterator<Item = &Switch> {
        self.history.iter()
    }

    /// How many moves are remembered.
    pub const HISTORY: usize = 64;

    /// Another stream begins.
    pub(crate) fn begin(&mut self) {
        (self.class, self.tried_from, self.sent, self.expected) = (SizeClass::Small, None, 0, 0.0);
        (self.full, self.scant) = (0, 0);
    }

    /// Whether the stream has sent nothing yet.
    pub(crate) fn is_at_start(&self) -> bool {
        self.sent == 0
    }

    /// What the sizer thinks of the first bytes; before they are counted.
    pub(crate) fn estimated(&mut self, size: u64) -> Option<Switch> {
        let class = SizeClass::of(size).max(SizeClass::Small);
        (class != self.class).then(|| self.switch(class, SwitchReason::Estimate))
    }

    /// A chunk of `size` bytes went, where there was `room`, in this time.
    pub(crate) fn update(&mut self, size: usize, room: usize, took: Duration) -> Option<Switch> {
        self.learn(size, room, took);
        self.sent += size as u64;
        if size == room {
            (self.full, self.scant) = (self.full + 1, 0);
        } else {
            self.full = 0;
            self.scant = if size < room / 4 { self.scant + 1 } else { 0 };
        }
        if self.full >= RUN {
            self.full = 0;
            return self.consider_up();
        }
        if self.scant >= RUN {
            self.scant = 0;
            return self.consider_down(room);
        }
        None
    }

    fn learn(&mut self, size: usize, room: usize, took: Duration) {
        let size_now = size as f64;
        if self.expected > 0.0 {
            let hit = size_now <= 2.0 * self.expected && self.expected <= 2.0 * size_now;
            self.accuracy += (f64::from(u8::from(hit)) - self.accuracy) / ACCURACY_OVER;
            self.expected += (size_now - self.expected) / 4.0;
        } else {
            self.expected = size_now;
        }
        // What a slow source gives says nothing about the class.
        if size == room && !took.is_zero() {
            let now = size_now / took.as_secs_f64();
            let rate = &mut self.rates[self.class as usize];
            *rate = Some(rate.map_or(now, |rate| rate + (now - rate) / 4.0));
        }
    }

    fn consider_up(&mut self) -> Option<Switch> {
        let here = self.rate(self.class);
        if let Some(before) = self.tried_from.take()
            && let (Some(here), Some(there)) = (here, self.rate(before))
            && here < there * (1.0 - MARGIN)
        {
            return Some(self.switch(before, SwitchReason::Slower));
        }
        let next = *SizeClass::ALL.get(self.class as usize + 1)?;
        if let (Some(here), Some(there)) = (here, self.rate(next))
            && there < here * (1.0 + MARGIN)
        {
            self.declined += 1;
            if self.declined >= TRY_AGAIN {
                // The network may have changed: measure it anew.
                (self.declined, self.rates[next as usize]) = (0, None);
            }
            return None;
        }
        self.tried_from = Some(self.class);
        self.expected = 0.0;
        Some(self.switch(next, SwitchReason::FullChunks))
    }

    fn consider_down(&mut self, room: usize) -> Option<Switch> {
        let wanted = (self.expected * 2.0).min(room as f64) as u64;
        let class = SizeClass::of(wanted);
        (class < self.class).then(|| self.switch(class, SwitchReason::ScantChunks))
    }

    fn switch(&mut self, to: SizeClass, reason: SwitchReason) -> Switch {
        let switch = Switch { from: self.class, to, at: self.sent, reason };
        self.class = to;
        if self.history.len() == Predictor::HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(switch);
        log::debug!("a stream moves {switch}");
        switch
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            SwitchReason::Estimate => "by its first bytes",
            SwitchReason::FullChunks => "its source fills every chunk",
            SwitchReason::ScantChunks => "its source gives little at a time",
            SwitchReason::Slower => "it was faster before",
        };
        write!(f, "from {} to {} after {} bytes: {why}", self.from, self.to, self.at)
    }
}

/// How many chunks in a row make a reason.
const RUN: u32 = 4;
/// The gain, or loss, that counts.
const MARGIN: f64 = 0.1;
/// After so many refusals a class is measured anew.
const TRY_AGAIN: u32 = 16;
const ACCURACY_OVER: f64 = 16.0;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 65_536;

    fn chunks(p: &mut Predictor, n: usize, size: usize, rate: f64) -> Vec<Switch> {
        let took = Duration::from_secs_f64(size as f64 / rate);
        (0..n).filter_map(|_| p.update(size, ROOM, took)).collect()
    }

    #[test]
    fn a_full_source_moves_up_and_a_scant_one_down_not_sooner_than_after_four() {
        let mut p = Predictor::new();
        assert_eq!(chunks(&mut p, 3, ROOM, 1e9), []);
        assert_eq!(chunks(&mut p, 1, ROOM, 1e9)[0].to, SizeClass::Medium);
        assert_eq!(chunks(&mut p, 8, ROOM, 1.2e9).len(), 2);
        assert_eq!(p.class(), SizeClass::Huge);
        assert_eq!(chunks(&mut p, 3, 100, 1e9), []);
        chunks(&mut p, 40, 100, 1e9);
        assert_eq!(p.class(), SizeClass::Tiny);
        assert!(p.switch_history().any(|s| s.reason == SwitchReason::ScantChunks));
    }

    #[test]
    fn a_class_that_is_slower_is_left_and_not_tried_again_soon() {
        let mut p = Predictor::new();
        chunks(&mut p, 4, ROOM, 1e9);
        chunks(&mut p, 4, ROOM, 5e8);
        assert_eq!(p.class(), SizeClass::Small);
        assert_eq!(p.switch_history().last().unwrap().reason, SwitchReason::Slower);
        assert_eq!(chunks(&mut p, 4 * (TRY_AGAIN as usize), ROOM, 1e9), []);
        assert_eq!(chunks(&mut p, 4, ROOM, 1e9).len(), 1);
    }

    #[test]
    fn a_source_at_the_border_does_not_make_it_swing() {
        let mut p = Predictor::new();
        for i in 0..1000 {
            let size = if i % 2 == 0 { ROOM } else { ROOM - 1 };
            p.update(size, ROOM, Duration::from_micros(50));
        }
        assert_eq!(p.switch_history().len(), 0);
    }

    #[test]
    fn accuracy_tells_steady_sources_from_wild_ones() {
        let (mut steady, mut wild) = (Predictor::new(), Predictor::new());
        for i in 0..200 {
            steady.update(1000, ROOM, Duration::from_micros(1));
            wild.update(if i % 2 == 0 { 10 } else { 60_000 }, ROOM, Duration::from_micros(1));
        }
        assert!(steady.accuracy() > 0.99 && wild.accuracy() < 0.1);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut p = Predictor::new();
        for _ in 0..1000 {
            chunks(&mut p, 8, ROOM, 1e9);
            chunks(&mut p, 8, 10, 1e9);
        }
        assert!(p.switch_history().len() <= Predictor::HISTORY);
    }
}
