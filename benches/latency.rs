//! The distribution of round trips of 64 bytes, over a `Conn` and a plain `TcpStream`,
//! each with its percentiles:
//!
//! ```text
//! cargo bench --bench latency
//! ```
//!
//! It prints them and leaves them in `latency.csv`, in cargo's target directory, for
//! `benches/report.py`.

mod ends;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ends::{Peers, tcp_pair};

fn main() {
    // Run as a test, by `cargo test --benches` or to see that it works, it is short.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 20_000 } else { 200 };
    let mut series = [("Conn", Vec::new()), ("TcpStream", Vec::new())];
    // In turns, so that what disturbs one disturbs the other.
    for _ in 0..TURNS {
        let (near, far) = Peers::new().conns("/bench/latency/1.0.0");
        series[0].1.append(&mut round_trips(near, far, rounds));
        let (near, far) = tcp_pair();
        series[1].1.append(&mut round_trips(near, far, rounds));
    }
    let mut csv = String::from("percentile");
    for (name, times) in &mut series {
        times.sort_unstable();
        write!(csv, ",{name}").unwrap();
    }
    csv.push('\n');
    println!("{:>10} {:>12} {:>12}", "percentile", series[0].0, series[1].0);
    for percentile in PERCENTILES {
        let [conn, tcp] = series.each_ref().map(|(_, times)| at(times, percentile));
        println!("{percentile:>10} {conn:>12.1?} {tcp:>12.1?}");
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        writeln!(csv, "{percentile},{:.2},{:.2}", micros(conn), micros(tcp)).unwrap();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"));
    let file = target.join("latency.csv");
    if let Err(e) = std::fs::write(&file, csv) {
        eprintln!("{} was not written: {e}", file.display());
    }
}

/// How long each of them took, after some that do not count.
fn round_trips<S>(mut near: S, mut far: S, rounds: usize) -> Vec<Duration>
where
    S: Read + Write + Send + 'static,
{
    let echo = thread::spawn(move || {
        let mut buf = [0; SIZE];
        while far.read_exact(&mut buf).is_ok() && far.write_all(&buf).is_ok() {}
    });
    let mut buf = [7; SIZE];
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + WARM_UP {
        let start = Instant::now();
        near.write_all(&buf).expect("write");
        near.read_exact(&mut buf).expect("read");
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    drop(near);
    echo.join().expect("the other end");
    times
}

fn at(sorted: &[Duration], percentile: f64) -> Duration {
    let last = sorted.len() - 1;
    sorted[((last as f64) * percentile / 100.0).round() as usize]
}

const SIZE: usize = 64;
const WARM_UP: usize = 100;
const TURNS: usize = 5;
const PERCENTILES: [f64; 9] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99];
