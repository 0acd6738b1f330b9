//! A host that is out of memory takes back what it holds for peers that leave it where it
//! is, in whatever way they do, and those who move go on.

mod attacker;
mod common;

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use attacker::resume::{Hello, Hostile};
use attacker::{ACK, RST, Raw, SYN, header, opening};
use common::{PROTOCOL, address, builder, code, dialling, echo, eventually, levels};
use common::{socket_address, within};
use pointsub::{Conn, ErrorCode, Host, Keypair, Listener, Pressure};

const BUDGET: usize = 8 << 20;
const ECHO: &str = "/echo/1.0.0";
const MIB: usize = 1 << 20;
/// Of a window that begins with 256 KiB.
const GROWN: u32 = (16 << 20) - (256 << 10);
/// So soon an emergency is over, on a slow machine too.
const SOON: u64 = 30;

/// A host with little memory that writes to whoever comes, and one that it echoes to.
struct Victim {
    host: Host,
    ended: mpsc::Receiver<std::io::Error>,
    client: Host,
    honest: Conn,
    listeners: [Listener; 2],
    threads: Vec<thread::JoinHandle<()>>,
}

impl Victim {
    fn new() -> Victim {
        let host = builder().memory(BUDGET).max_waiting(1000).max_waiting_per_peer(1000);
        let host = host.linger(Duration::from_millis(100)).build().expect("a host");
        let bind = |protocol| Listener::bind(&host, protocol).expect("bind");
        let listeners = [bind(PROTOCOL), bind(ECHO)];
        let (ends, ended) = mpsc::channel();
        let [writes, echoes] = [0, 1].map(|at: usize| listeners[at].try_clone().expect("clone"));
        let serve = |conn: Conn, ends: &mpsc::Sender<_>| {
            let end = loop {
                if let Err(e) = (&conn).write_all(&[7; 64 << 10]) {
                    break e;
                }
            };
            let _ = ends.send(end);
        };
        let threads = vec![
            thread::spawn(move || {
                writes.serve(200, |conn, _| serve(conn, &ends)).expect("served");
            }),
            thread::spawn(move || echoes.serve(10, |conn, _| drop(echo(conn))).expect("served")),
        ];
        let client = dialling();
        let honest = Conn::connect(&client, address(&host), ECHO).expect("connect");
        Victim { host, ended, client, honest, listeners, threads }
    }

    #[track_caller]
    fn assert_echoes(&self) {
        self.honest.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        (&self.honest).write_all(b"still there").expect("write");
        (&self.honest).read_exact(&mut [0; 11]).expect("read");
    }

    fn pressure(&self) -> Pressure {
        self.host.stats().pressure
    }

    /// Waits for the end of an emergency, during which it echoes.
    #[track_caller]
    fn await_relief(&self) {
        let start = Instant::now();
        while self.pressure() == Pressure::Emergency {
            assert!(start.elapsed() < Duration::from_secs(SOON), "{:?}", self.host.stats());
            self.assert_echoes();
            thread::sleep(Duration::from_millis(50));
        }
        eprintln!("relief after {:?}", start.elapsed());
    }

    fn end(self) {
        self.assert_echoes();
        drop(self.client);
        self.listeners.iter().for_each(Listener::close);
        self.host.shutdown();
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

/// A peer that has begun something, and goes on just so that it is not silent.
struct Staller {
    raw: Raw,
    /// What it says next.
    next: Box<Next>,
}

type Next = dyn FnMut(&mut Raw) -> std::io::Result<()> + Send;

/// The first frame of a stream.
fn opened(protocol: &str) -> Vec<u8> {
    let first = opening(protocol);
    let length = u32::try_from(first.len()).expect("short");
    [&header(0, SYN, 1, length)[..], &first].concat()
}

/// As many of them come as it takes, and stay.
fn stall(victim: &Victim, begin: impl Fn(Raw) -> std::io::Result<Staller>) {
    let mut stallers = Vec::new();
    let start = Instant::now();
    while victim.pressure() < Pressure::Emergency {
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", victim.host.stats());
        let key = Keypair::generate_ed25519();
        stallers.extend(Raw::quiet(socket_address(&victim.host), &key).and_then(&begin));
    }
    let (over, peers) = (AtomicBool::new(false), stallers.len());
    let before = victim.host.stats().connections;
    thread::scope(|scope| {
        let ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(SeqCst) {
                stallers.retain_mut(|staller| (staller.next)(&mut staller.raw).is_ok());
                thread::sleep(Duration::from_millis(300));
            }
        });
        victim.await_relief();
        let ended = before.saturating_sub(victim.host.stats().connections);
        eprintln!("{ended} of {peers} have ended");
        assert!(ended > 0 && ended < peers / 2, "{ended} of {peers} have ended");
        drop(ends);
    });
}

#[test]
fn output_that_no_peer_takes_is_given_back() {
    within(100, || {
        let victim = Victim::new();
        stall(&victim, |mut raw| {
            raw.send(&[&opened(PROTOCOL)[..], &header(1, 0, 1, GROWN)].concat())?;
            // Before the next one comes the socket is full.
            thread::sleep(Duration::from_millis(50));
            Ok(Staller { raw, next: Box::new(|raw| raw.send(&header(2, ACK, 0, 7))) })
        });
        let error = victim.ended.recv_timeout(Duration::from_secs(10)).expect("one has ended");
        assert_eq!(code(&error), ErrorCode::OutOfMemory, "{error}");
        victim.end();
    });
}

#[test]
fn frames_that_no_peer_finishes_are_given_back() {
    within(100, || {
        let victim = Victim::new();
        stall(&victim, |mut raw| {
            // Who has a stream is not closed for having none.
            raw.send(&opened(ECHO))?;
            let mut sealed = raw.seal(&[&header(0, 0, 1, 65_000)[..], &[7; 65_000]].concat());
            let mut rest = sealed.split_off(60_000).into_iter();
            (&raw.socket).write_all(&sealed)?;
            let next = move |raw: &mut Raw| {
                (&raw.socket).write_all(&[rest.next().expect("more than it takes")])
            };
            Ok(Staller { raw, next: Box::new(next) })
        });
        victim.end();
    });
}

/// Dropped, it is over, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A peer with many sessions that takes all, and confirms some now and then.
struct Confirming {
    hostile: Hostile,
    /// Of each stream: what has come, what was confirmed.
    sessions: Vec<(u32, u64, u64)>,
    /// How many of them the victim has ended, or all at once.
    ended: usize,
    /// How much more it confirms each time, and when next.
    step: u64,
    every: Duration,
    next: Instant,
}

impl Confirming {
    fn new(victim: &Victim, sessions: u8, step: u64, every: Duration) -> Confirming {
        let key = Keypair::generate_ed25519();
        let mut hostile = Hostile::dial(socket_address(&victim.host), &key).expect("dial");
        let open = |n: u8| {
            let stream = hostile.hello(&Hello::opening([n; 16], PROTOCOL)).expect("hello");
            hostile.send(&header(1, 0, stream, GROWN)).expect("send");
            (stream, 0, 0)
        };
        let sessions = (0..sessions).map(open).collect();
        Confirming { hostile, sessions, ended: 0, step, every, next: Instant::now() }
    }

    /// Goes on until `over`, or until the victim has had enough of it.
    fn go_on(&mut self, over: &AtomicBool) {
        while !over.load(SeqCst) && self.go_one_on().is_ok() {}
        self.ended += usize::from(!over.load(SeqCst));
    }

    fn go_one_on(&mut self) -> std::io::Result<()> {
        let wait = |socket: &std::net::TcpStream, millis| {
            socket.set_read_timeout(Some(Duration::from_millis(millis)))
        };
        wait(&self.hostile.socket, 20)?;
        if self.hostile.socket.peek(&mut [0]).is_ok() {
            wait(&self.hostile.socket, 20_000)?;
            let frame = self.hostile.frame()?;
            self.ended += usize::from(frame.flags & RST != 0);
            let session = self.sessions.iter_mut().find(|(id, ..)| *id == frame.stream);
            if let Some((_, came, _)) = session.filter(|_| frame.kind == 0) {
                *came += frame.body.len() as u64;
            }
        }
        if Instant::now() >= self.next {
            self.next += self.every;
            for (stream, came, confirmed) in &mut self.sessions {
                *confirmed = (*confirmed + self.step).min(came.saturating_sub(200));
                let low = u32::try_from(*confirmed).expect("little");
                self.hostile.received(*stream, low)?;
            }
        }
        Ok(())
    }
}

#[test]
fn what_is_confirmed_byte_by_byte_stays_within_the_budget_and_is_given_back() {
    within(100, || {
        let victim = Victim::new();
        let events = victim.host.subscribe();
        let mut peer = Confirming::new(&victim, 64, 1, Duration::from_secs(1));
        let over = AtomicBool::new(false);
        let mut most = 0;
        thread::scope(|scope| {
            let ends = Ends(&over);
            scope.spawn(|| peer.go_on(&over));
            let mut seen = Vec::new();
            eventually("an emergency that ends", 60, || {
                victim.assert_echoes();
                seen.extend(levels(&events));
                let stats = victim.host.stats();
                most = most.max(stats.memory);
                seen.contains(&Pressure::Emergency) && stats.pressure < Pressure::Emergency
            });
            // And goes on so: those that are left fill it up again.
            for _ in 0..80 {
                victim.assert_echoes();
                most = most.max(victim.host.stats().memory);
                thread::sleep(Duration::from_millis(100));
            }
            drop(ends);
        });
        eprintln!("{most} bytes at most");
        // What all have, and beyond it 64 KiB and a write of each.
        assert!(most < (BUDGET + 64 * (128 << 10)) as u64, "{most} bytes");
        let error = victim.ended.recv_timeout(Duration::from_secs(10)).expect("one has ended");
        assert_eq!(code(&error), ErrorCode::OutOfMemory, "{error}");
        victim.end();
    });
}

/// It takes its time for what it has, and is no offender.
#[test]
fn a_peer_that_confirms_slowly_lives_through_an_emergency() {
    within(100, || {
        let victim = Victim::new();
        let mut slow = Confirming::new(&victim, 1, 40_000, Duration::from_millis(250));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let ends = Ends(&over);
            let slow = scope.spawn(|| {
                slow.go_on(&over);
                (slow.ended, slow.sessions[0].2)
            });
            // Before the others come it has its part.
            eventually("its part", 20, || victim.host.stats().memory > 900_000);
            let mut others = Confirming::new(&victim, 40, 1, Duration::from_secs(1));
            let over = &over;
            scope.spawn(move || others.go_on(over));
            eventually("an emergency", 30, || victim.pressure() == Pressure::Emergency);
            victim.await_relief();
            let ended = victim.ended.recv_timeout(Duration::from_secs(10)).expect("some");
            assert_eq!(code(&ended), ErrorCode::OutOfMemory, "{ended}");
            thread::sleep(Duration::from_secs(2));
            drop(ends);
            let (ended, confirmed) = slow.join().expect("no panic");
            assert_eq!(ended, 0, "the slow one is gone, with {confirmed} bytes");
            assert!(confirmed > 500_000, "{confirmed} bytes of the slow one");
        });
        victim.end();
    });
}

/// Sessions whose bytes came on a connection before the present one.
#[test]
fn what_is_left_of_earlier_connections_is_given_back() {
    const EACH: usize = 250_000;
    within(100, || {
        let host = builder().memory(BUDGET).max_waiting(1000).max_waiting_per_peer(1000);
        let host = host.linger(Duration::from_millis(100)).build().expect("a host");
        let (listener, events) = (Listener::bind(&host, PROTOCOL).expect("bind"), host.subscribe());
        let dial = |key: &Keypair| Hostile::dial(socket_address(&host), key).expect("dial");
        let (mut conns, mut carriers) = (Vec::new(), Vec::new());
        let mut fill = |goes_on: bool| {
            let key = Keypair::generate_ed25519();
            let mut carrier = dial(&key);
            let hello = Hello::opening([7; 16], PROTOCOL);
            let stream = carrier.hello(&hello).expect("hello");
            carrier.fate(stream).welcome();
            for piece in vec![7; EACH].chunks(50_000) {
                carrier.data(stream, 0, piece).expect("data");
            }
            let (conn, _) = listener.accept().expect("accept");
            eventually("its bytes", 20, || conn.stats().unread == EACH);
            if goes_on {
                // As if it had lost its connection, which is fenced.
                carrier = dial(&key);
                let stream = carrier.hello(&hello.again(2, 0)).expect("hello");
                carrier.fate(stream).welcome();
            }
            conns.push(conn);
            carriers.push(carrier);
        };
        // Up to where one more is too much.
        while host.stats().memory + ((EACH + MIB / 4) as u64) < BUDGET as u64 / 100 * 95 {
            fill(true);
        }
        assert!(host.stats().pressure < Pressure::Emergency);
        let held = host.stats().memory;
        while !levels(&events).contains(&Pressure::Emergency) {
            fill(false);
        }
        eventually("relief", SOON, || host.stats().pressure < Pressure::Emergency);
        let ended = |conn: &&Conn| conn.take_error().expect("a look").is_some();
        let mut conn = conns.iter().filter(|conn| conn.stats().resumes > 0).find(ended);
        let conn = conn.as_mut().expect("one has ended of those that have something left");
        let error = conn.read(&mut [0]).expect_err("an end");
        assert_eq!(code(&error), ErrorCode::OutOfMemory, "{error}");
        let (ended, all) = (conns.iter().filter(ended).count(), conns.len());
        eprintln!("of {all} with {held} bytes {ended} have ended: {error}");
        assert!(ended < all / 2, "{ended} of {all} have ended");
    });
}
