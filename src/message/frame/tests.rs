//! What can only be seen from inside: how much is allocated.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorCode;
use crate::fuzz::{damaged, fuzz};
use crate::message::header::{Header, Kind, MAX_CHUNK};
use crate::message::{send_message, send_stream};

/// Gives `pieces`, and then times out.
struct Pieces<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(self.most);
        match Read::read(&mut self.bytes, &mut out[..most])? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

fn bound(arrived: usize) -> usize {
    arrived + arrived / 8 + (1 << 20) + (64 << 10)
}

#[test]
fn memory_follows_what_has_arrived_not_what_is_announced() {
    let size = 40 << 20;
    let mut wire = Vec::new();
    send_message(&mut wire, &vec![1; size]).unwrap();
    for cut in [16, 17, 32, 33, 1000, 100_000, 1 << 20, 5 << 20, 39 << 20] {
        let mut incoming = Incoming::default();
        let mut from = Pieces { bytes: &wire[..cut], most: 10_000 };
        let e = incoming.receive(&mut from, &mut Vec::new(), u64::MAX).err().unwrap();
        assert_eq!(e.code(), ErrorCode::Timeout);
        assert!(incoming.allocated() <= bound(cut), "{} for {cut}", incoming.allocated());
    }
}

#[test]
fn a_lying_header_costs_one_chunk_at_most() {
    let lies = [
        (Header::new(Kind::Message, 65_535), 65_535 + 8),
        (Header::new(Kind::Large, 1 << 29), 0),
        (Header::new(Kind::Large, 1 << 40), 0),
        (Header::new(Kind::Stream, 0), 0),
    ];
    for (lie, most) in lies {
        let mut wire = lie.encode().as_slice().to_vec();
        if most == 0 {
            wire.extend(Header::new(Kind::Chunk, MAX_CHUNK as u64).encode().as_slice());
        }
        wire.push(0);
        for to_writer in [false, true] {
            let mut incoming = Incoming::default();
            let mut from = Pieces { bytes: &wire, most: 10_000 };
            let outcome = if to_writer {
                incoming.receive_stream(&mut from, &mut io::sink())
            } else {
                incoming.receive(&mut from, &mut Vec::new(), 1 << 30)
            };
            assert!(outcome.is_err());
            assert!(incoming.allocated() <= MAX_CHUNK + 4096, "{lie:?}");
        }
    }
}

#[test]
fn an_idle_receiver_owns_nothing() {
    let mut wire = Vec::new();
    send_message(&mut wire, &vec![1; 300_000]).unwrap();
    send_stream(&mut wire, &mut &vec![1; 300_000][..]).unwrap();
    let mut from = &wire[..];
    let mut incoming = Incoming::default();
    incoming.receive(&mut from, &mut Vec::new(), u64::MAX).unwrap();
    assert_eq!(incoming.allocated(), 0);
    incoming.receive_stream(&mut from, &mut io::sink()).unwrap();
    assert_eq!(incoming.allocated(), 0);
}

#[test]
fn storage_that_is_lent_is_used() {
    let mut wire = Vec::new();
    send_message(&mut wire, &vec![1; 50_000]).unwrap();
    let mut message = Vec::with_capacity(60_000);
    let storage = message.as_ptr();
    Incoming::default().receive(&mut &wire[..], &mut message, u64::MAX).unwrap();
    assert_eq!((message.as_ptr(), message.len()), (storage, 50_000));
}

/// Gives all it has, and then does not want any more.
struct GivesUp<'a>(&'a [u8]);

impl Read for GivesUp<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match Read::read(&mut self.0, out)? {
            0 => Err(Error::new(ErrorCode::Cancelled, "no more").into()),
            n => Ok(n),
        }
    }
}

/// Takes nothing.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_nobody_wants_any_more_is_skipped_from_any_byte_on() {
    let content = [7; 30];
    let mut wire = Header::new(Kind::Large, 60).encode().as_slice().to_vec();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&wire);
    let frames = [(Kind::Chunk, 30), (Kind::Chunk, 30), (Kind::End, 60)];
    for header in frames.map(|(kind, len)| Header::new(kind, len)) {
        let frame = [header.encode().as_slice(), &content[..header.payload()]].concat();
        crc.update(&frame);
        wire.extend(frame);
        wire.extend(crc.clone().finalize().to_be_bytes());
    }
    let end = wire.len();
    send_message(&mut wire, b"the next").unwrap();
    for cut in 1..end {
        for by_writer in [false, true] {
            let mut incoming = Incoming::default();
            let (first, mut rest) = wire.split_at(cut);
            if by_writer {
                let mut first = Pieces { bytes: first, most: 100 };
                let outcome = incoming.receive(&mut first, &mut Vec::new(), 100);
                assert_eq!(outcome.err().unwrap().code(), ErrorCode::Timeout);
                let e = incoming.receive_stream(&mut rest, &mut Full).err().unwrap();
                assert_eq!(e.kind(), io::ErrorKind::StorageFull, "{cut}");
            } else {
                let outcome = incoming.receive(&mut GivesUp(first), &mut Vec::new(), 100);
                assert_eq!(outcome.err().unwrap().code(), ErrorCode::Cancelled);
            }
            let mut next = Vec::new();
            let outcome = incoming.receive(&mut rest, &mut next, 100);
            // Of what had no header yet nothing is known to be unwanted.
            let begun = by_writer || cut >= 4;
            assert_eq!(outcome.err().map(|e| e.code()), None, "{cut} {by_writer}");
            assert_eq!(next == b"the next", begun, "{cut} {by_writer}");
        }
    }
}

/// What a sender may say: messages and streams, whole and broken off.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let content = (0usize..3_000).prop_map(|n| (0..n).map(|i| i as u8).collect::<Vec<u8>>());
    let one = (0u8..3, content, 1usize..400).prop_map(|(kind, content, chunk)| {
        let mut wire = Vec::new();
        match kind {
            0 => send_message(&mut wire, &content).unwrap(),
            1 => drop(send_stream(&mut wire, &mut &content[..]).unwrap()),
            _ => {
                // As a foreign sender may cut it: a length first, then chunks.
                wire.extend(Header::new(Kind::Large, 1 << 20).encode().as_slice());
                for part in content.chunks(chunk) {
                    let header = Header::new(Kind::Chunk, part.len() as u64).encode();
                    let check = [header.as_slice(), part].concat();
                    wire.extend(&check);
                    wire.extend(crc32fast::hash(&check).to_be_bytes());
                }
            }
        }
        wire
    });
    prop::collection::vec(one, 1..4).prop_map(|all| all.concat())
}

#[test]
fn fuzz_message_frames() {
    fuzz((damaged(wire()), 1usize..500, any::<bool>()), |(wire, most, to_writer)| {
        let mut incoming = Incoming::default();
        let mut from = Pieces { bytes: &wire, most };
        for _ in 0..8 {
            let (mut message, mut written) = (Vec::new(), Vec::new());
            let outcome = match to_writer {
                true => incoming.receive_stream(&mut from, &mut written),
                false => incoming.receive(&mut from, &mut message, 2_000),
            };
            prop_assert!(incoming.allocated() <= bound(wire.len()));
            prop_assert!(message.len() <= 2_000 && written.len() <= wire.len());
            match outcome {
                Ok(arrived) if to_writer => prop_assert_eq!(arrived.bytes, written.len() as u64),
                Ok(arrived) => prop_assert_eq!(arrived.bytes, message.len() as u64),
                Err(e) if e.code() == ErrorCode::Timeout => break,
                Err(_) => {}
            }
        }
        Ok(())
    });
}
