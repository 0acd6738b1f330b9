//! Messages one way and there and back, over a plain TCP socket on loopback.
//!
//! `cargo bench --bench message`. Rates are those of the receiver. Other
//! transports plug in as another pair of ends.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsub::{MessageTransporter, receive_message, send_message};

const KIB: usize = 1 << 10;
const SIZES: [usize; 7] = [64, 256, 512, KIB, 50 * KIB, 1 << 20, 5 << 20];

fn one_way(c: &mut Criterion) {
    let mut group = c.benchmark_group("one way/tcp");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for size in SIZES {
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, &size| {
            b.iter_custom(|n| stream_of_messages(tcp_pair(), size, n));
        });
    }
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("one way, batches of 100/tcp");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for size in [64, KIB] {
        group.throughput(Throughput::Elements(100));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, &size| {
            b.iter_custom(|n| {
                let (here, mut there) = tcp_pair();
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
            });
        });
    }
}

fn round_trips(c: &mut Criterion) {
    let mut group = c.benchmark_group("round trip/tcp");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, &size| {
            b.iter_custom(|n| there_and_back(tcp_pair(), size, n));
        });
    }
}

/// Until the last of `n` messages has arrived.
fn stream_of_messages<C: Read + Write + Send + 'static>(
    (mut here, mut there): (C, C),
    size: usize,
    n: u64,
) -> Duration {
    let (ready, wait) = channel();
    let receiver = thread::spawn(move || {
        ready.send(()).unwrap();
        for _ in 0..n {
            black_box(receive_message(&mut there).unwrap());
        }
    });
    let message = vec![7; size];
    wait.recv().unwrap();
    let start = Instant::now();
    for _ in 0..n {
        send_message(&mut here, &message).unwrap();
    }
    receiver.join().unwrap();
    start.elapsed()
}

fn there_and_back<C: Read + Write + Send + 'static>(
    (mut here, mut there): (C, C),
    size: usize,
    n: u64,
) -> Duration {
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

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    a.set_nodelay(true).unwrap();
    b.set_nodelay(true).unwrap();
    (a, b)
}

criterion_group!(benches, one_way, batches, round_trips);
criterion_main!(benches);
