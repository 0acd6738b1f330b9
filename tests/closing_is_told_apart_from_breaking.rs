//! How a stream ends: an end is `Ok(0)`, a cut is an error, and never the one
//! for the other.

mod common;

use common::{
    Cut, ENDED, LOST, Pair, Proxy, assert_carries, assert_kind, payload, read_all, within,
    write_until_error,
};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;

#[test]
fn peer_closed_or_shut_down_its_write_side_reads_drain_then_end_for_ever() {
    within(30, || {
        let pair = Pair::new();
        for closes in [true, false] {
            let (mut near, mut far) = pair.connect();
            let sent = payload(1, 100_000);
            far.write_all(&sent).expect("write");
            let kept = if closes {
                drop(far);
                None
            } else {
                far.shutdown(Shutdown::Write).expect("shutdown");
                Some(far)
            };
            assert!(read_all(&mut near).expect("what was sent") == sent);
            for _ in 0..3 {
                assert_eq!(near.read(&mut [0; 16]).expect("the end stays"), 0);
            }
            drop(kept);
        }
    });
}

#[test]
fn peers_last_handle_dropped_then_a_write_fails() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, far) = pair.connect();
        let clone = far.try_clone().expect("clone");
        drop(far);
        let mut clone = clone;
        assert_carries(&mut near, &mut clone, b"a clone keeps the stream open");
        drop(clone);
        assert_kind::<()>(Err(write_until_error(&mut near)), ENDED);
        assert_kind(near.write(b"x"), ENDED);
    });
}

#[test]
fn a_reset_after_the_peers_fin_fails_writes_only() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        let sent = payload(2, 50_000);
        far.write_all(&sent).expect("write");
        far.shutdown(Shutdown::Write).expect("FIN");
        drop(far);
        // Data for a dropped stream is answered with a reset, behind the FIN.
        assert_kind::<()>(Err(write_until_error(&mut near)), ENDED);
        assert!(read_all(&mut near).expect("reads drain") == sent);
        assert_eq!(near.read(&mut [0; 16]).expect("and end"), 0);
        assert_kind(near.write(b"x"), ENDED);
    });
}

#[test]
fn the_dropper_had_left_bytes_unread_and_what_it_sent_is_delivered() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        near.write_all(&payload(3, 200_000)).expect("write");
        assert_eq!(far.peek(&mut [0]).expect("it has arrived"), 1);
        let sent = payload(4, 200_000);
        far.write_all(&sent).expect("write");
        drop(far);
        assert!(read_all(&mut near).expect("all of it") == sent);
    });
}

#[test]
fn shutdown_read_ends_blocked_buffered_and_later_reads() {
    within(30, || {
        let pair = Pair::new();
        let (near, mut far) = pair.connect();
        // Buffered: it has arrived and nobody will see it.
        far.write_all(b"buffered").expect("write");
        assert_eq!(near.peek(&mut [0]).expect("it has arrived"), 1);
        near.shutdown(Shutdown::Read).expect("shutdown");
        assert_eq!((&near).read(&mut [0; 16]).expect("buffered"), 0);
        // Later: discarded and credited, so the peer is not held up.
        far.write_all(&payload(5, 20 << 20)).expect("more than any window");
        assert_eq!((&near).read(&mut [0; 16]).expect("later"), 0);
        // The other direction does not mind.
        (&near).write_all(b"still here").expect("write");
        let mut arrived = [0; 10];
        far.read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"still here");

        let (blocked, _far) = pair.connect();
        thread::scope(|scope| {
            let reader = scope.spawn(|| (&blocked).read(&mut [0; 16]));
            blocked.shutdown(Shutdown::Read).expect("shutdown");
            assert_eq!(reader.join().expect("no panic").expect("blocked"), 0);
        });
    });
}

#[test]
fn shutdown_write_ends_the_peers_reads_and_not_ours() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        near.write_all(b"the last").expect("write");
        near.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_all(&mut far).expect("to the end"), b"the last");
        assert_kind(near.write(b"x"), &[ErrorKind::BrokenPipe]);
        assert_carries(&mut far, &mut near, &payload(6, 1 << 20));
    });
}

#[test]
fn shutdown_wakes_a_writer_that_waits_on_another_clone() {
    within(30, || {
        let pair = Pair::new();
        let (near, _far) = pair.connect();
        let mut writer = near.try_clone().expect("clone");
        let blocked = thread::spawn(move || write_until_error(&mut writer));
        near.shutdown(Shutdown::Write).expect("shutdown");
        let error = blocked.join().expect("no panic");
        assert_kind::<()>(Err(error), &[ErrorKind::BrokenPipe]);
    });
}

#[test]
fn the_connection_is_lost_and_a_plain_conn_says_so_after_what_had_arrived() {
    within(60, || {
        let pair = Pair::plain();
        let proxy = Proxy::to(&pair.server);
        let (mut near, mut far) = pair.connect_at(&proxy.address(&pair.server));
        far.write_all(&payload(7, 1000)).expect("write");
        let mut arrived = vec![0; 1000];
        near.read_exact(&mut arrived[..1]).expect("the frame is here");
        proxy.cut(Cut::Close);
        near.read_exact(&mut arrived[1..]).expect("what had arrived");
        assert!(arrived == payload(7, 1000));
        assert_kind(near.read(&mut [0; 16]), LOST);
        assert_kind::<()>(Err(write_until_error(&mut near)), ENDED);
        assert_kind(far.read(&mut [0; 16]), LOST);
    });
}

#[test]
fn the_connection_is_lost_and_a_fin_that_had_arrived_stays_an_end() {
    within(60, || {
        let pair = Pair::plain();
        let proxy = Proxy::to(&pair.server);
        let (mut near, far) = pair.connect_at(&proxy.address(&pair.server));
        far.shutdown(Shutdown::Write).expect("FIN");
        assert_eq!(near.read(&mut [0; 16]).expect("the end"), 0);
        proxy.cut(Cut::Close);
        assert_kind::<()>(Err(write_until_error(&mut near)), ENDED);
        assert_eq!(near.read(&mut [0; 16]).expect("the end stays"), 0);
    });
}
