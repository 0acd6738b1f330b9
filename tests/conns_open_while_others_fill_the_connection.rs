//! A connection whose output is full of others' bytes still opens conns: none of a
//! hundred that are opened at once, each a mebibyte there and back, waits for an
//! answer that nobody was asked for.

mod common;

use common::{Pair, echo, payload, read_all, within};
use pointsub::Conn;
use std::io::Write;
use std::net::Shutdown;
use std::thread;

const ROUNDS: usize = 5;
const CONNS: usize = 100;
const PER_CONN: usize = 1 << 20;

#[test]
fn conns_open_while_others_fill_the_connection() {
    within(180, || {
        let pair = Pair::new();
        let (first, _far) = pair.connect();
        let closing = pair.listener.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                pair.listener.serve(CONNS, |conn, _| echo(conn).unwrap()).unwrap();
            });
            for _ in 0..ROUNDS {
                thread::scope(|scope| {
                    for n in 0..CONNS {
                        let (client, server) = (&pair.client, pair.server.peer_id());
                        scope.spawn(move || {
                            exchange(Conn::connect(client, server, common::PROTOCOL).unwrap(), n)
                        });
                    }
                });
            }
            closing.close();
        });
        drop(first);
    });
}

fn exchange(mut conn: Conn, n: usize) {
    let sent = payload(n as u64, PER_CONN);
    let mut writer = conn.try_clone().unwrap();
    let back = thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        read_all(&mut conn).unwrap()
    });
    assert!(back == sent, "conn {n} has its own bytes back");
}
