//! 1,000 conns on one connection, 1,000 connections to one host, and 200 one after another:
//! each echoes, and after closing threads, file descriptors and memory are back.
//! Each test measures in a process of its own.
#![cfg(target_os = "linux")]

mod common;

use common::{PROTOCOL, address, child, dialling, echo, listening, payload, role, within};
use pointsub::{Conn, Host, Listener};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MANY: usize = 1_000;
const PROCESSES: usize = 4;

/// The public-key work of 2,000 handshakes, on a machine that has others to do.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn a_thousand_conns_on_one_connection() {
    const NAME: &str = "a_thousand_conns_on_one_connection";
    within(300, || match role() {
        None => run_child(child(NAME, "measure", "")),
        Some(_) => leaves_nothing_behind(|server| {
            let client = dialling();
            let target = address(server);
            let conns: Vec<_> = (0..MANY)
                .map(|_| {
                    let conn = Conn::connect(&client, &*target, PROTOCOL).expect("connect");
                    // Accepted before the next comes: only 128 may wait.
                    assert_echoes(&conn);
                    conn
                })
                .collect();
            let mut local: Vec<_> =
                conns.iter().map(|c| c.local_addr().expect("an address")).collect();
            local.dedup();
            assert_eq!(local.len(), 1, "one connection carries them all");
            for conn in conns.iter().rev() {
                assert_echoes(conn);
            }
        }),
    });
}

#[test]
fn a_thousand_connections_from_several_processes() {
    const NAME: &str = "a_thousand_connections_from_several_processes";
    within(300, || match role() {
        None => run_child(child(NAME, "measure", "")),
        Some((role, target)) if role == "clients" => clients(&target),
        Some(_) => leaves_nothing_behind(|server| {
            let start = || child(NAME, "clients", &address(server)).spawn().expect("spawn");
            let processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
            until("all are connected", || server.connected_peers().len() == MANY);
            for process in processes {
                finish(process);
            }
        }),
    });
}

/// A socket is let go with its connection, not when some timer has forgotten it: a process
/// that connects often would hold hundreds.
#[test]
fn connections_one_after_another_need_no_more_descriptors_than_one() {
    const NAME: &str = "connections_one_after_another_need_no_more_descriptors_than_one";
    within(300, || match role() {
        None => run_child(child(NAME, "measure", "")),
        Some(_) => leaves_nothing_behind(|server| {
            let client = dialling();
            let target = address(server);
            let descriptors = || {
                let conn = Conn::connect(&client, &*target, PROTOCOL).expect("connect");
                assert_echoes(&conn);
                drop(conn);
                client.disconnect(&server.peer_id());
                Usage::now().descriptors
            };
            let first = descriptors();
            let most = (0..200).map(|_| descriptors()).max();
            // The other end may be a few connections behind.
            assert!(most <= Some(first + 24), "{first} behind the first, then {most:?}");
        }),
    });
}

/// One process's share: hosts that are all connected and echo, until told to end.
fn clients(target: &str) {
    let hosts: Vec<_> = (0..MANY / PROCESSES)
        .map(|_| {
            let host = dialling();
            let conn = Conn::connect(&host, target, PROTOCOL).expect("connect");
            (host, conn)
        })
        .collect();
    for (_, conn) in &hosts {
        assert_echoes(conn);
    }
    // The parent closes our standard input once it has seen them all.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the parent's word");
    for (_, conn) in &hosts {
        assert_echoes(conn);
    }
}

/// Serves an echo, runs `load` against it, and finds this process afterwards
/// as it was before.
fn leaves_nothing_behind(load: impl FnOnce(&Host) + Send) {
    let server = listening();
    let listener = Listener::bind(&server, PROTOCOL).expect("bind");
    let serving = serve(listener.try_clone().expect("clone"));
    let before = Usage::now();
    // On a thread of its own: one that has waited on a conn or a listener keeps a
    // descriptor to be woken by for as long as it lives.
    thread::scope(|scope| {
        scope.spawn(|| load(&server));
    });
    until("threads and descriptors are back", || {
        let now = Usage::now();
        // One more, for the thread that accepts.
        now.threads <= before.threads && now.descriptors <= before.descriptors + 1
    });
    let after = Usage::now();
    eprintln!("before: {before:?}, after: {after:?}");
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown <= 16 << 20, "{grown} bytes stayed behind");
    listener.close();
    serving.join().expect("no panic");
}

fn serve(listener: Listener) -> JoinHandle<()> {
    thread::spawn(move || {
        let _ = listener.serve(MANY, |conn, _peer| drop(echo(conn)));
    })
}

/// What this process holds.
#[derive(Debug)]
struct Usage {
    threads: usize,
    descriptors: usize,
    resident: usize,
}

impl Usage {
    fn now() -> Usage {
        let status = fs::read_to_string("/proc/self/status").expect("procfs");
        let field = |name: &str| -> usize {
            let line = status.lines().find(|line| line.starts_with(name)).expect("the field");
            line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
        };
        Usage {
            threads: field("Threads:"),
            descriptors: fs::read_dir("/proc/self/fd").expect("procfs").count(),
            resident: field("VmRSS:") << 10,
        }
    }
}

/// Polls what no event tells: the kernel's own counts.
fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}, {:?}", Usage::now());
        thread::sleep(Duration::from_millis(10));
    }
}

fn assert_echoes(mut conn: &Conn) {
    let sent = payload(1, 1_000);
    conn.write_all(&sent).expect("write");
    let mut back = vec![0; sent.len()];
    conn.read_exact(&mut back).expect("read");
    assert!(back == sent);
}

fn run_child(mut command: Command) {
    finish(command.spawn().expect("spawn"));
}

/// Closes a child's standard input and waits for it.
fn finish(mut process: Child) {
    drop(process.stdin.take());
    assert!(process.wait().expect("wait").success());
}
