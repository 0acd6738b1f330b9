//! Messages of any size arrive as they were sent, over anything.

mod common;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use common::Pair;
use pointsub::{
    ErrorCode, MessageTransporter, receive_message, receive_stream, send_message, send_stream,
};
use support::{Counting, bytes, tcp_pair};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Around every border there is; the last two take a while.
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

/// Sends each size there and back, as message and as stream.
fn round_trips<C: Read + Write + Send + 'static>((mut here, mut there): (C, C), most: usize) {
    let echo = thread::spawn(move || {
        loop {
            let message = match receive_message(&mut there) {
                Ok(message) => message,
                Err(e) if e.code() == ErrorCode::ConnectionClosed => return,
                Err(e) => panic!("{e}"),
            };
            send_message(&mut there, &message).unwrap();
            let mut copy = Vec::new();
            receive_stream(&mut there, &mut copy).unwrap();
            assert_eq!(copy.len(), message.len());
            send_stream(&mut there, &mut &copy[..]).unwrap();
        }
    });
    for size in SIZES.into_iter().filter(|&size| size <= most) {
        let message = bytes(size as u64, size);
        send_message(&mut here, &message).unwrap();
        assert!(receive_message(&mut here).unwrap() == message, "message of {size}");
        assert_eq!(send_stream(&mut here, &mut &message[..]).unwrap(), size as u64);
        let mut back = Vec::new();
        assert_eq!(receive_stream(&mut here, &mut back).unwrap(), size as u64);
        assert!(back == message, "stream of {size}");
    }
    drop(here);
    echo.join().unwrap();
}

#[test]
fn over_tcp() {
    round_trips(tcp_pair(), 2 * MIB);
}

#[test]
fn over_a_conn() {
    round_trips(Pair::new().connect(), 2 * MIB);
}

#[test]
fn over_tcp_around_100_mib() {
    huge(&tcp_pair());
}

#[test]
fn over_a_conn_around_100_mib() {
    huge(&Pair::new().connect());
}

fn huge<C: Sync>((here, there): &(C, C))
where
    for<'c> &'c C: Read + Write,
{
    for (size, seed) in [(100 * MIB - 1, 1), (100 * MIB, 2)] {
        let message = bytes(seed, size);
        thread::scope(|s| {
            s.spawn(|| send_message(&mut &*here, &message).unwrap());
            assert!(receive_message(&mut &*there).unwrap() == message);
        });
    }
}

#[test]
fn in_memory() {
    for size in SIZES.into_iter().filter(|&size| size <= 2 * MIB) {
        let message = bytes(size as u64, size);
        let mut wire = Vec::new();
        send_message(&mut wire, &message).unwrap();
        send_stream(&mut wire, &mut &message[..]).unwrap();
        let mut from = &wire[..];
        assert!(receive_message(&mut from).unwrap() == message, "{size}");
        assert!(receive_message(&mut from).unwrap() == message, "{size}");
        assert!(from.is_empty());
        assert_eq!(receive_message(&mut from).unwrap_err().code(), ErrorCode::ConnectionClosed);
    }
}

#[test]
fn a_shared_reference_to_a_conn_will_do() {
    let (a, b) = tcp_pair();
    let (a, b): (&TcpStream, &TcpStream) = (&a, &b);
    send_message(&mut &*a, b"by reference").unwrap();
    assert_eq!(receive_message(&mut &*b).unwrap(), b"by reference");
    let dynamic: &mut dyn Write = &mut { a };
    send_message(dynamic, b"by trait object").unwrap();
    let dynamic: &mut dyn Read = &mut { b };
    assert_eq!(receive_message(dynamic).unwrap(), b"by trait object");
}

#[test]
fn free_functions_and_transporters_mix_at_one_end() {
    let (mut a, b) = tcp_pair();
    let mut there = MessageTransporter::new(b);
    send_message(&mut a, b"one").unwrap();
    send_stream(&mut a, &mut &b"two"[..]).unwrap();
    send_message(&mut a, b"three").unwrap();
    send_message(&mut a, &[4; 100_000]).unwrap();
    assert_eq!(there.receive().unwrap(), b"one");
    assert_eq!(receive_message(&mut there.get_ref()).unwrap(), b"two");
    let mut out = Vec::new();
    assert_eq!(there.receive_stream(&mut out).unwrap(), 5);
    assert_eq!(receive_message(&mut there.get_ref()).unwrap(), [4; 100_000]);
    there.send(b"five").unwrap();
    there.send_stream(&mut &b"six"[..]).unwrap();
    assert_eq!(receive_message(&mut a).unwrap(), b"five");
    assert_eq!(receive_message(&mut a).unwrap(), b"six");
    there.close().unwrap();
    assert_eq!(receive_message(&mut a).unwrap_err().code(), ErrorCode::ConnectionClosed);
}

#[test]
fn nothing_behind_a_message_is_read() {
    for size in [0, 1, 500, 70_000, 3 * MIB] {
        let mut wire = Vec::new();
        send_message(&mut wire, &vec![1; size]).unwrap();
        send_stream(&mut wire, &mut &vec![2; size][..]).unwrap();
        wire.extend_from_slice(b"raw bytes");
        let mut from = &wire[..];
        assert_eq!(receive_message(&mut from).unwrap().len(), size);
        assert_eq!(receive_message(&mut from).unwrap().len(), size);
        assert_eq!(from, b"raw bytes");
    }
}

#[test]
fn a_short_message_is_one_write_and_two_reads() {
    for size in [1, 64, 1023, 1024, 50 * KIB, 65_535] {
        let mut wire = Counting::new(Vec::new());
        send_message(&mut wire, &vec![7; size]).unwrap();
        assert_eq!(wire.writes, [size + 8]);
        let mut from = Counting::new(&wire.inner[..]);
        receive_message(&mut from).unwrap();
        assert_eq!(from.reads, [4, size + 4]);
    }
    let mut wire = Vec::new();
    send_message(&mut wire, b"").unwrap();
    assert_eq!(wire.len(), 4);
}
