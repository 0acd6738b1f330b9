//! When the reader of a stream lets its peer send more, and how much.

use std::time::{Duration, Instant};

use super::flow::INITIAL_WINDOW;

/// The receive window of one stream: pure arithmetic, the time an argument.
///
/// Credit is given back only for what the application has consumed, half a
/// window at a time. A reader that consumes half a window within two round
/// trips is held up by the window rather than by itself: the window doubles, if
/// the owner can reserve the memory for it, up to [`MAX_WINDOW`].
#[derive(Debug)]
pub(crate) struct RecvWindow {
    size: u32,
    /// Consumed and not granted again yet.
    consumed: u32,
    /// The last grant, or the first byte consumed.
    since: Option<Instant>,
}

impl RecvWindow {
    /// A window of 256 KiB, of which nothing was consumed.
    pub(crate) fn new() -> RecvWindow {
        RecvWindow { size: INITIAL_WINDOW, consumed: 0, since: None }
    }

    /// The application consumed `n` bytes at `now`. Returns what is to be
    /// granted, if it is time. `may_grow` is asked to reserve so many bytes
    /// more before the window grows by them.
    pub(crate) fn consumed(
        &mut self,
        n: usize,
        now: Instant,
        rtt: Duration,
        may_grow: &mut dyn FnMut(u32) -> bool,
    ) -> Option<u32> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        debug_assert!(n <= self.size - self.consumed.min(self.size), "consumed above the window");
        self.consumed = self.consumed.saturating_add(n).min(self.size);
        let began = self.since;
        self.since = began.or(Some(now));
        if self.consumed < self.size / 2 {
            return None;
        }
        let quick = rtt.max(MIN_RTT).saturating_mul(2);
        let limited = began.is_some_and(|t| now.saturating_duration_since(t) <= quick);
        let grown = self.size.saturating_mul(2).min(MAX_WINDOW);
        let extra = grown - self.size;
        let extra = if limited && extra > 0 && may_grow(extra) { extra } else { 0 };
        let delta = self.consumed + extra;
        (self.size, self.consumed, self.since) = (self.size + extra, 0, Some(now));
        Some(delta)
    }

    /// How many bytes of this stream may be on their way or unread.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Consumed by the application and not granted to the peer yet.
    #[cfg(test)]
    pub(crate) fn ungranted(&self) -> u32 {
        self.consumed
    }
}

/// No window grows above this.
pub(crate) const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// Shorter round trips than this are not measured well enough to tell a
/// limited reader from an idle one.
const MIN_RTT: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::some_moment;

    const HALF: usize = INITIAL_WINDOW as usize / 2;
    const MS: Duration = Duration::from_millis(1);

    fn yes(_: u32) -> bool {
        true
    }

    #[test]
    fn nothing_is_granted_before_half_the_window_is_consumed() {
        let (mut window, now) = (RecvWindow::new(), some_moment());
        assert_eq!(window.consumed(HALF - 1, now, MS, &mut yes), None);
        assert_eq!(window.consumed(0, now, MS, &mut yes), None);
        assert_eq!(window.ungranted(), HALF as u32 - 1);
        let delta = window.consumed(1, now + 10 * MS, MS, &mut yes);
        assert_eq!((delta, window.size(), window.ungranted()), (Some(HALF as u32), 256 << 10, 0));
    }

    #[test]
    fn a_window_doubles_if_half_of_it_is_consumed_within_two_round_trips() {
        let start = some_moment();
        for (after, doubles) in [(2 * MS, true), (2 * MS + Duration::from_nanos(1), false)] {
            let mut window = RecvWindow::new();
            window.consumed(1, start, MS, &mut yes);
            let delta = window.consumed(HALF - 1, start + after, MS, &mut yes).unwrap();
            assert_eq!(window.size() == 2 * INITIAL_WINDOW, doubles);
            let extra = if doubles { INITIAL_WINDOW } else { 0 };
            assert_eq!(delta, HALF as u32 + extra);
        }
    }

    #[test]
    fn the_first_bytes_ever_consumed_say_nothing_about_speed() {
        let mut window = RecvWindow::new();
        let delta = window.consumed(2 * HALF, some_moment(), MS, &mut yes);
        assert_eq!((delta, window.size()), (Some(INITIAL_WINDOW), INITIAL_WINDOW));
    }

    #[test]
    fn a_round_trip_counts_as_half_a_millisecond_at_least() {
        let (mut window, start) = (RecvWindow::new(), some_moment());
        window.consumed(1, start, Duration::ZERO, &mut yes);
        window.consumed(HALF - 1, start + MS, Duration::ZERO, &mut yes).unwrap();
        assert_eq!(window.size(), 2 * INITIAL_WINDOW);
    }

    #[test]
    fn a_window_doubles_to_16_mib_and_no_further() {
        let (mut window, mut now) = (RecvWindow::new(), some_moment());
        let mut asked = Vec::new();
        window.consumed(1, now, MS, &mut yes);
        let mut granted = 0u64;
        for _ in 0..20 {
            now += MS;
            let n = window.size() as usize / 2;
            let n = n - window.ungranted() as usize;
            granted += u64::from(
                window.consumed(n, now, MS, &mut |extra| (asked.push(extra), true).1).unwrap(),
            );
        }
        assert_eq!(window.size(), MAX_WINDOW);
        assert_eq!(asked, [256, 512, 1024, 2048, 4096, 8192].map(|k| k << 10));
        assert!(granted > u64::from(MAX_WINDOW));
    }

    #[test]
    fn growth_that_cannot_be_reserved_is_not_granted() {
        let (mut window, now) = (RecvWindow::new(), some_moment());
        window.consumed(1, now, MS, &mut |_| false);
        let delta = window.consumed(HALF - 1, now, MS, &mut |_| false);
        assert_eq!((delta, window.size()), (Some(HALF as u32), INITIAL_WINDOW));
    }

    #[test]
    fn a_clock_or_a_round_trip_beyond_reason_does_no_harm() {
        let (mut window, now) = (RecvWindow::new(), some_moment());
        window.consumed(1, now, Duration::MAX, &mut yes);
        let earlier = now.checked_sub(MS).unwrap_or(now);
        assert!(window.consumed(HALF, earlier, Duration::MAX, &mut yes).is_some());
    }
}
