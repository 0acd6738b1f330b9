//! A process may be killed as soon as its peer has read the end of its conn: what it took is
//! known by then, and whoever closes its host does not wait for a peer that is not there.

mod common;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{child, role, within};
use pointsub::{Conn, Host, Listener};

const SELF: &str = "who_closes_its_host_does_not_wait_for_a_process_that_has_ended";
const PROTOCOL: &str = "/answer";

#[test]
fn who_closes_its_host_does_not_wait_for_a_process_that_has_ended() {
    if role().is_some() {
        return answer();
    }
    within(60, || {
        for round in 0..20 {
            let mut server = child(SELF, "answer", "").stdout(Stdio::piped()).spawn().unwrap();
            let address = first_address(server.stdout.as_mut().unwrap());
            let host = Host::new().unwrap();
            let mut conn = Conn::connect(&host, &*address, PROTOCOL).unwrap();
            conn.write_all(&[7; 5000]).unwrap();
            let mut answer = String::new();
            conn.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "taken");
            server.kill().unwrap();
            server.wait().unwrap();
            drop(conn);
            let closing = Instant::now();
            host.shutdown();
            let took = closing.elapsed();
            assert!(took < Duration::from_secs(2), "round {round}: closing took {took:?}");
        }
    });
}

/// It reads all, answers, drops its conn, and waits to be killed.
fn answer() {
    let host = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let listener = Listener::bind(&host, PROTOCOL).unwrap();
    println!("\n{ADDRESS}{}", host.dial_addrs()[0]);
    let (mut conn, _) = listener.accept().unwrap();
    conn.read_exact(&mut [0; 5000]).unwrap();
    conn.write_all(b"taken").unwrap();
    drop(conn);
    loop {
        std::thread::park();
    }
}

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
