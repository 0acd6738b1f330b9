//! The events of a host: each connection's in their order, and an end.

mod attacker;
mod common;

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use attacker::{Raw, raw};
use common::{builder, dialling, socket_address, within};
use pointsub::{Event, Keypair};

/// Also of peers that leave at once.
#[test]
fn a_connection_is_opened_once_before_it_is_closed_once() {
    within(60, || {
        let server = builder().linger(Duration::ZERO).build().expect("a host");
        let mut events = server.subscribe();
        (0..200).for_each(|_| drop(raw(&server)));
        let key = Keypair::generate_ed25519();
        let _stays = Raw::dial(socket_address(&server), &key).expect("dial");
        let last = key.public().to_peer_id();
        let (mut open, mut closed) = (HashSet::new(), HashSet::new());
        let mut hear = |event| match event {
            Event::ConnectionOpened { connection, peer, .. } => {
                assert!(!closed.contains(&connection) && open.insert(connection));
                peer == last
            }
            Event::ConnectionClosed { connection, .. } => {
                assert!(open.remove(&connection), "{connection} was not open");
                assert!(closed.insert(connection));
                false
            }
            _ => false,
        };
        assert!(events.by_ref().any(&mut hear));
        server.shutdown();
        events.for_each(|event| {
            hear(event);
        });
        assert!(open.is_empty() && !closed.is_empty(), "{open:?} of {closed:?}");
    });
}

#[test]
fn they_end_with_their_host_whenever_they_were_subscribed_to() {
    within(60, || {
        for _ in 0..100 {
            let host = dialling();
            let early = host.subscribe();
            thread::scope(|scope| {
                scope.spawn(|| host.shutdown());
                host.subscribe().for_each(drop);
            });
            early.for_each(drop);
            assert_eq!(host.subscribe().count(), 0);
        }
    });
}
