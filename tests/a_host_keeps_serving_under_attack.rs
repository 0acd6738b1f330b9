//! Whatever strangers and hostile peers do, an honest client is served, memory
//! stays bounded, and everything is back afterwards. The victim is a process of its
//! own, and so are the attackers, which have wire code of their own.

mod attacker;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use attacker::resume::{Fate, Hello, Hostile};
use attacker::{ACK, FIN, PHASES, RST, Raw, SYN, connect, header, line, opening, secure};
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
    ("200,000 pings", |victim| flood(victim, &header(2, SYN, 0, 7)), Some(Limit::PingsWaiting)),
    ("200,000 empty frames", empty_frames, Some(Limit::EmptyFrames)),
    ("200,000 window updates", window_updates, Some(Limit::WindowUpdates)),
    ("200,000 window updates of zero", |v| on_a_stream(v, 1, 0), Some(Limit::EmptyFrames)),
    ("200,000 pongs", |victim| flood(victim, &header(2, ACK, 0, 7)), Some(Limit::EmptyFrames)),
    ("200,000 goodbyes", |victim| flood(victim, &header(3, 0, 0, 1)), Some(Limit::EmptyFrames)),
    ("200,000 receipts", receipts, Some(Limit::EmptyFrames)),
    ("200,000 frames of unknown streams", unknown_streams, None),
    ("200,000 questions whose answers nobody reads", unread_answers, None),
    ("1,000 windows filled that nobody reads", full_windows, Some(Limit::AcceptQueuePerPeer)),
];

const TEST: &str = "an_honest_client_is_served_under_every_attack";
const VICTIM: &str = "the victim";
/// Conns of this protocol are accepted only when the victim is asked something: until
/// then they hold what has come, like those of a TCP listener.
const UNREAD: &str = "/unread/1.0.0";

#[test]
fn an_honest_client_is_served_under_every_attack() {
    match role() {
        Some((role, _)) if role == VICTIM => return serve(),
        Some((attack, victim)) => {
            let (_, attack, _) = ATTACKS.iter().find(|a| a.0 == attack).expect("a known attack");
            return attack(victim.parse().expect("an address"));
        }
        None => {}
    }
    within(570, || {
        let mut victim = Victim::start();
        // What is made once is there from here on.
        drop(Conn::connect(&Host::new().expect("a host"), &*victim.address, PROTOCOL));
        under("nothing", |_| thread::sleep(LEAST), &mut victim, None);
        for &(name, _, limit) in ATTACKS {
            let attack = |victim: SocketAddr| {
                let mut child = child(TEST, name, &victim.to_string()).spawn().expect("spawn");
                assert!(child.wait().expect("wait").success(), "{name}: the attacker failed");
            };
            under(name, attack, &mut victim, limit);
        }
        victim.end();
    });
}

/// The victim's process, and how to ask it.
struct Victim {
    process: Child,
    says: BufReader<ChildStdout>,
    socket: SocketAddr,
    address: String,
}

impl Victim {
    fn start() -> Victim {
        let mut process =
            child(TEST, VICTIM, "").stdout(Stdio::piped()).spawn().expect("a process");
        let mut says = BufReader::new(process.stdout.take().expect("piped"));
        let places = line_with("it is at ", &mut says);
        let (socket, address) = places.split_once(' ').expect("two addresses");
        let (socket, address) = (socket.parse().expect("an address"), address.to_owned());
        Victim { process, says, socket, address }
    }

    /// How many it has turned away because of this limit.
    fn rejections(&mut self, limit: Limit) -> u64 {
        self.process.stdin.as_mut().expect("piped").write_all(b"\n").expect("asked");
        let all = line_with("turned away: ", &mut self.says);
        let at = Limit::ALL.iter().position(|other| *other == limit).expect("one of all");
        all.split(' ').nth(at).expect("one for each").parse().expect("a number")
    }

    /// It was sound until the end.
    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("wait").success(), "the victim failed");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A test that fails leaves nobody behind. It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rest of the first line with `text` in it.
fn line_with(text: &str, from: &mut impl BufRead) -> String {
    let mut lines = BufRead::lines(from).map(|line| line.expect("a line"));
    lines.find_map(|line| line.split_once(text).map(|(_, rest)| rest.to_owned())).expect("a line")
}

/// The victim: says where it is, what it has turned away whenever it is asked for it,
/// and ends when nobody is there to ask.
fn serve() {
    let report = std::panic::take_hook();
    // On whatever thread: nothing that a peer says is a reason to panic.
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let host = builder().build().expect("a host");
    let listener = Listener::bind(&host, PROTOCOL).expect("bind");
    let unread = Listener::bind(&host, UNREAD).expect("bind");
    unread.set_nonblocking(true).expect("set");
    let serving = listener.try_clone().expect("clone");
    let threads = thread::spawn(move || serving.serve(64, |conn, _| drop(echo(conn))));
    println!("it is at {} {}", socket_address(&host), address(&host));
    for _ in std::io::stdin().lines() {
        while unread.accept().is_ok() {}
        let stats = host.stats();
        let all: Vec<_> = Limit::ALL.iter().map(|l| stats.rejections(*l).to_string()).collect();
        println!("turned away: {}", all.join(" "));
    }
    listener.close();
    threads.join().expect("no panic").expect("served");
}

/// Attacks while an honest client echoes, measures, and waits until all is back.
fn under(name: &str, attack: impl Fn(SocketAddr), victim: &mut Victim, limit: Option<Limit>) {
    let process = victim.process.id();
    let before = Usage::of(process);
    let rejected = limit.map(|limit| victim.rejections(limit));
    let (over, worst, echoes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let most = AtomicU64::new(0);
    let start = Instant::now();
    let address = victim.address.as_str();
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            let client = Host::new().expect("a host");
            let mut conn = Conn::connect(&client, address, PROTOCOL).expect("connect");
            let mut buf = [0; 64];
            while !over.load(SeqCst) {
                let begun = Instant::now();
                conn.write_all(&[7; 64]).and_then(|()| conn.read_exact(&mut buf)).expect("echo");
                worst.fetch_max(micros(begun.elapsed()), SeqCst);
                echoes.fetch_add(1, SeqCst);
                most.fetch_max(Usage::of(process).memory, SeqCst);
                thread::sleep(Duration::from_millis(10));
            }
        });
        attack(victim.socket);
        let took = start.elapsed();
        // A newcomer is served too.
        let begun = Instant::now();
        let newcomer = Host::new().expect("a host");
        Conn::connect(&newcomer, address, PROTOCOL).expect("connect");
        worst.fetch_max(micros(begun.elapsed()), SeqCst);
        over.store(true, SeqCst);
        took
    });
    let grown = most.load(SeqCst).saturating_sub(before.memory) >> 10;
    let (worst, echoes) = (worst.load(SeqCst), echoes.load(SeqCst));
    let turned_away =
        limit.map_or(0, |limit| victim.rejections(limit)) - rejected.unwrap_or_default();
    let ended = Instant::now();
    let back = |now: &Usage| now.files <= before.files && now.threads <= before.threads;
    // Of one processor, over the last moment.
    let mut load = f64::INFINITY;
    let mut after = Usage::of(process);
    while !(back(&after) && load < IDLE) && ended.elapsed() < Duration::from_secs(60) {
        let (then, since) = (after.processor, Instant::now());
        thread::sleep(Duration::from_millis(300));
        after = Usage::of(process);
        load = (after.processor - then) / since.elapsed().as_secs_f64();
    }
    let back = ended.elapsed();
    eprintln!(
        "{name}: {:.1} s, {echoes} echoes, worst gap {:.1} ms, memory +{grown} KiB, \
         processor {:.1} s, back after {:.1} s at {:.0} % of one, turned away {turned_away}",
        took.as_secs_f64(),
        worst as f64 / 1e3,
        after.processor - before.processor,
        back.as_secs_f64(),
        load * 100.0,
    );
    assert!(worst < 1_000_000, "{name}: an honest client waited {worst} µs");
    assert!(grown < 64 << 10, "{name}: memory grew by {grown} KiB");
    assert!(after.files <= before.files, "{name}: {before:?} before, {after:?} after");
    assert!(after.threads <= before.threads, "{name}: {before:?} before, {after:?} after");
    assert!(load < IDLE, "{name}: {load:.2} of a processor is in use a minute later");
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
            let noise = secure(&socket, &key, &[], phase).expect("so far it keeps the rules");
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
                let pace = Pace::of(2500);
                for n in (0..).take_while(|n| pace.goes_on(*n)) {
                    let phase = PHASES[(n + part) % PHASES.len()];
                    // It may be turned away.
                    let _ = connect(victim).and_then(|socket| secure(&socket, key, &[], phase));
                }
            });
        }
    });
}

/// Sends what `frames` makes, `count` times in all and for a while at least, on as many
/// connections of as many peers as that takes.
fn keep_sending(victim: SocketAddr, count: usize, mut frames: impl FnMut(&mut Raw) -> Vec<u8>) {
    let (pace, mut sent) = (Pace::of(count), 0);
    while pace.goes_on(sent) {
        let key = Keypair::generate_ed25519();
        let Ok(mut raw) = Raw::dial(victim, &key) else { continue };
        while pace.goes_on(sent) {
            let batch: Vec<u8> = (0..500).flat_map(|_| frames(&mut raw)).collect();
            if raw.send(&batch).is_err() {
                break;
            }
            sent += 500;
        }
    }
}

fn many_streams(victim: SocketAddr) {
    keep_sending(victim, 100_000, |raw| header(1, SYN, raw.id(), 0).to_vec());
}

fn rapid_resets(victim: SocketAddr) {
    keep_sending(victim, 200_000, |raw| {
        let id = raw.id();
        let first = opening(PROTOCOL);
        let syn = header(0, SYN, id, u32::try_from(first.len()).expect("short"));
        [&syn, &first[..], &header(1, RST, id, 0)].concat()
    });
}

fn flood(victim: SocketAddr, frame: &[u8]) {
    keep_sending(victim, 200_000, |_| frame.to_vec());
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
    keep_sending(victim, 200_000, |raw| {
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

/// What has come of a session, over and over.
fn receipts(victim: SocketAddr) {
    let (pace, mut sent) = (Pace::of(200_000), 0);
    while pace.goes_on(sent) {
        let key = Keypair::generate_ed25519();
        let Ok(mut hostile) = Hostile::dial(victim, &key) else { continue };
        // It is not to be waited for once its connection has ended.
        let hello = Hello { timeout_ms: 1, ..Hello::opening([7; 16], PROTOCOL) };
        let Ok(stream) = hostile.hello(&hello) else { continue };
        if !matches!(hostile.fate(stream), Fate::Answered(answer) if answer.gone == 0) {
            continue;
        }
        let batch = header(0x50, 0, stream, 0).repeat(500);
        while pace.goes_on(sent) && hostile.send(&batch).is_ok() {
            sent += 500;
        }
    }
}

fn unknown_streams(victim: SocketAddr) {
    let mut id = 1;
    keep_sending(victim, 200_000, |_| {
        id = ((id + 2) % 1_000_000) | 1;
        [&header(0, FIN, id, 1)[..], &[0]].concat()
    });
}

/// Identify and ping, on streams as many as there may be, and nothing is ever read.
fn unread_answers(victim: SocketAddr) {
    let (pace, mut sent) = (Pace::of(200_000), 0);
    while pace.goes_on(sent) {
        let key = Keypair::generate_ed25519();
        let Ok(mut raw) = Raw::quiet(victim, &key) else { continue };
        raw.socket.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        loop {
            let mut batch = Vec::new();
            for _ in 0..30 {
                let (id, first) = (raw.id(), opening("/ipfs/id/1.0.0"));
                batch.extend(header(0, SYN, id, u32::try_from(first.len()).expect("short")));
                batch.extend(first);
                batch.extend(header(2, SYN, 0, id));
            }
            sent += 60;
            if raw.send(&batch).is_err() || !pace.goes_on(sent) {
                break;
            }
        }
    }
}

/// As many connections as one peer may have, and on each as many streams as may wait,
/// with all that their windows allow.
fn full_windows(victim: SocketAddr) {
    let key = Keypair::generate_ed25519();
    let first = opening(UNREAD);
    let rest = vec![7; (256 << 10) - first.len()];
    // Without optimisation it takes minutes to seal all of that.
    let connections = if cfg!(debug_assertions) { 2 } else { 8 };
    let raws: Vec<_> = (0..connections)
        .map(|_| {
            let mut raw = Raw::dial(victim, &key).expect("dial");
            for _ in 0..128 {
                let id = raw.id();
                let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short");
                let mut frames = [&header(0, SYN, id, length(&first)), &first[..]].concat();
                for piece in rest.chunks(60_000) {
                    frames.extend(header(0, 0, id, length(piece)));
                    frames.extend(piece);
                }
                raw.send(&frames).expect("so far it keeps the rules");
            }
            raw
        })
        .collect();
    thread::sleep(LEAST);
    drop(raws);
}

/// How long an attack goes on.
struct Pace {
    start: Instant,
    times: usize,
}

impl Pace {
    /// The whole number only where the attackers are not slowed down by the compiler.
    fn of(times: usize) -> Pace {
        let times = if cfg!(debug_assertions) { times / 10 } else { times };
        Pace { start: Instant::now(), times }
    }

    fn goes_on(&self, done: usize) -> bool {
        done < self.times || self.start.elapsed() < LEAST
    }
}

/// So long at least, so that the honest client lives through it and not between.
const LEAST: Duration = Duration::from_secs(3);

/// Of one processor: what a host uses that has nothing to do.
const IDLE: f64 = 0.05;

/// What a process uses.
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
    fn of(process: u32) -> Usage {
        let path = |file| format!("/proc/{process}/{file}");
        let count = |dir| std::fs::read_dir(path(dir)).expect("proc").count();
        let read = |file| std::fs::read_to_string(path(file)).expect("proc");
        let pages = read("statm");
        let pages: u64 = pages.split(' ').nth(1).expect("resident").parse().expect("a number");
        let stat = read("stat");
        let behind = stat.rsplit(')').next().expect("the name's end");
        let ticks = |n| behind.split(' ').nth(n).expect("a field").parse::<f64>().expect("ticks");
        Usage {
            memory: pages * 4096,
            files: count("fd"),
            threads: count("task"),
            processor: (ticks(12) + ticks(13)) / 100.0,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
