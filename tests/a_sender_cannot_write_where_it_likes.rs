//! Whatever a sender calls its file, and whatever stands in the way: nothing
//! outside the receiver's directory is touched, and nothing in it is lost.

mod common;
mod files;
mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use files::wire::{batch, offer, offer_directory, record, small};
use files::{Scratch, both, code};
use pointsub::transfer::{ReceiveOptions, Report, SendOptions};
use pointsub::transfer::{receive_file, receive_into_dir, send_file};
use pointsub::{Error, ErrorCode, MessageTransporter, Result};

/// What the receiver says to a message of a sender that never read our rules.
fn refused(scratch: &Scratch, message: &[u8]) -> Error {
    let ((), received) = both(
        |to| {
            // The receiver may be gone before it has all.
            let _ = to.send(message).and_then(|()| to.receive());
        },
        |from| receive_into_dir(from, scratch.there("")),
    );
    received.expect_err("it was accepted")
}

#[test]
fn names_that_lead_elsewhere_are_refused_before_anything_is_made() {
    common::within(20, || {
        let scratch = Scratch::new("names");
        fs::write(scratch.path().join("precious"), "mine").expect("write");
        let long = [b'x'; 256];
        let absolute = scratch.path().join("precious");
        let names: [&[u8]; 15] = [
            b"",
            b".",
            b"..",
            b"../precious",
            b"../../x",
            b"/etc/passwd",
            absolute.to_str().expect("UTF-8").as_bytes(),
            b"sub/file",
            b"nul\0byte",
            &long,
            b"x.part",
            b"x.part.check",
            b".part",
            // The same where names differ by more than their case.
            b"x.PART",
            b"x.Part.Check",
        ];
        for name in names {
            let e = refused(&scratch, &offer(name, 3, 20));
            assert_eq!(e.code(), ErrorCode::InvalidName, "{name:?}: {e}");
            assert_eq!(scratch.arrived(), [""; 0], "{name:?}");
        }
        assert_eq!(fs::read(absolute).expect("read"), b"mine");
    });
}

#[test]
fn offers_that_make_no_sense_are_refused_and_cost_nothing() {
    common::within(20, || {
        let scratch = Scratch::new("offers");
        for (size, log2) in [(u64::MAX, 20), (u64::MAX, 63), (u64::MAX, 64), (1, 255), (1, 0)] {
            let e = refused(&scratch, &offer(b"file", size, log2));
            assert_eq!(e.code(), ErrorCode::ProtocolViolation, "{size} {log2}: {e}");
        }
        let random = support::bytes(3, 300);
        for len in 0..300 {
            let e = refused(&scratch, &random[..len]);
            assert!(!e.to_string().is_empty());
        }
        let mut later = offer(b"file", 1, 20);
        later[3] = 2;
        assert_eq!(refused(&scratch, &later).code(), ErrorCode::Unsupported);
        let e = refused(&scratch, &vec![0; 4 << 20]);
        assert_eq!(e.code(), ErrorCode::MessageTooLarge, "{e}");
        assert_eq!(scratch.arrived(), [""; 0]);
        let limit = ReceiveOptions::new().max_size(10);
        fs::write(scratch.here("eleven"), "01234567890").expect("write");
        let (sent, received) = scratch.send_with("eleven", &SendOptions::new(), &limit);
        assert_eq!(code(sent), ErrorCode::MessageTooLarge);
        assert_eq!(code(received), ErrorCode::MessageTooLarge);
    });
}

#[test]
fn a_directory_is_never_larger_than_allowed_whatever_was_announced() {
    common::within(20, || {
        let scratch = Scratch::new("larger");
        let ((), received) = both(
            |to| {
                to.send(&offer_directory()).and_then(|()| to.receive()).expect("the answer");
                let entries = (0..8).map(|i| small(format!("file {i}"), 0)).collect();
                to.send(&batch(entries, true)).and_then(|()| to.receive()).expect("what it has");
                // Nothing was announced, and now comes as much as a small file may have.
                let stream = record(&[7; 1 << 20]).repeat(8);
                let _ = to.send_stream(&mut &stream[..]).and_then(|_| to.receive());
            },
            |from| ReceiveOptions::new().max_size(1000).receive_into_dir(from, scratch.there("")),
        );
        assert_eq!(code(received), ErrorCode::MessageTooLarge);
        let taken = fs::read_dir(scratch.there("tree.part")).expect("the part");
        let sizes = taken.map(|entry| entry.and_then(|e| e.metadata()).expect("stat").len());
        assert_eq!(sizes.sum::<u64>(), 0);
    });
}

#[test]
fn a_small_file_that_is_announced_as_a_large_one_is_refused() {
    common::within(20, || {
        for size in [(1 << 20) + 1, u64::MAX] {
            let scratch = Scratch::new("made-up");
            let ((), received) = both(
                |to| {
                    to.send(&offer_directory()).and_then(|()| to.receive()).expect("the answer");
                    to.send(&batch(vec![small("a", 5)], false)).expect("send");
                    to.receive().expect("what it has");
                    to.send_stream(&mut &record(b"hello")[..]).expect("send");
                    to.send(&batch(vec![small("b", size)], true)).expect("send");
                    to.receive().expect("why it gives up");
                },
                |from| receive_into_dir(from, scratch.there("")),
            );
            assert_eq!(code(received), ErrorCode::ProtocolViolation, "{size}");
        }
    });
}

#[test]
fn a_sender_does_not_learn_where_the_receiver_keeps_its_files() {
    common::within(20, || {
        let scratch = Scratch::new("secret");
        fs::write(scratch.here("file"), "content").expect("write");
        let nowhere = scratch.there("nowhere");
        let secret = scratch.path().to_str().expect("UTF-8");
        type Receive = fn(&mut MessageTransporter<UnixStream>, &Path) -> Result<Report>;
        let ways: [(PathBuf, Receive); 3] = [
            (nowhere.clone(), |from, path| receive_into_dir(from, path)),
            (nowhere.join("file"), |from, path| receive_file(from, path)),
            (scratch.there(".."), |from, path| receive_file(from, path)),
        ];
        for (path, receive) in ways {
            let (sent, received) =
                both(|to| send_file(to, scratch.here("file")), |from| receive(from, &path));
            let (theirs, ours) = (sent.expect_err("it fails"), received.expect_err("it fails"));
            assert_eq!(theirs.code(), ours.code());
            assert!(!theirs.to_string().contains(secret), "{theirs}");
            assert!(ours.to_string().contains(secret), "{ours}");
        }
    });
}

#[test]
fn what_is_there_is_replaced_only_with_permission_and_in_one_step() {
    common::within(20, || {
        let scratch = Scratch::new("existing");
        let content = support::bytes(1, 3 << 20);
        fs::write(scratch.here("file"), &content).expect("write");
        // Another size; the same size, but other content; the same.
        for old in [&b"old"[..], &support::bytes(2, 3 << 20)] {
            fs::write(scratch.there("file"), old).expect("write");
            let (sent, received) = scratch.send("file");
            assert_eq!(code(sent), ErrorCode::FileExists);
            assert_eq!(code(received), ErrorCode::FileExists);
            assert!(fs::read(scratch.there("file")).expect("read") == old);
            assert_eq!(scratch.arrived(), ["file"]);
        }
        let allowed = ReceiveOptions::new().overwrite(true);
        let (sent, received) = scratch.send_with("file", &SendOptions::new(), &allowed);
        assert_eq!(
            (sent.expect("send").moved, received.expect("receive").moved),
            (3 << 20, 3 << 20)
        );
        assert!(fs::read(scratch.there("file")).expect("read") == content);
        // Nothing is moved for what is there already, with permission or without.
        for options in [ReceiveOptions::new(), allowed] {
            let (sent, received) = scratch.send_with("file", &SendOptions::new(), &options);
            assert_eq!((sent.expect("send").moved, received.expect("receive").moved), (0, 0));
        }
        assert_eq!(scratch.arrived(), ["file"]);
    });
}

#[test]
fn links_are_never_followed_out_of_the_directory() {
    common::within(20, || {
        let scratch = Scratch::new("links");
        let outside = scratch.path().join("outside");
        fs::write(scratch.here("file"), "content").expect("write");
        let allowed = ReceiveOptions::new().overwrite(true);
        for name in ["file", "file.part", "file.part.check"] {
            for target in ["outside", "nothing", "/dev/null"] {
                fs::write(&outside, "mine").expect("write");
                symlink(scratch.path().join(target), scratch.there(name)).expect("link");
                let (sent, received) = scratch.send("file");
                assert_eq!(code(sent), ErrorCode::FileExists, "{name} -> {target}");
                assert_eq!(code(received), ErrorCode::FileExists, "{name} -> {target}");
                assert!(fs::symlink_metadata(scratch.there(name)).expect("stat").is_symlink());
                if name != "file" {
                    let (_, received) = scratch.send_with("file", &SendOptions::new(), &allowed);
                    assert_eq!(code(received), ErrorCode::FileExists, "{name} -> {target}");
                }
                assert_eq!(fs::read(&outside).expect("read"), b"mine");
                assert!(!scratch.path().join("nothing").exists());
                for name in scratch.arrived() {
                    fs::remove_file(scratch.there(&name)).expect("remove");
                }
            }
        }
        // With permission the link itself is replaced, not what it leads to.
        symlink(&outside, scratch.there("file")).expect("link");
        let (sent, received) = scratch.send_with("file", &SendOptions::new(), &allowed);
        sent.and(received).expect("it may be replaced");
        assert!(fs::symlink_metadata(scratch.there("file")).expect("stat").is_file());
        assert_eq!(fs::read(&outside).expect("read"), b"mine");
    });
}

#[test]
fn directories_pipes_and_devices_are_never_replaced_nor_waited_for() {
    common::within(20, || {
        let scratch = Scratch::new("special");
        fs::write(scratch.here("file"), "content").expect("write");
        for name in ["file", "file.part", "file.part.check"] {
            for kind in ["directory", "pipe", "device"] {
                let path = scratch.there(name);
                let made = match kind {
                    "directory" => fs::create_dir(&path).is_ok(),
                    "pipe" => succeeds(Command::new("mkfifo").arg(&path)),
                    _ => succeeds(Command::new("mknod").arg(&path).args(["c", "1", "3"])),
                };
                if !made {
                    println!("not permitted here: {kind}");
                    continue;
                }
                for overwrite in [false, true] {
                    let options = ReceiveOptions::new().overwrite(overwrite);
                    let (sent, received) = scratch.send_with("file", &SendOptions::new(), &options);
                    assert_eq!(code(sent), ErrorCode::FileExists, "{name}, a {kind}");
                    assert_eq!(code(received), ErrorCode::FileExists, "{name}, a {kind}");
                }
                let found = fs::symlink_metadata(&path).expect("it is still there").file_type();
                assert!(found.is_dir() || found.is_fifo() || found.is_char_device());
                fs::remove_dir_all(scratch.there("")).expect("remove");
                fs::create_dir(scratch.there("")).expect("make");
            }
        }
    });
}

fn succeeds(command: &mut Command) -> bool {
    command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_part_that_is_not_ours_is_left_alone() {
    common::within(20, || {
        let scratch = Scratch::new("foreign");
        fs::write(scratch.here("file"), "content").expect("write");
        fs::write(scratch.there("file.part"), "of another program").expect("write");
        let (_, received) = scratch.send("file");
        assert_eq!(code(received), ErrorCode::FileExists);
        assert_eq!(fs::read(scratch.there("file.part")).expect("read"), b"of another program");
        assert_eq!(scratch.arrived(), ["file.part"]);

        fs::write(scratch.there("file.part.check"), "as well").expect("write");
        let (_, received) = scratch.send("file");
        assert_eq!(code(received), ErrorCode::FileExists);
        assert_eq!(fs::read(scratch.there("file.part.check")).expect("read"), b"as well");

        // One with a second name could be anything, whatever stands beside it.
        File::create(scratch.there("file.part.check")).expect("create");
        fs::hard_link(scratch.there("file.part"), scratch.there("precious")).expect("link");
        let (_, received) = scratch.send("file");
        assert_eq!(code(received), ErrorCode::FileExists);
        assert_eq!(fs::read(scratch.there("precious")).expect("read"), b"of another program");
    });
}

#[test]
fn only_one_transfer_at_a_time_works_on_a_name() {
    common::within(20, || {
        let scratch = Scratch::new("busy");
        fs::write(scratch.here("file"), support::bytes(1, 1 << 20)).expect("write");
        // The first receiver stands still after its answer.
        let ((), received) = both(
            |to| {
                to.send(&offer(b"file", 1 << 20, 20)).expect("send");
                to.receive().expect("the answer");
                let (sent, second) = scratch.send("file");
                assert_eq!(code(sent), ErrorCode::Busy);
                assert_eq!(code(second), ErrorCode::Busy);
            },
            |from| receive_into_dir(from, scratch.there("")),
        );
        assert_eq!(code(received), ErrorCode::ConnectionClosed);
        let (sent, received) = scratch.send("file");
        assert_eq!(sent.expect("send").moved, received.expect("receive").moved);
        assert_eq!(scratch.arrived(), ["file"]);
    });
}

#[test]
fn what_cannot_be_sent_is_said_at_once() {
    let scratch = Scratch::new("unsendable");
    let mut nowhere = MessageTransporter::new(std::io::empty());
    assert_eq!(code(send_file(&mut nowhere, scratch.here(""))), ErrorCode::InvalidInput);
    assert_eq!(code(send_file(&mut nowhere, "/")), ErrorCode::InvalidName);
    assert_eq!(code(send_file(&mut nowhere, "/dev/null")), ErrorCode::InvalidInput);
    let missing = send_file(&mut nowhere, scratch.here("missing")).expect_err("it is missing");
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    assert!(missing.to_string().contains("missing"), "{missing}");
}

#[test]
fn the_receiver_may_choose_the_name_and_gets_mode_and_time() {
    common::within(20, || {
        let scratch = Scratch::new("meta");
        let path = scratch.here("file.part");
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path).expect("create");
        fs::write(&path, "content").expect("write");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        File::open(&path).expect("open").set_modified(time).expect("set the time");
        let (sent, received) =
            both(|to| send_file(to, &path), |from| receive_file(from, scratch.there("mine")));
        assert_eq!(sent.expect("send").hash, received.expect("receive").hash);
        let (from, to) = (fs::metadata(&path), fs::metadata(scratch.there("mine")));
        let (from, to) = (from.expect("stat"), to.expect("stat"));
        assert_eq!(from.modified().expect("a time"), to.modified().expect("a time"));
        assert_eq!(from.permissions(), to.permissions());
        assert_eq!(scratch.arrived(), ["mine"]);
    });
}
