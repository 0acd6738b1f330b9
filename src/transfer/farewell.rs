//! The end of a conversation before its time: how long the peer may take to say
//! that it has heard.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::message::{Pilot, Wish};
use crate::transfer::progress::Watch;
use crate::transfer::wire::MAX_REASON;

/// Lets what is left of a conversation move until that takes too long, or until
/// the handle wants no more of it. The observers hear nothing of this.
pub(crate) struct Farewell<'a> {
    watch: &'a Watch,
    /// The handle's cancel is why we leave: it says nothing about how.
    cancelled: bool,
    begun: Instant,
    still: Duration,
}

impl<'a> Farewell<'a> {
    pub(crate) fn new(watch: &'a Watch) -> Farewell<'a> {
        let cancelled = watch.wish() == Wish::Cancel;
        Farewell { watch, cancelled, begun: Instant::now(), still: Duration::ZERO }
    }

    /// Whether the peer has had its chance.
    pub(crate) fn is_over(&self) -> bool {
        self.still >= MOST_SILENCE
            || self.begun.elapsed() >= MOST_TIME
            || (!self.cancelled && self.watch.wish() == Wish::Cancel)
    }
}

impl Pilot for Farewell<'_> {
    fn wish(&self) -> Wish {
        if self.is_over() { Wish::Cancel } else { Wish::Go }
    }

    fn rest(&self, most: Duration) {
        self.watch.rest(most);
    }

    fn waits(&mut self, still: Duration) {
        self.still = still;
    }
}

/// Takes what nobody wants any more, up to a limit, and keeps the beginning of
/// each message.
pub(crate) struct Leftovers {
    pub(crate) beginning: Vec<u8>,
    left: u64,
}

impl Leftovers {
    pub(crate) fn new() -> Leftovers {
        Leftovers { beginning: Vec::new(), left: MOST_BYTES }
    }

    /// There was more of it than anybody has to take.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Write for Leftovers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.is_over() {
            return Err(io::Error::other("the peer goes on as if nothing had been said"));
        }
        let room = (2 * MAX_REASON).saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long no byte may come, as in a chunk of a large message.
pub(crate) const MOST_SILENCE: Duration = Duration::from_secs(30);

/// How long it may take altogether: a peer that lets a byte trickle now and then
/// would otherwise never be rid of.
const MOST_TIME: Duration = Duration::from_secs(120);

/// What may come: a peer that cannot listen sends what it had begun.
const MOST_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::progress::TransferHandle;

    #[test]
    fn a_farewell_ends_by_silence_by_time_or_by_the_handle() {
        let handle = TransferHandle::new();
        let watch = Watch::begin(&handle, None);
        let mut farewell = Farewell::new(&watch);
        assert_eq!(farewell.wish(), Wish::Go);
        farewell.waits(MOST_SILENCE);
        assert_eq!(farewell.wish(), Wish::Cancel);
        farewell.waits(Duration::ZERO);
        assert_eq!(farewell.wish(), Wish::Go);
        if let Some(earlier) = Instant::now().checked_sub(MOST_TIME) {
            let late = Farewell { begun: earlier, ..Farewell::new(&watch) };
            assert_eq!(late.wish(), Wish::Cancel);
        }
        handle.cancel();
        assert_eq!(farewell.wish(), Wish::Cancel);
        assert_eq!(Farewell::new(&watch).wish(), Wish::Go, "it was why");
    }

    #[test]
    fn leftovers_have_an_end() {
        let mut leftovers = Leftovers { beginning: Vec::new(), left: 10_000 };
        leftovers.write_all(&[7; 9_999]).expect("room for it");
        assert!(leftovers.beginning.len() <= 2 * MAX_REASON && !leftovers.is_over());
        leftovers.write_all(&[7]).expect_err("no more");
        assert!(leftovers.is_over());
    }
}
