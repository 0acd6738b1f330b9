//! A connection that is slow is not lost: however much is on its way over it, the conns
//! that share it come back, and none waits behind what others have to send again.

mod common;

use common::{Cut, PROTOCOL, Pair, Wired, eventually, payload, within};
use pointsub::{Conn, Listener};
use std::io::{Read, Write};
use std::thread;

const CONNS: usize = 300;
const EACH: usize = 64 * 1024;
/// Bytes a second.
const SLOW: u64 = 200_000;

/// What the `n`th conn is sent, toward the server or back.
fn content(n: usize, back: bool) -> Vec<u8> {
    payload(2 * n as u64 + u64::from(back) + 1, EACH)
}

fn lose(wired: &Wired, conns: &[(Conn, Conn)]) {
    wired.proxy.refuse();
    wired.proxy.cut(Cut::Reset);
    eventually("the losses", 20, || {
        conns.iter().all(|(near, far)| near.stats().losses == 1 && far.stats().losses == 1)
    });
}

fn write_all(conns: &[(Conn, Conn)]) {
    for (n, (near, far)) in conns.iter().enumerate() {
        let (mut near, mut far) = (near, far);
        near.write_all(&content(n, false)).expect("it is kept");
        far.write_all(&content(n, true)).expect("it is kept");
    }
}

fn read_all(conns: &[(Conn, Conn)]) {
    let read = |mut conn: &Conn, expected: Vec<u8>| {
        let mut arrived = vec![0; EACH];
        conn.read_exact(&mut arrived).expect("all of it");
        assert!(arrived == expected, "it arrived changed");
        conn.set_nonblocking(true).expect("set");
        let more = conn.read(&mut [0]).expect_err("a byte too many");
        assert_eq!(more.kind(), std::io::ErrorKind::WouldBlock);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            conns.iter().enumerate().for_each(|(n, (near, _))| read(near, content(n, true)))
        });
        scope.spawn(|| {
            conns.iter().enumerate().for_each(|(n, (_, far))| read(far, content(n, false)))
        });
    });
}

fn await_return(conns: &[(Conn, Conn)], times: u64) {
    eventually("all are back", 20, || {
        let back = |conn: &Conn| conn.stats().resumes >= times;
        conns.iter().all(|(near, far)| back(near) && back(far))
    });
}

/// What there is to send again takes a minute and a half, and a conn is given up after half
/// a one. When the connection is lost once more, the wire is full of it.
fn all_come_back(wired: &Wired, conns: &[(Conn, Conn)]) {
    lose(wired, conns);
    write_all(conns);
    wired.proxy.rate(SLOW);
    let before = wired.proxy.accepted();
    wired.proxy.listen_again();
    await_return(conns, 1);
    wired.proxy.cut(Cut::Reset);
    await_return(conns, 2);
    assert_eq!(wired.proxy.accepted(), before + 2, "each time one connection does for all");
    wired.proxy.rate(1 << 40);
    read_all(conns);
    assert!(conns.iter().all(|(near, far)| near.stats().losses == 2 && far.stats().losses == 2));
}

#[test]
fn conns_of_one_lost_connection_come_back_before_their_bytes() {
    within(120, || {
        let wired = Wired::of(|host| host);
        let conns: Vec<_> = (0..CONNS).map(|_| wired.connect()).collect();
        all_come_back(&wired, &conns);
    });
}

#[test]
fn so_do_those_that_the_side_has_opened_that_was_dialled() {
    within(120, || {
        let wired = Wired::of(|host| host);
        let Pair { server, client, .. } = &wired.pair;
        let listener = Listener::bind(client, PROTOCOL).expect("bind");
        client.add_address(server.peer_id(), wired.address().parse().expect("an address"));
        client.ping(&server.peer_id()).expect("a connection");
        let connect = |_| {
            let far = Conn::connect(server, client.peer_id(), PROTOCOL).expect("connect");
            (listener.accept().expect("accept").0, far)
        };
        let conns: Vec<_> = (0..CONNS).map(connect).collect();
        all_come_back(&wired, &conns);
    });
}
