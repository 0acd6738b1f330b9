//! Flipped bits, cuts, lies and noise: always an error, never wrong data,
//! never a panic, never memory for what has not arrived.

mod support;

use std::io::Read;

use pointsub::{
    Error, ErrorCode, MessageTransporter, receive_message, receive_message_max, receive_stream,
    send_message, send_stream,
};
use support::{Content, bytes};

/// One frame sequence of each kind, and what it carries.
fn samples() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut samples = Vec::new();
    for size in [0, 1, 5, 300, 66_000] {
        let content = bytes(size as u64, size);
        let mut wire = Vec::new();
        send_message(&mut wire, &content).unwrap();
        samples.push((wire, content.clone()));
        let mut wire = Vec::new();
        send_stream(&mut wire, &mut &content[..]).unwrap();
        samples.push((wire, content));
    }
    let mut wire = Vec::new();
    let mut source = Pieces(vec![b"three".to_vec(), b"small".to_vec(), b"pieces".to_vec()]);
    send_stream(&mut wire, &mut source).unwrap();
    samples.push((wire, b"threesmallpieces".to_vec()));
    samples
}

/// Gives one piece for each read.
struct Pieces(Vec<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let piece = self.0.remove(0);
        out[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

#[test]
fn every_flipped_bit_is_an_error_and_never_wrong_data() {
    for (wire, content) in samples() {
        // All bits of short ones; of long ones all at both ends and some between.
        let bits = (0..wire.len() * 8).filter(|bit| {
            wire.len() < 1000 || *bit < 800 || wire.len() * 8 - bit < 400 || bit % 997 == 0
        });
        for bit in bits {
            let mut damaged = wire.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // More follows, so that a wrong length would find its bytes.
            damaged.extend(bytes(7, 100_000));
            let e = receive_message(&mut &damaged[..]).unwrap_err();
            assert!(is_damage(&e), "bit {bit} of {}: {e}", wire.len());
            let mut out = Vec::new();
            let e = receive_stream(&mut &damaged[..], &mut out).unwrap_err();
            assert!(is_damage(&e), "bit {bit} of {}: {e}", wire.len());
            assert!(content.starts_with(&out), "bit {bit} of {}", wire.len());
        }
    }
}

fn is_damage(e: &Error) -> bool {
    matches!(e.code(), ErrorCode::ChecksumMismatch | ErrorCode::InvalidHeader)
}

#[test]
fn a_flipped_bit_never_makes_the_receiver_wait() {
    for (wire, _) in samples() {
        for bit in (0..wire.len() * 8).filter(|bit| wire.len() < 1000 || bit % 997 == 0) {
            let mut damaged = wire.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Nothing follows: an end would mean that more was waited for.
            let e = receive_message(&mut &damaged[..]).unwrap_err();
            assert!(is_damage(&e), "bit {bit} of {}: {e}", wire.len());
        }
    }
}

#[test]
fn a_cut_at_any_byte_is_an_error_that_tells_how_much_had_arrived() {
    for (wire, content) in samples() {
        for cut in (1..wire.len()).filter(|cut| wire.len() < 1000 || cut % 61 == 0) {
            let e = receive_message(&mut &wire[..cut]).unwrap_err();
            assert_eq!(e.code(), ErrorCode::UnexpectedEnd, "{e}");
            let received: usize = e.context("received").unwrap().parse().unwrap();
            assert!(received <= content.len().min(cut));
            assert!(content.len() - received <= wire.len() - cut, "{received} of {cut}: {e}");
            assert!(e.to_string().contains(&format!("after {received} ")), "{e}");
            let mut out = Vec::new();
            let e = receive_stream(&mut &wire[..cut], &mut out).unwrap_err();
            assert_eq!(e.context("received"), Some(&*received.to_string()));
            assert!(content.starts_with(&out));
        }
        let e = receive_message(&mut &wire[..0]).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ConnectionClosed);
    }
}

#[test]
fn noise_never_panics() {
    for seed in 0..20_000 {
        let mut random = Content::new(seed);
        let len = random.below(200);
        let mut noise = bytes(seed, len);
        if seed % 2 == 0 {
            // Behind a good beginning it comes further.
            let mut wire = Vec::new();
            send_stream(&mut wire, &mut &b"good"[..]).unwrap();
            wire.truncate(random.below(wire.len() + 1));
            wire.append(&mut noise);
            noise = wire;
        }
        let mut there = MessageTransporter::new(&noise[..]);
        for _ in 0..4 {
            let _ = there.receive();
            let _ = there.receive_stream(&mut Vec::new());
        }
    }
}

#[test]
fn a_message_above_the_limit_is_refused_and_the_next_one_comes() {
    for size in [11, 65_535, 65_536, 1 << 20] {
        let mut wire = Vec::new();
        for _ in 0..2 {
            send_message(&mut wire, &vec![1; size]).unwrap();
            send_stream(&mut wire, &mut &vec![1; size][..]).unwrap();
            send_message(&mut wire, b"0123456789").unwrap();
        }
        let e = receive_message_max(&mut &wire[..], 10).unwrap_err();
        assert_eq!(e.code(), ErrorCode::MessageTooLarge);
        let mut there = MessageTransporter::builder(&wire[..]).max_message_size(10).build();
        for _ in 0..2 {
            for _ in 0..2 {
                let e = there.receive().unwrap_err();
                assert_eq!(
                    (e.code(), e.context("limit")),
                    (ErrorCode::MessageTooLarge, Some("10"))
                );
            }
            assert_eq!(there.receive().unwrap(), b"0123456789");
        }
        assert_eq!(there.receive().unwrap_err().code(), ErrorCode::ConnectionClosed);
    }
}

#[test]
fn a_limit_does_not_hold_for_streams_to_a_writer() {
    let mut wire = Vec::new();
    send_message(&mut wire, &[1; 70_000]).unwrap();
    let mut there = MessageTransporter::builder(&wire[..]).max_message_size(10).build();
    assert_eq!(there.receive_stream(&mut std::io::sink()).unwrap(), 70_000);
}

#[test]
fn a_reader_that_fails_aborts_its_stream_and_the_next_message_comes() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
            self.0 -= 1;
            out[..3].copy_from_slice(b"abc");
            Ok(3)
        }
    }
    for good in [0, 1, 5] {
        let mut wire = Vec::new();
        for _ in 0..2 {
            let e = send_stream(&mut wire, &mut Failing(good)).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::PermissionDenied);
        }
        send_message(&mut wire, b"next").unwrap();
        let mut there = MessageTransporter::new(&wire[..]);
        let e = there.receive().unwrap_err();
        assert_eq!(e.code(), ErrorCode::Aborted);
        assert_eq!(e.context("received"), Some(&*(3 * good).to_string()));
        let mut out = Vec::new();
        assert_eq!(there.receive_stream(&mut out).unwrap_err().code(), ErrorCode::Aborted);
        assert_eq!(out, b"abc".repeat(good));
        assert_eq!(there.receive().unwrap(), b"next");
    }
}

#[test]
fn a_writer_that_fails_costs_its_stream_and_not_the_next_message() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for (size, room) in [(10, 0), (10, 9), (300_000, 0), (300_000, 70_000)] {
        let mut wire = Vec::new();
        send_message(&mut wire, &vec![1; size]).unwrap();
        send_stream(&mut wire, &mut &vec![1; size][..]).unwrap();
        send_message(&mut wire, b"next").unwrap();
        let mut there = MessageTransporter::new(&wire[..]);
        for _ in 0..2 {
            let e = there.receive_stream(&mut Full(room)).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::StorageFull);
        }
        assert_eq!(there.receive().unwrap(), b"next");
    }
}

#[test]
fn a_writer_may_fail_with_any_error_of_ours() {
    struct Picky(ErrorCode);
    impl std::io::Write for Picky {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(Error::new(self.0, "not what was agreed on").into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for &code in ErrorCode::ALL {
        let mut wire = Vec::new();
        send_stream(&mut wire, &mut &[1; 1000][..]).unwrap();
        send_message(&mut wire, b"next").unwrap();
        let mut there = MessageTransporter::new(&wire[..]);
        assert_eq!(there.receive_stream(&mut Picky(code)).unwrap_err().code(), code);
        assert_eq!(there.receive().unwrap(), b"next");
    }
}
