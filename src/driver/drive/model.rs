//! A link in small, around the real `Drive`, for a model checker.
//!
//! What a link does about a socket that threads share is here once more, without
//! bytes: the pump, the wait, the leader, the reactor with its edges and ticks, the
//! waiter with its two ways to sleep, and the end. The socket is a queue of stream
//! numbers. Shuttle runs it under thousands of schedules; a wake that is lost shows
//! as a deadlock, and a byte that nobody reads as well.

use std::collections::VecDeque;
use std::time::Instant;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::{Config, Runner, thread};

use super::{Drive, Left, Role, TICK, Ticket, Turn};

#[test]
fn no_wake_is_lost_and_one_at_most_sleeps_on_the_socket() {
    run("random", |seed, n| Box::new(RandomScheduler::new_from_seed(seed, n)));
}

#[test]
fn nor_where_few_threads_run_and_one_comes_late() {
    run("pct", |seed, n| Box::new(PctScheduler::new_from_seed(seed, 4, n)));
}

/// 6,000 schedules each, or `POINTSUB_SCHEDULES`; `POINTSUB_SEED` repeats a run.
fn run(name: &str, scheduler: fn(u64, usize) -> Box<dyn Scheduler + Send>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let schedules = number("POINTSUB_SCHEDULES").unwrap_or(6_000);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let any = clock.map_or(1, |now| now.as_nanos() as u64);
    let seed = number("POINTSUB_SEED").unwrap_or(any);
    eprintln!("{name} scheduler, {schedules} schedules: POINTSUB_SEED={seed}");
    let scheduler = scheduler(seed, usize::try_from(schedules).unwrap());
    Runner::new(scheduler, Config::default()).run(scenario);
}

/// Readers of a few streams, some in a hurry, some without patience for a wait; one
/// who waits elsewhere, as `accept` does, and never leads; a peer that sends in
/// pieces; perhaps the link's death in the middle.
fn scenario() {
    let mut rng = thread_rng();
    let readers = rng.gen_range(0..=3usize);
    let each = rng.gen_range(1..=3usize);
    let dies = rng.gen_bool(0.3);
    // The last one is what the acceptor waits for.
    let streams = readers + 1;
    let link = Link::new(streams);
    let reactor = spawn(&link, Link::react);
    let mut threads = vec![spawn(&link, move |link| link.accept_all(readers))];
    for stream in 0..readers {
        // Two threads may read one stream.
        let pair = rng.gen_bool(0.3);
        let manner = match rng.gen_range(0..4) {
            0 => Manner::Hasty,
            1 => Manner::Nonblocking,
            _ => Manner::Patient,
        };
        threads.push(spawn(&link, move |link| link.read_all(stream, manner)));
        if pair {
            threads.push(spawn(&link, move |link| link.read_all(stream, Manner::Patient)));
        }
    }
    let peer = spawn(&link, move |link| {
        let mut left = vec![each; streams];
        while left.iter().any(|&n| n > 0) {
            let stream = thread_rng().gen_range(0..streams);
            if left[stream] > 0 {
                left[stream] -= 1;
                link.kernel.arrive(stream);
            }
        }
        // The last word on each stream, so that both of a pair return.
        (0..streams).for_each(|stream| link.kernel.arrive(streams + stream));
    });
    if dies {
        link.die();
    }
    peer.join().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    if !dies {
        let read: usize = link.streams.iter().map(|s| s.read.load(SeqCst)).sum();
        assert_eq!(read, streams * each, "something was sent and not read");
    }
    link.kernel.change(|state| state.stop = true);
    reactor.join().unwrap();
}

fn spawn(link: &Arc<Link>, f: impl FnOnce(&Arc<Link>) + Send + 'static) -> thread::JoinHandle<()> {
    let link = link.clone();
    thread::spawn(move || f(&link))
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Patient,
    /// Its deadlines may pass at any moment; then it tries again.
    Hasty,
    /// It first looks once without blocking.
    Nonblocking,
}

struct Link {
    kernel: Kernel,
    drive: Mutex<Drive<Arc<Waiter>>>,
    rx: Mutex<bool>,
    streams: Vec<Stream>,
    dead: AtomicBool,
    start: Instant,
    /// Half ticks.
    now: AtomicUsize,
}

struct Stream {
    state: Mutex<State>,
    /// For the acceptor.
    arrived: Condvar,
    read: AtomicUsize,
}

#[derive(Default)]
struct State {
    held: usize,
    ended: bool,
    readers: Vec<Arc<Waiter>>,
}

impl State {
    fn tell(&mut self, arrived: &Condvar, kernel: &Kernel) {
        self.readers.drain(..).for_each(|waiter| waiter.wake(kernel));
        arrived.notify_all();
    }
}

/// What the machine below gives: one socket, one poll with edges, sleeping threads.
#[derive(Default)]
struct Kernel {
    state: Mutex<KernelState>,
    changed: Condvar,
}

#[derive(Default)]
struct KernelState {
    unread: VecDeque<usize>,
    shut: bool,
    /// The reactor's poll watches the socket for reading; it saw an edge.
    armed: bool,
    edge: bool,
    /// Threads in a poll of the socket.
    sleepers: usize,
    tick: bool,
    pump: bool,
    stop: bool,
}

impl Link {
    fn new(streams: usize) -> Arc<Link> {
        let stream = |_| Stream {
            state: Mutex::new(State::default()),
            arrived: Condvar::new(),
            read: AtomicUsize::new(0),
        };
        let link = Link {
            kernel: Kernel::default(),
            drive: Mutex::new(Drive::new()),
            rx: Mutex::new(false),
            streams: (0..streams).map(stream).collect(),
            dead: AtomicBool::new(false),
            start: Instant::now(),
            now: AtomicUsize::new(0),
        };
        link.kernel.change(|state| state.armed = true);
        Arc::new(link)
    }

    fn now(&self) -> Instant {
        self.start + TICK / 2 * self.now.load(SeqCst) as u32
    }

    /// Reads until the stream ends.
    fn read_all(&self, id: usize, manner: Manner) {
        let me = Waiter::new();
        loop {
            if manner == Manner::Nonblocking && self.take(id, None).is_none() {
                self.pump(None, false);
            }
            if let Some(false) = self.wait(&me, id, manner == Manner::Hasty) {
                return self.hand_back();
            }
            self.streams[id].state.lock().unwrap().readers.retain(|w| !Arc::ptr_eq(w, &me));
        }
    }

    /// Waits for a stream as `accept` does for its queue: on a lock of its own.
    fn accept_all(&self, id: usize) {
        let stream = &self.streams[id];
        let mut state = stream.state.lock().unwrap();
        while state.held > 0 || !state.ended {
            if state.held > 0 {
                state.held -= 1;
                stream.read.fetch_add(1, SeqCst);
            } else {
                state = stream.arrived.wait(state).unwrap();
            }
        }
    }

    fn hand_back(&self) {
        let mut drive = self.drive.lock().unwrap();
        let before = drive.interest();
        drive.hand_back();
        self.rearm(before, &drive);
    }

    /// Takes what is there: `false` at the end. If there is nothing, `me` is noted.
    fn take(&self, id: usize, me: Option<&Arc<Waiter>>) -> Option<bool> {
        let stream = &self.streams[id];
        let mut state = stream.state.lock().unwrap();
        if state.held > 0 {
            state.held -= 1;
            stream.read.fetch_add(1, SeqCst);
            return Some(true);
        }
        if state.ended {
            return Some(false);
        }
        if let Some(me) = me
            && !state.readers.iter().any(|w| Arc::ptr_eq(w, me))
        {
            state.readers.push(me.clone());
        }
        None
    }

    /// `Link::wait`; `None`: too late.
    fn wait(&self, me: &Arc<Waiter>, id: usize, hasty: bool) -> Option<bool> {
        let mut place = Place { link: self, ticket: None, slept: false };
        loop {
            if let Some(found) = self.take(id, Some(me)) {
                return Some(found);
            }
            if hasty && thread_rng().gen_bool(0.2) {
                return None;
            }
            match self.enter(me, &mut place.ticket) {
                Turn::Lead => place.slept |= self.lead(me, id, hasty),
                Turn::Follow => me.park(&self.kernel, hasty),
                Turn::Dead => {
                    return Some(self.take(id, Some(me)).expect("the dead tell their streams"));
                }
            }
        }
    }

    fn enter(&self, me: &Arc<Waiter>, ticket: &mut Option<Ticket>) -> Turn {
        let mut drive = self.drive.lock().unwrap();
        let before = drive.interest();
        let turn = drive.enter(me, ticket);
        self.rearm(before, &drive);
        turn
    }

    fn rearm(&self, before: (bool, bool), drive: &Drive<Arc<Waiter>>) {
        let led = matches!(drive.role, Role::Leader(_));
        assert!(led || drive.followers.is_empty(), "some follow and nobody leads");
        let now = drive.interest();
        if before != now {
            self.kernel.change(|state| {
                state.armed = now.0;
                state.edge = now.0 && (state.shut || !state.unread.is_empty());
            });
        }
    }

    fn lead(&self, me: &Arc<Waiter>, id: usize, hasty: bool) -> bool {
        let mut slept = false;
        loop {
            self.pump(Some(id), false);
            if me.take_wake() {
                return slept;
            }
            if self.dead.load(SeqCst) {
                thread::yield_now();
                return slept;
            }
            let late = me.poll(&self.kernel, hasty);
            slept |= thread_rng().gen_bool(0.5);
            if me.take_wake() || late {
                return slept;
            }
        }
    }

    /// `Link::pump`: `dry` until the socket is empty, otherwise until the caller's
    /// stream got something. Either may be cut short.
    fn pump(&self, direct: Option<usize>, dry: bool) {
        let ended = {
            let mut ended = self.rx.lock().unwrap();
            let mut budget = 3;
            loop {
                if *ended {
                    return;
                }
                if budget == 0 {
                    self.kernel.change(|state| state.pump = true);
                    break false;
                }
                budget -= 1;
                let id = match self.kernel.read() {
                    Read::Byte(id) => id,
                    Read::Nothing => break false,
                    Read::End => {
                        *ended = true;
                        break true;
                    }
                };
                let last = id >= self.streams.len();
                let id = id % self.streams.len();
                let mut state = self.streams[id].state.lock().unwrap();
                if last {
                    state.ended = true;
                } else {
                    state.held += 1;
                }
                state.tell(&self.streams[id].arrived, &self.kernel);
                if !dry && direct == Some(id) {
                    break false;
                }
            }
        };
        if ended {
            self.die();
        }
    }

    /// `Link::die`, in its order.
    fn die(&self) {
        if self.dead.swap(true, SeqCst) {
            return;
        }
        *self.rx.lock().unwrap() = true;
        for stream in &self.streams {
            let mut state = stream.state.lock().unwrap();
            state.ended = true;
            state.tell(&stream.arrived, &self.kernel);
        }
        let sleepers = {
            let mut drive = self.drive.lock().unwrap();
            self.kernel.change(|state| (state.armed, state.edge) = (false, false));
            drive.die()
        };
        sleepers.iter().for_each(|w| w.wake(&self.kernel));
        self.kernel.change(|state| state.shut = true);
    }

    /// The event loop's thread.
    fn react(self: &Arc<Link>) {
        let mut ticking = false;
        loop {
            let (edge, pump, stop) = {
                let mut state = self.kernel.state.lock().unwrap();
                while !(state.edge || state.pump || state.tick || state.stop || ticking) {
                    state = self.kernel.changed.wait(state).unwrap();
                }
                ticking |= std::mem::take(&mut state.tick);
                let edge = std::mem::take(&mut state.edge);
                (edge, std::mem::take(&mut state.pump), state.stop)
            };
            for due in [edge, pump] {
                if due && self.drive.lock().unwrap().reactor_reads() {
                    self.pump(None, true);
                }
            }
            if stop {
                return;
            }
            if ticking {
                thread::yield_now();
                self.now.fetch_add(1, SeqCst);
                let mut drive = self.drive.lock().unwrap();
                let before = drive.interest();
                ticking = drive.tick(self.now());
                self.rearm(before, &drive);
            }
        }
    }
}

struct Place<'a> {
    link: &'a Link,
    ticket: Option<Ticket>,
    slept: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let left = {
            let mut drive = self.link.drive.lock().unwrap();
            let before = drive.interest();
            let left = drive.forget(ticket, self.slept, self.link.now());
            self.link.rearm(before, &drive);
            left
        };
        match left {
            Left::Promote(waiter) => waiter.wake(&self.link.kernel),
            Left::StartTicks => self.link.kernel.change(|state| state.tick = true),
            Left::Nothing => {}
        }
    }
}

enum Read {
    Byte(usize),
    Nothing,
    End,
}

impl Kernel {
    fn change(&self, f: impl FnOnce(&mut KernelState)) {
        f(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// A piece comes from the network.
    fn arrive(&self, id: usize) {
        self.change(|state| {
            state.unread.push_back(id);
            state.edge |= state.armed;
        });
    }

    fn read(&self) -> Read {
        let mut state = self.state.lock().unwrap();
        match state.unread.pop_front() {
            Some(id) => Read::Byte(id),
            None if state.shut => Read::End,
            None => Read::Nothing,
        }
    }
}

/// `driver::waiter::Waiter`, step by step, over the kernel above.
struct Waiter {
    woken: AtomicBool,
    polling: AtomicBool,
    /// The eventfd, and the token of `unpark`.
    bell: AtomicBool,
    token: AtomicBool,
}

impl Waiter {
    fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            woken: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            bell: AtomicBool::new(false),
            token: AtomicBool::new(false),
        })
    }

    fn wake(&self, kernel: &Kernel) {
        if self.woken.swap(true, SeqCst) {
            return;
        }
        let how = if self.polling.load(SeqCst) { &self.bell } else { &self.token };
        kernel.change(|_| how.store(true, SeqCst));
    }

    fn take_wake(&self) -> bool {
        self.woken.load(SeqCst) && self.woken.swap(false, SeqCst)
    }

    fn park(&self, kernel: &Kernel, hasty: bool) {
        while !self.take_wake() {
            if hasty && thread_rng().gen_bool(0.3) {
                return;
            }
            let mut state = kernel.state.lock().unwrap();
            while !self.token.load(SeqCst) {
                state = kernel.changed.wait(state).unwrap();
            }
            self.token.store(false, SeqCst);
        }
    }

    /// Returns whether the deadline has passed.
    fn poll(&self, kernel: &Kernel, hasty: bool) -> bool {
        let late = hasty && thread_rng().gen_bool(0.3);
        self.polling.store(true, SeqCst);
        if !self.woken.load(SeqCst) && !late {
            let mut state = kernel.state.lock().unwrap();
            assert!(!state.armed, "a leader sleeps while the reactor is armed");
            state.sleepers += 1;
            assert_eq!(state.sleepers, 1, "two threads sleep on one socket");
            while state.unread.is_empty() && !state.shut && !self.bell.load(SeqCst) {
                state = kernel.changed.wait(state).unwrap();
            }
            state.sleepers -= 1;
            self.bell.store(false, SeqCst);
        }
        self.polling.store(false, SeqCst);
        late
    }
}
