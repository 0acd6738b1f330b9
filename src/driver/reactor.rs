//! The host's one event loop thread. It reads links that nobody else reads, writes
//! what a socket did not take at once, and looks at the clock.
//!
//! It holds links, never a handle of the host: so the host can end, and ends it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;
use slab::Slab;

use super::drive::TICK;
use super::link::Link;
use crate::error::{Error, Result};

/// What other threads reach the reactor by.
pub(crate) struct Handle {
    registry: Registry,
    waker: mio::Waker,
    links: Mutex<Links>,
    errands: Mutex<Errands>,
    chore: OnceLock<Chore>,
}

/// What the loop does for its owner now and then, without a lock. It returns when
/// it is to be called again unasked.
pub(crate) type Chore = Box<dyn Fn(Instant) -> Option<Instant> + Send + Sync>;

/// Something short to do on the loop, without a lock and without waiting.
pub(crate) trait Task: Send + Sync {
    fn run(self: Arc<Self>, now: Instant);
}

/// A task at its time; the earliest is the greatest.
struct Alarm {
    at: Instant,
    task: Weak<dyn Task>,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

/// The links by token. A token carries the generation of its place, so that an
/// event that comes late cannot meet a stranger.
#[derive(Default)]
struct Links {
    slots: Slab<(usize, Arc<Link>)>,
    generation: usize,
}

/// What other threads want done.
#[derive(Default)]
struct Errands {
    tick: Vec<Arc<Link>>,
    pump: Vec<Arc<Link>>,
    timers: Vec<(Instant, Token)>,
    /// Links to end, and why.
    doomed: Vec<(Token, Error)>,
    acks: Vec<(Instant, Weak<Link>)>,
    tasks: Vec<Arc<dyn Task>>,
    alarms: Vec<Alarm>,
    chore: bool,
    stop: bool,
    /// The loop looks here by then anyway; `None`: not before something happens.
    looks_by: Option<Instant>,
}

impl Errands {
    fn is_empty(&self) -> bool {
        self.tick.is_empty()
            && self.pump.is_empty()
            && self.timers.is_empty()
            && self.doomed.is_empty()
            && self.acks.is_empty()
            && self.tasks.is_empty()
            && self.alarms.is_empty()
            && !self.chore
            && !self.stop
    }
}

/// Starts the thread. Its handle is given to links; `stop` ends it.
pub(crate) fn start(name: String) -> Result<(Arc<Handle>, JoinHandle<()>)> {
    let poll = Poll::new()?;
    let handle = Arc::new(Handle {
        registry: poll.registry().try_clone()?,
        waker: mio::Waker::new(poll.registry(), WAKE)?,
        links: Mutex::default(),
        errands: Mutex::default(),
        chore: OnceLock::new(),
    });
    let reactor = Reactor {
        poll,
        handle: handle.clone(),
        ticking: Vec::new(),
        next_tick: Instant::now(),
        timers: BinaryHeap::new(),
        acks: VecDeque::new(),
        alarms: BinaryHeap::new(),
        chore: None,
    };
    let thread = std::thread::Builder::new().name(name).spawn(move || reactor.run());
    Ok((handle, thread.map_err(Error::no_thread)?))
}

impl Handle {
    /// A place in the table, and a first look by the timer.
    pub(super) fn add(&self, link: &Arc<Link>) -> Token {
        let token = {
            let mut links = self.links.lock();
            links.generation = links.generation.wrapping_add(1) & GENERATIONS;
            let generation = links.generation;
            let index = links.slots.insert((generation, link.clone()));
            token(generation, index)
        };
        let at = Instant::now() + FIRST_LOOK;
        self.errand(Some(at), |e| e.timers.push((at, token)));
        token
    }

    pub(super) fn remove(&self, token: Token) {
        let (generation, index) = untoken(token);
        let mut links = self.links.lock();
        if links.slots.get(index).is_some_and(|(g, _)| *g == generation) {
            links.slots.remove(index);
        }
    }

    fn link(&self, token: Token) -> Option<Arc<Link>> {
        let (generation, index) = untoken(token);
        let links = self.links.lock();
        links.slots.get(index).filter(|(g, _)| *g == generation).map(|(_, link)| link.clone())
    }

    /// Watches a socket for (reading, writing).
    pub(super) fn register(
        &self,
        socket: &TcpStream,
        token: Token,
        want: (bool, bool),
    ) -> io::Result<()> {
        match interest(want) {
            Some(interest) => {
                self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest)
            }
            None => Ok(()),
        }
    }

    pub(super) fn reregister(
        &self,
        socket: &TcpStream,
        token: Token,
        before: (bool, bool),
        now: (bool, bool),
    ) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        match (interest(before), interest(now)) {
            (None, _) => self.register(socket, token, now),
            (Some(_), Some(now)) => self.registry.reregister(&mut SourceFd(&fd), token, now),
            (Some(_), None) => self.registry.deregister(&mut SourceFd(&fd)),
        }
    }

    /// Before the descriptor closes: its number may be another's at once.
    pub(super) fn deregister(&self, socket: &TcpStream) {
        // It may not be registered just now.
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    /// Looks at the link at every tick until it wants none any more.
    pub(super) fn start_ticks(&self, link: &Arc<Link>) {
        self.errand(Some(Instant::now() + TICK), |e| e.tick.push(link.clone()));
    }

    /// Reads the link though no event says so.
    pub(super) fn pump_soon(&self, link: &Arc<Link>) {
        self.errand(None, |e| e.pump.push(link.clone()));
    }

    /// Ends the link in a moment: called where its locks are held.
    pub(super) fn end_soon(&self, token: Token, why: Error) {
        self.errand(None, |e| e.doomed.push((token, why)));
    }

    /// The chore of this loop; only the first one counts.
    pub(crate) fn set_chore(
        &self,
        chore: impl Fn(Instant) -> Option<Instant> + Send + Sync + 'static,
    ) {
        let _ = self.chore.set(Box::new(chore));
    }

    /// Does the chore in a moment.
    pub(crate) fn chore_soon(&self) {
        self.errand(None, |e| e.chore = true);
    }

    /// Has the link tell its peers what has come, in a moment.
    pub(super) fn ack_soon(&self, link: &Arc<Link>) {
        let at = Instant::now() + ACK_DELAY;
        self.errand(Some(at), |e| e.acks.push((at, Arc::downgrade(link))));
    }

    /// Runs the task in a moment. `false`: the thread has ended.
    pub(crate) fn run_soon(&self, task: Arc<dyn Task>) -> bool {
        self.errand(None, |e| e.tasks.push(task))
    }

    /// Runs the task at that time, if it is there then.
    pub(crate) fn run_at(&self, at: Instant, task: Weak<dyn Task>) {
        self.errand(Some(at), |e| e.alarms.push(Alarm { at, task }));
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.errand(None, |e| e.stop = true);
    }

    /// Has the loop do something: now, or by then. It is woken only if it would
    /// sleep longer; while it is awake it looks before it sleeps. `false`: it has ended.
    fn errand(&self, by: Option<Instant>, add: impl FnOnce(&mut Errands)) -> bool {
        let by = by.unwrap_or_else(Instant::now);
        {
            let mut errands = self.errands.lock();
            if errands.stop {
                // Nobody takes it any more, and what it holds would hold us.
                return false;
            }
            add(&mut errands);
            if errands.looks_by.is_some_and(|looks_by| looks_by <= by) {
                return true;
            }
        }
        if let Err(e) = self.waker.wake() {
            log::error!("the event loop cannot be woken: {e}");
        }
        true
    }
}

struct Reactor {
    poll: Poll,
    handle: Arc<Handle>,
    ticking: Vec<Arc<Link>>,
    /// When they are looked at.
    next_tick: Instant,
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Links that have acks to send, in the order of their times. One that has ended by then
    /// has long let go of its socket.
    acks: VecDeque<(Instant, Weak<Link>)>,
    alarms: BinaryHeap<Alarm>,
    /// When the chore is due.
    chore: Option<Instant>,
}

impl Reactor {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the event loop cannot wait for events: {e}");
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => {}
            }
            // What these do is looked for behind them: nobody has to wake the loop for it.
            self.handle.errands.lock().looks_by = Some(Instant::now());
            for event in &events {
                let Some(link) = self.handle.link(event.token()) else { continue };
                guarded(&link, |link| {
                    if event.is_writable() {
                        link.on_writable();
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        link.on_readable();
                    }
                });
            }
            if !self.do_errands() {
                return;
            }
            self.tick();
            self.fire();
            self.do_chore();
        }
    }

    /// How long to sleep; whoever has an errand from here on knows it too.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let tick = (!self.ticking.is_empty()).then_some(self.next_tick);
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let acks = self.acks.front().map(|(at, _)| *at);
        let alarm = self.alarms.peek().map(|alarm| alarm.at);
        let next = [tick, timer, acks, alarm, self.chore].into_iter().flatten().min();
        let mut errands = self.handle.errands.lock();
        if !errands.is_empty() {
            return Some(Duration::ZERO);
        }
        errands.looks_by = next;
        next.map(|at| at.saturating_duration_since(now))
    }

    /// `false`: the loop is to end.
    fn do_errands(&mut self) -> bool {
        let errands = {
            let mut errands = self.handle.errands.lock();
            let stop = errands.stop;
            // Until it sleeps again it looks at once.
            let looks_by = Some(Instant::now());
            let left = Errands { stop, looks_by, ..Errands::default() };
            Errands { stop, ..std::mem::replace(&mut *errands, left) }
        };
        if errands.chore {
            self.chore = Some(Instant::now());
        }
        self.timers.extend(errands.timers.into_iter().map(Reverse));
        if self.ticking.is_empty() {
            self.next_tick = Instant::now() + TICK;
        }
        self.ticking.extend(errands.tick);
        for link in errands.pump {
            guarded(&link, |link| link.on_readable());
        }
        for (token, why) in errands.doomed {
            let Some(link) = self.handle.link(token) else { continue };
            log::warn!(link = link.id, peer:% = link.peer; "a connection is given up: {why}");
            guarded(&link, |link| link.die(why.clone()));
        }
        self.acks.extend(errands.acks);
        self.alarms.extend(errands.alarms);
        let now = Instant::now();
        errands.tasks.into_iter().for_each(|task| run(task, now));
        !errands.stop
    }

    fn do_chore(&mut self) {
        let now = Instant::now();
        if self.chore.is_some_and(|at| at <= now) {
            let chore = self.handle.chore.get();
            let next = chore.map(|chore| catch_unwind(AssertUnwindSafe(|| chore(now))));
            self.chore = next.and_then(|next| next.ok().flatten());
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.next_tick <= now {
            self.ticking.retain(|link| guarded(link, |link| link.tick(now)).unwrap_or_default());
            self.next_tick = now + TICK;
        }
    }

    fn fire(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, token))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            let Some(link) = self.handle.link(token) else { continue };
            if let Some(next) = guarded(&link, |link| link.on_timer(now)).flatten() {
                self.timers.push(Reverse((next, token)));
            }
        }
        while self.acks.front().is_some_and(|(at, _)| *at <= now) {
            if let Some(link) = self.acks.pop_front().and_then(|(_, link)| link.upgrade()) {
                guarded(&link, |link| link.send_acks());
            }
        }
        while let Some(alarm) = self.alarms.peek()
            && alarm.at <= now
        {
            let task = self.alarms.pop().and_then(|alarm| alarm.task.upgrade());
            if let Some(task) = task {
                run(task, now);
            }
        }
    }
}

/// A panic, which is a bug of ours, ends the task and not the loop.
fn run(task: Arc<dyn Task>, now: Instant) {
    let _ = catch_unwind(AssertUnwindSafe(|| task.run(now)));
}

/// A panic, which is a bug of ours, ends the link and not the loop of all others.
fn guarded<R>(link: &Arc<Link>, f: impl FnOnce(&Arc<Link>) -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(|| f(link)));
    result.inspect_err(|_| link.die_of_panic()).ok()
}

fn interest((read, write): (bool, bool)) -> Option<Interest> {
    match (read, write) {
        (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (true, false) => Some(Interest::READABLE),
        (false, true) => Some(Interest::WRITABLE),
        (false, false) => None,
    }
}

fn token(generation: usize, index: usize) -> Token {
    Token(generation << HALF | index)
}

fn untoken(token: Token) -> (usize, usize) {
    (token.0 >> HALF, token.0 & ((1 << HALF) - 1))
}

const HALF: u32 = usize::BITS / 2;
const WAKE: Token = Token(usize::MAX);
/// One bit fewer than there is room for, so that no link has the waker's token.
const GENERATIONS: usize = (1 << (HALF - 1)) - 1;
/// How long a peer waits at most to hear what has come of a session.
const ACK_DELAY: Duration = Duration::from_millis(100);
/// When a new link is looked at first: soon enough for the shortest limits.
const FIRST_LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conn, Host, Listener};

    #[test]
    fn a_token_of_a_link_that_is_gone_meets_no_other() {
        let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
        let _listener = Listener::bind(&server, "/x").unwrap();
        let client = Host::new().unwrap();
        let _conn = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
        let link = client.handle.core.links().remove(0);
        let (handle, thread) = start("a test".into()).unwrap();
        let old = handle.add(&link);
        handle.remove(old);
        let new = handle.add(&link);
        assert_eq!(untoken(old).1, untoken(new).1, "the place is used again");
        assert!(handle.link(old).is_none() && handle.link(new).is_some());
        handle.remove(old);
        assert!(handle.link(new).is_some() && handle.link(WAKE).is_none());
        handle.remove(new);
        handle.stop();
        thread.join().unwrap();
    }
}
