//! What comes from where: connections and their rate, by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::Resources;
use super::limits::Limit;
use super::rate::{Bucket, Rate};

/// What is counted as one address: an IPv4 address, or an IPv6 /56, of which one
/// customer usually has the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Net {
    V4(Ipv4Addr),
    V6([u8; 7]),
}

impl Net {
    /// `None`: a loopback address, to which no limit per address applies.
    pub(crate) fn of(from: SocketAddr) -> Option<Net> {
        let ip = from.ip().to_canonical();
        if ip.is_loopback() {
            return None;
        }
        Some(match ip {
            IpAddr::V4(ip) => Net::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Net::V6([a, b, c, d, e, f, g])
            }
        })
    }

    fn limit(self) -> Limit {
        match self {
            Net::V4(_) => Limit::ConnectionsPerIpv4,
            Net::V6(_) => Limit::ConnectionsPerIpv6Net,
        }
    }
}

/// The addresses that connections come from.
pub(crate) struct Addresses {
    rate: Rate,
    known: Mutex<HashMap<Net, Known>>,
}

struct Known {
    connections: usize,
    bucket: Bucket,
    last: Instant,
}

impl Addresses {
    pub(crate) fn new(rate: Rate) -> Arc<Addresses> {
        Arc::new(Addresses { rate, known: Mutex::default() })
    }

    /// One more connection from there, unless a limit says no.
    pub(crate) fn enter(
        self: &Arc<Addresses>,
        net: Net,
        resources: &Resources,
        now: Instant,
    ) -> Result<Entry, Limit> {
        let mut known = self.known.lock();
        if known.len() >= MOST_KNOWN {
            self.tidy(&mut known, now);
        }
        let fresh = || Known { connections: 0, bucket: Bucket::new(self.rate, now), last: now };
        let entry = known.entry(net).or_insert_with(fresh);
        entry.last = now;
        if !entry.bucket.take(now) {
            resources.reject(Limit::ConnectionRate);
            return Err(Limit::ConnectionRate);
        }
        if !resources.judge(net.limit(), entry.connections) {
            return Err(net.limit());
        }
        entry.connections += 1;
        Ok(Entry { addresses: self.clone(), net })
    }

    /// Forgets those whose bucket is full again and that have no connection; if all
    /// are needed, those that came last without one.
    fn tidy(&self, known: &mut HashMap<Net, Known>, now: Instant) {
        let idle = |k: &Known| now.saturating_duration_since(k.last);
        known.retain(|_, k| k.connections > 0 || idle(k) < self.rate.refill());
        if known.len() >= MOST_KNOWN {
            known.retain(|_, k| k.connections > 0);
        }
    }
}

/// A connection of an address; dropped, it counts no longer.
pub(crate) struct Entry {
    addresses: Arc<Addresses>,
    net: Net,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut known = self.addresses.known.lock();
        if let Some(known) = known.get_mut(&self.net) {
            known.connections -= 1;
        }
    }
}

/// Addresses that are remembered, but for those with connections.
const MOST_KNOWN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn net(ip: &str) -> Option<Net> {
        Net::of(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    fn with(per_address: u64) -> (Arc<Addresses>, Arc<Resources>) {
        let rate = Rate::new(64, Duration::from_millis(6400));
        (Addresses::new(rate), Resources::new(move |_| per_address))
    }

    #[test]
    fn loopback_is_exempt_and_an_ipv6_customer_counts_once() {
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(net(ip), None, "{ip}");
        }
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_eq!(net("2001:db8:0:1200::1"), net("2001:db8:0:12ff:ffff::2"));
        assert_ne!(net("2001:db8:0:1200::1"), net("2001:db8:0:1300::1"));
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let (addresses, resources) = with(3);
        let (now, here) = (Instant::now(), net("192.0.2.1").unwrap());
        let enter = || addresses.enter(here, &resources, now);
        let mut held: Vec<_> = (0..3).map(|_| enter().ok().unwrap()).collect();
        assert_eq!(enter().err(), Some(Limit::ConnectionsPerIpv4));
        let elsewhere = net("192.0.2.2").unwrap();
        assert!(addresses.enter(elsewhere, &resources, now).is_ok());
        held.pop();
        assert!(enter().is_ok());
        let v6 = net("2001:db8::1").unwrap();
        let held: Vec<_> = (0..3).map(|_| addresses.enter(v6, &resources, now)).collect();
        assert!(held.iter().all(Result::is_ok));
        let one_more = addresses.enter(v6, &resources, now).err();
        assert_eq!(one_more, Some(Limit::ConnectionsPerIpv6Net));
    }

    #[test]
    fn an_address_opens_64_at_once_and_10_a_second() {
        let (addresses, resources) = with(u64::MAX);
        let (now, here) = (Instant::now(), net("192.0.2.1").unwrap());
        let count = |at| (0..100).filter(|_| addresses.enter(here, &resources, at).is_ok()).count();
        assert_eq!(count(now), 64);
        assert_eq!(count(now + Duration::from_secs(1)), 10);
    }

    #[test]
    fn the_addresses_that_are_remembered_are_bounded() {
        let (addresses, resources) = with(8);
        let now = Instant::now();
        for n in 0..3 * MOST_KNOWN as u32 {
            let net = Net::V4(Ipv4Addr::from(n));
            drop(addresses.enter(net, &resources, now).ok().unwrap());
        }
        assert!(addresses.known.lock().len() <= MOST_KNOWN);
    }
}
