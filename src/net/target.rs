//! What can be dialled.

use std::io;

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;

use crate::error::{Error, ErrorCode};
use crate::host::addrs;

/// What [`Conn::connect`](crate::Conn::connect) takes as its target, as
/// [`ToSocketAddrs`](std::net::ToSocketAddrs) is what `TcpStream::connect` takes.
///
/// * a [`PeerId`]: the peer is connected already, or its address was given to
///   [`Host::add_address`](crate::Host::add_address);
/// * a [`Multiaddr`], or its text, that ends in `/p2p/<peer id>`;
/// * a pair of both.
///
/// # Examples
///
/// ```
/// use pointsub::ToPeerAddrs;
///
/// let text = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
/// let (peer, addrs) = text.to_peer_addrs().unwrap();
/// assert!(text.ends_with(&peer.to_string()));
/// assert_eq!(addrs[0].to_string(), "/ip4/192.0.2.1/tcp/4001");
/// ```
pub trait ToPeerAddrs {
    /// The peer, and where it may be reached besides what the host knows.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the text is no address, or it names no peer.
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)>;
}

impl ToPeerAddrs for PeerId {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        Ok((*self, Vec::new()))
    }
}

impl ToPeerAddrs for Multiaddr {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        match addrs::split_peer(self) {
            (addr, Some(peer)) => Ok((peer, vec![addr])),
            (_, None) => Err(invalid(format!("{self} names no peer")).into()),
        }
    }
}

impl ToPeerAddrs for (PeerId, Multiaddr) {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        match addrs::split_peer(&self.1) {
            (_, Some(other)) if other != self.0 => {
                let what = format!("{} is not an address of {}", self.1, self.0);
                Err(Error::new(ErrorCode::InvalidInput, what).into())
            }
            (addr, _) => Ok((self.0, vec![addr])),
        }
    }
}

impl ToPeerAddrs for str {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        // A bare peer id is text too.
        if let Ok(peer) = self.parse::<PeerId>() {
            return peer.to_peer_addrs();
        }
        let parsed = self.parse::<Multiaddr>();
        parsed.map_err(|e| invalid(format!("{self:?} is not an address: {e}")))?.to_peer_addrs()
    }
}

impl ToPeerAddrs for String {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        self.as_str().to_peer_addrs()
    }
}

impl<T: ToPeerAddrs + ?Sized> ToPeerAddrs for &T {
    fn to_peer_addrs(&self) -> io::Result<(PeerId, Vec<Multiaddr>)> {
        (**self).to_peer_addrs()
    }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorCode::InvalidInput, what)
        .advise("give one like /ip4/192.0.2.1/tcp/4001/p2p/<peer id>")
}
