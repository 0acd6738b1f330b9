//! A process that cannot start a thread says so, or does it later. Each test has a process
//! of its own, with no memory for another thread's stack.
#![cfg(target_os = "linux")]

mod common;

use common::{PROTOCOL, Pair, Ways, Wired, address, child, code, eventually, role, within};
use pointsub::{Conn, ErrorCode, Host};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

fn alone(name: &str, test: impl FnOnce()) {
    match role() {
        Some(_) => within(60, test),
        None => assert!(child(name, "few", "").status().expect("a process").success()),
    }
}

/// All threads that there was room for.
struct Taken {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
    /// Lifts the limit when its input ends: it is started while there is memory for that.
    lifter: Child,
}

impl Taken {
    fn all() -> Taken {
        let pid = std::process::id();
        let lifter = Command::new("sh")
            .args(["-c", &format!("read nothing; prlimit --pid {pid} --as=unlimited:")])
            .stdin(Stdio::piped())
            .spawn();
        let mut taken = Taken { threads: Vec::new(), lifter: lifter.expect("a shell") };
        let status = fs::read_to_string("/proc/self/status").expect("procfs");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("it");
        let kib: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
        // A stack takes 2,048; what is left is for what is no thread.
        let limit = format!("--as={}:", (kib + 1_984) << 10);
        let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
        assert!(limited.expect("prlimit of util-linux").success());
        loop {
            let (end, ended) = mpsc::channel();
            match thread::Builder::new().spawn(move || _ = ended.recv()) {
                Ok(thread) => taken.threads.push((end, thread)),
                Err(_) => return taken,
            }
        }
    }

    fn give_back(mut self) {
        drop(self.lifter.stdin.take());
        assert!(self.lifter.wait().expect("wait").success());
        for (end, thread) in self.threads {
            drop(end);
            thread.join().expect("no panic");
        }
    }
}

#[test]
fn a_server_that_cannot_start_a_handler_says_why() {
    alone("a_server_that_cannot_start_a_handler_says_why", || {
        let Pair { server, client, listener } = Pair::new();
        let _conn = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
        let taken = Taken::all();
        let served = listener.serve(4, |_, _| panic!("there was a thread"));
        let made = Host::new();
        taken.give_back();
        for error in [served.expect_err("no thread"), made.map(drop).expect_err("no thread")] {
            assert_eq!(code(&error), ErrorCode::SystemLimit, "{error}");
            assert_ne!(error.kind(), ErrorKind::WouldBlock);
            let text = error.to_string();
            assert!(text.contains("no thread") && text.contains("ulimit"), "{text}");
        }
    });
}

#[test]
fn a_lost_conn_goes_on_once_there_are_threads_again() {
    alone("a_lost_conn_goes_on_once_there_are_threads_again", || {
        let soon = Duration::from_millis(200);
        let wired = Wired::of(|host| host.keepalive(soon).keepalive_timeout(soon));
        let (mut near, mut far) = wired.connect();
        let taken = Taken::all();
        // It is lost without that a thread of the wire's ends, and leaves its place.
        wired.proxy.stall(Ways::Both);
        eventually("the loss", 20, || near.stats().losses == 1);
        thread::sleep(Duration::from_secs(1));
        taken.give_back();
        wired.proxy.flow();
        near.write_all(b"still here").expect("kept");
        let mut arrived = [0; 10];
        far.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        far.read_exact(&mut arrived).expect("it goes on");
        assert_eq!(&arrived, b"still here");
    });
}
