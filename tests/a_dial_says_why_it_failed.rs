//! Every way in which a connect can fail has a kind of its own, and an error of
//! ours inside that says more.

mod common;

use common::within;
use common::{PROTOCOL, Pair, Proxy, Ways, assert_kind, code, dialling, listening, loopback};
use pointsub::{Conn, ErrorCode, Host, Keypair, Listener, Multiaddr, PeerId};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn nothing_listens_at_that_address_is_connection_refused() {
    within(30, || {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").expect("bind");
            free.local_addr().expect("an address").port()
        };
        let nobody = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", PeerId::random());
        let result = Conn::connect(&dialling(), nobody, PROTOCOL);
        let error = assert_kind(result, &[ErrorKind::ConnectionRefused]);
        assert_eq!(code(&error), ErrorCode::ConnectionRefused);
    });
}

#[test]
fn peer_reached_but_protocol_not_served_is_connection_refused_and_named() {
    within(30, || {
        let pair = Pair::new();
        let address = common::address(&pair.server);
        let result = Conn::connect(&pair.client, &*address, "/unknown/1.0.0");
        let error = assert_kind(result, &[ErrorKind::ConnectionRefused]);
        assert_eq!(code(&error), ErrorCode::ProtocolNotServed);
        assert!(error.to_string().contains("/unknown/1.0.0"), "{error}");
        // The peer itself is fine.
        pair.connect();
    });
}

#[test]
fn another_key_than_the_one_dialled_is_permission_denied_and_hears_nothing() {
    within(30, || {
        let pair = Pair::new();
        let wrong = (PeerId::random(), pair.server.listen_addrs()[0].clone());
        let result = Conn::connect(&pair.client, wrong, PROTOCOL);
        let error = assert_kind(result, &[ErrorKind::PermissionDenied]);
        assert_eq!(code(&error), ErrorCode::WrongPeer);
        pair.listener.set_nonblocking(true).expect("set");
        assert_kind(pair.listener.accept(), &[ErrorKind::WouldBlock]);
        assert!(!pair.server.connected_peers().contains(&pair.client.peer_id()));
        assert!(pair.client.connected_peers().is_empty());
    });
}

#[test]
fn a_bare_peer_id_without_a_known_address_is_addr_not_available() {
    within(30, || {
        let pair = Pair::new();
        let peer = pair.server.peer_id();
        let error = assert_kind(
            Conn::connect(&pair.client, peer, PROTOCOL),
            &[ErrorKind::AddrNotAvailable],
        );
        assert_eq!(code(&error), ErrorCode::UnknownAddress);
        pair.client.add_address(peer, pair.server.listen_addrs()[0].clone());
        Conn::connect(&pair.client, peer, PROTOCOL).expect("now it is known");
        let by_reference: &PeerId = &peer;
        Conn::connect(&pair.client, by_reference, PROTOCOL).expect("by reference");
    });
}

#[test]
fn an_address_that_does_not_parse_or_lacks_a_peer_or_has_no_transport_is_invalid_input() {
    within(30, || {
        let host = dialling();
        let id = PeerId::random();
        for wrong in [
            String::new(),
            "not an address".to_owned(),
            "/ip4/127.0.0.1/tcp/4001".to_owned(),
            format!("/ip4/127.0.0.1/tcp/99999/p2p/{id}"),
            format!("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{id}"),
            format!("/ip4/127.0.0.1/tcp/4001/ws/p2p/{id}"),
            format!("/p2p/{id}/p2p-circuit/p2p/{id}"),
        ] {
            let error = assert_kind(
                Conn::connect(&host, wrong.as_str(), PROTOCOL),
                &[ErrorKind::InvalidInput],
            );
            assert_eq!(code(&error), ErrorCode::InvalidInput, "{wrong:?}");
        }
        let udp: Multiaddr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
        assert_kind(Conn::connect(&host, (id, udp.clone()), PROTOCOL), &[ErrorKind::InvalidInput]);
        assert_kind(Host::builder().listen(udp).build().map(drop), &[ErrorKind::InvalidInput]);
    });
}

/// It is a mistake of the caller's, whoever is connected already.
#[test]
fn an_address_that_nobody_can_dial_is_invalid_input_also_where_the_peer_is_known() {
    within(30, || {
        let pair = Pair::new();
        let (near, _far) = pair.connect();
        for way in ["/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1", "/memory/1"] {
            let target = format!("{way}/p2p/{}", near.peer_id());
            let error = assert_kind(
                Conn::connect(&pair.client, target, PROTOCOL),
                &[ErrorKind::InvalidInput],
            );
            let said = error.to_string();
            let advice = said.split("; ").collect::<Vec<_>>();
            assert!(advice.windows(2).all(|two| two[0] != two[1]), "said twice: {said}");
        }
        pair.connect();
    });
}

#[test]
fn a_dial_that_takes_longer_than_the_limit_is_timed_out() {
    within(30, || {
        // Accepted by the kernel and never answered.
        let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = silent.local_addr().expect("an address").port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", PeerId::random());
        let limit = Duration::from_millis(300);
        let start = Instant::now();
        let result = Conn::connect_timeout(&dialling(), address, PROTOCOL, limit);
        assert_kind(result, &[ErrorKind::TimedOut]);
        let took = start.elapsed();
        assert!(took >= limit && took < limit + Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn a_connect_timeout_of_zero_is_invalid_input() {
    within(30, || {
        let server = listening();
        let address = common::address(&server);
        let result = Conn::connect_timeout(&dialling(), address, PROTOCOL, Duration::ZERO);
        assert_kind(result, &[ErrorKind::InvalidInput]);
    });
}

#[test]
fn dialling_ones_own_peer_id_is_invalid_input_also_at_another_host_with_our_key() {
    within(30, || {
        let keypair = Keypair::generate_ed25519();
        let host = || Host::builder().keypair(keypair.clone()).listen(loopback()).build();
        let (one, other) = (host().expect("a host"), host().expect("a host"));
        let _listener = Listener::bind(&other, PROTOCOL).expect("bind");
        for target in [common::address(&one), common::address(&other)] {
            assert_kind(Conn::connect(&one, target, PROTOCOL), &[ErrorKind::InvalidInput]);
        }
        assert_kind(Conn::connect(&one, one.peer_id(), PROTOCOL), &[ErrorKind::InvalidInput]);
    });
}

#[test]
fn every_form_of_target_and_every_name_is_dialled() {
    within(60, || {
        let pair = Pair::new();
        let (peer, at) = (pair.server.peer_id(), pair.server.listen_addrs()[0].clone());
        let whole: Multiaddr = pair.server.dial_addrs()[0].clone();
        let port = common::socket_address(&pair.server).port();
        let client = || dialling();
        let mut conns = vec![
            Conn::connect(&client(), &whole, PROTOCOL),
            Conn::connect(&client(), whole.clone(), PROTOCOL),
            Conn::connect(&client(), whole.to_string(), PROTOCOL),
            Conn::connect(&client(), whole.to_string().as_str(), PROTOCOL),
            Conn::connect(&client(), (peer, at), PROTOCOL),
        ];
        for name in ["dns", "dns4"] {
            let address = format!("/{name}/localhost/tcp/{port}/p2p/{peer}");
            conns.push(Conn::connect(&client(), address, PROTOCOL));
        }
        for conn in conns {
            let mut near = conn.expect("connect");
            let (mut far, _) = pair.listener.accept().expect("accept");
            near.write_all(b"x").expect("write");
            far.read_exact(&mut [0]).expect("read");
        }
    });
}

#[test]
fn a_failed_dial_leaves_the_host_as_it_was() {
    within(30, || {
        let pair = Pair::new();
        let wrong = (PeerId::random(), pair.server.listen_addrs()[0].clone());
        for _ in 0..20 {
            assert!(Conn::connect(&pair.client, wrong.clone(), PROTOCOL).is_err());
        }
        let (mut near, mut far) = pair.connect();
        common::assert_carries(&mut near, &mut far, b"all is well");
    });
}

#[test]
fn a_good_address_is_dialled_beside_the_bad_one_that_another_waits_for() {
    within(60, || {
        let pair = Pair::new();
        let silent = Silent::new();
        thread::scope(|scope| {
            let bad = silent.address_of(&pair.server);
            let other = scope.spawn(|| Conn::connect(&pair.client, bad, PROTOCOL).map(drop));
            silent.await_dial();
            let limit = Duration::from_secs(5);
            let good = common::address(&pair.server);
            Conn::connect_timeout(&pair.client, good, PROTOCOL, limit).expect("connect");
            other.join().expect("no panic").expect("the peer is there now");
        });
    });
}

#[test]
fn who_comes_later_has_all_of_its_time() {
    within(60, || {
        let limit = Duration::from_secs(2);
        let client = Host::builder().dial_timeout(limit).build().expect("a host");
        let pair = Pair::of(listening(), client);
        let (silent, slow) = (Silent::new(), Proxy::to(&pair.server));
        slow.stall(Ways::Both);
        thread::scope(|scope| {
            let bad = silent.address_of(&pair.server);
            let first = scope.spawn(|| Conn::connect(&pair.client, bad, PROTOCOL).map(drop));
            silent.await_dial();
            // It is time itself that the first one has less of.
            thread::sleep(limit / 2);
            let good = slow.address(&pair.server);
            let later = scope.spawn(|| Conn::connect(&pair.client, good, PROTOCOL).map(drop));
            assert_kind(first.join().expect("no panic"), &[ErrorKind::TimedOut]);
            slow.flow();
            later.join().expect("no panic").expect("half of its time was left");
        });
    });
}

/// It takes connections and says nothing.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Silent {
        Silent(TcpListener::bind("127.0.0.1:0").expect("bind"))
    }

    /// Where a host might be, and is not.
    fn address_of(&self, host: &Host) -> String {
        let port = self.0.local_addr().expect("an address").port();
        format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", host.peer_id())
    }

    /// Somebody dials it. The connection stays.
    fn await_dial(&self) {
        std::mem::forget(self.0.accept().expect("accept"));
    }
}
