//! Whoever pauses, resumes, calls off or fails: both observers hear the same
//! statuses in the same order, and the conn serves the next message.

mod common;
mod support;
#[path = "support/transfers.rs"]
mod transfers;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::{Pair, within};
use pointsub::message::TryIo;
use pointsub::transfer::progress::Status::{self, *};
use pointsub::{Conn, Error, ErrorCode, MessageTransporter, TransferHandle};
use support::{Content, bytes, tcp_pair};
use transfers::{Pipe, Recorder, Slow, pipe};

/// What the two ends came to.
struct Story {
    sent: Result<u64, Error>,
    received: Result<u64, Error>,
    sender: Vec<Status>,
    receiver: Vec<Status>,
}

/// Sends from `source` to `sink` while `direct` steers by both handles; then a
/// message each way, to see that the conn is in order.
fn play<C: TryIo + Send>(
    (near, far): (C, C),
    source: impl Read + Send,
    sink: impl Write + Send,
    direct: impl FnOnce(&Hand, &Hand) + Send,
) -> Story {
    let (near_hand, far_hand) = (Hand::new(), Hand::new());
    let (mut source, mut sink) = (source, sink);
    let (sender, receiver) = (near_hand.handle.clone(), far_hand.handle.clone());
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let mut near = MessageTransporter::builder(near).control().build();
            let sent = near.send_stream_with(&sender, &mut source);
            assert_eq!(near.receive().unwrap(), b"an answer");
            near.send(b"goodbye").unwrap();
            sent
        });
        let receiving = scope.spawn(move || {
            let mut far = MessageTransporter::builder(far).control().build();
            let received = far.receive_stream_with(&receiver, &mut sink);
            far.send(b"an answer").unwrap();
            assert_eq!(far.receive().unwrap(), b"goodbye");
            received
        });
        direct(&near_hand, &far_hand);
        (sending.join().unwrap(), receiving.join().unwrap())
    });
    let (sender, receiver) = (near_hand.recorder.statuses(), far_hand.recorder.statuses());
    Story { sent, received, sender, receiver }
}

struct Hand {
    recorder: Recorder,
    handle: TransferHandle,
}

impl Hand {
    fn new() -> Hand {
        let (recorder, handle) = Recorder::with_handle();
        Hand { recorder, handle }
    }
}

impl Story {
    #[track_caller]
    fn is(&self, statuses: &[Status]) {
        assert_eq!(self.sender, statuses, "the sender's");
        assert_eq!(self.receiver, statuses, "the receiver's");
    }

    #[track_caller]
    fn codes(&self) -> (ErrorCode, ErrorCode) {
        (self.sent.as_ref().unwrap_err().code(), self.received.as_ref().unwrap_err().code())
    }
}

/// All that hold for one transport hold for each.
fn over_every_transport(play: impl Fn(&mut dyn FnMut() -> Ends)) {
    within(120, || {
        play(&mut || Ends::Pipe(pipe(100_000)));
        play(&mut || Ends::Tcp(tcp_pair()));
        play(&mut || Ends::Unix(UnixStream::pair().unwrap()));
        let pair = Pair::new();
        play(&mut || Ends::Conn(pair.connect()));
    });
}

enum Ends {
    Pipe((Pipe, Pipe)),
    Tcp((TcpStream, TcpStream)),
    Unix((UnixStream, UnixStream)),
    Conn((Conn, Conn)),
}

impl Ends {
    fn play(
        self,
        source: impl Read + Send,
        sink: impl Write + Send,
        direct: impl FnOnce(&Hand, &Hand) + Send,
    ) -> Story {
        match self {
            Ends::Pipe(ends) => play(ends, source, sink, direct),
            Ends::Tcp(ends) => play(ends, source, sink, direct),
            Ends::Unix(ends) => play(ends, source, sink, direct),
            Ends::Conn(ends) => play(ends, source, sink, direct),
        }
    }
}

#[test]
fn when_nothing_happens() {
    over_every_transport(|ends| {
        for size in [0, 1, 70_000, 3_000_000] {
            let content = bytes(size as u64, size);
            let mut arrived = Vec::new();
            let story = ends().play(&content[..], &mut arrived, |_, _| {});
            assert_eq!(story.sent.as_ref().unwrap(), &(size as u64));
            assert_eq!(story.received.as_ref().unwrap(), &(size as u64));
            story.is(&[Initialising, Transferring, Completed]);
            assert!(arrived == content);
        }
    });
}

const PAUSED_ONCE: [Status; 6] =
    [Initialising, Transferring, Paused, Resuming, Transferring, Completed];

#[test]
fn when_either_pauses_and_resumes() {
    over_every_transport(|ends| {
        for by_sender in [true, false] {
            let source = Slow::new(2_000_000, 20_000, Duration::from_millis(1));
            let story = ends().play(source, io::sink(), |near, far| {
                let hand = if by_sender { near } else { far };
                far.recorder.wait_for_status(Transferring);
                hand.handle.pause();
                near.recorder.wait_for_status(Paused);
                far.recorder.wait_for_status(Paused);
                hand.handle.resume();
            });
            assert_eq!(story.sent.as_ref().unwrap(), &2_000_000);
            assert_eq!(story.received.as_ref().unwrap(), &2_000_000);
            story.is(&PAUSED_ONCE);
        }
    });
}

#[test]
fn when_both_pause_it_goes_on_when_both_have_resumed() {
    over_every_transport(|ends| {
        let source = Slow::new(2_000_000, 20_000, Duration::from_millis(1));
        let story = ends().play(source, io::sink(), |near, far| {
            far.recorder.wait_for_status(Transferring);
            far.handle.pause();
            far.recorder.wait_for_status(Paused);
            near.handle.pause();
            far.handle.resume();
            thread::sleep(Duration::from_millis(100));
            assert_eq!((near.handle.status(), far.handle.status()), (Paused, Paused));
            near.handle.resume();
        });
        story.is(&PAUSED_ONCE);
    });
}

#[test]
fn when_it_is_paused_before_it_has_begun() {
    over_every_transport(|ends| {
        for by_sender in [true, false] {
            // The receiver hears of the transfer with its first byte.
            let source = Slow::new(1_000_000, 10_000, Duration::from_millis(1));
            let story = ends().play(source, io::sink(), |near, far| {
                let hand = if by_sender { near } else { far };
                hand.handle.pause();
                near.recorder.wait_for_status(Paused);
                far.recorder.wait_for_status(Paused);
                hand.handle.resume();
            });
            assert_eq!(story.sender, story.receiver);
            assert_eq!(story.sender.last(), Some(&Completed));
        }
    });
}

#[test]
fn when_either_calls_it_off() {
    over_every_transport(|ends| {
        for by_sender in [true, false] {
            let mut called = None;
            let story = ends().play(Slow::endless(), io::sink(), |near, far| {
                far.recorder.wait_for_status(Transferring);
                called = Some(Instant::now());
                if by_sender { near.handle.cancel() } else { far.handle.cancel() }
            });
            assert!(called.unwrap().elapsed() < Duration::from_millis(900));
            assert_eq!(story.codes(), (ErrorCode::Cancelled, ErrorCode::Cancelled));
            story.is(&[Initialising, Transferring, Cancelled]);
        }
    });
}

#[test]
fn when_either_calls_off_what_is_paused() {
    over_every_transport(|ends| {
        for (paused_by_sender, by_sender) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let mut called = None;
            let story = ends().play(Slow::endless(), io::sink(), |near, far| {
                far.recorder.wait_for_status(Transferring);
                if paused_by_sender {
                    near.handle.pause()
                } else {
                    far.handle.pause()
                }
                far.recorder.wait_for_status(Paused);
                called = Some(Instant::now());
                if by_sender { near.handle.cancel() } else { far.handle.cancel() }
            });
            assert!(called.unwrap().elapsed() < Duration::from_millis(900));
            assert_eq!(story.codes(), (ErrorCode::Cancelled, ErrorCode::Cancelled));
            story.is(&[Initialising, Transferring, Paused, Cancelled]);
        }
    });
}

#[test]
fn when_the_source_fails() {
    struct Fails(u32);
    impl Read for Fails {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1..4 => Ok(out.len()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }
    over_every_transport(|ends| {
        let story = ends().play(Fails(0), io::sink(), |_, _| {});
        assert_eq!(story.codes(), (ErrorCode::Io, ErrorCode::Aborted));
        story.is(&[Initialising, Transferring, Failed]);
        let story = ends().play(Fails(5), io::sink(), |_, _| {});
        story.is(&[Initialising, Failed]);
    });
}

#[test]
fn when_source_or_sink_call_it_off() {
    struct Cancels;
    impl Read for Cancels {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(Error::new(ErrorCode::Cancelled, "by the source").into())
        }
    }
    impl Write for Cancels {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(Error::new(ErrorCode::Cancelled, "by the sink").into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    over_every_transport(|ends| {
        let story = ends().play((&b"some"[..]).chain(Cancels), io::sink(), |_, _| {});
        assert_eq!(story.codes(), (ErrorCode::Cancelled, ErrorCode::Cancelled));
        story.is(&[Initialising, Transferring, Cancelled]);
        let story = ends().play(Slow::endless(), Cancels, |_, _| {});
        assert_eq!(story.codes(), (ErrorCode::Cancelled, ErrorCode::Cancelled));
        story.is(&[Initialising, Transferring, Cancelled]);
    });
}

#[test]
fn when_the_sink_fails_and_the_sender_is_told_at_once() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                Some(left) => self.0 = left,
                None => return Err(io::ErrorKind::StorageFull.into()),
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    over_every_transport(|ends| {
        // Without a word from the receiver it would never end.
        let story = ends().play(Slow::endless(), Full(100_000), |_, _| {});
        assert_eq!(story.codes().0, ErrorCode::Aborted);
        assert_eq!(story.received.as_ref().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(story.sent.as_ref().unwrap_err().to_string().contains("receiver gave up"));
        story.is(&[Initialising, Transferring, Failed]);
    });
}

#[test]
fn whatever_both_do_at_any_moment() {
    within(120, || {
        for seed in 0..60 {
            let size = 3_000_000;
            let story = play(
                tcp_pair(),
                Slow::new(size, 50_000, Duration::from_millis(1)),
                io::sink(),
                |near, far| {
                    let mut random = Content::new(seed);
                    far.recorder.wait_for_status(Initialising);
                    for _ in 0..random.below(12) {
                        let hand = if random.below(2) == 0 { near } else { far };
                        match random.below(8) {
                            0..3 => hand.handle.pause(),
                            3..7 => hand.handle.resume(),
                            // A receiver that is called off before anything has come
                            // leaves all of it to the next call.
                            _ if seed % 3 == 0
                                && far.recorder.statuses().contains(&Transferring) =>
                            {
                                hand.handle.cancel();
                            }
                            _ => {}
                        }
                        thread::sleep(Duration::from_micros(random.below(9_000) as u64));
                    }
                    near.handle.resume();
                    far.handle.resume();
                },
            );
            assert_eq!(story.sender, story.receiver, "seed {seed}");
            match (&story.sent, &story.received) {
                (Ok(sent), Ok(received)) => assert_eq!((*sent, *received), (size, size)),
                _ => assert_eq!(story.codes(), (ErrorCode::Cancelled, ErrorCode::Cancelled)),
            }
        }
    });
}
