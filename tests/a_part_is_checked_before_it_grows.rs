//! What an attempt left behind is used as far as it is good: whatever happened
//! to the part, its checkpoint or the source, the result is the source.

mod common;
mod files;
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use files::{Scratch, code};
use pointsub::transfer::{ReceiveOptions, SendOptions};
use pointsub::{ErrorCode, MessageTransporter};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 20 * BLOCK + 1234;

fn sender() -> SendOptions {
    SendOptions::new().block_size(BLOCK)
}

/// A transfer that was cut off after about fifteen blocks.
fn cut_off(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    fs::write(scratch.here("file"), support::bytes(1, SIZE as usize)).expect("write");
    let (near, far) = UnixStream::pair().expect("two sockets");
    std::thread::scope(|scope| {
        scope
            .spawn(|| sender().send_file(&mut MessageTransporter::new(near), scratch.here("file")));
        let mut from = MessageTransporter::new(EndsEarly { conn: far, left: 15 * BLOCK + 5000 });
        let received = ReceiveOptions::new().receive_into_dir(&mut from, scratch.there(""));
        assert_eq!(code(received), ErrorCode::UnexpectedEnd);
    });
    assert_eq!(scratch.arrived(), ["file.part", "file.part.check"]);
    scratch
}

/// Goes on with it; how much was moved.
#[track_caller]
fn go_on(scratch: &Scratch, verify: bool) -> u64 {
    let receiver = ReceiveOptions::new().verify(verify);
    let (sent, received) = scratch.send_with("file", &sender().verify(verify), &receiver);
    let (sent, received) = (sent.expect("send"), received.expect("receive"));
    assert_eq!((sent.moved, sent.hash), (received.moved, received.hash));
    let content = fs::read(scratch.there("file")).expect("read");
    assert!(content == fs::read(scratch.here("file")).expect("read"), "it differs");
    assert_eq!(*blake3::hash(&content).as_bytes(), received.hash.expect("a hash"));
    assert_eq!(scratch.arrived(), ["file"]);
    received.moved
}

fn overwrite(scratch: &Scratch, name: &str, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(scratch.there(name)).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
}

#[test]
fn a_good_part_is_gone_on_with_from_its_last_whole_block() {
    common::within(30, || {
        for verify in [true, false] {
            let scratch = cut_off(&format!("good-{verify}"));
            let there = fs::metadata(scratch.there("file.part")).expect("stat").len();
            assert!(there > 8 * BLOCK, "only {there} bytes");
            assert_eq!(go_on(&scratch, verify), SIZE - there / BLOCK * BLOCK);
        }
    });
}

#[test]
fn a_damaged_part_is_gone_on_with_from_its_last_good_block() {
    common::within(30, || {
        for block in [0, 1, 5, 7] {
            let scratch = cut_off(&format!("damaged-{block}"));
            overwrite(&scratch, "file.part", block * BLOCK + 77);
            assert_eq!(go_on(&scratch, true), SIZE - block * BLOCK);
        }
    });
}

#[test]
fn one_side_that_verifies_is_enough_to_find_what_damaged_a_part() {
    common::within(30, || {
        for sender_verifies in [true, false] {
            let scratch = cut_off(&format!("one-side-{sender_verifies}"));
            overwrite(&scratch, "file.part", BLOCK + 77);
            let receiver = ReceiveOptions::new().verify(!sender_verifies);
            let sender = sender().verify(sender_verifies);
            let (sent, received) = scratch.send_with("file", &sender, &receiver);
            assert_eq!(sent.expect("send").moved, SIZE - BLOCK);
            received.expect("receive");
            let content = fs::read(scratch.there("file")).expect("read");
            assert!(content == fs::read(scratch.here("file")).expect("read"), "it differs");
        }
    });
}

#[test]
fn a_damaged_record_of_a_checkpoint_only_costs_a_look() {
    common::within(30, || {
        for verify in [true, false] {
            for record in [0, 1, 3] {
                let scratch = cut_off(&format!("record-{record}-{verify}"));
                overwrite(&scratch, "file.part.check", 56 + 36 * record);
                let there = fs::metadata(scratch.there("file.part")).expect("stat").len();
                assert_eq!(go_on(&scratch, verify), SIZE - there / BLOCK * BLOCK);
            }
        }
    });
}

#[test]
fn a_part_shorter_or_longer_than_it_should_be_is_cut_to_what_is_good() {
    common::within(30, || {
        for (name, len) in [("shorter", 2 * BLOCK + 1), ("empty", 0), ("longer", 3 * SIZE)] {
            for verify in [true, false] {
                let scratch = cut_off(&format!("{name}-{verify}"));
                let part = OpenOptions::new().write(true).open(scratch.there("file.part"));
                let part = part.expect("open");
                let good = part.metadata().expect("stat").len().min(len) / BLOCK * BLOCK;
                part.set_len(len).expect("cut");
                assert_eq!(go_on(&scratch, verify), SIZE - good, "{name}");
            }
        }
    });
}

#[test]
fn a_checkpoint_that_is_damaged_or_empty_or_of_another_source_only_costs_a_look() {
    common::within(30, || {
        for verify in [true, false] {
            for at in [8, 9, 30, 55] {
                let scratch = cut_off(&format!("header-{at}-{verify}"));
                overwrite(&scratch, "file.part.check", at);
                let there = fs::metadata(scratch.there("file.part")).expect("stat").len();
                assert_eq!(go_on(&scratch, verify), SIZE - there / BLOCK * BLOCK);
            }
            let scratch = cut_off(&format!("nothing-{verify}"));
            File::create(scratch.there("file.part.check")).expect("truncate");
            assert!(go_on(&scratch, verify) < 12 * BLOCK);
            let scratch = cut_off(&format!("no-part-{verify}"));
            fs::remove_file(scratch.there("file.part")).expect("remove");
            assert_eq!(go_on(&scratch, verify), SIZE);
        }
    });
}

#[test]
fn a_source_that_changed_starts_over_where_it_changed() {
    common::within(30, || {
        for verify in [true, false] {
            let scratch = cut_off(&format!("other-{verify}"));
            fs::write(scratch.here("file"), support::bytes(2, SIZE as usize)).expect("write");
            assert_eq!(go_on(&scratch, verify), SIZE, "all of it is another");

            let scratch = cut_off(&format!("touched-{verify}"));
            let file = File::options().write(true).open(scratch.here("file")).expect("open");
            file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("touch");
            assert!(go_on(&scratch, verify) < 12 * BLOCK, "the content is the same");

            let scratch = cut_off(&format!("appended-{verify}"));
            let mut file = File::options().append(true).open(scratch.here("file")).expect("open");
            file.write_all(&[7; 100_000]).expect("append");
            assert!(go_on(&scratch, verify) < 14 * BLOCK, "the beginning is the same");

            let scratch = cut_off(&format!("shortened-{verify}"));
            let file = File::options().write(true).open(scratch.here("file")).expect("open");
            file.set_len(3 * BLOCK + 5).expect("cut");
            assert!(go_on(&scratch, verify) <= 5);
        }
    });
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed_by_both_sides() {
    common::within(30, || {
        for (name, shorter) in [("meanwhile", false), ("shrunk", true)] {
            let scratch = Scratch::new(name);
            let path = scratch.here("file");
            fs::write(&path, support::bytes(1, SIZE as usize)).expect("write");
            let (near, far) = UnixStream::pair().expect("two sockets");
            let (sent, received) = std::thread::scope(|scope| {
                let sending = scope.spawn(|| {
                    let mut to = MessageTransporter::new(near);
                    sender().send_file(&mut to, scratch.here("file"))
                });
                // When the first byte can be read, the sender has looked at it.
                let first_read = || {
                    let file = File::options().write(true).open(&path).expect("open");
                    if shorter {
                        file.set_len(SIZE / 2).expect("cut");
                    } else {
                        file.write_all_at(b"x", SIZE / 2).expect("write");
                    }
                };
                let mut from =
                    MessageTransporter::new(Meddling { conn: far, first_read: Some(first_read) });
                let received = ReceiveOptions::new().receive_into_dir(&mut from, scratch.there(""));
                (sending.join().expect("the sender panicked"), received)
            });
            assert_eq!(code(sent), ErrorCode::SourceChanged);
            let expected = if shorter { ErrorCode::Aborted } else { ErrorCode::SourceChanged };
            assert_eq!(code(received), expected);
            assert!(!scratch.there("file").exists());
            go_on(&scratch, true);
        }
    });
}

/// Does something between the first bytes and whoever reads them.
struct Meddling<F> {
    conn: UnixStream,
    first_read: Option<F>,
}

impl<F: FnOnce()> Read for Meddling<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.conn.read(out)?;
        if let Some(meddle) = self.first_read.take() {
            meddle();
        }
        Ok(n)
    }
}

impl<F> Write for Meddling<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.conn.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.flush()
    }
}

/// A connection that is cut.
struct EndsEarly {
    conn: UnixStream,
    left: u64,
}

impl Read for EndsEarly {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = out.len().min(self.left as usize);
        let n = self.conn.read(&mut out[..room])?;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Write for EndsEarly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.conn.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.flush()
    }
}
