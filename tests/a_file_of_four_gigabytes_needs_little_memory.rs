//! A file that fits into no memory passes through two processes, and each of them
//! stays small.
//!
//! `cargo test --release --test a_file_of_four_gigabytes_needs_little_memory -- --ignored`
//! sends 4 GiB of a sparse file; `POINTSUB_FILE_MIB` says otherwise.

#![cfg(target_os = "linux")]

mod common;
mod files;
mod support;

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use files::Scratch;
use pointsub::MessageTransporter;
use pointsub::transfer::{receive_into_dir, send_file};

const ALLOWED: u64 = 64 << 20;

#[test]
#[ignore = "takes a while, and 4 GiB of disk: run by CI with less"]
fn both_processes_stay_below_64_mib_above_their_idle_memory() {
    let name = "both_processes_stay_below_64_mib_above_their_idle_memory";
    if let Some((role, dir)) = common::role() {
        return play(&role, Path::new(&dir));
    }
    let mib: u64 = std::env::var("POINTSUB_FILE_MIB").map_or(4 << 10, |n| n.parse().unwrap());
    common::within(600, || {
        let scratch = Scratch::within(&std::env::temp_dir(), "sparse");
        let file = File::create(scratch.here("sparse")).expect("create");
        file.set_len(mib << 20).expect("make it sparse");
        let dir = scratch.path().display().to_string();
        let start = |role| {
            let mut child = common::child(name, role, &dir);
            child.arg("--ignored").spawn().expect("a process")
        };
        let (mut receiver, mut sender) = (start("receive"), start("send"));
        assert!(sender.wait().expect("wait").success());
        assert!(receiver.wait().expect("wait").success());
        assert_eq!(fs::metadata(scratch.there("sparse")).expect("stat").len(), mib << 20);
        for role in ["send", "receive"] {
            let grown = fs::read_to_string(scratch.path().join(role)).expect("a report");
            println!("{role}: grew by {} KiB", grown.parse::<u64>().expect("a number") >> 10);
            assert!(grown.parse::<u64>().expect("a number") < ALLOWED, "{role}: {grown}");
        }
    });
}

fn play(role: &str, dir: &Path) {
    let socket = dir.join("socket");
    let idle;
    if role == "send" {
        let conn = loop {
            match UnixStream::connect(&socket) {
                Ok(conn) => break conn,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        idle = peak_memory();
        let mut to = MessageTransporter::new(conn);
        send_file(&mut to, dir.join("here/sparse")).expect("send");
    } else {
        let (conn, _) = UnixListener::bind(&socket).expect("bind").accept().expect("accept");
        idle = peak_memory();
        let mut from = MessageTransporter::new(conn);
        receive_into_dir(&mut from, dir.join("there")).expect("receive");
    }
    fs::write(dir.join(role), (peak_memory() - idle).to_string()).expect("report");
}

/// The most memory that this process has had.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
