//! Data goes out in the frames that speed and other nodes want.

use super::super::control::{Control, ControlQueue};
use super::super::out::OVERHEAD;
use super::super::tx::{MIN_STORAGE, STORAGE};
use super::*;

fn tx() -> Tx {
    let (sealer, _) = pair(&[7; 32]);
    Tx::new(sealer, Role::Dialer)
}

/// A peer with the dialer's stream 1 open, and that stream's flow at our end.
fn connected() -> (Tx, Peer, std::sync::Arc<Flow>) {
    (tx(), Peer::new(), Flow::new())
}

/// The plaintext length of each Noise frame that is pending.
fn records(batch: &Batch) -> Vec<usize> {
    let (mut rest, mut lens) = (batch.pending(), Vec::new());
    while let [hi, lo, more @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*hi, *lo]));
        lens.push(len - TAG);
        rest = &more[len..];
    }
    lens
}

#[test]
fn short_data_shares_one_noise_frame_with_its_header() {
    for n in [1, 64, 4096] {
        let (mut tx, mut peer, flow) = connected();
        let sent = bytes(1, n);
        assert_eq!(send(&mut tx, 1, true, &flow, &sent), n);
        let batch = tx.take().unwrap();
        assert_eq!(records(&batch), [12 + n]);
        assert_eq!(flow.credit(), (256 << 10) - n as u64);
        assert!(heard(&batch, &mut peer) == sent);
    }
}

#[test]
fn long_data_is_sealed_in_frames_of_pure_payload() {
    for (n, expected) in [
        (4097, vec![12, 4097]),
        (MAX_PLAIN, vec![12, MAX_PLAIN]),
        (MAX_PLAIN + 1, vec![13, MAX_PLAIN]),
        (64 << 10, vec![29, MAX_PLAIN]),
        (MAX_PLAIN + 4096, vec![12 + 4096, MAX_PLAIN]),
        (MAX_PLAIN + 4097, vec![12, MAX_PLAIN, 12, 4097]),
    ] {
        let (mut tx, mut peer, flow) = connected();
        let sent = bytes(2, n);
        assert_eq!(send(&mut tx, 1, true, &flow, &sent), n);
        let batch = tx.take().unwrap();
        assert_eq!(records(&batch), expected);
        assert!(heard(&batch, &mut peer) == sent);
    }
}

#[test]
fn one_write_takes_256_kib_and_then_credit_and_room_are_used_up() {
    let (mut tx, mut peer, flow) = connected();
    let sent = bytes(3, 300 << 10);
    assert_eq!(send(&mut tx, 1, true, &flow, &sent), 256 << 10);
    assert!(tx.pending() <= STORAGE);
    assert_eq!(send(&mut tx, 1, false, &flow, &sent[256 << 10..]), 0);
    assert!(carried(&mut tx, &mut peer) == sent[..256 << 10]);
}

#[test]
fn without_room_nothing_is_taken_and_no_credit_is_spent() {
    let (mut tx, mut peer, flow) = connected();
    let credited = flow.credit() + (1 << 20);
    flow.add_credit(1 << 20).unwrap();
    let sent = bytes(4, 1 << 20);
    let mut at = send(&mut tx, 1, true, &flow, &sent);
    assert_eq!(send(&mut tx, 1, false, &flow, &sent[at..]), 0);
    assert_eq!(flow.credit(), credited - at as u64);
    let mut got = Vec::new();
    while at < sent.len() {
        got.extend(carried_and_granted(&mut tx, &mut peer));
        at += send(&mut tx, 1, false, &flow, &sent[at..]);
        assert!(tx.pending() <= STORAGE);
    }
    got.extend(carried_and_granted(&mut tx, &mut peer));
    assert!(got == sent);
}

/// The peer reads at once, so that its allowance never runs out.
fn carried_and_granted(tx: &mut Tx, peer: &mut Peer) -> Vec<u8> {
    peer.buf.extend(tx.take().unwrap().pending());
    let mut got = Vec::new();
    while let Some(event) = peer.rx.poll(&mut peer.buf).unwrap() {
        match event {
            Event::Opened { id, flow } => {
                flow.grant(2 << 20);
                peer.rx.insert(id, flow, id);
            }
            Event::Data { body, .. } => got.extend_from_slice(body.bytes().unwrap()),
            _ => panic!("only data was sent"),
        }
    }
    got
}

#[test]
fn many_slices_are_one_stream_of_bytes() {
    let sent = bytes(5, 100_000);
    for cut in [1, 7, 100, 999, 40_000, 70_000] {
        let (mut tx, mut peer, flow) = connected();
        let mut slices = vec![IoSlice::new(&[])];
        for chunk in sent.chunks(cut) {
            slices.push(IoSlice::new(chunk));
            slices.push(IoSlice::new(&[]));
        }
        assert_eq!(tx.data(1, true, &flow, &slices).unwrap(), sent.len());
        assert!(carried(&mut tx, &mut peer) == sent, "slices of {cut}");
    }
}

#[test]
fn the_first_frame_and_only_the_first_opens_the_stream() {
    let (mut tx, mut peer, flow) = connected();
    assert_eq!(send(&mut tx, 1, true, &flow, &bytes(6, 200_000)), 200_000);
    peer.buf.extend(tx.take().unwrap().pending());
    let told = peer.told().unwrap();
    assert_eq!(told[0], Told::Opened(1));
    assert!(told[1..].iter().all(|t| matches!(t, Told::Data(1, _))));
}

#[test]
fn nothing_is_said_for_no_bytes_or_without_credit() {
    let (mut tx, _, flow) = connected();
    assert_eq!(tx.data(1, true, &flow, &[]).unwrap(), 0);
    assert_eq!(tx.data(1, true, &flow, &[IoSlice::new(&[])]).unwrap(), 0);
    flow.spend(256 << 10);
    assert_eq!(send(&mut tx, 1, true, &flow, b"x"), 0);
    assert_eq!(tx.pending(), 0);
    flow.add_credit(1).unwrap();
    assert_eq!(send(&mut tx, 1, true, &flow, b"xy"), 1);
}

#[test]
fn what_the_socket_took_in_part_goes_on_where_it_was() {
    let (mut tx, mut peer, flow) = connected();
    let sent = bytes(7, 150_000);
    let (mut at, mut step) = (0, 1);
    let (mut batch, mut got) = (Batch::default(), Vec::new());
    while at < sent.len() || tx.pending() + batch.pending().len() > 0 {
        let n = (step * 137) % 5000 + 1;
        at += send(&mut tx, 1, at == 0, &flow, &sent[at..][..n.min(sent.len() - at)]);
        if batch.pending().is_empty() {
            batch = tx.take().unwrap();
        }
        let n = ((step * 211) % 7001).min(batch.pending().len());
        peer.buf.extend(&batch.pending()[..n]);
        batch.consume(n);
        for told in peer.told().unwrap() {
            if let Told::Data(_, piece) = told {
                got.extend(piece);
            }
        }
        step += 1;
    }
    assert!(got == sent);
}

#[test]
fn storage_goes_with_what_is_pending() {
    let (mut tx, _, flow) = connected();
    assert!(tx.needs_storage());
    assert_eq!(tx.take().unwrap().capacity(), 0);
    tx.lend(Buffer::from(vec![0; MIN_STORAGE]));
    assert_eq!(tx.take().unwrap().capacity(), MIN_STORAGE);
    tx.lend(Buffer::from(vec![0; MIN_STORAGE]));
    let n = send(&mut tx, 1, true, &flow, &bytes(8, 100_000));
    assert!(n > 0 && tx.pending() <= MIN_STORAGE);
    let batch = tx.take().unwrap();
    assert!(tx.needs_storage() && tx.pending() == 0);
    assert_eq!((batch.pending().len(), batch.capacity()), (n + 12 + 2 * OVERHEAD, MIN_STORAGE));
}

#[test]
fn what_is_kept_opens_to_what_was_written() {
    for n in [1, 4096, 4097, MAX_PLAIN, 64 << 10, MAX_PLAIN + 4096, 100_000, 250_000] {
        let (mut tx, mut peer, flow) = connected();
        let (first, sent) = (bytes(1, 300), bytes(2, n));
        assert_eq!(send(&mut tx, 1, true, &flow, &first), first.len());
        let (a, b) = sent.split_at(n / 3);
        let bufs = [IoSlice::new(a), IoSlice::new(b)];
        let (taken, kept) = tx.data_to_keep(1, &flow, &bufs, || None).unwrap();
        let kept = kept.expect("something was sealed");
        // Nothing is put behind it, where it is kept.
        assert_eq!((taken, send(&mut tx, 1, false, &flow, b"more")), (n, 0));
        assert!(!tx.fits(1));
        let batch = tx.take().unwrap();
        assert_eq!(kept.capacity(), batch.capacity());
        assert!(heard(&batch, &mut peer) == [first, sent.clone()].concat());
        drop(batch);
        let mut opened = vec![0; n];
        kept.open(&mut opened).unwrap();
        assert!(opened == sent, "{n} bytes");
        for wrong in [n - 1, n + 1] {
            assert!(kept.open(&mut vec![0; wrong]).is_err(), "{wrong} bytes for {n}");
        }
    }
}

#[test]
fn a_receipt_shares_the_noise_frame_of_what_it_goes_with() {
    for n in [1, 4096, 4097, MAX_PLAIN, 64 << 10, 100_000, 250_000] {
        let said = |receipt: Option<u32>| {
            let (mut tx, mut peer, flow) = connected();
            peer.rx.take_receipts();
            send(&mut tx, 1, true, &flow, b"hello");
            peer.buf.extend(tx.take().unwrap().pending());
            peer.told().unwrap();
            let sent = bytes(2, n);
            let (taken, kept) =
                tx.data_to_keep(1, &flow, &[IoSlice::new(&sent)], || receipt).unwrap();
            let mut opened = vec![0; n];
            kept.expect("something was sealed").open(&mut opened).unwrap();
            assert!(taken == n && opened == sent);
            let batch = tx.take().unwrap();
            peer.buf.extend(batch.pending());
            (batch.pending().len(), peer.told().unwrap())
        };
        let ((bare, without), (len, with)) = (said(None), said(Some(77)));
        assert_eq!((len, &with[0]), (bare + 12, &Told::Received(1, 77)));
        assert_eq!(with[1..], without);
    }
}

#[test]
fn a_receipt_goes_only_with_something() {
    let (mut tx, _, flow) = connected();
    let asked = || -> Option<u32> { panic!("nothing is sealed that it could go with") };
    assert_eq!(tx.data_behind(1, false, &flow, &[], asked).unwrap(), 0);
    flow.spend(flow.credit() as u32);
    assert_eq!(tx.data_behind(1, false, &flow, &[IoSlice::new(b"x")], asked).unwrap(), 0);
    assert_eq!(tx.pending(), 0);
}

#[test]
fn as_much_is_kept_as_credit_and_storage_let_through() {
    let (mut tx, _, flow) = connected();
    let sent = bytes(3, 200_000);
    tx.lend(Buffer::from(vec![0; 68 << 10]));
    let (n, kept) = tx.data_to_keep(1, &flow, &[IoSlice::new(&sent)], || None).unwrap();
    assert!((MAX_PLAIN..68 << 10).contains(&n), "{n}");
    let mut opened = vec![0; n];
    kept.unwrap().open(&mut opened).unwrap();
    assert!(opened == sent[..n]);
    drop(tx.take().unwrap());
    flow.spend(flow.credit() as u32);
    let (n, kept) = tx.data_to_keep(1, &flow, &[IoSlice::new(&sent)], || None).unwrap();
    assert!(n == 0 && kept.is_none());
}

#[test]
fn what_fits_goes_out_whole_and_what_does_not_fits_once_more_was_taken() {
    let (mut tx, _, bulk) = connected();
    tx.lend(Buffer::from(vec![0; 68 << 10]));
    send(&mut tx, 1, true, &bulk, &bytes(1, 64 << 10));
    let first = bytes(2, 8 << 10);
    assert!(!tx.fits(first.len()), "no room behind it");
    assert_eq!(send(&mut tx, 3, true, &Flow::new(), &first), 0);
    drop(tx.take().unwrap());
    assert!(tx.fits(first.len()));
    assert_eq!(send(&mut tx, 3, true, &Flow::new(), &first), first.len());
}

#[test]
fn short_writes_that_follow_each_other_share_a_frame() {
    let (mut tx, mut peer, flow) = connected();
    let sent = bytes(9, 60_000);
    let other = Flow::new();
    peer.rx.insert(2, flow.clone(), 2);
    peer.rx.insert(4, other.clone(), 4);
    let join = |tx: &mut Tx, id, flow: &Flow, bytes: &[u8]| {
        let n = tx.join(id, flow, &[IoSlice::new(bytes)]).unwrap();
        assert_eq!(n, bytes.len());
    };
    let credit = flow.credit();
    sent[..300].chunks(100).for_each(|piece| join(&mut tx, 2, &flow, piece));
    assert_eq!(flow.credit(), credit - 300);
    let open = tx.pending();
    tx.close().unwrap();
    assert_eq!(tx.pending(), open, "what it will be is known before");
    // Another stream, a long write, a control frame: each ends the frame that could grow.
    join(&mut tx, 2, &flow, &sent[300..400]);
    join(&mut tx, 4, &other, b"x");
    join(&mut tx, 2, &flow, &sent[400..500]);
    send(&mut tx, 2, false, &flow, &sent[500..600]);
    join(&mut tx, 2, &flow, &sent[600..700]);
    let mut queue = ControlQueue::new(32);
    queue.push(Control::Fin { id: 4 }).unwrap();
    tx.control(&mut queue).unwrap();
    let batch = tx.take().unwrap();
    assert_eq!(records(&batch), [312, 112, 13, 112, 112, 112, 12]);
    assert!(heard(&batch, &mut peer) == [&sent[..400], b"x", &sent[400..700]].concat());
    // A frame has an end, and what is too long is no part of one.
    sent[..20_000].chunks(4_000).for_each(|piece| join(&mut tx, 2, &flow, piece));
    join(&mut tx, 2, &flow, &sent[20_000..25_000]);
    let batch = tx.take().unwrap();
    assert_eq!(records(&batch), [16_012, 4_012, 12, 5_000]);
    assert!(heard(&batch, &mut peer) == sent[..25_000]);
}

#[test]
fn what_joins_a_frame_stays_within_credit_and_storage() {
    let (mut tx, _, flow) = connected();
    tx.lend(Buffer::from(vec![0; MIN_STORAGE]));
    flow.spend((256 << 10) - 150);
    let join = |tx: &mut Tx, flow: &Flow, n| tx.join(1, flow, &[IoSlice::new(&bytes(1, n))]);
    assert_eq!(join(&mut tx, &flow, 100).unwrap(), 100);
    assert_eq!(join(&mut tx, &flow, 100).unwrap(), 50);
    assert_eq!(join(&mut tx, &flow, 100).unwrap(), 0);
    let rich = Flow::new();
    let taken: usize = (0..20).map(|_| join(&mut tx, &rich, 1000).unwrap()).sum();
    assert!((5_000..MIN_STORAGE).contains(&taken), "{taken}");
    assert!(tx.pending() <= MIN_STORAGE && !tx.fits(1000));
}
