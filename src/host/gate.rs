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
use crate::resources::limits::{Limit, Permit};
use crate::resources::rate::Rate;

/// Says which peers may come in.
pub(crate) type Allow = Box<dyn Fn(&PeerId) -> bool + Send + Sync>;

pub(crate) struct Gate {
    allow: Allow,
    addresses: Arc<Addresses>,
    resources: Arc<Resources>,
}

impl Gate {
    pub(crate) fn new(allow: Allow, rate: Rate, resources: Arc<Resources>) -> Gate {
        Gate { allow, addresses: Addresses::new(rate), resources }
    }

    /// A connection comes from there. It is counted until what is returned is
    /// dropped; `None`: it is turned away.
    pub(crate) fn enter(&self, from: SocketAddr, now: Instant) -> Option<Pass> {
        if self.resources.memory.is_full() {
            self.resources.reject(Limit::ReceiveMemory);
            return None;
        }
        let entry = match Net::of(from) {
            Some(net) => Some(self.addresses.enter(net, &self.resources, now).ok()?),
            None => None,
        };
        let permit = Permit::take(&self.resources, Limit::Connections)?;
        Some(Box::new((permit, entry)))
    }

    /// A connection of our own.
    pub(crate) fn leave(&self) -> Option<Pass> {
        Some(Box::new(Permit::take(&self.resources, Limit::Connections)?))
    }

    /// Whether this peer may come in. A rule that panics lets nobody in.
    pub(crate) fn allows(&self, peer: &PeerId) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.allow)(peer))).unwrap_or(false)
    }
}
