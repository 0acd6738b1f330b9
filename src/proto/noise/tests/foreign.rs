//! Plain snow, on its own cryptography, at the other end.

use prost::Message;
use snow::HandshakeState;
use snow::resolvers::{BoxedCryptoResolver, DefaultResolver};

use super::*;
use crate::error::ErrorCode;
use crate::proto::noise::payload::{MAX_PAYLOAD, Payload};

/// A libp2p peer that is not ours: snow, and what it is told to say.
pub(super) struct Foreign {
    noise: HandshakeState,
    payload: Vec<u8>,
}

impl Foreign {
    pub(super) fn new(
        initiator: bool,
        resolver: BoxedCryptoResolver,
        payload: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Foreign {
        let params = "Noise_XX_25519_ChaChaPoly_SHA256".parse().unwrap();
        let builder = snow::Builder::with_resolver(params, resolver);
        let keys = builder.generate_keypair().unwrap();
        let builder = builder.local_private_key(&keys.private).unwrap();
        let noise = if initiator { builder.build_initiator() } else { builder.build_responder() };
        Foreign { noise: noise.unwrap(), payload: payload(&keys.public) }
    }

    pub(super) fn write(&mut self, with_payload: bool) -> Vec<u8> {
        let payload = if with_payload { &self.payload[..] } else { &[] };
        let mut message = vec![0; 60_000];
        let n = self.noise.write_message(payload, &mut message).unwrap();
        [&(n as u16).to_be_bytes(), &message[..n]].concat()
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Payload {
        let mut payload = vec![0; message.len()];
        let n = self.noise.read_message(&message[2..], &mut payload).unwrap();
        Payload::decode(&payload[..n]).unwrap()
    }

    /// Frames each way, those of the other end sealed and opened by snow itself.
    pub(super) fn exchange_frames(self, mut ours: Secured) {
        let mut theirs = self.noise.into_transport_mode().unwrap();
        for len in [0, 1, 63, 64, 65, 4096, MAX_PLAIN] {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut frame = vec![0; len + TAG];
            let mut opened = vec![0; len];
            ours.sealer.seal_into(&plain, &mut frame).unwrap();
            theirs.read_message(&frame, &mut opened).unwrap();
            assert_eq!(opened, plain);
            theirs.write_message(&plain, &mut frame).unwrap();
            ours.opener.open_into(&frame, &mut opened).unwrap();
            assert_eq!(opened, plain);
        }
    }
}

/// An honest payload for a Noise key, as rust-libp2p sends it: no extensions.
pub(super) fn signed(keypair: &Keypair, noise_static: &[u8]) -> Payload {
    let signed = [b"noise-libp2p-static-key:", noise_static].concat();
    Payload {
        identity_key: Some(keypair.public().encode_protobuf()),
        identity_sig: Some(keypair.sign(&signed).unwrap()),
        extensions: None,
    }
}

/// Our initiator's end against a responder that says `payload`, and all that
/// the initiator sent after message 2.
pub(super) fn dial(
    expected: Option<PeerId>,
    resolver: BoxedCryptoResolver,
    payload: impl FnOnce(&[u8]) -> Vec<u8>,
) -> (Side, Foreign, Vec<u8>) {
    let mut foreign = Foreign::new(false, resolver, payload);
    let mut ours = Side::new(alice_dials(expected));
    foreign.read(&ours.hear(&[]));
    let sent = ours.hear(&foreign.write(true));
    (ours, foreign, sent)
}

/// Our responder's end against an initiator that says `payload`.
pub(super) fn answer(
    resolver: BoxedCryptoResolver,
    payload: impl FnOnce(&[u8]) -> Vec<u8>,
) -> (Side, Foreign) {
    let mut foreign = Foreign::new(true, resolver, payload);
    let mut ours = Side::new(bob_listens());
    let message = ours.hear(&foreign.write(false));
    let theirs = foreign.read(&message);
    assert_eq!(theirs.identity_key.unwrap(), BOB.public_key().encode_protobuf());
    assert!(ours.hear(&foreign.write(true)).is_empty());
    (ours, foreign)
}

#[test]
fn our_initiator_and_a_foreign_responder_understand_each_other() {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let say = |key: &[u8]| signed(&keypair, key).encode_to_vec();
    let (ours, mut foreign, sent) = dial(Some(peer), Box::new(DefaultResolver), say);
    let theirs = foreign.read(&sent);
    assert_eq!(theirs.identity_key.unwrap(), ALICE.public_key().encode_protobuf());
    assert_eq!(theirs.extensions.unwrap().stream_muxers, [EARLY_MUXER]);
    let ours = ours.secured();
    assert_eq!((ours.peer, &ours.early_muxer), (peer, &None));
    foreign.exchange_frames(ours);
}

#[test]
fn our_responder_and_a_foreign_initiator_understand_each_other() {
    let keypair = Keypair::generate_secp256k1();
    let say = |key: &[u8]| signed(&keypair, key).encode_to_vec();
    let (ours, foreign) = answer(Box::new(DefaultResolver), say);
    let ours = ours.secured();
    assert_eq!((ours.peer, &ours.early_muxer), (keypair.public().to_peer_id(), &None));
    foreign.exchange_frames(ours);
}

#[test]
fn the_longest_payload_is_read_and_a_longer_one_is_refused_by_its_length() {
    let keypair = Keypair::generate_ed25519();
    let padded = |len: usize| {
        let keypair = keypair.clone();
        move |key: &[u8]| {
            let mut payload = signed(&keypair, key).encode_to_vec();
            let padding = len - payload.len() - 4;
            prost::encoding::bytes::encode(1025, &vec![0; padding], &mut payload);
            assert_eq!(payload.len(), len);
            payload
        }
    };
    let (ours, ..) = dial(None, Box::new(DefaultResolver), padded(MAX_PAYLOAD));
    assert!(ours.is_secured());
    let (ours, _) = answer(Box::new(DefaultResolver), padded(MAX_PAYLOAD));
    assert!(ours.is_secured());
    let (ours, ..) = dial(None, Box::new(DefaultResolver), padded(MAX_PAYLOAD + 1));
    assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
    let (ours, _) = answer(Box::new(DefaultResolver), padded(MAX_PAYLOAD + 1));
    assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed);
}
