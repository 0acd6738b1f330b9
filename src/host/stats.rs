//! Figures of a host.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::core::Core;
use crate::resources::budget::Pressure;
use crate::resources::buffers;
use crate::resources::limits::{Limit, LimitStats};

/// What a host has done since it was built, and what it has now. Taking it is
/// cheap: a few counters, and a short look at each connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostStats {
    /// How long ago the host was built.
    pub age: Duration,
    /// Connections there are now.
    pub connections: usize,
    /// Streams on them, the host's own and those under negotiation among them.
    pub streams: usize,
    /// Bytes that the present connections' sockets have taken, sealed.
    pub bytes_sent: u64,
    /// Bytes that arrived on the present connections' sockets, sealed.
    pub bytes_received: u64,
    /// Connections that this host dialled with success.
    pub dialled: u64,
    /// Connections that came in and were taken.
    pub accepted: u64,
    /// Dials that failed, for whatever cause.
    pub dials_failed: u64,
    /// Inbound connections whose handshake failed or took too long.
    pub handshakes_failed: u64,
    /// Inbound connections that [`allow`](crate::HostBuilder::allow) refused.
    pub refused_by_allow: u64,
    /// Inbound streams refused because too many waited to be accepted.
    pub refused_by_queue: u64,
    /// Connections that ended without a goodbye.
    pub connections_lost: u64,
    /// Resumable conns that lost their connection, each time they did.
    pub conns_lost: u64,
    /// How often one went on over a new connection.
    pub conns_resumed: u64,
    /// Resumable conns that ended because no new connection came, or the peer did not
    /// know them any more.
    pub conns_given_up: u64,
    /// Resumable conns that are without a connection now.
    pub conns_waiting: usize,
    /// Payload that was sent again over new connections.
    pub bytes_replayed: u64,
    /// How each limit stands, in the order of [`Limit::ALL`].
    pub limits: Vec<LimitStats>,
    /// How short of memory the host is.
    pub pressure: Pressure,
    /// Bytes that it holds, of [`memory`](crate::HostBuilder::memory).
    pub memory: u64,
    /// Bytes that wait in the buffer pool, which all hosts of the process share:
    /// 24 MiB at most, 3 MiB at a medium level of pressure, none in an emergency.
    pub pooled: usize,
}

impl HostStats {
    /// How often something was turned away because of this limit.
    pub fn rejections(&self, limit: Limit) -> u64 {
        self.limits.iter().find(|l| l.limit == limit).map_or(0, |l| l.rejections)
    }

    pub(super) fn of(core: &Core) -> HostStats {
        let links = core.links();
        let sum = |f: fn(&crate::driver::Link) -> &AtomicU64| -> u64 {
            links.iter().map(|link| f(link).load(Relaxed)).sum()
        };
        let counters = &core.counters;
        let sessions = &core.sessions;
        HostStats {
            age: core.opened.elapsed(),
            connections: links.len(),
            streams: links.iter().map(|link| link.streams()).sum(),
            bytes_sent: sum(|l| &l.counters.bytes_sent),
            bytes_received: sum(|l| &l.counters.bytes_received),
            dialled: counters.dialled.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            dials_failed: counters.dials_failed.load(Relaxed),
            handshakes_failed: counters.handshakes_failed.load(Relaxed),
            refused_by_allow: counters.gate_refused.load(Relaxed),
            refused_by_queue: counters.queue_refused.load(Relaxed),
            connections_lost: counters.links_lost.load(Relaxed),
            limits: core.resources.snapshot(),
            pressure: core.resources.memory.level(),
            memory: core.resources.memory.used(),
            conns_lost: sessions.counters.lost.load(Relaxed),
            conns_resumed: sessions.counters.resumed.load(Relaxed),
            conns_given_up: sessions.counters.given_up.load(Relaxed),
            conns_waiting: sessions.waiting(),
            bytes_replayed: sessions.counters.replayed.load(Relaxed),
            pooled: buffers::kept(),
        }
    }
}
