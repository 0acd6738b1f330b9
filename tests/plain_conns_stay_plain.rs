//! A conn is resumable only between two hosts that both want it; every other one ends
//! with its connection, as it always did.

mod attacker;
mod common;

use attacker::{ACK, Raw, SYN, header, opening};
use common::{
    Cut, LOST, PROTOCOL, Pair, Proxy, assert_carries, assert_kind, builder, payload,
    socket_address, within,
};
use pointsub::{Conn, Host, Keypair};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn a_host_that_does_not_want_it_makes_both_ends_plain() {
    for (server, client) in [(false, false), (false, true), (true, false)] {
        within(60, || {
            let server = builder().resumable(server).build().expect("a host");
            let client = Host::builder().resumable(client).build().expect("a host");
            let pair = Pair::of(server, client);
            let proxy = Proxy::to(&pair.server);
            let (mut near, mut far) = pair.connect_at(&proxy.address(&pair.server));
            assert!(!near.is_resumable() && !far.is_resumable());
            assert_carries(&mut near, &mut far, &payload(1, 1 << 20));
            let start = Instant::now();
            proxy.cut(Cut::Reset);
            assert_kind(near.read(&mut [0]), LOST);
            assert_kind(far.read(&mut [0]), LOST);
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            for host in [&pair.client, &pair.server] {
                assert_eq!((host.stats().conns_lost, host.stats().conns_waiting), (0, 0));
            }
            assert_eq!((proxy.accepted(), near.stats().losses), (1, 0));
            // The next connection is made when it is asked for.
            pair.connect_at(&proxy.address(&pair.server));
        });
    }
}

/// What the hosts said to open it is nobody's payload.
#[test]
fn both_ends_count_the_bytes_of_their_applications() {
    within(60, || {
        let pair = Pair::plain();
        let (mut near, mut far) = pair.connect();
        let counted = |conn: &Conn| {
            let stats = conn.stats();
            (stats.bytes_sent, stats.bytes_received, stats.unread)
        };
        assert_eq!((counted(&near), counted(&far)), ((0, 0, 0), (0, 0, 0)));
        near.write_all(&[7; 1_000]).expect("write");
        far.read_exact(&mut [0; 900]).expect("read");
        far.write_all(b"answer").expect("write");
        near.read_exact(&mut [0; 6]).expect("read");
        assert_eq!((counted(&near), counted(&far)), ((1_000, 6, 0), (6, 1_000, 100)));
    });
}

/// What every host answers by itself is open to conns too, and those are plain.
#[test]
fn a_conn_to_a_service_of_the_host_is_plain() {
    within(60, || {
        let pair = Pair::new();
        let (mut near, _far) = pair.connect();
        assert!(near.is_resumable());
        let mut ping = Conn::connect(&pair.client, near.peer_id(), "/ipfs/ping/1.0.0")
            .expect("every host answers pings");
        assert!(!ping.is_resumable());
        let asked = payload(2, 32);
        ping.write_all(&asked).expect("write");
        let mut answer = [0; 32];
        ping.read_exact(&mut answer).expect("read");
        assert_eq!(answer[..], asked[..]);
        near.write_all(b"and the conn beside it goes on").expect("write");
    });
}

/// A node that says nothing of this library in its handshake.
#[test]
fn a_conn_to_another_libp2p_node_is_plain() {
    within(60, || {
        let pair = Pair::new();
        let mut node = Raw::dial(socket_address(&pair.server), &Keypair::generate_ed25519())
            .expect("connected");
        let (id, first) = (node.id(), opening(PROTOCOL));
        let length = u32::try_from(first.len()).expect("short");
        node.send(&[&header(0, SYN, id, length)[..], &first].concat()).expect("sent");
        let (mut conn, _) = pair.listener.accept().expect("accept");
        assert!(!conn.is_resumable());
        node.send(&[&header(0, ACK, id, 3)[..], b"abc"].concat()).expect("sent");
        let mut arrived = [0; 3];
        conn.read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"abc");
        drop(node);
        assert_kind(conn.read(&mut [0]), LOST);
        assert_eq!(pair.server.stats().conns_lost, 0);
    });
}
