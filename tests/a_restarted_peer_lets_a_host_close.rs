//! A peer that was killed and came back with its key has left conns behind that nobody goes
//! on with. Its other end cannot know that, but does not keep its host from closing for
//! their sake, unless there is something that may be delivered still.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use common::{Cut, Wired, address, builder, eventually, read_all, within};
use pointsub::{Conn, Host, Keypair, Listener};

/// Two hosts of one key: the one has lost its connection, and its successor has another.
struct Peers {
    wired: Wired,
    lost: (Conn, Conn),
    successor: Host,
}

impl Peers {
    fn new() -> Peers {
        let key = Keypair::generate_ed25519();
        let client = || Host::builder().keypair(key.clone());
        let wired = Wired::between(builder(), client());
        let (near, mut far) = wired.connect();
        (&near).write_all(b"request").expect("write");
        far.read_exact(&mut [0; 7]).expect("the request");
        wired.proxy.refuse();
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || far.stats().losses == 1);
        Peers { wired, lost: (near, far), successor: client().build().expect("a host") }
    }

    /// It has a conn of its own for a while.
    fn come_and_go(&self) {
        let server = &self.wired.pair.server;
        let listener = Listener::bind(server, "/other").expect("bind");
        let near = Conn::connect(&self.successor, &*address(server), "/other").expect("connect");
        let (mut far, _) = listener.accept().expect("accept");
        near.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_all(&mut far).expect("its end"), b"");
        drop((near, far));
        // As long as a host that is alive is waited for.
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_conn_of_which_only_the_end_is_missing_is_not_waited_for() {
    for leaves in [false, true] {
        within(60, || {
            let peers = Peers::new();
            peers.come_and_go();
            if leaves {
                peers.successor.shutdown();
            }
            let closing = Instant::now();
            peers.wired.pair.server.shutdown();
            let took = closing.elapsed();
            assert!(took < Duration::from_secs(1), "leaves: {leaves}: {took:?}");
        });
    }
}

/// The first was alive all the time, and has the same key.
#[test]
fn what_is_not_delivered_yet_is_delivered_to_one_that_was_alive() {
    within(60, || {
        let mut peers = Peers::new();
        peers.lost.1.write_all(b"answer").expect("kept for later");
        peers.come_and_go();
        let Peers { wired, lost: (near, _far), .. } = &mut peers;
        thread::scope(|scope| {
            let closing = scope.spawn(|| wired.pair.server.shutdown());
            // It is waited for longer than one that has everything.
            thread::sleep(Duration::from_millis(1_500));
            assert!(!closing.is_finished());
            wired.proxy.listen_again();
            assert_eq!(read_all(near).expect("all of it"), b"answer");
        });
    });
}

/// It was connected before the other lost its connection: both are alive.
#[test]
fn a_second_process_that_was_there_before_is_no_successor() {
    within(60, || {
        let key = Keypair::generate_ed25519();
        let client = || Host::builder().keypair(key.clone());
        let wired = Wired::between(builder(), client());
        let (server, second) = (&wired.pair.server, client().build().expect("a host"));
        let listener = Listener::bind(server, "/other").expect("bind");
        let _there = Conn::connect(&second, &*address(server), "/other").expect("connect");
        let _accepted = listener.accept().expect("accept");
        let (mut near, mut far) = wired.connect();
        (&near).write_all(b"request").expect("write");
        far.read_exact(&mut [0; 7]).expect("the request");
        wired.proxy.refuse();
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || far.stats().losses == 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(far);
                server.shutdown();
            });
            // Longer than one is waited for that has a successor.
            thread::sleep(Duration::from_millis(1_500));
            wired.proxy.listen_again();
            assert_eq!(near.read(&mut [0]).expect("its end"), 0);
        });
    });
}
