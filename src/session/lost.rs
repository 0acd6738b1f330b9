//! The sessions without a carrier, by their peers: what one peer has lost is looked at
//! whenever a link to it comes up, and after a great outage many do.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

use libp2p_identity::PeerId;

use super::{MOST_LOST, MOST_LOST_OF_PEER, Session};
use crate::proto::resume::SessionId;

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
    /// How many are awaited by those that are back.
    awaited: usize,
    /// When the last one was lost, came back or ended.
    changed: Option<Instant>,
    /// Those that are back, and wait for these.
    waiting: HashMap<SessionId, Weak<Session>>,
}

struct One {
    /// This host dialled the link that was lost, and so dials again.
    dials: bool,
    /// All has arrived, and only the peer may not know it: it is the first to go.
    complete: bool,
    /// It has something to go on with, and may come any moment.
    awaited: bool,
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
        let awaited = !complete;
        let one = One { dials, complete, awaited, session: session.me.clone() };
        of_peer.sessions.insert(number, one);
        of_peer.dial += usize::from(dials);
        of_peer.awaited += usize::from(awaited);
        of_peer.changed = Some(Instant::now());
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

    /// Returns those that need not wait any more.
    pub(super) fn remove(&mut self, peer: PeerId, number: u64) -> Vec<Weak<Session>> {
        let Entry::Occupied(mut entry) = self.of_peers.entry(peer) else { return Vec::new() };
        let of_peer = entry.get_mut();
        let Some(one) = of_peer.sessions.remove(&number) else { return Vec::new() };
        of_peer.dial -= usize::from(one.dials);
        of_peer.awaited -= usize::from(one.awaited);
        of_peer.changed = Some(Instant::now());
        self.count -= 1;
        let through = match of_peer.awaited {
            0 => std::mem::take(&mut of_peer.waiting).into_values().collect(),
            _ => Vec::new(),
        };
        if of_peer.sessions.is_empty() {
            entry.remove();
        }
        through
    }

    /// When the last of the peer's that have something to go on with was lost, or since when
    /// they have been fewer; `None`: there are none.
    pub(super) fn changed(&self, peer: &PeerId) -> Option<Instant> {
        let of_peer = self.of_peers.get(peer).filter(|of_peer| of_peer.awaited > 0)?;
        of_peer.changed
    }

    /// None of them came for so long that the peer may have given them up. Who waits for them
    /// looks by itself.
    pub(super) fn await_no_more(&mut self, peer: &PeerId) {
        let Some(of_peer) = self.of_peers.get_mut(peer) else { return };
        of_peer.sessions.values_mut().for_each(|one| one.awaited = false);
        of_peer.awaited = 0;
        of_peer.waiting.clear();
    }

    /// It looks again when those are not lost any more.
    pub(super) fn wait(&mut self, session: &Session) {
        if let Some(of_peer) = self.of_peers.get_mut(&session.peer) {
            of_peer.waiting.insert(session.id, session.me.clone());
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
