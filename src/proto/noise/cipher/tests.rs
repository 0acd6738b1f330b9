//! Frames, and what is not one.

use proptest::prelude::*;

use super::super::schedule::Split;
use super::super::tests::vectors::hex;
use super::*;

/// Both ends of one direction.
fn pair(cipher: Cipher) -> (Sealer, Opener) {
    pair_of(cipher, &[7; 32])
}

/// The same with keys that last as many frames as is said for either end.
fn renewing(lasts: [u64; 2]) -> (Sealer, Opener) {
    let direction = |lasts| Direction::new(Cipher::Aes256Gcm, Secret::new([7; 32]), lasts);
    let [sealer, opener] = lasts.map(direction);
    (Sealer { direction: sealer }, Opener { direction: opener, poisoned: false })
}

fn any_cipher() -> impl Strategy<Value = Cipher> {
    prop::sample::select(&Cipher::ALL[..])
}

fn sealed(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; plain.len() + TAG];
    sealer.seal_into(plain, &mut frame).unwrap();
    frame
}

proptest! {
    #[test]
    fn both_ways_to_seal_and_both_ways_to_open_agree(
        cipher in any_cipher(),
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<[bool; 2]>()), 1..20),
    ) {
        let (mut sealer, mut opener) = pair(cipher);
        for (plain, [seal_in_place, open_in_place]) in frames {
            let mut frame = vec![0; plain.len() + TAG];
            if seal_in_place {
                frame[..plain.len()].copy_from_slice(&plain);
                sealer.seal_in_place(&mut frame).unwrap();
            } else {
                sealer.seal_into(&plain, &mut frame).unwrap();
            }
            let mut out = vec![0; plain.len()];
            if open_in_place {
                let n = opener.open_in_place(&mut frame).unwrap();
                out.copy_from_slice(&frame[..n]);
            } else {
                opener.open_into(&frame, &mut out).unwrap();
            }
            prop_assert_eq!(out, plain);
        }
    }

    #[test]
    fn a_damaged_frame_never_opens_and_nothing_opens_after_it(
        cipher in any_cipher(),
        plain in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
        cut in any::<Option<prop::sample::Index>>(),
        in_place in any::<bool>(),
    ) {
        let (mut sealer, mut opener) = pair(cipher);
        let good = sealed(&mut sealer, &plain);
        let mut bad = good.clone();
        match cut {
            Some(cut) => bad.truncate(cut.index(bad.len())),
            None => bad[at.index(good.len())] ^= 1u8 << bit,
        }
        let mut open = |frame: &[u8]| {
            let mut frame = frame.to_vec();
            if in_place {
                opener.open_in_place(&mut frame).map(drop)
            } else {
                let mut out = vec![0; frame.len().saturating_sub(TAG)];
                opener.open_into(&frame, &mut out)
            }
        };
        let next = sealed(&mut sealer, &plain);
        prop_assert_eq!(open(&bad).unwrap_err().code(), ErrorCode::DecryptFailed);
        // Neither the frame behind it opens now nor the one in its place.
        for frame in [&next, &good] {
            prop_assert_eq!(open(frame).unwrap_err().code(), ErrorCode::DecryptFailed);
        }
    }

    #[test]
    fn random_bytes_never_open(cipher in any_cipher(), frame in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (_, mut opener) = pair(cipher);
        prop_assert!(opener.open_in_place(&mut frame.clone()).is_err());
    }
}

#[test]
fn a_replayed_and_an_overtaking_frame_are_refused() {
    for cipher in Cipher::ALL {
        let (mut sealer, mut opener) = pair(cipher);
        let mut first = sealed(&mut sealer, b"one");
        let mut again = first.clone();
        opener.open_in_place(&mut first).unwrap();
        assert!(opener.open_in_place(&mut again).is_err());

        let (mut sealer, mut opener) = pair(cipher);
        let _first = sealed(&mut sealer, b"one");
        let mut second = sealed(&mut sealer, b"two");
        assert!(opener.open_in_place(&mut second).is_err());
    }
}

#[test]
fn no_plaintext_is_left_where_authentication_failed() {
    for cipher in Cipher::ALL {
        let (mut sealer, mut opener) = pair(cipher);
        let plain = [0xa5; 1000];
        let mut frame = sealed(&mut sealer, &plain);
        *frame.last_mut().unwrap() ^= 1;
        let mut out = [0x11; 1000];
        opener.open_into(&frame, &mut out).unwrap_err();
        assert!(!out.windows(8).any(|w| w == [0xa5; 8]));
    }
}

#[test]
fn the_longest_frame_passes_and_a_longer_one_is_never_made() {
    for cipher in Cipher::ALL {
        let (mut sealer, mut opener) = pair(cipher);
        let mut frame = sealed(&mut sealer, &[3; MAX_PLAIN]);
        assert_eq!(frame.len(), MAX_FRAME);
        assert_eq!(opener.open_in_place(&mut frame).unwrap(), MAX_PLAIN);

        let mut long = vec![0; MAX_FRAME + 1];
        let e = sealer.seal_into(&[3; MAX_PLAIN + 1], &mut long).unwrap_err();
        assert_eq!(e.code(), ErrorCode::InvalidInput);
        assert!(sealer.seal_in_place(&mut long).is_err());
        assert!(sealer.seal_in_place(&mut [0; TAG - 1]).is_err());
        // Refused before its number was taken: the next frame still fits.
        let mut next = sealed(&mut sealer, b"on we go");
        opener.open_in_place(&mut next).unwrap();
    }
}

#[test]
fn buffers_whose_lengths_do_not_match_are_an_error() {
    for cipher in Cipher::ALL {
        let (mut sealer, mut opener) = pair(cipher);
        assert!(sealer.seal_into(b"abc", &mut [0; 3 + TAG - 1]).is_err());
        assert!(sealer.seal_into(b"abc", &mut [0; 3 + TAG + 1]).is_err());
        assert!(opener.open_into(&[0; 3 + TAG], &mut [0; 4]).is_err());
    }
}

#[test]
fn both_ends_stop_long_before_the_nonces_end() {
    const { assert!(LAST_FRAME < u64::MAX / 2) };
    for cipher in Cipher::ALL {
        let (mut sealer, mut opener) = pair(cipher);
        for direction in [&mut sealer.direction, &mut opener.direction] {
            (direction.next, direction.turn) = (LAST_FRAME - 1, LAST_FRAME);
        }
        let mut last = sealed(&mut sealer, b"last");
        opener.open_in_place(&mut last).unwrap();
        let e = sealer.seal_into(b"one more", &mut [0; 8 + TAG]).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ConnectionAborted);
        assert_eq!(sealer.direction.next, LAST_FRAME);
        let e = opener.open_in_place(&mut [0; 8 + TAG]).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ConnectionAborted);
    }
}

#[test]
fn both_ends_change_keys_at_the_same_frame() {
    let (mut sealer, mut opener) = renewing([3, 3]);
    let mut keys = Vec::new();
    for number in 0..20 {
        let mut frame = sealed(&mut sealer, b"frame");
        if number % 2 == 0 {
            opener.open_in_place(&mut frame).unwrap();
        } else {
            opener.open_into(&frame, &mut [0; 5]).unwrap();
        }
        assert_eq!(sealer.direction.secret, opener.direction.secret);
        keys.push(sealer.direction.secret.clone());
    }
    let changes: Vec<usize> = (1..20).filter(|&i| keys[i] != keys[i - 1]).collect();
    assert_eq!(changes, [3, 6, 9, 12, 15, 18]);
    assert!((1..keys.len()).all(|i| i % 3 != 0 || !keys[..i].contains(&keys[i])));
}

#[test]
fn an_end_that_keeps_its_key_a_frame_too_long_or_too_short_is_not_understood() {
    for lasts in [[3, 4], [4, 3], [3, LAST_FRAME]] {
        let (mut sealer, mut opener) = renewing(lasts);
        for _ in 0..3 {
            opener.open_in_place(&mut sealed(&mut sealer, b"as agreed")).unwrap();
        }
        let e = opener.open_in_place(&mut sealed(&mut sealer, b"not so")).unwrap_err();
        assert_eq!(e.code(), ErrorCode::DecryptFailed);
    }
}

#[test]
fn the_number_goes_on_under_the_next_key() {
    let (mut sealer, _) = renewing([3, 3]);
    let frames: Vec<_> = (0..4).map(|_| sealed(&mut sealer, b"the same")).collect();
    let key = Key::new(Cipher::Aes256Gcm, &schedule::next(&Secret::new([7; 32])));
    let opens = |number| key.open(number, &[], &frames[3], &mut [0; 8]).is_ok();
    assert!(opens(3) && !opens(0));
}

#[test]
fn who_has_sealed_opens_again_what_its_present_key_has_sealed() {
    let (mut sealer, _) = renewing([4, 4]);
    let frames: Vec<_> = (0..7u8).map(|n| sealed(&mut sealer, &[n; 20])).collect();
    assert_eq!(sealer.position(), 7);
    assert!((0..4).all(|first| sealer.reopener(first).is_none()), "under the key before");
    let opener = sealer.reopener(5).expect("under the present key");
    // It lasts beyond that key.
    (0..4).for_each(|_| drop(sealed(&mut sealer, b"more")));
    assert!(sealer.reopener(5).is_none());
    let mut out = [0; 20];
    for (n, frame) in frames[5..].iter().enumerate() {
        opener.open_into(n as u64, frame, &mut out).unwrap();
        assert_eq!(out, [5 + n as u8; 20]);
        assert!(opener.open_into(n as u64 + 1, frame, &mut out).is_err(), "another's number");
    }
    assert!(opener.open_into(0, &frames[4], &mut out).is_err());
}

#[test]
fn libp2ps_own_cipher_keeps_its_key_for_good() {
    let (sealer, opener) = pair(Cipher::ChaCha20Poly1305);
    assert_eq!((sealer.direction.turn, opener.direction.turn), (LAST_FRAME, LAST_FRAME));
}

/// Computed by other means: HMAC of Python's library, AES-256-GCM of OpenSSL. The
/// handshake hash is that of the Noise vectors.
#[test]
fn frames_of_aes_have_the_known_bytes() {
    let hash = hex("c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e");
    let raw = |from| Secret::new(std::array::from_fn(|i| from + i as u8));
    let split = Split { initiator: raw(0), responder: raw(32) }.derive(&hash);
    let initiator = [
        (0, "140a447d17e12e239be8f71f3a4c01da714287da60f85e"),
        (1, "ff1166a059e2200953838ae98ee757c77df390b01b6c24"),
        ((1 << 20) - 1, "984b1818fbc9e47da810eb5ed1beb5f4b92087e9429f55ea885aae10c7"),
        (1 << 20, "0bf2bf7d3cce78df7fec2f473a9c3dfcfd06cca6fd778ff279eebdf709"),
        ((2 << 20) - 1, "4441d8cd88374d487e11e8dd291253f8a6b0a3d6d16595a6db98bdede9"),
        (2 << 20, "20e237099e4e8ff090e12422381548c0f56af5ddef7c95d07f21006049"),
    ];
    let responder = [
        (0, "d55afc5f9f9e0219cec57197c56ce17c62344055ecb003"),
        (1, "6d0bf21b9b5706fab644d191041d38475dc86948938712"),
        ((1 << 20) - 1, "b2c80ec6e834ea66d593f1fa8b650ff028734789bc3621c67d40b09398"),
        (1 << 20, "c46baa8b14680613b1e6a64fd2a526f505e6ab4881ae902c7b1c355b09"),
        ((2 << 20) - 1, "fdcaf3654354576d55369ddd32573c27346a53aee04f89e583470c72e2"),
        (2 << 20, "c06d635918418466e1e2dc4bd858c81bf56ebb6cfffd57589763ebf52a"),
    ];
    for (secret, frames) in [(split.initiator, initiator), (split.responder, responder)] {
        let (mut sealer, mut opener) = pair_of(Cipher::Aes256Gcm, &secret);
        for (number, bytes) in frames {
            sealer.direction.next = number;
            opener.direction.next = number;
            let plain = format!("frame {number}");
            let mut frame = sealed(&mut sealer, plain.as_bytes());
            assert_eq!(frame, hex(bytes), "{plain}");
            let n = opener.open_in_place(&mut frame).unwrap();
            assert_eq!(frame[..n], *plain.as_bytes());
        }
    }
}

#[test]
fn another_handshake_hash_or_another_key_leaves_no_frame_in_common() {
    let split = |hash: u8, initiator: u8, responder: u8| {
        Split { initiator: Secret::new([initiator; 32]), responder: Secret::new([responder; 32]) }
            .derive(&[hash; 32])
    };
    let good = split(1, 2, 3);
    assert_ne!(good.initiator, good.responder);
    for other in [split(0, 2, 3), split(1, 0, 3), split(1, 2, 0), split(1, 3, 2)] {
        for (ours, theirs) in
            [(&good.initiator, &other.initiator), (&good.responder, &other.responder)]
        {
            let (mut sealer, _) = pair_of(Cipher::Aes256Gcm, ours);
            let (_, mut opener) = pair_of(Cipher::Aes256Gcm, theirs);
            assert!(opener.open_in_place(&mut sealed(&mut sealer, b"frame")).is_err());
        }
    }
    // Nor is the handshake's own key of use for AES.
    let (_, mut opener) = pair_of(Cipher::Aes256Gcm, &[2; 32]);
    let (mut sealer, _) = pair_of(Cipher::Aes256Gcm, &good.initiator);
    assert!(opener.open_in_place(&mut sealed(&mut sealer, b"frame")).is_err());
}
