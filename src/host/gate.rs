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
use crate::resources::penalties::{Fault, Penalties};
use crate::resources::quota::Rate;

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
    pub(crate) fn new(allow: Allow, rate: Rate, resources: Arc<Resources>) -> Gate {
        Gate {
            allow,
            addresses: Addresses::new(rate),
            bad_addresses: Penalties::new(),
            bad_peers: Penalties::new(),
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
            log::info!(from:% = from, seconds = time.as_secs(); "an address is banned for a while");
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
