//! What a host that is out of memory takes back from its sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use super::{Session, Sessions};
use crate::error::{Error, ErrorCode};

impl Sessions {
    /// Those that are without a carrier end until `enough`, with what they have and nobody
    /// has read: each time the oldest of the peer that takes most, so that whoever takes
    /// little does not pay for it.
    pub(crate) fn relieve(&self, enough: impl Fn() -> bool) {
        if enough() {
            return;
        }
        let mut of_peers: HashMap<PeerId, (usize, VecDeque<_>)> = HashMap::new();
        let lost = self.table.lock().lost.all();
        for session in lost {
            let kept = session.kept();
            let (all, queue) = of_peers.entry(session.peer).or_default();
            *all += kept;
            queue.push_back((session, kept));
        }
        while !enough() {
            let most = of_peers.values_mut().max_by_key(|(all, queue)| (*all, queue.len()));
            let Some((all, queue)) = most else { return };
            let Some((session, kept)) = queue.pop_front() else { return };
            *all -= kept;
            session.give_up_for_memory();
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
    /// How much memory it takes, both ways.
    fn kept(&self) -> usize {
        let unread = self.state.lock().carriers.unread();
        unread + self.writer.lock().held()
    }

    /// It is without a carrier, and ends with all that it has.
    fn give_up_for_memory(&self) {
        let what = "the connection was lost, and the memory budget is used up";
        let why = Error::new(ErrorCode::ConnectionReset, what);
        if self.give_up_lost(why.clone()) {
            self.state.lock().carriers.spoil(why);
        }
    }

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
