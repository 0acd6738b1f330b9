//! The host's one event loop thread. It reads links that nobody else reads, writes
//! what a socket did not take at once, and looks at the clock.
//!
//! It holds links, never a handle of the host: so the host can end, and ends it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;
use slab::Slab;

use super::drive::TICK;
use super::link::Link;

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
    chore: bool,
    stop: bool,
}

/// Starts the thread. Its handle is given to links; `stop` ends it.
pub(crate) fn start(name: String) -> io::Result<(Arc<Handle>, JoinHandle<()>)> {
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
        timers: BinaryHeap::new(),
        chore: None,
    };
    let thread = std::thread::Builder::new().name(name).spawn(move || reactor.run())?;
    Ok((handle, thread))
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
        self.errand(|e| e.timers.push((Instant::now() + FIRST_LOOK, token)));
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
        self.errand(|e| e.tick.push(link.clone()));
    }

    /// Reads the link though no event says so.
    pub(super) fn pump_soon(&self, link: &Arc<Link>) {
        self.errand(|e| e.pump.push(link.clone()));
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
        self.errand(|e| e.chore = true);
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.errand(|e| e.stop = true);
    }

    fn errand(&self, add: impl FnOnce(&mut Errands)) {
        {
            let mut errands = self.errands.lock();
            if errands.stop {
                // Nobody takes it any more, and what it holds would hold us.
                return;
            }
            add(&mut errands);
        }
        if let Err(e) = self.waker.wake() {
            log::error!("the event loop cannot be woken: {e}");
        }
    }
}

struct Reactor {
    poll: Poll,
    handle: Arc<Handle>,
    ticking: Vec<Arc<Link>>,
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// When the chore is due.
    chore: Option<Instant>,
}

impl Reactor {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the event loop cannot wait for events: {e}");
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => {}
            }
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

    fn timeout(&self) -> Option<Duration> {
        if !self.ticking.is_empty() {
            return Some(TICK);
        }
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let next = [timer, self.chore].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// `false`: the loop is to end.
    fn do_errands(&mut self) -> bool {
        let errands = {
            let mut errands = self.handle.errands.lock();
            let stop = errands.stop;
            Errands {
                stop,
                ..std::mem::replace(&mut *errands, Errands { stop, ..Errands::default() })
            }
        };
        if errands.chore {
            self.chore = Some(Instant::now());
        }
        self.timers.extend(errands.timers.into_iter().map(Reverse));
        self.ticking.extend(errands.tick);
        for link in errands.pump {
            guarded(&link, |link| link.on_readable());
        }
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
        if !self.ticking.is_empty() {
            let now = Instant::now();
            self.ticking.retain(|link| link.tick(now));
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
    }
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
/// When a new link is looked at first: soon enough for the shortest limits.
const FIRST_LOOK: Duration = Duration::from_millis(100);
