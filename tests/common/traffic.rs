//! Conns over a wire that breaks, and bytes that check themselves on their way.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pointsub::{Conn, Host, HostBuilder, Listener};

use super::{Dice, PROTOCOL, Pair, Proxy, builder, payload};

/// Two hosts, and a wire between them that can be broken.
pub(crate) struct Wired {
    pub(crate) pair: Pair,
    pub(crate) proxy: Proxy,
}

impl Wired {
    pub(crate) fn new() -> Wired {
        Wired::of(|host| host)
    }

    /// With options for both hosts.
    pub(crate) fn of(options: impl Fn(HostBuilder) -> HostBuilder) -> Wired {
        Wired::between(options(builder()), options(Host::builder()))
    }

    pub(crate) fn between(server: HostBuilder, client: HostBuilder) -> Wired {
        let build = |host: HostBuilder| host.build().expect("a host");
        let pair = Pair::of(build(server), build(client));
        let proxy = Proxy::to(&pair.server);
        Wired { pair, proxy }
    }

    /// A resumable conn in its two ends: the client's, the server's.
    pub(crate) fn connect(&self) -> (Conn, Conn) {
        let (near, far) = self.pair.connect_at(&self.address());
        assert!(near.is_resumable() && far.is_resumable());
        (near, far)
    }

    pub(crate) fn address(&self) -> String {
        self.proxy.address(&self.pair.server)
    }

    /// The same conn the other way: the server opens it over the client's connection.
    pub(crate) fn connect_back(&self) -> (Conn, Conn) {
        let listener = Listener::bind(&self.pair.client, PROTOCOL).expect("bind");
        let server = self.pair.server.peer_id();
        self.pair.client.add_address(server, self.address().parse().expect("an address"));
        self.pair.client.ping(&server).expect("a connection");
        let far = Conn::connect(&self.pair.server, self.pair.client.peer_id(), PROTOCOL);
        let far = far.expect("connect");
        let (near, _) = listener.accept().expect("accept");
        assert!(near.is_resumable() && far.is_resumable());
        (near, far)
    }
}

/// How far an exchange has come.
#[derive(Default)]
pub(crate) struct Progress {
    arrived: AtomicU64,
    waiting: Mutex<()>,
    moved: Condvar,
}

impl Progress {
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(SeqCst)
    }

    pub(crate) fn add(&self, n: usize) {
        self.arrived.fetch_add(n as u64, SeqCst);
        drop(self.waiting.lock().expect("unpoisoned"));
        self.moved.notify_all();
    }

    /// Waits until so much has arrived, of all that is on its way.
    pub(crate) fn await_arrival(&self, bytes: u64) {
        let waiting = self.waiting.lock().expect("unpoisoned");
        drop(self.moved.wait_while(waiting, |()| self.arrived() < bytes));
    }
}

/// Sends `len` bytes each way at once and then the end, and finds them unchanged at
/// the other end, while `during` does something to the wire: it runs while there is
/// something to send.
pub(crate) fn exchange(
    near: &Conn,
    far: &Conn,
    len: usize,
    dice: &mut Dice,
    during: impl FnOnce(&Progress),
) {
    let (progress, last) = (Progress::default(), Gate::default());
    let seed = dice.roll();
    thread::scope(|scope| {
        for (from, to, seed) in [(near, far, seed), (far, near, !seed)] {
            let (progress, last, dice) = (&progress, &last, dice.split());
            scope.spawn(move || write_content(from, len, seed, dice, last));
            scope.spawn(move || read_content(to, len, seed, progress));
        }
        let _opened = last.open_later();
        during(&progress);
    });
}

/// Holds threads until it is open.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn opened() -> Gate {
        Gate { open: Mutex::new(true), ..Gate::default() }
    }

    /// Opens it when the result is dropped, by a panic too.
    pub(crate) fn open_later(&self) -> Opener<'_> {
        Opener(self)
    }

    /// Waits until it is open.
    pub(crate) fn pass(&self) {
        let open = self.open.lock().expect("unpoisoned");
        drop(self.opened.wait_while(open, |open| !*open));
    }
}

pub(crate) struct Opener<'a>(&'a Gate);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        *self.0.open.lock().expect("unpoisoned") = true;
        self.0.opened.notify_all();
    }
}

/// Writes content that `read_content` knows, in pieces of random length, and the end;
/// the last of it once the gate is open.
pub(crate) fn write_content(mut to: &Conn, len: usize, seed: u64, mut dice: Dice, last: &Gate) {
    for (block, from) in (0..len).step_by(BLOCK).enumerate() {
        if from + BLOCK >= len {
            last.pass();
        }
        let content = payload(seed ^ block as u64, BLOCK.min(len - from));
        let mut rest = &content[..];
        while !rest.is_empty() {
            let n = rest.len().min(dice.around(BLOCK as u64 / 2) as usize);
            let written = to.write(&rest[..n]);
            let n = written.unwrap_or_else(|e| panic!("write of block {block}: {e}"));
            rest = &rest[n..];
        }
    }
    to.shutdown(Shutdown::Write).expect("the end");
}

/// Reads what `write_content` writes: all of it, unchanged, and then the end.
pub(crate) fn read_content(mut from: &Conn, len: usize, seed: u64, progress: &Progress) {
    let mut buf = vec![0; BLOCK];
    for (block, at) in (0..len).step_by(BLOCK).enumerate() {
        let arrived = &mut buf[..BLOCK.min(len - at)];
        let mut got = 0;
        while got < arrived.len() {
            match from.read(&mut arrived[got..]) {
                Ok(0) => panic!("the end after {} of {len} bytes", at + got),
                Ok(n) => {
                    got += n;
                    progress.add(n);
                }
                Err(e) => panic!("{} of {len} bytes had been read: {e}", at + got),
            }
        }
        let content = payload(seed ^ block as u64, arrived.len());
        assert!(content == *arrived, "block {block} at {at} arrived changed");
    }
    assert_eq!(from.read(&mut buf).expect("the end"), 0, "more than {len} bytes");
}

/// Polls what no event tells.
#[track_caller]
pub(crate) fn eventually(what: &str, seconds: u64, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        thread::sleep(Duration::from_millis(2));
    }
}

const BLOCK: usize = 16 * 1024;
