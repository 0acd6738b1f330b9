//! The methods of `Conn` beside reading, writing and closing.

mod common;

use common::{PROTOCOL, Pair, assert_carries, assert_kind, payload, within};
use pointsub::{Conn, Listener};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::thread;
use std::time::Duration;

#[test]
fn peek_sees_without_taking() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        far.write_all(b"peek").expect("write");
        let mut seen = [0; 2];
        for _ in 0..2 {
            assert_eq!(near.peek(&mut seen).expect("peek"), 2);
            assert_eq!(&seen, b"pe");
        }
        let mut taken = [0; 4];
        near.read_exact(&mut taken).expect("read");
        assert_eq!(&taken, b"peek");
        drop(far);
        assert_eq!(near.peek(&mut seen).expect("the end"), 0);
    });
}

#[test]
fn an_end_before_all_that_was_asked_for_says_how_much_there_was() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        far.write_all(b"four").expect("write");
        drop(far);
        let short = near.read_exact(&mut [0; 10]);
        let error = assert_kind(short, &[ErrorKind::UnexpectedEof]).to_string();
        assert!(error.contains("4 of 10"), "{error}");
        assert_kind((&near).read_exact(&mut [0]), &[ErrorKind::UnexpectedEof]);
        near.read_exact(&mut []).expect("nothing");
    });
}

#[test]
fn timeouts_are_shared_by_clones_and_zero_is_invalid_input() {
    within(30, || {
        let pair = Pair::new();
        let (conn, _far) = pair.connect();
        let clone = conn.try_clone().expect("clone");
        assert_eq!(conn.read_timeout().expect("get"), None);
        assert_eq!(conn.write_timeout().expect("get"), None);
        let second = Some(Duration::from_secs(1));
        conn.set_read_timeout(second).expect("set");
        clone.set_write_timeout(second).expect("set");
        assert_eq!(clone.read_timeout().expect("get"), second);
        assert_eq!(conn.write_timeout().expect("get"), second);
        let zero = Some(Duration::ZERO);
        assert_kind(conn.set_read_timeout(zero), &[ErrorKind::InvalidInput]);
        assert_kind(conn.set_write_timeout(zero), &[ErrorKind::InvalidInput]);
        assert_eq!(conn.read_timeout().expect("get"), second, "unchanged");
    });
}

#[test]
fn nodelay_is_a_flag_that_changes_no_byte() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        assert!(!near.nodelay().expect("get"));
        for on in [true, false] {
            near.set_nodelay(on).expect("set");
            assert_eq!(near.nodelay().expect("get"), on);
            for seed in 0..20 {
                assert_carries(&mut near, &mut far, &payload(seed, 10));
            }
        }
    });
}

#[test]
fn a_conn_knows_both_ends() {
    within(30, || {
        let pair = Pair::new();
        let (near, far) = pair.connect();
        assert_eq!(near.peer_id(), pair.server.peer_id());
        assert_eq!(near.local_peer_id(), pair.client.peer_id());
        assert_eq!(far.peer_id(), pair.client.peer_id());
        assert_eq!((near.protocol(), far.protocol()), (PROTOCOL, PROTOCOL));
        let at = |conn: &Conn| (conn.local_addr().expect("local"), conn.peer_addr().expect("peer"));
        let ((near_local, near_peer), (far_local, far_peer)) = (at(&near), at(&far));
        assert_eq!((&near_local, &near_peer), (&far_peer, &far_local));
        assert_eq!(near_peer, pair.server.listen_addrs()[0]);
        assert!(near.take_error().expect("take").is_none());
        let _ = format!("{near:?} {:?}", near.stats());
    });
}

#[test]
fn vectored_writes_and_reads_keep_the_order() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        let parts = [payload(1, 1000), Vec::new(), payload(2, 100_000), payload(3, 1)];
        let whole = parts.concat();
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = slices.as_mut_slice();
                while !rest.is_empty() {
                    let n = near.write_vectored(rest).expect("write");
                    assert!(n > 0, "a vectored write makes progress");
                    IoSlice::advance_slices(&mut rest, n);
                }
            });
            let mut arrived = vec![0; whole.len()];
            far.read_exact(&mut arrived).expect("read");
            assert!(arrived == whole);
        });
    });
}

#[test]
fn all_conns_to_one_peer_share_one_connection() {
    within(30, || {
        let pair = Pair::new();
        let local = |conn: &Conn| conn.local_addr().expect("an address");
        let (first, _far) = pair.connect();
        for _ in 0..10 {
            let (next, _) = pair.connect();
            assert_eq!(local(&next), local(&first));
        }
        assert_eq!(pair.client.connected_peers(), [pair.server.peer_id()]);
        // In the other direction too: the listener dials back over the same one.
        let back = Listener::bind(&pair.client, "/back/1.0.0").expect("bind");
        let conn = Conn::connect(&pair.server, pair.client.peer_id(), "/back/1.0.0");
        let conn = conn.expect("a connected peer needs no address");
        assert_eq!(conn.peer_addr().expect("an address"), local(&first));
        back.accept().expect("accept");
    });
}

#[test]
fn conns_of_two_hosts_that_dial_each_other_at_once_all_work() {
    within(60, || {
        let (one, two) = (common::listening(), common::listening());
        let listeners = [&one, &two].map(|host| Listener::bind(host, PROTOCOL).expect("bind"));
        for listener in &listeners {
            let listener = listener.try_clone().expect("clone");
            thread::spawn(move || {
                for conn in listener.incoming() {
                    let conn = conn.expect("accept");
                    thread::spawn(move || common::echo(conn));
                }
            });
        }
        thread::scope(|scope| {
            for n in 0..16 {
                let (from, to) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
                scope.spawn(move || {
                    let to = common::address(to);
                    let mut conn = Conn::connect(from, to, PROTOCOL).expect("connect");
                    let sent = payload(n, 100_000);
                    let mut reader = conn.try_clone().expect("clone");
                    thread::scope(|scope| {
                        scope.spawn(|| conn.write_all(&sent).expect("write"));
                        let mut back = vec![0; sent.len()];
                        reader.read_exact(&mut back).expect("read");
                        assert!(back == sent);
                    });
                });
            }
        });
        for listener in listeners {
            listener.close();
        }
    });
}
