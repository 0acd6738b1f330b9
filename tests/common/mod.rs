//! What the tests share: hosts, a time limit, bytes, a wire that can be cut,
//! and running a test again as a process of its own.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod programs;
mod proxy;
pub(crate) mod traffic;

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use proxy::{Cut, Cutting, Proxy, Ways};
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use traffic::{Wired, eventually, exchange};

use pointsub::{Conn, Error, ErrorCode, Event, Events, Host, HostBuilder, Listener};
use pointsub::{Multiaddr, Pressure};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs `test`. If it is still running after `seconds`, the process ends with a
/// message: a thread that blocks cannot be stopped from outside.
///
/// With `POINTSUB_LOG` in the environment the library's log goes to standard error.
pub(crate) fn within<T>(seconds: u64, test: impl FnOnce() -> T) -> T {
    if std::env::var("POINTSUB_LOG").is_ok() && log::set_logger(&ToStderr).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, running) = mpsc::channel::<()>();
    thread::spawn(move || {
        if running.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name}: not done after {seconds} s, giving up");
            process::abort();
        }
    });
    let result = test();
    drop(done);
    result
}

struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let thread = thread::current();
        let name = thread.name().unwrap_or("-");
        let (second, millis) = (now.as_secs() % 1_000, now.subsec_millis());
        eprintln!("{second}.{millis:03} {name}: {}", record.args());
    }

    fn flush(&self) {}
}

/// Two hosts and a listener of one of them, which the other knows how to dial.
pub(crate) struct Pair {
    pub(crate) server: Host,
    pub(crate) client: Host,
    pub(crate) listener: Listener,
}

impl Pair {
    pub(crate) fn new() -> Pair {
        Pair::of(listening(), dialling())
    }

    /// Two hosts whose conns are plain: they end with their connection.
    pub(crate) fn plain() -> Pair {
        let listening = builder().resumable(false).build().expect("a host");
        let dialling = Host::builder().resumable(false).build().expect("a host");
        Pair::of(listening, dialling)
    }

    pub(crate) fn of(server: Host, client: Host) -> Pair {
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        Pair { server, client, listener }
    }

    /// A conn in its two ends: the client's, the server's.
    pub(crate) fn connect(&self) -> (Conn, Conn) {
        self.connect_at(&address(&self.server))
    }

    /// The same, by an address of the caller's: a proxy's.
    pub(crate) fn connect_at(&self, address: &str) -> (Conn, Conn) {
        let near = Conn::connect(&self.client, address, PROTOCOL).expect("connect");
        let (far, peer) = self.listener.accept().expect("accept");
        assert_eq!(peer, self.client.peer_id());
        (near, far)
    }
}

pub(crate) const PROTOCOL: &str = "/test/1.0.0";

/// A host that listens on a free port of this machine.
pub(crate) fn listening() -> Host {
    builder().build().expect("a host")
}

/// The same, to add options to.
pub(crate) fn builder() -> HostBuilder {
    Host::builder().listen(loopback())
}

/// A host that only dials.
pub(crate) fn dialling() -> Host {
    Host::new().expect("a host")
}

pub(crate) fn loopback() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().expect("an address")
}

/// Where a listening host is dialled, with its peer id.
pub(crate) fn address(host: &Host) -> String {
    host.dial_addrs()[0].to_string()
}

/// The socket address in the first listen address of a host.
pub(crate) fn socket_address(host: &Host) -> SocketAddr {
    let address = host.listen_addrs()[0].to_string();
    let parts: Vec<_> = address.split('/').collect();
    let [_, _, ip, _, port] = parts[..] else { panic!("{address} is not ip and tcp") };
    SocketAddr::new(ip.parse().expect("an IP address"), port.parse().expect("a port"))
}

/// Bytes that look random and are the same each time.
pub(crate) fn payload(seed: u64, len: usize) -> Vec<u8> {
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

/// Reads to the end of the stream.
pub(crate) fn read_all(conn: &mut Conn) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    conn.read_to_end(&mut all)?;
    Ok(all)
}

/// Sends `data` from one end and reads it at the other, at the same time: more
/// than a window does not fit in between.
#[track_caller]
pub(crate) fn assert_carries(from: &mut Conn, to: &mut Conn, data: &[u8]) {
    let mut arrived = vec![0; data.len()];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(data).expect("write"));
        to.read_exact(&mut arrived).expect("read");
    });
    assert!(arrived == data, "{} bytes arrived changed", data.len());
}

/// Sends back what comes, and then the end.
pub(crate) fn echo(mut conn: Conn) -> io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match conn.read(&mut buf)? {
            0 => return conn.shutdown(Shutdown::Write),
            n => conn.write_all(&buf[..n])?,
        }
    }
}

/// Writes until the conn says that it ended, and returns with what.
pub(crate) fn write_until_error(conn: &mut Conn) -> io::Error {
    let chunk = payload(1, 16 * 1024);
    loop {
        if let Err(error) = conn.write(&chunk) {
            return error;
        }
    }
}

/// The error has this kind, and one of ours inside.
#[track_caller]
pub(crate) fn assert_kind<T>(result: io::Result<T>, kinds: &[ErrorKind]) -> io::Error {
    let Err(error) = result else { panic!("no error where one of {kinds:?} was due") };
    assert!(kinds.contains(&error.kind()), "{error:?} is none of {kinds:?}");
    if error.kind() != ErrorKind::WouldBlock {
        code(&error);
    }
    error
}

/// The code of the error of ours inside.
#[track_caller]
pub(crate) fn code(error: &io::Error) -> ErrorCode {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.unwrap_or_else(|| panic!("{error:?} has no pointsub::Error inside")).code()
}

/// The kinds of an error that ends a conn.
pub(crate) const ENDED: &[ErrorKind] =
    &[ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];

/// The kinds of a connection that was lost.
pub(crate) const LOST: &[ErrorKind] = &[ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];

/// The kinds of a timeout.
pub(crate) const LATE: &[ErrorKind] = &[ErrorKind::WouldBlock, ErrorKind::TimedOut];

/// Random numbers that a seed repeats.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// A new seed, or that of `POINTSUB_SEED`; it is printed, and shown if the test
    /// fails.
    pub(crate) fn new() -> Dice {
        let fresh = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos()) ^ u64::from(process::id()) << 32
        };
        let chosen = std::env::var("POINTSUB_SEED").ok();
        let seed = chosen.map_or_else(fresh, |seed| seed.parse().expect("a number"));
        eprintln!("{}: POINTSUB_SEED={seed}", thread::current().name().unwrap_or("a test"));
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 8) % n.max(1)
    }

    /// A number from 1 to twice `mean`.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        1 + self.below(2 * mean)
    }

    /// Others, for another part of the same test.
    pub(crate) fn split(&mut self) -> Dice {
        Dice(self.roll().rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1)
    }
}

/// This test binary again as a process of its own that runs the test `name`
/// only, with as many open files as the machine allows.
pub(crate) fn child(name: &str, role: &str, argument: &str) -> Command {
    let exe = std::env::current_exe().expect("this program");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n $(ulimit -H -n); exec \"$0\" \"$@\""])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// In a process that `child` made: its role and its argument.
pub(crate) fn role() -> Option<(String, String)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(ARGUMENT).ok()?))
}

const ROLE: &str = "POINTSUB_TEST_ROLE";
const ARGUMENT: &str = "POINTSUB_TEST_ARGUMENT";

/// The levels that its host's memory has come to, as far as they were told.
pub(crate) fn levels(events: &Events) -> Vec<Pressure> {
    let level = |event| match event {
        Event::PressureChanged { to, .. } => Some(to),
        _ => None,
    };
    std::iter::from_fn(|| events.try_next()).filter_map(level).collect()
}
