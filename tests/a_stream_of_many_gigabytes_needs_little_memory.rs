//! A stream that fits into no memory passes through two processes, and each of
//! them stays small.
//!
//! `cargo test --release --test a_stream_of_many_gigabytes_needs_little_memory -- --ignored`
//! sends 10 GiB; `POINTSUB_STREAM_MIB` says otherwise.

mod support;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use pointsub::{receive_stream, send_stream};

const MIB: u64 = 1 << 20;
const ALLOWED: u64 = 64 * MIB;

#[test]
#[ignore = "takes a while: run by CI with 1 GiB"]
fn both_processes_stay_below_64_mib_above_their_idle_memory() {
    if let Ok(port) = std::env::var(CHILD) {
        return receive(port.parse().unwrap());
    }
    let size = std::env::var("POINTSUB_STREAM_MIB").map_or(10 << 10, |n| n.parse().unwrap()) * MIB;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "both_processes"])
        .env(CHILD, listener.local_addr().unwrap().port().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut conn, _) = listener.accept().unwrap();
    let idle = peak_memory();
    let mut source = Counted { left: size, sum: 0 };
    assert_eq!(send_stream(&mut conn, &mut source).unwrap(), size);
    drop(conn);
    let grown = peak_memory() - idle;
    assert!(grown < ALLOWED, "the sender grew by {} KiB", grown >> 10);

    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    let report = output.lines().find_map(|line| Some(line.split_once(REPORT)?.1));
    let report: Vec<u64> = report.unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    assert_eq!(report[..2], [size, source.sum]);
    assert!(report[2] < ALLOWED, "the receiver grew by {} KiB", report[2] >> 10);
    println!("{size} bytes; the sender grew by {grown}, the receiver by {}", report[2]);
}

fn receive(port: u16) {
    let mut conn = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let idle = peak_memory();
    let mut sink = Counted { left: 0, sum: 0 };
    let size = receive_stream(&mut conn, &mut sink).unwrap();
    println!("{REPORT}{size} {} {}", sink.sum, peak_memory() - idle);
}

/// Bytes that tell where they belong, summed up on both sides.
struct Counted {
    left: u64,
    sum: u64,
}

impl Counted {
    fn add(&mut self, bytes: &[u8]) {
        // Position-dependent and cheap: a word from each page.
        for page in bytes.chunks(4096) {
            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(page[0]));
        }
    }
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = out.len().min(self.left.try_into().unwrap_or(usize::MAX));
        for (i, page) in out[..n].chunks_mut(4096).enumerate() {
            page[0] = (self.left >> 12) as u8 ^ i as u8;
        }
        self.left -= n as u64;
        self.add(&out[..n]);
        Ok(n)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The most memory that this process has had, where the system tells.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

const CHILD: &str = "POINTSUB_TEST_STREAM_PORT";
const REPORT: &str = "report: ";
