//! What a host asks its peers: how far they are, and who they are.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_core::Multiaddr;

use crate::driver::{Link, Patience, Stream};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::identify::{self, Identify};
use crate::proto::ping;
use crate::random;

/// What a peer says about itself, asked by [`Host::identify`](crate::Host::identify).
///
/// Only its key is proved; the rest is its word.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The program, such as `pointsub/0.1.0`.
    pub agent_version: String,
    /// The family of protocols that it speaks, such as `ipfs/0.1.0`.
    pub protocol_version: String,
    /// The protocols that it serves, at most 1,024.
    pub protocols: Vec<String>,
    /// Where it says that it listens, at most 128.
    pub listen_addrs: Vec<Multiaddr>,
    /// The address that it sees this host come from.
    pub observed_addr: Option<Multiaddr>,
}

impl From<Identify> for PeerInfo {
    fn from(said: Identify) -> PeerInfo {
        PeerInfo {
            agent_version: said.agent_version,
            protocol_version: said.protocol_version,
            protocols: said.protocols,
            listen_addrs: said.listen_addrs,
            observed_addr: said.observed_addr,
        }
    }
}

/// One ping and its answer, over a stream of the ping protocol.
pub(super) fn ping(link: &Arc<Link>, stream: &Arc<Stream>, deadline: Instant) -> Result<Duration> {
    let mut payload = [0; ping::SIZE];
    random::fill(&mut payload)?;
    let mut out = Vec::new();
    let mut requester = ping::Requester::new(payload, &mut out);
    let start = Instant::now();
    let mut sent = 0;
    while sent < out.len() {
        let wrote = link.write(stream, &[IoSlice::new(&out[sent..])], Patience::Until(deadline))?;
        sent += wrote.ok_or_else(late)?;
    }
    read_answer(link, stream, deadline, |bytes| Ok(requester.read(bytes)?.1.then_some(())))?;
    Ok(start.elapsed())
}

/// The peer's introduction, over a stream of the identify protocol.
pub(super) fn identify(
    link: &Arc<Link>,
    stream: &Arc<Stream>,
    deadline: Instant,
) -> Result<PeerInfo> {
    let mut reader = identify::Reader::new(link.peer);
    let said = read_answer(link, stream, deadline, |bytes| Ok(reader.read(bytes)?.1))?;
    Ok(said.into())
}

/// Reads until `parse` has what it wants.
fn read_answer<T>(
    link: &Arc<Link>,
    stream: &Arc<Stream>,
    deadline: Instant,
    mut parse: impl FnMut(&[u8]) -> Result<Option<T>>,
) -> Result<T> {
    let mut buf = [0; 1024];
    loop {
        let read =
            link.read(stream, &mut [IoSliceMut::new(&mut buf)], Patience::Until(deadline))?;
        let n = read.ok_or_else(late)?;
        if n == 0 {
            let what = "the peer ended the stream before it had answered";
            return Err(Error::new(ErrorCode::UnexpectedEnd, what));
        }
        if let Some(answer) = parse(&buf[..n])? {
            return Ok(answer);
        }
    }
}

fn late() -> Error {
    Error::new(ErrorCode::Timeout, "the peer did not answer in time")
}
