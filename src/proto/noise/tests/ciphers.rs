//! Two hosts come to the same cipher, and nobody between them has a say in it.

use prost::Message;
use snow::resolvers::DefaultResolver;

use super::foreign::{answer, dial, signed};
use super::*;
use crate::error::ErrorCode;
use crate::proto::noise::payload;

fn capable(capabilities: Capabilities) -> Arc<Identity> {
    let keypair = Keypair::generate_ed25519();
    Arc::new(Identity::with_capabilities(keypair, capabilities).unwrap())
}

fn with_aes() -> Capabilities {
    Capabilities::with_aes()
}

fn without() -> Capabilities {
    Capabilities::new(&[Cipher::ChaCha20Poly1305])
}

fn meet(
    initiator: Capabilities,
    responder: Capabilities,
    tamper: impl FnMut(usize, &mut Vec<u8>),
) -> (Side, Side) {
    let initiator = Handshake::initiator(capable(initiator), None);
    talk(initiator, Handshake::responder(capable(responder)), tamper)
}

/// What stands last in a message: the capabilities, and the tag of the payload.
const SAID: usize = 13;

#[test]
fn two_hosts_take_aes_if_both_offer_it_and_else_libp2ps_cipher() {
    for (ours, theirs, cipher) in [
        (with_aes(), with_aes(), Cipher::Aes256Gcm),
        (with_aes(), without(), Cipher::ChaCha20Poly1305),
        (without(), with_aes(), Cipher::ChaCha20Poly1305),
        (without(), without(), Cipher::ChaCha20Poly1305),
    ] {
        let (a, b) = meet(ours, theirs, |_, _| ());
        let (mut a, mut b) = (a.secured(), b.secured());
        assert_eq!((a.cipher, b.cipher), (cipher, cipher));
        assert_eq!((a.peer_capabilities, b.peer_capabilities), (Some(theirs), Some(ours)));
        for plain in [&b"first"[..], b"", &[7; MAX_PLAIN]] {
            carries(&mut a.sealer, &mut b.opener, plain);
            carries(&mut b.sealer, &mut a.opener, plain);
        }
    }
}

#[test]
fn the_directions_have_keys_of_their_own() {
    let (a, b) = meet(with_aes(), with_aes(), |_, _| ());
    let (mut a, mut b) = (a.secured(), b.secured());
    let mut frames = [[0; 3 + TAG]; 2];
    a.sealer.seal_into(b"one", &mut frames[0]).unwrap();
    b.sealer.seal_into(b"one", &mut frames[1]).unwrap();
    assert_ne!(frames[0], frames[1]);
    assert!(a.opener.open_in_place(&mut frames[0]).is_err(), "one's own frame, sent back");
}

#[test]
fn a_flipped_bit_in_the_capabilities_ends_the_handshake() {
    for number in [2, 3] {
        for bit in 0..SAID * 8 {
            let (a, b) = meet(with_aes(), with_aes(), |i, message| {
                if i == number {
                    let at = message.len() - TAG - SAID + bit / 8;
                    message[at] ^= 1 << (bit % 8);
                }
            });
            let victim = if number == 2 { a } else { b };
            assert_eq!(victim.failure().code(), ErrorCode::HandshakeFailed);
        }
    }
}

/// Whoever is between two hosts and knows all that they say, but no key, turns the
/// bits of AES off in both directions.
#[test]
fn a_downgrade_of_both_messages_ends_the_handshake() {
    let (a, b) = meet(with_aes(), with_aes(), |i, message| {
        if i > 1 {
            let ciphers = message.len() - TAG - SAID + 8;
            message[ciphers] ^= 2;
        }
    });
    assert_eq!(a.failure().code(), ErrorCode::HandshakeFailed);
    assert!(b.end.is_none());
}

#[test]
fn capabilities_that_are_cut_out_end_the_handshake() {
    for number in [2, 3] {
        let (a, b) = meet(with_aes(), with_aes(), |i, message| {
            if i == number {
                let end = message.len() - TAG;
                message.drain(end - SAID - 4..end);
                let len = u16::try_from(message.len() - 2).unwrap();
                message[..2].copy_from_slice(&len.to_be_bytes());
            }
        });
        let victim = if number == 2 { a } else { b };
        assert_eq!(victim.failure().code(), ErrorCode::HandshakeFailed);
    }
}

#[test]
fn a_message_replayed_from_a_handshake_without_aes_ends_the_handshake() {
    let bob = Keypair::generate_ed25519();
    let responder = |capabilities| {
        Handshake::responder(Arc::new(
            Identity::with_capabilities(bob.clone(), capabilities).unwrap(),
        ))
    };
    let mut old = Vec::new();
    talk(Handshake::initiator(capable(with_aes()), None), responder(without()), |i, message| {
        if i == 2 {
            old.clone_from(message);
        }
    });
    let dial = Handshake::initiator(capable(with_aes()), None);
    let (a, _) = talk(dial, responder(with_aes()), |i, message| {
        if i == 2 {
            message.clone_from(&old);
        }
    });
    assert_eq!(a.failure().code(), ErrorCode::HandshakeFailed);
}

/// Payloads of nodes that are not of this library, or that say nothing we know.
fn others(keypair: &Keypair, noise_static: &[u8]) -> Vec<Vec<u8>> {
    let honest = signed(keypair, noise_static).encode_to_vec();
    let extensions: [&[u8]; 6] = [
        b"",
        b"\x9a\x83\x0a\x00",
        b"\x9a\x83\x0a\x0dqsub\x01\0\0\0\x03\0\0\0\0",
        b"\x9a\x83\x0a\x0dpsub\x02\0\0\0\x03\0\0\0\0",
        b"\x9a\x83\x0a\x0cpsub\x01\0\0\0\x03\0\0\0",
        b"\x98\x83\x0a\x07",
    ];
    extensions
        .map(|bytes| [&honest[..], &[0x22, u8::try_from(bytes.len()).unwrap()], bytes].concat())
        .to_vec()
}

#[test]
fn a_node_that_says_nothing_or_nonsense_of_capabilities_gets_libp2ps_cipher() {
    let keypair = Keypair::generate_ed25519();
    for i in 0..others(&keypair, &[]).len() {
        let say = |key: &[u8]| others(&keypair, key).swap_remove(i);
        let (ours, foreign, sent) = dial(None, Box::new(DefaultResolver), say);
        let mut foreign = foreign;
        foreign.read(&sent);
        let ours = ours.secured();
        assert_eq!(ours.cipher, Cipher::ChaCha20Poly1305);
        assert_eq!(ours.peer_capabilities, None);
        foreign.exchange_frames(ours);

        let (ours, foreign) = answer(Box::new(DefaultResolver), say);
        let ours = ours.secured();
        assert_eq!(ours.cipher, Cipher::ChaCha20Poly1305);
        assert_eq!(ours.peer_capabilities, None);
        foreign.exchange_frames(ours);
    }
}

#[test]
fn what_we_say_is_what_the_host_may_use() {
    for capabilities in [with_aes(), without()] {
        let identity = capable(capabilities);
        assert_eq!(Capabilities::find(identity.payload()), Some(capabilities));
        assert!(identity.payload().len() <= payload::MAX_PAYLOAD);
    }
}
