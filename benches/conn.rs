//! A `Conn` beside a plain `TcpStream`, the same work for both, in one run:
//!
//! ```text
//! cargo bench --bench conn
//! ```
//!
//! Both ends are in this process, over 127.0.0.1, with `TCP_NODELAY`.

mod ends;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use pointsub::{Conn, Host, Listener};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use ends::{Peers, tcp_dial, tcp_pair};

criterion_group!(benches, round_trip, bulk, set_up, open);
criterion_main!(benches);

/// A request and an answer of the same size.
fn round_trip(c: &mut Criterion) {
    for (name, size) in [("64 B", 64), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)] {
        let mut group = c.benchmark_group(format!("round trip {name}"));
        let (near, far) = Peers::new().conns(ECHO);
        serve(move || echo(far, size));
        time_round_trips(&mut group, "Conn", near, size);
        let (near, far) = Peers::plain().conns(ECHO);
        serve(move || echo(far, size));
        time_round_trips(&mut group, "Conn, not resumable", near, size);
        let (near, far) = tcp_pair();
        serve(move || echo(far, size));
        time_round_trips(&mut group, "TcpStream", near, size);
    }
}

/// One way, with a reader that takes up to 256 KiB at a time.
fn bulk(c: &mut Criterion) {
    for (name, size) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let mut group = c.benchmark_group(format!("bulk, writes of {name}"));
        group.throughput(Throughput::Bytes(size as u64));
        let (near, far) = Peers::new().conns(SINK);
        time_writes(&mut group, "Conn", near, far, size);
        let (near, far) = Peers::plain().conns(SINK);
        time_writes(&mut group, "Conn, not resumable", near, far, size);
        let (near, far) = tcp_pair();
        time_writes(&mut group, "TcpStream", near, far, size);
    }
}

/// From nothing to the first byte there and back: for a conn a dial, the
/// handshake of two keys and a stream; for TCP a dial.
fn set_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection set-up");
    let peers = Peers::new();
    let serving = serve_bytes(&peers, ECHO);
    let address = peers.server.dial_addrs()[0].clone();
    group.bench_function("Conn", |b| {
        b.iter_custom(|count| {
            (0..count).map(|_| dial(|host| Conn::connect(host, &address, ECHO))).sum()
        });
    });
    serving.close();
    group.bench_function("TcpStream", tcp_set_up());
}

/// A stream on a connection that is there, and the first byte there and back;
/// TCP has no streams, so it is another connection.
fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream open");
    let peers = Peers::new();
    let serving = serve_bytes(&peers, ECHO);
    let address = peers.server.dial_addrs()[0].clone();
    // Kept open, it keeps the connection.
    let mut first = Conn::connect(&peers.client, &address, ECHO).expect("connect");
    byte_there_and_back(Ok(&mut first));
    group.bench_function("Conn", |b| {
        b.iter(|| byte_there_and_back(Conn::connect(&peers.client, &address, ECHO)));
    });
    serving.close();
    drop(first);
    group.bench_function("TcpStream", tcp_set_up());
}

/// Sends the first byte of each conn back.
fn serve_bytes(peers: &Peers, protocol: &str) -> Listener {
    let listener = Listener::bind(&peers.server, protocol).expect("bind");
    let incoming = listener.try_clone().expect("clone");
    thread::spawn(move || {
        for conn in incoming.incoming() {
            return_byte(conn.expect("accept"));
        }
    });
    listener
}

/// Dials and exchanges a byte. The server ends with the process.
fn tcp_set_up() -> impl FnMut(&mut criterion::Bencher<'_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    serve(move || {
        for stream in listener.incoming() {
            let stream = stream?;
            stream.set_nodelay(true)?;
            return_byte(stream);
        }
        Ok(())
    });
    move |b| b.iter(|| byte_there_and_back(tcp_dial(address)))
}

fn time_round_trips<S: Read + Write>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut stream: S,
    size: usize,
) {
    let sent = vec![7; size];
    let mut back = vec![0; size];
    group.bench_function(name, |b| {
        b.iter(|| {
            stream.write_all(&sent).expect("write");
            stream.read_exact(&mut back).expect("read");
        });
    });
}

/// Times writes until the reader has all of them.
fn time_writes<N: Write, F: Read + Send + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut near: N,
    mut far: F,
    size: usize,
) {
    let (arrived, progress) = std::sync::mpsc::channel();
    serve(move || {
        let mut buf = vec![0; 256 << 10];
        let mut total = 0;
        loop {
            match far.read(&mut buf)? {
                0 => return Ok(()),
                n => total += n as u64,
            }
            if arrived.send(total).is_err() {
                return Ok(());
            }
        }
    });
    let chunk = vec![7; size];
    let mut sent = 0;
    group.bench_function(name, |b| {
        b.iter_custom(|count| {
            let start = Instant::now();
            for _ in 0..count {
                near.write_all(&chunk).expect("write");
            }
            sent += count * size as u64;
            while progress.recv().expect("the reader runs") < sent {}
            start.elapsed()
        });
    });
}

/// One dial by a host of its own, whose making and ending are not counted.
fn dial(connect: impl FnOnce(&Host) -> io::Result<Conn>) -> Duration {
    let host = Host::new().expect("a host");
    let start = Instant::now();
    byte_there_and_back(connect(&host));
    start.elapsed()
}

fn byte_there_and_back<S: Read + Write>(stream: io::Result<S>) {
    let mut stream = stream.expect("connect");
    stream.write_all(&[1]).expect("write");
    stream.read_exact(&mut [0]).expect("read");
}

fn return_byte(mut stream: impl Read + Write) {
    let mut byte = [0];
    if stream.read_exact(&mut byte).is_ok() {
        let _ = stream.write_all(&byte);
    }
}

fn echo(mut stream: impl Read + Write, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        stream.read_exact(&mut buf)?;
        stream.write_all(&buf)?;
    }
}

/// Runs the other end on a thread, until its stream ends.
fn serve(end: impl FnOnce() -> io::Result<()> + Send + 'static) {
    thread::spawn(end);
}

const ECHO: &str = "/bench/echo/1.0.0";
const SINK: &str = "/bench/sink/1.0.0";
