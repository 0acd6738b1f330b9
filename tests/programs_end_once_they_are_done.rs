//! The examples, as processes from their start to their exit: once all is said and done
//! they end, and nobody waits for a peer that has left.

mod common;
mod files;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::programs::{Ended, Program};
use common::within;
use files::Scratch;
use files::trees::assert_same;

/// The work takes some tens of milliseconds, in a debug build on a busy machine some
/// hundreds; whoever waits in vain for its peer waits for the linger, 5 s.
const SOON: Duration = Duration::from_secs(2);

/// What has to be quick, at its best of three.
#[track_caller]
fn is_soon(what: &str, mut run: impl FnMut() -> Duration) {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        best = best.min(run());
        if best < SOON {
            return;
        }
    }
    panic!("{what} took {best:?} at its best");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

#[test]
fn a_file_is_sent_and_both_programs_end() {
    within(60, || {
        let scratch = Scratch::new("programs-file");
        let content = support::bytes(1, 10 << 20);
        fs::write(scratch.here("file"), &content).expect("write");
        is_soon("a file of 10 MiB", || {
            let took = send_and_receive(&scratch, "file");
            assert!(fs::read(scratch.there("file")).expect("read") == content, "it differs");
            fs::remove_file(scratch.there("file")).expect("remove");
            took
        });
    });
}

#[test]
fn a_directory_is_sent_and_both_programs_end() {
    within(60, || {
        let scratch = Scratch::new("programs-directory");
        let tree = scratch.here("tree");
        fs::create_dir(&tree).expect("a directory");
        for n in 0..300 {
            fs::write(tree.join(format!("file-{n}")), support::bytes(n, 700)).expect("write");
        }
        is_soon("300 small files", || {
            let took = send_and_receive(&scratch, "tree");
            assert_same(&tree, &scratch.there("tree"));
            fs::remove_dir_all(scratch.there("tree")).expect("remove");
            took
        });
    });
}

#[test]
fn a_receiver_ends_with_the_attempt_that_succeeds_though_an_earlier_one_was_killed() {
    within(90, || {
        let scratch = Scratch::new("programs-killed");
        fs::write(scratch.here("file"), support::bytes(4, 4 << 20)).expect("write");
        let (file, key) = (scratch.here("file"), scratch.path().join("key"));
        is_soon("the end of the receiver", || {
            let receiver = Program::start("receive_file", &[text(&scratch.there(""))]);
            let address = receiver.address();
            let args = ["--key", text(&key), text(&file), &address];
            let slow = [&["--limit", "1M"], &args[..]].concat();
            let mut killed = Program::start("send_file", &slow);
            receiver.warns("transferring");
            killed.kill();
            killed.end();
            receiver.warns("was lost");
            Program::start("send_file", &args).end().code(0);
            let begun = Instant::now();
            receiver.end().code(0);
            fs::remove_file(scratch.there("file")).expect("it arrived");
            begun.elapsed()
        });
    });
}

/// From the sender's start to the end of both.
fn send_and_receive(scratch: &Scratch, name: &str) -> Duration {
    let receiver = Program::start("receive_file", &[text(&scratch.there(""))]);
    let address = receiver.address();
    let begun = Instant::now();
    let sender = Program::start("send_file", &[text(&scratch.here(name)), &address]);
    sender.end().code(0);
    receiver.end().code(0);
    begun.elapsed()
}

#[test]
fn what_is_uploaded_is_there_and_the_sender_ends_though_the_server_goes_on() {
    within(60, || {
        let scratch = Scratch::new("programs-upload");
        fs::write(scratch.here("file"), support::bytes(2, 1 << 20)).expect("write");
        let server = Program::start("upload_server", &[text(&scratch.there(""))]);
        let address = server.address();
        is_soon("an upload", || {
            let sender = Program::start("send_file", &[text(&scratch.here("file")), &address]);
            let ended = sender.end();
            ended.code(0);
            ended.took
        });
        server.says("(1048576 bytes");
    });
}

#[test]
fn an_echo_comes_back_and_its_client_ends() {
    within(60, || {
        let server = Program::start("echo", &[]);
        let address = server.address();
        is_soon("an echo", || {
            let ended = typed(Program::start("echo", &[&address]), "hello\nthere\n");
            ended.code(0);
            assert_eq!(ended.out[1..], ["< hello", "< there"]);
            ended.took
        });
        server.says("left after 12 bytes");
    });
}

#[test]
fn a_guest_leaves_the_room_and_hears_nothing_any_more() {
    within(60, || {
        let room = Program::start("chat", &[]);
        let address = room.address();
        is_soon("a visit", || {
            let ended = typed(Program::start("chat", &[&address]), "hello\x1b[31m\n");
            ended.code(0);
            let (came, said) = (&ended.out[1], &ended.out[2]);
            assert!(came.ends_with(" came"), "{ended:?}");
            assert!(said.ends_with(": hello\u{fffd}[31m"), "a terminal obeys that: {said:?}");
            ended.took
        });
    });
}

#[test]
fn a_guest_who_types_nothing_hears_that_the_room_is_gone() {
    within(60, || {
        let mut room = Program::start("chat", &[]);
        let mut guest = Program::start("chat", &[&room.address()]);
        let typing = guest.stdin();
        guest.says(" came");
        room.kill();
        guest.warns("was lost");
        // Every address refuses for 5 s.
        guest.end().code(3);
        drop(typing);
    });
}

fn typed(mut program: Program, lines: &str) -> Ended {
    program.stdin().write_all(lines.as_bytes()).expect("it listens");
    program.end()
}

#[test]
fn what_is_forwarded_ends_where_its_ends_do() {
    within(60, || {
        let target = TcpListener::bind("127.0.0.1:0").expect("bind");
        let to = target.local_addr().expect("an address").to_string();
        let there = Program::start("forward", &["--to", &to]);
        let here = Program::start("forward", &["--from", "127.0.0.1:0", &there.address()]);
        let said = here.says("forwarding 127");
        let from = said.split(' ').nth(1).expect("an address");
        let content = support::bytes(3, 1 << 20);
        is_soon("what is forwarded", || {
            let begun = Instant::now();
            let mut near = TcpStream::connect(from).expect("connect");
            // The first that the target hears of.
            let (mut far, _) = target.accept().expect("accept");
            let echoing = thread::spawn(move || {
                let mut all = Vec::new();
                far.read_to_end(&mut all).and_then(|_| far.write_all(&all)).expect("an echo");
                all.len()
            });
            near.write_all(&content).expect("write");
            near.shutdown(Shutdown::Write).expect("an end");
            let mut back = Vec::new();
            near.read_to_end(&mut back).expect("read");
            assert_eq!(echoing.join().expect("no panic"), content.len());
            assert!(back == content, "it differs");
            begun.elapsed()
        });
    });
}

#[test]
fn the_demo_ends_once_it_has_said_its_last() {
    within(120, || {
        is_soon("the end of the demo", || {
            let ended = Program::start("demo", &["connect", "pings", "conns"]).end();
            ended.code(0);
            assert!(ended.out.iter().any(|line| line.starts_with("conns ")), "{ended:?}");
            ended.silent
        });
    });
}
