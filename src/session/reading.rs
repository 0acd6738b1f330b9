//! Reading: of the oldest carrier that has something, until there is one.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Instant;

use super::carriers::Carrier;
use super::{Phase, Session};
use crate::driver::{Patience, Waiter};
use crate::error::Result;

impl Session {
    /// Reads into `bufs`; `None`: nothing came within `patience`.
    pub(super) fn read(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        patience: Patience,
    ) -> Result<Option<usize>> {
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(Some(0));
        }
        self.at_the_source(patience, |carrier, old, patience| {
            self.read_from(carrier, old, bufs, patience)
        })
    }

    /// The same of this carrier, which was an `old` one when it was looked for.
    pub(super) fn read_from(
        &self,
        carrier: &Carrier,
        old: bool,
        bufs: &mut [IoSliceMut<'_>],
        patience: Patience,
    ) -> Result<Option<usize>> {
        let n = carrier.link.read(&carrier.stream, bufs, patience)?;
        // One that was current may be old by now.
        let old = old || carrier.link.death().is_some();
        if old && n.is_some_and(|n| n > 0) {
            self.grant_what_was_read();
        }
        Ok(n)
    }

    /// Copies what waits without taking it; blocks like `read`.
    pub(super) fn peek(&self, buf: &mut [u8], patience: Patience) -> Result<Option<usize>> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        self.at_the_source(patience, |carrier, _, patience| {
            carrier.link.peek(&carrier.stream, buf, patience)
        })
    }

    fn at_the_source(
        &self,
        patience: Patience,
        mut take: impl FnMut(&Carrier, bool, Patience) -> Result<Option<usize>>,
    ) -> Result<Option<usize>> {
        let mut me = None;
        loop {
            match self.source(me.as_ref()) {
                Source::Carrier(carrier, old) => match take(&carrier, old, patience) {
                    Ok(n) => return Ok(n),
                    Err(e) if self.is_current(&carrier) => {
                        return Err(self.broken().unwrap_or(e));
                    }
                    Err(_) => self.leave_behind(&carrier),
                },
                Source::Found(found) => return found.map(Some),
                Source::Nothing => match (&me, patience) {
                    (_, Patience::None) => return Ok(None),
                    (None, _) => me = Some(Waiter::current()?),
                    (Some(waiter), _) => {
                        if !self.sleep(waiter, patience) {
                            return Ok(None);
                        }
                    }
                },
            }
        }
    }

    /// Where the next byte is. With `me`, whoever finds nothing is woken when that
    /// changes.
    fn source(&self, me: Option<&Arc<Waiter>>) -> Source {
        let mut state = self.state.lock();
        if state.deaf {
            return Source::Found(Ok(0));
        }
        if let Some(why) = state.carriers.spoiled() {
            return Source::Found(Err(why.clone()));
        }
        if let Some((carrier, old)) = state.carriers.source() {
            return Source::Carrier(carrier, old);
        }
        if state.carriers.finished {
            return Source::Found(Ok(0));
        }
        if let Some((why, _)) = &state.closing {
            return Source::Found(Err(why.clone()));
        }
        match &state.phase {
            Phase::Ended(Some(why)) => Source::Found(Err(why.clone())),
            Phase::Ended(None) => Source::Found(Ok(0)),
            _ => {
                if let Some(me) = me {
                    state.carriers.waiters.add(me);
                }
                Source::Nothing
            }
        }
    }

    /// Whether no other carrier follows one that has nothing more to give: it was not
    /// lost, or the session has ended on it.
    fn is_current(&self, carrier: &Arc<Carrier>) -> bool {
        self.settle();
        let state = self.state.lock();
        state.carriers.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, carrier))
    }

    /// One that was lost was read to its end.
    fn leave_behind(&self, carrier: &Arc<Carrier>) {
        self.state.lock().carriers.drained(carrier);
        // Whoever read the rest may not have seen that it was fenced.
        self.grant_what_was_read();
    }

    /// Sleeps until there is news of the session. `false`: the time is over.
    pub(super) fn sleep(&self, me: &Arc<Waiter>, patience: Patience) -> bool {
        me.park(patience.deadline());
        self.state.lock().carriers.waiters.remove(me);
        patience.deadline().is_none_or(|at| at > Instant::now())
    }

    /// Something of an old carrier was read: the peer may send so much more.
    pub(super) fn grant_what_was_read(&self) {
        let (n, current) = {
            let mut state = self.state.lock();
            // Without one, the next one's beginning makes up for it.
            let Some(current) = state.carriers.current.clone() else { return };
            (state.carriers.repay(), current)
        };
        if n > 0 {
            current.link.consumed_elsewhere(&current.stream, n);
        }
    }
}

enum Source {
    /// There, or where it will be; whether that is an old one.
    Carrier(Arc<Carrier>, bool),
    Found(Result<usize>),
    Nothing,
}
