//! A write that returned is a promise: the bytes arrive, also when all handles
//! are dropped right behind it and `main` returns.

mod common;

use common::{
    Cut, LATE, Pair, Ways, Wired, assert_kind, builder, child, dialling, eventually, listening,
    payload, role, within,
};
use pointsub::{Conn, Host, Listener};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const CONNS: usize = 4;
const LOAD: usize = 8 << 20;

#[test]
fn bytes_whose_write_returned_are_delivered_when_all_handles_are_dropped() {
    within(60, || {
        let server = listening();
        let listener = Listener::bind(&server, "/sink/1.0.0").expect("bind");
        let address = common::address(&server);
        let sent = payload(1, LOAD);
        thread::scope(|scope| {
            scope.spawn(|| {
                let client = dialling();
                let mut conn = Conn::connect(&client, &*address, "/sink/1.0.0").expect("connect");
                conn.write_all(&sent).expect("write");
                // Host and conn go here; the drop blocks until all is delivered.
            });
            let (mut conn, _) = listener.accept().expect("accept");
            let arrived = common::read_all(&mut conn).expect("to the end");
            assert!(arrived == sent, "{} of {LOAD} bytes", arrived.len());
        });
    });
}

#[test]
fn shutdown_of_a_host_delivers_what_was_written() {
    within(60, || ends_by(|pair, _| pair.client.shutdown()));
}

#[test]
fn disconnect_of_a_peer_delivers_what_was_written() {
    within(60, || {
        ends_by(|pair, _| {
            pair.client.disconnect(&pair.server.peer_id());
        });
    });
}

#[test]
fn the_end_waits_no_longer_than_linger_for_a_peer_that_does_not_read() {
    within(60, || {
        let linger = Duration::from_millis(500);
        let client = Host::builder().linger(linger).build().expect("a host");
        let pair = Pair::of(listening(), client);
        let (mut near, _unread) = pair.connect();
        near.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
        let chunk = payload(2, 64 * 1024);
        let full = loop {
            if let Err(error) = near.write(&chunk) {
                break error;
            }
        };
        assert_kind::<()>(Err(full), LATE);
        let start = Instant::now();
        pair.client.shutdown();
        let waited = start.elapsed();
        assert!(waited < linger + Duration::from_secs(5), "it waited for {waited:?}");
    });
}

/// A child process writes 8 MiB on each of several conns while the peer sends
/// too, reads none of that, drops everything and returns from `main`.
#[test]
fn a_flush_of_bytes_that_are_lost_says_so() {
    within(60, || {
        for _ in 0..5 {
            let (wired, conns) = on_a_full_wire();
            let flush = |near: &Conn| {
                // The kernel goes on to take some.
                fill(near);
                (&mut &*near).flush()
            };
            thread::scope(|scope| {
                let flushes: Vec<_> =
                    conns.iter().map(|(near, _)| scope.spawn(|| flush(near))).collect();
                wired.proxy.cut(Cut::Reset);
                for flush in flushes {
                    let result = flush.join().expect("no panic");
                    assert_kind(result, &[ErrorKind::ConnectionReset]);
                }
            });
        }
    });
}

#[test]
fn a_flush_says_so_where_the_peer_left_before_it_had_everything() {
    within(60, || {
        for _ in 0..3 {
            let wired = Wired::new();
            let (mut near, mut far) = wired.connect();
            wired.proxy.refuse();
            wired.proxy.cut(Cut::Reset);
            eventually("the loss", 10, || near.stats().losses == 1 && far.stats().losses == 1);
            near.write_all(&payload(1, 900_000)).expect("kept");
            wired.proxy.listen_again();
            eventually("a window that is full", 10, || far.stats().unread >= 256 * 1024);
            wired.pair.server.disconnect(&wired.pair.client.peer_id());
            near.set_nonblocking(true).expect("nonblocking");
            let ended = |e: ErrorKind| e != ErrorKind::WouldBlock;
            eventually("the end", 10, || near.write(b"x").is_err_and(|e| ended(e.kind())));
            near.set_nonblocking(false).expect("blocking");
            let error = near.flush().expect_err("most was never sent");
            common::code(&error);
            let mut all = Vec::new();
            let _ = far.read_to_end(&mut all);
            assert!(all.len() < 900_000, "{}", all.len());
        }
    });
}

#[test]
fn a_flush_waits_for_what_was_written_before_a_shutdown() {
    within(60, || {
        let (wired, conns) = on_a_full_wire();
        let (last, _) = conns.last().expect("a conn");
        fill(last);
        last.shutdown(Shutdown::Write).expect("shutdown");
        last.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        assert_kind((&mut &*last).flush(), LATE);
        wired.proxy.flow();
        last.set_write_timeout(None).expect("no timeout");
        (&mut &*last).flush().expect("the kernel has it");
    });
}

#[test]
fn a_process_that_writes_drops_everything_and_returns_from_main_loses_nothing() {
    const NAME: &str = "a_process_that_writes_drops_everything_and_returns_from_main_loses_nothing";
    if let Some((_, address)) = role() {
        return within(60, || write_and_leave(&address));
    }
    within(120, || {
        let server = listening();
        let listener = Listener::bind(&server, "/leave/1.0.0").expect("bind");
        let mut leaver = child(NAME, "leaver", &common::address(&server)).spawn().expect("spawn");
        thread::scope(|scope| {
            for _ in 0..CONNS {
                let (conn, _) = listener.accept().expect("accept");
                let sender = conn.try_clone().expect("clone");
                // Sends until the child is gone.
                scope.spawn(move || common::write_until_error(&mut { sender }));
                scope.spawn(move || {
                    let mut conn = conn;
                    let mut seed = [0];
                    conn.read_exact(&mut seed).expect("which conn it is");
                    let arrived = common::read_all(&mut conn).expect("to the end, not to a cut");
                    assert_eq!(arrived.len(), LOAD, "of conn {}", seed[0]);
                    assert!(arrived == payload(seed[0].into(), LOAD), "conn {}", seed[0]);
                });
            }
        });
        assert!(leaver.wait().expect("wait").success());
    });
}

fn write_and_leave(address: &str) {
    let host = dialling();
    let conns: Vec<_> = (0..CONNS)
        .map(|_| Conn::connect(&host, address, "/leave/1.0.0").expect("connect"))
        .collect();
    thread::scope(|scope| {
        for (seed, conn) in (0u8..).zip(&conns) {
            scope.spawn(move || {
                let mut conn = conn;
                conn.write_all(&[seed]).expect("write");
                conn.write_all(&payload(seed.into(), LOAD)).expect("write");
            });
        }
    });
    drop(host);
    drop(conns);
}

/// Plain conns over a connection on which nothing moves, nor fits into the kernel.
fn on_a_full_wire() -> (Wired, Vec<(Conn, Conn)>) {
    let wired = Wired::of(|host| host.resumable(false));
    let conns: Vec<_> = (0..120).map(|_| wired.pair.connect_at(&wired.address())).collect();
    wired.proxy.stall(Ways::Both);
    conns.iter().for_each(|(near, _)| fill(near));
    (wired, conns)
}

/// Writes until nothing more is taken.
fn fill(near: &Conn) {
    near.set_nonblocking(true).expect("nonblocking");
    while (&mut &*near).write(&[7; 65_536]).is_ok() {}
    near.set_nonblocking(false).expect("blocking");
}

/// Writes, ends the client's side by `end`, and sees all of it arrive.
fn ends_by(end: impl Fn(&Pair, &Conn)) {
    let pair = Pair::of(builder().build().expect("a host"), dialling());
    let (mut near, mut far) = pair.connect();
    let (done, arrived) = mpsc::channel();
    let reader = thread::spawn(move || done.send(common::read_all(&mut far)));
    let sent = payload(3, LOAD);
    near.write_all(&sent).expect("write");
    end(&pair, &near);
    let arrived = arrived.recv().expect("a result").expect("to the end, not to a cut");
    assert!(arrived == sent, "{} of {LOAD} bytes", arrived.len());
    reader.join().expect("no panic").expect("sent");
    assert!(near.write(b"x").is_err(), "the conn has ended");
}
