//! Reading: of what is left of the carriers that were lost, then of the present one, until
//! there is one.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::carriers::{Carrier, Carriers};
use super::{Phase, Session, State};
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
        self.at_the_source(patience, |place| match place {
            Place::Left(carriers) => Ok(Some(carriers.read_left(bufs))),
            Place::On(carrier) => carrier.link.read(&carrier.stream, bufs, patience),
        })
    }

    /// Copies what waits without taking it; blocks like `read`.
    pub(super) fn peek(&self, buf: &mut [u8], patience: Patience) -> Result<Option<usize>> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        self.at_the_source(patience, |place| match place {
            Place::Left(carriers) => Ok(Some(carriers.peek_left(buf))),
            Place::On(carrier) => carrier.link.peek(&carrier.stream, buf, patience),
        })
    }

    fn at_the_source(
        &self,
        patience: Patience,
        mut take: impl FnMut(Place<'_>) -> Result<Option<usize>>,
    ) -> Result<Option<usize>> {
        let mut me = None;
        loop {
            match self.source(me.as_ref()) {
                Source::Left(mut state) => {
                    let taken = take(Place::Left(&mut state.carriers));
                    drop(state);
                    self.grant_what_was_read();
                    return taken;
                }
                Source::Carrier(carrier) => match take(Place::On(&carrier)) {
                    Ok(n) => return Ok(n),
                    Err(e) if self.is_current(&carrier) => {
                        return Err(self.broken().unwrap_or(e));
                    }
                    // It was lost: what was not read of it is left.
                    Err(_) => {}
                },
                Source::Found(found) => return found.map(Some),
                Source::Nothing => match (&me, patience) {
                    (_, Patience::None) => return Ok(None),
                    (None, _) => me = Some(Waiter::current()),
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
    fn source(&self, me: Option<&Arc<Waiter>>) -> Source<'_> {
        let mut state = self.state.lock();
        if state.deaf {
            return Source::Found(Ok(0));
        }
        if let Some(why) = state.carriers.spoiled() {
            return Source::Found(Err(why.clone()));
        }
        if state.carriers.has_left() {
            return Source::Left(state);
        }
        if state.carriers.finished {
            return Source::Found(Ok(0));
        }
        if let Some(carrier) = &state.carriers.current {
            return Source::Carrier(carrier.clone());
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

    /// Sleeps until there is news of the session. `false`: the time is over.
    pub(super) fn sleep(&self, me: &Arc<Waiter>, patience: Patience) -> bool {
        me.park(patience.deadline());
        self.state.lock().carriers.waiters.remove(me);
        patience.deadline().is_none_or(|at| at > Instant::now())
    }

    /// Some of what was left was read: the peer may send so much more.
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

/// Where the next byte is.
enum Source<'a> {
    /// Among what is left.
    Left(MutexGuard<'a, State>),
    /// There, or where it will be.
    Carrier(Arc<Carrier>),
    Found(Result<usize>),
    Nothing,
}

/// Where bytes are taken.
enum Place<'a> {
    Left(&'a mut Carriers),
    On(&'a Carrier),
}
