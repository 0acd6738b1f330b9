//! The limits of a host as chosen, with their defaults and ranges.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::HostBuilder;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::{INITIAL_WINDOW, MAX_WINDOW};
use crate::resources::limits::Limit;
use crate::resources::penalties::Times;
use crate::resources::rate::Rate;

/// What differs from the defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct Chosen {
    limits: BTreeMap<Limit, u64>,
    burst: Option<u64>,
    pub(super) penalty: Times,
}

impl Chosen {
    pub(super) fn most(&self, limit: Limit) -> u64 {
        self.limits.get(&limit).copied().unwrap_or_else(|| default(limit))
    }

    /// New connections of one address.
    pub(super) fn rate(&self) -> Rate {
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        let burst = self.burst.unwrap_or(BURST);
        Rate::per_second(number(self.most(Limit::ConnectionRate)), number(burst))
    }

    pub(super) fn check(&self) -> Result<()> {
        let burst = self.burst.map(|burst| ("the burst of connection_rate", burst, 1..=MANY));
        let limits = self.limits.iter().map(|(limit, n)| (limit.name(), *n, range(*limit)));
        for (name, n, range) in limits.chain(burst) {
            if !range.contains(&n) {
                let (least, most) = range.into_inner();
                let what = format!("{name}: {n} is not from {least} to {most}");
                return Err(Error::new(ErrorCode::InvalidInput, what));
            }
        }
        let Times { first, longest } = self.penalty;
        if first.is_zero() || first > longest || longest > LONGEST_PENALTY {
            let what =
                format!("a penalty of {first:?} to {longest:?}: it is above zero, up to a day");
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        Ok(())
    }
}

/// Limits: what strangers and peers can make the host spend. What goes beyond one is
/// turned away, counted in [`HostStats::limits`](crate::HostStats), and said in the
/// log at most once a minute. Connections from loopback addresses are exempt from the
/// limits per address.
impl HostBuilder {
    /// Connections in all, dialled ones and dials among them. Default 10,000; from 1 to
    /// 1,000,000.
    pub fn max_connections(self, n: usize) -> HostBuilder {
        self.limit(Limit::Connections, n)
    }

    /// Connections that come in from one peer. Default 8; from 1 to 1,000,000.
    pub fn max_connections_per_peer(self, n: usize) -> HostBuilder {
        self.limit(Limit::ConnectionsPerPeer, n)
    }

    /// Connections that come in from one IPv4 address. Default 64; from 1 to
    /// 1,000,000.
    pub fn max_connections_per_ipv4(self, n: usize) -> HostBuilder {
        self.limit(Limit::ConnectionsPerIpv4, n)
    }

    /// Connections that come in from one IPv6 /56. Default 8; from 1 to 1,000,000.
    pub fn max_connections_per_ipv6_net(self, n: usize) -> HostBuilder {
        self.limit(Limit::ConnectionsPerIpv6Net, n)
    }

    /// New connections from one address: so many a second, and so many at once.
    /// Default 10 and 64; each from 1 to 1,000,000.
    pub fn connection_rate(mut self, per_second: u32, burst: u32) -> HostBuilder {
        self.chosen.burst = Some(burst.into());
        self.limit(Limit::ConnectionRate, per_second as usize)
    }

    /// Inbound handshakes that are not finished; above it the oldest is given up.
    /// Default 256; from 1 to 1,000,000.
    pub fn max_handshakes(self, n: usize) -> HostBuilder {
        self.limit(Limit::Handshakes, n)
    }

    /// The same of one IPv4 address or IPv6 /56. Default 16; from 1 to 1,000,000.
    pub fn max_handshakes_per_address(self, n: usize) -> HostBuilder {
        self.limit(Limit::HandshakesPerAddress, n)
    }

    /// Streams on one connection, beyond which the peer's are refused. Default 1,024;
    /// from 1 to 16,384.
    pub fn max_streams(self, n: usize) -> HostBuilder {
        self.limit(Limit::Streams, n)
    }

    /// Streams of one connection that the peer has opened and that have no protocol
    /// yet. Default 128; from 1 to 16,384.
    pub fn max_negotiating(self, n: usize) -> HostBuilder {
        self.limit(Limit::Negotiating, n)
    }

    /// Streams of one connection that this host has opened and the peer has not
    /// acknowledged; beyond it a connect waits. Default 256; from 1 to 16,384.
    pub fn max_unacknowledged(self, n: usize) -> HostBuilder {
        self.limit(Limit::Unacknowledged, n)
    }

    /// Conns of one listener that wait to be accepted, beyond which a connect is
    /// refused. Default 256; from 1 to 1,000,000.
    pub fn max_waiting(self, n: usize) -> HostBuilder {
        self.limit(Limit::AcceptQueue, n)
    }

    /// The same of one peer. Default 128; from 1 to 1,000,000.
    pub fn max_waiting_per_peer(self, n: usize) -> HostBuilder {
        self.limit(Limit::AcceptQueuePerPeer, n)
    }

    /// Streams of one connection that may be reset in 10 s, by either side, before
    /// anybody accepted them; a peer that makes more is told to go away. Default 1,000;
    /// from 1 to 1,000,000.
    pub fn max_resets(self, n: usize) -> HostBuilder {
        self.limit(Limit::Resets, n)
    }

    /// Bytes that the host may hold: what arrived and waits to be read, windows that
    /// have grown above 256 KiB, and output that waits. Default 1 GiB; from 1 MiB to
    /// 1 PiB.
    ///
    /// Above 80 % windows grow no more, and idle connections are closed; above 95 % new
    /// connections and streams are refused and what stands still is taken back, first from
    /// the peers for which most is held (see [`Pressure`](crate::Pressure)). What goes on
    /// then may pass the budget: by 64 KiB and a write of each conn, and by what its window
    /// of 256 KiB lets a peer send.
    pub fn memory(self, bytes: usize) -> HostBuilder {
        self.limit(Limit::ReceiveMemory, bytes)
    }

    /// The same of one connection. Default 64 MiB; from 1 MiB to 1 PiB.
    pub fn memory_per_connection(self, bytes: usize) -> HostBuilder {
        self.limit(Limit::ReceiveMemoryPerConnection, bytes)
    }

    /// The window of one stream in bytes: what its peer may send before somebody
    /// reads. It begins at 256 KiB and doubles up to this while the reader keeps up.
    /// Default and at most 16 MiB; at least 256 KiB.
    pub fn max_window(self, bytes: usize) -> HostBuilder {
        self.limit(Limit::Window, bytes)
    }

    /// Messages and transfers of 1 MiB and more that may be under way at once, where
    /// they are asked to heed the memory of the host (see
    /// [`limits`](crate::message::MessageTransporterBuilder::limits)). Default 1,024;
    /// from 1 to 1,000,000.
    ///
    /// Above 80 % of the memory a sixteenth of them may, and none of 100 MiB and more;
    /// above 95 % none at all.
    pub fn max_transfers(self, n: usize) -> HostBuilder {
        self.limit(Limit::Transfers, n)
    }

    /// Pings of one connection in 10 s; a peer that sends more is told to go away. A host
    /// of this library sends about one a second at most, behind what it has to confirm.
    /// Default 1,000; from 1 to 1,000,000.
    pub fn max_pings(self, n: usize) -> HostBuilder {
        self.limit(Limit::Pings, n)
    }

    /// Pings of one connection whose answers wait because the peer does not read; one
    /// that sends more is told to go away. Default 32; from 1 to 16,384.
    pub fn max_pings_waiting(self, n: usize) -> HostBuilder {
        self.limit(Limit::PingsWaiting, n)
    }

    /// Frames of one connection that carry nothing, in 10 s; a peer that sends more is told
    /// to go away. Receipts that say nothing new are among them, answers to pings that
    /// nobody has sent, and goodbyes behind the first. Default 10,000; from 1 to 1,000,000.
    pub fn max_empty_frames(self, n: usize) -> HostBuilder {
        self.limit(Limit::EmptyFrames, n)
    }

    /// Window updates of one connection that grant what nobody has used, in 10 s; a
    /// peer that sends more is told to go away. Default 10,000; from 1 to 1,000,000.
    pub fn max_window_updates(self, n: usize) -> HostBuilder {
        self.limit(Limit::WindowUpdates, n)
    }

    /// How long a peer or an address waits that broke the protocol, flooded, or was
    /// refused over and over: `first`, then twice as long each time, up to `longest`. It
    /// is forgotten slowly, one time for every ten quiet minutes. Default 1 s and
    /// 10 min; above zero, up to a day.
    pub fn penalty(mut self, first: Duration, longest: Duration) -> HostBuilder {
        self.chosen.penalty = Times { first, longest };
        self
    }

    fn limit(mut self, limit: Limit, n: usize) -> HostBuilder {
        self.chosen.limits.insert(limit, n as u64);
        self
    }
}

fn default(limit: Limit) -> u64 {
    match limit {
        Limit::Connections => 10_000,
        Limit::ConnectionsPerPeer | Limit::ConnectionsPerIpv6Net => 8,
        Limit::ConnectionsPerIpv4 => 64,
        Limit::ConnectionRate => 10,
        Limit::Handshakes | Limit::AcceptQueue | Limit::Unacknowledged => 256,
        // How many may wait does not matter: they cost nothing.
        Limit::Penalties => 0,
        Limit::HandshakesPerAddress => 16,
        Limit::Streams | Limit::Transfers => 1024,
        Limit::Negotiating | Limit::AcceptQueuePerPeer => 128,
        Limit::PingsWaiting => 32,
        Limit::Window => u64::from(MAX_WINDOW),
        Limit::Resets | Limit::Pings => 1000,
        Limit::ReceiveMemory => 1 << 30,
        Limit::ReceiveMemoryPerConnection => 64 << 20,
        Limit::EmptyFrames | Limit::WindowUpdates => 10_000,
        // The builder keeps times itself.
        Limit::HandshakeTime
        | Limit::DialTime
        | Limit::NegotiationTime
        | Limit::Silence
        | Limit::Linger => 0,
    }
}

fn range(limit: Limit) -> RangeInclusive<u64> {
    match limit {
        // As many answers may wait on one connection.
        Limit::Streams | Limit::Negotiating | Limit::Unacknowledged | Limit::PingsWaiting => {
            1..=16_384
        }
        Limit::Window => u64::from(INITIAL_WINDOW)..=u64::from(MAX_WINDOW),
        Limit::ReceiveMemory | Limit::ReceiveMemoryPerConnection => (1 << 20)..=(1 << 50),
        _ => 1..=MANY,
    }
}

/// New connections of one address at once.
const BURST: u64 = 64;
const MANY: u64 = 1_000_000;
const LONGEST_PENALTY: Duration = Duration::from_secs(24 * 3600);
