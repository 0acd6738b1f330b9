//! A half-close, a drop, a shutdown of the host and a disconnect mean on a conn without
//! connection what they mean on any: what was written is delivered, only a peer that
//! has finished reads as the end, and nobody redials who has said that he leaves.

mod common;

use common::{
    Cut, ENDED, LOST, PROTOCOL, Ways, Wired, assert_kind, eventually, payload, read_all, within,
    write_until_error,
};
use pointsub::{Conn, HostBuilder};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

const LEN: usize = 200_000;

/// A wire that is broken, with a conn that has noticed it at both ends. In `before` it
/// stands still already: what is done then reaches nobody.
fn outage(wired: &Wired, before: impl FnOnce(&Conn, &Conn)) -> (Conn, Conn) {
    let (near, far) = wired.connect();
    wired.proxy.stall(Ways::Both);
    before(&near, &far);
    wired.proxy.cut(Cut::Reset);
    for conn in [&near, &far] {
        eventually("the loss is noticed", 5, || conn.stats().losses == 1);
    }
    (near, far)
}

fn impatient(host: HostBuilder) -> HostBuilder {
    host.resume_timeout(Duration::from_millis(1_500))
        .linger(Duration::from_millis(600))
        .keepalive(Duration::from_millis(100))
        .keepalive_timeout(Duration::from_millis(500))
}

/// Each end's handle, in turn.
fn both_ends(test: impl Fn(&Wired, Conn, Conn)) {
    for dialler_first in [true, false] {
        within(60, || {
            let wired = Wired::new();
            let (near, far) = outage(&wired, |_, _| ());
            if dialler_first { test(&wired, near, far) } else { test(&wired, far, near) }
        });
    }
}

#[test]
fn a_half_close_before_the_loss_is_delivered_behind_what_was_written() {
    for dialler_first in [true, false] {
        within(60, || {
            let wired = Wired::new();
            let sent = payload(1, LEN);
            let (near, far) = outage(&wired, |near, far| {
                let mut first = if dialler_first { near } else { far };
                first.write_all(&sent).expect("write");
                first.shutdown(Shutdown::Write).expect("shutdown");
            });
            let (first, second) = if dialler_first { (near, far) } else { (far, near) };
            wired.proxy.flow();
            half_closed(first, second, &sent);
        });
    }
}

#[test]
fn a_half_close_in_the_outage_is_delivered_behind_what_was_written() {
    both_ends(|wired, first, second| {
        let sent = payload(2, LEN);
        (&first).write_all(&sent).expect("write");
        first.shutdown(Shutdown::Write).expect("shutdown");
        assert_kind((&first).write(b"x"), &[ErrorKind::BrokenPipe]);
        wired.proxy.flow();
        half_closed(first, second, &sent);
    });
}

/// The kernel has nothing of what is said in an outage: a flush waits for the next
/// connection, also behind the end, and no longer than it may.
#[test]
fn a_flush_behind_the_end_waits_for_the_outage_to_end() {
    both_ends(|wired, mut first, second| {
        let sent = payload(4, LEN);
        first.write_all(&sent).expect("write");
        first.shutdown(Shutdown::Write).expect("shutdown");
        first.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let since = Instant::now();
        assert_kind(first.flush(), &[ErrorKind::WouldBlock, ErrorKind::TimedOut]);
        assert!(since.elapsed() < Duration::from_secs(3));
        first.set_write_timeout(None).expect("timeout");
        wired.proxy.flow();
        first.flush().expect("flush");
        half_closed(first, second, &sent);
    });
}

/// The second reads all of it and the end, and its own direction goes on.
#[track_caller]
fn half_closed(mut first: Conn, mut second: Conn, sent: &[u8]) {
    assert!(read_all(&mut second).expect("to the end") == sent);
    assert_eq!(second.read(&mut [0]).expect("the end, for ever"), 0);
    let answer = payload(3, 3 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            second.write_all(&answer).expect("write");
            second.shutdown(Shutdown::Write).expect("shutdown");
        });
        assert!(read_all(&mut first).expect("to the end") == answer);
    });
    drop(second);
    assert_eq!(first.read(&mut [0]).expect("the end, for ever"), 0);
}

/// A half-close and cuts again and again until it must have gone through.
#[test]
fn ends_get_through_cuts_at_any_moment() {
    within(120, || {
        let mut dice = common::Dice::new();
        let wired = Wired::new();
        for round in 0..40 {
            let (near, far) = wired.connect();
            let (near, far) = if round % 2 == 0 { (near, far) } else { (far, near) };
            let sent = payload(round, dice.below(3_000) as usize);
            (&near).write_all(&sent).expect("write");
            near.shutdown(Shutdown::Write).expect("shutdown");
            thread::sleep(Duration::from_micros(dice.below(1_500)));
            wired.proxy.cut(Cut::Reset);
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(
                        read_all(&mut { far.try_clone().expect("clone") }).expect("end") == sent
                    );
                    (&far).write_all(&sent).expect("write");
                    drop(far);
                });
                assert!(read_all(&mut { near }).expect("end") == sent, "{round}");
            });
        }
    });
}

#[test]
fn shutdown_of_reading_discards_what_comes_afterwards() {
    both_ends(|wired, first, second| {
        first.shutdown(Shutdown::Read).expect("shutdown");
        assert_eq!((&first).read(&mut [0]).expect("no more"), 0);
        thread::scope(|scope| {
            scope.spawn(|| (&second).write_all(&payload(4, 8 << 20)).expect("nobody blocks it"));
            eventually("it waits for the wire", 5, || second.stats().bytes_sent > 100_000);
            wired.proxy.flow();
        });
        (&first).write_all(b"still there").expect("write");
        let mut arrived = [0; 11];
        (&second).read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"still there");
        assert_eq!((&first).read(&mut [0]).expect("no more"), 0);
    });
}

#[test]
fn shutdown_wakes_threads_that_are_blocked() {
    both_ends(|_, first, _second| {
        thread::scope(|scope| {
            let reader = scope.spawn(|| (&first).read(&mut [0]));
            let writer = scope.spawn(|| write_until_error(&mut { first.try_clone().unwrap() }));
            // Both are in their calls by then, or soon after.
            thread::sleep(Duration::from_millis(200));
            first.shutdown(Shutdown::Both).expect("shutdown");
            assert_eq!(reader.join().expect("no panic").expect("no more"), 0);
            let error = writer.join().expect("no panic");
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        });
    });
}

#[test]
fn a_drop_delivers_what_was_written_and_then_the_end() {
    both_ends(|wired, first, mut second| {
        let sent = payload(5, LEN);
        (&first).write_all(&sent).expect("write");
        drop(first);
        wired.proxy.flow();
        assert!(read_all(&mut second).expect("to the end") == sent);
        let error = write_until_error(&mut second);
        assert!(ENDED.contains(&error.kind()), "{error}");
    });
}

/// Conn and host go; the end of the host waits for the wire.
#[test]
fn a_drop_of_the_host_too_delivers_what_was_written() {
    within(60, || {
        let wired = Wired::new();
        let (near, mut far) = outage(&wired, |_, _| ());
        let sent = payload(6, LEN);
        (&near).write_all(&sent).expect("write");
        let Wired { pair, proxy } = wired;
        let common::Pair { client, server, listener } = pair;
        let leaving = thread::spawn(move || {
            drop(client);
            drop(near);
        });
        thread::sleep(Duration::from_millis(200));
        assert!(!leaving.is_finished(), "it waits");
        proxy.flow();
        assert!(read_all(&mut far).expect("to the end") == sent);
        leaving.join().expect("no panic");
        drop((server, listener));
    });
}

#[test]
fn a_shutdown_of_either_host_delivers_what_was_written() {
    for client_leaves in [true, false] {
        within(60, || {
            let wired = Wired::new();
            let (near, far) = outage(&wired, |_, _| ());
            let sent = payload(7, LEN);
            let (leaver, mut first, mut second) = if client_leaves {
                (&wired.pair.client, near, far)
            } else {
                (&wired.pair.server, far, near)
            };
            first.write_all(&sent).expect("write");
            thread::scope(|scope| {
                let start = Instant::now();
                let leaving = scope.spawn(|| leaver.shutdown());
                thread::sleep(Duration::from_millis(200));
                wired.proxy.flow();
                if client_leaves {
                    assert!(read_all(&mut second).expect("to the end") == sent);
                } else {
                    // A host that shuts down need not take new connections: then what
                    // it could not deliver any more is an error there, never an end.
                    let mut arrived = Vec::new();
                    match second.read_to_end(&mut arrived) {
                        Ok(_) => assert!(arrived == sent),
                        Err(e) => drop(assert_kind::<()>(Err(e), LOST)),
                    }
                }
                leaving.join().expect("no panic");
                assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
            });
            assert!(first.write(b"x").is_err() && first.read(&mut [0]).is_err());
        });
    }
}

/// Nobody redials any more then, and the peer never reads it as an end.
#[test]
fn a_drop_whose_wire_stays_broken_is_over_after_linger() {
    within(60, || {
        let wired = Wired::of(impatient);
        let (near, mut far) = outage(&wired, |_, _| ());
        (&near).write_all(&payload(8, LEN)).expect("write");
        let start = Instant::now();
        drop(near);
        assert!(start.elapsed() < Duration::from_millis(300), "the drop does not block");
        eventually("it is over", 10, || wired.pair.client.stats().conns_waiting == 0);
        assert!(start.elapsed() < Duration::from_millis(1_400), "{:?}", start.elapsed());
        let dials = wired.proxy.accepted();
        assert_kind(far.read(&mut [0]), LOST);
        assert_kind(far.write(b"x"), ENDED);
        assert_eq!(wired.proxy.accepted(), dials, "nobody redials");
    });
}

#[test]
fn the_end_of_a_host_waits_for_a_broken_wire_no_longer_than_linger() {
    for by_drop in [true, false] {
        within(60, || {
            let wired = Wired::of(impatient);
            let (near, mut far) = outage(&wired, |_, _| ());
            (&near).write_all(&payload(9, LEN)).expect("write");
            let Wired { pair, proxy } = wired;
            let common::Pair { client, server, listener } = pair;
            let start = Instant::now();
            if by_drop {
                drop(near);
                drop(client);
            } else {
                client.shutdown();
            }
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(500), "{took:?}");
            assert!(took < Duration::from_secs(4), "{took:?}");
            let dials = proxy.accepted();
            assert_kind(far.read(&mut [0]), LOST);
            assert_eq!(proxy.accepted(), dials, "nobody redials");
            drop((server, listener));
        });
    }
}

/// The one who dialled says it: he never redials.
#[test]
fn a_disconnect_never_redials() {
    within(60, || {
        let wired = Wired::of(impatient);
        let (mut near, mut far) = outage(&wired, |_, _| ());
        let start = Instant::now();
        wired.pair.client.disconnect(&wired.pair.server.peer_id());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        let error = near.read(&mut [0]).expect_err("it has ended");
        assert!(ENDED.contains(&error.kind()) || error.kind() == std::io::ErrorKind::NotConnected);
        let dials = wired.proxy.accepted();
        wired.proxy.flow();
        assert_kind(far.read(&mut [0]), LOST);
        assert_eq!(wired.proxy.accepted(), dials, "nobody redials");
    });
}

/// On a whole wire a disconnect is an end that no redial follows.
#[test]
fn a_disconnect_of_a_whole_wire_is_no_loss() {
    for by_client in [true, false] {
        within(60, || {
            let wired = Wired::of(impatient);
            let (near, far) = wired.connect();
            let (leaver, peer, first, mut second) = if by_client {
                (&wired.pair.client, &wired.pair.server, near, far)
            } else {
                (&wired.pair.server, &wired.pair.client, far, near)
            };
            (&first).write_all(&payload(10, LEN)).expect("write");
            leaver.disconnect(&peer.peer_id());
            assert!(read_all(&mut second).expect("to the end") == payload(10, LEN));
            assert_eq!(wired.proxy.accepted(), 1, "nobody redials");
            for host in [leaver, peer] {
                assert_eq!((host.stats().conns_lost, host.stats().conns_waiting), (0, 0));
            }
        });
    }
}

/// The peer's last handle is dropped in the outage, with bytes unread.
#[test]
fn a_peer_that_dropped_its_handle_is_noticed_after_the_resume() {
    both_ends(|wired, mut first, second| {
        first.write_all(&payload(11, 1_000)).expect("write");
        drop(second);
        wired.proxy.flow();
        assert_eq!(first.read(&mut [0]).expect("the end"), 0);
        let error = write_until_error(&mut first);
        assert!(ENDED.contains(&error.kind()), "{error}");
    });
}

/// A conn is opened on a connection that is there, 4 KiB are echoed, both ends finish:
/// with a cut after any number of bytes, and another one while it is resumed.
#[test]
fn a_short_exchange_survives_a_cut_at_any_byte() {
    within(120, || {
        let mut dice = common::Dice::new();
        let wired = Wired::new();
        let serving = wired.pair.listener.try_clone().expect("clone");
        let server = thread::spawn(move || {
            // Where a connect failed it may leave a conn without a peer.
            let _ = serving.serve(200, |conn, _| drop(common::echo(conn)));
        });
        let server_id = wired.pair.server.peer_id();
        let sent = payload(12, 4096);
        let mut failed = 0;
        for round in 0..150 {
            wired.pair.client.add_address(server_id, wired.address().parse().expect("an address"));
            wired.pair.client.ping(&server_id).expect("a connection");
            // 9 KiB are all that is carried; a resume begins with 2 KiB.
            let first = if round < 50 { dice.below(400) } else { dice.below(9_500) };
            wired.proxy.cut_after(&[first + 1, dice.below(2_500) + 1], Cut::Reset);
            let mut near = match Conn::connect(&wired.pair.client, wired.address(), PROTOCOL) {
                Ok(near) => near,
                // The second cut came into the handshake of the connect's own dial.
                Err(e) if LOST.contains(&e.kind()) && first < 400 => {
                    failed += 1;
                    wired.proxy.cut_after(&[], Cut::Reset);
                    continue;
                }
                Err(e) => panic!("{first}: {e}"),
            };
            near.write_all(&sent).expect("write");
            near.shutdown(Shutdown::Write).expect("shutdown");
            let back = read_all(&mut near).unwrap_or_else(|e| panic!("{first}: {e}"));
            assert!(back == sent, "{first}: {} bytes came back", back.len());
            wired.proxy.cut_after(&[], Cut::Reset);
        }
        eprintln!("{} cuts, {failed} failed to connect", wired.proxy.cuts());
        assert!(failed < 50);
        wired.pair.listener.close();
        wired.pair.server.shutdown();
        server.join().expect("no panic");
    });
}
