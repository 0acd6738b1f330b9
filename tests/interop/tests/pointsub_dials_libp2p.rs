//! A pointsub host dials a libp2p node and finds every promise kept.

use libp2p::PeerId;
use pointsub::{Conn, Error, ErrorCode};
use pointsub_interop::{Duplex, Libp2pNode, Node, PointsubNode, Seen, scenarios, within};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

#[test]
fn what_is_written_comes_back() {
    within(30, || scenarios::echo(&Libp2pNode::new(), &PointsubNode::new()));
}

#[test]
fn sixty_four_mib_each_way_arrive_unchanged() {
    within(120, || scenarios::bulk_both_ways(&Libp2pNode::new(), &PointsubNode::new()));
}

#[test]
fn a_hundred_streams_work_at_once() {
    within(60, || scenarios::hundred_streams(&Libp2pNode::new(), &PointsubNode::new()));
}

#[test]
fn a_finished_side_goes_on_reading() {
    within(30, || scenarios::half_close(&Libp2pNode::new(), &PointsubNode::new()));
}

#[test]
fn a_writer_learns_that_its_peer_dropped_the_stream() {
    within(30, || {
        let error = scenarios::writer_learns_of_a_drop(&Libp2pNode::new(), &PointsubNode::new());
        assert!(is_ended(error.kind()), "{error:?}");
    });
}

#[test]
fn a_reset_is_an_error_to_the_reader_and_never_an_end() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        // The stream is dropped with its write side open: libp2p sends RST.
        let resets = |mut stream: Duplex| {
            stream.writer.write_all(b"before")?;
            stream.writer.flush()?;
            stream.reader.read_exact(&mut [0])
        };
        server.serve("/reset/1.0.0", Arc::new(resets));
        let mut conn = Conn::connect(&client.host, server.address(), "/reset/1.0.0").expect("open");
        let mut before = [0; 6];
        conn.read_exact(&mut before).expect("what came before the reset");
        assert_eq!(&before, b"before");
        conn.write_all(b"x").expect("write");
        let error = conn.read(&mut [0; 16]).expect_err("a reset");
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    });
}

#[test]
fn a_protocol_that_is_not_served_is_refused() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        let error = Conn::connect(&client.host, server.address(), "/nobody/1.0.0")
            .expect_err("nobody serves it");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error:?}");
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).expect("our error");
        assert_eq!(inner.code(), ErrorCode::ProtocolNotServed);
        assert!(inner.to_string().contains("/nobody/1.0.0"), "{inner}");
    });
}

#[test]
fn ping_is_answered_both_ways() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        let _conn = open_echo(&server, &client);
        client.host.ping(&server.peer_id()).expect("libp2p answers");
        assert_ping_answered(&server, client.host.peer_id());
    });
}

#[test]
fn identify_says_who_we_are() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        let _conn = open_echo(&server, &client);
        assert_identified(&server, &client);
    });
}

#[test]
fn another_key_than_the_one_dialled_is_denied() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        scenarios::serve_echo(&server, "/echo/1.0.0");
        let right = server.address();
        let wrong = right.replace(&server.peer_id().to_string(), &PeerId::random().to_string());
        let error =
            Conn::connect(&client.host, wrong, "/echo/1.0.0").expect_err("another key answers");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        Conn::connect(&client.host, right, "/echo/1.0.0").expect("the right one still works");
    });
}

#[test]
fn a_conn_with_libp2p_is_plain() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), PointsubNode::new());
        assert!(!open_echo(&server, &client).is_resumable());
    });
}

fn open_echo(server: &Libp2pNode, client: &PointsubNode) -> Conn {
    scenarios::serve_echo(server, "/echo/1.0.0");
    Conn::connect(&client.host, server.address(), "/echo/1.0.0").expect("open")
}

fn assert_ping_answered(node: &Libp2pNode, by: PeerId) {
    let round_trip = node.wait(|seen| match seen {
        Seen::Ping { peer, round_trip } if *peer == by => Some(round_trip.clone()),
        _ => None,
    });
    round_trip.expect("we answer");
}

fn assert_identified(node: &Libp2pNode, host: &PointsubNode) {
    let by = host.host.peer_id();
    let info = node.wait(|seen| match seen {
        Seen::Identified { peer, info } if *peer == by => Some(info.clone()),
        Seen::IdentifyFailed { peer, why } if *peer == by => panic!("identify failed: {why}"),
        _ => None,
    });
    assert_eq!(info.public_key.to_peer_id(), by);
    assert!(info.agent_version.contains("pointsub"), "{}", info.agent_version);
    assert_eq!(info.listen_addrs, host.host.listen_addrs());
    let served: Vec<_> = info.protocols.iter().map(AsRef::as_ref).collect();
    assert!(served.contains(&"/ipfs/ping/1.0.0"), "{served:?}");
    assert!(served.contains(&"/ipfs/id/1.0.0"), "{served:?}");
}

fn is_ended(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(kind, BrokenPipe | ConnectionReset | ConnectionAborted)
}
