//! What a session has written and its peer has not confirmed, in memory that is lent
//! and counts for the host's budget.

use std::io::IoSlice;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::turn::Way;
use crate::driver::Pace;
use crate::error::Result;
use crate::proto::resume::{self, Next};
use crate::proto::yamux::Kept;
use crate::resources::budget::{Account, Budget, Pressure};

/// How far the session's own direction is. What it knows is read through it; what
/// changes how much is kept goes through the calls here.
pub(super) struct Outgoing {
    inner: resume::Outgoing,
    /// How much may be kept now, and how much at most.
    most: usize,
    limit: usize,
    /// Where the current carrier began, if it is not the first.
    resumed_at: Option<u64>,
    account: Account,
    /// How the peer confirms what is kept, where memory is short.
    pace: Pace,
    /// What it has to say waits for others.
    pub(super) way: Option<Way>,
}

impl Outgoing {
    pub(super) fn new(limit: usize, budget: Arc<Budget>) -> Outgoing {
        let (inner, account) = (resume::Outgoing::new(), Account::new(budget));
        let most = limit.min(FIRST);
        Outgoing { inner, most, limit, resumed_at: None, account, pace: Pace::default(), way: None }
    }

    /// How many bytes more may be written.
    pub(super) fn room(&self) -> usize {
        self.inner.room(self.most())
    }

    /// How many bytes may be kept in all: few while the host is out of memory.
    pub(super) fn most(&self) -> usize {
        match self.account.level() {
            Pressure::Emergency => self.most.min(LEAST),
            _ => self.most,
        }
    }

    /// May keep twice as much, up to its limit, if the budget has it.
    pub(super) fn grow(&mut self) -> bool {
        let extra = self.most.min(self.limit.saturating_sub(self.most));
        // What is held already would do for a promise.
        let granted = self.account.level() < Pressure::High
            && u32::try_from(extra).is_ok_and(|n| n > 0 && self.account.promise(n));
        if granted {
            self.most += extra;
        }
        granted
    }

    /// May keep no more than it does, or than at first: what it grew for is over.
    pub(super) fn shrink(&mut self) {
        let least = self.limit.min(FIRST);
        let unacked = usize::try_from(self.inner.unacked()).unwrap_or(usize::MAX);
        self.most = self.most.min(unacked.max(least));
        self.account.promise_only(self.most - self.most.min(least));
    }

    /// The first `n` bytes of `bufs` were written; they are sealed later.
    pub(super) fn append(&mut self, bufs: &[IoSlice<'_>], n: usize) {
        self.inner.append(bufs, n);
        self.account.hold(self.inner.held());
    }

    /// The same, and they are sealed already: nothing was behind. `kept` is what they were
    /// sealed to, if the link leaves it to us.
    pub(super) fn append_sealed(&mut self, bufs: &[IoSlice<'_>], n: usize, kept: Option<Kept>) {
        self.inner.append_sealed(bufs, n, kept);
        self.account.hold(self.inner.held());
    }

    /// What is to be sealed next.
    pub(super) fn next(&self) -> Vec<IoSlice<'_>> {
        self.inner.slices(self.piece().min(STEP))
    }

    /// How much may be sealed in one go. After a loss it begins small and doubles: of a
    /// frame that is cut nothing counts, and a wire that is cut again and again gets on
    /// all the same.
    pub(super) fn piece(&self) -> usize {
        let sealed = self.said_since_loss();
        if sealed < STEP as u64 { (sealed as usize).max(FIRST_PIECE) } else { usize::MAX }
    }

    /// How much was sealed on the current carrier, if it is not the first.
    pub(super) fn said_since_loss(&self) -> u64 {
        self.resumed_at.map_or(u64::MAX, |start| self.position() - start)
    }

    /// The next `n` bytes were sealed.
    pub(super) fn sealed(&mut self, n: usize) {
        self.inner.sealed(n);
    }

    /// Nothing more is written. Whether that is news.
    pub(super) fn finish(&mut self) -> bool {
        self.inner.finish()
    }

    /// Whether the end is to be said now; it counts as said.
    pub(super) fn take_fin(&mut self) -> bool {
        let due = self.inner.next() == Next::Fin;
        if due {
            self.inner.said_fin();
        }
        due
    }

    /// The peer confirms what it has by the low half of that number.
    pub(super) fn ack(&mut self, low: u32) -> Result<()> {
        self.inner.ack(low)?;
        self.account.hold(self.inner.held());
        Ok(())
    }

    /// The same with the whole number, the end as one byte more.
    pub(super) fn confirm(&mut self, received: u64) -> Result<()> {
        self.inner.confirm(received)?;
        self.account.hold(self.inner.held());
        Ok(())
    }

    /// A new carrier: the peer has so much, and what is behind it is sealed again.
    /// Returns how much that is.
    pub(super) fn resume(&mut self, received: u64) -> Result<u64> {
        let again = self.inner.resume(received)?;
        self.resumed_at = Some(self.position());
        self.account.hold(self.inner.held());
        Ok(again)
    }

    /// How much memory it takes, if the peer confirms nothing of it, or next to none; and
    /// since when.
    pub(super) fn unconfirmed(&mut self, now: Instant) -> Option<(usize, Instant)> {
        if self.way.is_some() && self.is_behind() {
            // The peer was not sent it yet, and that does not last.
            self.pace = Pace::default();
            return None;
        }
        let since = self.pace.look(self.inner.delivered(), self.inner.unacked(), now)?;
        Some((self.inner.held(), since))
    }

    /// Forgets what it keeps, for good: nobody will ask for it.
    pub(super) fn clear(&mut self) {
        self.inner.clear();
        self.account.hold(0);
        self.account.end();
    }
}

impl Deref for Outgoing {
    type Target = resume::Outgoing;

    fn deref(&self) -> &resume::Outgoing {
        &self.inner
    }
}

/// What may be kept at first.
const FIRST: usize = 1 << 20;
/// The same while the host is out of memory: enough to go on.
const LEAST: usize = 64 * 1024;
/// Sealed in one go.
const STEP: usize = 256 * 1024;
/// The first of that on a carrier that follows another.
pub(super) const FIRST_PIECE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(limit: usize, budget: u64) -> (Outgoing, Arc<Budget>) {
        let budget = Budget::new(budget, |_| ());
        (Outgoing::new(limit, budget.clone()), budget)
    }

    #[test]
    fn what_is_confirmed_takes_nothing_of_the_budget() {
        let (mut out, budget) = outgoing(16 << 20, 1 << 30);
        let bytes = vec![7; 300_000];
        out.append_sealed(&[IoSlice::new(&bytes), IoSlice::new(&bytes)], 500_000, None);
        assert!(budget.used() >= 500_000 && out.unacked() == 500_000);
        out.ack(400_000).unwrap();
        assert!(budget.used() < 300_000);
        assert_eq!(out.resume(450_000).unwrap(), 50_000);
        let next = |out: &Outgoing| out.next().iter().map(|s| s.len()).sum::<usize>();
        assert_eq!(next(&out), FIRST_PIECE);
        out.sealed(3 * FIRST_PIECE);
        assert_eq!(next(&out), 3 * FIRST_PIECE);
        out.sealed(50_000 - 3 * FIRST_PIECE);
        out.confirm(500_000).unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn where_memory_is_out_little_is_kept() {
        let (mut out, budget) = outgoing(16 << 20, 8 << 20);
        assert_eq!(out.room(), FIRST);
        budget.charge(7 << 20);
        assert!(!out.grow(), "{:?}", budget.level());
        budget.charge(1 << 20);
        let bytes = [7; LEAST + 1000];
        assert_eq!((budget.level(), out.room()), (Pressure::Emergency, LEAST));
        out.append_sealed(&[IoSlice::new(&bytes)], bytes.len(), None);
        assert_eq!((out.room(), out.grow()), (0, false));
        out.ack(2000).unwrap();
        assert_eq!(out.room(), 1000);
        budget.release(8 << 20);
        assert_eq!(out.room(), FIRST - LEAST + 1000);
    }

    #[test]
    fn what_it_grew_for_is_given_back_when_it_is_over() {
        let (mut out, budget) = outgoing(16 << 20, 1 << 30);
        assert!(out.grow() && out.grow() && out.grow());
        let bytes = vec![7; 3 << 20];
        out.append_sealed(&[IoSlice::new(&bytes)], bytes.len(), None);
        out.shrink();
        assert_eq!((out.room(), out.most()), (0, 3 << 20));
        out.ack(3 << 20).unwrap();
        out.shrink();
        assert_eq!((out.room(), budget.used()), (FIRST, 0));
        assert!(out.grow(), "it may grow again");
    }

    #[test]
    fn it_grows_by_doubling_up_to_its_limit_and_what_the_budget_has() {
        let (mut out, budget) = outgoing(3 << 20, 1 << 30);
        assert!(out.grow() && out.grow());
        assert_eq!((out.room(), out.grow()), (3 << 20, false));
        out.clear();
        assert_eq!(budget.used(), 0);
        assert!(!outgoing(16 << 20, 1 << 10).0.grow());
    }
}
