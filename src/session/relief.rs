//! What a host that is out of memory takes back from its sessions.

use std::sync::Arc;
use std::time::Instant;

use super::{Phase, Session, Sessions};
use crate::driver::Holding;
use crate::error::{Error, ErrorCode};

impl Sessions {
    /// What they hold that does not move. It takes two looks to know of those that have a
    /// carrier what their peers do not confirm.
    pub(crate) fn holdings(&self, now: Instant) -> Vec<Holding> {
        self.with_something_left().into_iter().filter_map(|session| session.holding(now)).collect()
    }
}

impl Session {
    fn holding(self: Arc<Session>, now: Instant) -> Option<Holding> {
        let (bytes, since) = self.held(now)?;
        let (peer, priority) = (self.peer, self.priority());
        let give_back = Box::new(move || {
            log::info!(peer:% = self.peer, protocol:% = self.protocol, held = bytes;
                "a conn is ended for what it holds");
            self.give_back();
        });
        Some(Holding { peer, priority, bytes, since, give_back })
    }

    /// What it keeps and its peer does not confirm, and what is left of carriers before and
    /// nobody reads; all of it at once where it is without a carrier.
    fn held(&self, now: Instant) -> Option<(usize, Instant)> {
        let (kept, unconfirmed) = {
            let mut out = self.writer_with_acks();
            (out.held(), out.unconfirmed(now))
        };
        let state = self.state.lock();
        if let Phase::Lost(outage) = &state.phase {
            let all = kept + state.carriers.unread();
            return (all > 0).then_some((all, outage.since));
        }
        let parts = [unconfirmed, state.carriers.unread_left(now)].into_iter().flatten();
        parts.reduce(|(a, since), (b, then)| (a + b, since.min(then)))
    }

    /// It ends, with all that it has.
    fn give_back(&self) {
        if self.is_lost() {
            let what = "the connection was lost, and the memory budget is used up";
            let why = Error::new(ErrorCode::ConnectionReset, what);
            if self.give_up_lost(why.clone()) {
                self.state.lock().carriers.spoil(why);
            }
            return;
        }
        let what = "what it was sent was not confirmed, or what came not read, and the memory \
                    budget is used up";
        let why = Error::new(ErrorCode::OutOfMemory, what);
        let current = self.current();
        self.give_up(why.clone());
        self.state.lock().carriers.spoil(why.clone());
        if let Some(carrier) = current {
            carrier.link.reset_for_memory(&carrier.stream, &why);
        }
    }
}
