//! A socket on its way to being a link: the upgrade, fed without blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use super::waiter::For;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::connection::{Step, Upgrade, Upgraded};
use crate::proto::noise::Identity;

pub(crate) struct Handshake {
    socket: TcpStream,
    /// `None` once it is complete.
    upgrade: Option<Upgrade>,
    done: Option<Box<Upgraded>>,
    input: RecvBuf,
    out: Vec<u8>,
    sent: usize,
    /// When we last said something, and the shortest answer to that.
    spoke: Option<Instant>,
    rtt: Option<Duration>,
}

/// What a dialer says first: it proposes Noise, with the key that it has made for this
/// handshake. That needs no connection yet.
pub(crate) struct Proposal {
    upgrade: Upgrade,
    says: Vec<u8>,
}

impl Proposal {
    pub(crate) fn new(identity: Arc<Identity>, peer: PeerId) -> Result<Proposal> {
        let mut says = Vec::new();
        let upgrade = Upgrade::dialer(identity, Some(peer));
        match upgrade.advance(&mut RecvBuf::default(), &mut says)? {
            Step::More(upgrade) => Ok(Proposal { upgrade, says }),
            Step::Done(_) => unreachable!("an upgrade needs to hear the peer"),
        }
    }
}

/// A connection that is secured and can become a link.
pub(crate) struct Secured {
    pub(crate) socket: TcpStream,
    pub(crate) upgraded: Box<Upgraded>,
    /// What arrived behind the handshake.
    pub(crate) input: RecvBuf,
    pub(crate) rtt: Option<Duration>,
}

impl Handshake {
    /// Over a connected socket that does not block.
    pub(crate) fn dialer(socket: TcpStream, proposal: Proposal) -> Handshake {
        Handshake::new(socket, proposal.upgrade, proposal.says)
    }

    pub(crate) fn listener(socket: TcpStream, identity: Arc<Identity>) -> Handshake {
        Handshake::new(socket, Upgrade::listener(identity), Vec::new())
    }

    fn new(socket: TcpStream, upgrade: Upgrade, out: Vec<u8>) -> Handshake {
        Handshake {
            socket,
            upgrade: Some(upgrade),
            done: None,
            input: RecvBuf::default(),
            out,
            sent: 0,
            spoke: None,
            rtt: None,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What the socket has to be ready for before the next `step`.
    pub(crate) fn waits_for(&self) -> For {
        if self.sent < self.out.len() { For::Writing } else { For::Reading }
    }

    /// Goes as far as the socket lets it. `true`: complete.
    pub(crate) fn step(&mut self) -> Result<bool> {
        loop {
            if let Some(upgrade) = self.upgrade.take() {
                match upgrade.advance(&mut self.input, &mut self.out) {
                    Ok(Step::More(upgrade)) => self.upgrade = Some(upgrade),
                    Ok(Step::Done(upgraded)) => self.done = Some(upgraded),
                    Err(e) => {
                        // What it had to say, a refusal, goes out if it can.
                        let _ = self.send();
                        return Err(e);
                    }
                }
            }
            if !self.send()? {
                return Ok(false);
            }
            if self.done.is_some() {
                return Ok(true);
            }
            if !self.receive()? {
                return Ok(false);
            }
        }
    }

    /// The result of a complete handshake.
    pub(crate) fn finish(self) -> Secured {
        let upgraded = self.done.expect("the caller has seen `step` return true");
        Secured { socket: self.socket, upgraded, input: self.input, rtt: self.rtt }
    }

    /// `false`: the socket takes no more for now.
    fn send(&mut self) -> Result<bool> {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(e)),
            }
            self.spoke = Some(Instant::now());
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// `false`: nothing has come.
    fn receive(&mut self) -> Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => {
                    return Err(Error::new(
                        ErrorCode::HandshakeFailed,
                        "the peer closed the connection during the handshake",
                    ));
                }
                Ok(n) => {
                    if let Some(took) = self.spoke.take().map(|at| at.elapsed()) {
                        self.rtt = Some(self.rtt.map_or(took, |least| least.min(took)));
                    }
                    self.input.extend(&bytes[..n]);
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(e)),
            }
        }
    }
}

fn broken(e: std::io::Error) -> Error {
    Error::with_source(ErrorCode::ConnectionReset, "the connection broke during the handshake", e)
}
