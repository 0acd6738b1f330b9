//! A transporter whose conn times out at any byte goes on at the next call.

mod common;
mod support;

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::within;
use pointsub::{
    ErrorCode, MessageTransporter, TransferHandle, receive_message, send_message, send_stream,
};
use support::{Content, Unkind, bytes, tcp_pair};

#[test]
fn a_read_timeout_before_a_message_costs_nothing() {
    let (mut a, mut b) = tcp_pair();
    b.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let e = receive_message(&mut b).unwrap_err();
    assert!(matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    assert_eq!(e.code(), ErrorCode::Timeout);
    send_message(&mut a, b"late").unwrap();
    b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(receive_message(&mut b).unwrap(), b"late");
}

#[test]
fn the_free_function_says_that_it_cannot_go_on() {
    let mut wire = Vec::new();
    send_message(&mut wire, b"a message").unwrap();
    let (mut a, mut b) = tcp_pair();
    a.write_all(&wire[..7]).unwrap();
    b.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let e = receive_message(&mut b).unwrap_err();
    assert_eq!((e.code(), e.context("received")), (ErrorCode::Timeout, Some("3")));
    assert!(e.to_string().contains("cannot go on"), "{e}");
}

#[test]
fn a_transporter_goes_on_after_a_timeout_at_any_byte_with_any_call() {
    for seed in 0..400 {
        let mut random = Content::new(seed);
        let sizes: Vec<usize> =
            (0..6).map(|i| [0, 1, 4, 900, 66_000, 200_000][(i + random.below(6)) % 6]).collect();
        let mut wire = Vec::new();
        for (i, &size) in sizes.iter().enumerate() {
            let content = bytes(i as u64, size);
            if random.below(2) == 0 {
                send_message(&mut wire, &content).unwrap();
            } else {
                send_stream(&mut wire, &mut Unkind::new(&content[..], seed, 30_000)).unwrap();
            }
        }
        let most = [3, 100, 30_000, 500_000][random.below(4)];
        let mut unkind = Unkind::new(&wire[..], seed, most.max(wire.len() / 2000));
        unkind.timeouts = true;
        let mut there = MessageTransporter::new(unkind);
        for (i, &size) in sizes.iter().enumerate() {
            let content = bytes(i as u64, size);
            let mut out = Vec::new();
            let mut streaming = false;
            let got = loop {
                // Once a part went to the writer, only receive_stream goes on.
                streaming |= random.below(4) == 0;
                let outcome = if streaming {
                    there.receive_stream(&mut out).map(|n| assert_eq!(n, size as u64))
                } else {
                    there.receive_into(&mut out)
                };
                match outcome {
                    Ok(()) => break out,
                    Err(e) => assert_eq!(e.code(), ErrorCode::Timeout, "seed {seed}: {e}"),
                }
            };
            assert!(got == content, "seed {seed}, message {i} of {size}");
        }
    }
}

#[test]
fn a_half_delivered_stream_is_never_returned_as_a_message() {
    let mut wire = Vec::new();
    send_stream(&mut wire, &mut Unkind::new(&bytes(1, 5000)[..], 1, 1000)).unwrap();
    // Both, that a part came and that the rest did not, happens for some seed.
    let (mut there, mut out) = (3..)
        .find_map(|seed| {
            let mut unkind = Unkind::new(&wire[..], seed, 700);
            unkind.timeouts = true;
            let mut there = MessageTransporter::new(unkind);
            let mut out = Vec::new();
            let interrupted = there.receive_stream(&mut out).is_err();
            (interrupted && !out.is_empty()).then_some((there, out))
        })
        .unwrap();
    assert_eq!(there.receive().unwrap_err().code(), ErrorCode::InvalidInput);
    while there.receive_stream(&mut out).is_err() {}
    assert!(out == bytes(1, 5000));
}

#[test]
fn a_sender_that_timed_out_keeps_the_frames_in_order() {
    for seed in 0..300 {
        let mut random = Content::new(seed);
        let mut unkind = Unkind::new(Vec::new(), seed, 40_000);
        unkind.timeouts = true;
        let mut here = MessageTransporter::new(unkind);
        let mut sent = Vec::new();
        for i in 0..12u64 {
            let content = bytes(i, [8, 9, 900, 66_000, 700_000][random.below(5)]);
            let stream = random.below(2) == 0;
            let outcome = if stream {
                here.send_stream(&mut &content[..]).map(drop)
            } else {
                here.send(&content)
            };
            sent.push((content, outcome.is_ok()));
        }
        let mut wire = loop {
            match here.settle() {
                Ok(()) => break here.into_inner().inner,
                Err(e) => assert_eq!(e.code(), ErrorCode::Timeout, "seed {seed}: {e}"),
            }
        };
        send_message(&mut wire, b"last").unwrap();
        let mut there = MessageTransporter::new(&wire[..]);
        let mut sent = sent.into_iter();
        loop {
            match there.receive() {
                Ok(m) if m == b"last" => break,
                // What was reported as sent arrives; of the others some do.
                Ok(m) => loop {
                    let (content, ok) = sent.next().expect("a message that was not sent");
                    if m == content {
                        break;
                    }
                    assert!(!ok, "seed {seed}: a message is missing");
                },
                Err(e) => assert_eq!(e.code(), ErrorCode::Aborted, "seed {seed}: {e}"),
            }
        }
        assert!(sent.all(|(_, ok)| !ok), "seed {seed}: a message is missing");
    }
}

#[test]
fn whatever_error_it_is_nothing_old_is_left_where_a_message_is_received_to() {
    let mut wire = Vec::new();
    send_message(&mut wire, &bytes(1, 200_000)).unwrap();
    let old = || b"old".to_vec();
    let (mut a, b) = tcp_pair();
    b.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    a.write_all(&wire[..150_000]).unwrap();
    let mut there = MessageTransporter::builder(&b).max_message_size(1000).build();
    for code in [ErrorCode::MessageTooLarge, ErrorCode::Timeout] {
        let mut message = old();
        let e = there.receive_into(&mut message).unwrap_err();
        assert_eq!((e.code(), message), (code, vec![]));
    }
    // And where a part of it has gone elsewhere.
    let (mut a, b) = tcp_pair();
    b.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    a.write_all(&wire[..150_000]).unwrap();
    let mut there = MessageTransporter::new(&b);
    assert!(there.receive_stream(&mut io::sink()).is_err());
    let mut message = old();
    let e = there.receive_into(&mut message).unwrap_err();
    assert_eq!((e.code(), message), (ErrorCode::InvalidInput, vec![]));
}

/// A stream under control: its header, "abc", and a pause.
const PAUSED: &[u8] = &[
    0x94, 0, 0, 0x83, 8, 0, 0, 0, 0, 0, 0, 0, 0x98, 0x31, 0x58, 0x33, // a stream
    0x98, 0, 3, 0xba, b'a', b'b', b'c', 0xb0, 0xe3, 0x1b, 0xda, // a chunk
    0xb0, 0, 1, 0x7b, // a pause
];

#[test]
fn a_sender_that_pauses_holds_nobody_beyond_a_timeout() {
    within(20, || {
        for nonblocking in [false, true] {
            let (mut a, b) = tcp_pair();
            b.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            b.set_nonblocking(nonblocking).unwrap();
            let mut there = MessageTransporter::builder(b).control().build();
            a.write_all(PAUSED).unwrap();
            while there.get_ref().peek(&mut [0; 64]).ok() != Some(PAUSED.len()) {}
            // The pause has been heard by the first of them.
            for _ in 0..3 {
                let e = there.receive().unwrap_err();
                assert_eq!((e.code(), e.context("received")), (ErrorCode::Timeout, Some("3")));
            }
            // It goes on, and ends.
            let rest = [0xb0, 0, 2, 0x0a, 0xa0, 0, 3, 0xc5, 0x61, 0x24, 0x52, 0xa4];
            a.write_all(&rest).unwrap();
            let message = std::iter::repeat_with(|| there.receive()).find_map(Result::ok);
            assert_eq!(message.unwrap(), b"abc");
        }
    });
}

/// Sends messages until no more fit; how many were sent, and whether one more is
/// left half sent.
fn fill(here: &mut MessageTransporter<TcpStream>, content: &[u8]) -> (usize, bool) {
    here.get_ref().set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let (sent, e) =
        (0..).find_map(|sent| here.send(content).err().map(|e| (sent, e))).expect("no room");
    assert_eq!(e.code(), ErrorCode::Timeout);
    here.get_ref().set_write_timeout(None).unwrap();
    (sent, e.to_string().contains("half sent"))
}

fn controlled(conn: TcpStream, checksum: bool) -> MessageTransporter<TcpStream> {
    MessageTransporter::builder(conn).checksum(checksum).control().build()
}

#[test]
fn an_answer_stands_behind_what_was_left_half_sent_and_keeps_nobody_waiting() {
    within(60, || {
        for (checksum, size) in [(true, 60_000), (false, 60_000), (true, 40_000_000)] {
            let (a, b) = tcp_pair();
            let (mut here, mut there) = (controlled(a, checksum), controlled(b, checksum));
            let content = bytes(1, size);
            let (sent, half) = fill(&mut here, &content);
            // Who is there sends first, and reads when it was received.
            let (received, go_on) = mpsc::channel();
            let peer = thread::spawn(move || {
                let mut stream = &[1; 100_000][..];
                there.send_stream_with(&TransferHandle::new(), &mut stream).unwrap();
                go_on.recv().unwrap();
                let mut whole = 0;
                loop {
                    match there.receive() {
                        Ok(m) if m == b"the last" => break whole,
                        Ok(m) => {
                            assert!(m == content);
                            whole += 1;
                        }
                        Err(e) => assert_eq!(e.code(), ErrorCode::Aborted, "{e}"),
                    }
                }
            });
            let start = Instant::now();
            assert!(here.receive().unwrap() == [1; 100_000]);
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
            received.send(()).unwrap();
            here.send(b"the last").unwrap();
            // One that is sent in chunks is taken back.
            let completed = half && size < 65_536;
            assert_eq!(peer.join().unwrap(), sent + usize::from(completed));
        }
    });
}

#[test]
fn two_that_have_no_room_to_answer_hear_each_other_all_the_same() {
    within(60, || {
        let (a, b) = tcp_pair();
        let ends = [controlled(a, true), controlled(b, true)];
        let all_full = Barrier::new(2);
        let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
        thread::scope(|scope| {
            for (i, mut end) in ends.into_iter().enumerate() {
                let (all_full, counts) = (&all_full, &counts);
                scope.spawn(move || {
                    // It is confirmed at leisure.
                    end.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    let _ = end.send_with(&TransferHandle::new(), &[1; 70_000]);
                    end.get_ref().set_read_timeout(None).unwrap();
                    let (sent, half) = fill(&mut end, &[2; 60_000]);
                    counts[i].store(sent + usize::from(half), SeqCst);
                    all_full.wait();
                    assert!(end.receive().unwrap() == [1; 70_000]);
                    for _ in 0..counts[1 - i].load(SeqCst) {
                        assert!(end.receive().unwrap() == [2; 60_000]);
                    }
                    end.send_with(&TransferHandle::new(), &[3; 70_000]).unwrap();
                    assert!(end.receive().unwrap() == [3; 70_000]);
                });
            }
        });
    });
}
