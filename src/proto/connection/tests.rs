//! Upgrades against each other and against scripts of other nodes, in every portion.

use std::sync::Arc;

use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;
use snow::TransportState;

use super::foreign::{self, HEADER, Link, NOISE, Style, YAMUX, frame, line, unframe};
use super::{Upgrade, Upgraded};
use crate::error::ErrorCode;
use crate::fuzz::{damaged, fuzz};
use crate::proto::noise::{Capabilities, Cipher, Identity};

fn identity(seed: u8) -> Arc<Identity> {
    let keypair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    Arc::new(Identity::with_capabilities(keypair, Capabilities::with_aes()).unwrap())
}

fn dialer() -> Upgrade {
    Upgrade::dialer(identity(1), None)
}

fn listener() -> Upgrade {
    Upgrade::listener(identity(2))
}

fn id(seed: u8) -> PeerId {
    identity(seed).peer_id()
}

const WHOLE: &[usize] = &[usize::MAX];

/// Portions in which bytes may arrive, among them the extremes.
const PORTIONS: &[&[usize]] = &[WHOLE, &[1], &[2], &[3, 1], &[7], &[19, 1], &[28, 2], &[64]];

/// Lets two links talk until neither has anything to say.
fn talk(dialer: &mut Link, listener: &mut Link) {
    while !dialer.sent.is_empty() || !listener.sent.is_empty() {
        listener.deliver(&dialer.take_all());
        dialer.deliver(&listener.take_all());
    }
}

/// Sends `plain` from one of our ends to the other, past the upgrade.
fn pass(from: &mut Upgraded, to: &mut Upgraded, plain: &[u8]) {
    let mut sealed = vec![0; plain.len() + 16];
    from.sealer.seal_into(plain, &mut sealed).unwrap();
    let mut opened = vec![0; plain.len()];
    to.opener.open_into(&sealed, &mut opened).unwrap();
    assert_eq!(opened, plain);
}

/// Sends `plain` each way between us and a script, past the upgrade.
fn exchange(ours: &mut Upgraded, theirs: &mut TransportState, link: &mut Link, plain: &[u8]) {
    let mut sealed = vec![0; plain.len() + 16];
    ours.sealer.seal_into(plain, &mut sealed).unwrap();
    link.sent.extend(u16::try_from(sealed.len()).unwrap().to_be_bytes());
    link.sent.extend(sealed);
    assert_eq!(unframe(theirs, link), plain);

    let sealed = frame(theirs, plain);
    let mut opened = vec![0; plain.len()];
    ours.opener.open_into(&sealed[2..], &mut opened).unwrap();
    assert_eq!(opened, plain);
}

fn two_of_ours(portions: &[usize]) {
    let expected = Some(id(2));
    let mut dialer = Link::new(Upgrade::dialer(identity(1), expected), portions);
    let mut listener = Link::new(listener(), portions);
    talk(&mut dialer, &mut listener);
    assert!(dialer.input.is_empty() && listener.input.is_empty());
    let (mut dialer, mut listener) = (dialer.upgraded(), listener.upgraded());
    assert_eq!((dialer.peer, listener.peer), (id(2), id(1)));
    assert!(dialer.is_dialer && !listener.is_dialer);
    let said = Some(Capabilities::with_aes());
    assert_eq!((dialer.peer_capabilities, listener.peer_capabilities), (said, said));
    assert_eq!((dialer.cipher, listener.cipher), (Cipher::Aes256Gcm, Cipher::Aes256Gcm));
    assert!(dialer.leftover.is_empty() && listener.leftover.is_empty());
    pass(&mut dialer, &mut listener, b"there");
    pass(&mut listener, &mut dialer, b"and back");
}

fn a_script_dials(style: Style, portions: &[usize]) {
    let mut link = Link::new(listener(), portions);
    let mut theirs = foreign::dial(&mut link, style);
    let mut ours = link.upgraded();
    assert_eq!((ours.peer, ours.is_dialer), (foreign::peer_id(), false));
    assert_eq!((ours.cipher, ours.peer_capabilities), (Cipher::ChaCha20Poly1305, None));
    assert!(ours.leftover.is_empty() && link.input.is_empty() && link.sent.is_empty());
    exchange(&mut ours, &mut theirs, &mut link, b"yamux");
}

fn a_script_is_dialled(style: Style, portions: &[usize]) {
    let expected = Some(foreign::peer_id());
    let mut link = Link::new(Upgrade::dialer(identity(1), expected), portions);
    let mut theirs = foreign::accept(&mut link, style);
    let mut ours = link.upgraded();
    assert_eq!((ours.peer, ours.is_dialer), (foreign::peer_id(), true));
    assert_eq!((ours.cipher, ours.peer_capabilities), (Cipher::ChaCha20Poly1305, None));
    assert!(ours.leftover.is_empty() && link.input.is_empty() && link.sent.is_empty());
    exchange(&mut ours, &mut theirs, &mut link, b"yamux");
}

#[test]
fn two_of_ours_agree_in_any_portions() {
    PORTIONS.iter().for_each(|portions| two_of_ours(portions));
}

#[test]
fn whoever_dials_is_upgraded_in_any_portions() {
    for style in Style::ALL {
        PORTIONS.iter().for_each(|portions| a_script_dials(style, portions));
    }
}

#[test]
fn whoever_is_dialled_is_upgraded_in_any_portions() {
    for style in Style::ALL {
        PORTIONS.iter().for_each(|portions| a_script_is_dialled(style, portions));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn random_portions_change_nothing(
        portions in prop::collection::vec(1usize..60, 1..20), style in prop::sample::select(&Style::ALL[..]),
    ) {
        two_of_ours(&portions);
        a_script_dials(style, &portions);
        a_script_is_dialled(style, &portions);
    }
}

#[test]
fn the_dialer_says_everything_up_to_message_1_in_one_write_and_nothing_of_itself() {
    let mut link = Link::new(dialer(), WHOLE);
    link.expect_line(HEADER);
    link.expect_line(NOISE);
    assert_eq!(link.take_frame().len(), 32, "an ephemeral key");
    assert!(link.sent.is_empty());
}

#[test]
fn one_round_trip_is_enough_between_two_of_ours() {
    let mut dialer = Link::new(dialer(), WHOLE);
    let mut listener = Link::new(listener(), WHOLE);
    listener.deliver(&dialer.take_all());
    dialer.deliver(&listener.take_all());
    assert!(dialer.has_ended() && !listener.has_ended());
    listener.deliver(&dialer.take_all());
    assert!(listener.has_ended() && listener.sent.is_empty());
}

#[test]
fn frames_behind_the_upgrade_stay_in_the_input_as_they_came() {
    for portions in PORTIONS {
        let mut dialer = Link::new(dialer(), portions);
        let mut listener = Link::new(listener(), portions);
        listener.deliver(&dialer.take_all());
        dialer.deliver(&listener.take_all());
        let behind = [&dialer.take_all()[..], b"frames"].concat();
        listener.deliver(&behind);
        assert_eq!(listener.input.readable(), b"frames");
        assert!(listener.upgraded().leftover.is_empty());
    }
}

#[test]
fn a_dialer_that_does_not_wait_for_yamux_loses_nothing() {
    for portions in PORTIONS {
        let mut link = Link::new(listener(), portions);
        let mut theirs = foreign::dial_noise(&mut link, Style::Rust);
        let together = [line(HEADER), line(YAMUX), b"in the same frame".to_vec()].concat();
        let mut wire = frame(&mut theirs, &together);
        let next = frame(&mut theirs, b"in the next");
        wire.extend_from_slice(&next);
        link.deliver(&wire);
        assert_eq!(link.input.readable(), next);
        let mut ours = link.upgraded();
        assert_eq!(ours.leftover, b"in the same frame");
        let mut opened = [0; 11];
        ours.opener.open_into(&next[2..], &mut opened).unwrap();
        assert_eq!(&opened, b"in the next");
    }
}

#[test]
fn a_listener_whose_answer_and_first_frame_come_together_loses_nothing() {
    let mut link = Link::new(dialer(), WHOLE);
    let mut theirs = foreign::accept_noise(&mut link, Style::Py);
    unframe(&mut theirs, &mut link);
    let together = [line(HEADER), line(YAMUX), b"ping".to_vec()].concat();
    let wire = frame(&mut theirs, &together);
    link.deliver(&wire);
    assert_eq!(link.upgraded().leftover, b"ping");
}

#[test]
fn a_peer_without_noise_is_named() {
    let mut link = Link::new(dialer(), WHOLE);
    link.deliver(&[line(HEADER), line("na")].concat());
    let error = link.error();
    assert_eq!(error.code(), ErrorCode::HandshakeFailed);
    assert!(error.to_string().contains("/noise"), "{error}");
}

#[test]
fn a_peer_without_yamux_is_named() {
    let mut link = Link::new(dialer(), WHOLE);
    let mut theirs = foreign::accept_noise(&mut link, Style::Rust);
    let refusal = frame(&mut theirs, &[line(HEADER), line("na")].concat());
    link.deliver(&refusal);
    let error = link.error();
    assert_eq!(error.code(), ErrorCode::HandshakeFailed);
    assert!(error.to_string().contains("/yamux/1.0.0"), "{error}");
}

#[test]
fn other_muxers_are_refused_until_yamux_is_proposed() {
    let mut link = Link::new(listener(), &[1]);
    let mut theirs = foreign::dial_noise(&mut link, Style::Py);
    let proposals = [line(HEADER), line("/mplex/6.7.0"), line("ls"), line(YAMUX)].concat();
    let wire = frame(&mut theirs, &proposals);
    link.deliver(&wire);
    let answers = [line(HEADER), line("na"), line("na"), line(YAMUX)].concat();
    assert_eq!(unframe(&mut theirs, &mut link), answers);
    assert!(link.upgraded().leftover.is_empty());
}

#[test]
fn another_key_than_the_one_dialled_learns_nothing() {
    let mut dialer = Link::new(Upgrade::dialer(identity(1), Some(id(3))), WHOLE);
    let mut listener = Link::new(listener(), WHOLE);
    listener.deliver(&dialer.take_all());
    dialer.deliver(&listener.take_all());
    assert_eq!(dialer.error().code(), ErrorCode::WrongPeer);
    assert!(dialer.sent.is_empty());
}

#[test]
fn what_is_no_libp2p_node_is_found_out_at_once() {
    for greeting in
        [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], b"HTTP/1.1 400 Bad Request\r\n", b"\x16\x03\x01"]
    {
        for upgrade in [dialer(), listener()] {
            let mut link = Link::new(upgrade, WHOLE);
            link.deliver(greeting);
            assert_eq!(link.error().code(), ErrorCode::ProtocolViolation);
        }
    }
}

#[test]
fn a_peer_that_talks_without_end_inside_noise_is_cut_off() {
    for plain in [&b""[..], b"\x13"] {
        let mut link = Link::new(listener(), WHOLE);
        let mut theirs = foreign::dial_noise(&mut link, Style::Rust);
        let mut said = 0;
        while !link.has_ended() {
            let empty = frame(&mut theirs, plain);
            said += empty.len();
            link.deliver(&empty);
            assert!(said <= 128 * 1024 + 65_537);
        }
        assert_eq!(link.error().code(), ErrorCode::ProtocolViolation);
    }
}

#[test]
fn a_frame_too_short_or_damaged_ends_the_upgrade() {
    let mut link = Link::new(listener(), WHOLE);
    foreign::dial_noise(&mut link, Style::Rust);
    link.deliver(&[0, 15]);
    assert_eq!(link.error().code(), ErrorCode::ProtocolViolation);

    let mut link = Link::new(listener(), WHOLE);
    let mut theirs = foreign::dial_noise(&mut link, Style::Rust);
    let mut wire = frame(&mut theirs, &line(HEADER));
    *wire.last_mut().unwrap() ^= 1;
    link.deliver(&wire);
    assert_eq!(link.error().code(), ErrorCode::DecryptFailed);
}

#[test]
fn an_announced_frame_costs_nothing_until_it_is_there() {
    let mut link = Link::new(listener(), WHOLE);
    foreign::dial_noise(&mut link, Style::Rust);
    let before = link.input.capacity();
    link.deliver(&[0xff, 0xff, 1, 2, 3]);
    assert!(!link.has_ended() && link.input.capacity() <= before + 5);
}

#[test]
fn an_upgrade_can_be_moved_to_a_worker() {
    fn is_send<T: Send>() {}
    is_send::<Upgrade>();
    is_send::<Upgraded>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_bit_anywhere_leaves_no_two_sides_that_are_content(
        at in any::<prop::sample::Index>(), bit in 0..8u32, turn in 0..3usize,
    ) {
        let mut dialer = Link::new(dialer(), WHOLE);
        let mut listener = Link::new(listener(), WHOLE);
        for i in 0..3 {
            let mut wire = if i == 1 { listener.take_all() } else { dialer.take_all() };
            if i == turn && !wire.is_empty() {
                let at = at.index(wire.len());
                wire[at] ^= 1 << bit;
            }
            if i == 1 { dialer.deliver(&wire) } else { listener.deliver(&wire) }
        }
        prop_assert!(!(dialer.ended_well() && listener.ended_well()));
    }

    #[test]
    fn random_bytes_never_panic_and_never_succeed(
        random in prop::collection::vec(any::<u8>(), 0..400), as_dialer: bool, agreed: bool,
    ) {
        let mut link = Link::new(if as_dialer { dialer() } else { listener() }, &[50]);
        if agreed {
            link.deliver(&[line(HEADER), line(NOISE)].concat());
        }
        link.deliver(&random);
        prop_assert!(!link.ended_well());
        prop_assert!(link.sent.len() < 4096);
    }

    #[test]
    fn a_cut_anywhere_is_a_wait_and_not_an_error(cut in any::<prop::sample::Index>()) {
        let mut dialer = Link::new(dialer(), WHOLE);
        let mut listener = Link::new(listener(), WHOLE);
        let wire = dialer.take_all();
        listener.deliver(&wire[..cut.index(wire.len())]);
        prop_assert!(!listener.has_ended());
        let mut listener = Link::new(self::listener(), WHOLE);
        listener.deliver(&wire);
        let wire = listener.take_all();
        dialer.deliver(&wire[..cut.index(wire.len())]);
        prop_assert!(!dialer.has_ended());
    }
}

/// What is said to an upgrade of ours, and what is wrong with it.
#[derive(Clone, Debug)]
enum Said {
    /// What two of ours say to each other, with this added to one turn by xor.
    Ours { turn: usize, noise: Vec<u8> },
    /// Lines, true and damaged, before Noise; then chance.
    Lines { as_dialer: bool, wire: Vec<u8> },
    /// Anything inside Noise, where yamux is agreed on.
    Inside { plain: Vec<u8>, cut: usize },
}

fn said() -> impl Strategy<Value = Said> {
    let lines = prop::collection::vec(
        prop::sample::select(&[HEADER, NOISE, YAMUX, "na", "ls", "/tls/1.0.0"][..]),
        0..6,
    );
    let lines = || lines.clone().prop_map(|all| all.iter().flat_map(|l| line(l)).collect());
    let noise = prop::collection::vec(prop_oneof![20 => Just(0u8), 1 => any::<u8>()], 0..400);
    prop_oneof![
        (0..3usize, noise).prop_map(|(turn, noise)| Said::Ours { turn, noise }),
        (any::<bool>(), damaged(lines()))
            .prop_map(|(as_dialer, wire)| Said::Lines { as_dialer, wire }),
        (damaged(lines()), 1..60usize).prop_map(|(plain, cut)| Said::Inside { plain, cut }),
    ]
}

#[test]
fn fuzz_upgrade() {
    fuzz((said(), prop::collection::vec(1..90usize, 1..4)), |(said, portions)| {
        match said {
            Said::Ours { turn, noise } => {
                let (mut a, mut b) =
                    (Link::new(dialer(), &portions), Link::new(listener(), &portions));
                let mut damaged = false;
                for i in 0..3 {
                    let mut wire = if i == 1 { b.take_all() } else { a.take_all() };
                    if i == turn {
                        damaged = wire.iter().zip(&noise).any(|(_, x)| *x != 0);
                        wire.iter_mut().zip(&noise).for_each(|(byte, x)| *byte ^= x);
                    }
                    if i == 1 { a.deliver(&wire) } else { b.deliver(&wire) }
                }
                prop_assert_eq!(a.ended_well() && b.ended_well(), !damaged);
            }
            Said::Lines { as_dialer, wire } => {
                let ours = if as_dialer { dialer() } else { listener() };
                let mut link = Link::new(ours, &portions);
                link.deliver(&wire);
                prop_assert!(!link.ended_well());
                prop_assert!(link.sent.len() <= 512 + 4 * wire.len());
                prop_assert!(link.input.capacity() <= 4 * wire.len() + 1024);
            }
            Said::Inside { plain, cut } => {
                let mut link = Link::new(listener(), &portions);
                let mut theirs = foreign::dial_noise(&mut link, Style::Rust);
                let wire: Vec<u8> = plain.chunks(cut).flat_map(|p| frame(&mut theirs, p)).collect();
                link.deliver(&wire);
                if link.ended_well() {
                    // What was behind the agreement is there still, as it came.
                    let left = link.upgraded().leftover;
                    prop_assert!(
                        left.len() < cut
                            && plain
                                .windows(left.len().max(1))
                                .any(|w| left.is_empty() || w == &left[..])
                    );
                }
            }
        }
        Ok(())
    });
}
