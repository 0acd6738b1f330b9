//! A wire between two hosts that breaks in every way a wire can break: it forwards
//! TCP to a target, and loses, delays, cuts and damages what it is told to.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use pointsub::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::set_socket_linger;

use super::{Dice, socket_address};

/// Forwards every connection made to it, until it is told otherwise. Dropped, it
/// resets them all and listens no more.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
}

/// How a connection is cut. Neither end hears a word of what the other meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both ends receive an RST; what waits in the kernel is lost.
    Reset,
    /// Both ends read EOF.
    Close,
}

/// One direction of the wire, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    Both,
    /// From who dialled to the target.
    Out,
    /// From the target to who dialled.
    Back,
}

impl Proxy {
    pub(crate) fn to(host: &Host) -> Proxy {
        Proxy::toward(socket_address(host))
    }

    pub(crate) fn toward(target: SocketAddr) -> Proxy {
        let listener = listener();
        let address = listener.local_addr().expect("an address");
        let state = Mutex::new(State::new(target));
        let shared = Arc::new(Shared { listener, address, state, changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept());
        Proxy { shared }
    }

    /// Where `host` is dialled through this wire.
    pub(crate) fn address(&self, host: &Host) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", self.socket().port(), host.peer_id())
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        self.shared.address
    }

    /// New connections go there from now on.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        self.shared.change(|state| state.target = target);
    }

    /// Ends every connection that goes through it. Returns how many there were.
    pub(crate) fn cut(&self, how: Cut) -> usize {
        self.shared.change(|state| state.cut_all(how))
    }

    /// Cuts a connection each time that it has carried so many bytes, both ways
    /// together: a random number, `mean` on average.
    pub(crate) fn cut_every_bytes(&self, mean: u64, how: Cut, mut dice: Dice) {
        self.shared.change(|state| {
            let left = dice.around(mean);
            state.schedule = Some(Schedule { mean, how, dice, left });
        });
    }

    /// Cuts the connection that carries the last of these numbers of bytes from now on,
    /// one after the other.
    pub(crate) fn cut_after(&self, bytes: &[u64], how: Cut) {
        self.shared.change(|state| state.planned = bytes.iter().map(|n| (*n, how)).collect());
    }

    /// Cuts all connections after random times, `mean` on average, until the result
    /// is dropped.
    pub(crate) fn cut_every(&self, mean: Duration, how: Cut, mut dice: Dice) -> Cutting {
        let going = Arc::new(AtomicBool::new(true));
        let (shared, goes_on) = (self.shared.clone(), going.clone());
        let thread = thread::spawn(move || {
            while goes_on.load(SeqCst) {
                let micros = u64::try_from(mean.as_micros()).expect("a short time");
                // It is time itself that cuts.
                thread::sleep(Duration::from_micros(dice.around(micros)));
                shared.change(|state| state.cut_all(how));
            }
        });
        Cutting { going, thread: Some(thread) }
    }

    /// No cuts by bytes any more.
    pub(crate) fn spare(&self) {
        self.shared.change(|state| state.schedule = None);
    }

    /// Nothing moves until `flow`; nothing is lost.
    pub(crate) fn stall(&self, ways: Ways) {
        self.shared.change(|state| state.stalled = Some(ways));
    }

    /// What is sent vanishes: for good on the connections that there are, and until
    /// `flow` on new ones, which are lost then.
    pub(crate) fn black_hole(&self, ways: Ways) {
        self.shared.change(|state| {
            state.hole = Some(ways);
            state.carried.iter().for_each(|carried| carried.swallow(ways));
        });
    }

    /// The wire is whole again, for new connections and for those that stalled.
    pub(crate) fn flow(&self) {
        self.shared.change(|state| (state.stalled, state.hole) = (None, None));
    }

    /// Flips a bit of what goes this way next on each connection: of its last byte, which
    /// is no length.
    pub(crate) fn damage(&self, ways: Ways) {
        self.shared.change(|state| {
            for way in [OUT, BACK] {
                let hit = |carried: &Arc<Carried>| carried.damaged[way].store(true, SeqCst);
                state.carried.iter().filter(|_| ways.include(way)).for_each(hit);
            }
        });
    }

    /// Every byte takes so much longer, each way.
    pub(crate) fn delay(&self, time: Duration) {
        self.shared.change(|state| state.delay = time);
    }

    /// Writes at most so many bytes at once.
    pub(crate) fn pieces(&self, most: usize) {
        self.shared.change(|state| state.piece = most);
    }

    /// At most so many bytes a second, each way of each connection.
    pub(crate) fn rate(&self, bytes: u64) {
        self.shared.change(|state| state.rate = Some(bytes));
    }

    /// Whoever dials is refused until `listen_again`; connections that there are stay.
    /// The port stays taken, so that nobody else listens there.
    pub(crate) fn refuse(&self) {
        self.shared.change(|state| state.listening = false);
        rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both)
            .expect("Linux stops listening");
    }

    pub(crate) fn listen_again(&self) {
        rustix::net::listen(&self.shared.listener, 128).expect("the port is ours");
        self.shared.change(|state| state.listening = true);
    }

    /// Connections that it has accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Connections that were cut here.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.state().cuts
    }

    /// Waits until it has accepted so many connections in all.
    pub(crate) fn await_accepted(&self, count: u64) {
        let state = self.shared.state();
        drop(self.shared.changed.wait_while(state, |state| state.accepted < count));
    }

    /// Waits until so many connections have been cut here.
    pub(crate) fn await_cuts(&self, count: u64) {
        let state = self.shared.state();
        drop(self.shared.changed.wait_while(state, |state| state.cuts < count));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.ended = true;
            state.cut_all(Cut::Reset);
        });
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
    }
}

/// Cuts go on while it lives.
pub(crate) struct Cutting {
    going: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Cutting {
    fn drop(&mut self) {
        self.going.store(false, SeqCst);
        let _ = self.thread.take().expect("dropped once").join();
    }
}

struct Shared {
    listener: TcpListener,
    address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    target: SocketAddr,
    carried: Vec<Arc<Carried>>,
    schedule: Option<Schedule>,
    /// Single cuts: bytes before each.
    planned: VecDeque<(u64, Cut)>,
    stalled: Option<Ways>,
    hole: Option<Ways>,
    delay: Duration,
    piece: usize,
    rate: Option<u64>,
    listening: bool,
    ended: bool,
    accepted: u64,
    cuts: u64,
}

/// Cuts by bytes.
struct Schedule {
    mean: u64,
    how: Cut,
    dice: Dice,
    left: u64,
}

/// One connection: what was dialled, and ours to the target.
struct Carried {
    ends: [TcpStream; 2],
    /// Not over, closed, reset.
    over: AtomicU8,
    /// Directions that have come to their end.
    finished: AtomicU8,
    swallowed: [AtomicBool; 2],
    damaged: [AtomicBool; 2],
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Takes connections until the proxy is dropped.
    fn accept(self: Arc<Shared>) {
        loop {
            let accepted = self.listener.accept();
            let mut state = self.state();
            if state.ended {
                return;
            }
            if let Ok((near, _)) = accepted {
                let target = state.target;
                drop(state);
                if let Some(carried) = self.connect(near, target) {
                    self.carry(carried);
                }
                continue;
            }
            while !state.listening && !state.ended {
                state = self.changed.wait(state).expect("unpoisoned");
            }
        }
    }

    fn connect(&self, near: TcpStream, target: SocketAddr) -> Option<Carried> {
        let Ok(far) = TcpStream::connect(target) else {
            let _ = set_socket_linger(&near, Some(Duration::ZERO));
            return None;
        };
        for end in [&near, &far] {
            end.set_nodelay(true).expect("set");
            end.set_write_timeout(Some(TICK)).expect("set");
        }
        let [swallowed, damaged] = Default::default();
        let [over, finished] = [ALIVE, 0].map(AtomicU8::new);
        Some(Carried { ends: [near, far], over, finished, swallowed, damaged })
    }

    fn carry(self: &Arc<Shared>, carried: Carried) {
        let carried = Arc::new(carried);
        self.change(|state| {
            state.accepted += 1;
            if let Some(ways) = state.hole {
                carried.swallow(ways);
            }
            state.carried.push(carried.clone());
        });
        for way in [OUT, BACK] {
            let (shared, carried) = (self.clone(), carried.clone());
            thread::spawn(move || {
                if shared.pump(&carried, way).is_err() {
                    carried.end(Cut::Reset);
                } else if carried.finished.fetch_add(1, SeqCst) == 1 {
                    carried.end(Cut::Close);
                }
                shared.change(State::forget_what_is_over);
            });
        }
    }

    /// Forwards one direction to its end. An error: the connection is broken.
    fn pump(&self, carried: &Carried, way: usize) -> io::Result<()> {
        let mut from = &carried.ends[way];
        let mut buf = vec![0; 64 * 1024];
        // What is on its way, and when it is there; an empty piece is the end.
        let mut flying = VecDeque::<(Instant, Vec<u8>)>::new();
        loop {
            if carried.over.load(SeqCst) != ALIVE {
                return Ok(());
            }
            let now = Instant::now();
            if flying.front().is_some_and(|(due, _)| *due <= now) {
                if self.delay_unless_stalled(way).is_none() {
                    continue;
                }
                let (_, mut bytes) = flying.pop_front().expect("the front");
                if bytes.is_empty() {
                    return carried.ends[1 - way].shutdown(Shutdown::Write);
                }
                self.forward(carried, way, &mut bytes)?;
                continue;
            }
            let wait = flying.front().map_or(TICK, |(due, _)| (*due - now).min(TICK));
            let ended = flying.back().is_some_and(|(_, bytes)| bytes.is_empty());
            if ended || flying.len() >= MOST_FLYING {
                // Nothing but time is waited for.
                thread::sleep(wait);
            } else if readable(from, wait)?
                && let Some(delay) = self.delay_unless_stalled(way)
            {
                let n = from.read(&mut buf)?;
                if carried.swallowed[way].load(SeqCst) {
                    if n == 0 {
                        self.await_end(carried);
                    }
                } else if delay.is_zero() && flying.is_empty() && n > 0 {
                    self.forward(carried, way, &mut buf[..n])?;
                } else {
                    flying.push_back((Instant::now() + delay, buf[..n].to_vec()));
                }
            }
        }
    }

    /// The delay there is now; `None` after a while of standstill.
    fn delay_unless_stalled(&self, way: usize) -> Option<Duration> {
        let state = self.state();
        if state.stalled.is_some_and(|ways| ways.include(way)) {
            drop(self.changed.wait_timeout(state, TICK));
            return None;
        }
        Some(state.delay)
    }

    fn forward(&self, carried: &Carried, way: usize, mut bytes: &mut [u8]) -> io::Result<()> {
        if carried.damaged[way].swap(false, SeqCst) {
            *bytes.last_mut().expect("something to forward") ^= 0x10;
        }
        while !bytes.is_empty() {
            let (most, rate, how) = self.change_quietly(|state| state.spend(bytes.len()));
            let (piece, rest) = bytes.split_at_mut(most);
            carried.write(way, piece)?;
            if let Some(how) = how {
                carried.end(how);
                self.change(|state| state.cuts += 1);
                return Ok(());
            }
            if let Some(rate) = rate {
                thread::sleep(Duration::from_secs_f64(most as f64 / rate as f64));
            }
            bytes = rest;
        }
        Ok(())
    }

    fn change_quietly<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state())
    }

    fn await_end(&self, carried: &Carried) {
        let state = self.state();
        let goes_on = |_: &mut State| carried.over.load(SeqCst) == ALIVE;
        drop(self.changed.wait_while(state, goes_on));
    }
}

impl State {
    fn new(target: SocketAddr) -> State {
        State {
            target,
            carried: Vec::new(),
            schedule: None,
            planned: VecDeque::new(),
            stalled: None,
            hole: None,
            delay: Duration::ZERO,
            piece: usize::MAX,
            rate: None,
            listening: true,
            ended: false,
            accepted: 0,
            cuts: 0,
        }
    }

    fn cut_all(&mut self, how: Cut) -> usize {
        let carried = std::mem::take(&mut self.carried);
        let cut = carried.iter().filter(|carried| carried.end(how)).count();
        self.cuts += cut as u64;
        cut
    }

    /// What is over closes with its last handle, which is not here.
    fn forget_what_is_over(&mut self) {
        self.carried.retain(|carried| carried.over.load(SeqCst) == ALIVE);
    }

    /// How many of `n` bytes may go at once, how fast, and whether a cut follows.
    fn spend(&mut self, n: usize) -> (usize, Option<u64>, Option<Cut>) {
        let fast = self.rate.map_or(usize::MAX, |rate| (rate / 50).max(1) as usize);
        let n = n.min(self.piece).min(fast);
        if let Some((left, how)) = self.planned.front_mut() {
            let n = n.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= n as u64;
            let cut = (*left == 0).then_some(*how);
            if cut.is_some() {
                self.planned.pop_front();
            }
            return (n, self.rate, cut);
        }
        let Some(schedule) = &mut self.schedule else { return (n, self.rate, None) };
        let n = n.min(usize::try_from(schedule.left).unwrap_or(usize::MAX));
        schedule.left -= n as u64;
        if schedule.left > 0 {
            return (n, self.rate, None);
        }
        schedule.left = schedule.dice.around(schedule.mean);
        (n, self.rate, Some(schedule.how))
    }
}

impl Carried {
    /// Ends it; `false`: it was over already.
    fn end(&self, how: Cut) -> bool {
        let over = if how == Cut::Reset { RESET } else { CLOSED };
        if self.over.compare_exchange(ALIVE, over, SeqCst, SeqCst).is_err() {
            return false;
        }
        for end in &self.ends {
            if how == Cut::Close {
                let _ = end.shutdown(Shutdown::Both);
            } else {
                // The last handle that is dropped sends the RST; until then this wakes
                // the thread that reads, and nothing goes out.
                let _ = set_socket_linger(end, Some(Duration::ZERO));
                let _ = end.shutdown(Shutdown::Read);
            }
        }
        true
    }

    fn swallow(&self, ways: Ways) {
        for way in [OUT, BACK].into_iter().filter(|way| ways.include(*way)) {
            self.swallowed[way].store(true, SeqCst);
        }
    }

    /// Writes all of it unless the connection ends before.
    fn write(&self, way: usize, mut bytes: &[u8]) -> io::Result<()> {
        let mut to = &self.ends[1 - way];
        while !bytes.is_empty() && self.over.load(SeqCst) == ALIVE {
            match to.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Ways {
    fn include(self, way: usize) -> bool {
        match self {
            Ways::Both => true,
            Ways::Out => way == OUT,
            Ways::Back => way == BACK,
        }
    }
}

/// Bound to a port by its number: Linux leaves it bound when it stops listening.
fn listener() -> TcpListener {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let free = || bind(0).and_then(|listener| listener.local_addr()).expect("bind").port();
    std::iter::repeat_with(free).find_map(|port| bind(port).ok()).expect("there are many")
}

fn readable(socket: &TcpStream, wait: Duration) -> io::Result<bool> {
    let time = Timespec::try_from(wait).expect("a short time");
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    Ok(retry_on_intr(|| poll(&mut fds, Some(&time)))? > 0)
}

/// Indices of the ends that are read: what was dialled, the target.
const OUT: usize = 0;
const BACK: usize = 1;

const ALIVE: u8 = 0;
const CLOSED: u8 = 1;
const RESET: u8 = 2;

/// A thread of the wire looks after so long whether something has changed.
const TICK: Duration = Duration::from_millis(20);
/// Pieces that a delayed direction holds before it takes no more.
const MOST_FLYING: usize = 256;
