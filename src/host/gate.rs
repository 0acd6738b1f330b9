//! Who may come in: by address before anything is spent on a handshake, by peer
//! when its signature has proved who it is.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::driver::Pass;
use crate::resources::Resources;
use crate::resources::addresses::{Addresses, Net};
use crate::resources::events::Event;
use crate::resources::limits::{Limit, Permit};
use crate::resources::penalties::{Fault, Penalties, Times};
use crate::resources::rate::Rate;

/// Says which peers may come in.
pub(crate) type Allow = Box<dyn Fn(&PeerId) -> bool + Send + Sync>;

pub(crate) struct Gate {
    allow: Allow,
    addresses: Arc<Addresses>,
    bad_addresses: Penalties<Net>,
    bad_peers: Penalties<PeerId>,
    resources: Arc<Resources>,
}

impl Gate {
    pub(crate) fn new(allow: Allow, rate: Rate, times: Times, resources: Arc<Resources>) -> Gate {
        Gate {
            allow,
            addresses: Addresses::new(rate),
            bad_addresses: Penalties::new(times),
            bad_peers: Penalties::new(times),
            resources,
        }
    }

    /// A connection comes from there. It is counted until what is returned is
    /// dropped; `None`: it is turned away.
    pub(crate) fn enter(&self, from: SocketAddr, now: Instant) -> Option<Pass> {
        if self.resources.memory.is_full() {
            self.resources.reject(Limit::ReceiveMemory);
            return None;
        }
        let entry = match Net::of(from) {
            Some(net) => Some(self.enter_from(net, now)?),
            None => None,
        };
        let permit = Permit::take(&self.resources, Limit::Connections)?;
        Some(Box::new((permit, entry)))
    }

    fn enter_from(&self, net: Net, now: Instant) -> Option<Pass> {
        if self.bad_addresses.is_banned(&net, now) {
            self.resources.reject(Limit::Penalties);
            return None;
        }
        match self.addresses.enter(net, &self.resources, now) {
            Ok(entry) => Some(Box::new(entry)),
            Err(_) => {
                self.bad_addresses.note(net, Fault::Refused, now);
                None
            }
        }
    }

    /// A connection of our own.
    pub(crate) fn leave(&self) -> Option<Pass> {
        Some(Box::new(Permit::take(&self.resources, Limit::Connections)?))
    }

    /// Whether this peer may come in. A rule that panics lets nobody in.
    pub(crate) fn allows(&self, peer: &PeerId) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.allow)(peer))).unwrap_or(false)
    }

    /// Whether this peer waits out a penalty.
    pub(crate) fn is_banned(&self, peer: &PeerId, now: Instant) -> bool {
        let banned = self.bad_peers.is_banned(peer, now);
        if banned {
            self.resources.reject(Limit::Penalties);
        }
        banned
    }

    /// Somebody who is not known by its key yet did something wrong.
    pub(crate) fn blame_address(&self, from: SocketAddr, fault: Fault, now: Instant) {
        if let Some(net) = Net::of(from)
            && let Some(time) = self.bad_addresses.note(net, fault, now)
        {
            log::info!(remote:% = from, seconds = time.as_secs(); "an address is banned for a while");
        }
    }

    /// A peer did something wrong.
    pub(crate) fn blame(&self, peer: PeerId, from: SocketAddr, fault: Fault, now: Instant) {
        self.blame_address(from, fault, now);
        if let Some(time) = self.bad_peers.note(peer, fault, now) {
            self.resources.feed.tell(|| Event::PeerBanned { peer, time });
            log::info!(peer:% = peer, seconds = time.as_secs(); "a peer is banned for a while");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn gate(connections: u64, rate: Rate) -> (Gate, Arc<Resources>) {
        let resources = Resources::new(move |limit| match limit {
            Limit::ReceiveMemory => 1 << 30,
            _ => connections,
        });
        let allow = Box::new(|_: &PeerId| panic!("a rule with a bug"));
        (Gate::new(allow, rate, Times::default(), resources.clone()), resources)
    }

    fn rejections(resources: &Resources, limit: Limit) -> u64 {
        resources.snapshot().iter().find(|l| l.limit == limit).map_or(0, |l| l.rejections)
    }

    #[test]
    fn an_address_is_turned_away_before_anything_is_spent_and_waits_if_it_goes_on() {
        let (gate, resources) = gate(2, Rate::new(100, Duration::from_secs(10)));
        let (now, from) = (Instant::now(), "192.0.2.1:9".parse().unwrap());
        let held = [gate.enter(from, now), gate.enter(from, now)];
        assert!(held.iter().all(Option::is_some));
        for _ in 0..32 {
            assert!(gate.enter(from, now).is_none());
        }
        assert_eq!(rejections(&resources, Limit::ConnectionsPerIpv4), 32);
        drop(held);
        assert!(gate.enter(from, now).is_none());
        assert_eq!(rejections(&resources, Limit::Penalties), 1);
        assert!(gate.enter(from, now + Duration::from_secs(2)).is_some());
    }

    #[test]
    fn the_limit_of_all_connections_counts_what_is_held() {
        let (gate, resources) = gate(2, Rate::new(1, Duration::from_secs(1)));
        let (now, from) = (Instant::now(), "127.0.0.1:9".parse().unwrap());
        let inbound = gate.enter(from, now);
        let outbound = gate.leave();
        assert!(inbound.is_some() && outbound.is_some() && gate.enter(from, now).is_none());
        assert_eq!(rejections(&resources, Limit::Connections), 1);
        drop(outbound);
        assert!(gate.enter(from, now).is_some());
    }

    #[test]
    fn nobody_new_comes_in_while_the_host_is_out_of_memory() {
        let (gate, resources) = gate(100, Rate::new(100, Duration::from_secs(1)));
        let (now, from) = (Instant::now(), "192.0.2.1:9".parse().unwrap());
        resources.memory.charge(1 << 30);
        assert!(gate.enter(from, now).is_none());
        resources.memory.release(1 << 30);
        assert!(gate.enter(from, now).is_some());
        assert_eq!(rejections(&resources, Limit::ReceiveMemory), 1);
    }

    #[test]
    fn a_rule_that_panics_lets_nobody_in() {
        let (gate, _) = gate(1, Rate::new(1, Duration::from_secs(1)));
        assert!(!gate.allows(&PeerId::random()));
    }
}
