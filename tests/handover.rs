//! Threads that share one connection hand its socket on to each other, a million
//! times: no byte is lost, none comes twice or in the wrong place, and nobody waits
//! longer than for its cause.
//!
//! `POINTSUB_HANDOVERS` says how many (default: a million waits), `POINTSUB_SEED`
//! repeats the choices of a run.

mod common;

use common::{Pair, address, within};
use pointsub::{Conn, Host, Listener};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_million_hand_overs_lose_no_byte_and_delay_nobody() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let target = number("POINTSUB_HANDOVERS").unwrap_or(1_000_000);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number("POINTSUB_SEED").unwrap_or(clock.unwrap().subsec_nanos().into());
    println!("{target} hand-overs: POINTSUB_SEED={seed}");
    within(120 + target / 5_000, || {
        let pair = Pair::plain();
        let servers = serve(&pair.server);
        let stress = Arc::new(Stress::new(pair.client.clone(), address(&pair.server), target));
        let start = Instant::now();
        stress.run(seed);
        let done = stress.done.load(SeqCst);
        println!("{done} waits in {:?}, the longest {:?}", start.elapsed(), stress.longest());
        assert!(done >= target);
        // The listeners end, and what their threads found shows.
        for (listener, thread) in servers {
            listener.close();
            thread.join().expect("a server's thread saw something wrong");
        }
    });
}

/// What a thread does until there were enough.
type Role = fn(&Stress, Dice);
/// What the other host does with a conn.
type Handler = fn(Conn);

/// What all threads share.
struct Stress {
    host: Host,
    address: String,
    target: u64,
    /// Waits that are over.
    done: AtomicU64,
    /// The longest that had a cause to end, in microseconds.
    longest: AtomicU64,
    /// The connection that all conns have to be on.
    connection: OnceLock<u64>,
}

impl Stress {
    fn new(host: Host, address: String, target: u64) -> Stress {
        let (done, longest, connection) = Default::default();
        Stress { host, address, target, done, longest, connection }
    }

    fn run(self: &Arc<Stress>, seed: u64) {
        let roles: [(Role, u64); 8] = [
            (Stress::ping, 3),
            (Stress::ping_in_a_hurry, 2),
            (Stress::ping_without_blocking, 1),
            (Stress::read_one_conn_from_three_threads, 1),
            (Stress::write_without_credit, 1),
            (Stress::wait_for_nothing, 1),
            (Stress::be_shut_down, 1),
            (Stress::panic_now_and_then, 1),
        ];
        // The first conn makes the connection.
        drop(self.connect(ECHO));
        let mut threads = Vec::new();
        for (role, count) in roles {
            for _ in 0..count {
                let (stress, dice) = (self.clone(), Dice(seed ^ (threads.len() as u64) << 32));
                threads.push(thread::spawn(move || role(&stress, dice)));
            }
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a thread saw a fault"));
    }

    fn connect(&self, protocol: &str) -> Conn {
        let conn = Conn::connect(&self.host, self.address.as_str(), protocol).expect("connect");
        let connection = conn.stats().connection;
        assert_eq!(*self.connection.get_or_init(|| connection), connection, "one for all");
        conn
    }

    fn goes_on(&self) -> bool {
        self.done.load(SeqCst) < self.target
    }

    /// A wait is over that had a cause to end since `start`.
    fn waited(&self, start: Instant) {
        let took = start.elapsed();
        assert!(took < BOUND, "a wait took {took:?}");
        self.longest.fetch_max(took.as_micros() as u64, SeqCst);
        self.done.fetch_add(1, SeqCst);
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(SeqCst))
    }
}

// What the threads do.

impl Stress {
    /// A question and its answer, again and again.
    fn ping(&self, mut dice: Dice) {
        let conn = self.connect(ECHO);
        let mut at = 0;
        while self.goes_on() {
            self.ask(&conn, &mut dice, &mut at, |e| panic!("the answer did not come: {e}"));
        }
    }

    /// The same with a patience that is over at any moment, and tried again.
    fn ping_in_a_hurry(&self, mut dice: Dice) {
        let conn = self.connect(ECHO);
        let mut at = 0;
        while self.goes_on() {
            let patience = Duration::from_micros(1 + dice.up_to(400));
            conn.set_read_timeout(Some(patience)).unwrap();
            self.ask(&conn, &mut dice, &mut at, |e| {
                assert!(matches!(e, ErrorKind::TimedOut | ErrorKind::WouldBlock), "{e}");
                self.done.fetch_add(1, SeqCst);
            });
        }
    }

    fn ping_without_blocking(&self, mut dice: Dice) {
        let conn = self.connect(ECHO);
        conn.set_nonblocking(true).unwrap();
        let mut at = 0;
        while self.goes_on() {
            self.ask(&conn, &mut dice, &mut at, |e| {
                assert_eq!(e, ErrorKind::WouldBlock);
                thread::yield_now();
            });
        }
    }

    /// Sends up to 300 bytes and reads them back; `again` judges a read's error.
    fn ask(&self, conn: &Conn, dice: &mut Dice, at: &mut u64, again: impl Fn(ErrorKind)) {
        let len = 1 + dice.up_to(300);
        if *at + len > LONGEST {
            *at = 0;
        }
        let question = pattern(*at, len);
        // Far less than the window is under way: a write waits for nothing but the socket.
        let mut rest = question;
        while !rest.is_empty() {
            match (&*conn).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) => again(e.kind()),
            }
        }
        let mut answer = vec![0; question.len()];
        let (mut filled, start) = (0, Instant::now());
        while filled < answer.len() {
            match (&*conn).read(&mut answer[filled..]) {
                Ok(0) => panic!("an end in the middle"),
                Ok(n) => filled += n,
                Err(e) => again(e.kind()),
            }
        }
        self.waited(start);
        assert_eq!(answer, question);
        *at += len;
    }

    /// Each of them gets pieces without a gap; together they are the stream.
    fn read_one_conn_from_three_threads(&self, mut dice: Dice) {
        while self.goes_on() {
            let conn = self.connect(SOURCE);
            let len = 8 * (2_000 + dice.up_to(60_000));
            (&conn).write_all(&len.to_le_bytes()).unwrap();
            let sizes = [0; 3].map(|_| 64 + dice.up_to(8_000) as usize);
            let pieces = thread::scope(|scope| {
                let conn = &conn;
                let readers = sizes.map(|size| scope.spawn(move || self.read_pieces(conn, size)));
                readers.map(|reader| reader.join().expect("a reader saw a fault"))
            });
            assert_tiles(pieces.concat(), len);
        }
    }

    fn read_pieces(&self, conn: &Conn, size: usize) -> Vec<Vec<u8>> {
        let (mut pieces, mut buf) = (Vec::new(), vec![0; size]);
        loop {
            let start = Instant::now();
            let n = (&*conn).read(&mut buf).expect("read");
            self.waited(start);
            if n == 0 {
                return pieces;
            }
            pieces.push(buf[..n].to_vec());
        }
    }

    /// The reader is slower, so that the writer waits for credit most of the time,
    /// and sometimes not for long enough.
    fn write_without_credit(&self, mut dice: Dice) {
        while self.goes_on() {
            let conn = self.connect(SINK);
            let len = dice.up_to(1 << 20);
            let bytes = pattern(0, len);
            let mut at = 0;
            while at < bytes.len() {
                let patience = Duration::from_micros(1 + dice.up_to(3_000));
                conn.set_write_timeout(dice.once_in(2).then_some(patience)).unwrap();
                let start = Instant::now();
                match (&conn).write(&bytes[at..]) {
                    Ok(n) => at += n,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}"),
                }
                self.waited(start);
            }
            conn.shutdown(Shutdown::Write).unwrap();
            let mut arrived = Vec::new();
            (&conn).read_to_end(&mut arrived).expect("the sink's answer");
            assert_eq!(arrived, len.to_le_bytes());
        }
    }

    /// A time that was asked for is neither cut short nor drawn out.
    fn wait_for_nothing(&self, mut dice: Dice) {
        let conn = self.connect(SILENCE);
        while self.goes_on() {
            let patience = Duration::from_micros(1 + dice.up_to(5_000));
            conn.set_read_timeout(Some(patience)).unwrap();
            let start = Instant::now();
            let kind = (&conn).read(&mut [0; 9]).expect_err("nothing was sent").kind();
            assert!(matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock), "{kind}");
            assert!(start.elapsed() >= patience, "too early by {:?}", patience - start.elapsed());
            self.waited(start + patience);
        }
    }

    /// Another thread's `shutdown` ends a read that would last for ever.
    fn be_shut_down(&self, mut dice: Dice) {
        while self.goes_on() {
            let conn = self.connect(SILENCE);
            let how = if dice.once_in(2) { Shutdown::Read } else { Shutdown::Both };
            let spins = dice.up_to(20_000);
            thread::scope(|scope| {
                let (ready, blocked) = mpsc::channel();
                let conn = &conn;
                let reader = scope.spawn(move || {
                    ready.send(()).unwrap();
                    (&*conn).read(&mut [0; 9])
                });
                blocked.recv().unwrap();
                // So that it meets the reader before, in and behind its sleep.
                (0..spins).for_each(|_| std::hint::spin_loop());
                let start = Instant::now();
                conn.shutdown(how).expect("shutdown");
                assert_eq!(reader.join().unwrap().expect("an end, not an error"), 0);
                self.waited(start);
            });
        }
    }

    /// Its destructors still use the conn, and nobody else notices.
    fn panic_now_and_then(&self, mut dice: Dice) {
        struct LastWords<'a>(&'a Conn);
        impl Drop for LastWords<'_> {
            fn drop(&mut self) {
                // More than the window, so that it waits for credit while it unwinds.
                self.0.write_all(pattern(0, WORDS)).expect("the last words");
                self.0.shutdown(Shutdown::Write).expect("shutdown");
                let mut arrived = Vec::new();
                self.0.read_to_end(&mut arrived).expect("the sink's answer");
                assert_eq!(arrived, WORDS.to_le_bytes());
            }
        }
        while self.goes_on() {
            let conn = self.connect(SINK);
            let rounds = dice.up_to(30);
            let start = Instant::now();
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _words = LastWords(&conn);
                for _ in 0..rounds {
                    conn.set_read_timeout(Some(Duration::from_micros(1 + dice.up_to(99)))).unwrap();
                    (&conn).read(&mut [0; 9]).expect_err("a sink says nothing before the end");
                    self.done.fetch_add(1, SeqCst);
                }
                conn.set_read_timeout(None).unwrap();
                // Without the hook, which would print it.
                resume_unwind(Box::new(Planned));
            }));
            assert!(unwound.expect_err("it panicked").is::<Planned>());
            self.waited(start);
        }
    }
}

struct Planned;

// What the other host does.

fn serve(host: &Host) -> Vec<(Listener, thread::JoinHandle<()>)> {
    let handlers: [(&str, Handler); 4] =
        [(ECHO, echo), (SOURCE, source), (SINK, sink), (SILENCE, silence)];
    let start = |(protocol, handler): (&str, Handler)| {
        let listener = Listener::bind(host, protocol).expect("bind");
        let accepting = listener.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let failed = AtomicBool::new(false);
            let handled = |conn, _| {
                let result = catch_unwind(AssertUnwindSafe(|| handler(conn)));
                failed.fetch_or(result.is_err(), SeqCst);
            };
            accepting.serve(64, handled).expect("serve");
            assert!(!failed.into_inner(), "{} failed", accepting.protocol());
        });
        (listener, thread)
    };
    handlers.into_iter().map(start).collect()
}

fn echo(conn: Conn) {
    std::io::copy(&mut &conn, &mut &conn).expect("echo");
}

/// Sends as much as it is told to, in writes of any size.
fn source(conn: Conn) {
    let mut len = [0; 8];
    (&conn).read_exact(&mut len).expect("a length");
    let (len, mut at) = (u64::from_le_bytes(len), 0);
    let mut dice = Dice(len);
    while at < len {
        let most = if dice.once_in(8) { 100_000 } else { 900 };
        let n = (1 + dice.up_to(most)).min(len - at);
        (&conn).write_all(pattern(at, n)).expect("write");
        at += n;
    }
}

/// Reads to the end, slowly, and says how much it was.
fn sink(conn: Conn) {
    let (mut at, mut buf) = (0, vec![0; 1_500]);
    let mut dice = Dice(7);
    loop {
        let size = 1 + dice.up_to(buf.len() as u64 - 1) as usize;
        let n = (&conn).read(&mut buf[..size]).expect("read");
        if n == 0 {
            break;
        }
        assert_eq!(&buf[..n], pattern(at, n as u64), "at {at}");
        at += n as u64;
    }
    (&conn).write_all(&at.to_le_bytes()).expect("write");
}

/// Says nothing until the other end is gone.
fn silence(conn: Conn) {
    assert_eq!((&conn).read(&mut [0; 9]).expect("an end"), 0);
}

// Bytes that show where they belong.

/// The bytes from `at` on of a stream of eight-byte numbers that count up: the first
/// byte of each has its high bit set, the others have not.
fn pattern(at: u64, len: u64) -> &'static [u8] {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let number = |n: u64| {
            let sevens: [u8; 8] = std::array::from_fn(|k| (n >> (7 * k)) as u8 & 0x7f);
            [[sevens[0] | 0x80].as_slice(), &sevens[1..]].concat()
        };
        (0..LONGEST / 8).flat_map(number).collect()
    });
    &ALL[at as usize..][..len as usize]
}

/// Where a piece belongs, if it is long enough to show it.
fn position(piece: &[u8]) -> Option<u64> {
    let start = piece.iter().position(|b| b & 0x80 != 0)?;
    let number = piece.get(start..start + 8)?;
    let number = number.iter().rev().fold(0, |sum, b| sum << 7 | u64::from(b & 0x7f));
    Some((number * 8).checked_sub(start as u64).expect("a piece begins in the stream"))
}

/// The pieces are the whole stream of `len` bytes, each without a gap inside.
fn assert_tiles(pieces: Vec<Vec<u8>>, len: u64) {
    let total: usize = pieces.iter().map(Vec::len).sum();
    assert_eq!(total as u64, len, "bytes that three readers got");
    let mut placed: Vec<_> = pieces.iter().filter_map(|p| Some((position(p)?, p))).collect();
    placed.sort();
    let mut next = 0;
    for (at, piece) in placed {
        assert!(at >= next, "what is at {at} came twice");
        assert!(piece == pattern(at, piece.len() as u64), "a gap in the piece at {at}");
        next = at + piece.len() as u64;
    }
    assert!(next <= len);
}

/// Splitmix: the choices of one thread.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % (most + 1)
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.up_to(n - 1) == 0
    }
}

/// No stream is longer, or it begins again.
const LONGEST: u64 = 2 << 20;

const ECHO: &str = "/echo/1.0.0";
const SOURCE: &str = "/source/1.0.0";
const SINK: &str = "/sink/1.0.0";
const SILENCE: &str = "/silence/1.0.0";

/// More than a window.
const WORDS: u64 = 300_000;

/// No wait with a cause to end takes longer, also on a machine that is busy.
const BOUND: Duration = Duration::from_secs(10);
