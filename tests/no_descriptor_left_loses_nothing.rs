//! A process that has no file descriptor left, and threads that have never waited before:
//! every call on what is open works, every other one says what is lacking, all of them
//! heed their timeouts, and no byte is lost. Each test has a process of its own.

mod common;

use common::{
    LATE, PROTOCOL, Pair, Ways, Wired, address, assert_kind, code, dialling, eventually, listening,
    payload, role, within,
};
use pointsub::{Conn, ErrorCode, Host, Listener, MessageTransporter};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Runs `test` in a process of its own, with few descriptors to use up.
fn alone(name: &str, test: impl FnOnce()) {
    if role().is_some() {
        return within(60, test);
    }
    let exe = std::env::current_exe().expect("this program");
    let done = Command::new("sh")
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("POINTSUB_TEST_ROLE", "few")
        .env("POINTSUB_TEST_ARGUMENT", "")
        .stdout(Stdio::null())
        .status();
    assert!(done.expect("a process").success());
}

/// All descriptors that there were.
struct Taken(Vec<File>);

impl Taken {
    fn all() -> Taken {
        let mut taken = Taken(Vec::new());
        taken.again();
        taken
    }

    /// Those too that were given back meanwhile.
    fn again(&mut self) {
        while let Ok(file) = File::open("/dev/null") {
            self.0.push(file);
        }
    }
}

/// Runs it on a thread that has never waited, and returns how long it took.
fn fresh<R: Send>(call: impl FnOnce() -> R + Send) -> (R, Duration) {
    let start = Instant::now();
    let result = thread::scope(|scope| scope.spawn(call).join().expect("no panic"));
    (result, start.elapsed())
}

/// Plain conns, and such that can be resumed.
fn pairs() -> [Pair; 2] {
    [Pair::plain(), Pair::new()]
}

/// The error of a call that needed a descriptor: with a code, the kind that the system's
/// has, and advice.
#[track_caller]
fn assert_lacks_descriptors<T>(result: io::Result<T>) {
    let Err(error) = result else { panic!("it worked without a descriptor") };
    assert_eq!(code(&error), ErrorCode::SystemLimit, "{error}");
    let of_system = File::open("/dev/null").expect_err("none is left").kind();
    assert_eq!(error.kind(), of_system, "{error}");
    let text = error.to_string();
    assert!(text.contains("open files") && text.contains("ulimit"), "{text}");
}

/// Writes until the conn takes no more, and returns how much it took.
fn fill(conn: &Conn, content: &[u8]) -> usize {
    conn.set_nonblocking(true).expect("set");
    let mut n = 0;
    let mut last = Instant::now();
    while n < content.len() && last.elapsed() < Duration::from_millis(50) {
        match (&mut &*conn).write(&content[n..]) {
            Ok(more) => (n, last) = (n + more, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
    conn.set_nonblocking(false).expect("set");
    n
}

#[test]
fn a_read_waits_for_its_bytes() {
    alone("a_read_waits_for_its_bytes", || {
        for pair in pairs() {
            let (near, far) = pair.connect();
            let _taken = Taken::all();
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let mut buf = [0; 5];
                    assert_eq!((&near).read(&mut buf[..1]).expect("read"), 1);
                    near.peek(&mut buf[1..2]).expect("peek");
                    (&near).read_exact(&mut buf[1..]).expect("read");
                    buf
                });
                thread::sleep(Duration::from_millis(100));
                for byte in b"hello" {
                    scope.spawn(|| (&far).write_all(&[*byte]).expect("write")).join().expect("it");
                    thread::sleep(Duration::from_millis(20));
                }
                assert_eq!(&reader.join().expect("no panic"), b"hello");
            });
        }
    });
}

#[test]
fn more_than_a_window_goes_both_ways() {
    alone("more_than_a_window_goes_both_ways", || {
        let content = payload(1, 8 * MIB);
        for pair in pairs() {
            let (near, far) = pair.connect();
            let _taken = Taken::all();
            thread::scope(|scope| {
                for (from, to) in [(&near, &far), (&far, &near)] {
                    scope.spawn(|| {
                        (&mut &*from).write_all(&content).expect("write");
                        from.shutdown(Shutdown::Write).expect("shut down");
                    });
                    scope.spawn(|| {
                        let mut arrived = Vec::new();
                        (&mut &*to).read_to_end(&mut arrived).expect("read");
                        assert!(arrived == content, "{} bytes", arrived.len());
                    });
                }
            });
        }
    });
}

#[test]
fn a_wake_by_a_shutdown_is_heard() {
    alone("a_wake_by_a_shutdown_is_heard", || {
        for pair in pairs() {
            let (near, _far) = pair.connect();
            let _taken = Taken::all();
            thread::scope(|scope| {
                let reader = scope.spawn(|| (&near).read(&mut [0]));
                thread::sleep(Duration::from_millis(100));
                let start = Instant::now();
                near.shutdown(Shutdown::Read).expect("shut down");
                assert_eq!(reader.join().expect("no panic").expect("the end"), 0);
                assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
            });
        }
    });
}

/// Conns over a wire that stands still, with more written than it has room for.
struct Stalled {
    wired: Wired,
    near: Vec<Conn>,
    far: Vec<Conn>,
    content: Vec<u8>,
    /// How much of it each conn has taken.
    written: Vec<usize>,
}

impl Stalled {
    /// Plain ones, and such that can be resumed.
    fn each() -> impl Iterator<Item = Stalled> {
        [false, true]
            .map(|resumable| Stalled::of(Wired::of(|host| host.resumable(resumable))))
            .into_iter()
    }

    fn of(wired: Wired) -> Stalled {
        let target = wired.address();
        let connect = |_| wired.pair.connect_at(&target);
        // Each has a window's worth of credit.
        let (near, far): (Vec<_>, Vec<_>) = (0..40).map(connect).unzip();
        wired.proxy.stall(Ways::Both);
        let content = payload(3, MIB);
        let written = near.iter().map(|conn| fill(conn, &content)).collect();
        Stalled { wired, near, far, content, written }
    }
}

/// All that was written arrives, and the end behind it.
fn assert_arrives(far: Vec<Conn>, content: &[u8], written: &[usize]) {
    let all: usize = written.iter().sum();
    let mut arrived = 0;
    for (mut conn, &written) in far.into_iter().zip(written) {
        let mut bytes = Vec::new();
        let end = conn.read_to_end(&mut bytes);
        arrived += bytes.len();
        assert!(bytes == content[..written], "{} of {written} bytes, then {end:?}", bytes.len());
        end.unwrap_or_else(|e| panic!("{arrived} of {all} bytes: {e}"));
    }
}

#[test]
fn timeouts_hold() {
    alone("timeouts_hold", || {
        const LIMIT: Duration = Duration::from_millis(300);
        let heeds = |took: Duration| took >= LIMIT && took < 4 * LIMIT;
        for Stalled { wired, near, far, content, mut written } in Stalled::each() {
            let conn = &near[0];
            conn.set_read_timeout(Some(LIMIT)).expect("set");
            conn.set_write_timeout(Some(LIMIT)).expect("set");
            let _taken = Taken::all();
            for _ in 0..2 {
                let (read, took) = fresh(|| (&*conn).read(&mut [0]));
                assert_kind(read, LATE);
                assert!(heeds(took), "a read: {took:?}");
                let (peeked, took) = fresh(|| conn.peek(&mut [0]));
                assert_kind(peeked, LATE);
                assert!(heeds(took), "a peek: {took:?}");
                let (flushed, took) = fresh(|| (&*conn).flush());
                assert_kind(flushed, LATE);
                assert!(heeds(took), "a flush: {took:?}");
                let (more, took) = fresh(|| (&*conn).write(&content[written[0]..]));
                assert!(took < 4 * LIMIT, "a write: {took:?}");
                match more {
                    Ok(n) => written[0] += n,
                    late => drop(assert_kind(late, LATE)),
                }
            }
            conn.set_write_timeout(None).expect("set");
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&*conn).flush().expect("flush");
                    near.iter().for_each(|conn| conn.shutdown(Shutdown::Write).expect("shut down"));
                });
                wired.proxy.flow();
                assert_arrives(far, &content, &written);
            });
        }
    });
}

/// What a process leaves behind that ends while the network is slow.
fn is_delivered_by(end: impl Fn(Vec<Conn>, Host) + Sync) {
    for Stalled { wired: Wired { pair, proxy }, near, far, content, written } in Stalled::each() {
        let Pair { server: _server, client, listener: _listener } = pair;
        let _taken = Taken::all();
        thread::scope(|scope| {
            scope.spawn(|| end(near, client));
            thread::sleep(Duration::from_millis(100));
            proxy.flow();
            assert_arrives(far, &content, &written);
        });
    }
}

#[test]
fn a_last_drop_delivers_what_waits() {
    alone("a_last_drop_delivers_what_waits", || {
        is_delivered_by(|conns, host| {
            drop(host);
            drop(conns);
        });
    });
}

#[test]
fn a_host_that_shuts_down_delivers_what_waits() {
    alone("a_host_that_shuts_down_delivers_what_waits", || {
        is_delivered_by(|_conns, host| host.shutdown());
    });
}

#[test]
fn a_disconnect_delivers_what_waits() {
    alone("a_disconnect_delivers_what_waits", || {
        is_delivered_by(|_conns, host| {
            host.connected_peers().iter().for_each(|peer| host.disconnect(peer));
        });
    });
}

#[test]
fn conns_are_opened_and_accepted_on_the_connection_that_there_is() {
    alone("conns_are_opened_and_accepted_on_the_connection_that_there_is", || {
        for pair in pairs() {
            let _open = pair.connect();
            let _taken = Taken::all();
            let target = address(&pair.server);
            for n in 0..20 {
                thread::scope(|scope| {
                    let listener = &pair.listener;
                    let accepted = scope.spawn(|| listener.accept().expect("accept").0);
                    // Sometimes it waits already, sometimes it comes late.
                    thread::sleep(Duration::from_millis(n % 3));
                    let (near, took) = fresh(|| {
                        let limit = Duration::from_secs(5);
                        Conn::connect_timeout(&pair.client, &*target, PROTOCOL, limit)
                    });
                    let mut near = near.expect("connect");
                    assert!(took < Duration::from_secs(2), "{took:?}");
                    let mut far = accepted.join().expect("no panic");
                    near.write_all(b"ping").expect("write");
                    drop(near);
                    let mut all = String::new();
                    far.read_to_string(&mut all).expect("read");
                    assert_eq!(all, "ping");
                });
            }
            let (refused, _) = fresh(|| Conn::connect(&pair.client, &*target, "/another"));
            let refused = assert_kind(refused, &[ErrorKind::ConnectionRefused]);
            assert_eq!(code(&refused), ErrorCode::ProtocolNotServed);
            fresh(|| pair.client.ping(&pair.server.peer_id()).expect("ping"));
        }
    });
}

#[test]
fn messages_travel_on_open_conns() {
    alone("messages_travel_on_open_conns", || {
        let message = payload(4, 3 * MIB);
        for pair in pairs() {
            let (near, far) = pair.connect();
            let (mut near, mut far) = (MessageTransporter::new(near), MessageTransporter::new(far));
            let _taken = Taken::all();
            thread::scope(|scope| {
                scope.spawn(|| {
                    for size in [0, 1, 5_000, message.len()] {
                        near.send(&message[..size]).expect("send");
                        assert!(near.receive().expect("receive") == message[..size]);
                    }
                });
                for _ in 0..4 {
                    let received = far.receive().expect("receive");
                    far.send(&received).expect("send");
                }
            });
        }
    });
}

#[test]
fn what_needs_a_descriptor_says_so() {
    alone("what_needs_a_descriptor_says_so", || {
        let (server, client) = (listening(), dialling());
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let target = address(&server);
        let named = target.replace("/ip4/127.0.0.1", "/dns4/localhost");
        let taken = Taken::all();
        for target in [&target, &named] {
            let limit = Duration::from_secs(5);
            let (conn, took) = fresh(|| Conn::connect_timeout(&client, &**target, PROTOCOL, limit));
            assert_lacks_descriptors(conn);
            assert!(took < limit, "{took:?}");
        }
        assert_lacks_descriptors(fresh(Host::new).0);
        assert_lacks_descriptors(fresh(|| common::builder().build()).0);
        drop(taken);
        // One after the other: the last ones are those of the listening thread.
        let mut lacking = 0;
        for left in 1..20 {
            let mut taken = Taken::all();
            taken.0.truncate(taken.0.len() - left);
            match common::builder().build() {
                Ok(_) => break,
                Err(e) => assert_eq!(code(&e), ErrorCode::SystemLimit, "{left} left: {e}"),
            }
            lacking = left;
        }
        assert!(lacking > 3, "a host is made of more descriptors than {lacking}");
        Conn::connect(&client, &*target, PROTOCOL).expect("as ever");
        listener.accept().expect("accept");
    });
}

/// It is dialled again for as long as it takes.
#[test]
fn a_conn_that_is_cut_goes_on_once_there_are_descriptors_again() {
    alone("a_conn_that_is_cut_goes_on_once_there_are_descriptors_again", || {
        let wired = Wired::new();
        let (near, mut far) = wired.connect();
        let mut taken = Taken::all();
        wired.proxy.cut(common::Cut::Reset);
        let start = Instant::now();
        // Longer than a peer that refuses is dialled.
        while start.elapsed() < Duration::from_secs(7) {
            taken.again();
        }
        let (written, _) = fresh(|| (&near).write_all(b"still here"));
        written.expect("kept");
        drop(taken);
        let mut arrived = [0; 10];
        far.read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"still here");
        eventually("a resume", 20, || near.stats().resumes > 0);
    });
}

/// A process that has nothing to wait with has others that do not wait for it.
#[test]
fn a_listener_outlasts_the_lack() {
    alone("a_listener_outlasts_the_lack", || {
        let server = listening();
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let _warm = TcpListener::bind("127.0.0.1:0").expect("bind");
        thread::scope(|scope| {
            let taken = Taken::all();
            let accepted = scope.spawn(|| listener.accept().expect("accept").0);
            thread::sleep(Duration::from_millis(200));
            drop(taken);
            let client = dialling();
            let near = Conn::connect(&client, address(&server), PROTOCOL).expect("connect");
            let far = accepted.join().expect("no panic");
            assert_eq!(far.peer_id(), near.local_peer_id());
        });
    });
}
