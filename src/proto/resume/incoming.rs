//! A model of what one end of a session has received, over all of its carriers. In the
//! sessions themselves `driver/carrier` counts it, and `session/carriers` what is left unread.

use super::ACK_EVERY;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::INITIAL_WINDOW;

/// Counts what arrives, and says when the peer is to be told and what it may send.
///
/// There is one in a session. It belongs to the current carrier, and is taken from
/// it before anything is said of a new one: a carrier without it throws away what
/// still arrives. So nothing is counted twice, and nothing that the peer was not
/// told of is kept.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What has arrived: bytes that are stored in order, and the peer's FIN.
    received: u64,
    finished: bool,
    /// What the peer was told of it.
    told: u64,
    /// Bytes that the application has taken, or that were thrown away for it.
    consumed: u64,
    /// What is consumed from here on opens the current carrier's window.
    granted_from: u64,
    /// The window that the peer was told for the next carrier.
    announced: u32,
}

impl Incoming {
    /// That of a new session: nothing has arrived.
    pub(crate) fn new() -> Incoming {
        Incoming {
            received: 0,
            finished: false,
            told: 0,
            consumed: 0,
            granted_from: 0,
            announced: INITIAL_WINDOW,
        }
    }

    /// `n` more bytes are stored. Returns what the peer is to be told, if it is time.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` where a carrier before has ended: its bytes were the last.
    pub(crate) fn stored(&mut self, n: usize) -> Result<Option<u32>> {
        if self.finished && n > 0 {
            return Err(Error::new(ErrorCode::ProtocolViolation, "bytes behind the end"));
        }
        self.received += n as u64;
        Ok(if self.received - self.told >= ACK_EVERY { self.due() } else { None })
    }

    /// The current carrier has ended. Returns what the peer is to be told: nothing if
    /// a carrier before had ended too.
    pub(crate) fn fin(&mut self) -> Option<u32> {
        if !std::mem::replace(&mut self.finished, true) {
            self.received += 1;
        }
        self.due()
    }

    /// What the peer is to be told, if it does not know it.
    pub(crate) fn due(&mut self) -> Option<u32> {
        let due = self.is_due().then_some(self.received as u32);
        self.told = self.received;
        due
    }

    /// Whether there is something that the peer was not told.
    pub(crate) fn is_due(&self) -> bool {
        self.told != self.received
    }

    /// The application has taken the next `n` bytes, of whichever carrier. Returns how
    /// many of them open the window of the current one.
    pub(crate) fn consumed(&mut self, n: usize) -> usize {
        let from = self.consumed.max(self.granted_from);
        self.consumed += n as u64;
        debug_assert!(self.consumed <= self.bytes(), "consumed what has not arrived");
        self.consumed.saturating_sub(from) as usize
    }

    /// What has arrived: what is to be said in a head.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Whether the peer's FIN has arrived.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes that have arrived and nobody has taken.
    pub(crate) fn unread(&self) -> u64 {
        self.bytes() - self.consumed
    }

    /// What a head says of it: how much has arrived, and how much more may come on
    /// the new carrier. From here to [`Incoming::carry_on`] nothing may be stored.
    pub(crate) fn announce(&mut self) -> (u64, u32) {
        self.told = self.received;
        self.announced = u64::from(INITIAL_WINDOW).saturating_sub(self.unread()) as u32;
        (self.received, self.announced)
    }

    /// The window of that: what the next carrier's stream is to let the peer send.
    pub(crate) fn announced(&self) -> u32 {
        self.announced
    }

    /// The new carrier is there: behind its head the peer may send what was announced.
    /// Returns how much of what it may send less than on a new stream was consumed
    /// meanwhile, and so counts as consumed on this one.
    pub(crate) fn carry_on(&mut self) -> usize {
        let withheld = INITIAL_WINDOW - self.announced;
        self.granted_from = self.bytes().saturating_sub(withheld.into());
        self.consumed.saturating_sub(self.granted_from) as usize
    }

    /// What has arrived without the FIN.
    pub(crate) fn bytes(&self) -> u64 {
        self.received - u64::from(self.finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = INITIAL_WINDOW as usize;

    #[test]
    fn the_peer_is_told_of_every_256_kib_and_of_the_end() {
        let mut incoming = Incoming::new();
        assert_eq!(incoming.stored(262_143).unwrap(), None);
        assert!(incoming.is_due());
        assert_eq!(incoming.stored(1).unwrap(), Some(262_144));
        assert_eq!((incoming.due(), incoming.stored(1).unwrap()), (None, None));
        assert_eq!((incoming.due(), incoming.due()), (Some(262_145), None));
        assert_eq!(incoming.fin(), Some(262_146));
        assert_eq!((incoming.fin(), incoming.received()), (None, 262_146), "it ends once");
        assert_eq!(incoming.stored(1).unwrap_err().code(), ErrorCode::ProtocolViolation);
    }

    #[test]
    fn without_a_loss_everything_that_is_consumed_opens_the_window() {
        let mut incoming = Incoming::new();
        assert_eq!(incoming.announce(), (0, INITIAL_WINDOW));
        assert_eq!(incoming.carry_on(), 0);
        incoming.stored(1000).unwrap();
        assert_eq!((incoming.consumed(10), incoming.consumed(990)), (10, 990));
    }

    /// What may be on its way and what is unread are one window together, or what was
    /// unread before; and what the new carrier does without is granted as that is read.
    #[test]
    fn what_is_unread_is_no_part_of_the_new_window() {
        for unread in [0, 1, 90, 1000, WINDOW - 80, WINDOW, WINDOW + 5, 16 << 20] {
            for early in [0, 1, 500, unread / 2, unread] {
                let early = early.min(unread);
                let mut incoming = Incoming::new();
                incoming.stored(unread + 7).unwrap();
                incoming.consumed(7);
                let (received, window) = incoming.announce();
                assert_eq!(received, unread as u64 + 7);
                assert_eq!(window as usize, WINDOW.saturating_sub(unread));
                assert_eq!(incoming.consumed(early), early, "the old carrier is open still");
                let granted = incoming.carry_on() + incoming.consumed(unread - early);
                assert_eq!(granted, WINDOW - window as usize);
                incoming.stored(10).unwrap();
                assert_eq!(incoming.consumed(10), 10);
            }
        }
    }

    #[test]
    fn many_losses_with_a_reader_that_stands_still_fill_one_window() {
        let mut incoming = Incoming::new();
        for _ in 0..100 {
            let (_, window) = incoming.announce();
            incoming.carry_on();
            incoming.stored(window as usize / 2 + 1).unwrap();
        }
        assert!(incoming.unread() <= WINDOW as u64 + 100);
    }
}
