//! The end of a host, whatever goes on: both hosts at once, in the middle of
//! connects, of traffic, from several threads. Nothing hangs, nothing stays behind,
//! and an end on purpose is not counted as a loss.

mod common;

use common::{PROTOCOL, Pair, address, dialling, echo, listening, within};
use pointsub::{Conn, ErrorCode, Host, Listener};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn both_hosts_may_shut_down_at_once_in_the_middle_of_traffic() {
    within(60, || {
        for round in 0..40 {
            let pair = Pair::plain();
            let (near, far) = pair.connect();
            let at_once = Barrier::new(4);
            thread::scope(|scope| {
                for conn in [&near, &far] {
                    scope.spawn(|| while (&*conn).write(&[7; 10_000]).is_ok() {});
                    scope.spawn(|| while matches!((&*conn).read(&mut [0; 9_000]), Ok(1..)) {});
                }
                // Two threads for one host: the second waits for the first.
                for host in [&pair.server, &pair.client, &pair.client, &pair.server] {
                    let (host, at_once) = (host.clone(), &at_once);
                    scope.spawn(move || {
                        at_once.wait();
                        let start = Instant::now();
                        host.shutdown();
                        // Far less than `linger`: each hears that the other ends.
                        assert!(start.elapsed() < Duration::from_secs(4), "round {round}");
                    });
                }
            });
            assert_eq!(pair.server.stats().connections, 0);
            assert_eq!(pair.client.stats().connections, 0);
        }
    });
}

#[test]
fn an_end_on_purpose_is_no_loss_at_either_side() {
    within(30, || {
        let pair = Pair::plain();
        let (near, far) = pair.connect();
        pair.client.shutdown();
        assert_eq!((&far).read(&mut [0; 9]).unwrap(), 0);
        drop((near, far));
        pair.server.shutdown();
        assert_eq!(pair.client.stats().connections_lost, 0);
        assert_eq!(pair.server.stats().connections_lost, 0);
    });
}

#[test]
fn connects_that_cross_the_end_of_their_host_return_and_leave_nothing() {
    within(60, || {
        let server = listening();
        let listener = Listener::bind(&server, PROTOCOL).unwrap();
        let accepting = listener.try_clone().unwrap();
        let serving = thread::spawn(move || accepting.serve(64, |conn, _| drop(echo(conn))));
        for round in 0..60 {
            let client = dialling();
            let started = Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        started.wait();
                        loop {
                            match connected(&client, &server).map_err(|e| e.kind()) {
                                Err(ErrorKind::NotConnected) => break,
                                // The server accepts them more slowly for a moment.
                                Ok(_) | Err(ErrorKind::ConnectionRefused) => {}
                                Err(e) => panic!("round {round}: {e}"),
                            }
                        }
                    });
                }
                started.wait();
                // At another point of the dial or the opening each time.
                (0..round * 4_000).for_each(|_| std::hint::spin_loop());
                let start = Instant::now();
                client.shutdown();
                assert!(start.elapsed() < Duration::from_secs(4), "round {round}");
            });
            assert_eq!(client.stats().connections, 0);
        }
        // Those that came in are known to be gone once their ends were read.
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.stats().connections > 0 {
            assert!(Instant::now() < deadline, "connections without a peer stay");
            thread::yield_now();
        }
        listener.close();
        serving.join().unwrap().unwrap();
    });
}

#[test]
fn a_connect_goes_on_when_another_with_less_patience_gave_up() {
    within(60, || {
        // It takes connections and says nothing, until it is gone.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = dialling().peer_id();
        let target = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", mute.local_addr().unwrap().port());
        for round in 0..20 {
            let client = dialling();
            thread::scope(|scope| {
                let target = target.as_str();
                for micros in [1, 50, 200] {
                    let host = &client;
                    let short = Duration::from_micros(micros * (round + 1));
                    scope.spawn(move || {
                        let result = Conn::connect_timeout(host, target, PROTOCOL, short);
                        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
                    });
                }
                let long = Duration::from_millis(60);
                let start = Instant::now();
                let result = Conn::connect_timeout(&client, target, PROTOCOL, long);
                assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
                assert!(start.elapsed() >= long, "round {round}: it had time left");
            });
        }
    });
}

#[test]
fn more_connects_than_may_be_unanswered_at_once_all_succeed() {
    within(60, || {
        let pair = Pair::plain();
        let accepting = pair.listener.try_clone().unwrap();
        let serving = thread::spawn(move || accepting.serve(400, |conn, _| drop(echo(conn))));
        thread::scope(|scope| {
            for n in 0..300u32 {
                let pair = &pair;
                scope.spawn(move || {
                    let mut conn = connected_patiently(&pair.client, &pair.server);
                    conn.write_all(&n.to_le_bytes()).unwrap();
                    let mut back = [0; 4];
                    conn.read_exact(&mut back).unwrap();
                    assert_eq!(back, n.to_le_bytes());
                });
            }
        });
        pair.listener.close();
        serving.join().unwrap().unwrap();
    });
}

fn connected(client: &Host, server: &Host) -> std::io::Result<Conn> {
    Conn::connect(client, address(server), PROTOCOL)
}

/// The accept queue holds 128 of one peer, and refuses the rest for the moment.
fn connected_patiently(client: &Host, server: &Host) -> Conn {
    loop {
        match connected(client, server) {
            Ok(conn) => return conn,
            Err(e) => assert_eq!(common::code(&e), ErrorCode::ConnectionRefused, "{e}"),
        }
    }
}

#[test]
fn a_connect_that_crosses_a_disconnect_goes_over_a_new_connection() {
    within(120, || {
        let pair = Pair::new();
        let (over, peer) = (AtomicBool::new(false), pair.client.peer_id());
        thread::scope(|scope| {
            let accepting = scope.spawn(|| pair.listener.incoming().count());
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    pair.server.disconnect(&peer);
                    thread::sleep(Duration::from_millis(30));
                }
            });
            let start = Instant::now();
            let mut connects = 0;
            // On a busy machine the accept queue fills, which is said in its figures.
            let mut refused = 0;
            let result = loop {
                if start.elapsed() >= Duration::from_secs(3) {
                    break Ok(());
                }
                match Conn::connect(&pair.client, address(&pair.server), PROTOCOL) {
                    Ok(_) => connects += 1,
                    Err(_) if pair.listener.stats().refused > refused => refused += 1,
                    Err(e) => break Err(e),
                }
            };
            over.store(true, SeqCst);
            pair.listener.close();
            eprintln!("{connects} connects, {} accepted", accepting.join().expect("no panic"));
            result.unwrap_or_else(|e| panic!("after {connects}: {e}"));
        });
    });
}
