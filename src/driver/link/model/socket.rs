//! The socket of the model: what it takes and gives, who polls it, and what the reactor is
//! asked for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Condvar;
use shuttle::thread::{self, yield_now};

use super::peer::Peer;
use super::world::For;
use super::world::atomic::AtomicBool;
use super::world::atomic::Ordering::SeqCst;
use crate::error::Error;
use crate::proto::yamux::StreamId;

/// A socket, the reactor's poll of it, and what is behind it.
pub(super) struct Socket {
    net: shuttle::sync::Mutex<Net>,
    changed: Condvar,
    /// A thread is in a write.
    busy: AtomicBool,
}

pub(super) struct Net {
    /// What has come and was not read.
    pub(super) input: VecDeque<Said>,
    pub(super) peer: Peer,
    /// How many bytes are taken before it is full.
    room: usize,
    /// It was found full, and will tell when it is not.
    told_full: bool,
    /// Nothing goes out any more; nothing does or comes.
    shut: bool,
    broken: bool,
    /// Threads in a poll of it, and how many for reading and for writing.
    pollers: Vec<thread::Thread>,
    polled: (usize, usize),
    /// What the reactor's poll watches for, and has seen: reading, writing.
    watched: (bool, bool),
    edges: (bool, bool),
    /// What the reactor was asked for.
    errands: Errands,
}

#[derive(Default)]
pub(super) struct Errands {
    pub(super) tick: bool,
    pub(super) acks: bool,
    pub(super) stop: bool,
    /// The edges since it was here last.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// What the peer says.
#[derive(Clone, Copy)]
pub(super) enum Said {
    /// It opens a stream, which is answered at once.
    Hello(StreamId),
    Data(StreamId),
    Credit(StreamId, u32),
    /// It has so much, and wants to hear the same.
    Received(StreamId, u32),
    Fin(StreamId),
    Ping(u32),
}

impl Net {
    pub(super) fn is_ready(&self, what: For) -> bool {
        let ready = if what == For::Reading { !self.input.is_empty() } else { self.room > 0 };
        ready || self.broken
    }

    /// A thread begins to poll.
    pub(super) fn come(&mut self, what: For) {
        self.pollers.push(thread::current());
        let count = self.count(what);
        *count += 1;
        assert_eq!(*count, 1, "two threads sleep on one socket for the same");
    }

    pub(super) fn go(&mut self, what: For) {
        let me = thread::current().id();
        self.pollers.retain(|other| other.id() != me);
        *self.count(what) -= 1;
    }

    fn count(&mut self, what: For) -> &mut usize {
        if what == For::Reading { &mut self.polled.0 } else { &mut self.polled.1 }
    }

    /// What a poll finds; a socket that was found full tells when it is not.
    pub(super) fn polls(&mut self, what: For) -> bool {
        self.told_full |= what == For::Writing && self.room == 0;
        self.is_ready(what)
    }

    /// As `epoll_ctl` does: what is ready is told anew.
    fn watch(&mut self, (read, write): (bool, bool)) {
        self.watched = (read, write);
        self.edges.0 = read && self.is_ready(For::Reading);
        self.edges.1 = write && self.polls(For::Writing);
    }

    /// Something has changed: who polls looks.
    fn notice(&mut self, read: bool, write: bool) {
        self.edges.0 |= read && self.watched.0;
        self.edges.1 |= write && self.watched.1;
        self.pollers.iter().for_each(thread::Thread::unpark);
    }

    fn has_errands(&self) -> bool {
        let Errands { tick, acks, stop, .. } = self.errands;
        self.edges != (false, false) || tick || acks || stop
    }
}

impl Socket {
    pub(super) fn new(peer: Peer) -> Socket {
        let net = Net {
            input: VecDeque::new(),
            peer,
            room: thread_rng().gen_range(0..2_000),
            told_full: false,
            shut: false,
            broken: false,
            pollers: Vec::new(),
            polled: (0, 0),
            watched: (false, false),
            edges: (false, false),
            errands: Errands::default(),
        };
        let net = shuttle::sync::Mutex::new(net);
        Socket { net, changed: Condvar::new(), busy: AtomicBool::new(false) }
    }

    pub(super) fn look<R>(&self, f: impl FnOnce(&mut Net) -> R) -> R {
        f(&mut self.net.lock().unwrap())
    }

    /// Changes what others may wait for.
    fn change<R>(&self, f: impl FnOnce(&mut Net) -> R) -> R {
        let result = self.look(f);
        self.changed.notify_all();
        result
    }

    /// Waits until `f` has something.
    pub(super) fn wait<R>(&self, mut f: impl FnMut(&mut Net) -> Option<R>) -> R {
        let mut net = self.net.lock().unwrap();
        loop {
            if let Some(result) = f(&mut net) {
                return result;
            }
            net = self.changed.wait(net).unwrap();
        }
    }

    /// The peer says something.
    pub(super) fn arrive(&self, what: Said) {
        self.change(|net| {
            net.input.push_back(what);
            net.notice(true, false);
        });
    }

    /// Nothing comes and goes any more.
    pub(super) fn fail(&self) {
        self.change(|net| {
            net.broken = true;
            net.notice(true, true);
        });
    }

    pub(super) fn shutdown(&self, how: std::net::Shutdown) -> io::Result<()> {
        if how != std::net::Shutdown::Write {
            self.fail();
        }
        self.look(|net| net.shut = true);
        Ok(())
    }

    pub(super) fn watch(&self, interest: (bool, bool)) {
        self.change(|net| net.watch(interest));
    }

    /// Waits until the peer has heard something, or never will. `false`: it will not.
    pub(super) fn await_peer(&self, heard: impl Fn(&Peer) -> bool) -> bool {
        self.wait(|net| (net.broken || heard(&net.peer)).then_some(!net.broken))
    }

    /// `None`: there is nothing; an error: there will not be.
    pub(super) fn read(&self) -> io::Result<Option<Said>> {
        let (said, broken) = self.look(|net| (net.input.pop_front(), net.broken));
        if said.is_none() && broken { Err(ErrorKind::ConnectionReset.into()) } else { Ok(said) }
    }

    /// The network: once the socket is full it takes some of it away, until the end.
    pub(super) fn drain(&self) {
        while self.wait(|net| {
            let ends = net.errands.stop || net.broken;
            (ends || net.room == 0).then_some(!ends)
        }) {
            let most = [100, 1_000, 5_000, 50_000][thread_rng().gen_range(0..4)];
            self.change(|net| {
                net.room = thread_rng().gen_range(1..=most);
                let told = std::mem::take(&mut net.told_full);
                net.notice(false, told);
            });
        }
    }

    /// What the reactor has to do next.
    pub(super) fn await_errands(&self, ticking: bool) -> Errands {
        self.wait(|net| {
            (ticking || net.has_errands()).then(|| {
                let (readable, writable) = std::mem::take(&mut net.edges);
                let stop = net.errands.stop;
                let left = Errands { stop, ..Errands::default() };
                Errands { readable, writable, ..std::mem::replace(&mut net.errands, left) }
            })
        })
    }

    pub(super) fn errand(&self, f: impl FnOnce(&mut Errands)) {
        self.change(|net| f(&mut net.errands));
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.busy.swap(true, SeqCst), "two threads are at the socket");
        // It takes long.
        while thread_rng().gen_bool(0.3) {
            yield_now();
        }
        let result = self.change(|net| {
            if net.broken || net.shut {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if thread_rng().gen_bool(0.02) {
                return Err(ErrorKind::Interrupted.into());
            }
            if net.room == 0 {
                net.told_full = true;
                return Err(ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(net.room);
            net.peer.hear(&bytes[..n]);
            net.room -= n;
            net.input.extend(net.peer.answers.drain(..));
            let came = !net.input.is_empty();
            net.notice(came, false);
            Ok(n)
        });
        self.busy.store(false, SeqCst);
        result
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reactor's handle; what it is asked for is kept with the socket.
pub(super) struct Handle;

impl Handle {
    pub(super) fn reregister(
        &self,
        socket: &Socket,
        _: mio::Token,
        _: (bool, bool),
        now: (bool, bool),
    ) -> io::Result<()> {
        socket.watch(now);
        Ok(())
    }

    pub(super) fn end_soon(&self, _: mio::Token, why: Error) {
        panic!("no registration fails here: {why}");
    }

    pub(super) fn start_ticks(&self, link: &super::Link) {
        link.socket.errand(|errands| errands.tick = true);
    }

    pub(super) fn ack_soon(&self, link: &super::Link) {
        link.socket.errand(|errands| errands.acks = true);
    }
}
