//! Whatever comes, nothing panics and nothing is kept that was not sent.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Frames of which many are nearly right.
fn frame() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let id = prop_oneof![4 => 0u32..8, 1 => any::<u32>()];
    let length = prop_oneof![4 => 0u32..600, 1 => 200_000u32..300_000, 1 => any::<u32>()];
    let raw = (0u8..4, 0u16..20, id, length, any::<bool>());
    raw.prop_map(|(kind, flags, id, length, honest)| {
        let mut header = [0; 12];
        header[1] = kind;
        header[2..4].copy_from_slice(&flags.to_be_bytes());
        header[4..8].copy_from_slice(&id.to_be_bytes());
        header[8..].copy_from_slice(&length.to_be_bytes());
        let header = Header::decode(&header).unwrap();
        let n = if kind == 0 && honest { length.min(2_000) as usize } else { 0 };
        (header, vec![0x5a; n])
    })
}

/// Feeds in chunks, reads all events after each, and checks what must hold.
fn feed(peer: &mut Peer, wire: &[u8], chunk: usize) -> Result<usize> {
    let mut told = 0;
    for part in wire.chunks(chunk.max(1)) {
        peer.buf.extend(part);
        told += peer.told()?.len();
        assert!(peer.buf.readable().len() < 2 + 65535, "a whole frame was left unread");
    }
    assert!(peer.buf.capacity() <= wire.len() + 2 * TAG, "memory follows what has arrived");
    Ok(told)
}

proptest! {
    #[test]
    fn random_ciphertext_ends_in_an_error_or_waits(wire in vec(any::<u8>(), 0..3000), chunk in 1usize..700) {
        let mut peer = Peer::new();
        if let Ok(told) = feed(&mut peer, &wire, chunk) {
            prop_assert_eq!(told, 0, "an event out of noise");
        }
    }

    #[test]
    fn random_plaintext_that_is_sealed_well_ends_in_an_error_or_waits(
        plain in vec(any::<u8>(), 0..3000), cut in 1usize..1000, chunk in 1usize..700,
    ) {
        let mut peer = Peer::new();
        let wire: Vec<u8> = plain.chunks(cut).flat_map(|c| peer.record(c)).collect();
        let _ = feed(&mut peer, &wire, chunk);
    }

    #[test]
    fn frames_that_are_nearly_right_end_in_an_error_or_in_events(
        frames in vec(frame(), 0..30), cut in 1usize..1000, chunk in 1usize..700, leftover: bool,
    ) {
        let plain: Vec<u8> =
            frames.iter().flat_map(|(h, b)| [&h.encode()[..], b].concat()).collect();
        let at = if leftover { plain.len().min(cut) } else { 0 };
        let mut peer = Peer::with_leftover(plain[..at].to_vec());
        peer.rx.insert(2, Flow::new(), 2);
        let wire: Vec<u8> = plain[at..].chunks(cut).flat_map(|c| peer.record(c)).collect();
        let mut told = Vec::new();
        let mut whole = Peer::with_leftover(Vec::new());
        whole.rx.insert(2, Flow::new(), 2);
        let record = plain.chunks(MAX_PLAIN).flat_map(|c| whole.record(c)).collect::<Vec<_>>();
        let mut result = Ok(());
        for part in wire.chunks(chunk) {
            peer.buf.extend(part);
            loop {
                match peer.next() {
                    Ok(Some(next)) => told.push(next),
                    Ok(None) => break,
                    Err(e) => { result = Err(e.code()); break }
                }
            }
        }
        if wire.is_empty() {
            loop {
                match peer.next() {
                    Ok(Some(next)) => told.push(next),
                    Ok(None) => break,
                    Err(e) => { result = Err(e.code()); break }
                }
            }
        }
        // However it is cut, it says the same.
        whole.buf.extend(&record);
        let mut at_once = Vec::new();
        let expected = loop {
            match whole.next() {
                Ok(Some(next)) => at_once.push(next),
                Ok(None) => break Ok(()),
                Err(e) => break Err(e.code()),
            }
        };
        prop_assert_eq!(result, expected);
        prop_assert_eq!(joined(told), joined(at_once));
    }

    #[test]
    fn a_flipped_bit_is_never_an_event_that_was_not_sent(
        frames in vec(frame(), 1..20), cut in 1usize..1000, at: prop::sample::Index, bit in 0u8..8, chunk in 1usize..700,
    ) {
        let mut peer = Peer::new();
        let mut good = Peer::new();
        let plain: Vec<u8> =
            frames.iter().flat_map(|(h, b)| [&h.encode()[..], b].concat()).collect();
        let mut wire: Vec<u8> = plain.chunks(cut).flat_map(|c| peer.record(c)).collect();
        good.buf.extend(&wire);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let mut told = Vec::new();
        'all: for part in wire.chunks(chunk) {
            peer.buf.extend(part);
            loop {
                match peer.next() {
                    Ok(Some(next)) => told.push(next),
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
        let mut sent = Vec::new();
        while let Ok(Some(next)) = good.next() {
            sent.push(next);
        }
        // All events but those of the frame that was hit, in their order.
        prop_assert!(told.len() <= sent.len());
        prop_assert_eq!(&told[..], &sent[..told.len()]);
    }

    #[test]
    fn truncated_input_waits(frames in vec(frame(), 1..20), at: prop::sample::Index) {
        let mut peer = Peer::new();
        let plain: Vec<u8> =
            frames.iter().flat_map(|(h, b)| [&h.encode()[..], b].concat()).collect();
        let wire: Vec<u8> = plain.chunks(500).flat_map(|c| peer.record(c)).collect();
        let _ = feed(&mut peer, &wire[..at.index(wire.len())], 100);
    }
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
