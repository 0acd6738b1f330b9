//! `Listener` keeps the promises of `std::net::TcpListener`, for a protocol.

mod common;

use common::{Cut, LOST, PROTOCOL, Pair, Proxy, address, assert_kind, dialling, listening, within};
use pointsub::{Conn, Listener};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_protocol_already_bound_on_this_host_is_addr_in_use() {
    within(30, || {
        let pair = Pair::new();
        let its_own = ["/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/pointsub/resume/1.0.0"];
        for taken in [PROTOCOL].iter().chain(&its_own) {
            assert_kind(Listener::bind(&pair.server, taken), &[ErrorKind::AddrInUse]);
        }
        let other = Listener::bind(&pair.server, "/other/1.0.0").expect("another protocol");
        assert_eq!(other.protocol(), "/other/1.0.0");
        drop(other);
        Listener::bind(&pair.server, "/other/1.0.0").expect("free again");
    });
}

#[test]
fn conns_wait_unaccepted_in_order_and_work_once_accepted() {
    within(30, || {
        let pair = Pair::new();
        let target = address(&pair.server);
        let near: Vec<_> = (0..20u8)
            .map(|n| {
                let mut conn = Conn::connect(&pair.client, &*target, PROTOCOL).expect("connect");
                conn.write_all(&[n]).expect("write before the accept");
                conn
            })
            .collect();
        for n in 0..20 {
            let (mut conn, peer) = pair.listener.accept().expect("accept");
            let mut first = [0];
            conn.read_exact(&mut first).expect("read");
            assert_eq!((first[0], peer), (n, pair.client.peer_id()));
        }
        drop(near);
    });
}

#[test]
fn beyond_256_waiting_conns_128_of_one_peer_a_connect_is_refused() {
    within(60, || {
        let server = listening();
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let target = address(&server);
        let [one, two, three] = [dialling(), dialling(), dialling()];
        let mut waiting = Vec::new();
        for client in [&one, &two] {
            for _ in 0..128 {
                waiting.push(Conn::connect(client, &*target, PROTOCOL).expect("connect"));
            }
            let refused = Conn::connect(client, &*target, PROTOCOL);
            assert_kind(refused, &[ErrorKind::ConnectionRefused]);
        }
        let refused = Conn::connect(&three, &*target, PROTOCOL);
        assert_kind(refused, &[ErrorKind::ConnectionRefused]);
        listener.accept().expect("accept");
        waiting.push(Conn::connect(&three, &*target, PROTOCOL).expect("there is room again"));
    });
}

#[test]
fn conns_that_nobody_accepted_are_reset_with_their_listener() {
    within(30, || {
        let Pair { server, client, listener } = Pair::new();
        let mut conn = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
        drop(listener);
        assert_kind(conn.read(&mut [0; 16]), LOST);
        let refused = Conn::connect(&client, address(&server), PROTOCOL);
        assert_kind(refused, &[ErrorKind::ConnectionRefused]);
    });
}

#[test]
fn close_ends_blocked_and_later_accepts_and_incoming() {
    within(30, || {
        let pair = Pair::new();
        let clone = pair.listener.try_clone().expect("clone");
        thread::scope(|scope| {
            let accept = scope.spawn(|| pair.listener.accept().map(drop));
            let incoming = scope.spawn(|| pair.listener.incoming().count());
            clone.close();
            assert_kind(accept.join().expect("no panic"), &[ErrorKind::NotConnected]);
            assert_eq!(incoming.join().expect("no panic"), 0);
        });
        assert_kind(clone.accept().map(drop), &[ErrorKind::NotConnected]);
        assert!(clone.into_incoming().next().is_none());
    });
}

#[test]
fn accepted_conns_outlive_their_listener() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        let Pair { listener, server: _server, client: _client } = pair;
        listener.close();
        drop(listener);
        common::assert_carries(&mut near, &mut far, b"still here");
    });
}

#[test]
fn a_non_blocking_listener_would_block_and_its_conns_block() {
    within(30, || {
        let pair = Pair::new();
        pair.listener.set_nonblocking(true).expect("set");
        let error = assert_kind(pair.listener.accept(), &[ErrorKind::WouldBlock]);
        assert!(error.get_ref().is_none(), "a bare WouldBlock: {error:?}");
        let mut near =
            Conn::connect(&pair.client, address(&pair.server), PROTOCOL).expect("connect");
        // A connect succeeds once the peer's listener has it.
        let (mut far, _) = pair.listener.accept().expect("it waits there");
        let reader = thread::spawn(move || far.read_exact(&mut [0]));
        near.write_all(b"x").expect("write");
        reader.join().expect("no panic").expect("it blocked until the byte came");
    });
}

#[test]
fn serve_runs_a_thread_per_conn_at_most_max_at_once_and_waits_for_them() {
    const MAX: usize = 4;
    within(60, || {
        let pair = Pair::new();
        let target = address(&pair.server);
        let (now, most, done) = (counter(), counter(), counter());
        let all_busy = Arc::new(Barrier::new(MAX + 1));
        let serving = {
            let listener = pair.listener.try_clone().expect("clone");
            let (now, most, done) = (now.clone(), most.clone(), done.clone());
            let all_busy = all_busy.clone();
            thread::spawn(move || {
                let _ = listener.serve(MAX, move |mut conn: Conn, _peer| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut first = [0];
                    conn.read_exact(&mut first).expect("read");
                    if first == *b"b" {
                        all_busy.wait();
                    }
                    let _ = conn.read(&mut [0]);
                    now.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            })
        };
        let mut conns: Vec<_> = (0..3 * MAX)
            .map(|n| {
                let mut conn = Conn::connect(&pair.client, &*target, PROTOCOL).expect("connect");
                conn.write_all(if n < MAX { b"b" } else { b"x" }).expect("write");
                conn
            })
            .collect();
        all_busy.wait();
        assert_eq!(most.load(Ordering::SeqCst), MAX);
        let kept = conns.split_off(2 * MAX);
        drop(conns);
        // The last MAX are being served when the listener closes; it waits for them.
        while done.load(Ordering::SeqCst) < 2 * MAX || now.load(Ordering::SeqCst) < MAX {
            thread::yield_now();
        }
        pair.listener.close();
        drop(kept);
        serving.join().expect("no panic");
        assert_eq!((most.load(Ordering::SeqCst), done.load(Ordering::SeqCst)), (MAX, 3 * MAX));
    });
}

#[test]
fn the_log_names_every_conn_that_is_accepted_however_it_is() {
    struct Accepted(AtomicUsize);
    impl log::Log for Accepted {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let named = record.key_values().get("protocol".into());
            if named.is_some_and(|name| name.to_string() == "/logged/1.0.0") {
                let accepted = record.args().to_string() == "stream accepted";
                self.0.fetch_add(accepted.into(), Ordering::SeqCst);
            }
        }
        fn flush(&self) {}
    }
    static ACCEPTED: Accepted = Accepted(AtomicUsize::new(0));
    within(30, || {
        log::set_logger(&ACCEPTED).expect("the only logger");
        log::set_max_level(log::LevelFilter::Debug);
        let pair = Pair::new();
        let listener = Listener::bind(&pair.server, "/logged/1.0.0").expect("bind");
        let connect = || Conn::connect(&pair.client, address(&pair.server), "/logged/1.0.0");
        let _accepted = (connect().expect("connect"), listener.accept().expect("accept"));
        let _incoming = (connect().expect("connect"), listener.incoming().next());
        let _served = connect().expect("connect");
        listener.serve(1, |_, _| listener.close()).expect("served");
        assert_eq!(ACCEPTED.0.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn several_threads_accept_from_one_listener() {
    within(60, || {
        let pair = Pair::new();
        let target = address(&pair.server);
        let (accepted, seen) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..4 {
                let listener = pair.listener.try_clone().expect("clone");
                let accepted = accepted.clone();
                scope.spawn(move || {
                    for conn in listener.incoming() {
                        let mut number = [0];
                        conn.expect("accept").read_exact(&mut number).expect("read");
                        accepted.send(number[0]).expect("the test listens");
                    }
                });
            }
            for n in 0..100 {
                let mut conn = Conn::connect(&pair.client, &*target, PROTOCOL).expect("connect");
                conn.write_all(&[n]).expect("write");
            }
            let mut numbers: Vec<_> = (0..100).map(|_| seen.recv().expect("a number")).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..100), "each exactly once");
            pair.listener.close();
        });
    });
}

#[test]
fn local_addr_is_where_the_host_listens() {
    within(30, || {
        let pair = Pair::new();
        let local = pair.listener.local_addr().expect("an address");
        assert_eq!(local, pair.server.listen_addrs()[0]);
        let _ = format!("{:?} {:?}", pair.listener, pair.listener.stats());
    });
}

fn counter() -> Arc<AtomicUsize> {
    Arc::default()
}

#[test]
fn a_conn_that_was_lost_while_it_waited_is_accepted_and_says_so() {
    within(60, || {
        let pair = Pair::plain();
        let mut near = Conn::connect(&pair.client, address(&pair.server), PROTOCOL);
        near.as_mut().expect("connect").write_all(b"before the end").expect("write");
        let proxy = Proxy::to(&pair.server);
        let other = dialling();
        let lost = Conn::connect(&other, &proxy.address(&pair.server)[..], PROTOCOL);
        let mut lost = lost.expect("connect");
        lost.write_all(b"before the cut").expect("write");
        let start = Instant::now();
        while pair.server.stats().bytes_received == 0 || pair.listener.stats().waiting < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "they do not come");
        }
        thread::sleep(Duration::from_millis(100));
        proxy.cut(Cut::Close);
        while pair.server.stats().connections > 1 {
            assert!(start.elapsed() < Duration::from_secs(20), "the cut is not seen");
            thread::sleep(Duration::from_millis(5));
        }
        let (mut first, _) = pair.listener.accept().expect("accept");
        drop(near);
        assert_eq!(common::read_all(&mut first).expect("the whole"), b"before the end");
        let (mut second, peer) = pair.listener.accept().expect("accept");
        assert_eq!(peer, other.peer_id());
        let mut arrived = [0; 14];
        second.read_exact(&mut arrived).expect("what had arrived");
        assert_eq!(&arrived, b"before the cut");
        assert_kind(second.read(&mut [0]), LOST);
    });
}
