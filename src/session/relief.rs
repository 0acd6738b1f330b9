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
        let (bytes, since, why) = self.held(now)?;
        let (peer, priority) = (self.peer, self.priority());
        let give_back = Box::new(move || {
            log::info!(peer:% = self.peer, protocol:% = self.protocol, held = bytes;
                "a conn is ended for what it holds");
            self.give_back(&why);
        });
        Some(Holding { peer, priority, bytes, since, give_back })
    }

    /// What it keeps and its peer does not confirm, and what is left of carriers before and
    /// nobody reads; all of it at once where it is without a carrier. With what it ends by.
    fn held(&self, now: Instant) -> Option<(usize, Instant, Error)> {
        let ended =
            |code, what| Error::new(code, format!("{what}, and the memory budget is used up"));
        let (kept, unconfirmed) = {
            let mut out = self.writer_with_acks();
            (out.held(), out.unconfirmed(now))
        };
        let state = self.state.lock();
        if let Phase::Lost(outage) = &state.phase {
            let all = kept + state.carriers.unread();
            let why = ended(ErrorCode::ConnectionReset, "the connection was lost");
            return (all > 0).then_some((all, outage.since, why));
        }
        let (bytes, since, what) = match (unconfirmed, state.carriers.unread_left(now)) {
            (Some((kept, since)), left) => {
                let (left, then) = left.unwrap_or((0, since));
                (kept + left, since.min(then), "the peer did not confirm what it was sent")
            }
            (None, Some((left, since))) => (left, since, "nobody read what had come"),
            (None, None) => return None,
        };
        Some((bytes, since, ended(ErrorCode::OutOfMemory, what)))
    }

    /// It ends, with all that it has. One that had lost its connection and has come back
    /// meanwhile is left alone.
    fn give_back(&self, why: &Error) {
        let current = self.current();
        if why.code() == ErrorCode::OutOfMemory {
            self.give_up(why.clone());
        } else if !self.give_up_lost(why.clone()) {
            return;
        }
        self.state.lock().carriers.spoil(why.clone());
        if let Some(carrier) = current {
            carrier.link.reset_for_memory(&carrier.stream, why);
        }
    }
}
