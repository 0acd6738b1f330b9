//! What has gone wrong elsewhere, and what is answered here. Tests of the same
//! subject: window.rs (granted as the application reads), control.rs (bounds),
//! fuzz.rs (parsers), sim.rs (reads never wait for writes).

use super::*;

#[test]
fn a_window_update_that_overflows_ends_the_connection() {
    let mut peer = Peer::new();
    let flow = Flow::new();
    peer.rx.insert(2, flow.clone(), 2);
    peer.say(Header::window(2, Flags::NONE, u32::MAX - (256 << 10)), b"");
    assert_eq!(peer.told().unwrap(), [Told::Credit(2)]);
    assert_eq!(flow.credit(), u64::from(u32::MAX));
    peer.say(Header::window(2, Flags::NONE, 1), b"");
    peer.is_violated();

    let mut peer = Peer::new();
    peer.say(Header::window(1, Flags::SYN, u32::MAX), b"");
    peer.is_violated();
}

#[test]
fn a_syn_with_more_than_256_kib_ends_the_connection_before_any_state_exists() {
    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::SYN, 256 * 1024 + 1), b"");
    peer.is_violated();
    assert_eq!(peer.rx.len(), 0);

    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::SYN, 256 * 1024), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
}

#[test]
fn data_beyond_the_window_ends_the_connection_at_its_header() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    peer.say(Header::data(1, Flags::NONE, 256 * 1024 - 1), b"");
    let full = bytes(6, 256 * 1024 - 1);
    peer.say_in(MAX_PLAIN, &full);
    peer.told().unwrap();
    peer.say_in(12, &Header::data(1, Flags::NONE, 2).encode());
    peer.is_violated();
}

#[test]
fn data_longer_than_any_window_ends_the_connection_even_where_it_is_unwanted() {
    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::NONE, (16 << 20) + 1), b"");
    peer.is_violated();
}

#[test]
fn what_is_announced_is_not_allocated() {
    let mut peer = Peer::new();
    peer.buf = RecvBuf::new(vec![0; 200]);
    peer.rx.insert(1, Flow::new(), 1);
    peer.say(Header::data(1, Flags::NONE, 256 * 1024), b"x");
    assert_eq!(peer.told().unwrap(), [Told::Data(1, b"x".to_vec())]);
    assert_eq!(peer.buf.capacity(), 200);
}

#[test]
fn a_syn_for_an_id_that_is_not_the_peers_ends_the_connection() {
    for id in [2, 4, u32::MAX - 1] {
        let mut peer = Peer::new();
        peer.say(syn(id), b"");
        peer.is_violated();
    }
}

#[test]
fn a_syn_for_a_live_stream_ends_the_connection() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
    peer.say(Header::data(1, Flags::SYN, 1), b"x");
    peer.is_violated();
}

#[test]
fn data_behind_a_fin_ends_the_connection() {
    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::SYN | Flags::FIN, 0), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), Told::Fin(1)]);
    peer.say(data(1, b"x"), b"x");
    peer.is_violated();
}

#[test]
fn data_behind_a_reset_is_unwanted_and_harmless() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    peer.say(Header::window(1, Flags::RST, 0), b"");
    peer.say(data(1, b"x"), b"x");
    peer.say(Header::window(1, Flags::FIN, 0), b"");
    let told = peer.told().unwrap();
    assert_eq!(told, [Told::Opened(1), Told::Reset(1, 0), Told::Unwanted(1)]);
}

#[test]
fn a_frame_of_the_wrong_version_type_or_place_ends_the_connection() {
    let session = |mut header: Header, id| {
        header.id = id;
        header.encode()
    };
    let mut version = syn(1).encode();
    version[0] = 1;
    let mut kind = syn(1).encode();
    kind[1] = 4;
    for bad in [
        version,
        kind,
        session(syn(1), 0),
        session(data(1, b""), 0),
        session(Header::ping(Flags::SYN, 1), 1),
        session(Header::go_away(0), 1),
        Header::ping(Flags::NONE, 1).encode(),
        Header::ping(Flags::SYN | Flags::ACK, 1).encode(),
    ] {
        let mut peer = Peer::new();
        peer.say_in(12, &bad);
        peer.is_violated();
    }
}

#[test]
fn a_flood_of_empty_noise_frames_ends_the_connection() {
    let mut peer = Peer::new();
    let empty = |peer: &mut Peer, n: usize| {
        for _ in 0..n {
            let record = peer.record(b"");
            peer.buf.extend(&record);
        }
    };
    for _ in 0..4 {
        empty(&mut peer, 64);
        peer.say(Header::ping(Flags::SYN, 1), b"");
        assert_eq!(peer.told().unwrap(), [Told::Ping(1)]);
    }
    empty(&mut peer, 64);
    assert_eq!(peer.told().unwrap(), []);
    empty(&mut peer, 1);
    peer.is_violated();
}

#[test]
fn a_forged_frame_ends_the_connection_however_its_body_is_treated() {
    for way in 0..4 {
        let mut peer = Peer::new();
        let body = bytes(7, 1000);
        peer.say(syn(1), b"");
        peer.say_in(12, &data(1, &body).encode());
        let mut forged = peer.record(&body);
        forged[500] ^= 1;
        peer.buf.extend(&forged);
        peer.say(Header::ping(Flags::SYN, 1), b"");
        assert_eq!(peer.next().unwrap(), Some(Told::Opened(1)));
        if way == 3 {
            peer.rx.remove(1);
            assert_eq!(peer.next().unwrap(), Some(Told::Unwanted(1)));
        } else {
            let Some(Event::Data { body, .. }) = peer.rx.poll(&mut peer.buf).unwrap() else {
                panic!()
            };
            let taken = match way {
                0 => body.take_into(&mut [0; 1000]),
                1 => body.bytes().map(drop),
                _ => Ok(()),
            };
            assert_eq!(taken.is_err(), way < 2);
        }
        peer.ends_with(ErrorCode::DecryptFailed);
    }
}

#[test]
fn a_noise_frame_too_short_for_its_tag_ends_the_connection() {
    for len in 0..TAG as u8 {
        let mut peer = Peer::new();
        peer.buf.extend(&[0, len]);
        peer.ends_with(ErrorCode::DecryptFailed);
    }
}

#[test]
fn ids_run_out_before_they_wrap() {
    let (sealer, _) = pair(&[7; 32]);
    for (role, first) in [(Role::Dialer, 1), (Role::Listener, 2)] {
        let (sealer, _) = pair(&[7; 32]);
        let mut tx = Tx::new(sealer, role);
        assert_eq!((tx.next_id(), tx.next_id()), (Some(first), Some(first + 2)));
    }
    let mut tx = Tx::new(sealer, Role::Dialer);
    tx.skip_ids_to(u32::MAX - 2);
    assert_eq!((tx.next_id(), tx.next_id(), tx.next_id()), (Some(u32::MAX - 2), None, None));
}
