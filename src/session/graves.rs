//! Sessions that have ended, as long as their peer may ask for them still.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use libp2p_identity::PeerId;

use super::{Key, MOST_LOST, MOST_LOST_OF_PEER};

/// What this end had of each. Whoever ends many does not have others forgotten sooner.
#[derive(Default)]
pub(super) struct Graves {
    received: HashMap<Key, u64>,
    /// By number, and until when each is remembered: none longer than the next.
    order: BTreeMap<u64, (Instant, Key)>,
    /// The numbers of each peer's.
    of_peers: HashMap<PeerId, VecDeque<u64>>,
    next: u64,
}

impl Graves {
    pub(super) fn get(&self, key: &Key) -> Option<u64> {
        self.received.get(key).copied()
    }

    /// One more, in the place of its peer's oldest if that has its share, or of the oldest of
    /// all.
    pub(super) fn add(&mut self, key: Key, received: u64, until: Instant) {
        let number = self.next;
        self.next += 1;
        let of_peer = self.of_peers.entry(key.peer).or_default();
        of_peer.push_back(number);
        let oldest = of_peer.front().copied().filter(|_| of_peer.len() > MOST_OF_PEER);
        self.received.insert(key, received);
        self.order.insert(number, (until, key));
        if let Some(oldest) = oldest {
            self.remove(oldest);
        } else if self.order.len() > MOST {
            self.remove_first();
        }
    }

    /// Those whose time is over.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.order.first_key_value().is_some_and(|(_, (until, _))| *until <= now) {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        if let Some((&oldest, _)) = self.order.first_key_value() {
            self.remove(oldest);
        }
    }

    /// It is its peer's oldest.
    fn remove(&mut self, number: u64) {
        let Some((_, key)) = self.order.remove(&number) else { return };
        self.received.remove(&key);
        if let Entry::Occupied(mut of_peer) = self.of_peers.entry(key.peer) {
            of_peer.get_mut().pop_front();
            if of_peer.get().is_empty() {
                of_peer.remove();
            }
        }
    }
}

/// How many are remembered of one peer, and in all: as many as may be without a carrier.
const MOST_OF_PEER: usize = MOST_LOST_OF_PEER;
const MOST: usize = MOST_LOST;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::some_moment;

    fn key(peer: PeerId, n: usize) -> Key {
        Key { peer, id: (n as u128).to_be_bytes(), opener: false }
    }

    #[test]
    fn a_peer_that_ends_many_has_only_its_own_forgotten() {
        let (mut graves, until) = (Graves::default(), some_moment());
        let (few, many) = (PeerId::random(), PeerId::random());
        graves.add(key(few, 0), 7, until);
        (0..20_000).for_each(|n| graves.add(key(many, n), 0, until));
        assert_eq!(graves.get(&key(few, 0)), Some(7));
        let remembered = (0..20_000).filter(|n| graves.get(&key(many, *n)).is_some());
        assert!(remembered.eq(20_000 - MOST_OF_PEER..20_000), "its last ones");
    }

    #[test]
    fn however_many_peers_there_are_the_oldest_go() {
        let (mut graves, until) = (Graves::default(), some_moment());
        let peers: Vec<_> = (0..=MOST).map(|_| PeerId::random()).collect();
        peers.iter().for_each(|peer| graves.add(key(*peer, 1), 1, until));
        assert_eq!(graves.get(&key(peers[0], 1)), None);
        assert!(peers[1..].iter().all(|peer| graves.get(&key(*peer, 1)) == Some(1)));
    }

    #[test]
    fn they_are_remembered_for_their_time() {
        let (mut graves, now, peer) = (Graves::default(), some_moment(), PeerId::random());
        let after = |n| now + Duration::from_secs(n);
        (1..=3).for_each(|n| graves.add(key(peer, n as usize), n, after(n)));
        graves.forget(after(2));
        assert_eq!([1, 2, 3].map(|n| graves.get(&key(peer, n))), [None, None, Some(3)]);
        graves.forget(after(3));
        assert!(
            graves.of_peers.is_empty() && graves.order.is_empty() && graves.received.is_empty()
        );
    }
}
