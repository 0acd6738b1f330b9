//! What a host knows of its peers: where they may be dialled, the links to them, the
//! dials that are under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;

use super::addrs;
use super::dial::Dial;
use crate::driver::{Link, Place};
use crate::error::{Error, ErrorCode, Result};

#[derive(Default)]
pub(super) struct Peers {
    all: HashMap<PeerId, Peer>,
    /// Those of which nothing is left but where they were dialled, by their `rests`.
    resting: BTreeMap<u64, PeerId>,
    rests: u64,
    /// How many may rest.
    most: usize,
}

/// What is known of a peer.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) dials: Vec<Arc<Dial>>,
    addrs: Vec<Multiaddr>,
    /// Somebody has said where it is: that is kept.
    told: bool,
    /// When it began to rest, if it does.
    rests: Option<u64>,
}

impl Peers {
    /// A host that may have so many connections.
    pub(super) fn new(connections: u64) -> Peers {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        Peers { most: connections.max(MOST_RESTING), ..Peers::default() }
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.all.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.all.iter()
    }

    /// The peer, to have something begin.
    pub(super) fn wake(&mut self, id: PeerId) -> &mut Peer {
        let peer = self.all.entry(id).or_default();
        if let Some(since) = peer.rests.take() {
            self.resting.remove(&since);
        }
        peer
    }

    /// The same to have something end. It rests if that was the last, and of those that
    /// do the one that was used longest ago may have to go.
    pub(super) fn settle(&mut self, id: &PeerId, end: impl FnOnce(&mut Peer)) {
        let Some(peer) = self.all.get_mut(id) else { return };
        end(peer);
        if !peer.links.is_empty() || !peer.dials.is_empty() || peer.told || peer.rests.is_some() {
            return;
        }
        if peer.addrs.is_empty() {
            self.all.remove(id);
            return;
        }
        self.rests += 1;
        peer.rests = Some(self.rests);
        self.resting.insert(self.rests, *id);
        if self.resting.len() > self.most
            && let Some((_, oldest)) = self.resting.pop_first()
        {
            self.all.remove(&oldest);
        }
    }
}

impl Peer {
    /// The link for new streams.
    pub(super) fn best(&self) -> Option<Arc<Link>> {
        self.best_of(&|_| true)
    }

    /// The same of those that suit.
    pub(super) fn best_of(&self, suits: &dyn Fn(&Link) -> bool) -> Option<Arc<Link>> {
        self.links.iter().find(|link| link.is_open() && suits(link)).cloned()
    }

    /// Where to dial it: the addresses given with the call first, then those that are
    /// known.
    pub(super) fn places(&self, id: &PeerId, given: &[Multiaddr]) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let mut fault = None;
        for addr in given.iter().chain(&self.addrs) {
            match addrs::to_place(addr) {
                Ok(place) if places.contains(&place) => {}
                Ok(place) => places.push(place),
                Err(e) => fault = Some(e),
            }
        }
        match fault {
            _ if !places.is_empty() => Ok(places),
            Some(fault) => Err(fault),
            None => {
                let what = format!(
                    "no address of {id} is known: dial one, or give one to `Host::add_address`"
                );
                Err(Error::new(ErrorCode::UnknownAddress, what))
            }
        }
    }

    /// A dial that goes to all these places.
    pub(super) fn dial_to(&self, places: &[Place]) -> Option<&Arc<Dial>> {
        self.dials.iter().find(|dial| places.iter().all(|place| dial.places.contains(place)))
    }

    /// Somebody says that it can be dialled there.
    pub(super) fn tell(&mut self, addr: Multiaddr) {
        self.told = true;
        self.know(addr);
    }

    /// The newest are kept, and those where it is connected to.
    fn know(&mut self, addr: Multiaddr) {
        if self.addrs.contains(&addr) {
            return;
        }
        if self.addrs.len() == MOST_ADDRESSES {
            let in_use = |known: &Multiaddr| {
                let mut dialled = self.links.iter().filter(|link| link.dialled);
                dialled.any(|link| addrs::to_multiaddr(link.remote) == *known)
            };
            let oldest = self.addrs.iter().position(|known| !in_use(known));
            self.addrs.remove(oldest.unwrap_or(0));
        }
        self.addrs.push(addr);
    }

    /// There is one more. It can be dialled where it was reached.
    pub(super) fn list(&mut self, link: &Arc<Link>, own: &PeerId) {
        self.links.push(link.clone());
        self.prefer_one(own);
        if link.dialled {
            self.know(addrs::to_multiaddr(link.remote));
        }
    }

    /// When both sides dialled at once, both keep the link that the smaller peer
    /// id dialled; the other one ends when it is not used any more.
    fn prefer_one(&mut self, own: &PeerId) {
        let open = |l: &&Arc<Link>| l.is_open();
        let both = self.links.iter().filter(open).any(|l| l.dialled)
            && self.links.iter().filter(open).any(|l| !l.dialled);
        if both {
            self.links.sort_by_key(|l| l.dialled != (*own < l.peer));
            self.links.iter().filter(open).skip(1).for_each(|l| l.supersede());
        }
    }
}

/// Addresses kept of one peer.
const MOST_ADDRESSES: usize = 16;
/// Peers that may rest; more if there may be more connections, so that an outage of all
/// of them loses nobody.
const MOST_RESTING: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_that_are_remembered_are_bounded_and_those_used_last_among_them() {
        let mut peers = Peers::new(1);
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let ids: Vec<_> = (0..MOST_RESTING + 10).map(|_| PeerId::random()).collect();
        let [first, second, third] = ids[..3] else { unreachable!() };
        peers.wake(third).tell(addr.clone());
        for id in &ids {
            peers.wake(*id).know(addr.clone());
            peers.settle(id, |_| ());
            // It is dialled over and over, in vain.
            peers.wake(first);
            peers.settle(&first, |_| ());
        }
        assert_eq!(peers.iter().count(), MOST_RESTING + 1);
        assert_eq!(peers.resting.len(), MOST_RESTING);
        assert!(peers.get(&first).is_some() && peers.get(&second).is_none());
        assert!(peers.get(&third).is_some(), "somebody said where it is");
        assert!(ids[20..].iter().all(|id| peers.get(id).is_some()));
        // One without an address is nobody.
        let nobody = PeerId::random();
        peers.wake(nobody);
        peers.settle(&nobody, |_| ());
        assert!(peers.get(&nobody).is_none());
    }

    #[test]
    fn the_newest_addresses_are_kept() {
        let mut peer = Peer::default();
        let addr = |port: usize| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap();
        (1..=MOST_ADDRESSES + 2).chain([5]).for_each(|port| peer.tell(addr(port)));
        assert!(peer.addrs.iter().cloned().eq((3..=MOST_ADDRESSES + 2).map(addr)));
    }
}
