//! The thread at the door: it accepts connections and does their handshakes, so
//! that the public-key work of strangers delays nobody's established link.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::handshake::{Handshake, Secured};
use super::waiter::For;
use crate::error::Error;
use crate::proto::noise::Identity;

/// Who hears of it.
pub(crate) trait Reception: Send + Sync {
    /// A handshake is complete.
    fn arrived(&self, secured: Secured);
    /// A handshake failed, or took too long.
    fn failed(&self, from: SocketAddr, why: &Error);
}

/// What the doorman is bound by.
#[derive(Clone, Debug)]
pub(crate) struct DoorLimits {
    /// A handshake is given up after this.
    pub(crate) handshake: Duration,
    /// Handshakes under way; above it the oldest is given up.
    pub(crate) unfinished: usize,
}

/// Ends the thread, and the listening with it.
pub(crate) struct Door {
    waker: mio::Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Starts to accept on these listeners.
    pub(crate) fn open(
        name: String,
        listeners: Vec<std::net::TcpListener>,
        identity: Arc<Identity>,
        limits: DoorLimits,
        reception: Arc<dyn Reception>,
    ) -> io::Result<Door> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut listening = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            poll.registry().register(&mut listener, Token(i), Interest::READABLE)?;
            listening.push(listener);
        }
        let doorman = Doorman {
            poll,
            listeners: listening,
            guests: Slab::new(),
            order: VecDeque::new(),
            count: 0,
            retry: None,
            complaint: None,
            identity,
            limits,
            reception,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || doorman.run())?;
        Ok(Door { waker, stop, thread: Some(thread) })
    }

    /// Closes the listeners and gives up what is unfinished. Returns when the
    /// ports are free.
    pub(crate) fn close(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

struct Doorman {
    poll: Poll,
    listeners: Vec<TcpListener>,
    guests: Slab<Guest>,
    /// Guests by arrival; those who left are skipped.
    order: VecDeque<(usize, u64, Instant)>,
    count: u64,
    /// The process was out of descriptors: accept again then.
    retry: Option<Instant>,
    /// When that was last said.
    complaint: Option<Instant>,
    identity: Arc<Identity>,
    limits: DoorLimits,
    reception: Arc<dyn Reception>,
    stop: Arc<AtomicBool>,
}

/// A stranger.
struct Guest {
    number: u64,
    from: SocketAddr,
    handshake: Handshake,
    /// What the poll watches for.
    watched: For,
}

impl Doorman {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(SeqCst) {
            if let Err(e) = self.poll.poll(&mut events, self.timeout())
                && e.kind() != io::ErrorKind::Interrupted
            {
                log::error!("the listening thread cannot wait for events: {e}");
                std::thread::sleep(Duration::from_millis(10));
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(i) if i < self.listeners.len() => self.accept(i),
                    Token(i) => self.attend(i - self.listeners.len()),
                }
            }
            let now = Instant::now();
            if self.retry.is_some_and(|at| now >= at) {
                self.retry = None;
                (0..self.listeners.len()).for_each(|i| self.accept(i));
            }
            self.dismiss_late(now);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let late = self.order.front().map(|(_, _, at)| *at + self.limits.handshake);
        let next = [late, self.retry].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self, i: usize) {
        loop {
            match self.listeners[i].accept() {
                Ok((socket, from)) => self.greet(TcpStream::from(socket), from),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The stranger has left already.
                Err(e) if is_theirs(&e) => {}
                Err(e) => {
                    self.complain(&e);
                    self.retry = Some(Instant::now() + BACKOFF);
                    return;
                }
            }
        }
    }

    /// At most once a minute.
    fn complain(&mut self, e: &io::Error) {
        let now = Instant::now();
        if self.complaint.is_none_or(|at| now.saturating_duration_since(at) > A_MINUTE) {
            self.complaint = Some(now);
            log::warn!("connections cannot be accepted for now: {e}");
        }
    }

    fn greet(&mut self, socket: TcpStream, from: SocketAddr) {
        if self.guests.len() >= self.limits.unfinished {
            self.dismiss_oldest();
        }
        if socket.set_nodelay(true).is_err() || socket.set_nonblocking(true).is_err() {
            return;
        }
        self.count += 1;
        let guest = Guest {
            number: self.count,
            from,
            handshake: Handshake::listener(socket, self.identity.clone()),
            watched: For::Reading,
        };
        let fd = guest.handshake.socket().as_raw_fd();
        let entry = self.guests.vacant_entry();
        let token = Token(entry.key() + self.listeners.len());
        if self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE).is_ok() {
            self.order.push_back((entry.key(), self.count, Instant::now()));
            entry.insert(guest);
        }
    }

    /// A guest's socket is ready.
    fn attend(&mut self, key: usize) {
        let Some(guest) = self.guests.get_mut(key) else { return };
        match guest.handshake.step() {
            Ok(false) => {
                let want = guest.handshake.waits_for();
                if want != guest.watched {
                    guest.watched = want;
                    let interest = match want {
                        For::Reading => Interest::READABLE,
                        For::Writing => Interest::WRITABLE,
                    };
                    let fd = guest.handshake.socket().as_raw_fd();
                    let token = Token(key + self.listeners.len());
                    let _ = self.poll.registry().reregister(&mut SourceFd(&fd), token, interest);
                }
            }
            Ok(true) => {
                if let Some(guest) = self.see_off(key) {
                    self.reception.arrived(guest.handshake.finish());
                }
            }
            Err(e) => {
                if let Some(guest) = self.see_off(key) {
                    self.reception.failed(guest.from, &e);
                }
            }
        }
    }

    /// Takes a guest off the list; its socket is watched no more.
    fn see_off(&mut self, key: usize) -> Option<Guest> {
        let guest = self.guests.try_remove(key)?;
        let fd = guest.handshake.socket().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        Some(guest)
    }

    fn dismiss_late(&mut self, now: Instant) {
        while let Some(&(key, number, since)) = self.order.front() {
            let present = self.guests.get(key).is_some_and(|g| g.number == number);
            if present && now.saturating_duration_since(since) < self.limits.handshake {
                return;
            }
            self.order.pop_front();
            if present {
                self.dismiss(key, "the handshake took too long");
            }
        }
    }

    fn dismiss_oldest(&mut self) {
        while let Some((key, number, _)) = self.order.pop_front() {
            if self.guests.get(key).is_some_and(|g| g.number == number) {
                return self.dismiss(key, "too many handshakes are under way");
            }
        }
    }

    fn dismiss(&mut self, key: usize, why: &str) {
        if let Some(guest) = self.see_off(key) {
            let why = Error::new(crate::error::ErrorCode::HandshakeFailed, why);
            self.reception.failed(guest.from, &why);
        }
    }
}

/// Errors of accept that concern one stranger only.
fn is_theirs(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

const WAKE: Token = Token(usize::MAX);
/// After the process ran out of descriptors.
const BACKOFF: Duration = Duration::from_millis(100);
const A_MINUTE: Duration = Duration::from_secs(60);
