//! Files and directories are watched, paused and cancelled through their handles,
//! from either side, and both sides tell the same.

mod common;
mod files;
mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use files::trees::{assert_same, make_large};
use files::wire::{failure, failure_in, offer, offer_directory};
use files::{Scratch, both, code};
use pointsub::transfer::progress::{Progress, Status, TransferId};
use pointsub::transfer::{ReceiveOptions, Report, SendOptions, receive_into_dir, send_file};
use pointsub::{ErrorCode, MessageTransporter, Result, TransferHandle, TransferObserver};

/// Writes down what it hears.
#[derive(Clone, Default)]
struct Story {
    statuses: Arc<Mutex<Vec<Status>>>,
    last: Arc<Mutex<(u64, Option<u64>)>>,
}

impl TransferObserver for Story {
    fn progress(&self, progress: &Progress) {
        *self.last.lock().expect("unpoisoned") = (progress.transferred, progress.total);
    }

    fn status(&self, _: TransferId, status: Status) {
        self.statuses.lock().expect("unpoisoned").push(status);
    }
}

impl Story {
    fn told(&self) -> Vec<Status> {
        self.statuses.lock().expect("unpoisoned").clone()
    }

    fn last(&self) -> (u64, Option<u64>) {
        *self.last.lock().expect("unpoisoned")
    }
}

struct Side {
    story: Story,
    handle: TransferHandle,
}

impl Side {
    fn new() -> Side {
        let story = Story::default();
        Side { handle: TransferHandle::builder().observer(story.clone()).build(), story }
    }
}

/// Sends `name` at a rate, and does something meanwhile.
fn transfer(
    scratch: &Scratch,
    rate: u64,
    sides: (&Side, &Side),
    receiver: ReceiveOptions,
    meanwhile: impl FnOnce(),
) -> (Result<Report>, Result<Report>) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    let (sender, receiver) =
        (SendOptions::new().handle(&sides.0.handle), receiver.handle(&sides.1.handle));
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let to = MessageTransporter::builder(near).control();
            let mut to = to.bytes_per_second(rate)?.build();
            let path = scratch.here("source");
            if path.is_dir() {
                sender.send_dir(&mut to, path)
            } else {
                sender.send_file(&mut to, path)
            }
        });
        let receiving = scope.spawn(|| {
            let mut from = MessageTransporter::builder(far).control().build();
            receiver.receive_into_dir(&mut from, scratch.there(""))
        });
        meanwhile();
        (sending.join().expect("the sender"), receiving.join().expect("the receiver"))
    })
}

fn wait_for(handle: &TransferHandle, condition: impl Fn(&TransferHandle) -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !condition(handle) {
        assert!(Instant::now() < patience, "{:?}", handle.status());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn both_sides_tell_the_same_and_count_content_only() {
    common::within(60, || {
        for tree in [false, true] {
            let scratch = Scratch::new(&format!("story-{tree}"));
            if tree {
                make_large(&scratch.here("source"), 300, 8 << 20, 3);
            } else {
                fs::write(scratch.here("source"), support::bytes(1, 8 << 20)).expect("write");
            }
            for again in [false, true] {
                let (here, there) = (Side::new(), Side::new());
                let options = ReceiveOptions::new();
                let (sent, received) = transfer(&scratch, 1 << 30, (&here, &there), options, || {});
                let bytes = sent.expect("send").bytes;
                received.expect("receive");
                assert_eq!(here.story.last(), (bytes, Some(bytes)), "tree {tree}, again {again}");
                assert_eq!(there.story.last(), (bytes, Some(bytes)), "tree {tree}, again {again}");
                let golden = [Status::Initialising, Status::Transferring, Status::Completed];
                assert_eq!(here.story.told(), golden);
                assert_eq!(there.story.told(), golden);
            }
        }
    });
}

#[test]
fn the_receiver_pauses_and_resumes_the_sender() {
    common::within(60, || {
        let scratch = Scratch::new("pause");
        fs::write(scratch.here("source"), support::bytes(1, 4 << 20)).expect("write");
        let (here, there) = (Side::new(), Side::new());
        let (sent, received) =
            transfer(&scratch, 4 << 20, (&here, &there), ReceiveOptions::new(), || {
                wait_for(&there.handle, |there| there.progress().transferred > 0);
                there.handle.pause();
                wait_for(&here.handle, |here| here.status() == Status::Paused);
                let before = here.handle.progress().transferred;
                wait_for(&there.handle, |there| there.status() == Status::Paused);
                assert_eq!(here.handle.progress().transferred, before);
                there.handle.resume();
            });
        sent.and(received).expect("it goes on");
        let golden = [
            Status::Initialising,
            Status::Transferring,
            Status::Paused,
            Status::Resuming,
            Status::Transferring,
            Status::Completed,
        ];
        assert_eq!(here.story.told(), golden);
        assert_eq!(there.story.told(), golden);
    });
}

#[test]
fn a_cancel_from_either_side_ends_both_and_keeps_or_removes_the_part() {
    common::within(60, || {
        for (tree, from_here, discard) in
            [(false, true, false), (false, false, true), (true, true, true), (true, false, false)]
        {
            let scratch = Scratch::new(&format!("cancel-{tree}"));
            if tree {
                make_large(&scratch.here("source"), 300, 8 << 20, 3);
            } else {
                fs::write(scratch.here("source"), support::bytes(1, 8 << 20)).expect("write");
            }
            let (here, there) = (Side::new(), Side::new());
            let options = ReceiveOptions::new().discard_cancelled(discard);
            let (sent, received) = transfer(&scratch, 4 << 20, (&here, &there), options, || {
                wait_for(&there.handle, |there| there.progress().transferred > 1 << 20);
                if from_here { here.handle.cancel() } else { there.handle.cancel() }
            });
            assert_eq!(code(sent), ErrorCode::Cancelled);
            assert_eq!(code(received), ErrorCode::Cancelled);
            assert_eq!(here.handle.status(), Status::Cancelled);
            assert_eq!(there.handle.status(), Status::Cancelled);
            let left: &[&str] = if discard { &[] } else { &["source.part", "source.part.check"] };
            assert_eq!(scratch.arrived(), left, "tree {tree}");

            let (here, there) = (Side::new(), Side::new());
            let options = ReceiveOptions::new();
            let (sent, received) = transfer(&scratch, 1 << 30, (&here, &there), options, || {});
            let sent = sent.and(received).expect("once more");
            assert_eq!(sent.moved < sent.bytes, !discard, "tree {tree}");
            if tree {
                assert_same(&scratch.here("source"), &scratch.there("source"));
            }
            assert_eq!(scratch.arrived(), ["source"]);
        }
    });
}

#[test]
fn a_cancel_before_the_content_removes_the_part_too() {
    common::within(60, || {
        for offered in [offer(b"source", 1 << 20, 16), offer_directory()] {
            let scratch = Scratch::new("early");
            let ((), received) = both(
                |to| {
                    to.send(&offered).and_then(|()| to.receive()).expect("the answer");
                    assert_eq!(scratch.arrived().len(), 2, "a part and a checkpoint");
                    to.send(&failure(ErrorCode::Cancelled)).expect("send");
                    to.receive().expect("the receiver's failure");
                },
                |from| {
                    let options = ReceiveOptions::new().discard_cancelled(true);
                    options.receive_into_dir(from, scratch.there(""))
                },
            );
            assert_eq!(code(received), ErrorCode::Cancelled);
            assert_eq!(scratch.arrived(), [""; 0]);
        }
    });
}

#[test]
fn a_receiver_of_which_nothing_has_come_returns_and_leaves_what_comes_to_the_next() {
    common::within(20, || {
        let scratch = Scratch::new("nothing");
        fs::write(scratch.here("source"), "content").expect("write");
        let (near, far) = UnixStream::pair().expect("two sockets");
        let mut from = MessageTransporter::builder(far).control().build();
        let there = Side::new();
        let options = ReceiveOptions::new().handle(&there.handle);
        let received = thread::scope(|scope| {
            let receiving = scope.spawn(|| options.receive_into_dir(&mut from, scratch.there("")));
            wait_for(&there.handle, |_| !there.story.told().is_empty());
            there.handle.cancel();
            receiving.join().expect("the receiver")
        });
        assert_eq!(code(received), ErrorCode::Cancelled);
        assert_eq!(there.handle.status(), Status::Cancelled);
        thread::scope(|scope| {
            scope.spawn(|| send_file(&mut MessageTransporter::new(near), scratch.here("source")));
            receive_into_dir(&mut from, scratch.there("")).expect("the next");
        });
    });
}

#[test]
fn a_sender_that_is_cancelled_before_the_answer_says_so() {
    common::within(20, || {
        let scratch = Scratch::new("answer");
        fs::write(scratch.here("source"), "content").expect("write");
        let (near, far) = UnixStream::pair().expect("two sockets");
        let here = Side::new();
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut to = MessageTransporter::builder(near).control().build();
                let options = SendOptions::new().handle(&here.handle);
                let sent = options.send_file(&mut to, scratch.here("source"));
                (sent, send_file(&mut to, scratch.here("source")))
            });
            let mut peer = MessageTransporter::builder(far).control().build();
            peer.receive().expect("the offer");
            here.handle.cancel();
            let failure_of_theirs = failure_in(&peer.receive().expect("why")).expect("a failure");
            assert_eq!(failure_of_theirs.code, u32::from(ErrorCode::Cancelled.number()));
            peer.send(&failure(ErrorCode::Cancelled)).expect("send");
            receive_into_dir(&mut peer, scratch.there("")).expect("the next");
            let (sent, next) = sending.join().expect("the sender");
            assert_eq!(code(sent), ErrorCode::Cancelled);
            next.expect("the conn is good for it");
        });
        assert_eq!(here.handle.status(), Status::Cancelled);
    });
}

#[test]
fn a_part_that_is_looked_at_stands_still_and_is_left_with_its_receiver() {
    common::within(60, || {
        let scratch = Scratch::new("looked-at");
        fs::write(scratch.here("source"), support::bytes(1, 8 << 20)).expect("write");
        let (here, there) = (Side::new(), Side::new());
        let (_, received) =
            transfer(&scratch, 4 << 20, (&here, &there), ReceiveOptions::new(), || {
                wait_for(&there.handle, |there| there.progress().transferred > 2 << 20);
                there.handle.cancel();
            });
        assert_eq!(code(received), ErrorCode::Cancelled);
        let there = Side::new();
        there.handle.pause();
        let ((), received) = both(
            |to| {
                to.send(&offer(b"source", 8 << 20, 20)).expect("send");
                wait_for(&there.handle, |there| there.status() == Status::Paused);
                there.handle.cancel();
                let said = to.receive().expect("what it says");
                assert!(failure_in(&said).is_some(), "it has looked at all of it");
                to.send(&failure(ErrorCode::Cancelled)).expect("send");
            },
            |from| {
                let options = ReceiveOptions::new().handle(&there.handle);
                options.receive_into_dir(from, scratch.there(""))
            },
        );
        assert_eq!(code(received), ErrorCode::Cancelled);
        assert_eq!(scratch.arrived(), ["source.part", "source.part.check"]);
    });
}

#[test]
fn a_tree_that_is_looked_at_is_left_with_its_sender_before_a_word_is_said() {
    common::within(60, || {
        let scratch = Scratch::new("before");
        make_large(&scratch.here("source"), 10, 1 << 10, 3);
        let (near, far) = UnixStream::pair().expect("two sockets");
        let here = Side::new();
        here.handle.cancel();
        let mut to = MessageTransporter::builder(near).control().build();
        let options = SendOptions::new().handle(&here.handle);
        assert_eq!(code(options.send_dir(&mut to, scratch.here("source"))), ErrorCode::Cancelled);
        assert_eq!(here.handle.status(), Status::Cancelled);
        drop(to);
        let e = MessageTransporter::new(far).receive().expect_err("nothing was said");
        assert_eq!(e.code(), ErrorCode::ConnectionClosed);
    });
}

#[test]
fn a_receiver_that_gives_up_stops_its_sender_at_once() {
    common::within(60, || {
        let scratch = Scratch::new("stops");
        // Half a minute of content behind a file that cannot be stored.
        fs::create_dir(scratch.here("source")).expect("make");
        fs::write(scratch.here("source/a"), "new").expect("write");
        fs::create_dir(scratch.there("source")).expect("make");
        fs::write(scratch.there("source/a"), "old").expect("write");
        for n in 0..64 {
            fs::write(scratch.here(&format!("source/b{n}")), support::bytes(n, 1 << 20))
                .expect("write");
        }
        let (here, there) = (Side::new(), Side::new());
        let start = Instant::now();
        let (sent, received) =
            transfer(&scratch, 2 << 20, (&here, &there), ReceiveOptions::new(), || {});
        assert_eq!(code(sent), ErrorCode::FileExists);
        assert_eq!(code(received), ErrorCode::FileExists);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
}

#[test]
fn a_peer_that_does_not_answer_a_failure_is_left_by_a_cancel() {
    common::within(60, || {
        let scratch = Scratch::new("unanswered");
        // One says nothing more, the other goes on and on without listening.
        for talks in [false, true] {
            let (near, far) = UnixStream::pair().expect("two sockets");
            let there = Side::new();
            thread::scope(|scope| {
                let hand = there.handle.clone();
                let receiving = scope.spawn(|| {
                    let mut from = MessageTransporter::builder(far).control().build();
                    let options = ReceiveOptions::new().handle(&there.handle);
                    options.receive_into_dir(&mut from, scratch.there(""))
                });
                let mut peer = MessageTransporter::new(near);
                peer.send(b"\xff is no offer").expect("send");
                peer.receive().expect("why the receiver has given up");
                if talks {
                    let talking = scope.spawn(move || while peer.send(&[0xff; 1000]).is_ok() {});
                    thread::yield_now();
                    assert!(!receiving.is_finished(), "it waits for the peer's answer");
                    hand.cancel();
                    let e = receiving.join().expect("the receiver").expect_err("no offer");
                    assert_eq!(e.context("unanswered"), Some("true"));
                    talking.join().expect("the peer");
                } else {
                    hand.cancel();
                    let e = receiving.join().expect("the receiver").expect_err("no offer");
                    assert_eq!(e.context("unanswered"), Some("true"));
                }
            });
        }
    });
}
