//! Two hosts in one command: a file with its SHA-256 compared, the same over a
//! connection that is cut meanwhile, pings, a hundred conns at once, messages of
//! every class, and a file that is interrupted.

mod common;
#[path = "common/wire.rs"]
mod wire;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use common::{Args, Result};
use pointsub::message::SizeClass;
use pointsub::transfer::{Report, SendOptions, receive_into_dir};
use pointsub::{Conn, Host, Listener, MessageTransporter, Multiaddr, TransferHandle};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use wire::Wire;

const FILE_SIZE: u64 = 256 << 20;
/// How often the connection is cut.
const CUTS: u64 = 5;
const PINGS: usize = 1_000;
const CONNS: usize = 100;
const PER_CONN: usize = 1 << 20;
/// How many messages of which size: one row for each class.
const MESSAGES: [(usize, usize); 5] =
    [(20_000, 512), (4_000, 32 << 10), (200, 512 << 10), (8, 16 << 20), (1, 128 << 20)];
const STREAM_SIZE: u64 = 128 << 20;

const USAGE: &str = "
Two hosts in this process, over TCP on this machine: a file of 256 MiB through
a conn with its SHA-256 compared, as much over a connection that is cut five
times meanwhile, 1,000 pings, 100 conns at once, messages of every class, and a
file whose connection ends in the middle.

    cargo run --release --example demo [-- PART ...]

    PART    connect, file, cuts, pings, conns, messages or resume; default: all

For two processes or machines see the other examples: echo, chat, forward,
send_file and receive_file.";

fn main() -> ExitCode {
    common::run(USAGE, |args: Args| {
        let chosen = args.all()?;
        let is_part = |name: &String| PARTS.iter().any(|part| part.0 == name);
        if let Some(unknown) = chosen.iter().find(|name| !is_part(name)) {
            return Err(common::usage_error(&format!("a PART, not {unknown:?}")));
        }
        let server = Host::builder().listen_on("127.0.0.1:0").build()?;
        let client = Host::new()?;
        println!("server  {}", server.dial_addrs()[0]);
        println!("client  {}", client.peer_id());
        client.add_address(server.peer_id(), server.listen_addrs()[0].clone());
        for (name, part) in PARTS {
            if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
                part(&server, &client)?;
            }
        }
        Ok(())
    })
}

type Part = fn(&Host, &Host) -> Result;

const PARTS: [(&str, Part); 7] = [
    ("connect", connect),
    ("file", file),
    ("cuts", cuts),
    ("pings", pings),
    ("conns", conns),
    ("messages", messages),
    ("resume", interrupted),
];

/// The first conn dials, secures and multiplexes; the next only opens a stream.
fn connect(server: &Host, client: &Host) -> Result {
    let _listener = Listener::bind(server, "/hello/1.0.0")?;
    let start = Instant::now();
    Conn::connect(client, &server.dial_addrs()[0], "/hello/1.0.0")?;
    let dialled = start.elapsed();
    let start = Instant::now();
    Conn::connect(client, server.peer_id(), "/hello/1.0.0")?;
    println!("connect {} the first conn, {} the next", micros(dialled), micros(start.elapsed()));
    Ok(())
}

fn file(server: &Host, client: &Host) -> Result {
    let dir = Scratch::new()?;
    let (original, copy) = (dir.0.join("original"), dir.0.join("copy"));
    let sent = make_file(&original)?;
    let listener = Listener::bind(server, "/file/1.0.0")?;
    let receiving = thread::spawn({
        let copy = copy.clone();
        move || -> io::Result<(u64, Instant)> {
            let (mut conn, _peer) = listener.accept()?;
            let bytes = io::copy(&mut conn, &mut File::create_new(copy)?)?;
            Ok((bytes, Instant::now()))
        }
    });
    let mut conn = Conn::connect(client, server.peer_id(), "/file/1.0.0")?;
    let start = Instant::now();
    io::copy(&mut File::open(&original)?, &mut conn)?;
    conn.shutdown(Shutdown::Write)?;
    let (bytes, done) = receiving.join().map_err(|_| "the receiver panicked")??;
    let received = hash_file(&copy)?;
    if bytes != FILE_SIZE || received.as_ref() != sent.as_ref() {
        return Err(format!("{bytes} bytes arrived, and not as they were sent").into());
    }
    let seconds = (done - start).as_secs_f64();
    let mib = FILE_SIZE >> 20;
    println!(
        "file    {mib} MiB in {seconds:.2} s, {:.0} MiB/s, SHA-256 equal",
        mib as f64 / seconds
    );
    println!("        {}", hex(&received));
    Ok(())
}

/// The conn does not end with its connection: it pauses, and goes on over another.
fn cuts(server: &Host, _: &Host) -> Result {
    let mut target = server.dial_addrs()[0].clone();
    target.pop();
    let wire = Wire::to(socket(&target)?)?;
    let client = Host::new()?;
    let through = format!("/ip4/127.0.0.1/tcp/{}", wire.address.port()).parse()?;
    let listener = Listener::bind(server, "/cuts/1.0.0")?;
    let receiving = thread::spawn(move || -> io::Result<Digest> {
        let (mut conn, _peer) = listener.accept()?;
        let (mut hash, mut buf) = (Context::new(&SHA256), vec![0; 1 << 20]);
        loop {
            match conn.read(&mut buf)? {
                0 => return Ok(hash.finish()),
                n => hash.update(&buf[..n]),
            }
        }
    });
    let mut conn = Conn::connect(&client, (server.peer_id(), through), "/cuts/1.0.0")?;
    let (mut hash, start) = (Context::new(&SHA256), Instant::now());
    let blocks = FILE_SIZE >> 20;
    for block in 0..blocks {
        if block % (blocks / (CUTS + 1)) == blocks / (CUTS + 1) - 1 && conn.stats().losses < CUTS {
            wire.cut();
        }
        let bytes = noise(block, 1 << 20);
        hash.update(&bytes);
        conn.write_all(&bytes)?;
    }
    conn.shutdown(Shutdown::Write)?;
    let received = receiving.join().map_err(|_| "the receiver panicked")??;
    if received.as_ref() != hash.finish().as_ref() {
        return Err("what arrived over the cuts is not what was sent".into());
    }
    let (seconds, stats) = (start.elapsed().as_secs_f64(), conn.stats());
    println!(
        "cuts    {blocks} MiB in {seconds:.2} s though the connection was cut {} times, SHA-256 equal",
        stats.losses
    );
    println!(
        "        the longest pause {:.0} ms, {:.1} MiB sent again",
        stats.longest_outage.as_secs_f64() * 1e3,
        stats.bytes_replayed as f64 / f64::from(1 << 20)
    );
    Ok(())
}

/// The socket address that a multiaddress of TCP stands for.
fn socket(addr: &Multiaddr) -> Result<SocketAddr> {
    let text = addr.to_string();
    let mut parts = text.split('/').skip(2).step_by(2);
    let (ip, port) = (parts.next().ok_or("no address")?, parts.next().ok_or("no port")?);
    Ok(SocketAddr::new(ip.parse()?, port.parse()?))
}

fn pings(server: &Host, client: &Host) -> Result {
    let peer = server.peer_id();
    let mut times = (0..PINGS).map(|_| client.ping(&peer)).collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    println!(
        "ping    {PINGS} times: fastest {}, median {}, 99 % under {}",
        micros(times[0]),
        micros(times[PINGS / 2]),
        micros(times[PINGS * 99 / 100]),
    );
    Ok(())
}

fn conns(server: &Host, client: &Host) -> Result {
    let listener = Listener::bind(server, "/echo/1.0.0")?;
    let closing = listener.try_clone()?;
    let serving = thread::spawn(move || listener.serve(CONNS, |conn, _peer| echo(&conn)));
    let start = Instant::now();
    let clients: Vec<_> = (0..CONNS)
        .map(|n| {
            let (client, peer) = (client.clone(), server.peer_id());
            thread::spawn(move || exchange(Conn::connect(&client, peer, "/echo/1.0.0")?, n as u64))
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    closing.close();
    serving.join().map_err(|_| "the server panicked")??;
    let mib = (2 * CONNS * PER_CONN) >> 20;
    println!("conns   {CONNS} at once, each 1 MiB there and back: {mib} MiB in {seconds:.2} s");
    Ok(())
}

/// Messages of each class and a stream of unknown size, each time confirmed.
fn messages(server: &Host, client: &Host) -> Result {
    let listener = Listener::bind(server, "/messages/1.0.0")?;
    let receiving = thread::spawn(move || -> pointsub::Result<()> {
        let (conn, _peer) = listener.accept()?;
        let mut transporter = MessageTransporter::new(conn);
        for (count, size) in MESSAGES {
            for _ in 0..count {
                let message = transporter.receive()?;
                assert_eq!(message.len(), size, "messages arrive as they were sent");
            }
            transporter.send(b"all here")?;
        }
        let bytes = transporter.receive_stream(&mut io::sink())?;
        transporter.send(&bytes.to_be_bytes())
    });
    let conn = Conn::connect(client, server.peer_id(), "/messages/1.0.0")?;
    let mut transporter = MessageTransporter::new(conn);
    println!("message  class    count      size     time         rate");
    for (count, size) in MESSAGES {
        let message = noise(size as u64, size);
        let start = Instant::now();
        for _ in 0..count {
            transporter.send(&message)?;
        }
        transporter.receive()?;
        let class = SizeClass::of(size as u64).to_string();
        println!("         {class:<7} {}", row(count, size as u64, start.elapsed()));
    }
    // A reader that does not say how much it has.
    let mut source = io::repeat(7).take(STREAM_SIZE);
    let start = Instant::now();
    transporter.send_stream(&mut source)?;
    let confirmed = transporter.receive()?;
    if confirmed != STREAM_SIZE.to_be_bytes() {
        return Err("the stream arrived cut".into());
    }
    println!("         stream  {}", row(1, STREAM_SIZE, start.elapsed()));
    receiving.join().map_err(|_| "the receiver panicked")??;
    Ok(())
}

fn row(count: usize, size: u64, time: Duration) -> String {
    let (seconds, mib) = (time.as_secs_f64(), (count as u64 * size) as f64 / f64::from(1 << 20));
    let size = if size < 1 << 20 { format!("{} B", size) } else { format!("{} MiB", size >> 20) };
    let per_second = count as f64 / seconds;
    format!(
        "{count:>6} {size:>9} {:>6.1} ms {per_second:>9.0}/s {:>7.0} MiB/s",
        seconds * 1e3,
        mib / seconds
    )
}

fn echo(conn: &Conn) {
    if let Err(error) = io::copy(&mut { conn }, &mut { conn }) {
        eprintln!("echo: {error}");
    }
}

/// Writes and reads at the same time: a Conn is one stream for two threads.
fn exchange(conn: Conn, seed: u64) -> io::Result<()> {
    let sent = noise(seed, PER_CONN);
    let mut back = Vec::with_capacity(PER_CONN);
    let wrote = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&conn).write_all(&sent)?;
            conn.shutdown(Shutdown::Write)
        });
        (&conn).read_to_end(&mut back)?;
        writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
    });
    wrote?;
    if back == sent { Ok(()) } else { Err(io::Error::other("the echo differs")) }
}

/// A file whose connection ends in the middle goes on with the next.
fn interrupted(server: &Host, client: &Host) -> Result {
    let dir = Scratch::new()?;
    let (source, there) = (dir.0.join("source"), dir.0.join("there"));
    make_file(&source)?;
    fs::create_dir(&there)?;
    let listener = Listener::bind(server, "/interrupted/1.0.0")?;
    let receiving = thread::spawn(move || -> pointsub::Result<Report> {
        loop {
            let (conn, _peer) = listener.accept()?;
            match receive_into_dir(&mut MessageTransporter::new(conn), &there) {
                // The sender comes back.
                Err(e) if e.is_retryable() => {}
                outcome => return outcome,
            }
        }
    });
    let send = |handle: &TransferHandle| -> pointsub::Result<Report> {
        let conn = Conn::connect(client, &server.dial_addrs()[0], "/interrupted/1.0.0")?;
        SendOptions::new().handle(handle).send_file(&mut MessageTransporter::new(conn), &source)
    };
    let handle = TransferHandle::new();
    let first = thread::scope(|scope| {
        let sending = scope.spawn(|| send(&handle));
        while handle.progress().transferred < FILE_SIZE / 2 && !sending.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        client.disconnect(&server.peer_id());
        sending.join()
    });
    if first.map_err(|_| "the sender panicked")?.is_ok() {
        return Err("it was too fast to be interrupted".into());
    }
    let sent = send(&TransferHandle::new())?;
    let received = receiving.join().map_err(|_| "the receiver panicked")??;
    if sent.hash != received.hash || sent.moved == sent.bytes {
        return Err(format!("{} of {} bytes were sent again", sent.moved, sent.bytes).into());
    }
    let (moved, all) = (sent.moved >> 20, sent.bytes >> 20);
    println!("resume  {all} MiB, interrupted: {moved} MiB were left to send, BLAKE3 equal");
    Ok(())
}

/// A folder that is gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Scratch> {
        let dir = std::env::temp_dir().join(format!("pointsub-demo-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the file and says what it hashes to.
fn make_file(path: &Path) -> io::Result<Digest> {
    let mut file = BufWriter::new(File::create_new(path)?);
    let mut hash = Context::new(&SHA256);
    for block in 0..FILE_SIZE >> 20 {
        let bytes = noise(block, 1 << 20);
        hash.update(&bytes);
        file.write_all(&bytes)?;
    }
    file.flush()?;
    Ok(hash.finish())
}

fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Context::new(&SHA256);
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hash.finish()),
            n => hash.update(&buf[..n]),
        }
    }
}

/// Bytes that look random and are the same each time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
    bytes
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}
