//! The peer is who it says it is, or there is no connection.

use prost::Message;
use snow::resolvers::{BoxedCryptoResolver, DefaultResolver};

use super::foreign::{Foreign, answer, dial, signed};
use super::*;
use crate::error::ErrorCode;

fn plain() -> BoxedCryptoResolver {
    Box::new(DefaultResolver)
}

#[test]
fn another_key_than_the_one_dialled_is_told_nothing() {
    let mut messages = 0;
    let expected = PeerId::random();
    let (a, b) = talk(alice_dials(expected), bob_listens(), |number, _| messages = number);
    let e = a.failure();
    assert_eq!(e.code(), ErrorCode::WrongPeer);
    assert!(e.to_string().contains(&expected.to_string()));
    assert!(e.to_string().contains(&BOB.peer_id().to_string()));
    assert_eq!(messages, 2);
    assert!(b.end.is_none());
}

#[test]
fn a_responder_with_a_false_signature_is_told_nothing() {
    let [victim, thief] = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
    let peer = victim.public().to_peer_id();
    for expected in [None, Some(peer)] {
        let (ours, _, sent) = dial(expected, plain(), |key| {
            let mut payload = signed(&thief, key);
            payload.identity_key = Some(victim.public().encode_protobuf());
            payload.encode_to_vec()
        });
        assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
        assert!(sent.is_empty());
    }
}

#[test]
fn a_payload_copied_from_another_handshake_is_refused() {
    let victim = Keypair::generate_ed25519();
    let copied = signed(&victim, &[9; 32]).encode_to_vec();
    let (ours, _, sent) = dial(None, plain(), |_| copied.clone());
    assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
    assert!(sent.is_empty());
    let (ours, _) = answer(plain(), |_| copied);
    assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
}

#[test]
fn an_initiator_with_a_false_signature_is_refused() {
    let [victim, thief] = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
    let (ours, _) = answer(plain(), |key| {
        let mut payload = signed(&thief, key);
        payload.identity_key = Some(victim.public().encode_protobuf());
        payload.encode_to_vec()
    });
    assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
}

#[test]
fn a_payload_that_is_missing_or_damaged_is_refused() {
    for payload in [&b""[..], b"\xff\xff\xff", b"\x0a\x7f", b"\x22\x00"] {
        let (ours, _, sent) = dial(None, plain(), |_| payload.to_vec());
        assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
        assert!(sent.is_empty());
        let (ours, _) = answer(plain(), |_| payload.to_vec());
        assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
    }
}

#[test]
fn our_own_key_is_not_dialled() {
    let mut ours = Side::new(alice_dials(ALICE.peer_id()));
    assert!(ours.hear(&[]).is_empty());
    assert_eq!(ours.failure().code(), ErrorCode::InvalidInput);
}

#[test]
fn our_own_key_at_the_other_end_is_refused_on_both_sides() {
    let keypair = Keypair::generate_ed25519();
    let [one, other] = [identity(keypair.clone()), identity(keypair.clone())];
    let (a, b) =
        talk(Handshake::initiator(one, None), Handshake::responder(other.clone()), |_, _| ());
    assert_eq!(a.failure().code(), ErrorCode::InvalidInput);
    assert!(b.end.is_none());

    // A foreign initiator does not look, so our responder has to.
    let mut foreign = Foreign::new(true, plain(), |k| signed(&keypair, k).encode_to_vec());
    let mut ours = Side::new(Handshake::responder(other));
    let message = ours.hear(&foreign.write(false));
    foreign.read(&message);
    ours.hear(&foreign.write(true));
    assert_eq!(ours.failure().code(), ErrorCode::InvalidInput);
}
