//! Messages over a `Conn` beside the same framing over a plain `TcpStream`, in one run:
//!
//! ```text
//! cargo bench --bench message
//! ```
//!
//! Rates are those of the receiver: a run ends when the last message has arrived.

mod ends;

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{Bencher, criterion_main};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group};
use pointsub::{MessageTransporter, receive_message, send_message};

use ends::{Peers, tcp_pair};

criterion_group!(benches, one_way, several, batches, round_trips);
criterion_main!(benches);

/// One call each, on one connection.
fn one_way(c: &mut Criterion) {
    for (name, size) in SIZES {
        let mut group = group(c, format!("messages one way, {name}"));
        group.throughput(Throughput::Elements(1));
        on_both(&mut group, |b, ends| b.iter_custom(|n| stream_of_messages(vec![ends()], size, n)));
    }
}

/// The same on several connections at once, in the numbers of the original's table.
fn several(c: &mut Criterion) {
    for (name, size, conns) in [
        ("256 B on 2 connections", 256, 2),
        ("512 B on 5 connections", 512, 5),
        ("50 KiB on 3 connections", 50 * KIB, 3),
        ("1 MiB on 2 connections", 1 << 20, 2),
        ("5 MiB on 1 connection", 5 << 20, 1),
    ] {
        let mut group = group(c, format!("messages one way, {name}"));
        group.throughput(Throughput::Elements(conns));
        on_both(&mut group, |b, ends| {
            b.iter_custom(|n| stream_of_messages((0..conns).map(|_| ends()).collect(), size, n));
        });
    }
}

/// A hundred in one call.
fn batches(c: &mut Criterion) {
    for (name, size) in [("64 B", 64), ("512 B", 512), ("1 KiB", KIB)] {
        let mut group = group(c, format!("messages one way in batches of 100, {name}"));
        group.throughput(Throughput::Elements(100));
        on_both(&mut group, |b, ends| b.iter_custom(|n| stream_of_batches(ends(), size, n)));
    }
}

/// A message and one of the same size back.
fn round_trips(c: &mut Criterion) {
    for (name, size) in SIZES {
        let mut group = group(c, format!("message round trip, {name}"));
        on_both(&mut group, |b, ends| b.iter_custom(|n| there_and_back(ends(), size, n)));
    }
}

fn group<'a>(c: &'a mut Criterion, name: String) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    group
}

/// Either end of something.
type Ends = (Box<dyn Stream>, Box<dyn Stream>);

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// The same on a conn, then on a TCP connection.
fn on_both(
    group: &mut BenchmarkGroup<'_, WallTime>,
    mut run: impl FnMut(&mut Bencher<'_>, &dyn Fn() -> Ends),
) {
    group.bench_function(BenchmarkId::from_parameter("Conn"), |b| {
        run(b, &|| {
            let (here, there) = Peers::new().conns("/bench/messages/1.0.0");
            (Box::new(here), Box::new(there))
        });
    });
    group.bench_function(BenchmarkId::from_parameter("TcpStream"), |b| {
        run(b, &|| {
            let (here, there) = tcp_pair();
            (Box::new(here), Box::new(there))
        });
    });
}

/// `n` messages on each connection, until the last has arrived.
fn stream_of_messages(ends: Vec<Ends>, size: usize, n: u64) -> Duration {
    let (ready, wait) = channel();
    let mut senders = Vec::new();
    let receivers: Vec<_> = ends
        .into_iter()
        .map(|(here, mut there)| {
            senders.push(here);
            let ready = ready.clone();
            thread::spawn(move || {
                ready.send(()).unwrap();
                for _ in 0..n {
                    black_box(receive_message(&mut there).unwrap());
                }
            })
        })
        .collect();
    let message = vec![7; size];
    senders.iter().for_each(|_| wait.recv().unwrap());
    let start = Instant::now();
    thread::scope(|scope| {
        let message = &message;
        for mut here in senders {
            scope.spawn(move || {
                for _ in 0..n {
                    send_message(&mut here, message).unwrap();
                }
            });
        }
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
    });
    start.elapsed()
}

fn stream_of_batches((here, mut there): Ends, size: usize, n: u64) -> Duration {
    let receiver = thread::spawn(move || {
        for _ in 0..100 * n {
            black_box(receive_message(&mut there).unwrap());
        }
    });
    let mut here = MessageTransporter::new(here);
    let batch = vec![vec![0; size]; 100];
    let start = Instant::now();
    for _ in 0..n {
        here.send_batch(&batch).unwrap();
    }
    receiver.join().unwrap();
    start.elapsed()
}

fn there_and_back((mut here, mut there): Ends, size: usize, n: u64) -> Duration {
    let echo = thread::spawn(move || {
        while let Ok(message) = receive_message(&mut there) {
            send_message(&mut there, &message).unwrap();
        }
    });
    let message = vec![7; size];
    let start = Instant::now();
    for _ in 0..n {
        send_message(&mut here, &message).unwrap();
        black_box(receive_message(&mut here).unwrap());
    }
    let took = start.elapsed();
    drop(here);
    echo.join().unwrap();
    took
}

const KIB: usize = 1 << 10;

const SIZES: [(&str, usize); 7] = [
    ("64 B", 64),
    ("256 B", 256),
    ("512 B", 512),
    ("1 KiB", KIB),
    ("50 KiB", 50 * KIB),
    ("1 MiB", 1 << 20),
    ("5 MiB", 5 << 20),
];
