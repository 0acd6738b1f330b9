//! Whatever a sender says about a directory, its receiver stays small.

#![cfg(target_os = "linux")]

mod common;
mod files;
mod support;

use std::fs;
use std::os::unix::net::UnixStream;

use files::wire::{batch, directory, offer_directory};
use files::{Scratch, both};
use pointsub::transfer::receive_into_dir;
use pointsub::{ErrorCode, MessageTransporter};

const ALLOWED: u64 = 40 << 20;

#[test]
fn of_directories_that_their_owner_may_not_change() {
    alone("of_directories_that_their_owner_may_not_change", ErrorCode::ConnectionClosed, |to| {
        // Deep down, where the way to each is long.
        let deep = (0..190).map(|i| directory(0, vec![b'a' + i % 26; 255], 0o755)).collect();
        to.send(&batch(deep, false)).and_then(|()| to.receive()).expect("what it has");
        for b in 0..4u32 {
            let entry = |i| directory(u32::from(b + i > 0), format!("{b}-{i}"), 0);
            let flat = (0..4000).map(entry).collect();
            to.send(&batch(flat, false)).and_then(|()| to.receive()).expect("what it has");
        }
        to.send(&batch(Vec::new(), false)).and_then(|()| to.receive()).expect("what it has");
    });
}

#[test]
fn of_a_message_of_entries_with_nothing_in_them() {
    alone("of_a_message_of_entries_with_nothing_in_them", ErrorCode::ProtocolViolation, |to| {
        let entries = [0x0a, 0x00].repeat(1_000_000);
        let mut message = vec![7 << 3 | 2];
        prost::encoding::encode_varint(entries.len() as u64, &mut message);
        message.extend(entries);
        to.send(&message).expect("send");
        let _ = to.receive();
    });
}

/// Runs a sender against a receiver in a process of their own; how the receiver ends.
fn alone(
    test: &'static str,
    end: ErrorCode,
    send: impl FnOnce(&mut MessageTransporter<UnixStream>) + Send,
) {
    if common::role().is_none() {
        let mut child = common::child(test, "alone", "").spawn().expect("a process");
        return common::within(60, || assert!(child.wait().expect("wait").success()));
    }
    let scratch = Scratch::new("small");
    let before = peak_memory();
    let ((), received) = both(
        |to| {
            to.send(&offer_directory()).and_then(|()| to.receive()).expect("the answer");
            send(to);
        },
        |from| receive_into_dir(from, scratch.there("")),
    );
    assert_eq!(files::code(received), end);
    let grown = peak_memory() - before;
    assert!(grown < ALLOWED, "grew by {} MiB", grown >> 20);
}

/// The most memory that this process has had.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
