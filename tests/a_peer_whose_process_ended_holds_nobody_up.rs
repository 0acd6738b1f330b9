//! A process may be killed as soon as its peer has read its answer: what it took is known by
//! then, and whoever closes its host does not wait for a peer that is not there.

mod common;

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{child, read_all, role, within};
use pointsub::{Conn, Error, ErrorCode, Host, Listener};

const SELF: &str = "who_closes_its_host_does_not_wait_for_a_process_that_has_ended";
const PROTOCOL: &str = "/answer";

#[test]
fn who_closes_its_host_does_not_wait_for_a_process_that_has_ended() {
    if let Some((_, how)) = role() {
        return answer(how == ENDS);
    }
    within(60, || {
        for round in 0..20 {
            let mut server = Server::start(ENDS);
            let (host, mut conn) = server.ask(5);
            assert_eq!(read_all(&mut conn).unwrap(), [9; 5]);
            server.kill();
            drop(conn);
            closes_at_once(&host, round);
        }
    });
}

/// Nor if the answer is all that it has heard, and the conn has not ended.
#[test]
fn what_was_answered_needs_no_other_receipt() {
    within(60, || {
        // Sealed with its header; in a frame of its own; kept as it was sealed; in pieces.
        let sizes = [1, 64, 5000, 40_000, 1_000_000];
        for (round, size) in sizes.into_iter().cycle().take(20).enumerate() {
            let mut server = Server::start("goes on");
            let (host, mut conn) = server.ask(size);
            conn.read_exact(&mut vec![0; size]).unwrap();
            server.kill();
            drop(conn);
            closes_at_once(&host, round);
        }
    });
}

/// Whoever goes on to use the conn hears how much of what it wrote had arrived.
#[test]
fn the_error_says_that_what_was_answered_had_arrived() {
    within(60, || {
        let mut server = Server::start("goes on");
        let (_host, mut conn) = server.ask(100);
        conn.read_exact(&mut [0; 100]).unwrap();
        server.kill();
        let why = conn.read(&mut [0]).unwrap_err();
        let why = why.get_ref().and_then(|why| why.downcast_ref::<Error>()).expect("one of ours");
        assert_eq!(why.code(), ErrorCode::ConnectionReset);
        assert_eq!((why.context("arrived"), why.context("written")), (Some("5000"), Some("5000")));
    });
}

#[track_caller]
fn closes_at_once(host: &Host, round: usize) {
    let closing = Instant::now();
    host.shutdown();
    let took = closing.elapsed();
    assert!(took < Duration::from_millis(900), "round {round}: closing took {took:?}");
}

/// A process that answers one request, and waits to be killed.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(how: &str) -> Server {
        let mut process = child(SELF, "answer", how).stdout(Stdio::piped()).spawn().unwrap();
        let address = first_address(process.stdout.as_mut().unwrap());
        Server { process, address }
    }

    /// A conn to it, on which it was asked for so many bytes.
    fn ask(&self, size: usize) -> (Host, Conn) {
        let host = Host::new().unwrap();
        let mut conn = Conn::connect(&host, &*self.address, PROTOCOL).unwrap();
        let mut request = [7; REQUEST];
        request[..4].copy_from_slice(&(size as u32).to_le_bytes());
        conn.write_all(&request).unwrap();
        (host, conn)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn answer(ends: bool) {
    let host = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let listener = Listener::bind(&host, PROTOCOL).unwrap();
    println!("\n{ADDRESS}{}", host.dial_addrs()[0]);
    let (mut conn, _) = listener.accept().unwrap();
    let mut request = [0; REQUEST];
    conn.read_exact(&mut request).unwrap();
    let size = u32::from_le_bytes(*request.first_chunk().unwrap());
    conn.write_all(&vec![9; size as usize]).unwrap();
    let _conn = Some(conn).filter(|_| !ends);
    loop {
        std::thread::park();
    }
}

const ENDS: &str = "ends";
const REQUEST: usize = 5000;

const ADDRESS: &str = "the address is ";

fn first_address(mut stdout: impl Read) -> String {
    let mut said = Vec::new();
    let mut byte = [0];
    loop {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended before it told its address");
        if byte[0] != b'\n' {
            said.push(byte[0]);
            continue;
        }
        let line = String::from_utf8(std::mem::take(&mut said)).unwrap();
        if let Some(address) = line.strip_prefix(ADDRESS) {
            return address.to_owned();
        }
    }
}
