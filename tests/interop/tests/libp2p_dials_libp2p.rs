//! The node that the other tests trust keeps every promise towards itself.

use libp2p::PeerId;
use libp2p::swarm::DialError;
use libp2p_stream::OpenStreamError;
use pointsub_interop::{Libp2pNode, Node, Seen, scenarios, within};

#[test]
fn what_is_written_comes_back() {
    within(30, || scenarios::echo(&Libp2pNode::new(), &Libp2pNode::new()));
}

#[test]
fn sixty_four_mib_each_way_arrive_unchanged() {
    within(120, || scenarios::bulk_both_ways(&Libp2pNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_hundred_streams_work_at_once() {
    within(60, || scenarios::hundred_streams(&Libp2pNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_finished_side_goes_on_reading() {
    within(30, || scenarios::half_close(&Libp2pNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_writer_learns_that_its_peer_dropped_the_stream() {
    within(30, || scenarios::writer_learns_of_a_drop(&Libp2pNode::new(), &Libp2pNode::new()));
}

#[test]
fn a_protocol_that_is_not_served_is_refused() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), Libp2pNode::new());
        let peer = client.dial(&server.address()).expect("dial");
        let refused = client.open_stream(peer, "/nobody/1.0.0").err().expect("refused");
        assert!(matches!(refused, OpenStreamError::UnsupportedProtocol(_)), "{refused}");
    });
}

#[test]
fn ping_and_identify_are_answered() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), Libp2pNode::new());
        let peer = client.dial(&server.address()).expect("dial");
        let round_trip = client.wait(|seen| match seen {
            Seen::Ping { peer: p, round_trip } if *p == peer => Some(round_trip.clone()),
            _ => None,
        });
        round_trip.expect("a pong");
        let info = client.wait(|seen| match seen {
            Seen::Identified { peer: p, info } if *p == peer => Some(info.clone()),
            _ => None,
        });
        assert_eq!(info.public_key.to_peer_id(), peer);
    });
}

#[test]
fn a_wrong_peer_id_ends_the_dial() {
    within(30, || {
        let (server, client) = (Libp2pNode::new(), Libp2pNode::new());
        let other =
            server.address().replace(&server.peer_id().to_string(), &PeerId::random().to_string());
        let error = client.dial(&other).expect_err("another key answers");
        assert!(matches!(error, DialError::WrongPeerId { .. }), "{error}");
    });
}
