//! A libp2p node dials a pointsub host and finds every promise kept.

use libp2p::PeerId;
use libp2p::swarm::DialError;
use libp2p_stream::OpenStreamError;
use pointsub::Listener;
use pointsub_interop::{Libp2pNode, Node, PointsubNode, Seen, scenarios, within};
use std::io::{ErrorKind, Read, Write};

#[test]
fn what_is_written_comes_back() {
    within(30, || scenarios::echo(&PointsubNode::new(), &Libp2pNode::new()));
}

#[test]
fn sixty_four_mib_each_way_arrive_unchanged() {
    within(120, || scenarios::bulk_both_ways(&PointsubNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_hundred_streams_work_at_once() {
    within(60, || scenarios::hundred_streams(&PointsubNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_hundred_streams_opened_at_once_all_work() {
    within(60, || scenarios::hundred_opened_at_once(&PointsubNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_finished_side_goes_on_reading() {
    within(30, || scenarios::half_close(&PointsubNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_writer_learns_that_its_peer_dropped_the_stream() {
    within(30, || {
        scenarios::writer_learns_of_a_drop(&PointsubNode::new(), &Libp2pNode::new());
    });
}

#[test]
fn a_reset_is_an_error_to_the_reader_and_never_an_end() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let listener = Listener::bind(&server.host, "/reset/1.0.0").expect("bind");
        let mut stream = client.open(&server.address(), "/reset/1.0.0").expect("open");
        stream.writer.write_all(b"before").expect("write");
        stream.writer.flush().expect("flush");
        let (mut conn, peer) = listener.accept().expect("accept");
        assert_eq!(peer, client.peer_id());
        let mut before = [0; 6];
        conn.read_exact(&mut before).expect("what came before the reset");
        assert_eq!(&before, b"before");
        // Its write side is still open: libp2p sends RST.
        drop(stream);
        let error = conn.read(&mut [0; 16]).expect_err("a reset");
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    });
}

#[test]
fn a_protocol_that_is_not_served_is_refused() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let peer = client.dial(&server.address()).expect("dial");
        let refused = client.open_stream(peer, "/nobody/1.0.0").err().expect("refused");
        assert!(matches!(refused, OpenStreamError::UnsupportedProtocol(_)), "{refused}");
    });
}

#[test]
fn ping_is_answered_both_ways() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let peer = client.dial(&server.address()).expect("dial");
        let round_trip = client.wait(|seen| match seen {
            Seen::Ping { peer: p, round_trip } if *p == peer => Some(round_trip.clone()),
            _ => None,
        });
        round_trip.expect("we answer");
        server.host.ping(&client.peer_id()).expect("libp2p answers");
    });
}

#[test]
fn identify_says_who_we_are_and_what_we_serve() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let _listener = Listener::bind(&server.host, "/served/1.0.0").expect("bind");
        let server_id = client.dial(&server.address()).expect("dial");
        let info = client.wait(|seen| match seen {
            Seen::Identified { peer, info } if *peer == server_id => Some(info.clone()),
            Seen::IdentifyFailed { peer, why } if *peer == server_id => {
                panic!("identify failed: {why}")
            }
            _ => None,
        });
        assert_eq!(info.public_key.to_peer_id(), server_id);
        assert!(info.agent_version.contains("pointsub"), "{}", info.agent_version);
        assert_eq!(info.listen_addrs, server.host.listen_addrs());
        let served: Vec<_> = info.protocols.iter().map(AsRef::as_ref).collect();
        for protocol in ["/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/served/1.0.0"] {
            assert!(served.contains(&protocol), "{protocol} is not in {served:?}");
        }
    });
}

#[test]
fn a_wrong_peer_id_ends_the_dial_and_nothing_else() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let server_id = server.host.peer_id().to_string();
        let wrong = server.address().replace(&server_id, &PeerId::random().to_string());
        let error = client.dial(&wrong).expect_err("another key answers");
        assert!(matches!(error, DialError::WrongPeerId { .. }), "{error}");
        scenarios::echo(&server, &client);
    });
}

#[test]
fn shutting_the_host_down_closes_the_connection() {
    within(30, || {
        let (server, client) = (PointsubNode::new(), Libp2pNode::new());
        let server_id = client.dial(&server.address()).expect("dial");
        server.host.shutdown();
        client.wait(|seen| match seen {
            Seen::Closed { peer } if *peer == server_id => Some(()),
            _ => None,
        });
    });
}
