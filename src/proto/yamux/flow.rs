//! How much either end of a stream may still send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::frame::violation;
use crate::error::Result;

/// What the peer lets us send on a stream, and what we let the peer send.
///
/// Shared by the two halves of a connection without a lock. Each counter has
/// one side that adds and one side that subtracts, so a subtractor that finds
/// enough will still find enough when it subtracts, and an adder that checked
/// for overflow still does not overflow.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Rx adds what the peer grants, Tx subtracts what it seals.
    credit: AtomicU32,
    /// The reader adds what it grants, Rx subtracts what is announced.
    allowance: AtomicU32,
}

impl Flow {
    /// A stream's flow as yamux starts it: 256 KiB each way.
    pub(crate) fn new() -> Arc<Flow> {
        Arc::new(Flow {
            credit: AtomicU32::new(INITIAL_WINDOW),
            allowance: AtomicU32::new(INITIAL_WINDOW),
        })
    }

    /// How many bytes the peer lets us send now.
    pub(crate) fn credit(&self) -> u64 {
        u64::from(self.credit.load(Ordering::Acquire))
    }

    /// Lets the peer send `n` bytes more. To be called before the window update
    /// that tells the peer is queued: what it then sends is expected already.
    pub(crate) fn grant(&self, n: u32) {
        let before = self.allowance.fetch_add(n, Ordering::AcqRel);
        debug_assert!(before.checked_add(n).is_some(), "a window above 4 GiB was granted");
    }

    /// What was announced so far began with a head of `head` bytes, which are outside
    /// the window: behind it the peer may send `window`. Only the side that reads the
    /// peer's frames may call it, and before anything else is granted.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation`: it has sent more already.
    pub(crate) fn begin_behind(&self, head: usize, window: u32) -> Result<()> {
        let left = u64::from(self.allowance.load(Ordering::Acquire));
        let behind = (left + head as u64 + u64::from(window)).checked_sub(INITIAL_WINDOW.into());
        let Some(behind) = behind.and_then(|n| u32::try_from(n).ok()) else {
            return Err(violation("more than a session's window behind its head"));
        };
        self.allowance.store(behind, Ordering::Release);
        Ok(())
    }

    /// The peer has named the window behind its head; `extra` bytes of a head of ours
    /// are still to be sent before that counts. Nothing else is being sent.
    pub(crate) fn set_credit(&self, window: u32, extra: usize) {
        let extra = u32::try_from(extra).unwrap_or(u32::MAX);
        self.credit.store(window.saturating_add(extra), Ordering::Release);
    }

    /// What we let the peer send and it has not announced yet.
    pub(crate) fn allowance(&self) -> u64 {
        u64::from(self.allowance.load(Ordering::Acquire))
    }

    /// The peer granted `delta`.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` where the sum would pass 2^32 - 1.
    pub(crate) fn add_credit(&self, delta: u32) -> Result<()> {
        if self.credit.load(Ordering::Acquire).checked_add(delta).is_none() {
            return Err(violation("window updates that add up to more than 4 GiB"));
        }
        self.credit.fetch_add(delta, Ordering::AcqRel);
        Ok(())
    }

    /// Tx seals `n` bytes, of which there was credit.
    pub(super) fn spend(&self, n: u32) {
        let before = self.credit.fetch_sub(n, Ordering::AcqRel);
        debug_assert!(before >= n, "more was spent than there was credit");
    }

    /// The peer announced `n` bytes.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` where it was not allowed to send so many.
    pub(super) fn announce(&self, n: u32) -> Result<()> {
        if n > self.allowance.load(Ordering::Acquire) {
            return Err(violation("DATA beyond the window"));
        }
        self.allowance.fetch_sub(n, Ordering::AcqRel);
        Ok(())
    }
}

/// The window of a stream that nothing was said about.
pub(crate) const INITIAL_WINDOW: u32 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn credit_is_added_up_to_the_last_byte_and_not_beyond() {
        let flow = Flow::new();
        flow.add_credit(u32::MAX - INITIAL_WINDOW).unwrap();
        assert_eq!(flow.credit(), u64::from(u32::MAX));
        assert_eq!(flow.add_credit(1).unwrap_err().code(), ErrorCode::ProtocolViolation);
        assert_eq!(flow.credit(), u64::from(u32::MAX));
        flow.spend(1);
        flow.add_credit(1).unwrap();
    }

    #[test]
    fn an_announcement_within_the_allowance_is_taken_off_it() {
        let flow = Flow::new();
        flow.announce(INITIAL_WINDOW).unwrap();
        assert_eq!(flow.announce(1).unwrap_err().code(), ErrorCode::ProtocolViolation);
        flow.grant(1);
        flow.announce(1).unwrap();
        assert_eq!(flow.allowance(), 0);
    }
}
