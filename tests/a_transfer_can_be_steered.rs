//! Pause, resume and cancel from other threads: how soon, what waits meanwhile,
//! and what becomes of the bytes around.

mod common;
mod support;
#[path = "support/transfers.rs"]
mod transfers;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{Cut, Pair, Ways, Wired, eventually, within};
use pointsub::message::{Direction, MessageSizer, SizeClass, Strategy};
use pointsub::transfer::progress::Status;
use pointsub::{
    ErrorCode, MessageTransporter, TransferHandle, receive_message, receive_stream, send_message,
};
use support::{bytes, tcp_pair};
use transfers::{Recorder, Slow, pipe};

const LONG: Duration = Duration::from_millis(300);

fn controlled<C: pointsub::message::TryIo>(conn: C) -> MessageTransporter<C> {
    MessageTransporter::builder(conn).control().build()
}

/// Gives bytes as fast as they are taken, and counts them.
struct Fast(Arc<AtomicU64>);

impl Read for Fast {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.fetch_add(out.len() as u64, SeqCst);
        Ok(out.len())
    }
}

#[test]
fn a_pause_from_the_receiver_stops_the_sender_within_100_ms() {
    within(60, || {
        let pair = Pair::new();
        let given = Arc::new(AtomicU64::new(0));
        let (near, far) = pair.connect();
        let (sender, receiver) = (TransferHandle::new(), TransferHandle::new());
        thread::scope(|scope| {
            let mut source = Fast(given.clone());
            let (hand, mut near) = (sender.clone(), controlled(near));
            scope.spawn(move || near.send_stream_with(&hand, &mut source));
            let (hand, mut far) = (receiver.clone(), controlled(far));
            scope.spawn(move || far.receive_stream_with(&hand, &mut io::sink()));
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let before = given.load(SeqCst);
                while given.load(SeqCst) < before + 3_000_000 {
                    thread::yield_now();
                }
                receiver.pause();
                let paused = Instant::now();
                while sender.status() != Status::Paused {
                    thread::yield_now();
                }
                best = best.min(paused.elapsed());
                let at = given.load(SeqCst);
                thread::sleep(Duration::from_millis(60));
                assert_eq!(given.load(SeqCst), at, "it went on");
                receiver.resume();
            }
            receiver.cancel();
            // A machine that runs other tests as well may take its time now and then.
            assert!(best < Duration::from_millis(100), "{best:?}");
        });
        assert_eq!((sender.status(), receiver.status()), (Status::Cancelled, Status::Cancelled));
    });
}

#[test]
fn what_is_paused_never_times_out_and_what_stands_still_does() {
    const LIMIT: Duration = Duration::from_millis(700);
    within(60, || {
        for by_sender in [true, false] {
            let (near, far) = tcp_pair();
            far.set_read_timeout(Some(LIMIT)).unwrap();
            near.set_read_timeout(Some(LIMIT)).unwrap();
            near.set_write_timeout(Some(LIMIT)).unwrap();
            let (events, receiver) = Recorder::with_handle();
            let (_, sender) = Recorder::with_handle();
            thread::scope(|scope| {
                let hand = sender.clone();
                let sending = scope.spawn(move || {
                    let mut source = Slow::new(500_000, 10_000, Duration::from_millis(1));
                    controlled(near).send_stream_with(&hand, &mut source)
                });
                let hand = receiver.clone();
                let receiving = scope.spawn(move || {
                    let mut far = controlled(far);
                    let received = far.receive_stream_with(&hand, &mut io::sink());
                    // Nobody sends any more, and nobody has paused that.
                    let e = far.receive_with(&TransferHandle::new()).unwrap_err();
                    assert!(matches!(
                        e.code(),
                        ErrorCode::Timeout
                            | ErrorCode::ConnectionClosed
                            | ErrorCode::ConnectionReset
                    ));
                    received
                });
                events.wait_for_status(Status::Transferring);
                let hand = if by_sender { &sender } else { &receiver };
                hand.pause();
                events.wait_for_status(Status::Paused);
                thread::sleep(2 * LIMIT);
                hand.resume();
                assert_eq!(sending.join().unwrap().unwrap(), 500_000);
                assert_eq!(receiving.join().unwrap().unwrap(), 500_000);
            });
        }
        let (_near, far) = tcp_pair();
        far.set_read_timeout(Some(LIMIT)).unwrap();
        let e = controlled(far).receive_with(&TransferHandle::new()).unwrap_err();
        assert_eq!(e.code(), ErrorCode::Timeout);
    });
}

#[test]
fn what_waits_for_its_rate_is_paused_and_called_off_at_once() {
    within(60, || {
        // Whole, in chunks, and as a stream: each has to wait for many seconds.
        for (size, stream) in [(900, false), (200_000, false), (200_000, true)] {
            let (near, far) = pipe(1 << 20);
            let near = MessageTransporter::builder(near).bytes_per_second(50).unwrap();
            let (mut near, mut far) = (near.control().build(), controlled(far));
            let (events, hand) = Recorder::with_handle();
            let sender = hand.clone();
            let sending = thread::spawn(move || match stream {
                true => near.send_stream_with(&sender, &mut &vec![1; size][..]).map(drop),
                false => near.send_with(&sender, &vec![1; size]),
            });
            let receiving = thread::spawn(move || far.receive().map(drop));
            events.wait_for_status(Status::Initialising);
            thread::sleep(Duration::from_millis(100));
            let start = Instant::now();
            hand.pause();
            events.wait_for_status(Status::Paused);
            hand.cancel();
            for ended in [sending, receiving] {
                assert_eq!(ended.join().unwrap().unwrap_err().code(), ErrorCode::Cancelled);
            }
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
    });
}

/// The table with limits short enough for a test.
struct Impatient;

impl MessageSizer for Impatient {
    fn strategy(&self, size: u64) -> Strategy {
        let mut strategy = SizeClass::of(size).strategy();
        strategy.stall = Duration::from_millis(200);
        strategy
    }
}

#[test]
fn stall_limits_hold_inside_a_chunk_and_not_in_a_pause() {
    within(60, || {
        let (near, mut far) = tcp_pair();
        let (events, hand) = Recorder::with_handle();
        let receiving = thread::spawn(move || {
            let near = MessageTransporter::builder(near).sizer(Impatient).limits();
            let mut near = near.control().build();
            let e = near.receive_stream_with(&hand, &mut io::sink()).unwrap_err();
            assert_eq!(near.stats().stalls(Direction::Read), 1);
            e
        });
        // A stream, paused for longer than the limit.
        far.write_all(&[0x90, 0, 0, 0xBB]).unwrap();
        far.write_all(&command(1)).unwrap();
        events.wait_for_status(Status::Paused);
        thread::sleep(LONG);
        assert!(!receiving.is_finished());
        far.write_all(&command(2)).unwrap();
        // And a chunk that stops in the middle.
        far.write_all(&[0x98, 0, 3, 0xBA, 1]).unwrap();
        let e = receiving.join().unwrap();
        assert_eq!(e.code(), ErrorCode::Timeout);
        assert_eq!(e.context("stall_limit_ms"), Some("200"));
    });
}

#[test]
fn a_sender_whose_receiver_does_nothing_can_still_be_called_off() {
    within(60, || {
        let (near, far) = pipe(50_000);
        let (events, hand) = Recorder::with_handle();
        let sending = {
            let hand = hand.clone();
            thread::spawn(move || {
                let given = Arc::default();
                let mut near = controlled(near);
                let outcome = near.send_stream_with(&hand, &mut Fast(given));
                (near, outcome)
            })
        };
        events.wait_for_status(Status::Transferring);
        thread::sleep(Duration::from_millis(50));
        let called = Instant::now();
        hand.cancel();
        let (mut near, outcome) = sending.join().unwrap();
        assert!(called.elapsed() < Duration::from_secs(3));
        assert_eq!(outcome.unwrap_err().code(), ErrorCode::Cancelled);
        // The frame that was cut is completed when there is room, and the rest
        // taken back.
        let receiving = thread::spawn(move || {
            let mut far = controlled(far);
            let e = far.receive_stream(&mut io::sink()).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Aborted);
            assert_eq!(far.receive().unwrap(), b"the next");
            far.send(b"an answer").unwrap();
            assert_eq!(far.receive().unwrap(), b"the last");
        });
        near.send(b"the next").unwrap();
        assert_eq!(near.receive().unwrap(), b"an answer");
        near.send(b"the last").unwrap();
        receiving.join().unwrap();
    });
}

#[test]
fn a_receiver_whose_sender_does_nothing_can_still_be_called_off() {
    struct Stuck(std::sync::mpsc::Receiver<()>);
    impl Read for Stuck {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(out.len().min(10))
        }
    }
    within(60, || {
        let (near, far) = tcp_pair();
        let (go_on, stuck) = std::sync::mpsc::channel();
        let sending = thread::spawn(move || {
            let mut near = controlled(near);
            let mut source = (&b"a beginning"[..]).chain(Stuck(stuck));
            let e = near.send_stream_with(&TransferHandle::new(), &mut source).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Cancelled);
            near.send(b"the next").unwrap();
            assert_eq!(near.receive().unwrap(), b"an answer");
        });
        let (events, hand) = Recorder::with_handle();
        let receiver = hand.clone();
        let receiving = thread::spawn(move || {
            let mut far = controlled(far);
            let outcome = far.receive_stream_with(&receiver, &mut io::sink());
            (far, outcome)
        });
        events.wait_for_status(Status::Transferring);
        let started = Instant::now();
        hand.cancel();
        let (mut far, outcome) = receiving.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(outcome.unwrap_err().code(), ErrorCode::Cancelled);
        go_on.send(()).unwrap();
        assert_eq!(far.receive().unwrap(), b"the next");
        far.send(b"an answer").unwrap();
        sending.join().unwrap();
    });
}

#[test]
fn what_is_cut_off_can_still_be_called_off() {
    within(60, || {
        let wired = Wired::of(|host| host.linger(Duration::ZERO));
        let (near, far) = wired.connect();
        let watched = near.try_clone().unwrap();
        let (events, hand) = Recorder::with_handle();
        let sending = {
            let hand = hand.clone();
            thread::spawn(move || {
                let mut source = Slow::new(u64::MAX, 1000, Duration::from_millis(1));
                controlled(near).send_stream_with(&hand, &mut source)
            })
        };
        events.wait_for_status(Status::Transferring);
        // Dials get nowhere, and are not refused either.
        wired.proxy.stall(Ways::Both);
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || watched.stats().losses == 1);
        let called = Instant::now();
        hand.cancel();
        let e = sending.join().unwrap().unwrap_err();
        assert_eq!(e.code(), ErrorCode::Cancelled);
        // It waits a moment for the receiver's last word.
        assert!(called.elapsed() < Duration::from_secs(3), "{:?}", called.elapsed());
        drop(far);
    });
}

#[test]
fn nothing_is_read_ahead_of_the_reply_to_a_transfer() {
    within(60, || {
        for size in [0, 10, 200_000, 3_000_000] {
            let (mut near, mut far) = tcp_pair();
            let content = bytes(5, size);
            let expected = content.clone();
            let receiving = thread::spawn(move || {
                let mut there = controlled(&far);
                let message = there.receive_with(&TransferHandle::new()).unwrap();
                assert!(message == expected);
                drop(there);
                send_message(&mut far, b"one").unwrap();
                send_message(&mut far, b"two").unwrap();
                far
            });
            let mut here = controlled(&near);
            here.send_with(&TransferHandle::new(), &content).unwrap();
            drop(here);
            assert_eq!(receive_message(&mut near).unwrap(), b"one");
            assert_eq!(receive_message(&mut near).unwrap(), b"two");
            receiving.join().unwrap();
        }
    });
}

#[test]
fn a_message_that_was_on_its_way_back_when_the_transfer_began_is_not_lost() {
    within(60, || {
        let (near, mut far) = tcp_pair();
        let early = bytes(9, 100_000);
        send_message(&mut far, b"early").unwrap();
        send_message(&mut far, &early).unwrap();
        let mut near = controlled(near);
        let receiving = thread::spawn(move || {
            let mut far = controlled(far);
            let hand = TransferHandle::new();
            let n = far.receive_stream_with(&hand, &mut io::sink()).unwrap();
            far.send(b"late").unwrap();
            let m = far.receive_stream_with(&hand, &mut io::sink()).unwrap();
            far.send(b"last").unwrap();
            (n, m)
        });
        let mut source = Slow::new(1_000_000, 50_000, Duration::from_millis(1));
        near.send_stream_with(&TransferHandle::new(), &mut source).unwrap();
        assert_eq!(near.receive().unwrap(), b"early");
        assert!(near.receive().unwrap() == early);
        assert_eq!(near.receive().unwrap(), b"late");
        // And the next one listens again.
        near.send_stream_with(&TransferHandle::new(), &mut &[1; 70_000][..]).unwrap();
        assert_eq!(near.receive().unwrap(), b"last");
        assert_eq!(receiving.join().unwrap(), (1_000_000, 70_000));
    });
}

#[test]
fn a_receiver_that_cannot_answer_refuses_by_name() {
    within(60, || {
        for kind in 0..4 {
            let (near, far) = tcp_pair();
            let receiving = thread::spawn(move || {
                let e = match kind {
                    0 => receive_message(&mut &far).unwrap_err(),
                    1 => receive_stream(&mut &far, &mut io::sink()).unwrap_err(),
                    2 => MessageTransporter::new(&far).receive().unwrap_err(),
                    _ => controlled(far).split().1.receive().unwrap_err(),
                };
                assert_eq!(e.code(), ErrorCode::Unsupported);
                assert!(e.to_string().contains("control"), "{e}");
            });
            let mut near = controlled(near);
            let mut source = Slow::endless();
            let e = near.send_stream_with(&TransferHandle::new(), &mut source).unwrap_err();
            assert_ne!(e.code(), ErrorCode::Cancelled);
            receiving.join().unwrap();
        }
    });
}

#[test]
fn without_control_the_sender_alone_steers_and_the_receiver_hears() {
    within(60, || {
        let (near, far) = tcp_pair();
        let (events, sender) = Recorder::with_handle();
        let (far_events, receiver) = Recorder::with_handle();
        let sending = {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut near = MessageTransporter::new(near);
                let outcome = near.send_stream_with(&sender, &mut Slow::endless());
                near.send(b"the next").unwrap();
                outcome
            })
        };
        let receiving = thread::spawn(move || {
            let mut far = MessageTransporter::new(far);
            let outcome = far.receive_stream_with(&receiver, &mut io::sink());
            assert_eq!(far.receive().unwrap(), b"the next");
            outcome
        });
        far_events.wait_for_status(Status::Transferring);
        sender.pause();
        far_events.wait_for_status(Status::Paused);
        sender.resume();
        far_events.wait_for_status(Status::Resuming);
        far_events.wait_for_status(Status::Transferring);
        sender.cancel();
        for outcome in [sending.join().unwrap(), receiving.join().unwrap()] {
            assert_eq!(outcome.unwrap_err().code(), ErrorCode::Cancelled);
        }
        assert_eq!(events.statuses(), far_events.statuses());
        assert_eq!(events.statuses()[2..4], [Status::Paused, Status::Resuming]);
    });
}

#[test]
fn a_transport_that_only_writes_can_be_steered_between_chunks() {
    let hand = TransferHandle::new();
    let steering = hand.clone();
    let mut source = Slow::endless();
    let given = source.given.clone();
    let steer = thread::spawn(move || {
        while given.load(SeqCst) < 100_000 {
            thread::yield_now();
        }
        steering.pause();
        while steering.status() != Status::Paused {
            thread::yield_now();
        }
        steering.cancel();
    });
    let mut here = MessageTransporter::new(Vec::new());
    let e = here.send_stream_with(&hand, &mut source).unwrap_err();
    assert_eq!(e.code(), ErrorCode::Cancelled);
    steer.join().unwrap();
    here.send(b"the next").unwrap();
    let wire = here.into_inner();
    let mut there = MessageTransporter::new(&wire[..]);
    let (events, hand) = Recorder::with_handle();
    assert_eq!(there.receive_with(&hand).unwrap_err().code(), ErrorCode::Cancelled);
    assert_eq!(
        events.statuses(),
        [Status::Initialising, Status::Transferring, Status::Paused, Status::Cancelled]
    );
    assert_eq!(there.receive().unwrap(), b"the next");
}

#[test]
fn a_message_above_the_limit_is_refused_and_its_sender_stops() {
    within(60, || {
        let (near, far) = tcp_pair();
        let receiving = thread::spawn(move || {
            let mut far =
                MessageTransporter::builder(far).max_message_size(1 << 20).control().build();
            let e = far.receive_with(&TransferHandle::new()).unwrap_err();
            assert_eq!(e.code(), ErrorCode::MessageTooLarge);
            assert_eq!(far.receive().unwrap(), b"the next");
        });
        let mut near = controlled(near);
        let e = near.send_with(&TransferHandle::new(), &vec![1; 64 << 20]).unwrap_err();
        assert_eq!(e.code(), ErrorCode::Aborted);
        assert!(e.to_string().contains("MessageTooLarge"), "{e}");
        near.send(b"the next").unwrap();
        receiving.join().unwrap();
    });
}

#[test]
fn a_peer_that_is_gone_ends_what_is_paused() {
    within(60, || {
        let (near, far) = tcp_pair();
        let (events, hand) = Recorder::with_handle();
        hand.pause();
        let sending = {
            let hand = hand.clone();
            thread::spawn(move || {
                controlled(near).send_stream_with(&hand, &mut &[1; 100_000][..]).unwrap_err()
            })
        };
        events.wait_for_status(Status::Paused);
        drop(far);
        let e = sending.join().unwrap();
        assert!(matches!(e.code(), ErrorCode::UnexpectedEnd | ErrorCode::ConnectionReset), "{e}");
        assert_eq!(events.statuses().last(), Some(&Status::Failed));
    });
}

/// The frame of a command.
fn command(code: u8) -> Vec<u8> {
    let mut frame = vec![0xB0, 0, code];
    let check = frame.iter().fold(0xFFu8, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| crc << 1 ^ if crc & 0x80 == 0 { 0 } else { 0x2F })
    });
    frame.push(!check);
    frame
}

#[test]
fn commands_out_of_turn_are_refused() {
    let begin = [0x90, 0, 0, 0xBB];
    let refused = |wire: &[u8]| {
        let e = receive_message(&mut &wire[..]).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ProtocolViolation, "{wire:?}");
    };
    for code in [1, 2, 3, 4] {
        refused(&command(code));
    }
    for codes in [&[2][..], &[4], &[1, 1], &[1, 2, 2]] {
        let commands: Vec<_> = codes.iter().flat_map(|code| command(*code)).collect();
        refused(&[&begin[..], &commands].concat());
    }
    // A chunk while it is paused.
    refused(&[&begin[..], &command(1), &[0x98, 0, 3, 0xBA, 1, 2, 3, 0, 0, 0, 0]].concat());
    let e = receive_message(&mut &[&begin[..], &command(3)].concat()[..]).unwrap_err();
    assert_eq!(e.code(), ErrorCode::Cancelled);
}

#[test]
fn what_is_called_off_before_it_begins_is_told_to_the_receiver() {
    within(60, || {
        for size in [0, 1, 100, 65_535, 1_000_000] {
            let (near, far) = pipe(1 << 20);
            let (mut near, mut far) = (controlled(near), controlled(far));
            let sending = thread::spawn(move || {
                let hand = TransferHandle::new();
                hand.cancel();
                let e = near.send_with(&hand, &vec![1; size]).unwrap_err();
                assert_eq!(e.code(), ErrorCode::Cancelled);
                near.send_with(&TransferHandle::new(), &[2; 100_000]).unwrap();
                near
            });
            let (events, hand) = Recorder::with_handle();
            assert_eq!(far.receive_with(&hand).unwrap_err().code(), ErrorCode::Cancelled);
            assert_eq!(events.statuses(), [Status::Initialising, Status::Cancelled]);
            assert_eq!(far.receive().unwrap(), [2; 100_000]);
            sending.join().unwrap();
        }
    });
}

#[test]
fn a_short_message_that_is_paused_waits() {
    within(60, || {
        for content in [&b"short"[..], b""] {
            let (near, far) = pipe(1 << 20);
            let (mut near, mut far) = (controlled(near), controlled(far));
            let hand = TransferHandle::new();
            hand.pause();
            let sender = hand.clone();
            let sending = thread::spawn(move || near.send_with(&sender, content));
            let (events, receiver) = Recorder::with_handle();
            let receiving = thread::spawn(move || far.receive_with(&receiver));
            events.wait_for_status(Status::Paused);
            hand.resume();
            sending.join().unwrap().unwrap();
            assert_eq!(receiving.join().unwrap().unwrap(), content);
        }
    });
}

#[test]
fn a_short_message_whose_pause_ends_before_it_begins_waits_for_nobody() {
    within(60, || {
        let (near, mut far) = tcp_pair();
        let far_end = near.try_clone().unwrap();
        near.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut near = controlled(near);
        // The rest of a message is to go out before.
        while near.send(&[7; 60_000]).is_ok() {}
        far_end.set_write_timeout(None).unwrap();
        let (events, hand) = Recorder::with_handle();
        hand.pause();
        let sender = hand.clone();
        let sending = thread::spawn(move || near.send_with(&sender, b"short"));
        events.wait_for_status(Status::Initialising);
        thread::sleep(Duration::from_millis(50));
        hand.resume();
        while receive_message(&mut far).unwrap() != b"short" {}
        sending.join().unwrap().unwrap();
    });
}

#[test]
fn nothing_that_comes_back_does_harm() {
    within(100, || {
        for seed in 0..60 {
            let (near, mut far) = pipe(20_000);
            let sending = thread::spawn(move || {
                let mut source = Slow::new(200_000, 10_000, Duration::ZERO);
                controlled(near).send_stream_with(&TransferHandle::new(), &mut source)
            });
            let mut random = support::Content::new(seed);
            let mut back = Vec::new();
            for _ in 0..random.below(20) {
                match random.below(6) {
                    0 => back.extend(bytes(random.next(), random.below(9))),
                    1 => send_message(&mut back, b"a message").unwrap(),
                    2 => back.extend(command(3 + random.below(3) as u8)),
                    _ => back.extend(command(1 + random.below(2) as u8)),
                }
            }
            far.write_all(&back).unwrap();
            if random.below(2) == 0 {
                far.write_all(&command(2)).unwrap();
                far.write_all(&command(4)).unwrap();
                // Half of it at least; what is refused ends sooner.
                let mut taken = vec![0; 100_000];
                let _ = far.read_exact(&mut taken);
            }
            drop(far);
            let _ = sending.join().unwrap();
        }
    });
}

#[test]
fn nothing_that_comes_forward_does_harm() {
    within(100, || {
        for seed in 0..200 {
            let (mut near, far) = pipe(1 << 16);
            let hand = TransferHandle::new();
            let receiver = hand.clone();
            let receiving = thread::spawn(move || {
                controlled(far).receive_stream_with(&receiver, &mut io::sink())
            });
            let mut random = support::Content::new(seed);
            // A stream under control.
            let begin = [0x94, 0, 0, 0x83, 8, 0, 0, 0, 0, 0, 0, 0, 0x98, 0x31, 0x58, 0x33];
            near.write_all(&begin).unwrap();
            for _ in 0..random.below(20) {
                match random.below(8) {
                    0 => near.write_all(&bytes(random.next(), random.below(9))).unwrap(),
                    1 => near.write_all(&[0x98, 0, 3, 0xBA, 1, 2, 3, 4, 5, 6, 7]).unwrap(),
                    2 => hand.pause(),
                    3 => hand.resume(),
                    4 if seed % 2 == 0 => hand.cancel(),
                    _ => near.write_all(&command(1 + random.below(4) as u8)).unwrap(),
                }
            }
            drop(near);
            receiving.join().unwrap().unwrap_err();
        }
    });
}

#[test]
fn a_flipped_bit_in_a_stream_with_commands_is_found() {
    struct Pauses(TransferHandle, u32);
    impl Read for Pauses {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 {
                1 => self.0.pause(),
                3 => return Ok(0),
                _ => {}
            }
            out[..3].fill(self.1 as u8);
            Ok(3)
        }
    }
    let hand = TransferHandle::new();
    let resuming = hand.clone();
    let resume = thread::spawn(move || {
        while resuming.status() != Status::Paused {
            thread::yield_now();
        }
        resuming.resume();
    });
    let mut here = MessageTransporter::new(Vec::new());
    here.send_stream_with(&hand, &mut Pauses(hand.clone(), 0)).unwrap();
    resume.join().unwrap();
    let wire = here.into_inner();
    assert_eq!(receive_message(&mut &wire[..]).unwrap(), [1, 1, 1, 2, 2, 2]);
    for bit in 0..wire.len() * 8 {
        let mut damaged = wire.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let e = receive_message(&mut &damaged[..]).unwrap_err();
        assert!(
            matches!(e.code(), ErrorCode::InvalidHeader | ErrorCode::ChecksumMismatch),
            "bit {bit}: {e}"
        );
    }
    // A pause and its end, taken out, are missed by the checksum.
    let at = 4 + 4 + 3 + 4;
    let cut = [&wire[..at], &wire[at + 8..]].concat();
    let e = receive_message(&mut &cut[..]).unwrap_err();
    assert_eq!(e.code(), ErrorCode::ChecksumMismatch);
}

#[test]
fn a_peer_that_floods_with_commands_does_no_harm() {
    within(60, || {
        let (near, mut far) = tcp_pair();
        let (events, hand) = Recorder::with_handle();
        let sending = thread::spawn(move || {
            let mut source = Slow::new(300_000, 10_000, Duration::from_millis(1));
            controlled(near).send_stream_with(&hand, &mut source)
        });
        events.wait_for_status(Status::Transferring);
        let flood = [command(1), command(2)].concat().repeat(20_000);
        let mut reading = far.try_clone().unwrap();
        let drain = thread::spawn(move || io::copy(&mut reading, &mut io::sink()));
        let _ = far.write_all(&flood);
        let _ = far.write_all(&command(4));
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = sending.join().unwrap();
        let _ = drain.join();
        // What they come to is obeyed, not each.
        assert!(events.statuses().len() < 4_000, "{}", events.statuses().len());
    });
}
