//! A sender that was killed and comes back goes on at once: the receiving end still
//! waits for the conn of the dead one, but not with its part, nor to close its host.

mod common;
mod files;
mod support;

use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{PROTOCOL, Pair, child, eventually, role, within};
use files::Scratch;
use files::trees::{assert_same, make_large};
use pointsub::transfer::progress::Status;
use pointsub::transfer::{Report, SendOptions, receive_into_dir, send_dir, send_file};
use pointsub::{Conn, ErrorCode, Host, Listener, MessageTransporter, Result, TransferHandle};

const SIZE: usize = 32 << 20;
/// So slow that it can be killed in the middle.
const RATE: u64 = 16 << 20;
/// The conn of the dead sender is waited for much longer.
const AT_ONCE: Duration = Duration::from_secs(15);

#[test]
fn of_a_file() {
    let make = |path: &Path| fs::write(path, support::bytes(3, SIZE)).expect("write");
    comes_back("of_a_file", "source.part", make, |from, to| {
        assert!(fs::read(from).expect("read") == fs::read(to).expect("read"), "it differs");
    });
}

#[test]
fn of_a_tree() {
    let make = |path: &Path| make_large(path, 300, SIZE, 4);
    comes_back("of_a_tree", "source.part", make, assert_same);
}

/// The old one was not dead, only slow.
#[test]
fn one_that_waited_for_another_finds_what_that_has_completed() {
    within(60, || {
        let scratch = Scratch::new("slow");
        let source = scratch.here("source");
        fs::write(&source, support::bytes(5, 1 << 16)).expect("write");
        let pair = Pair::new();
        let ((here, there), (later_here, later_there)) = (pair.connect(), pair.connect());
        let into = scratch.there("");
        let receive = |conn| {
            let mut from = MessageTransporter::builder(conn).control().build();
            receive_into_dir(&mut from, &into)
        };
        let slow = TransferHandle::new();
        slow.pause();
        thread::scope(|scope| {
            let first = scope.spawn(|| receive(there));
            let sending = scope.spawn(|| {
                let mut to = MessageTransporter::builder(here).control().build();
                SendOptions::new().handle(&slow).send_file(&mut to, &source)
            });
            eventually("a pause", 10, || slow.status() == Status::Paused);
            assert!(scratch.there("source.part").exists());
            let second = scope.spawn(|| receive(later_there));
            let later = scope.spawn(|| {
                let mut to = MessageTransporter::builder(later_here).control().build();
                send_file(&mut to, &source)
            });
            // Until it waits, which nothing tells. It does so for a second.
            thread::sleep(Duration::from_millis(150));
            slow.resume();
            let moved = |thread: thread::ScopedJoinHandle<'_, Result<Report>>| {
                thread.join().expect("no panic").expect("all of it").moved
            };
            assert_eq!((moved(sending), moved(first)), (1 << 16, 1 << 16));
            assert_eq!((moved(later), moved(second)), (0, 0));
        });
        assert_eq!(scratch.arrived(), ["source"]);
    });
}

fn comes_back(
    test: &'static str,
    part: &str,
    make: impl FnOnce(&Path),
    compare: impl FnOnce(&Path, &Path) + Send + 'static,
) {
    if let Some((_, argument)) = role() {
        return send(&argument);
    }
    let scratch = Scratch::new(test);
    make(&scratch.here("source"));
    let part = scratch.there(part);
    within(90, move || {
        let server = Host::builder().listen_on("127.0.0.1:0").build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let (into, (ended, outcomes)) = (scratch.there(""), mpsc::channel());
        thread::spawn(move || {
            for conn in listener.incoming().map_while(std::result::Result::ok) {
                let (into, ended) = (into.clone(), ended.clone());
                thread::spawn(move || ended.send(receive(conn, &into)));
            }
        });
        let argument = format!("{}\n{}", scratch.path().display(), server.dial_addrs()[0]);
        let start = || Sender(child(test, "send", &argument).spawn().expect("a process"));
        let mut first = start();
        while size_of(&part) < SIZE as u64 / 8 {
            thread::sleep(Duration::from_millis(5));
        }
        first.0.kill().expect("kill");
        let killed = Instant::now();
        let mut second = start();
        let e = outcomes.recv_timeout(AT_ONCE).expect("in time").expect_err("it was killed");
        assert_eq!(e.code(), ErrorCode::ConnectionReset, "{e}");
        outcomes.recv_timeout(AT_ONCE).expect("in time").expect("all of it");
        assert!(second.0.wait().expect("wait").success());
        println!("all was there {:?} after the kill", killed.elapsed());
        compare(&scratch.here("source"), &scratch.there("source"));
        assert_eq!(scratch.arrived(), ["source"], "nothing of the attempts stays");
        let closing = Instant::now();
        server.shutdown();
        let took = closing.elapsed();
        assert!(took < Duration::from_secs(2), "the conn of the dead one kept it: {took:?}");
    });
}

fn receive(conn: Conn, into: &Path) -> Result<()> {
    let mut from = MessageTransporter::builder(conn).control().build();
    receive_into_dir(&mut from, into).map(drop)
}

/// In the child: one attempt, with the key that all attempts have.
fn send(argument: &str) {
    let (dir, address) = argument.split_once('\n').expect("two arguments");
    let (key, source) = (Path::new(dir).join("key"), Path::new(dir).join("here/source"));
    let host = Host::builder().keypair_file(key).build().expect("a host");
    let conn = Conn::connect(&host, address, PROTOCOL).expect("connect");
    let to = MessageTransporter::builder(conn).control().bytes_per_second(RATE);
    let mut to = to.expect("a rate").build();
    let sent = if source.is_dir() { send_dir(&mut to, source) } else { send_file(&mut to, source) };
    sent.expect("all of it");
}

fn size_of(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.map_while(std::result::Result::ok).map(|entry| size_of(&entry.path())).sum()
}

/// A process that ends with the test.
struct Sender(Child);

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
