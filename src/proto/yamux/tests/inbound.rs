//! Frames come out of Noise frames as the peer meant them.

use super::*;

#[test]
fn a_stream_opens_carries_bytes_and_ends_as_go_does_it() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    peer.say(data(1, b"hello"), b"hello");
    peer.say(Header::window(1, Flags::FIN, 0), b"");
    let hello = Told::Data(1, b"hello".to_vec());
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), hello, Told::Fin(1)]);
}

#[test]
fn a_stream_opens_carries_bytes_and_ends_as_rust_does_it() {
    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::SYN, 2), b"hi");
    peer.say(Header::data(1, Flags::FIN, 0), b"");
    peer.say(Header::data(1, Flags::RST, 0), b"");
    let hi = Told::Data(1, b"hi".to_vec());
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), hi, Told::Fin(1), Told::Reset(1, 0)]);
}

#[test]
fn a_fin_on_a_frame_with_a_body_comes_behind_the_body() {
    let mut peer = Peer::new();
    peer.say(Header::data(1, Flags::SYN | Flags::FIN, 3), b"all");
    let all = Told::Data(1, b"all".to_vec());
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), all, Told::Fin(1)]);
}

#[test]
fn a_fin_is_told_once_and_a_reset_behind_it_is_told_too() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    for flags in [Flags::FIN, Flags::FIN, Flags::RST, Flags::RST] {
        peer.say(Header::window(1, flags, 0), b"");
    }
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), Told::Fin(1), Told::Reset(1, 0)]);
}

#[test]
fn the_length_of_a_reset_is_its_code_and_never_credit() {
    let mut peer = Peer::new();
    let flow = Flow::new();
    peer.rx.insert(2, flow.clone(), 2);
    peer.say(Header::window(2, Flags::RST, u32::MAX), b"");
    assert_eq!(peer.told().unwrap(), [Told::Reset(2, u32::MAX)]);
    assert_eq!(flow.credit(), 256 * 1024);
    // Nor is it on the frame that opens a stream.
    peer.say(Header::window(1, Flags::SYN | Flags::RST, u32::MAX), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), Told::Reset(1, u32::MAX)]);
}

#[test]
fn credit_on_the_frame_that_opens_a_stream_counts() {
    let mut peer = Peer::new();
    peer.say(Header::window(1, Flags::SYN, 1 << 20), b"");
    let Some(Event::Opened { flow, .. }) = peer.rx.poll(&mut peer.buf).unwrap() else { panic!() };
    assert_eq!(flow.credit(), (1 << 20) + 256 * 1024);
}

#[test]
fn surplus_window_updates_of_js_and_py_add_up() {
    let mut peer = Peer::new();
    let flow = Flow::new();
    peer.rx.insert(2, flow.clone(), 2);
    peer.say(Header::window(2, Flags::ACK, 256 << 10), b"");
    for k in [512, 1024, 2048] {
        peer.say(Header::window(2, Flags::NONE, k << 10), b"");
    }
    let told = peer.told().unwrap();
    assert_eq!(told[..2], [Told::Acked(2), Told::Credit(2)]);
    assert_eq!(told.len(), 5);
    assert_eq!(flow.credit(), 4096 << 10);
}

#[test]
fn a_stream_is_acked_once_and_only_if_it_is_ours() {
    let mut peer = Peer::new();
    peer.rx.insert(2, Flow::new(), 2);
    peer.say(Header::window(2, Flags::ACK, 0), b"");
    peer.say(Header::data(2, Flags::ACK, 1), b"x");
    peer.say(Header::window(1, Flags::SYN | Flags::ACK, 0), b"");
    peer.say(Header::window(1, Flags::ACK, 0), b"");
    let x = Told::Data(2, b"x".to_vec());
    assert_eq!(peer.told().unwrap(), [Told::Acked(2), x, Told::Opened(1)]);
}

#[test]
fn the_session_is_pinged_ponged_and_ended() {
    let mut peer = Peer::new();
    peer.say(Header::ping(Flags::SYN, 7), b"");
    peer.say(Header::ping(Flags::ACK, 8), b"");
    peer.say(Header::go_away(2), b"");
    assert_eq!(peer.told().unwrap(), [Told::Ping(7), Told::Pong(8), Told::GoAway(2)]);
}

#[test]
fn flags_without_a_meaning_are_ignored() {
    let mut peer = Peer::new();
    let mut header = syn(1).encode();
    header[2] = 0xff;
    header[3] |= 0xf0;
    peer.say_in(12, &header);
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
}

#[test]
fn frames_are_the_same_however_noise_and_the_network_cut_them() {
    let body = bytes(1, 3000);
    let mut said = syn(1).encode().to_vec();
    said.extend(Header::data(1, Flags::FIN, 3000).encode());
    said.extend(&body);
    for at_most in [1, 2, 5, 11, 12, 13, 255, 256, 300, 1500, 4000] {
        let mut peer = Peer::new();
        peer.say_in(at_most, &said);
        let wire = peer.buf.readable().to_vec();
        peer.buf = RecvBuf::default();
        let mut told = Vec::new();
        for byte in wire {
            peer.buf.extend(&[byte]);
            told.extend(peer.told().unwrap());
        }
        assert_eq!(told.first(), Some(&Told::Opened(1)));
        assert_eq!(told.last(), Some(&Told::Fin(1)));
        let got: Vec<u8> = told
            .into_iter()
            .flat_map(|t| if let Told::Data(1, b) = t { b } else { Vec::new() })
            .collect();
        assert!(got == body, "cut at {at_most}");
        assert!(peer.buf.is_empty());
    }
}

#[test]
fn one_frame_of_16_mib_as_js_sends_it_is_streamed_through() {
    const LEN: usize = 16 << 20;
    let mut peer = Peer::new();
    let flow = Flow::new();
    flow.grant((LEN - (256 << 10)) as u32);
    peer.rx.insert(1, flow.clone(), 1);
    peer.buf = RecvBuf::new(vec![0; 2 * (2 + 65535)]);
    let mut body = bytes(2, LEN);
    let header = Header::data(1, Flags::NONE, LEN as u32).encode();
    peer.say_in(12, &header);
    let (mut got, mut pieces) = (0, 0);
    for chunk in body.chunks_mut(MAX_PLAIN) {
        peer.say_in(MAX_PLAIN, chunk);
        for told in peer.told().unwrap() {
            let Told::Data(1, piece) = told else { panic!("{told:?}") };
            assert!(piece == chunk);
            got += piece.len();
            pieces += 1;
        }
    }
    assert_eq!((got, pieces), (LEN, LEN.div_ceil(MAX_PLAIN)));
    assert_eq!(flow.allowance(), 0);
    assert_eq!(peer.buf.capacity(), 2 * (2 + 65535), "a body was collected");
}

#[test]
fn a_body_can_be_taken_lent_or_left_whichever_way_it_was_framed() {
    // Behind its header in one Noise frame, or in one of its own.
    for at_most in [5000, 12] {
        for way in 0..3 {
            let mut peer = Peer::new();
            let body = bytes(3, 1000);
            peer.say(syn(1), b"");
            let said = [&data(1, &body).encode()[..], &body].concat();
            peer.say_in(at_most, &said[..12]);
            peer.say_in(5000, &said[12..]);
            peer.say(Header::ping(Flags::SYN, 9), b"");
            assert_eq!(peer.next().unwrap(), Some(Told::Opened(1)));
            let Some(Event::Data { body: piece, .. }) = peer.rx.poll(&mut peer.buf).unwrap() else {
                panic!()
            };
            assert_eq!(piece.len(), 1000);
            let mut out = vec![0; 1000];
            match way {
                0 => piece.take_into(&mut out).unwrap(),
                1 => out.copy_from_slice(piece.bytes().unwrap()),
                _ => out.copy_from_slice(&body),
            }
            assert!(out == body);
            assert_eq!(peer.told().unwrap(), [Told::Ping(9)]);
            assert!(peer.buf.is_empty());
        }
    }
}

#[test]
fn what_was_left_over_by_the_upgrade_is_read_first() {
    let mut peer = Peer::with_leftover(syn(1).encode()[..7].to_vec());
    peer.say_in(100, &syn(1).encode()[7..]);
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
    let mut peer = Peer::with_leftover(syn(1).encode().to_vec());
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
    peer.say(syn(3), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(3)]);
}

#[test]
fn data_for_a_stream_that_is_gone_is_unwanted_once_and_discarded() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
    assert_eq!(peer.rx.remove(1), Some(1));
    let long = bytes(4, 100_000);
    peer.say_in(12, &data(1, &long).encode());
    peer.say_in(30_000, &long);
    peer.say(data(1, b"more"), b"more");
    peer.say(data(5, b"x"), b"x");
    // Nothing is told of what asks for no answer.
    peer.say(Header::window(1, Flags::NONE, 5), b"");
    peer.say(Header::window(1, Flags::FIN, 0), b"");
    peer.say(Header::window(1, Flags::RST, 0), b"");
    peer.say(Header::ping(Flags::SYN, 1), b"");
    assert_eq!(peer.told().unwrap(), [Told::Unwanted(1), Told::Unwanted(5), Told::Ping(1)]);
}

#[test]
fn a_stream_that_is_removed_inside_a_body_gets_no_more_of_it() {
    let mut peer = Peer::new();
    let body = bytes(5, 2000);
    peer.say(Header::data(1, Flags::SYN, 2000), &body[..1000]);
    assert_eq!(peer.told().unwrap().len(), 2);
    peer.rx.remove(1);
    peer.say_in(2000, &body[1000..]);
    // Though it was this very frame that opened it.
    assert_eq!(peer.told().unwrap(), [Told::Unwanted(1)]);
    peer.say(data(1, b"x"), b"x");
    assert_eq!(peer.told().unwrap(), []);
}

#[test]
fn an_id_that_is_used_again_is_unwanted_again() {
    let mut peer = Peer::new();
    for _ in 0..2 {
        peer.say(syn(1), b"");
        assert_eq!(peer.told().unwrap(), [Told::Opened(1)]);
        peer.rx.remove(1);
        peer.say(data(1, b"x"), b"x");
        assert_eq!(peer.told().unwrap(), [Told::Unwanted(1)]);
    }
}

#[test]
fn a_refused_stream_takes_nothing_with_it() {
    let mut peer = Peer::new();
    peer.refuse = true;
    peer.say(Header::data(1, Flags::SYN | Flags::FIN, 3), b"abc");
    peer.say(data(1, b"more"), b"more");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), Told::Unwanted(1)]);
    assert_eq!(peer.rx.len(), 0);
}

#[test]
fn streams_are_found_counted_and_listed() {
    let mut peer = Peer::new();
    peer.say(syn(1), b"");
    peer.say(syn(3), b"");
    peer.told().unwrap();
    assert_eq!((peer.rx.len(), peer.rx.get(3), peer.rx.get(2)), (2, Some(&3), None));
    let mut ids: Vec<_> = peer.rx.iter().map(|(id, stream)| (id, *stream)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [(1, 1), (3, 3)]);
    assert_eq!(peer.rx.frames(), 2);
}

#[test]
fn a_receipt_is_taken_only_where_it_was_agreed_on() {
    let mut peer = Peer::new();
    peer.rx.insert(2, Flow::new(), 2);
    peer.say(Header::received(2, 7), b"");
    peer.is_violated();
    let mut peer = Peer::new();
    peer.rx.take_receipts();
    peer.rx.insert(2, Flow::new(), 2);
    peer.say(Header::received(2, u32::MAX), b"");
    peer.say(data(2, b"x"), b"x");
    assert_eq!(peer.told().unwrap(), [Told::Received(2, u32::MAX), Told::Data(2, b"x".to_vec())]);
    peer.say(Header::received(0, 1), b"");
    peer.is_violated();
}

#[test]
fn a_receipt_for_a_stream_that_is_gone_says_nothing() {
    let mut peer = Peer::new();
    peer.rx.take_receipts();
    peer.say(syn(1), b"");
    peer.say(Header::window(1, Flags::RST, 0), b"");
    peer.say(Header::received(1, 1), b"");
    peer.say(Header::received(99, 1), b"");
    peer.say(Header::ping(Flags::SYN, 3), b"");
    assert_eq!(peer.told().unwrap(), [Told::Opened(1), Told::Reset(1, 0), Told::Ping(3)]);
    assert_eq!(peer.rx.idle_frames(), 2, "they are counted as frames that change nothing");
}

/// An end and a window update may have been on their way as a stream went; more of them, or
/// for streams that never were, are a flood.
#[test]
fn what_comes_late_for_a_stream_that_went_is_no_empty_frame() {
    let mut peer = Peer::new();
    for id in (1..2_000).step_by(2) {
        peer.say(syn(id), b"");
        peer.told().unwrap();
        peer.rx.remove(id);
        peer.say(Header::window(id, Flags::NONE, 1), b"");
        peer.say(Header::data(id, Flags::FIN, 0), b"");
        assert_eq!(peer.told().unwrap(), []);
    }
    assert_eq!(peer.rx.idle_frames(), 0);
    for id in [1_999, 1_999, 2_001, 2] {
        peer.say(Header::window(id, Flags::NONE, 1), b"");
        assert_eq!(peer.told().unwrap(), []);
    }
    assert_eq!(peer.rx.idle_frames(), 4);
}

#[test]
fn data_for_a_stream_that_went_is_told_apart_from_data_for_one_that_never_was() {
    let mut peer = Peer::new();
    peer.say(syn(5), b"");
    peer.told().unwrap();
    peer.rx.remove(5);
    // What it was allowed to send was on its way, and no more than that.
    let all = vec![0; (256 << 10) - 4];
    let said = [(5, &b"late"[..], true), (7, b"late", false), (2, b"late", false)];
    for (id, body, there) in said.into_iter().chain([(3, &all[..], true), (1, b"x", false)]) {
        peer.say(data(id, body), body);
        let told = peer.rx.poll(&mut peer.buf).unwrap();
        let Some(Event::Unwanted { id: told, was_there }) = told else { panic!("not told") };
        assert_eq!((told, was_there), (id, there));
        assert!(peer.rx.poll(&mut peer.buf).unwrap().is_none());
    }
}
