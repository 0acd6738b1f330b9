//! The thread at the door: it accepts connections and does their handshakes, so
//! that the public-key work of strangers delays nobody's established link.

use std::collections::{HashMap, VecDeque};
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
use super::spin::Spin;
use super::waiter::For;
use crate::error::{Error, Result};
use crate::proto::noise::Identity;
use crate::resources::addresses::Net;
use crate::resources::limits::Limit;

/// Who hears of it.
pub(crate) trait Reception: Send + Sync {
    /// Somebody knocks; `None`: the connection is closed at once.
    fn enter(&self, from: SocketAddr) -> Option<Pass>;
    /// Whether there is room for one more beside `now`.
    fn fits(&self, limit: Limit, now: usize) -> bool;
    /// Somebody was turned away because of a limit.
    fn reached(&self, limit: Limit);
    /// A handshake is complete.
    fn arrived(&self, secured: Secured, pass: Pass);
    /// A handshake failed, or took too long.
    fn failed(&self, from: SocketAddr, why: &Error);
}

/// What a connection counts against; it counts until this is dropped.
pub(crate) type Pass = Box<dyn Send>;

/// Ends the thread, and the listening with it.
pub(crate) struct Door {
    waker: mio::Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Starts to accept on these listeners. A handshake is given up after `patience`; who
    /// was answered is looked for a little longer than `spin` before the thread sleeps.
    pub(crate) fn open(
        name: String,
        listeners: Vec<std::net::TcpListener>,
        identity: Arc<Identity>,
        patience: Duration,
        spin: Duration,
        reception: Arc<dyn Reception>,
    ) -> Result<Door> {
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
            patience,
            spin: Spin::of_handshakes(spin),
            answered: false,
            reception,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || doorman.run());
        let thread = thread.map_err(Error::no_thread)?;
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
    /// Accept again then: the process was out of descriptors, or it was the turn of
    /// those who are inside.
    retry: Option<Instant>,
    /// When that was last said.
    complaint: Option<Instant>,
    identity: Arc<Identity>,
    patience: Duration,
    spin: Spin,
    /// Since the last sleep a guest was attended to who may answer in a moment.
    answered: bool,
    reception: Arc<dyn Reception>,
    stop: Arc<AtomicBool>,
}

/// A stranger.
struct Guest {
    number: u64,
    from: SocketAddr,
    net: Option<Net>,
    pass: Pass,
    handshake: Handshake,
    /// What the poll watches for, once it does.
    watched: Option<For>,
}

impl Doorman {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(SeqCst) {
            if !self.look(&mut events)
                && let Err(e) = self.poll.poll(&mut events, self.timeout())
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

    /// Looks whether who was answered answers at once, where that pays.
    fn look(&mut self, events: &mut Events) -> bool {
        if !std::mem::take(&mut self.answered) {
            return false;
        }
        let poll = &mut self.poll;
        self.spin.until(|| poll.poll(events, Some(Duration::ZERO)).is_ok() && !events.is_empty())
    }

    fn timeout(&self) -> Option<Duration> {
        let late = self.order.front().map(|(_, _, at)| *at + self.patience);
        let next = [late, self.retry].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self, i: usize) {
        for _ in 0..MOST_AT_ONCE {
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
        // However many come, those who came before them go on.
        self.retry = Some(Instant::now());
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
        let Some(pass) = self.reception.enter(from) else { return };
        let net = Net::of(from);
        self.make_room(net);
        if socket.set_nodelay(true).is_err() || socket.set_nonblocking(true).is_err() {
            return;
        }
        self.count += 1;
        let guest = Guest {
            number: self.count,
            from,
            net,
            pass,
            handshake: Handshake::listener(socket, self.identity.clone()),
            watched: None,
        };
        let key = self.guests.insert(guest);
        self.forget_those_who_left();
        self.order.push_back((key, self.count, Instant::now()));
        // Most have said something by now.
        self.attend(key);
    }

    /// A guest's socket is new, or ready.
    fn attend(&mut self, key: usize) {
        let Some(guest) = self.guests.get_mut(key) else { return };
        match guest.handshake.step() {
            Ok(false) => {
                self.answered = true;
                if self.watch(key).is_err() {
                    drop(self.see_off(key));
                }
            }
            Ok(true) => {
                if let Some(guest) = self.see_off(key) {
                    self.reception.arrived(guest.handshake.finish(), guest.pass);
                }
            }
            Err(e) => {
                if let Some(guest) = self.see_off(key) {
                    self.reception.failed(guest.from, &e);
                }
            }
        }
    }

    /// Has the poll tell when the guest's socket is ready for what comes next.
    fn watch(&mut self, key: usize) -> io::Result<()> {
        let Some(guest) = self.guests.get_mut(key) else { return Ok(()) };
        let want = guest.handshake.waits_for();
        let fd = guest.handshake.socket().as_raw_fd();
        let (mut source, token) = (SourceFd(&fd), Token(key + self.listeners.len()));
        let interest = match want {
            For::Reading => Interest::READABLE,
            For::Writing => Interest::WRITABLE,
        };
        match guest.watched.replace(want) {
            None => self.poll.registry().register(&mut source, token, interest),
            Some(before) if before == want => Ok(()),
            Some(_) => self.poll.registry().reregister(&mut source, token, interest),
        }
    }

    /// Takes a guest off the list; its socket is watched no more.
    fn see_off(&mut self, key: usize) -> Option<Guest> {
        let guest = self.guests.try_remove(key)?;
        let fd = guest.handshake.socket().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        Some(guest)
    }

    /// One who stays for long keeps those behind from being skipped. So that it costs each
    /// guest a look or two, it is done when they are many.
    fn forget_those_who_left(&mut self) {
        if self.order.len() > 2 * self.guests.len() + FEW {
            let guests = &self.guests;
            self.order
                .retain(|(key, number, _)| guests.get(*key).is_some_and(|g| g.number == *number));
        }
    }

    fn dismiss_late(&mut self, now: Instant) {
        while let Some(&(key, number, since)) = self.order.front() {
            let present = self.guests.get(key).is_some_and(|g| g.number == number);
            if present && now.saturating_duration_since(since) < self.patience {
                return;
            }
            self.order.pop_front();
            if present {
                self.reception.reached(Limit::HandshakeTime);
                self.dismiss(key, "the handshake took too long");
            }
        }
    }

    /// Gives up the oldest handshakes that are too many with one more from `net`.
    fn make_room(&mut self, net: Option<Net>) {
        if net.is_some() {
            let there = self.guests.iter().filter(|(_, g)| g.net == net).count();
            if !self.reception.fits(Limit::HandshakesPerAddress, there) {
                self.dismiss_oldest(net);
            }
        }
        if !self.reception.fits(Limit::Handshakes, self.guests.len()) {
            // Whoever sends many pays for it, not those who came one by one.
            self.dismiss_oldest(self.largest_crowd());
        }
    }

    fn largest_crowd(&self) -> Option<Net> {
        let mut crowds = HashMap::new();
        self.guests.iter().for_each(|(_, g)| *crowds.entry(g.net).or_insert(0) += 1);
        crowds.into_iter().max_by_key(|(_, count)| *count).and_then(|(net, _)| net)
    }

    fn dismiss_oldest(&mut self, net: Option<Net>) {
        let of_net = |&(key, number, _): &(usize, u64, Instant)| {
            self.guests.get(key).is_some_and(|g| g.number == number && g.net == net)
        };
        if let Some(at) = self.order.iter().position(of_net)
            && let Some((key, ..)) = self.order.remove(at)
        {
            self.dismiss(key, "too many handshakes are under way");
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

/// Connections accepted before those who are inside are attended to.
const MOST_AT_ONCE: usize = 32;
/// Guests that have left and are remembered, beside as many as are there.
const FEW: usize = 64;
const WAKE: Token = Token(usize::MAX);
/// After the process ran out of descriptors.
const BACKOFF: Duration = Duration::from_millis(100);
const A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    struct Anybody;

    impl Reception for Anybody {
        fn enter(&self, _: SocketAddr) -> Option<Pass> {
            Some(Box::new(()))
        }

        fn fits(&self, _: Limit, _: usize) -> bool {
            true
        }

        fn reached(&self, _: Limit) {}

        fn arrived(&self, _: Secured, _: Pass) {}

        fn failed(&self, _: SocketAddr, _: &Error) {}
    }

    #[test]
    fn those_who_left_are_not_remembered_behind_one_who_stays() {
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let keypair = libp2p_identity::Keypair::generate_ed25519();
        let mut doorman = Doorman {
            poll: Poll::new().unwrap(),
            listeners: Vec::new(),
            guests: Slab::new(),
            order: VecDeque::new(),
            count: 0,
            retry: None,
            complaint: None,
            identity: Arc::new(Identity::new(keypair).unwrap()),
            patience: Duration::from_secs(60),
            spin: Spin::of_handshakes(Duration::ZERO),
            answered: false,
            reception: Arc::new(Anybody),
            stop: Arc::default(),
        };
        let mut knock = |says: &[u8]| {
            let mut guest = TcpStream::connect(address).unwrap();
            io::Write::write_all(&mut guest, says).unwrap();
            let (socket, from) = door.accept().unwrap();
            doorman.greet(socket, from);
            (guest, doorman.guests.len(), doorman.order.len())
        };
        let _silent = knock(b"");
        // Until its handshake fails.
        let mut left = (0..1000).map(|_| {
            let (guest, ..) = knock(&[0xff; 64]);
            drop(guest);
        });
        left.by_ref().for_each(drop);
        drop(left);
        let (_, guests, order) = knock(b"");
        assert!(guests < 20 && order < 200, "{guests} are there, {order} are remembered");
    }
}
