//! The cryptography gives what it is known to give.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::vectors::hex;
use crate::proto::noise::cipher::{Cipher, pair_of};
use crate::proto::noise::resolver::{AwsLc, KeyPair};

/// The vector for this protocol of the Noise vectors that cacophony generated:
/// payloads and what they become, the handshake first, then frames by turns.
#[test]
fn the_known_answers_of_the_noise_vectors_come_out() {
    let prologue = hex("4a6f686e2047616c74");
    let side = |private: &str, ephemeral: &str, initiator: bool| {
        let params = "Noise_XX_25519_ChaChaPoly_SHA256".parse().unwrap();
        let (private, ephemeral) = (hex(private), hex(ephemeral));
        // One side's static key is that of its host, computed before.
        let ours = if initiator { private.clone() } else { ephemeral.clone() };
        let ours = KeyPair::new(Zeroizing::new(ours.try_into().unwrap()));
        let builder = snow::Builder::with_resolver(params, Box::new(AwsLc(Arc::new(ours))))
            .prologue(&prologue)
            .unwrap()
            .local_private_key(&private)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral);
        if initiator { builder.build_initiator() } else { builder.build_responder() }.unwrap()
    };
    let mut sides = [
        side(
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            true,
        ),
        side(
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
            false,
        ),
    ];
    let handshake = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
             4c756477696720766f6e204d69736573",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
             81cbad1f276e038c48378ffce2b65285e08d6b68aaa3629a5a8639392490e5b9\
             bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f\
             8814c7194e83f23dbd8d162c9326ad",
        ),
        (
            "462e20412e20486179656b",
            "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a8\
             0ae475b9df0f169ae80a89be0865b57f58c9fea0d4ec82a286427402f113e4b6\
             ae769a1d95941d49b25030",
        ),
    ];
    for (i, (payload, message)) in handshake.into_iter().enumerate() {
        let (payload, message) = (hex(payload), hex(message));
        let mut out = [0; 256];
        let n = sides[i % 2].write_message(&payload, &mut out).unwrap();
        assert_eq!(out[..n], message);
        let n = sides[1 - i % 2].read_message(&message, &mut out).unwrap();
        assert_eq!(out[..n], payload);
    }
    let hash = hex("c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e");
    assert!(sides.iter().all(|side| side.get_handshake_hash() == hash));

    let [(to_responder, to_initiator), same] = sides.map(|mut s| s.dangerously_get_raw_split());
    assert_eq!((to_responder, to_initiator), same);
    let frames = [
        ("4361726c204d656e676572", "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df"),
        (
            "4a65616e2d426170746973746520536179",
            "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
        ),
    ];
    // The handshake's three messages went by turns, so the responder is next.
    let keys = [to_initiator, to_responder];
    let mut pairs = keys.map(|key| pair_of(Cipher::ChaCha20Poly1305, &key));
    for (i, (plain, frame)) in frames.into_iter().enumerate() {
        let (plain, mut frame) = (hex(plain), hex(frame));
        let mut out = vec![0; frame.len()];
        let (sealer, opener) = &mut pairs[i % 2];
        sealer.seal_into(&plain, &mut out).unwrap();
        assert_eq!(out, frame);
        let n = opener.open_in_place(&mut frame).unwrap();
        assert_eq!(frame[..n], plain);
    }
}
