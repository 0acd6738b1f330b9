//! The handshake as a whole: between two of ours, with plain snow on its own
//! cryptography at the other end, and with everything that a peer can get wrong.

mod ciphers;
mod damage;
mod foreign;
mod known_answers;
pub(super) mod vectors;
mod who_it_is;

use std::sync::{Arc, LazyLock};

use libp2p_identity::{Keypair, PeerId};

use super::payload::EARLY_MUXER;
use super::*;
use crate::error::Error;
use crate::proto::buf::RecvBuf;

static ALICE: LazyLock<Arc<Identity>> = LazyLock::new(|| identity(Keypair::generate_ed25519()));
static BOB: LazyLock<Arc<Identity>> = LazyLock::new(|| identity(Keypair::generate_ed25519()));

fn identity(keypair: Keypair) -> Arc<Identity> {
    Arc::new(Identity::new(keypair).unwrap())
}

fn alice_dials(expected: impl Into<Option<PeerId>>) -> Handshake {
    Handshake::initiator(ALICE.clone(), expected.into())
}

fn bob_listens() -> Handshake {
    Handshake::responder(BOB.clone())
}

/// One side of ours, and what it has to say.
struct Side {
    state: Option<Handshake>,
    input: RecvBuf,
    end: Option<Result<Secured, Error>>,
}

impl Side {
    fn new(handshake: Handshake) -> Side {
        Side { state: Some(handshake), input: RecvBuf::default(), end: None }
    }

    /// Hands it `bytes`; what it wants to send comes back.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend(bytes);
        let mut out = Vec::new();
        if let Some(state) = self.state.take() {
            match state.advance(&mut self.input, &mut out) {
                Ok(Progress::More(state)) => self.state = Some(state),
                Ok(Progress::Done(secured)) => self.end = Some(Ok(secured)),
                Err(e) => self.end = Some(Err(e)),
            }
        }
        out
    }

    fn secured(self) -> Secured {
        self.end.expect("the handshake is over").unwrap()
    }

    fn failure(self) -> Error {
        self.end.expect("the handshake is over").unwrap_err()
    }

    fn is_secured(&self) -> bool {
        matches!(self.end, Some(Ok(_)))
    }
}

/// Lets the two talk until neither has anything to say; `tamper` sees each
/// message on its way, numbered from 1.
fn talk(
    initiator: Handshake,
    responder: Handshake,
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> (Side, Side) {
    let mut sides = [Side::new(initiator), Side::new(responder)];
    let mut message = sides[0].hear(&[]);
    for number in 1.. {
        if message.is_empty() {
            break;
        }
        tamper(number, &mut message);
        message = sides[number % 2].hear(&message);
    }
    let [initiator, responder] = sides;
    (initiator, responder)
}

fn carries(sealer: &mut Sealer, opener: &mut Opener, plain: &[u8]) {
    let mut frame = vec![0; plain.len() + TAG];
    sealer.seal_into(plain, &mut frame).unwrap();
    let n = opener.open_in_place(&mut frame).unwrap();
    assert_eq!(&frame[..n], plain);
}

#[test]
fn both_sides_learn_who_the_other_is_and_share_keys() {
    for expected in [None, Some(BOB.peer_id())] {
        let (a, b) = talk(alice_dials(expected), bob_listens(), |_, _| ());
        let (mut a, mut b) = (a.secured(), b.secured());
        assert_eq!((a.peer, b.peer), (BOB.peer_id(), ALICE.peer_id()));
        assert_eq!(a.early_muxer.as_deref(), Some(EARLY_MUXER));
        assert_eq!(b.early_muxer.as_deref(), Some(EARLY_MUXER));
        carries(&mut a.sealer, &mut b.opener, b"from the initiator");
        carries(&mut b.sealer, &mut a.opener, b"from the responder");
        carries(&mut b.sealer, &mut a.opener, b"");
    }
}

#[test]
fn a_peer_may_have_a_key_of_any_type() {
    let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
        aws_lc_rs::encoding::AsDer::as_der(&rsa).unwrap();
    for keypair in [
        Keypair::generate_ed25519(),
        Keypair::generate_secp256k1(),
        Keypair::generate_ecdsa(),
        Keypair::rsa_from_pkcs8(&mut der.as_ref().to_vec()).unwrap(),
    ] {
        let peer = keypair.public().to_peer_id();
        let carol = identity(keypair);
        let (a, c) = talk(alice_dials(peer), Handshake::responder(carol.clone()), |_, _| ());
        assert_eq!((a.secured().peer, c.secured().peer), (peer, ALICE.peer_id()));
        let (_, b) = talk(Handshake::initiator(carol, None), bob_listens(), |_, _| ());
        assert_eq!(b.secured().peer, peer);
    }
}

#[test]
fn single_bytes_are_as_good_as_segments() {
    let mut sides = [Side::new(alice_dials(BOB.peer_id())), Side::new(bob_listens())];
    let mut message = sides[0].hear(&[]);
    for number in 1..=3 {
        let last = message.pop().unwrap();
        for byte in message {
            assert!(sides[number % 2].hear(&[byte]).is_empty());
            assert!(sides[number % 2].end.is_none());
        }
        message = sides[number % 2].hear(&[last]);
    }
    let [a, b] = sides;
    assert_eq!((a.secured().peer, b.secured().peer), (BOB.peer_id(), ALICE.peer_id()));
}

#[test]
fn frames_behind_the_last_message_stay_in_the_input() {
    let (a, b) = talk(alice_dials(None), bob_listens(), |number, message| {
        if number == 3 {
            message.extend(b"frames that came along");
        }
    });
    assert!(a.is_secured() && b.is_secured());
    assert_eq!(b.input.readable(), b"frames that came along");
}

#[test]
fn states_can_move_to_a_worker_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Handshake>();
    assert_send::<Secured>();
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Identity>();
}
