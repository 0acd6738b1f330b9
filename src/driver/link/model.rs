//! Who sends and who sleeps, for a model checker.
//!
//! These are the files themselves that decide it, compiled once more in another `world`:
//! with locks, threads and time that shuttle orders, and with a socket that takes as much
//! as a script lets it. What they find around them is a link in `small`. The other end,
//! `peer`, opens each byte that the socket takes. A wake that is lost shows as a deadlock,
//! and so do bytes that wait where nobody is going to send them.

#![allow(clippy::duplicate_mod, reason = "the files themselves, in another world")]
#![allow(dead_code, reason = "what they offer is for others too")]

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use super::{LinkCounters, Patience, millis};
use crate::driver::carrier::Curious;
use crate::driver::drive::TICK;
use crate::driver::stream::Priority;
use crate::error::Result;
use crate::proto::yamux::StreamId;

use peer::{Peer, content};
use send::{Outbound, Sent};
use small::{Fuse, Link, PIECE, REPLY, Stream};
use socket::Said;
use world::{begin_time, now, yield_now};
use write::{Left, Written};

mod peer;
mod small;
mod socket;
mod world;

// The real ones.
#[path = "receipts.rs"]
mod receipts;
#[path = "rest.rs"]
mod rest;
#[path = "send.rs"]
mod send;
#[path = "wait.rs"]
mod wait;
#[path = "write.rs"]
mod write;

/// Whether a write joins others is left to chance.
mod run {
    use shuttle::rand::{Rng, thread_rng};

    use super::Stream;

    #[derive(Default)]
    pub(super) struct Run {}

    impl Run {
        pub(super) fn joins(&mut self, _: &Stream, size: usize) -> bool {
            size <= 1024 && thread_rng().gen_bool(0.5)
        }
    }
}

/// Little, so that all of them are reached.
mod bounds {
    pub(super) const SMALL_BATCH: usize = 8 * 1024;
    pub(super) const LARGE_BATCH: usize = 12 * 1024;
    pub(super) const MOST_WAITING: usize = 20 * 1024;
    pub(super) const MOST_SEALED: usize = MOST_WAITING + 8 * 1024;
    pub(super) const ROOM_FOR_LAST: usize = 1024;
    pub(super) const ROOM_FOR_FIRST: usize = 3 * 1024;
    pub(super) const MOST_JOINED: usize = 2 * 1024;
    pub(super) const WHOLE: usize = 7 * 1024;
    pub(super) const KEPT: usize = 2 * 1024;
    pub(super) const MOST_ROUNDS: usize = 2;
    pub(super) const MOST_AT_ONCE: usize = 2;
}

#[test]
fn what_is_written_arrives_once_and_in_order_and_nobody_sleeps_over_it() {
    run_all(|| {
        let mut rng = thread_rng();
        let (writers, served) = (rng.gen_range(0..=3), rng.gen_range(0..=2));
        Plan { writers, served, ..Plan::default() }
    });
}

#[test]
fn a_flush_returns_once_its_bytes_are_out_and_not_before() {
    run_all(|| Plan { writers: thread_rng().gen_range(1..=3), flushes: 1.0, ..Plan::default() });
}

#[test]
fn what_rests_goes_out_before_its_thread_sleeps_or_with_a_tick() {
    run_all(|| Plan { served: thread_rng().gen_range(1..=3), ..Plan::default() });
}

#[test]
fn a_socket_that_fails_wakes_everybody() {
    run_all(|| {
        let mut rng = thread_rng();
        let (writers, served) = (rng.gen_range(0..=2), rng.gen_range(0..=2));
        Plan { writers, served, fails: true, ..Plan::default() }
    });
}

#[test]
fn the_end_of_our_direction_comes_behind_all_that_was_said_before() {
    run_all(|| {
        let mut rng = thread_rng();
        let (writers, served) = (rng.gen_range(0..=2), rng.gen_range(0..=2));
        Plan { writers, served, closes: true, ..Plan::default() }
    });
}

/// What happens in a schedule.
#[derive(Default)]
struct Plan {
    /// Threads that each open a stream and write on it.
    writers: usize,
    /// Streams that the peer opens: it writes, is answered, and either side ends.
    served: usize,
    /// How often a writer flushes.
    flushes: f64,
    /// The socket fails in the middle.
    fails: bool,
    /// The link is closed in the middle.
    closes: bool,
}

/// Under two schedulers: 2,000 schedules each, or as many as take a second and a half, or
/// `POINTSUB_SCHEDULES`; `POINTSUB_SEED` repeats a run. Faults in a window of a few steps
/// take ten thousand.
fn run_all(plan: fn() -> Plan) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let asked = number("POINTSUB_SCHEDULES");
    let schedules = asked.unwrap_or(2_000);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let any = clock.map_or(1, |now| now.as_nanos() as u64);
    let seed = number("POINTSUB_SEED").unwrap_or(any);
    let n = usize::try_from(schedules).unwrap();
    let random = Box::new(RandomScheduler::new_from_seed(seed, n));
    // Few threads run, and one comes late.
    let pct = Box::new(PctScheduler::new_from_seed(seed, 4, n));
    let schedulers: [(&str, Box<dyn Scheduler + Send>); 2] = [("random", random), ("pct", pct)];
    for (name, scheduler) in schedulers {
        eprintln!("{name} scheduler, {schedules} schedules: POINTSUB_SEED={seed}");
        let mut config = Config::default();
        // What is sealed and opened goes deep.
        config.stack_size = 0x40_000;
        config.silence_warnings = true;
        config.max_time = asked.is_none().then_some(Duration::from_millis(1_500));
        Runner::new(scheduler, config).run(move || scenario(&plan()));
    }
}

fn scenario(plan: &Plan) {
    begin_time();
    let step = [1_500, 200_000][thread_rng().gen_range(0..2)];
    let theirs: Vec<StreamId> = (1..=plan.served as StreamId).map(|n| 2 * n).collect();
    let (peer, sealer) = Peer::new(theirs.iter().copied(), step);
    let link = Link::new(peer, sealer);
    let theirs: Vec<_> = theirs.iter().map(|&id| Stream::carrying(id, priority())).collect();
    for stream in &theirs {
        stream.flow.set_credit(step as u32, 0);
        assert!(link.insert(stream));
    }
    link.start();
    let network = spawn(&link, |link| link.socket.drain());
    let reactor = spawn(&link, |link| link.react());
    let flushes = plan.flushes;
    let spawn_writer = |_| {
        spawn(&link, move |link| {
            let writer = Writer::open(link, step)?;
            let stream = writer.stream.clone();
            let flusher = (flushes > 0.0)
                .then(|| spawn(link, move |link| (0..2).all(|_| flush(link, &stream))));
            let alive = writer.some(flushes);
            if thread_rng().gen_bool(0.5) {
                flusher.map(|thread| thread.join().unwrap());
            }
            (alive && writer.end()).then_some(())
        })
    };
    let writers: Vec<_> = (0..plan.writers).map(spawn_writer).collect();
    let served = theirs.clone();
    let server = spawn(&link, move |link| {
        (0..served.len()).all(|i| serve(link, &served[i], &served[..i]));
    });
    let breaker = plan.fails.then(|| spawn(&link, |link| link.socket.fail()));
    let close = plan.closes.then(|| {
        spawn(&link, move |link| {
            if let Some(writer) = Writer::open(link, step) {
                writer.close();
            }
            // The peer sees the end, and goes too.
            link.socket.fail();
        })
    });

    talk(&link, &theirs);
    let ids = (0..plan.writers as StreamId).map(|n| 2 * n + 1);
    let ended = |peer: &Peer| ids.clone().all(|id| peer.fins.contains(&id));
    link.socket.await_peer(ended);
    let others = [breaker, close].into_iter().flatten();
    others.for_each(|thread| thread.join().unwrap());
    writers.into_iter().for_each(|thread| _ = thread.join().unwrap());
    server.join().unwrap();
    if !plan.fails && !plan.closes {
        link.flush_control();
        assert!(link.death().is_none(), "nothing has happened to it");
    }
    link.socket.errand(|errands| errands.stop = true);
    network.join().unwrap();
    reactor.join().unwrap();
    assert!(
        link.death().is_none() || theirs.iter().all(|stream| stream.session.knows()),
        "a look is lost with its link"
    );
}

fn spawn<R: Send + 'static>(
    link: &Arc<Link>,
    f: impl FnOnce(&Arc<Link>) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let link = link.clone();
    thread::spawn(move || f(&link))
}

fn priority() -> Priority {
    [Priority::Low, Priority::Normal, Priority::High][thread_rng().gen_range(0..3)]
}

/// The peer's side of its streams: it often waits until it has heard all of one before it
/// opens the next.
fn talk(link: &Arc<Link>, theirs: &[Arc<Stream>]) {
    let socket = &link.socket;
    let mut pings = 0;
    let mut ping = || {
        if thread_rng().gen_bool(0.2) {
            pings += 1;
            socket.arrive(Said::Ping(pings));
        }
        pings
    };
    let mut pieces = Vec::new();
    for stream in theirs {
        let id = stream.id;
        socket.arrive(Said::Hello(id));
        ping();
        let n = thread_rng().gen_range(0..=2usize);
        pieces.push(n);
        for _ in 0..n {
            socket.arrive(Said::Data(id));
            ping();
        }
        socket.arrive(Said::Fin(id));
        if thread_rng().gen_bool(0.6) {
            listen(link, stream, n);
            if thread_rng().gen_bool(0.5) {
                stream.session.await_knowledge();
            }
        }
    }
    theirs.iter().zip(&pieces).for_each(|(stream, &n)| listen(link, stream, n));
    theirs.iter().for_each(|stream| stream.session.await_knowledge());
    let pings = ping();
    socket.await_peer(|peer| peer.pongs == pings);
}

/// Until it has heard all that belongs to the stream, on which it has said `n` pieces.
fn listen(link: &Link, stream: &Stream, n: usize) {
    let (id, all) = (stream.id, n * PIECE + 1);
    let confirmed = |peer: &Peer| peer.receipts.get(&id).is_some_and(|&got| got as usize == all);
    link.socket.await_peer(confirmed);
    link.socket.await_peer(|peer| peer.granted(id) == (n * PIECE) as u64);
    if !link.socket.await_peer(|peer| peer.fins.contains(&id)) {
        return;
    }
    let has = link.socket.look(|net| net.peer.has(id));
    link.socket.arrive(Said::Received(id, has as u32 + 1));
}

/// Ours: reads to the end, answers, ends, and goes on to the next. In between it may do
/// something else for long: what others wait for is not left to it. `false`: the link is
/// gone.
fn serve(link: &Arc<Link>, stream: &Arc<Stream>, before: &[Arc<Stream>]) -> bool {
    if !link.accept(stream) {
        return false;
    }
    if thread_rng().gen_bool(0.3) {
        before.iter().for_each(|stream| stream.session.await_knowledge());
    }
    let mut read = 0;
    loop {
        match link.read(stream) {
            Some(true) => read += 1,
            Some(false) => break,
            None => return false,
        }
    }
    if thread_rng().gen_bool(0.3) {
        let id = stream.id;
        link.socket.await_peer(|peer| peer.receipts.contains_key(&id) && peer.has(id) == REPLY);
    }
    stream.written.store(REPLY, SeqCst);
    let writer = Writer { link, stream: stream.clone(), manner: manner(true) };
    let alive = read == 0 || writer.some(0.1);
    alive && writer.end()
}

/// Flushes a stream. `false`: the link is gone.
fn flush(link: &Arc<Link>, stream: &Arc<Stream>) -> bool {
    let written = stream.written.load(SeqCst);
    let manner = thread_rng().gen_bool(0.8);
    let patience = if manner { Patience::Forever } else { Patience::Until(now() + TICK) };
    let Ok(out) = link.flush(stream, patience) else { return false };
    assert!(out || patience != Patience::Forever, "it has not waited");
    let has = link.socket.look(|net| net.peer.has(stream.id));
    assert!(!out || has >= written, "flushed {written} bytes, and {has} are out");
    true
}

/// How a writer waits.
#[derive(Clone, Copy)]
enum Manner {
    Patient,
    Hasty,
    /// Not at all.
    Nonblocking,
    /// Neither: it is told.
    Session,
}

fn manner(carrying: bool) -> Manner {
    let manners = [Manner::Patient, Manner::Hasty, Manner::Nonblocking, Manner::Session];
    manners[thread_rng().gen_range(0..3 + usize::from(carrying))]
}

struct Writer<'a> {
    link: &'a Arc<Link>,
    stream: Arc<Stream>,
    manner: Manner,
}

impl<'a> Writer<'a> {
    /// `None`: the link is gone.
    fn open(link: &'a Arc<Link>, step: usize) -> Option<Writer<'a>> {
        let mut out = link.lock_for_first(Patience::Forever).ok()??;
        if out.finished {
            link.unlock_and_leave(out, Ok(())).ok()?;
            return None;
        }
        let id = out.tx.next_id()?;
        let carrying = thread_rng().gen_bool(0.5);
        let stream =
            if carrying { Stream::carrying(id, priority()) } else { Stream::new(id, priority()) };
        stream.flow.set_credit(step as u32, 0);
        if !link.insert(&stream) {
            return None;
        }
        let first = content(id, 0, 20);
        link.write_first(out, &stream, first).ok()?;
        stream.written.store(first.len(), SeqCst);
        if thread_rng().gen_bool(0.2) {
            // The peer's answer to that may be all it waits for.
            link.socket.await_peer(|peer| peer.has(id) >= first.len());
        }
        Some(Writer { link, stream, manner: manner(carrying) })
    }

    /// Writes some, and flushes. `false`: the link is gone.
    fn some(&self, flushes: f64) -> bool {
        for _ in 0..thread_rng().gen_range(1..=3) {
            let most = [50, 500, 3_000, 20_000][thread_rng().gen_range(0..4)];
            let at = self.stream.written.load(SeqCst);
            let bytes = content(self.stream.id, at, thread_rng().gen_range(1..=most));
            let mut left = bytes;
            while !left.is_empty() {
                let Ok(n) = self.write(left) else { return false };
                left = &left[n.unwrap_or(0)..];
                self.stream.written.fetch_add(n.unwrap_or(0), SeqCst);
                if thread_rng().gen_bool(if n.is_none() { 0.5 } else { 0.1 }) {
                    // It counts on the kernel having all that soon.
                    let (id, written) = (self.stream.id, self.stream.written.load(SeqCst));
                    self.link.socket.await_peer(|peer| peer.has(id) >= written);
                }
            }
            if thread_rng().gen_bool(flushes) && !flush(self.link, &self.stream) {
                return false;
            }
        }
        true
    }

    fn write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        let bufs = [IoSlice::new(bytes)];
        let patience = match self.manner {
            Manner::Patient => Patience::Forever,
            Manner::Hasty => Patience::Until(now() + TICK * 2),
            Manner::Nonblocking => Patience::None,
            Manner::Session => return self.advance(&bufs),
        };
        let written = self.link.write(&self.stream, &bufs, patience);
        if matches!(self.manner, Manner::Nonblocking) {
            yield_now();
        }
        written
    }

    /// As a session does that catches up.
    fn advance(&self, bufs: &[IoSlice<'_>]) -> Result<Option<usize>> {
        let Writer { link, stream, .. } = self;
        stream.set_curious(Curious::Yes);
        match link.write_now(stream, bufs, thread_rng().gen_bool(0.7))? {
            Written::Some { n, left, kept, .. } => {
                if let Some(kept) = kept {
                    let mut bytes = vec![0; n];
                    kept.open(&mut bytes).expect("what was sealed opens again");
                    assert_eq!(bytes, bufs[0][..n], "what is kept is what was written");
                }
                if left == Left::Ours {
                    link.leave_rest_to_reactor();
                }
                return Ok(Some(n));
            }
            Written::NoRoom { .. } => link.tell_when_writable(stream.watcher()),
            Written::NoCredit if thread_rng().gen_bool(0.5) => {
                link.ask_for_ack(stream);
                let ready = || stream.flow.credit() > 0;
                link.await_writable(stream, Patience::Forever, ready)?;
                return Ok(None);
            }
            Written::NoCredit => {}
        }
        link.say_rest();
        stream.session.await_news();
        Ok(None)
    }

    /// Ends the stream, as a conn does that is dropped.
    fn end(self) -> bool {
        let Writer { link, stream, .. } = self;
        stream.set_curious(Curious::Calmly);
        if link.finish(&stream).is_err() {
            return false;
        }
        if thread_rng().gen_bool(0.5) {
            link.say_rest();
        } else {
            link.leave();
        }
        // A session keeps it until it has looked at the last receipt.
        if thread_rng().gen_bool(0.5) {
            link.release(&stream);
        }
        true
    }

    /// Ends the stream, and then the link.
    fn close(self) {
        let Writer { link, stream, .. } = self;
        let rests = link.finish(&stream).is_ok();
        link.end_output();
        if rests && link.death().is_none() {
            let (has, ended) = link.socket.look(|net| {
                let id = stream.id;
                (net.peer.has(id), net.peer.fins.contains(&id))
            });
            let written = stream.written.load(SeqCst);
            assert_eq!((has, ended), (written, true), "what was said before is not out");
        }
    }
}
