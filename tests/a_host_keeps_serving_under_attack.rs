//! Whatever strangers and hostile peers do, an honest client is served, memory
//! stays bounded, and everything is back afterwards. The attackers are processes of
//! their own with wire code of their own.

mod attacker;
mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use attacker::{FIN, PHASES, RST, Raw, SYN, connect, header, line, opening, secure};
use common::{PROTOCOL, address, builder, child, echo, role, socket_address, within};
use pointsub::{Conn, Host, Keypair, Limit, Listener};

/// Its name, what it does to the victim, and the limit that stops it.
type Attack = (&'static str, fn(SocketAddr), Option<Limit>);

const ATTACKS: &[Attack] = &[
    ("1,000 silent sockets", silent_sockets, Some(Limit::Handshakes)),
    ("a byte a second at every phase", a_byte_a_second, None),
    ("10,000 handshakes broken off", broken_handshakes, None),
    ("100,000 streams opened", many_streams, Some(Limit::Negotiating)),
    ("200,000 rapid resets", rapid_resets, Some(Limit::Resets)),
    ("200,000 pings", |victim| flood(victim, &header(2, SYN, 0, 7)), Some(Limit::Pings)),
    ("200,000 empty frames", empty_frames, Some(Limit::EmptyFrames)),
    ("200,000 window updates", window_updates, Some(Limit::WindowUpdates)),
    ("200,000 window updates of zero", |v| on_a_stream(v, 1, 0), Some(Limit::EmptyFrames)),
    ("200,000 frames of unknown streams", unknown_streams, None),
];

#[test]
fn an_honest_client_is_served_under_every_attack() {
    if let Some((attack, victim)) = role() {
        let (_, attack, _) = ATTACKS.iter().find(|a| a.0 == attack).expect("a known attack");
        return attack(victim.parse().expect("an address"));
    }
    within(570, || {
        let server = builder().build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let serving = listener.try_clone().expect("clone");
        let threads = thread::spawn(move || serving.serve(64, |conn, _| drop(echo(conn))));
        // What is made once, this thread's bell among it, is there from here on.
        let client = Host::new().expect("a host");
        drop(Conn::connect(&client, address(&server), PROTOCOL).expect("connect"));
        drop(client);
        under("nothing", |_| thread::sleep(Duration::from_millis(200)), &server, None);
        for &(name, _, limit) in ATTACKS {
            let attack = |victim: SocketAddr| {
                let test = "an_honest_client_is_served_under_every_attack";
                let mut child = child(test, name, &victim.to_string()).spawn().expect("spawn");
                assert!(child.wait().expect("wait").success(), "{name}: the attacker failed");
            };
            under(name, attack, &server, limit);
        }
        listener.close();
        threads.join().expect("no panic").expect("served");
    });
}

/// Attacks while an honest client echoes, measures, and waits until all is back.
fn under(name: &str, attack: impl Fn(SocketAddr), server: &Host, limit: Option<Limit>) {
    let before = Usage::now();
    let rejected = limit.map(|limit| server.stats().rejections(limit));
    let (over, worst, echoes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let most = AtomicU64::new(0);
    let start = Instant::now();
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            let client = Host::new().expect("a host");
            let mut conn = Conn::connect(&client, address(server), PROTOCOL).expect("connect");
            let mut buf = [0; 64];
            while !over.load(SeqCst) {
                let begun = Instant::now();
                conn.write_all(&[7; 64]).and_then(|()| conn.read_exact(&mut buf)).expect("echo");
                worst.fetch_max(micros(begun.elapsed()), SeqCst);
                echoes.fetch_add(1, SeqCst);
                most.fetch_max(Usage::now().memory, SeqCst);
                thread::sleep(Duration::from_millis(10));
            }
        });
        attack(socket_address(server));
        let took = start.elapsed();
        // A newcomer is served too.
        let begun = Instant::now();
        let newcomer = Host::new().expect("a host");
        Conn::connect(&newcomer, address(server), PROTOCOL).expect("connect");
        worst.fetch_max(micros(begun.elapsed()), SeqCst);
        over.store(true, SeqCst);
        took
    });
    let grown = most.load(SeqCst).saturating_sub(before.memory) >> 10;
    let (worst, echoes) = (worst.load(SeqCst), echoes.load(SeqCst));
    let ended = Instant::now();
    let back = |now: &Usage| now.files <= before.files && now.threads <= before.threads;
    while !back(&Usage::now()) && ended.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(50));
    }
    let (after, back) = (Usage::now(), ended.elapsed());
    let turned_away =
        limit.map_or(0, |limit| server.stats().rejections(limit)) - rejected.unwrap_or_default();
    eprintln!(
        "{name}: {:.1} s, {echoes} echoes, worst gap {:.1} ms, memory +{grown} KiB, \
         processor {:.1} s, back after {:.1} s, turned away {turned_away}",
        took.as_secs_f64(),
        worst as f64 / 1e3,
        after.processor - before.processor,
        back.as_secs_f64(),
    );
    assert!(worst < 1_000_000, "{name}: an honest client waited {worst} µs");
    assert!(grown < 64 << 10, "{name}: memory grew by {grown} KiB");
    assert!(after.files <= before.files, "{name}: {before:?} before, {after:?} after");
    assert!(after.threads <= before.threads, "{name}: {before:?} before, {after:?} after");
    assert!(limit.is_none() || turned_away > 0, "{name}: {limit:?} was not reached");
}

fn silent_sockets(victim: SocketAddr) {
    let sockets: Vec<_> = (0..1000).map(|_| connect(victim).expect("connect")).collect();
    thread::sleep(Duration::from_secs(2));
    drop(sockets);
}

fn a_byte_a_second(victim: SocketAddr) {
    let key = Keypair::generate_ed25519();
    let noise_message = [&[0, 32], &[9; 32][..]].concat();
    let mut drips: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    for phase in PHASES {
        for _ in 0..20 {
            let socket = connect(victim).expect("connect");
            let noise = secure(&socket, &key, phase).expect("so far it keeps the rules");
            let rest = match noise {
                None if phase == PHASES[0] => line("/multistream/1.0.0"),
                None => noise_message.clone(),
                Some(_) => [&[0, 64], &[9; 64][..]].concat(),
            };
            drips.push((socket, rest));
        }
    }
    // Half a frame each on connections that are complete.
    let mut raws = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::dial(victim, &key).expect("dial");
        let sealed = raw.seal(&[header(0, SYN, 1, 1000).to_vec(), vec![0; 1000]].concat());
        drips.push((raw.socket.try_clone().expect("clone"), sealed));
        raws.push(raw);
    }
    for second in 0..5 {
        for (socket, rest) in &mut drips {
            // Most were closed by now.
            let _ = socket.write_all(&rest[second..=second]);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn broken_handshakes(victim: SocketAddr) {
    let key = Keypair::generate_ed25519();
    thread::scope(|scope| {
        for part in 0..4 {
            let key = &key;
            scope.spawn(move || {
                for n in 0..times(2500) {
                    let phase = PHASES[(n + part) % PHASES.len()];
                    // It may be turned away.
                    let _ = connect(victim).and_then(|socket| secure(&socket, key, phase));
                }
            });
        }
    });
}

/// Sends what `frames` makes, `count` times in all, on as many connections as that
/// takes.
fn keep_sending(victim: SocketAddr, count: usize, mut frames: impl FnMut(&mut Raw) -> Vec<u8>) {
    let mut sent = 0;
    while sent < count {
        let key = Keypair::generate_ed25519();
        let Ok(mut raw) = Raw::dial(victim, &key) else { continue };
        while sent < count {
            let batch: Vec<u8> = (0..500).flat_map(|_| frames(&mut raw)).collect();
            if raw.send(&batch).is_err() {
                break;
            }
            sent += 500;
        }
    }
}

fn many_streams(victim: SocketAddr) {
    keep_sending(victim, times(100_000), |raw| header(1, SYN, raw.id(), 0).to_vec());
}

fn rapid_resets(victim: SocketAddr) {
    keep_sending(victim, times(200_000), |raw| {
        let id = raw.id();
        let first = opening(PROTOCOL);
        let syn = header(0, SYN, id, u32::try_from(first.len()).expect("short"));
        [&syn, &first[..], &header(1, RST, id, 0)].concat()
    });
}

fn flood(victim: SocketAddr, frame: &[u8]) {
    keep_sending(victim, times(200_000), |_| frame.to_vec());
}

fn empty_frames(victim: SocketAddr) {
    on_a_stream(victim, 0, 0);
}

fn window_updates(victim: SocketAddr) {
    on_a_stream(victim, 1, 1);
}

/// Opens a stream of the served protocol and floods it.
fn on_a_stream(victim: SocketAddr, kind: u8, length: u32) {
    let mut opened = None;
    keep_sending(victim, times(200_000), |raw| {
        let mut frames = Vec::new();
        let id = raw.socket.local_addr().expect("an address");
        if opened != Some(id) {
            opened = Some(id);
            let first = opening(PROTOCOL);
            let stream = raw.id();
            frames.extend(header(0, SYN, stream, u32::try_from(first.len()).expect("short")));
            frames.extend(first);
        }
        frames.extend(header(kind, 0, 1, length));
        frames
    });
}

fn unknown_streams(victim: SocketAddr) {
    let mut id = 1;
    keep_sending(victim, times(200_000), |_| {
        id = ((id + 2) % 1_000_000) | 1;
        [&header(0, FIN, id, 1)[..], &[0]].concat()
    });
}

/// The whole number only where the attackers are not slowed down by the compiler.
fn times(n: usize) -> usize {
    if cfg!(debug_assertions) { n / 10 } else { n }
}

/// What this process uses.
#[derive(Debug)]
struct Usage {
    /// Bytes in memory.
    memory: u64,
    files: usize,
    threads: usize,
    /// Seconds.
    processor: f64,
}

impl Usage {
    fn now() -> Usage {
        let count = |dir| std::fs::read_dir(dir).expect("proc").count();
        let read = |file| std::fs::read_to_string(file).expect("proc");
        let pages = read("/proc/self/statm");
        let pages: u64 = pages.split(' ').nth(1).expect("resident").parse().expect("a number");
        let stat = read("/proc/self/stat");
        let behind = stat.rsplit(')').next().expect("the name's end");
        let ticks = |n| behind.split(' ').nth(n).expect("a field").parse::<f64>().expect("ticks");
        Usage {
            memory: pages * 4096,
            files: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            processor: (ticks(12) + ticks(13)) / 100.0,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
