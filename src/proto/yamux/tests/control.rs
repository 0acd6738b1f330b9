//! What is said besides data is in order, coalesced and bounded.

use std::sync::Arc;

use super::super::control::{Control, ControlQueue};
use super::super::flow::INITIAL_WINDOW;
use super::super::tx::MIN_STORAGE;
use super::*;

/// All that a queue says, as a peer hears it that knows streams 2, 4 and 6.
fn said(queue: &mut ControlQueue) -> Vec<Told> {
    let (sealer, _) = pair(&[7; 32]);
    let mut tx = Tx::new(sealer, Role::Dialer);
    let mut peer = Peer::new();
    for id in [2, 4, 6] {
        peer.rx.insert(id, Flow::new(), id);
    }
    tx.control(queue).unwrap();
    peer.buf.extend(tx.take().unwrap().pending());
    peer.told().unwrap()
}

fn reply(id: StreamId, flow: &Arc<Flow>, bytes: &[u8]) -> Control {
    Control::Reply { id, flow: flow.clone(), bytes: bytes.to_vec() }
}

#[test]
fn ack_reply_and_fin_of_a_stream_keep_their_order_and_a_ping_comes_behind() {
    let mut queue = ControlQueue::new(32);
    let flow = Flow::new();
    queue.push(Control::GoAway(0)).unwrap();
    queue.push(Control::Ping(5)).unwrap();
    for id in [2, 4] {
        queue.push(Control::Ack { id }).unwrap();
        queue.push(reply(id, &flow, b"yes")).unwrap();
        queue.push(Control::Fin { id }).unwrap();
    }
    queue.push(Control::Window { id: 2, delta: 1 }).unwrap();
    queue.push(Control::Pong(6)).unwrap();
    let of = |id| [Told::Acked(id), Told::Data(id, b"yes".to_vec()), Told::Fin(id)];
    let rest = [Told::Credit(2), Told::Pong(6), Told::Ping(5), Told::GoAway(0)];
    assert_eq!(said(&mut queue), [&of(2)[..], &of(4), &rest].concat());
    assert!(queue.is_empty());
    assert_eq!(flow.credit(), u64::from(INITIAL_WINDOW) - 6);
}

#[test]
fn a_receipt_that_waits_comes_before_the_fin_and_only_the_newest_is_said() {
    let mut queue = ControlQueue::new(32);
    let received = |id, received| Control::Received { id, received };
    for control in [
        received(2, 4),
        received(2, 5),
        received(4, 1),
        Control::Fin { id: 2 },
        received(2, 6),
        received(2, 7),
    ] {
        queue.push(control).unwrap();
    }
    let mut peer = Peer::new();
    peer.rx.take_receipts();
    let mut tx = Tx::new(pair(&[7; 32]).0, Role::Dialer);
    for id in [2, 4] {
        peer.rx.insert(id, Flow::new(), id);
    }
    tx.control(&mut queue).unwrap();
    assert!(queue.is_empty());
    peer.buf.extend(tx.take().unwrap().pending());
    let expected = [Told::Received(2, 7), Told::Fin(2), Told::Received(4, 1)];
    assert_eq!(peer.told().unwrap(), expected);
}

#[test]
fn nothing_is_said_of_a_stream_behind_its_reset() {
    let mut queue = ControlQueue::new(32);
    queue.push(Control::Received { id: 2, received: 5 }).unwrap();
    queue.push(Control::Reset { id: 2 }).unwrap();
    queue.push(Control::Received { id: 4, received: 5 }).unwrap();
    queue.forget(4);
    assert_eq!(said(&mut queue), [Told::Reset(2, 0)]);
}

#[test]
fn what_waits_shares_one_noise_frame() {
    let (sealer, _) = pair(&[7; 32]);
    let mut tx = Tx::new(sealer, Role::Dialer);
    let mut queue = ControlQueue::new(32);
    for id in 0..100 {
        queue.push(Control::Window { id, delta: 1 }).unwrap();
    }
    tx.control(&mut queue).unwrap();
    assert_eq!(tx.pending(), 2 + 100 * 12 + TAG);
}

#[test]
fn window_updates_of_one_stream_add_up() {
    let mut queue = ControlQueue::new(32);
    for delta in [1, 10, 100] {
        queue.push(Control::Window { id: 2, delta }).unwrap();
    }
    let (sealer, _) = pair(&[7; 32]);
    let mut tx = Tx::new(sealer, Role::Dialer);
    let mut peer = Peer::new();
    let flow = Flow::new();
    peer.rx.insert(2, flow.clone(), 2);
    tx.control(&mut queue).unwrap();
    peer.buf.extend(tx.take().unwrap().pending());
    assert_eq!(peer.told().unwrap(), [Told::Credit(2)]);
    assert_eq!(flow.credit(), u64::from(INITIAL_WINDOW) + 111);
}

#[test]
fn a_reply_without_credit_waits_and_holds_up_only_its_own_stream() {
    let mut queue = ControlQueue::new(32);
    let (poor, rich) = (Flow::new(), Flow::new());
    poor.spend(INITIAL_WINDOW - 2);
    queue.push(reply(2, &poor, b"abcd")).unwrap();
    queue.push(reply(4, &rich, b"x")).unwrap();
    assert_eq!(said(&mut queue), [Told::Data(2, b"ab".to_vec()), Told::Data(4, b"x".to_vec())]);
    assert!(queue.is_empty(), "nothing can be said now");
    queue.push(reply(2, &poor, b"ef")).unwrap();
    queue.push(Control::Fin { id: 2 }).unwrap();
    queue.push(Control::Fin { id: 6 }).unwrap();
    assert_eq!(said(&mut queue), [Told::Fin(6)]);
    assert!(queue.is_empty(), "nothing can be said now");
    poor.add_credit(3).unwrap();
    assert!(!queue.is_empty());
    assert_eq!(said(&mut queue), [Told::Data(2, b"cd".to_vec()), Told::Data(2, b"e".to_vec())]);
    poor.add_credit(3).unwrap();
    assert_eq!(said(&mut queue), [Told::Data(2, b"f".to_vec()), Told::Fin(2)]);
}

#[test]
fn a_reset_does_not_wait_behind_a_reply_without_credit() {
    let mut queue = ControlQueue::new(32);
    let poor = Flow::new();
    poor.spend(INITIAL_WINDOW);
    queue.push(reply(2, &poor, b"abcd")).unwrap();
    assert_eq!(said(&mut queue), []);
    queue.push(Control::Window { id: 2, delta: 1 }).unwrap();
    queue.push(Control::Reset { id: 2 }).unwrap();
    queue.push(Control::Reset { id: 2 }).unwrap();
    assert_eq!(said(&mut queue), [Told::Reset(2, 0)]);
    poor.add_credit(10).unwrap();
    assert!(queue.is_empty(), "a reply outlived its stream");
}

#[test]
fn a_stream_that_is_forgotten_says_no_more() {
    let mut queue = ControlQueue::new(32);
    let flow = Flow::new();
    for id in [2, 4] {
        queue.push(Control::Ack { id }).unwrap();
        queue.push(reply(id, &flow, &[0; 100_000])).unwrap();
        queue.push(Control::Window { id, delta: 1 }).unwrap();
    }
    queue.push(Control::Reset { id: 2 }).unwrap();
    queue.forget(2);
    // Its bytes count no more: so many would not fit twice.
    queue.push(reply(6, &flow, &[0; 150_000])).unwrap();
    assert!(said(&mut queue).iter().all(|t| !matches!(
        t,
        Told::Acked(2) | Told::Data(2, _) | Told::Credit(2) | Told::Reset(2, _)
    )));
    queue.push(Control::Reset { id: 2 }).unwrap();
    assert_eq!(said(&mut queue), [Told::Reset(2, 0)]);
}

#[test]
fn a_reply_longer_than_the_storage_goes_out_in_parts() {
    let (sealer, _) = pair(&[7; 32]);
    let mut tx = Tx::new(sealer, Role::Dialer);
    tx.lend(Buffer::from(vec![0; MIN_STORAGE]));
    let mut queue = ControlQueue::new(32);
    let sent = bytes(1, 50_000);
    queue.push(reply(2, &Flow::new(), &sent)).unwrap();
    queue.push(Control::Fin { id: 2 }).unwrap();
    let mut peer = Peer::new();
    peer.rx.insert(2, Flow::new(), 2);
    let mut got = Vec::new();
    while !queue.is_empty() {
        tx.control(&mut queue).unwrap();
        assert!(tx.pending() > 0, "no progress");
        got.extend(carried(&mut tx, &mut peer));
    }
    assert!(got == sent);
}

/// A reply needs room for a byte behind its header; what comes behind it does not.
#[test]
fn nothing_overtakes_an_end_into_the_last_room_there_is() {
    let mut queue = ControlQueue::new(32);
    queue.push(Control::Received { id: 6, received: 1 }).unwrap();
    queue.push(reply(2, &Flow::new(), b"yes")).unwrap();
    queue.push(Control::Fin { id: 4 }).unwrap();
    queue.push(Control::Ping(5)).unwrap();
    assert_eq!(queue.fill(&mut [0; Header::LEN]), 0);
    assert!(!queue.is_empty(), "it goes on where there is more");
    let mut out = [0; 100];
    let n = queue.fill(&mut out);
    let data = Header::data(2, Flags::NONE, 3).encode();
    let fin = Header::window(4, Flags::FIN, 0).encode();
    let (receipt, ping) = (Header::received(6, 1).encode(), Header::ping(Flags::SYN, 5).encode());
    assert_eq!(out[..n], [&data[..], b"yes", &fin, &receipt, &ping].concat());
}

#[test]
fn floods_that_make_us_answer_end_the_connection() {
    type Make = fn(u32) -> Control;
    let floods: [(Make, u32); 6] = [
        (Control::Pong, 32),
        (Control::Ping, 32),
        (|id| Control::Reset { id }, 1_024),
        (|id| Control::GiveUp { id }, 16_384),
        (|id| Control::Ack { id }, 16_384),
        (|id| Control::Window { id, delta: 1 }, 16_384),
    ];
    for (make, max) in floods {
        let mut queue = ControlQueue::new(32);
        for n in 0..max {
            queue.push(make(n)).unwrap();
        }
        let e = queue.push(make(max)).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ProtocolViolation, "{e}");
    }
    let mut queue = ControlQueue::new(32);
    let flow = Flow::new();
    queue.push(reply(2, &flow, &[0; 256 * 1024])).unwrap();
    assert!(queue.push(reply(4, &flow, b"x")).is_err());
}

#[test]
fn a_peer_that_reads_its_answers_is_no_flood() {
    let mut queue = ControlQueue::new(32);
    for n in 0..5_000 {
        queue.push(Control::Pong(n)).unwrap();
        queue.push(Control::Reset { id: 2 * n + 8 }).unwrap();
        queue.push(reply(2, &Flow::new(), &[0; 100])).unwrap();
        if n % 32 == 31 {
            said(&mut queue);
        }
    }
}
