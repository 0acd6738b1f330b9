//! A host: its addresses, its peers, its identity, and its end.

mod common;

use common::{
    PROTOCOL, Pair, address, assert_carries, assert_kind, builder, dialling, echo, listening,
    loopback, payload, socket_address, within,
};
use pointsub::{Conn, Host, Listener, Multiaddr, PeerId};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;

#[test]
fn after_a_shutdown_every_call_is_not_connected() {
    within(30, || {
        let Pair { server, client, listener } = Pair::new();
        let near = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        thread::scope(|scope| {
            let reader = scope.spawn(|| (&far).read(&mut [0; 16]));
            let accept = scope.spawn(|| listener.accept().map(drop));
            let incoming = scope.spawn(|| listener.incoming().count());
            server.shutdown();
            assert_kind(reader.join().expect("no panic"), &[ErrorKind::NotConnected]);
            assert_kind(accept.join().expect("no panic"), &[ErrorKind::NotConnected]);
            assert_eq!(incoming.join().expect("no panic"), 0);
        });
        let gone = &[ErrorKind::NotConnected];
        let peer = client.peer_id();
        assert_kind(Conn::connect(&server, address(&listening()), PROTOCOL), gone);
        assert_kind(Listener::bind(&server, "/other/1.0.0"), gone);
        assert_kind((&far).read(&mut [0; 16]), gone);
        assert_kind(server.ping(&peer), gone);
        assert!(server.connected_peers().is_empty());
        assert_eq!((&near).read(&mut [0; 16]).expect("the peer reads the end"), 0);
        server.shutdown();
    });
}

#[test]
fn a_host_lives_until_its_last_conn_and_listener_are_gone() {
    within(30, || {
        let Pair { server, client, listener } = Pair::new();
        let at = socket_address(&server);
        let mut near = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
        let (mut far, _) = listener.accept().expect("accept");
        let whole = address(&server);
        drop((server, client));
        assert_carries(&mut near, &mut far, b"without a host handle");
        drop(far);
        let other = Conn::connect(&dialling(), whole, PROTOCOL);
        other.expect("the listener keeps its host alive");
        drop(listener);
        let error = TcpStream::connect(at).expect_err("nobody listens any more");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn disconnect_closes_every_connection_to_that_peer_and_no_other() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        let other = dialling();
        let mut kept = Conn::connect(&other, address(&pair.server), PROTOCOL).expect("connect");
        let (mut kept_far, _) = pair.listener.accept().expect("accept");
        pair.server.disconnect(&pair.client.peer_id());
        assert_eq!(near.read(&mut [0; 16]).expect("the peer reads the end"), 0);
        assert!(far.read(&mut [0; 16]).is_err(), "ours has ended");
        assert_carries(&mut kept, &mut kept_far, b"another peer");
        // Nothing keeps that peer from coming back.
        let (mut near, mut far) = pair.connect();
        assert_carries(&mut near, &mut far, b"again");
    });
}

#[test]
fn ping_measures_a_known_peer_and_knows_when_it_has_no_address() {
    within(30, || {
        let pair = Pair::new();
        let peer = pair.server.peer_id();
        assert_kind(pair.client.ping(&peer), &[ErrorKind::AddrNotAvailable]);
        pair.client.add_address(peer, pair.server.listen_addrs()[0].clone());
        for _ in 0..10 {
            assert!(!pair.client.ping(&peer).expect("a pong").is_zero());
        }
        let (_near, _far) = pair.connect();
        pair.server.ping(&pair.client.peer_id()).expect("a connected peer needs no address");
    });
}

#[test]
fn connected_peers_are_those_that_are_connected() {
    within(30, || {
        let pair = Pair::new();
        assert!(pair.client.connected_peers().is_empty());
        let (_near, _far) = pair.connect();
        assert_eq!(pair.client.connected_peers(), [pair.server.peer_id()]);
        assert_eq!(pair.server.connected_peers(), [pair.client.peer_id()]);
        let _ = format!("{:?}", pair.client.stats());
    });
}

#[test]
fn addresses_are_real_and_dial_addrs_end_in_the_peer_id() {
    within(30, || {
        let host = Host::builder()
            .listen(loopback())
            .listen_on("127.0.0.1:0")
            .build()
            .expect("two listeners on one host");
        let listen = host.listen_addrs();
        assert_eq!(listen.len(), 2);
        assert!(listen.iter().all(|a| !a.to_string().ends_with("/tcp/0")), "{listen:?}");
        let suffix = |a: &Multiaddr| format!("{a}/p2p/{}", host.peer_id());
        let dial: Vec<_> = host.dial_addrs().iter().map(Multiaddr::to_string).collect();
        assert_eq!(dial, listen.iter().map(suffix).collect::<Vec<_>>());
        let _listener = Listener::bind(&host, PROTOCOL).expect("bind");
        for address in dial {
            Conn::connect(&dialling(), address, PROTOCOL).expect("each can be dialled");
        }
        assert!(dialling().listen_addrs().is_empty());
    });
}

#[test]
fn ipv6_works_where_the_machine_has_it() {
    within(30, || {
        if TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        let server = Host::builder().listen_on("[::1]:0").build().expect("a host");
        let pair = Pair::of(server, dialling());
        let (mut near, mut far) = pair.connect();
        assert_carries(&mut near, &mut far, b"over IPv6");
    });
}

#[test]
fn a_socket_address_in_use_is_addr_in_use() {
    within(30, || {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = taken.local_addr().expect("an address");
        let error =
            assert_kind(Host::builder().listen_on(at).build().map(drop), &[ErrorKind::AddrInUse]);
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    });
}

#[test]
fn where_it_cannot_listen_it_says_where_and_what_to_do_about_listening() {
    within(30, || {
        // An address for examples: no machine has it.
        let elsewhere: Multiaddr = "/ip4/192.0.2.1/tcp/0".parse().expect("an address");
        let by_multiaddr = Host::builder().listen(elsewhere).build().map(drop);
        let by_socket = Host::builder().listen_on("192.0.2.1:0").build().map(drop);
        for outcome in [by_multiaddr, by_socket] {
            let said = assert_kind(outcome, &[ErrorKind::AddrNotAvailable]).to_string();
            assert!(said.contains("cannot listen on 192.0.2.1:0"), "{said}");
            assert!(said.contains("an address of this machine"), "{said}");
        }
        let nowhere = Host::builder().listen_on("nobody.invalid:1").build().map(drop);
        let said = assert_kind(nowhere, &[ErrorKind::NotFound]).to_string();
        assert!(said.contains("cannot listen"), "{said}");
        let wrong = Host::builder().listen_on("no port").build().map(drop);
        let said = assert_kind(wrong, &[ErrorKind::InvalidInput]).to_string();
        assert!(said.contains("127.0.0.1:4001"), "{said}");
    });
}

#[test]
fn allow_says_who_may_come_in() {
    within(30, || {
        let (friend, stranger) = (dialling(), dialling());
        let welcome = friend.peer_id();
        let server = builder().allow(move |peer: &PeerId| *peer == welcome).build();
        let pair = Pair::of(server.expect("a host"), friend);
        let (mut near, mut far) = pair.connect();
        assert_carries(&mut near, &mut far, b"welcome");
        let denied = Conn::connect(&stranger, address(&pair.server), PROTOCOL);
        let error = denied.expect_err("not allowed");
        common::code(&error);
        assert!(!pair.server.connected_peers().contains(&stranger.peer_id()));
    });
}

#[test]
fn hosts_come_and_go_while_another_serves() {
    within(60, || {
        let server = listening();
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let target = address(&server);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = listener.serve(64, |conn, _peer| drop(echo(conn)));
            });
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for round in 0..10 {
                            let host = dialling();
                            let conn = Conn::connect(&host, &*target, PROTOCOL).expect("connect");
                            let mut reader = conn.try_clone().expect("clone");
                            assert_echoes(&mut { conn }, &mut reader, &payload(round, 3_000));
                        }
                    });
                }
            });
            listener.close();
        });
    });
}

#[test]
fn a_keypair_file_keeps_an_identity_that_nobody_else_can_read() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    within(30, || {
        let name = format!("pointsub-test-{}.key", std::process::id());
        let file = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&file);
        let host = || Host::builder().keypair_file(&file).build();
        let made = host().expect("a new key").peer_id();
        let mode = fs::metadata(&file).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(host().expect("the same key").peer_id(), made);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("chmod");
        let refused = host().map(drop);
        fs::remove_file(&file).expect("remove");
        common::code(&refused.expect_err("others can read it"));
    });
}

/// Sends `data` to an echo and reads it back.
fn assert_echoes(writer: &mut Conn, reader: &mut Conn, data: &[u8]) {
    writer.write_all(data).expect("write");
    let mut back = vec![0; data.len()];
    reader.read_exact(&mut back).expect("read");
    assert!(back == data);
}

#[test]
fn identify_tells_who_a_peer_is_and_what_it_serves() {
    within(30, || {
        let pair = Pair::new();
        let (_near, _far) = pair.connect();
        let info = pair.client.identify(&pair.server.peer_id()).expect("an answer");
        assert!(info.agent_version.starts_with("pointsub/"), "{}", info.agent_version);
        assert!(info.protocols.iter().any(|p| p == PROTOCOL), "{:?}", info.protocols);
        assert_eq!(info.listen_addrs, pair.server.listen_addrs());
        assert!(info.observed_addr.is_some());
        // The dialling host listens nowhere; it is asked over the same connection.
        let info = pair.server.identify(&pair.client.peer_id()).expect("an answer");
        assert!(info.listen_addrs.is_empty());
    });
}

#[test]
fn several_reactors_share_the_connections() {
    within(60, || {
        let server = builder().listen(loopback()).reactors(3).build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let mut clients: Vec<_> = (0..7)
            .map(|_| {
                let client = builder().reactors(2).build().expect("a host");
                let near = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
                let (far, _) = listener.accept().expect("accept");
                (client, near, far)
            })
            .collect();
        // Nobody blocks on the server's side: its reactors answer.
        for (client, ..) in &clients {
            client.ping(&server.peer_id()).expect("ping");
        }
        for (_, near, far) in &mut clients {
            assert_carries(near, far, &payload(3, 300_000));
        }
        server.shutdown();
        for (client, near, _) in &clients {
            assert_eq!((&*near).read(&mut [0; 16]).expect("the end"), 0);
            client.shutdown();
        }
    });
    for count in [0, 257] {
        assert_kind(Host::builder().reactors(count).build(), &[ErrorKind::InvalidInput]);
    }
}

#[test]
fn hosts_built_at_once_share_the_key_of_their_file() {
    within(60, || {
        let dir = std::env::temp_dir().join(format!("pointsub-keys-{}", std::process::id()));
        for _ in 0..30 {
            std::fs::create_dir_all(&dir).expect("a directory");
            let file = dir.join("key");
            let at_once = Barrier::new(3);
            let ids = thread::scope(|scope| {
                let built = [(); 3].map(|()| {
                    scope.spawn(|| {
                        at_once.wait();
                        Host::builder().keypair_file(&file).build().expect("a host").peer_id()
                    })
                });
                built.map(|host| host.join().expect("no panic"))
            });
            assert_eq!(ids, [ids[0]; 3]);
            let left = std::fs::read_dir(&dir).expect("the directory").count();
            assert_eq!(left, 1, "nothing but the key stays");
            std::fs::remove_dir_all(&dir).expect("removed");
        }
    });
}
