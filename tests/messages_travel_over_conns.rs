//! Messages over a Conn: every size, its timeouts, its ends.

mod common;

use common::{Cut, Pair, Proxy, payload, within};
use pointsub::{
    Conn, Error, ErrorCode, MessageTransporter, receive_message, receive_message_max,
    receive_stream, send_message, send_stream,
};
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Around every border of the size classes.
const SIZES: [usize; 13] = [
    0,
    1,
    1023,
    1024,
    1025,
    65_535,
    65_536,
    65_537,
    MIB - 1,
    MIB,
    MIB + 1,
    100 * MIB - 1,
    100 * MIB,
];

#[test]
fn every_size_goes_there_and_back_as_message_and_as_stream() {
    within(240, || {
        let pair = Pair::new();
        let (near, mut far) = pair.connect();
        let echo = thread::spawn(move || -> Result<(), Error> {
            loop {
                match receive_message(&mut far) {
                    Ok(message) => send_message(&mut far, &message)?,
                    Err(e) if e.code() == ErrorCode::ConnectionClosed => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        });
        for size in SIZES {
            let message = payload(size as u64, size);
            send_message(&mut &near, &message).expect("send");
            assert!(receive_message(&mut &near).expect("receive") == message, "{size}");
            if size <= MIB + 1 {
                let sent = send_stream(&mut &near, &mut &message[..]).expect("send");
                let mut back = Vec::new();
                let received = receive_stream(&mut &near, &mut back).expect("receive");
                assert_eq!((sent, received), (size as u64, size as u64));
                assert!(back == message, "{size}");
            }
        }
        drop(near);
        echo.join().expect("no panic").expect("a clean end");
    });
}

#[test]
fn transporters_send_both_ways_at_once_over_the_halves_of_one_conn() {
    within(60, || {
        let pair = Pair::new();
        let (near, far) = pair.connect();
        let count = 2_000;
        thread::scope(|scope| {
            for (conn, seed) in [(&near, 1), (&far, 2)] {
                scope.spawn(move || {
                    let mut sender = MessageTransporter::new(conn);
                    for i in 0..count {
                        sender.send(&payload(seed + i, (i % 3_000) as usize)).expect("send");
                    }
                });
            }
            for (conn, seed) in [(&far, 1), (&near, 2)] {
                scope.spawn(move || {
                    let mut receiver = MessageTransporter::new(conn);
                    for i in 0..count {
                        let message = receiver.receive().expect("receive");
                        assert!(message == payload(seed + i, (i % 3_000) as usize), "{i}");
                    }
                });
            }
        });
    });
}

#[test]
fn a_read_timeout_inside_a_message_lets_the_transporter_go_on() {
    within(60, || {
        let pair = Pair::new();
        let (near, far) = pair.connect();
        far.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let mut frame = Vec::new();
        let message = payload(3, 50_000);
        send_message(&mut frame, &message).expect("in memory");
        let mut receiver = MessageTransporter::new(&far);
        // Before the first byte, inside the header, inside the payload.
        let mut sent = 0;
        for cut in [2, 1_000, 30_000, frame.len()] {
            let e = receiver.receive().expect_err("nothing whole has arrived");
            assert_eq!(e.code(), ErrorCode::Timeout, "{e}");
            (&near).write_all(&frame[sent..cut]).expect("write");
            sent = cut;
        }
        let received = loop {
            match receiver.receive() {
                Ok(message) => break message,
                Err(e) => assert_eq!(e.code(), ErrorCode::Timeout, "{e}"),
            }
        };
        assert!(received == message);
    });
}

#[test]
fn a_cut_inside_a_message_is_an_error_and_a_close_between_messages_is_told_apart() {
    within(60, || {
        let pair = Pair::plain();
        let proxy = Proxy::to(&pair.server);
        let (mut near, mut far) = pair.connect_at(&proxy.address(&pair.server));
        send_message(&mut near, b"whole").expect("send");
        let mut frame = Vec::new();
        send_message(&mut frame, &payload(1, 10_000)).expect("in memory");
        near.write_all(&frame[..5_000]).expect("write");
        assert_eq!(receive_message(&mut far).expect("the first"), b"whole");
        far.peek(&mut [0]).expect("a part of the second has arrived");
        proxy.cut(Cut::Close);
        let e = receive_message(&mut far).expect_err("cut");
        assert_ne!(e.code(), ErrorCode::ConnectionClosed, "{e}");

        let pair = Pair::new();
        let (near, mut far) = pair.connect();
        send_message(&mut &near, b"last").expect("send");
        drop(near);
        assert_eq!(receive_message(&mut far).expect("the last"), b"last");
        let e = receive_message(&mut far).expect_err("closed");
        assert_eq!(e.code(), ErrorCode::ConnectionClosed);
    });
}

#[test]
fn a_limit_holds_before_anything_is_buffered() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        send_message(&mut near, &[7; 4_097]).expect("send");
        let e = receive_message_max(&mut far, 4_096).expect_err("too large");
        assert_eq!(e.code(), ErrorCode::MessageTooLarge);
    });
}

#[test]
fn a_peer_that_stops_inside_a_chunk_is_noticed_and_a_pause_between_chunks_is_not() {
    within(60, || {
        let pair = Pair::new();
        let (near, far) = pair.connect();
        let mut receiver = MessageTransporter::builder(far).limits().build();
        // A source that stands still for longer than the limit of its class.
        let mut slow = Pausing { left: 3, pause: Duration::from_millis(2_500) };
        thread::scope(|scope| {
            scope.spawn(|| send_stream(&mut &near, &mut slow).expect("send"));
            let mut all = Vec::new();
            receiver.receive_stream(&mut all).expect("a live stream is not killed");
            assert_eq!(all, [9; 3]);
        });
        let mut frame = Vec::new();
        send_message(&mut frame, &[1; 500]).expect("in memory");
        (&near).write_all(&frame[..100]).expect("write");
        let start = Instant::now();
        let e = receiver.receive().expect_err("the peer stopped");
        assert_eq!(e.code(), ErrorCode::Timeout, "{e}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        keep(&near);
    });
}

/// A byte at a time, with a pause before each but the first.
struct Pausing {
    left: u8,
    pause: Duration,
}

impl Read for Pausing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        if self.left < 3 {
            // Time is what this test is about: no event tells that it has passed.
            thread::sleep(self.pause);
        }
        self.left -= 1;
        buf[0] = 9;
        Ok(1)
    }
}

/// The conn lives up to here.
fn keep(_: &Conn) {}
