//! The examples say at once what stands in the way, end with the exit code that they
//! document, and go on where others are to blame.

mod common;
mod files;
mod support;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use common::programs::{Ended, Program};
use common::within;
use files::Scratch;
use files::wire::offer;
use pointsub::transfer::send_file;
use pointsub::{Conn, Host, MessageTransporter};

const PROTOCOL: &str = "/pointsub/files/1.0.0";

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

#[track_caller]
fn ends_with(code: i32, name: &str, args: &[&str]) -> Ended {
    let ended = Program::start(name, args).end();
    ended.code(code);
    ended
}

#[test]
fn wrong_arguments_are_code_two_and_show_the_usage() {
    within(60, || {
        for (name, args) in [
            ("chat", &["--loud"][..]),
            ("chat", &["--listen"]),
            ("demo", &["everything"]),
            ("echo", &["--listen", "here"]),
            ("forward", &[]),
            ("receive_file", &["one", "two"]),
            ("send_file", &["one"]),
            ("upload_server", &["--max-size", "big", "dir"]),
        ] {
            let ended = ends_with(2, name, args);
            assert!(ended.err[0].starts_with("error: "), "{ended:?}");
            assert!(ended.err.iter().any(|line| line.contains(name)), "{ended:?}");
        }
    });
}

#[test]
fn a_directory_that_is_none_is_said_before_anybody_sends() {
    within(60, || {
        let scratch = Scratch::new("programs-no-directory");
        fs::write(scratch.here("file"), "").expect("write");
        let (missing, file) = (scratch.here("missing"), scratch.here("file"));
        for name in ["receive_file", "upload_server"] {
            for path in [&missing, &file] {
                let ended = ends_with(6, name, &[text(path)]);
                assert!(ended.err[0].contains(text(path)) && ended.out.is_empty(), "{ended:?}");
            }
        }
    });
}

#[test]
fn where_nobody_listens_the_sender_says_so_at_once_and_meets_who_comes_late() {
    within(60, || {
        let scratch = Scratch::new("programs-nobody");
        fs::write(scratch.here("file"), "hello").expect("write");
        let (there, key) = (scratch.there(""), scratch.path().join("key"));
        let (there, key) = (text(&there), text(&key));
        let mut early = Program::start("receive_file", &["--key", key, there]);
        let address = early.address();
        early.kill();
        early.end();
        let file = scratch.here("file");
        let ended = ends_with(3, "send_file", &["--attempts", "1", text(&file), &address]);
        assert!(ended.err[0].contains("nothing listens at"), "{ended:?}");

        let begun = Instant::now();
        let sender = Program::start("send_file", &[text(&file), &address]);
        let said = sender.warns("nothing listens at");
        assert!(said.contains("trying for 10 s"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(5), "that took {:?}", begun.elapsed());
        let port = address.split('/').nth(4).expect("a port");
        let at = format!("127.0.0.1:{port}");
        let late = Program::start("receive_file", &["--key", key, "--listen", &at, there]);
        sender.end().code(0);
        late.end().code(0);
        assert_eq!(fs::read(scratch.there("file")).expect("read"), b"hello");
    });
}

#[test]
fn a_sender_with_a_bad_name_is_refused_and_the_next_one_is_served() {
    within(60, || {
        let scratch = Scratch::new("programs-bad-name");
        fs::write(scratch.here("file"), "hello").expect("write");
        let receiver = Program::start("receive_file", &[text(&scratch.there(""))]);
        let address = receiver.address();
        let host = Host::new().expect("a host");
        let connect = || {
            let conn = Conn::connect(&host, &*address, PROTOCOL).expect("connect");
            MessageTransporter::new(conn)
        };
        for name in ["../x", "x.part"] {
            let mut bad = connect();
            bad.send(&offer(name.as_bytes(), 3, 20)).expect("send");
            let refusal = files::wire::failure_in(&bad.receive().expect("an answer"));
            assert!(refusal.is_some(), "{name} was accepted");
            bad.send(&files::wire::failure(pointsub::ErrorCode::InvalidName)).expect("send");
        }
        receiver.warns(&host.peer_id().to_string());
        send_file(&mut connect(), scratch.here("file")).expect("the next one");
        receiver.end().code(0);
        assert_eq!(scratch.arrived(), ["file"]);
    });
}

#[test]
fn a_server_that_has_no_room_for_a_sender_tells_it_why() {
    within(60, || {
        let scratch = Scratch::new("programs-in-the-way");
        fs::write(scratch.here("file"), "hello").expect("write");
        let key = scratch.path().join("key");
        let peer = Host::builder().keypair_file(&key).build().expect("a host").peer_id();
        // Where its directory would be.
        fs::write(scratch.there(&peer.to_string()), "").expect("write");
        let server = Program::start("upload_server", &[text(&scratch.there(""))]);
        let file = scratch.here("file");
        let args = ["--key", text(&key), text(&file), &server.address()];
        let ended = Program::start("send_file", &args).end();
        assert_ne!(ended.status.code(), Some(0));
        assert!(ended.err.iter().any(|line| line.contains("directory")), "{ended:?}");
    });
}

#[test]
fn what_cannot_be_forwarded_is_told_at_both_ends() {
    within(60, || {
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let target = unused.expect("an address").to_string();
        let mut there = Program::start("forward", &["--to", &target]);
        let here = Program::start("forward", &["--from", "127.0.0.1:0", &there.address()]);
        let said = here.says("forwarding 127");
        let from = said.split(' ').nth(1).expect("an address");
        let read = || TcpStream::connect(from).expect("connect").read(&mut [0]);
        assert_eq!(read().expect("an end"), 0);
        there.warns(&target);
        there.kill();
        there.end();
        let e = read().expect_err("nobody is there");
        assert_eq!(e.kind(), ErrorKind::ConnectionReset);
        here.warns("nothing listens at");
    });
}
