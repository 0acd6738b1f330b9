//! A process that dies takes its conns with it: as soon as its successor answers, the
//! other end knows, and knows how much had arrived. One that only stands still for a
//! while comes back to its conns.
#![cfg(target_os = "linux")]

mod common;

use common::{PROTOCOL, assert_kind, child, eventually, payload, role, within};
use pointsub::{Conn, Event, Host, Listener};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A server in a process of its own, killed with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Listens on this port; 0: a free one.
    fn start(test: &str, key: &str, port: u16) -> Server {
        let mut command = child(test, "server", &format!("{key} {port}"));
        let mut process = command.stdout(Stdio::piped()).spawn().expect("spawn");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let address = output.lines().map_while(Result::ok).find(|line| line.contains(READY));
        let address = address.expect("it listens").split(READY).nth(1).expect("it").to_owned();
        Server { process, address }
    }

    fn port(&self) -> u16 {
        self.address.split('/').nth(4).expect("a port").parse().expect("a number")
    }

    /// SIGKILL: nobody says goodbye.
    fn kill(mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: says where it listens, then reads pieces of `PIECE` bytes and answers
/// each with a byte, until it is killed.
fn serve(argument: &str) {
    let (key, port) = argument.split_once(' ').expect("two");
    let at = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
    let host = Host::builder().keypair_file(key).listen(at).build().expect("a host");
    let listener = Listener::bind(&host, PROTOCOL).expect("bind");
    println!("{READY}{}", host.dial_addrs()[0]);
    for conn in listener.incoming() {
        let mut conn = conn.expect("a conn");
        thread::spawn(move || {
            let mut piece = vec![0; PIECE];
            while conn.read_exact(&mut piece).is_ok() {
                assert!(piece == payload(1, PIECE));
                conn.write_all(b"!").expect("an answer");
            }
        });
    }
}

#[test]
fn its_conns_are_reset_within_a_second_of_the_first_answer() {
    const NAME: &str = "its_conns_are_reset_within_a_second_of_the_first_answer";
    if let Some((_, argument)) = role() {
        return serve(&argument);
    }
    within(60, || {
        let key = KeyFile::new("restarted");
        let server = Server::start(NAME, &key.0, 0);
        let client = Host::new().expect("a host");
        let near = Conn::connect(&client, &*server.address, PROTOCOL).expect("connect");
        let idle = Conn::connect(&client, &*server.address, PROTOCOL).expect("connect");
        for _ in 0..3 {
            ask(&near);
        }
        // What was read was confirmed within this time.
        thread::sleep(Duration::from_millis(400));
        let port = server.port();
        server.kill();
        eventually("the loss is noticed", 5, || client.stats().conns_waiting == 2);
        // This never arrives.
        (&near).write_all(&payload(2, 50_000)).expect("kept for later");

        let mut events = client.subscribe();
        let server = Server::start(NAME, &key.0, port);
        let found = events.find(|e| matches!(e, Event::ConnectionOpened { .. }));
        let answered = Instant::now();
        assert!(found.is_some());
        for conn in [&near, &idle] {
            let reset = assert_kind((&*conn).read(&mut [0]), &[ErrorKind::ConnectionReset]);
            let took = answered.elapsed();
            assert!(took < Duration::from_secs(1), "{took:?}: {reset}");
            let write = (&*conn).write(b"x");
            assert_kind(write, &[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe]);
            eprintln!("after {took:?}: {reset}");
            let told: String = reset.to_string().chars().filter(|c| *c != ',').collect();
            let arrived = if std::ptr::eq(conn, &near) { "600000 " } else { "0 " };
            assert!(told.contains(arrived), "{reset} does not tell of {arrived}");
        }
        // New conns work.
        ask(&Conn::connect(&client, &*server.address, PROTOCOL).expect("connect"));
    });
}

#[test]
fn a_process_that_stood_still_comes_back_to_its_conns() {
    const NAME: &str = "a_process_that_stood_still_comes_back_to_its_conns";
    if let Some((_, argument)) = role() {
        return serve(&argument);
    }
    within(90, || {
        let key = KeyFile::new("stopped");
        let server = Server::start(NAME, &key.0, 0);
        let client = Host::builder()
            .keepalive(Duration::from_millis(200))
            .keepalive_timeout(Duration::from_millis(500))
            .dial_timeout(Duration::from_secs(1))
            .build()
            .expect("a host");
        let near = Conn::connect(&client, &*server.address, PROTOCOL).expect("connect");
        ask(&near);
        for round in 1..=2 {
            server.signal("-STOP");
            (&near).write_all(&payload(1, PIECE)).expect("kept for later");
            eventually("the silence is noticed", 20, || near.stats().losses == round);
            // Redials reach its kernel and nobody behind it.
            thread::sleep(Duration::from_millis(1_500));
            server.signal("-CONT");
            (&near).read_exact(&mut [0]).expect("the answer");
            assert_eq!(near.stats().resumes, round);
            ask(&near);
        }
    });
}

/// One that does not come back is given up after 5 s if its address refuses.
#[test]
fn a_process_that_stays_away_is_given_up_after_five_seconds() {
    const NAME: &str = "a_process_that_stays_away_is_given_up_after_five_seconds";
    if let Some((_, argument)) = role() {
        return serve(&argument);
    }
    within(60, || {
        let key = KeyFile::new("away");
        let server = Server::start(NAME, &key.0, 0);
        let client = Host::new().expect("a host");
        let near = Conn::connect(&client, &*server.address, PROTOCOL).expect("connect");
        ask(&near);
        let start = Instant::now();
        server.kill();
        let error = assert_kind((&near).read(&mut [0]), &[ErrorKind::ConnectionReset]);
        let took = start.elapsed();
        eprintln!("after {took:?}: {error}");
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
        assert_eq!(client.stats().conns_given_up, 1);
    });
}

fn ask(mut conn: &Conn) {
    conn.write_all(&payload(1, PIECE)).expect("write");
    conn.read_exact(&mut [0]).expect("an answer");
}

/// A path for a key, removed in the end.
struct KeyFile(String);

impl KeyFile {
    fn new(name: &str) -> KeyFile {
        let file = format!("pointsub-test-{name}-{}", std::process::id());
        KeyFile(std::env::temp_dir().join(file).to_str().expect("a path of UTF-8").to_owned())
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const PIECE: usize = 200_000;
const READY: &str = "listening: ";
