//! 10,000 connections that say nothing, from several processes, cost a server little,
//! and 100 busy ones beside them are served; what they keep of their speed is printed. It
//! takes minutes: run it by hand, with
//! `cargo test --release --test ten_thousand_idle_connections -- --ignored --nocapture`.

mod attacker;
mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use attacker::Raw;
use common::{
    PROTOCOL, address, builder, child, dialling, echo, eventually, role, socket_address, within,
};
use pointsub::{Conn, Host, Keypair, Listener};

const PROCESSES: usize = 4;
const OF_EACH: usize = 2500;
const BUSY: usize = 100;
const TEST: &str = "idle_connections_cost_a_server_little";

#[test]
#[ignore = "it takes minutes and 20,000 open files"]
fn idle_connections_cost_a_server_little() {
    match role() {
        Some((role, server)) if role == "idle" => return stay(server.parse().expect("an address")),
        Some((_, of)) => return serve(of.parse().expect("a number")),
        None => {}
    }
    within(580, || {
        // The server measures itself; this process has the busy clients.
        let dir = std::env::temp_dir().join(format!("pointsub-idle-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        let file = dir.join("server");
        let total = PROCESSES * OF_EACH;
        let mut command = again("server", &total.to_string());
        let mut server = command.env("POINTSUB_TEST_FILE", &file).spawn().expect("spawn");
        let lines = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually("the server", 10, || lines().contains('\n'));
        let address = lines().lines().next().expect("a line").to_owned();
        let socket = address.split(' ').nth(1).expect("its socket").to_owned();
        let address = address.split(' ').next().expect("its address");
        let alone = echoes_of_many(address);
        let idle: Vec<Child> =
            (0..PROCESSES).map(|_| again("idle", &socket).spawn().expect("spawn")).collect();
        eventually("all connections", 400, || lines().contains("all are there"));
        let beside = echoes_of_many(address);
        drop(server.stdin.take());
        assert!(server.wait().expect("wait").success());
        for mut child in idle {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        let figures = lines();
        let kept = beside / alone;
        eprintln!("{figures}{BUSY} busy conns: {beside:.0} echoes/s, {kept:.2} of without");
        assert!(kept > 0.5, "{alone} {beside}");
        let grown = figures.rsplit("grown by ").next().and_then(|s| s.split(' ').next());
        let grown: u64 = grown.expect("a figure").parse().expect("KiB");
        assert!(grown < 96 << 10, "{grown} KiB");
        std::fs::remove_dir_all(dir).expect("removed");
    });
}

/// What 100 conns of hosts of their own get answered in a second, as the median of seven.
fn echoes_of_many(address: &str) -> f64 {
    let count = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let ready = Barrier::new(BUSY + 1);
    thread::scope(|scope| {
        for _ in 0..BUSY {
            let (count, over, ready) = (&count, &over, &ready);
            scope.spawn(move || {
                let host = dialling();
                let mut conn = Conn::connect(&host, address, PROTOCOL).expect("connect");
                ready.wait();
                let mut buf = [0; 1000];
                while !over.load(SeqCst) {
                    conn.write_all(&[1; 1000]).expect("write");
                    conn.read_exact(&mut buf).expect("read");
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        ready.wait();
        let mut rates: Vec<f64> = (0..7)
            .map(|_| {
                let (start, before) = (Instant::now(), count.load(SeqCst));
                thread::sleep(Duration::from_secs(1));
                (count.load(SeqCst) - before) as f64 / start.elapsed().as_secs_f64()
            })
            .collect();
        over.store(true, SeqCst);
        rates.sort_by(f64::total_cmp);
        rates[3]
    })
}

fn stay(server: SocketAddr) {
    let mut held = Vec::new();
    for _ in 0..OF_EACH {
        let key = Keypair::generate_ed25519();
        held.push(Raw::quiet(server, &key).expect("dial"));
    }
    thread::sleep(Duration::from_secs(600));
}

/// The server: says in its file where it is, how it grew, until its input ends.
fn serve(expected: usize) {
    let file = std::env::var_os("POINTSUB_TEST_FILE").expect("a file");
    let say = |text: String| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&file);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
    };
    let quiet = Duration::from_secs(3600);
    let options = builder().idle_timeout(Duration::ZERO).keepalive(quiet);
    let host: Host = options.max_connections(expected + BUSY + 1).build().expect("a host");
    let listener = Listener::bind(&host, PROTOCOL).expect("bind");
    let serving = listener.try_clone().expect("clone");
    thread::spawn(move || serving.serve(BUSY, |conn, _| drop(echo(conn))));
    let before = resident();
    say(format!("{} {}\n", address(&host), socket_address(&host)));
    let start = Instant::now();
    eventually("all connections", 400, || host.stats().connections >= expected);
    let grown = resident() - before;
    say(format!("all are there after {:.1} s, {grown} KiB\n", start.elapsed().as_secs_f64()));
    let _ = std::io::stdin().read(&mut [0]);
    let grown = resident() - before;
    say(format!("{} connections, grown by {grown} KiB\n", host.stats().connections));
    // Without a goodbye to each.
    std::process::exit(0);
}

/// This test in another process, though it is ignored.
fn again(role: &str, argument: &str) -> Command {
    let mut command = child(TEST, role, argument);
    command.arg("--ignored");
    command
}

/// KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc");
    text.split(' ').nth(1).expect("resident").parse::<u64>().expect("a number") * 4
}
