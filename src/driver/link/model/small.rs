//! A link in small: what the files of the real one that run here find around them, as it is
//! there where that matters to who sends and who sleeps.

use std::marker::PhantomData;
use std::net::Shutdown;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use shuttle::rand::{Rng, thread_rng};

use super::peer::{Peer, content};
use super::rest::Rest;
use super::send::Outbound;
use super::socket::{Handle, Said, Socket};
use super::world::atomic::Ordering::SeqCst;
use super::world::atomic::{AtomicBool, AtomicUsize};
use super::world::{Mutex, Waiter, now, pass_time, yield_now};
use super::{LinkCounters, Patience, Sent};
use crate::driver::carrier::{Carries, Curious, Watcher};
use crate::driver::drive::Drive;
use crate::driver::stream::{Counters, Direct, Priority};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::noise::Sealer;
use crate::proto::yamux::{Control, ControlQueue, Flow, Role, StreamId, Tx};
use crate::resources::budget::{Account, Budget, Pressure};
use crate::resources::limits::Limit;

pub(super) struct Link {
    pub(super) opened: Instant,
    pub(super) counters: LinkCounters,
    pub(super) socket: Socket,
    pub(super) tx: Mutex<Outbound>,
    pub(super) urgent: AtomicUsize,
    pub(super) control: Mutex<ControlQueue>,
    pub(super) rest: Rest,
    pub(super) joined: AtomicBool,
    pub(super) drive: Mutex<Drive<Arc<Waiter>>>,
    pub(super) spin: Spin,
    pub(super) acks_due: Mutex<Vec<Arc<Stream>>>,
    pub(super) blocked: Mutex<Vec<Weak<dyn Watcher>>>,
    pub(super) has_blocked: AtomicBool,
    pub(super) taken: std::sync::atomic::AtomicU64,
    pub(super) reactor: Handle,
    pub(super) token: OnceLock<mio::Token>,
    dead: OnceLock<Error>,
    rx: Mutex<Inbound>,
}

#[derive(Default)]
struct Inbound {
    table: Vec<Arc<Stream>>,
    ended: bool,
}

/// `driver::stream::Stream`, but for the bytes that arrive.
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) flow: Arc<Flow>,
    pub(super) counters: Counters,
    pub(super) carries: OnceLock<Box<Carries>>,
    pub(super) state: Mutex<State>,
    pub(super) session: Arc<Session>,
    /// So much was written.
    pub(super) written: std::sync::atomic::AtomicUsize,
    priority: Priority,
    /// The accept queue.
    greeted: Mutex<(bool, Waiters)>,
}

#[derive(Default)]
pub(super) struct State {
    /// What waits for the reader.
    held: usize,
    /// How the peer's direction has ended.
    end: Option<Result<()>>,
    closed: bool,
    /// Nobody uses it any more.
    gone: bool,
    write_end: Option<Error>,
    pub(super) readers: Waiters,
    pub(super) writers: Waiters,
}

#[derive(Default)]
pub(super) struct Waiters(Vec<Arc<Waiter>>);

/// What uses a stream that carries a session.
#[derive(Default)]
pub(super) struct Session {
    stirred: Mutex<(bool, Waiters)>,
    /// News came that it has not looked at.
    owed: AtomicBool,
}

impl Link {
    pub(super) fn new(peer: Peer, sealer: Sealer) -> Arc<Link> {
        let budget = Budget::new(1 << 30, |_| ());
        Arc::new(Link {
            opened: now(),
            counters: LinkCounters::default(),
            socket: Socket::new(peer),
            tx: Mutex::new(Outbound::new(Tx::new(sealer, Role::Dialer), Account::new(budget))),
            urgent: AtomicUsize::new(0),
            control: Mutex::new(ControlQueue::new(64)),
            rest: Rest::default(),
            joined: AtomicBool::new(false),
            drive: Mutex::new(Drive::new()),
            spin: Spin,
            acks_due: Mutex::default(),
            blocked: Mutex::default(),
            has_blocked: AtomicBool::new(false),
            taken: std::sync::atomic::AtomicU64::new(0),
            reactor: Handle,
            token: OnceLock::new(),
            dead: OnceLock::new(),
            rx: Mutex::default(),
        })
    }

    pub(super) fn start(self: &Arc<Link>) {
        self.token.set(mio::Token(0)).expect("a link is started once");
        let interest = self.drive.lock().interest();
        self.socket.watch(interest);
    }

    pub(super) fn death(&self) -> Option<&Error> {
        self.dead.get()
    }

    pub(super) fn pressure(&self) -> Pressure {
        Pressure::Low
    }

    pub(super) fn gone(&self) -> Error {
        let gone = || Error::new(ErrorCode::ConnectionAborted, "it is being closed");
        self.death().cloned().unwrap_or_else(gone)
    }

    /// Whether it is alive.
    pub(super) fn insert(&self, stream: &Arc<Stream>) -> bool {
        let mut inbound = self.rx.lock();
        if !inbound.ended {
            inbound.table.push(stream.clone());
        }
        !inbound.ended
    }

    /// As in `pump`, and so are the next ones.
    pub(super) fn pump(self: &Arc<Link>, direct: &mut Direct<'_>, dry: bool) {
        self.pump_leading(direct, dry);
        self.look_round();
        self.say_rest();
    }

    pub(super) fn pump_leading(self: &Arc<Link>, _: &mut Direct<'_>, _: bool) {
        let result = self.pump_locked(&mut self.rx.lock());
        match result {
            Ok(()) => self.flush_control(),
            Err(e) => {
                self.say_last();
                self.die(e);
            }
        }
    }

    pub(super) fn pump_last(self: &Arc<Link>) {
        let _ = self.pump_locked(&mut self.rx.lock());
    }

    fn pump_locked(self: &Arc<Link>, inbound: &mut Inbound) -> Result<()> {
        while !inbound.ended {
            match self.socket.read() {
                Ok(Some(said)) => self.on(said, inbound)?,
                Ok(None) => break,
                Err(e) => return Err(Error::with_source(ErrorCode::ConnectionReset, "lost", e)),
            }
        }
        Ok(())
    }

    fn on(self: &Arc<Link>, said: Said, inbound: &mut Inbound) -> Result<()> {
        let find = |id| inbound.table.iter().find(|stream| stream.id == id).cloned();
        match said {
            Said::Ping(value) => return self.push(Control::Pong(value)),
            Said::Hello(id) => {
                let Some(stream) = find(id) else { return Ok(()) };
                let _state = stream.state.lock();
                // Under this lock our answer precedes whatever the accepting thread writes.
                let mut control = self.control.lock();
                stream.accept();
                let (flow, bytes) = (stream.flow.clone(), content(id, 0, REPLY).to_vec());
                control.push(Control::Reply { id, flow, bytes })?;
                self.mark_control();
            }
            Said::Data(id) => {
                let Some(stream) = find(id) else { return Ok(()) };
                stream.counters.received(PIECE);
                let mut state = stream.state.lock();
                state.held += PIECE;
                state.readers.wake();
                self.kept(&stream, PIECE)?;
            }
            Said::Credit(id, n) => {
                let Some(stream) = find(id) else { return Ok(()) };
                stream.flow.add_credit(n)?;
                stream.state.lock().writers.wake();
                if let Some(carries) = stream.carries.get() {
                    self.tell(carries);
                }
                if !self.control.lock().is_empty() {
                    self.mark_control();
                }
            }
            Said::Received(id, n) => {
                let Some(stream) = find(id) else { return Ok(()) };
                stream.session.owed.store(true, SeqCst);
                self.on_received(&stream, n)?;
            }
            Said::Fin(id) => {
                let Some(stream) = find(id) else { return Ok(()) };
                let mut state = stream.state.lock();
                state.end = Some(Ok(()));
                state.readers.wake();
                self.kept_end(&stream)?;
                if state.is_over() {
                    drop(state);
                    inbound.table.retain(|other| other.id != id);
                }
            }
        }
        Ok(())
    }

    /// `Link::die`, in its order.
    pub(super) fn die(self: &Arc<Link>, why: Error) {
        if self.dead.set(why.clone()).is_err() {
            return;
        }
        let streams = {
            let mut inbound = self.rx.lock();
            inbound.ended = true;
            std::mem::take(&mut inbound.table)
        };
        for stream in &streams {
            let mut state = stream.state.lock();
            state.end.get_or_insert(Err(why.clone()));
            state.write_end.get_or_insert_with(|| why.clone());
            state.readers.wake();
            state.writers.wake();
            drop(state);
            stream.session.stirred();
            let mut greeted = stream.greeted.lock();
            greeted.1.wake();
        }
        self.end_rest();
        let sleepers = {
            let mut drive = self.drive.lock();
            self.socket.watch((false, false));
            drive.die()
        };
        sleepers.iter().for_each(|waiter| waiter.wake());
        let _ = self.socket.shutdown(Shutdown::Both);
        self.tx.lock().end();
    }

    pub(super) fn die_quietly(self: &Arc<Link>, why: Error) {
        self.die(why);
    }

    /// As in `open`.
    pub(super) fn finish(&self, stream: &Stream) -> Result<bool> {
        let mut state = stream.state.lock();
        let news = !std::mem::replace(&mut state.closed, true);
        state.write_end.get_or_insert_with(|| Error::new(ErrorCode::BrokenPipe, "shut down"));
        state.writers.wake();
        if news {
            self.push_to_rest(Control::Fin { id: stream.id })?;
        }
        Ok(news)
    }

    /// The last handle is gone.
    pub(super) fn release(&self, stream: &Stream) {
        let over = {
            let mut state = stream.state.lock();
            state.gone = true;
            state.is_over()
        };
        if over {
            self.rx.lock().table.retain(|other| other.id != stream.id);
        }
    }

    /// As in `close`.
    pub(super) fn end_output(self: &Arc<Link>) {
        while let Some((mark, all)) = self.said()
            && self.send_up_to(mark, None, Patience::Forever).is_ok_and(|sent| sent != Sent::Late)
            && !all
        {}
        let mut out = self.tx.lock();
        out.finished = true;
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// `None`: the link is gone. `Some(false)`: the peer has finished.
    pub(super) fn read(self: &Arc<Link>, stream: &Arc<Stream>) -> Option<bool> {
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            let mut state = stream.state.lock();
            if state.held > 0 {
                let n = std::mem::take(&mut state.held);
                return Some(self.credit(stream, n).map(|()| true));
            }
            if let Some(end) = &state.end {
                return Some(end.clone().map(|()| false));
            }
            state.readers.add(&me);
            None
        };
        let result = self.wait(&me, None, &mut Direct::none(), ready);
        stream.state.lock().readers.remove(&me);
        self.flush_control();
        result.ok()??.ok()
    }

    fn credit(&self, stream: &Stream, consumed: usize) -> Result<()> {
        let delta = consumed as u32;
        stream.flow.grant(delta);
        self.push(Control::Window { id: stream.id, delta })?;
        stream.carries.get().map_or(Ok(()), |carries| self.acknowledge(stream, carries))
    }

    /// Waits for a stream of the peer's. `false`: none comes.
    pub(super) fn accept(self: &Arc<Link>, stream: &Arc<Stream>) -> bool {
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            let mut greeted = stream.greeted.lock();
            if !greeted.0 {
                greeted.1.add(&me);
            }
            (greeted.0 || self.death().is_some()).then_some(greeted.0)
        };
        let result = self.wait(&me, None, &mut Direct::none(), ready);
        stream.greeted.lock().1.remove(&me);
        result.is_ok_and(|came| came == Some(true))
    }

    /// The event loop's thread.
    pub(super) fn react(self: &Arc<Link>) {
        let mut ticking = false;
        loop {
            let errands = self.socket.await_errands(ticking);
            if errands.writable {
                self.on_writable();
            }
            if errands.readable {
                self.on_readable();
            }
            ticking |= errands.tick;
            if errands.acks {
                self.send_acks();
            }
            if errands.stop {
                return;
            }
            // A poll may be an early one, of a link that another thread is about to end.
            yield_now();
            if ticking {
                pass_time();
                ticking = self.tick(now());
            }
        }
    }

    pub(super) fn flood(&self, _: Limit, _: u64) -> Result<()> {
        Ok(())
    }

    pub(super) fn look_at_proofs(&self, _: Instant) {}
}

impl Stream {
    pub(super) fn new(id: StreamId, priority: Priority) -> Arc<Stream> {
        Arc::new(Stream {
            id,
            flow: Flow::new(),
            counters: Counters::default(),
            carries: OnceLock::new(),
            state: Mutex::default(),
            session: Arc::default(),
            written: std::sync::atomic::AtomicUsize::new(0),
            priority,
            greeted: Mutex::default(),
        })
    }

    /// The same that carries a session.
    pub(super) fn carrying(id: StreamId, priority: Priority) -> Arc<Stream> {
        let stream = Stream::new(id, priority);
        let carries = Carries::new(stream.watcher(), 0, false);
        assert!(stream.carries.set(carries).is_ok());
        stream
    }

    pub(super) fn watcher(&self) -> Weak<dyn Watcher> {
        let session: Arc<dyn Watcher> = self.session.clone();
        Arc::downgrade(&session)
    }

    pub(super) fn set_curious(&self, curious: Curious) {
        if let Some(carries) = self.carries.get() {
            carries.set_curious(curious);
        }
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    fn accept(&self) {
        let mut greeted = self.greeted.lock();
        greeted.0 = true;
        greeted.1.wake();
    }
}

impl State {
    pub(super) fn write_end(&self) -> Option<&Error> {
        self.write_end.as_ref()
    }

    pub(super) fn broken_off(&self) -> Option<Error> {
        self.end.clone()?.err()
    }

    pub(super) fn finished(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }

    fn is_over(&self) -> bool {
        self.closed && self.end.is_some() && self.gone
    }
}

impl Waiters {
    pub(super) fn add(&mut self, waiter: &Arc<Waiter>) {
        if !self.0.iter().any(|w| Arc::ptr_eq(w, waiter)) {
            self.0.push(waiter.clone());
        }
    }

    pub(super) fn remove(&mut self, waiter: &Arc<Waiter>) {
        self.0.retain(|w| !Arc::ptr_eq(w, waiter));
    }

    pub(super) fn wake(&mut self) {
        self.0.drain(..).for_each(|waiter| waiter.wake());
    }
}

impl Session {
    /// Sleeps until something has happened.
    pub(super) fn await_news(&self) {
        let me = Waiter::current();
        loop {
            let mut stirred = self.stirred.lock();
            if std::mem::take(&mut stirred.0) {
                return;
            }
            stirred.1.add(&me);
            drop(stirred);
            me.park(None);
        }
    }

    /// Sleeps until it knows all.
    pub(super) fn await_knowledge(&self) {
        let me = Waiter::current();
        loop {
            let mut stirred = self.stirred.lock();
            if self.knows() {
                return;
            }
            stirred.1.add(&me);
            drop(stirred);
            me.park(None);
        }
    }

    /// Whether it was told of all that it wanted to know.
    pub(super) fn knows(&self) -> bool {
        !self.owed.load(SeqCst)
    }
}

impl Watcher for Session {
    fn stirred(&self) {
        self.owed.store(false, SeqCst);
        let mut stirred = self.stirred.lock();
        stirred.0 = true;
        stirred.1.wake();
    }

    fn look(&self) {
        self.stirred();
    }
}

/// It looks once, or not.
pub(super) struct Spin;

impl Spin {
    pub(super) fn until(&self, found: impl FnOnce() -> bool) -> bool {
        thread_rng().gen_bool(0.3) && found()
    }
}

/// A panic is the end of the schedule, not of the link.
pub(super) struct Fuse<'a> {
    pub(super) unwinding: bool,
    link: PhantomData<&'a Link>,
}

impl<'a> Fuse<'a> {
    pub(super) fn new(_: &'a Arc<Link>) -> Fuse<'a> {
        Fuse { unwinding: false, link: PhantomData }
    }
}

/// Bytes of an answer to a hello, and of what the peer says at once.
pub(super) const REPLY: usize = 40;
pub(super) const PIECE: usize = 100;
