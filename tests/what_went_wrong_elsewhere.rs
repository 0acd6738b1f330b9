//! What other libraries were hurt by and has no other test here: see also
//! `a_host_keeps_serving_under_attack`, `limits_hold` and the tests of the protocol.

mod attacker;
mod common;

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use attacker::{ACK, RST, Raw, SYN, connect, header, opening};
use common::{
    LATE, PROTOCOL, Pair, address, assert_kind, builder, dialling, echo, eventually, role,
};
use common::{socket_address, within};
use pointsub::{Conn, Host, Keypair, Limit, Listener};

/// Rapid reset: the peer gives a stream up, its handler goes on.
#[test]
fn a_stream_counts_until_its_handler_is_gone() {
    within(60, || {
        let server = builder().max_streams(4).build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let key = Keypair::generate_ed25519();
        let mut raw = Raw::dial(socket_address(&server), &key).expect("dial");
        let open = |raw: &mut Raw| {
            let (id, first) = (raw.id(), opening(PROTOCOL));
            let syn = header(0, SYN, id, u32::try_from(first.len()).expect("short"));
            raw.send(&[&syn, &first[..]].concat()).expect("send");
            id
        };
        let mut handlers: Vec<Conn> = Vec::new();
        for _ in 0..4 {
            let id = open(&mut raw);
            handlers.push(listener.accept().expect("accept").0);
            raw.send(&header(1, RST, id, 0)).expect("send");
        }
        for handler in &mut handlers {
            let error = handler.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        open(&mut raw);
        eventually("a refusal", 30, || server.stats().rejections(Limit::Streams) == 1);
        drop(handlers);
        eventually("room", 30, || server.stats().streams == 0);
        open(&mut raw);
        listener.accept().expect("accept");
    });
}

/// A negotiation that blocks for ever, on the side that asks.
#[test]
fn a_peer_that_falls_silent_while_a_protocol_is_agreed_on_is_given_up() {
    within(60, || {
        let client = Host::builder().negotiation_timeout(Duration::from_millis(300)).build();
        let pair = Pair::of(builder().build().expect("a host"), client.expect("a host"));
        let valve = Valve::to(socket_address(&pair.server), usize::MAX);
        let target = valve.target(&pair.server);
        Conn::connect(&pair.client, &target[..], PROTOCOL).expect("connect");
        valve.close();
        let start = Instant::now();
        assert_kind(Conn::connect(&pair.client, &target[..], PROTOCOL), LATE);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(pair.client.stats().rejections(Limit::NegotiationTime), 1);
    });
}

/// A loop that does not end where its input does: on the side that dials, at every
/// byte of what the other side says. (On the side that is dialled: broken handshakes.)
#[test]
fn the_end_of_the_input_ends_a_dial_at_every_byte() {
    within(120, || {
        let server = builder().build().expect("a host");
        let _listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let whole = {
            let valve = Valve::to(socket_address(&server), usize::MAX);
            let client = dialling();
            let _conn = Conn::connect(&client, &valve.target(&server)[..], PROTOCOL);
            valve.passed.load(SeqCst)
        };
        assert!(whole > 200, "{whole} bytes until a conn is open");
        let ends = (0..30).chain((30..whole).step_by(7));
        for most in ends {
            let valve = Valve::to(socket_address(&server), most);
            let client = dialling();
            let (start, before) = (Instant::now(), processor());
            let result = Conn::connect(&client, &valve.target(&server)[..], PROTOCOL);
            assert!(result.is_err(), "a conn after {most} of {whole} bytes");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?} at {most}", start.elapsed());
            drop(client);
            assert!(processor() - before < 1.0, "it turned in circles at byte {most}");
        }
    });
}

/// An accept error that ends the server.
#[test]
fn a_host_that_ran_out_of_descriptors_accepts_again() {
    match role() {
        Some((role, _)) if role == "few" => return serve_with_few_descriptors(),
        _ => {}
    }
    within(60, || {
        let exe = std::env::current_exe().expect("this program");
        let name = "a_host_that_ran_out_of_descriptors_accepts_again";
        let mut server = Command::new("sh")
            .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
            .arg(exe)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env("POINTSUB_TEST_ROLE", "few")
            .env("POINTSUB_TEST_ARGUMENT", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut said = std::io::BufReader::new(server.stdout.take().expect("piped"));
        let target = line_with("at ", &mut said);
        let socket = target.split(' ').next().expect("its socket").parse().expect("an address");
        let target = target.split(' ').nth(1).expect("its address").to_owned();
        // More than it has descriptors for: some wait in the kernel.
        let many: Vec<_> = (0..100).map(|_| connect(socket).expect("connect")).collect();
        thread::sleep(Duration::from_millis(500));
        drop(many);
        let client = dialling();
        let start = Instant::now();
        let mut conn = loop {
            match Conn::connect(&client, &target[..], PROTOCOL) {
                Ok(conn) => break conn,
                Err(e) => assert!(start.elapsed() < Duration::from_secs(30), "never again: {e}"),
            }
        };
        conn.write_all(b"still here").expect("write");
        conn.read_exact(&mut [0; 10]).expect("read");
        drop(server.stdin.take());
        assert!(server.wait().expect("wait").success());
    });
}

fn serve_with_few_descriptors() {
    let host = builder().build().expect("a host");
    let listener = Listener::bind(&host, PROTOCOL).expect("bind");
    println!("at {} {}", socket_address(&host), address(&host));
    let serving = listener.try_clone().expect("clone");
    thread::spawn(move || serving.serve(4, |conn, _| drop(echo(conn))));
    let _ = std::io::stdin().read(&mut [0]);
}

/// The rest of the first line with `text` in it.
fn line_with(text: &str, from: &mut impl BufRead) -> String {
    let mut lines = BufRead::lines(from).map(|line| line.expect("a line"));
    lines.find_map(|line| line.split_once(text).map(|(_, rest)| rest.to_owned())).expect("a line")
}

/// Frames for streams that are gone, with every flag: nothing of them is kept, and who
/// sends many is told to go away.
#[test]
fn frames_for_streams_that_never_were_leave_nothing_behind() {
    within(60, || {
        let server = builder().max_empty_frames(100).build().expect("a host");
        let key = Keypair::generate_ed25519();
        let mut raw = Raw::dial(socket_address(&server), &key).expect("dial");
        let frames: Vec<u8> = (1..=200u32)
            .flat_map(|n| header((n % 2) as u8, [0, ACK, RST][n as usize % 3], 2 * n + 1, 0))
            .collect();
        raw.send(&frames).expect("send");
        eventually("the limit", 30, || server.stats().rejections(Limit::EmptyFrames) == 1);
        eventually("the end", 30, || server.stats().connections == 0);
    });
}

/// A wire that lets so many bytes through to the side that dials, and then ends; or
/// stands still when it is closed.
struct Valve {
    address: SocketAddr,
    passed: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Valve {
    fn to(victim: SocketAddr, most: usize) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let (passed, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, shut) = (passed.clone(), closed.clone());
        thread::spawn(move || {
            let Ok((mut near, _)) = listener.accept() else { return };
            let mut far = TcpStream::connect(victim).expect("connect");
            let (mut to_far, mut from_near) =
                (far.try_clone().expect("clone"), near.try_clone().expect("clone"));
            thread::spawn(move || std::io::copy(&mut from_near, &mut to_far));
            let mut left = most;
            let mut bytes = [0; 4096];
            while left > 0 {
                let room = left.min(bytes.len());
                let Ok(n @ 1..) = far.read(&mut bytes[..room]) else { break };
                while shut.load(SeqCst) > 0 {
                    thread::sleep(Duration::from_millis(5));
                }
                count.fetch_add(n, SeqCst);
                left -= n;
                if near.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            let _ = near.shutdown(Shutdown::Write);
        });
        Valve { address, passed, closed }
    }

    fn target(&self, host: &Host) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", self.address.port(), host.peer_id())
    }

    /// What comes from now on goes nowhere, until the valve is dropped.
    fn close(&self) {
        self.closed.store(1, SeqCst);
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.closed.store(0, SeqCst);
    }
}

/// Seconds of processor time that this process has used.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let behind = stat.rsplit(')').next().expect("the name's end");
    let ticks = |n| behind.split(' ').nth(n).expect("a field").parse::<f64>().expect("ticks");
    (ticks(12) + ticks(13)) / 100.0
}
