//! What both halves promise, one file per subject.

mod control;
mod fuzz;
mod inbound;
mod outbound;
mod threats;

use std::io::IoSlice;

use super::flow::Flow;
use super::frame::{Flags, Header, Role, StreamId};
use super::out::Batch;
use super::rx::{Event, Rx};
use super::tx::Tx;
use crate::error::{ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::noise::{MAX_PLAIN, Sealer, TAG, pair};
use crate::resources::buffers::Buffer;

/// A peer that says whatever a test wants, to an [`Rx`] of the listener's.
struct Peer {
    sealer: Sealer,
    rx: Rx<StreamId>,
    buf: RecvBuf,
    /// Streams that the owner refuses.
    refuse: bool,
}

/// An event that owns what it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Opened(StreamId),
    Acked(StreamId),
    Data(StreamId, Vec<u8>),
    Fin(StreamId),
    Reset(StreamId, u32),
    Credit(StreamId),
    Received(StreamId, u32),
    Ping(u32),
    Pong(u32),
    GoAway(u32),
    Unwanted(StreamId),
}

impl Peer {
    fn new() -> Peer {
        Peer::with_leftover(Vec::new())
    }

    fn with_leftover(leftover: Vec<u8>) -> Peer {
        let (sealer, opener) = pair(&[7; 32]);
        let rx = Rx::new(opener, Role::Listener, leftover);
        Peer { sealer, rx, buf: RecvBuf::default(), refuse: false }
    }

    /// The bytes in a Noise frame of their own.
    fn record(&mut self, plain: &[u8]) -> Vec<u8> {
        record(&mut self.sealer, plain)
    }

    /// Puts the bytes into Noise frames of at most `at_most`, all of which arrive.
    fn say_in(&mut self, at_most: usize, plain: &[u8]) {
        for chunk in plain.chunks(at_most) {
            let record = self.record(chunk);
            self.buf.extend(&record);
        }
    }

    fn say(&mut self, header: Header, body: &[u8]) {
        self.say_in(MAX_PLAIN, &[&header.encode(), body].concat());
    }

    /// All events that what has arrived leads to; every stream is inserted.
    fn told(&mut self) -> Result<Vec<Told>> {
        let mut told = Vec::new();
        while let Some(next) = self.next()? {
            told.push(next);
        }
        Ok(told)
    }

    fn next(&mut self) -> Result<Option<Told>> {
        let told = match self.rx.poll(&mut self.buf)? {
            None => return Ok(None),
            Some(Event::Opened { id, flow }) => {
                if !self.refuse {
                    self.rx.insert(id, flow, id);
                }
                Told::Opened(id)
            }
            Some(Event::Data { stream, body }) => {
                let (id, mut out) = (*stream, vec![0; body.len()]);
                body.take_into(&mut out)?;
                Told::Data(id, out)
            }
            Some(Event::Acked { stream }) => Told::Acked(*stream),
            Some(Event::Fin { stream }) => Told::Fin(*stream),
            Some(Event::Reset { stream, code }) => Told::Reset(*stream, code),
            Some(Event::Credit { stream }) => Told::Credit(*stream),
            Some(Event::Received { stream, received }) => Told::Received(*stream, received),
            Some(Event::Ping(value)) => Told::Ping(value),
            Some(Event::Pong(value)) => Told::Pong(value),
            Some(Event::GoAway(code)) => Told::GoAway(code),
            Some(Event::Unwanted { id, .. }) => Told::Unwanted(id),
        };
        Ok(Some(told))
    }

    /// Asserts that the connection ends with `code`, for good.
    fn ends_with(&mut self, code: ErrorCode) {
        assert_eq!(self.told().unwrap_err().code(), code);
        assert_eq!(self.told().unwrap_err().code(), code, "an ended connection came back");
    }

    fn is_violated(&mut self) {
        self.ends_with(ErrorCode::ProtocolViolation);
    }
}

fn record(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 2 + plain.len() + TAG];
    out[..2].copy_from_slice(&((plain.len() + TAG) as u16).to_be_bytes());
    sealer.seal_into(plain, &mut out[2..]).unwrap();
    out
}

/// Bytes that differ from their neighbours, and from those of another seed.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

/// What an Rx makes of what a Tx wrote; bodies joined per stream.
fn carried(tx: &mut Tx, peer: &mut Peer) -> Vec<u8> {
    heard(&tx.take().unwrap(), peer)
}

fn heard(batch: &Batch, peer: &mut Peer) -> Vec<u8> {
    peer.buf.extend(batch.pending());
    let told = peer.told().unwrap();
    told.into_iter().flat_map(|t| if let Told::Data(_, b) = t { b } else { Vec::new() }).collect()
}

fn send(tx: &mut Tx, id: StreamId, syn: bool, flow: &Flow, bytes: &[u8]) -> usize {
    tx.data(id, syn, flow, &[IoSlice::new(bytes)]).unwrap()
}

fn syn(id: StreamId) -> Header {
    Header::window(id, Flags::SYN, 0)
}

fn data(id: StreamId, body: &[u8]) -> Header {
    Header::data(id, Flags::NONE, body.len() as u32)
}
