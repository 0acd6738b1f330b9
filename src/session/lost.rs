//! The sessions without a carrier, by their peers: what one peer has lost is looked at
//! whenever a link to it comes up, and after a great outage many do.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use libp2p_identity::PeerId;

use super::{MOST_LOST, MOST_LOST_OF_PEER, Session};

#[derive(Default)]
pub(super) struct Lost {
    of_peers: HashMap<PeerId, OfPeer>,
    count: usize,
    next: u64,
}

/// Those of one peer, in the order in which they lost their carriers.
#[derive(Default)]
struct OfPeer {
    sessions: BTreeMap<u64, One>,
    /// How many of them this host dials for.
    dial: usize,
}

struct One {
    /// This host dialled the link that was lost, and so dials again.
    dials: bool,
    /// All has arrived, and only the peer may not know it: it is the first to go.
    complete: bool,
    session: Weak<Session>,
}

impl Lost {
    /// One more. Returns its number, and one that has to end because there are too many.
    pub(super) fn add(
        &mut self,
        session: &Session,
        dials: bool,
        complete: bool,
    ) -> (u64, Option<Arc<Session>>) {
        self.next += 1;
        let number = self.next;
        let of_peer = self.of_peers.entry(session.peer).or_default();
        of_peer.sessions.insert(number, One { dials, complete, session: session.me.clone() });
        of_peer.dial += usize::from(dials);
        self.count += 1;
        let oldest = match of_peer.sessions.len().saturating_sub(MOST_LOST_OF_PEER) {
            0 => match self.count.saturating_sub(MOST_LOST) {
                0 => None,
                n => self.of_who_has_most().and_then(|most| most.nth_to_go(n)),
            },
            n => of_peer.nth_to_go(n),
        };
        (number, oldest)
    }

    pub(super) fn remove(&mut self, peer: PeerId, number: u64) {
        let Entry::Occupied(mut of_peer) = self.of_peers.entry(peer) else { return };
        let Some(one) = of_peer.get_mut().sessions.remove(&number) else { return };
        of_peer.get_mut().dial -= usize::from(one.dials);
        self.count -= 1;
        if of_peer.get().sessions.is_empty() {
            of_peer.remove();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The peer's, the oldest first.
    pub(super) fn of(&self, peer: &PeerId) -> Vec<Arc<Session>> {
        self.of_peers.get(peer).into_iter().flat_map(OfPeer::sessions).collect()
    }

    /// Whether one waits for a link to this peer that this host has to dial.
    pub(super) fn wants(&self, peer: &PeerId) -> bool {
        self.of_peers.get(peer).is_some_and(|of_peer| of_peer.dial > 0)
    }

    /// Where there are too many in all, whoever has fewer does not pay for it.
    fn of_who_has_most(&self) -> Option<&OfPeer> {
        self.of_peers.values().max_by_key(|of_peer| of_peer.sessions.len())
    }
}

impl OfPeer {
    fn sessions(&self) -> impl Iterator<Item = Arc<Session>> {
        self.sessions.values().filter_map(|one| one.session.upgrade())
    }

    /// Others may be about to end as many of the oldest as there are too many besides.
    fn nth_to_go(&self, n: usize) -> Option<Arc<Session>> {
        let complete = self.sessions.values().filter(|one| one.complete).nth(n - 1);
        let one = complete.or_else(|| self.sessions.values().take(n).next_back())?;
        one.session.upgrade()
    }
}
