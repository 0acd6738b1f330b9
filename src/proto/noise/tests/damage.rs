//! What a peer, or the wire, can get wrong.

use std::error::Error as _;

use proptest::prelude::*;
use prost::Message;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

use super::foreign::{answer, dial, signed};
use super::vectors::hex;
use super::*;
use crate::error::ErrorCode;
use crate::fuzz::{damaged, fuzz};
use crate::proto::noise::payload::MAX_PAYLOAD;
use crate::proto::noise::resolver::{AwsLc, Dh25519};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_flipped_bit_in_any_message_ends_in_no_connection(
        message in 1..=3usize,
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let (a, b) = talk(alice_dials(BOB.peer_id()), bob_listens(), |number, bytes| {
            if number == message {
                let at = at.index(bytes.len());
                bytes[at] ^= 1u8 << bit;
            }
        });
        prop_assert!(!b.is_secured());
        // Whoever sent message 3 is through; the first frame will tell him.
        prop_assert_eq!(a.is_secured(), message == 3);
    }

    #[test]
    fn a_message_that_stops_short_is_waited_for_and_means_nothing(
        message in 1..=3usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let (a, b) = talk(alice_dials(BOB.peer_id()), bob_listens(), |number, bytes| {
            if number == message {
                bytes.truncate(cut.index(bytes.len()));
            }
        });
        let victim = if message == 2 { a } else { b };
        prop_assert!(victim.end.is_none());
        prop_assert!(victim.state.is_some());
    }

    #[test]
    fn random_bytes_make_no_connection(
        as_initiator in any::<bool>(),
        segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        length_fits in any::<bool>(),
    ) {
        let handshake = if as_initiator { alice_dials(None) } else { bob_listens() };
        let mut ours = Side::new(handshake);
        ours.hear(&[]);
        if length_fits {
            ours.hear(&[0, if as_initiator { 96 } else { 32 }]);
        }
        for segment in segments {
            ours.hear(&segment);
        }
        prop_assert!(!ours.is_secured());
    }
}

#[test]
fn fuzz_noise_handshake() {
    // A message of the right length with anything inside, or a damaged real one.
    let framed = damaged(Just(vec![7; 96])).prop_map(|mut bytes| {
        bytes.truncate(MAX_PAYLOAD);
        let mut wire = (bytes.len() as u16).to_be_bytes().to_vec();
        wire.append(&mut bytes);
        wire
    });
    let damages = damaged(Just(Vec::new()));
    fuzz((1..=3usize, any::<bool>(), framed, damages), |(message, replace, framed, noise)| {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (a, b) = talk(alice_dials(BOB.peer_id()), bob_listens(), |number, bytes| {
            if number == message {
                before = bytes.clone();
                match replace {
                    true => *bytes = framed.clone(),
                    false => {
                        let n = bytes.len().min(noise.len());
                        bytes.iter_mut().zip(&noise[..n]).for_each(|(b, x)| *b ^= x);
                        bytes.truncate(bytes.len() - usize::from(noise.is_empty()));
                    }
                }
                after = bytes.clone();
            }
        });
        if before != after && !after.starts_with(&before) {
            prop_assert!(!b.is_secured());
            prop_assert_eq!(a.is_secured(), message == 3);
        }
        Ok(())
    });
}

#[test]
fn a_length_that_no_message_has_is_refused_before_the_message_is_there() {
    let longest = MAX_PAYLOAD as u16;
    for len in [0, 1, 31, 33, 95, 96 + longest + 1, u16::MAX] {
        let mut ours = Side::new(bob_listens());
        ours.hear(&len.to_be_bytes());
        assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed, "message 1 of {len}");
    }
    for len in [0, 1, 95, 96 + longest + 1, u16::MAX] {
        let mut ours = Side::new(alice_dials(None));
        ours.hear(&[]);
        assert!(ours.hear(&len.to_be_bytes()).is_empty());
        assert_eq!(ours.failure().code(), ErrorCode::HandshakeFailed, "message 2 of {len}");
    }
    for len in [0, 1, 63, 64 + longest + 1, u16::MAX] {
        let (_, b) = talk(alice_dials(None), bob_listens(), |number, bytes| {
            if number == 3 {
                *bytes = len.to_be_bytes().to_vec();
            }
        });
        assert_eq!(b.failure().code(), ErrorCode::HandshakeFailed, "message 3 of {len}");
    }
}

#[test]
fn an_ephemeral_key_of_low_order_is_refused() {
    for point in low_order_points() {
        let mut ours = Side::new(bob_listens());
        let sent = ours.hear(&[&[0, 32][..], &point].concat());
        assert!(sent.is_empty());
        assert_is_dh_failure(ours);

        let mut ours = Side::new(alice_dials(None));
        ours.hear(&[]);
        let sent = ours.hear(&[&[0, 96][..], &point, &[0; 64]].concat());
        assert!(sent.is_empty());
        assert_is_dh_failure(ours);
    }
}

#[test]
fn a_static_key_of_low_order_is_refused() {
    let keypair = Keypair::generate_ed25519();
    for point in low_order_points() {
        let resolver = || Box::new(LowOrderStatic(point));
        let say = |_: &[u8]| signed(&keypair, &point).encode_to_vec();
        let (ours, _, sent) = dial(None, resolver(), say);
        assert!(sent.is_empty());
        assert_is_dh_failure(ours);
        let (ours, _) = answer(resolver(), say);
        assert_is_dh_failure(ours);
    }
}

fn assert_is_dh_failure(side: Side) {
    let e = side.failure();
    assert_eq!(e.code(), ErrorCode::HandshakeFailed);
    let source = e.source().and_then(|e| e.downcast_ref::<snow::Error>());
    assert_eq!(source, Some(&snow::Error::Dh));
}

/// All of Curve25519's points of low order, with and without the bit that
/// X25519 ignores.
fn low_order_points() -> Vec<[u8; 32]> {
    let order_8 = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ];
    let mut points = vec![[0; 32], [0; 32]];
    points[1][0] = 1;
    points.extend(order_8.map(|digits| <[u8; 32]>::try_from(hex(digits)).unwrap()));
    // The field's prime, one less, one more: -1, and other ways to write 0 and 1.
    for low in [0xec, 0xed, 0xee] {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (low, 0x7f);
        points.push(point);
    }
    let ignored_bit = points.clone().into_iter().map(|mut point| {
        point[31] |= 0x80;
        point
    });
    points.extend(ignored_bit.collect::<Vec<_>>());
    points
}

/// Honest but for the static key: a point of low order, whose shared secrets
/// are zero, so that the attack works where nobody looks.
struct LowOrderStatic([u8; 32]);

impl CryptoResolver for LowOrderStatic {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        aws_lc().resolve_rng()
    }
    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        let honest = Dh25519::with_static(BOB.noise().clone());
        Some(Box::new(LowOrderDh { point: self.0, is_static: false, honest }))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        aws_lc().resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        aws_lc().resolve_cipher(choice)
    }
}

fn aws_lc() -> AwsLc {
    AwsLc(BOB.noise().clone())
}

struct LowOrderDh {
    point: [u8; 32],
    is_static: bool,
    honest: Dh25519,
}

impl Dh for LowOrderDh {
    fn name(&self) -> &'static str {
        self.honest.name()
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    /// snow sets static keys and generates ephemeral ones.
    fn set(&mut self, _: &[u8]) {
        self.is_static = true;
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.honest.generate(rng)
    }
    fn pubkey(&self) -> &[u8] {
        if self.is_static { &self.point } else { self.honest.pubkey() }
    }
    fn privkey(&self) -> &[u8] {
        &[0; 32]
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        if self.is_static {
            out[..32].fill(0);
            return Ok(());
        }
        self.honest.dh(public, out)
    }
}
