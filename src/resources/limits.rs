//! Every limit by its name: how much there may be, is and was at most, how often
//! it was asked for and how often refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Resources;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a host bounds. Each has a default and a setter of
        /// [`HostBuilder`](crate::HostBuilder).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Limit {
            $($(#[$doc])* $name,)*
        }

        impl Limit {
            /// Every limit there is.
            pub const ALL: &'static [Limit] = &[$(Limit::$name,)*];

            /// Its name, as in the log.
            pub fn name(self) -> &'static str {
                match self {
                    $(Limit::$name => $text,)*
                }
            }
        }
    };
}

limits! {
    /// Connections in all, [`max_connections`](crate::HostBuilder::max_connections).
    Connections = "connections";
    /// Connections from one peer,
    /// [`max_connections_per_peer`](crate::HostBuilder::max_connections_per_peer).
    ConnectionsPerPeer = "connections per peer";
    /// Connections from one IPv4 address,
    /// [`max_connections_per_ipv4`](crate::HostBuilder::max_connections_per_ipv4).
    ConnectionsPerIpv4 = "connections per IPv4 address";
    /// Connections from one IPv6 /56,
    /// [`max_connections_per_ipv6_net`](crate::HostBuilder::max_connections_per_ipv6_net).
    ConnectionsPerIpv6Net = "connections per IPv6 /56";
    /// New connections from one address in a second,
    /// [`connection_rate`](crate::HostBuilder::connection_rate).
    ConnectionRate = "new connections per address and second";
    /// Inbound handshakes that are not finished,
    /// [`max_handshakes`](crate::HostBuilder::max_handshakes). Above it the oldest is
    /// given up.
    Handshakes = "unfinished handshakes";
    /// The same of one address,
    /// [`max_handshakes_per_address`](crate::HostBuilder::max_handshakes_per_address).
    HandshakesPerAddress = "unfinished handshakes per address";
    /// Streams on one connection,
    /// [`max_streams`](crate::HostBuilder::max_streams).
    Streams = "streams per connection";
    /// Streams of one connection that have no protocol yet,
    /// [`max_negotiating`](crate::HostBuilder::max_negotiating).
    Negotiating = "negotiating streams per connection";
    /// Streams of one connection that this host has opened and the peer has not
    /// acknowledged, [`max_unacknowledged`](crate::HostBuilder::max_unacknowledged).
    /// Above it a connect waits.
    Unacknowledged = "unacknowledged streams per connection";
    /// Conns of one listener that wait to be accepted,
    /// [`max_waiting`](crate::HostBuilder::max_waiting).
    AcceptQueue = "conns that wait to be accepted";
    /// The same of one peer,
    /// [`max_waiting_per_peer`](crate::HostBuilder::max_waiting_per_peer).
    AcceptQueuePerPeer = "conns of one peer that wait to be accepted";
    /// Streams of one connection that were reset before anybody accepted them, in
    /// 10 s, [`max_resets`](crate::HostBuilder::max_resets).
    Resets = "resets of streams that nobody accepted";
    /// Bytes that arrived and wait to be read, and windows above 256 KiB, in all,
    /// [`memory`](crate::HostBuilder::memory). Above it what stands still is taken
    /// back, see [`Pressure`](crate::Pressure).
    ReceiveMemory = "receive memory";
    /// The same of one connection,
    /// [`memory_per_connection`](crate::HostBuilder::memory_per_connection).
    ReceiveMemoryPerConnection = "receive memory per connection";
    /// The window of one stream in bytes,
    /// [`max_window`](crate::HostBuilder::max_window). Turned away is growth that
    /// memory did not allow.
    Window = "window of a stream";
    /// Large messages and transfers under way,
    /// [`max_transfers`](crate::HostBuilder::max_transfers).
    Transfers = "large transfers";
    /// Peers and addresses that broke the rules, or were refused over and over, and
    /// wait: [`penalty`](crate::HostBuilder::penalty).
    Penalties = "penalties";
    /// Pings of one connection in 10 s, [`max_pings`](crate::HostBuilder::max_pings).
    Pings = "pings per connection";
    /// Pings of one connection whose answers wait to be sent,
    /// [`max_pings_waiting`](crate::HostBuilder::max_pings_waiting).
    PingsWaiting = "pings per connection that wait for an answer";
    /// Frames of one connection that carry nothing, receipts that say nothing new among
    /// them, in 10 s, [`max_empty_frames`](crate::HostBuilder::max_empty_frames).
    EmptyFrames = "frames without effect per connection";
    /// Window updates of one connection that grant what nobody has used, in 10 s,
    /// [`max_window_updates`](crate::HostBuilder::max_window_updates).
    WindowUpdates = "window updates without need per connection";
    /// Milliseconds that an inbound handshake may take,
    /// [`handshake_timeout`](crate::HostBuilder::handshake_timeout).
    HandshakeTime = "milliseconds of an inbound handshake";
    /// Milliseconds that a dial may take,
    /// [`dial_timeout`](crate::HostBuilder::dial_timeout).
    DialTime = "milliseconds of a dial";
    /// Milliseconds that a stream has to agree on its protocol, both ways,
    /// [`negotiation_timeout`](crate::HostBuilder::negotiation_timeout).
    NegotiationTime = "milliseconds of the negotiation of a stream";
    /// Milliseconds that a peer may be silent after a ping,
    /// [`keepalive_timeout`](crate::HostBuilder::keepalive_timeout). Above it the
    /// connection is lost.
    Silence = "milliseconds of silence after a ping";
    /// Milliseconds that the end of a host, or a disconnect, waits for delivery,
    /// [`linger`](crate::HostBuilder::linger).
    Linger = "milliseconds of waiting for delivery at the end";
}

/// How a limit stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimitStats {
    /// Which one.
    pub limit: Limit,
    /// How much is allowed; of time, in milliseconds.
    pub most: u64,
    /// How much there is now. For what is counted per connection, peer or address: at
    /// the last request.
    pub current: u64,
    /// The most there was.
    pub peak: u64,
    /// How often there was a request for one more.
    pub requests: u64,
    /// How often it was refused.
    pub rejections: u64,
}

/// One meter for each limit.
pub(crate) struct Meters(Vec<Meter>);

struct Meter {
    most: u64,
    current: AtomicU64,
    peak: AtomicU64,
    requests: AtomicU64,
    rejections: AtomicU64,
    log: Mutex<Log>,
    /// Rejections that the log does not know of yet.
    unsaid: AtomicBool,
}

#[derive(Default)]
struct Log {
    said: Option<Instant>,
    rejections: u64,
}

impl Meters {
    pub(crate) fn new(most: impl Fn(Limit) -> u64) -> Meters {
        let meter = |&limit: &Limit| Meter {
            most: most(limit),
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            rejections: AtomicU64::new(0),
            log: Mutex::default(),
            unsaid: AtomicBool::new(false),
        };
        Meters(Limit::ALL.iter().map(meter).collect())
    }

    pub(crate) fn most(&self, limit: Limit) -> u64 {
        self.0[limit as usize].most
    }

    /// Whether there is room for one more beside `now`.
    pub(super) fn judge(&self, limit: Limit, now: usize) -> bool {
        let meter = &self.0[limit as usize];
        meter.requests.fetch_add(1, Relaxed);
        let fits = (now as u64) < meter.most;
        let then = now as u64 + u64::from(fits);
        meter.current.store(then, Relaxed);
        if meter.peak.load(Relaxed) < then {
            meter.peak.fetch_max(then, Relaxed);
        }
        fits
    }

    /// Counts a request without a number of its own.
    pub(super) fn request(&self, limit: Limit) {
        self.0[limit as usize].requests.fetch_add(1, Relaxed);
    }

    /// Counts a rejection; `true`: the first that the log does not know of.
    pub(super) fn reject(&self, limit: Limit) -> bool {
        let meter = &self.0[limit as usize];
        meter.rejections.fetch_add(1, Relaxed);
        !meter.unsaid.swap(true, Relaxed)
    }

    /// Says in the log what was rejected, of each limit at most once a minute.
    /// Returns when there will be more to say. Called without any lock.
    pub(crate) fn say(&self, now: Instant) -> Option<Instant> {
        let due = |(meter, limit): (&Meter, &Limit)| meter.say(*limit, now);
        self.0.iter().zip(Limit::ALL).filter_map(due).min()
    }

    pub(crate) fn snapshot(&self) -> Vec<LimitStats> {
        let stats = |(meter, &limit): (&Meter, &Limit)| LimitStats {
            limit,
            most: meter.most,
            current: meter.current.load(Relaxed),
            peak: meter.peak.load(Relaxed),
            requests: meter.requests.load(Relaxed),
            rejections: meter.rejections.load(Relaxed),
        };
        self.0.iter().zip(Limit::ALL).map(stats).collect()
    }
}

impl Meter {
    fn say(&self, limit: Limit, now: Instant) -> Option<Instant> {
        if !self.unsaid.load(Relaxed) {
            return None;
        }
        let new = {
            let mut log = self.log.lock();
            if let Some(next) = log.said.and_then(|at| at.checked_add(A_MINUTE))
                && now < next
            {
                return Some(next);
            }
            self.unsaid.store(false, Relaxed);
            let rejections = self.rejections.load(Relaxed);
            let new = rejections - std::mem::replace(&mut log.rejections, rejections);
            log.said = Some(now);
            new
        };
        log::warn!(limit = limit.name(), most = self.most, rejections = new;
            "a limit was reached: {limit}, {} allowed, {new} turned away", self.most);
        None
    }
}

/// One of what a limit of the whole host counts; dropped, it is free again.
pub(crate) struct Permit {
    resources: Arc<Resources>,
    limit: Limit,
}

impl Permit {
    /// One more, unless that is more than there may be.
    pub(crate) fn take(resources: &Arc<Resources>, limit: Limit) -> Option<Permit> {
        Permit::take_of(resources, limit, resources.meters.most(limit))
    }

    /// The same where there may be fewer than the limit says.
    pub(super) fn take_of(resources: &Arc<Resources>, limit: Limit, most: u64) -> Option<Permit> {
        let meter = &resources.meters.0[limit as usize];
        meter.requests.fetch_add(1, Relaxed);
        let one_more = |n| (n < most).then_some(n + 1);
        match meter.current.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(before) => {
                meter.peak.fetch_max(before + 1, Relaxed);
                Some(Permit { resources: resources.clone(), limit })
            }
            Err(_) => {
                resources.reject(limit);
                None
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.resources.meters.0[self.limit as usize].current.fetch_sub(1, Relaxed);
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Each limit is in the log at most once in this time.
const A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn permits_are_never_more_than_the_limit_and_come_back() {
        let resources = Resources::new(|_| 8);
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let held: Vec<_> =
                            (0..4).map(|_| Permit::take(&resources, Limit::Connections)).collect();
                        let current = resources.meters.snapshot()[0].current;
                        most.fetch_max(usize::try_from(current).unwrap(), Relaxed);
                        drop(held);
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 8);
        let stats = &resources.meters.snapshot()[0];
        assert_eq!((stats.current, stats.requests), (0, 16_000));
        assert!(stats.peak <= 8 && stats.rejections < stats.requests);
    }

    #[test]
    fn a_limit_is_said_once_a_minute_with_the_count() {
        let resources = Resources::new(|_| 1);
        let called = Arc::new(AtomicUsize::new(0));
        let calls = called.clone();
        resources.set_steward(move || {
            calls.fetch_add(1, Relaxed);
        });
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert!(resources.judge(Limit::Streams, 0) && resources.meters.say(now).is_none());
        for _ in 0..3 {
            assert!(!resources.judge(Limit::Streams, 1));
        }
        assert_eq!(called.load(Relaxed), 1, "one call for all that waits to be said");
        assert_eq!(resources.meters.say(now), None);
        resources.reject(Limit::Streams);
        assert_eq!(resources.meters.say(now + second), Some(now + A_MINUTE));
        assert_eq!(resources.meters.say(now + A_MINUTE), None);
        assert_eq!(called.load(Relaxed), 2);
    }
}
