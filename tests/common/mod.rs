//! What the tests share: hosts, a time limit, bytes, a wire that can be cut,
//! and running a test again as a process of its own.

#![allow(dead_code, reason = "each test file uses its part")]

use pointsub::{Conn, Error, ErrorCode, Host, HostBuilder, Listener, Multiaddr};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Runs `test`. If it is still running after `seconds`, the process ends with a
/// message: a thread that blocks cannot be stopped from outside.
pub(crate) fn within<T>(seconds: u64, test: impl FnOnce() -> T) -> T {
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

/// A wire that can be cut: it forwards TCP to a host until told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    carried: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn to(host: &Host) -> Proxy {
        let target = socket_address(host);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let carried = Arc::<Mutex<Vec<TcpStream>>>::default();
        let kept = carried.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("accept");
                let Ok(far) = TcpStream::connect(target) else { continue };
                let clone = |s: &TcpStream| s.try_clone().expect("clone");
                kept.lock().expect("unpoisoned").extend([clone(&near), clone(&far)]);
                for (mut from, mut to) in [(clone(&near), clone(&far)), (far, near)] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Proxy { address, carried }
    }

    /// Where `host` is dialled through this wire.
    pub(crate) fn address(&self, host: &Host) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", self.address.port(), host.peer_id())
    }

    /// Cuts every connection that goes through it, without a word to either end.
    pub(crate) fn cut(&self) {
        for stream in self.carried.lock().expect("unpoisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
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
