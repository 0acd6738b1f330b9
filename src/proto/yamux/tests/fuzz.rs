//! Whatever comes, nothing panics and nothing is kept that was not sent.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::fuzz::{damaged, fuzz};

/// Frames of which many are nearly right, one behind the other.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![4 => 0u32..8, 1 => any::<u32>()];
    let length = prop_oneof![4 => 0u32..600, 1 => 200_000u32..300_000, 1 => any::<u32>()];
    let kind = prop_oneof![9 => 0u8..4, 1 => Just(0x50)];
    let frame = (kind, 0u16..20, id, length, any::<bool>());
    let frame = frame.prop_map(|(kind, flags, id, length, honest)| {
        let mut frame = vec![0, kind];
        frame.extend(flags.to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend(length.to_be_bytes());
        if kind == 0 && honest {
            frame.resize(12 + length.min(2_000) as usize, 0x5a);
        }
        frame
    });
    vec(frame, 0..30).prop_map(|frames| frames.concat())
}

/// What a peer that says `plain` in Noise frames of `cut` puts on the wire.
fn wire(peer: &mut Peer, plain: &[u8], cut: usize) -> Vec<u8> {
    plain.chunks(cut).flat_map(|chunk| peer.record(chunk)).collect()
}

/// What is told of `wire` as it arrives in parts, and how it ends.
fn hear(peer: &mut Peer, wire: &[u8], part: usize) -> (Vec<Told>, Option<ErrorCode>) {
    let mut told = Vec::new();
    // The first round has nothing: it reads what was left over.
    for part in [&[][..]].into_iter().chain(wire.chunks(part)) {
        peer.buf.extend(part);
        loop {
            match peer.next() {
                Ok(Some(next)) => told.push(next),
                Ok(None) => break,
                Err(e) => return (told, Some(e.code())),
            }
        }
    }
    (told, None)
}

/// Bodies in one piece, however they came.
fn joined(told: Vec<Told>) -> Vec<Told> {
    let mut out: Vec<Told> = Vec::new();
    for next in told {
        match (out.last_mut(), next) {
            (Some(Told::Data(a, bytes)), Told::Data(b, more)) if *a == b => bytes.extend(more),
            (_, next) => out.push(next),
        }
    }
    out
}

proptest! {
    #[test]
    fn random_ciphertext_is_no_event(wire in vec(any::<u8>(), 0..3000), part in 1usize..700) {
        let mut peer = Peer::new();
        let (told, _) = hear(&mut peer, &wire, part);
        prop_assert_eq!(told, []);
        prop_assert!(peer.buf.capacity() <= wire.len());
    }

    #[test]
    fn random_plaintext_ends_the_connection_or_waits(
        plain in vec(any::<u8>(), 0..3000), cut in 1usize..1000, part in 1usize..700,
    ) {
        let mut peer = Peer::new();
        let wire = wire(&mut peer, &plain, cut);
        let (_, end) = hear(&mut peer, &wire, part);
        prop_assert!(plain.len() < 12 || plain[0] == 0 || end.is_some());
        prop_assert!(peer.buf.capacity() <= wire.len());
    }

    #[test]
    fn frames_say_the_same_however_they_are_cut(
        plain in frames(), cut in 1usize..1000, part in 1usize..700, leftover in any::<Index>(),
    ) {
        let at = leftover.index(plain.len() + 1);
        let mut peer = Peer::with_leftover(plain[..at].to_vec());
        let pieces = wire(&mut peer, &plain[at..], cut);
        let mut whole = Peer::new();
        let record = wire(&mut whole, &plain, MAX_PLAIN);
        for peer in [&mut peer, &mut whole] {
            peer.rx.insert(2, Flow::new(), 2);
        }
        let (told, end) = hear(&mut peer, &pieces, part);
        let (at_once, expected) = hear(&mut whole, &record, usize::MAX);
        prop_assert_eq!(joined(told), joined(at_once));
        prop_assert_eq!(end, expected);
    }

    #[test]
    fn a_flipped_bit_leads_to_no_event_that_was_not_sent(
        plain in frames(), cut in 1usize..1000, part in 1usize..700, at in any::<Index>(), bit in 0u8..8,
    ) {
        prop_assume!(!plain.is_empty());
        let (mut peer, mut good) = (Peer::new(), Peer::new());
        let mut wire = wire(&mut peer, &plain, cut);
        let (sent, _) = hear(&mut good, &wire, usize::MAX);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let (told, _) = hear(&mut peer, &wire, part);
        prop_assert!(sent.starts_with(&told));
    }

    #[test]
    fn what_is_cut_off_is_waited_for(plain in frames(), cut in 1usize..1000, at in any::<Index>()) {
        let (mut peer, mut whole) = (Peer::new(), Peer::new());
        let wire = wire(&mut peer, &plain, cut);
        let (sent, _) = hear(&mut whole, &wire, usize::MAX);
        let (told, end) = hear(&mut peer, &wire[..at.index(wire.len() + 1)], 100);
        prop_assert!(sent.starts_with(&told));
        prop_assert!(end.is_none_or(|code| code == ErrorCode::ProtocolViolation));
    }
}

#[test]
fn fuzz_yamux_frames() {
    let cuts = (1usize..1000, 1usize..700, any::<Index>());
    fuzz((damaged(frames()), cuts), |(plain, (cut, part, leftover))| {
        let at = leftover.index(plain.len() + 1);
        let mut peer = Peer::with_leftover(plain[..at].to_vec());
        let pieces = wire(&mut peer, &plain[at..], cut);
        let mut whole = Peer::new();
        let record = wire(&mut whole, &plain, MAX_PLAIN);
        let (told, end) = hear(&mut peer, &pieces, part);
        let (at_once, expected) = hear(&mut whole, &record, usize::MAX);
        prop_assert_eq!(joined(told), joined(at_once));
        prop_assert_eq!(end, expected);
        prop_assert!(peer.rx.len() <= plain.len() / Header::LEN);
        prop_assert!(peer.buf.capacity() <= plain.len() + pieces.len() + 64);
        Ok(())
    });
}

#[test]
fn fuzz_yamux_records() {
    // What goes wrong outside the seal: nothing is told that was not sent.
    let said = (frames(), 1usize..1000).prop_flat_map(|(plain, cut)| {
        let mut peer = Peer::new();
        let sent = wire(&mut peer, &plain, cut);
        let (told, _) = hear(&mut peer, &sent, usize::MAX);
        (Just(told), damaged(Just(sent)))
    });
    fuzz((said, 1usize..700), |((expected, wire), part)| {
        let (told, _) = hear(&mut Peer::new(), &wire, part);
        prop_assert!(expected.starts_with(&told));
        Ok(())
    });
}
