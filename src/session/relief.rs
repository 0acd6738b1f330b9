//! What a host that is out of memory takes back from its sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::too_many;
use super::{Session, Sessions};
use crate::error::{Error, ErrorCode};

impl Sessions {
    /// The oldest that are without a carrier end, until `enough`.
    pub(crate) fn relieve(&self, enough: impl Fn() -> bool) {
        while !enough() {
            let Some(session) = self.oldest_lost() else { return };
            session.give_up_lost(too_many());
        }
    }

    /// Those with a carrier whose peer has confirmed nothing for so long of what is kept
    /// for it, and how much that is. It takes two looks to know.
    pub(crate) fn unconfirmed(&self, now: Instant, time: Duration) -> Vec<(Arc<Session>, usize)> {
        let kept = |session: Arc<Session>| {
            let kept = session.writer_with_acks().stalled(now, time)?;
            Some((session, kept))
        };
        self.live(None).into_iter().filter_map(kept).collect()
    }
}

impl Session {
    /// It ends because of what is kept for its peer.
    pub(crate) fn reset_for_memory(&self) {
        let what = "the peer did not confirm what it was sent, and the memory budget is used up";
        let current = self.current();
        self.give_up(Error::new(ErrorCode::OutOfMemory, what));
        if let Some(carrier) = current {
            carrier.link.reset_for_memory(&carrier.stream);
        }
    }
}
