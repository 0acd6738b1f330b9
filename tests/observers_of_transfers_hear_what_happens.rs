//! What the observers of a transfer hear, and how often.

mod common;
mod support;
#[path = "support/transfers.rs"]
mod transfers;

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::within;
use pointsub::transfer::progress::{Progress, Status, TransferId};
use pointsub::{ErrorCode, MessageTransporter, TransferHandle, TransferObserver};
use support::tcp_pair;
use transfers::{Heard, Recorder, Slow};

/// Sends a large message over TCP; what the receiver's observer heard.
fn heard_of(size: usize, bytes_per_second: u64) -> Vec<(Instant, Heard)> {
    let (near, far) = tcp_pair();
    let (events, hand) = Recorder::with_handle();
    let sending = thread::spawn(move || {
        let near = MessageTransporter::builder(near).control();
        let mut near = near.bytes_per_second(bytes_per_second).unwrap().build();
        near.send_with(&TransferHandle::new(), &vec![7; size]).unwrap();
    });
    let mut far = MessageTransporter::builder(far).control().build();
    assert_eq!(far.receive_with(&hand).unwrap().len(), size);
    sending.join().unwrap();
    events.all()
}

#[test]
fn progress_is_told_at_most_every_50_ms_and_grows_to_the_end() {
    within(60, || {
        let size = 4_000_000;
        let heard = heard_of(size, 5_000_000);
        let progress = |(at, heard): &(Instant, Heard)| match heard {
            Heard::Progress(progress) => Some((*at, *progress)),
            _ => None,
        };
        let told: Vec<(Instant, Progress)> = heard.iter().filter_map(progress).collect();
        assert!(told.len() >= 5, "{}", told.len());
        // The last comes with the end.
        for pair in told[..told.len() - 1].windows(2) {
            assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(49));
            assert!(pair[0].1.transferred <= pair[1].1.transferred);
        }
        for (_, progress) in &told {
            assert_eq!(progress.total, Some(size as u64));
        }
        assert!(told[0].1.fraction().unwrap() < 0.9);
        assert_eq!(told.last().unwrap().1.fraction(), Some(1.0));
    });
}

#[test]
fn the_speed_is_told_and_how_long_it_will_take() {
    within(60, || {
        let heard = heard_of(4_000_000, 2_000_000);
        let speed = |(_, heard): &(Instant, Heard)| match heard {
            Heard::Speed(speed) => Some(*speed),
            _ => None,
        };
        let speeds: Vec<_> = heard.iter().filter_map(speed).collect();
        let late = speeds[speeds.len() * 2 / 3];
        let (rate, left) = (late.bytes_per_second, late.remaining.unwrap());
        // A machine that is busy may be slower, never faster.
        assert!(rate < 3_000_000.0, "{rate}");
        assert!(rate > 500_000.0, "{rate}");
        assert!(left < Duration::from_secs(6), "{left:?}");
    });
}

#[test]
fn completion_tells_bytes_and_time_and_comes_last() {
    within(60, || {
        let heard = heard_of(1_000_000, 5_000_000);
        let [.., (_, status), (_, complete)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(*status, Heard::Status(Status::Completed));
        let Heard::Complete(bytes, took) = complete else { panic!("{complete:?}") };
        assert_eq!(*bytes, 1_000_000);
        assert!(*took > Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn a_fatal_error_is_told_before_its_status() {
    within(60, || {
        let (near, far) = tcp_pair();
        drop(near);
        let (events, hand) = Recorder::with_handle();
        let mut far = MessageTransporter::builder(far).control().build();
        far.receive_stream_with(&hand, &mut io::sink()).unwrap_err();
        let heard: Vec<_> = events.all().into_iter().map(|(_, heard)| heard).collect();
        assert_eq!(
            heard,
            [
                Heard::Status(Status::Initialising),
                Heard::Error(ErrorCode::ConnectionClosed, true),
                Heard::Status(Status::Failed),
            ]
        );
    });
}

#[test]
fn a_transfer_that_stalls_is_told_as_such_and_goes_on() {
    within(60, || {
        let (near, far) = tcp_pair();
        let events = Recorder::default();
        let stalled_after = Duration::from_millis(500);
        let hand =
            TransferHandle::builder().observer(events.clone()).stalled_after(stalled_after).build();
        let (go_on, wait) = std::sync::mpsc::channel();
        struct Stops(std::sync::mpsc::Receiver<()>, u32);
        impl io::Read for Stops {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.1 += 1;
                match self.1 {
                    2 => self.0.recv().unwrap(),
                    4 => return Ok(0),
                    _ => {}
                }
                Ok(out.len())
            }
        }
        let sending = thread::spawn(move || {
            let mut near = MessageTransporter::builder(near).control().build();
            near.send_stream_with(&TransferHandle::new(), &mut Stops(wait, 0)).unwrap()
        });
        let receiving = thread::spawn(move || {
            let mut far = MessageTransporter::builder(far).control().build();
            far.receive_stream_with(&hand, &mut io::sink()).unwrap()
        });
        events.wait_for(|heard| *heard == Heard::Error(ErrorCode::Timeout, false));
        go_on.send(()).unwrap();
        assert_eq!(sending.join().unwrap(), receiving.join().unwrap());
        let stalls = events.all().iter().filter(|(_, h)| matches!(h, Heard::Error(..))).count();
        assert_eq!(stalls, 1, "it is told once");
        assert_eq!(
            events.statuses(),
            [Status::Initialising, Status::Transferring, Status::Completed]
        );
    });
}

#[test]
fn an_observer_may_use_the_handle() {
    struct Meddler(Arc<OnceLock<TransferHandle>>);
    impl TransferObserver for Meddler {
        fn status(&self, _: TransferId, status: Status) {
            let Some(hand) = self.0.get() else { return };
            assert_eq!(hand.status(), status);
            match status {
                Status::Transferring if hand.progress().transferred == 0 => hand.pause(),
                Status::Paused => hand.resume(),
                _ => {}
            }
        }
    }
    within(60, || {
        let (near, far) = tcp_pair();
        let own = Arc::new(OnceLock::new());
        let hand = TransferHandle::builder().observer(Meddler(own.clone())).build();
        own.set(hand.clone()).unwrap();
        let sending = thread::spawn(move || {
            let mut near = MessageTransporter::builder(near).control().build();
            let mut source = Slow::new(300_000, 10_000, Duration::ZERO);
            near.send_stream_with(&hand, &mut source).unwrap()
        });
        let (events, hand) = Recorder::with_handle();
        let mut far = MessageTransporter::builder(far).control().build();
        assert_eq!(far.receive_stream_with(&hand, &mut io::sink()).unwrap(), 300_000);
        assert_eq!(sending.join().unwrap(), 300_000);
        assert_eq!(events.statuses().len(), 6);
    });
}

#[test]
fn an_observer_that_panics_ends_the_call_with_its_panic() {
    struct Panics;
    impl TransferObserver for Panics {
        fn status(&self, _: TransferId, status: Status) {
            assert_ne!(status, Status::Transferring, "on purpose");
        }
    }
    let hand = TransferHandle::builder().observer(Panics).build();
    let sending = thread::spawn(move || {
        let mut here = MessageTransporter::new(Vec::new());
        here.send_with(&hand, b"a message")
    });
    let panic = sending.join().unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("on purpose"));
}

#[test]
fn short_messages_are_observed_as_well() {
    for size in [0, 1, 65_535] {
        let mut here = MessageTransporter::new(Vec::new());
        let (events, hand) = Recorder::with_handle();
        here.send_with(&hand, &vec![1; size]).unwrap();
        let complete = [Status::Initialising, Status::Transferring, Status::Completed];
        assert_eq!(events.statuses(), complete);
        assert_eq!(hand.progress().transferred, size as u64);
        assert_eq!(hand.progress().fraction(), Some(1.0));
        let wire = here.into_inner();
        let (events, hand) = Recorder::with_handle();
        let mut there = MessageTransporter::new(&wire[..]);
        assert_eq!(there.receive_with(&hand).unwrap().len(), size);
        assert_eq!(events.statuses(), complete);
        assert_eq!(
            (hand.progress().transferred, hand.progress().total),
            (size as u64, Some(size as u64))
        );
    }
}
