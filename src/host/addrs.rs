//! Multiaddresses, as far as TCP needs them.

use std::net::{IpAddr, SocketAddr};

use libp2p_core::Multiaddr;
use libp2p_core::multiaddr::Protocol;
use libp2p_identity::PeerId;

use crate::driver::{Family, Place};
use crate::error::{Error, ErrorCode, Result};

/// `/ip4/…/tcp/…` or `/ip6/…/tcp/…`.
pub(crate) fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    Multiaddr::empty().with(ip).with(Protocol::Tcp(addr.port()))
}

/// Takes the `/p2p/<peer id>` off the end.
pub(crate) fn split_peer(addr: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut rest = addr.clone();
    match rest.pop() {
        Some(Protocol::P2p(peer)) => (rest, Some(peer)),
        _ => (addr.clone(), None),
    }
}

/// Where to dial; a trailing `/p2p/…` is ignored.
pub(crate) fn to_place(addr: &Multiaddr) -> Result<Place> {
    let (addr, _) = split_peer(addr);
    let mut parts = addr.iter();
    let (host, tcp) = (parts.next(), parts.next());
    let (Some(host), Some(Protocol::Tcp(port)), None) = (host, tcp, parts.next()) else {
        return Err(unusable(&addr));
    };
    let name = |name: &str, family| Place::Name { name: name.to_string(), port, family };
    match host {
        Protocol::Ip4(ip) => Ok(Place::Socket(SocketAddr::new(ip.into(), port))),
        Protocol::Ip6(ip) => Ok(Place::Socket(SocketAddr::new(ip.into(), port))),
        Protocol::Dns(host) => Ok(name(&host, Family::Any)),
        Protocol::Dns4(host) => Ok(name(&host, Family::V4)),
        Protocol::Dns6(host) => Ok(name(&host, Family::V6)),
        _ => Err(unusable(&addr)),
    }
}

/// Of the addresses given with a call one at least has to be usable, connected or not.
pub(crate) fn check_given(given: &[Multiaddr]) -> Result<()> {
    let mut fault = Ok(());
    for addr in given {
        match to_place(addr) {
            Ok(_) => return Ok(()),
            Err(e) => fault = Err(e),
        }
    }
    fault
}

/// Where to listen: a socket address of this machine.
pub(crate) fn to_listen(addr: &Multiaddr) -> Result<SocketAddr> {
    match to_place(addr)? {
        Place::Socket(socket) => Ok(socket),
        Place::Name { .. } => Err(Error::new(
            ErrorCode::InvalidInput,
            format!("cannot listen at {addr}: give an /ip4 or /ip6 address"),
        )),
    }
}

fn unusable(addr: &Multiaddr) -> Error {
    Error::new(
        ErrorCode::InvalidInput,
        format!(
            "{addr} is not a TCP address: give /ip4, /ip6, /dns, /dns4 or /dns6, then /tcp/<port>"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_convert_both_ways_and_others_are_refused() {
        let peer = PeerId::random();
        for text in ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/1"] {
            let addr: Multiaddr = text.parse().unwrap();
            assert_eq!(to_multiaddr(to_listen(&addr).unwrap()), addr);
            let full = addr.clone().with(Protocol::P2p(peer));
            assert_eq!(split_peer(&full), (addr.clone(), Some(peer)));
            assert_eq!(to_place(&full).unwrap(), to_place(&addr).unwrap());
        }
        let named = to_place(&"/dns4/localhost/tcp/5".parse().unwrap()).unwrap();
        assert_eq!(named, Place::Name { name: "localhost".into(), port: 5, family: Family::V4 });
        for text in [
            "/ip4/127.0.0.1/udp/1",
            "/ip4/127.0.0.1",
            "/tcp/1",
            "/ip4/1.2.3.4/tcp/1/ws",
            "/memory/1",
        ] {
            let addr: Multiaddr = text.parse().unwrap();
            assert_eq!(to_place(&addr).unwrap_err().code(), ErrorCode::InvalidInput, "{text}");
        }
        let name: Multiaddr = "/dns/example.org/tcp/1".parse().unwrap();
        assert_eq!(to_listen(&name).unwrap_err().code(), ErrorCode::InvalidInput);
    }
}
