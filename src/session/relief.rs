//! What a host that is out of memory takes back from its sessions.

use std::sync::Arc;
use std::time::Instant;

use super::{Phase, Session, Sessions};
use crate::driver::Holding;
use crate::error::{Error, ErrorCode};

impl Sessions {
    /// They keep no more than they have to, and as much as at first.
    pub(crate) fn shrink(&self) {
        self.live(None).iter().for_each(|session| session.writer.lock().shrink());
    }

    /// What they hold that does not move. It takes two looks to know of those that have a
    /// carrier what their peers do not confirm.
    pub(crate) fn holdings(&self, now: Instant) -> Vec<Holding> {
        self.with_something_left().into_iter().filter_map(|session| session.holding(now)).collect()
    }
}

impl Session {
    fn holding(self: Arc<Session>, now: Instant) -> Option<Holding> {
        let (bytes, since, what) = self.held(now)?;
        let (peer, priority) = (self.peer, self.priority());
        let give_back = Box::new(move || {
            log::info!(peer:% = self.peer, protocol:% = self.protocol, held = bytes;
                "a conn is ended for what it holds");
            self.give_back(what);
        });
        Some(Holding { peer, priority, bytes, since, give_back })
    }

    /// What it keeps and its peer does not confirm, and what is left of carriers before and
    /// nobody reads; all of it at once where it is without a carrier. With what is wrong.
    fn held(&self, now: Instant) -> Option<(usize, Instant, &'static str)> {
        let (kept, unconfirmed) = {
            let mut out = self.writer_with_acks();
            (out.held(), out.unconfirmed(now))
        };
        let state = self.state.lock();
        if let Phase::Lost(outage) = &state.phase {
            let all = kept + state.carriers.unread();
            return (all > 0).then_some((all, outage.since, "the connection was lost"));
        }
        match (unconfirmed, state.carriers.unread_left(now)) {
            (Some((kept, since)), left) => {
                let (left, then) = left.unwrap_or((0, since));
                let what = "the peer did not confirm what it was sent";
                Some((kept + left, since.min(then), what))
            }
            (None, Some((left, since))) => Some((left, since, "nobody read what had come")),
            (None, None) => None,
        }
    }

    /// It ends, with all that it has. One that has come back meanwhile has not lost its
    /// connection, and is left alone.
    fn give_back(&self, what: &str) {
        let lost = self.is_lost();
        let code = if lost { ErrorCode::ConnectionReset } else { ErrorCode::OutOfMemory };
        let why = Error::new(code, format!("{what}, and the memory budget is used up"));
        let current = self.current();
        if lost && !self.give_up_lost(why.clone()) {
            return;
        }
        self.give_up(why.clone());
        self.state.lock().carriers.spoil(why.clone());
        if let Some(carrier) = current {
            carrier.link.reset_for_memory(&carrier.stream, &why);
        }
    }
}
