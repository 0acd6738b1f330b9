//! One stream of a link: what has arrived on it, how it ended, who waits for it.

use std::io::IoSliceMut;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::carrier::{Answered, Answering, Carries, Greeting};
use super::holding::STILL;
use super::inbox::Inbox;
use super::waiter::Waiter;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::multistream;
use crate::proto::yamux::{Body, Flow, RecvWindow, StreamId};
use crate::resources::budget::{Account, Budget};

/// Shared by the link's table and the conns on it. `state` is a leaf lock but
/// for the link's control queue and the owner's accept queue, which come after.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) flow: Arc<Flow>,
    pub(crate) opened: Instant,
    pub(crate) counters: Counters,
    /// The peer has confirmed it, or has opened it.
    pub(super) acked: AtomicBool,
    /// A conn has it, or had.
    accepted: AtomicBool,
    priority: AtomicU8,
    /// The session whose bytes it carries, if it does.
    pub(crate) carries: OnceLock<Box<Carries>>,
    pub(crate) state: Mutex<State>,
}

/// Bytes and frames in each direction, of payload.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) bytes_received: AtomicU64,
    /// What of it was said before there was a conn.
    preamble: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) writes: AtomicU64,
}

impl Counters {
    /// All that has come was about the conn, but for `held`, which is there for it.
    pub(crate) fn begin(&self, held: usize) {
        let came = self.bytes_received.load(Relaxed);
        self.preamble.store(came.saturating_sub(held as u64), Relaxed);
    }

    /// What has come on the conn.
    pub(crate) fn payload_received(&self) -> u64 {
        self.bytes_received.load(Relaxed).saturating_sub(self.preamble.load(Relaxed))
    }

    pub(crate) fn received(&self, n: usize) {
        self.bytes_received.fetch_add(n as u64, Relaxed);
        self.frames_received.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, n: usize) {
        self.bytes_sent.fetch_add(n as u64, Relaxed);
        self.writes.fetch_add(1, Relaxed);
    }
}

pub(crate) struct State {
    inbox: Inbox,
    window: RecvWindow,
    /// What it takes of the memory budget.
    account: Account,
    /// Consumed and not granted, because it is of low priority.
    withheld: usize,
    /// When something was last taken out of it.
    read_at: Instant,
    /// How the peer's direction ended; reads see it behind the inbox.
    end: Option<End>,
    /// Why nothing can be written any more.
    write_end: Option<Error>,
    /// Our FIN or RST is queued.
    closed: bool,
    /// Bytes sent when the peer last granted credit.
    credited_at: u64,
    /// What arrives is thrown away: reads were shut down.
    deaf: bool,
    /// How it broke off, both directions at once.
    fate: Option<Fate>,
    /// Reads do not wait any more, for this reason.
    barred: Option<Error>,
    /// What the peer said to the head of a session's stream of ours.
    pub(super) answered: Option<Answered>,
    pub(super) user: User,
    pub(super) readers: Waiters,
    pub(super) writers: Waiters,
}

/// Which conns come first where there is not enough for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// It steps aside: while its connection's output waits for the network its writes
    /// wait for the others', and while the host is out of memory its peer may not send.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// While it has something to write the others' writes on its connection wait, and
    /// it is reset last where the host is out of memory.
    High,
}

/// How the peer's direction of a stream ended.
#[derive(Clone)]
pub(crate) enum End {
    /// The peer has finished.
    Fin,
    /// A reset, or the link was lost.
    Broken(Error),
}

/// Why nothing more comes or goes: the first cause stays.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// Its link was lost, without a word: a session may go on over another one.
    Lost(Error),
    /// It was reset, or its link was closed.
    Over(Error),
}

impl Fate {
    /// Of all that is on a link that has ended so.
    pub(crate) fn of(why: &Error) -> Fate {
        match why.code() {
            // Its sessions need not end with what the link has held.
            ErrorCode::ConnectionReset | ErrorCode::DecryptFailed | ErrorCode::OutOfMemory => {
                Fate::Lost(why.clone())
            }
            _ => Fate::Over(why.clone()),
        }
    }
}

/// Who the stream's bytes are for.
pub(crate) enum User {
    /// Nobody yet: the protocol is being agreed on.
    Negotiating(multistream::Listener, Place),
    /// The same for a session's stream, until the head that opens it has come.
    Greeting(Greeting),
    /// A session's stream of ours, until the peer's head has come.
    Answering(Box<Answering>),
    /// A conn, or the accept queue, or a session.
    Conn,
    /// A protocol that the host answers by itself.
    Service(Box<dyn Service>),
    /// Its last handle was dropped, at this moment.
    Gone(Instant),
}

/// A place among the streams that have no protocol yet; dropped, it is free.
pub(crate) struct Place {
    count: Arc<AtomicUsize>,
    /// How many there were without it.
    pub(super) others: usize,
}

impl Place {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Place {
        Place { others: count.fetch_add(1, Relaxed), count: count.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

/// A protocol that is answered where its bytes arrive, without a thread.
pub(crate) trait Service: Send {
    /// The stream was opened: what to say at once.
    fn greet(&mut self) -> Answer {
        Answer::default()
    }

    /// Bytes have arrived. An error ends the stream.
    fn data(&mut self, bytes: &[u8]) -> Result<Answer>;
}

/// What a service says.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// This was all: the stream ends.
    pub(crate) finished: bool,
}

/// A reading call's own memory: the thread that pumps opens frames straight
/// into it if they are for its stream.
pub(crate) struct Direct<'a> {
    pub(super) id: Option<StreamId>,
    pub(super) buf: &'a mut [u8],
    pub(super) filled: usize,
    /// Later bytes went to the inbox: what comes now is not the next any more.
    overtaken: bool,
}

impl<'a> Direct<'a> {
    /// For a read of the stream `id` into `buf`.
    pub(super) fn new(id: StreamId, buf: &'a mut [u8]) -> Direct<'a> {
        Direct { id: Some(id), buf, filled: 0, overtaken: false }
    }

    /// For a thread that pumps for others only.
    pub(crate) fn none() -> Direct<'static> {
        Direct { id: None, buf: &mut [], filled: 0, overtaken: false }
    }

    pub(super) fn room(&self) -> usize {
        self.buf.len() - self.filled
    }

    /// Whether the next `n` bytes of the stream `id` go here.
    fn takes(&self, id: StreamId, n: usize) -> bool {
        self.id == Some(id) && !self.overtaken && n <= self.room()
    }
}

/// What reading comes to.
pub(crate) enum Ready {
    Bytes(usize),
    End(Result<()>),
}

impl Stream {
    /// A new stream of the link's table.
    pub(crate) fn new(
        id: StreamId,
        flow: Arc<Flow>,
        user: User,
        budget: &Arc<Budget>,
        now: Instant,
    ) -> Arc<Stream> {
        // Those that the peer opens are negotiated by us first.
        let acked = matches!(user, User::Negotiating(..));
        Arc::new(Stream {
            id,
            flow,
            opened: now,
            counters: Counters::default(),
            acked: AtomicBool::new(acked),
            accepted: AtomicBool::new(!acked),
            priority: AtomicU8::new(Priority::Normal as u8),
            carries: OnceLock::new(),
            state: Mutex::new(State {
                inbox: Inbox::default(),
                window: RecvWindow::new(),
                account: Account::new(budget.clone()),
                withheld: 0,
                read_at: now,
                end: None,
                write_end: None,
                closed: false,
                credited_at: 0,
                deaf: false,
                fate: None,
                barred: None,
                answered: None,
                user,
                readers: Waiters::default(),
                writers: Waiters::default(),
            }),
        })
    }

    pub(crate) fn priority(&self) -> Priority {
        match self.priority.load(SeqCst) {
            0 => Priority::Low,
            1 => Priority::Normal,
            _ => Priority::High,
        }
    }

    pub(crate) fn set_priority(&self, priority: Priority) {
        self.priority.store(priority as u8, SeqCst);
    }

    /// Somebody has taken it out of the accept queue.
    pub(crate) fn accept(&self) {
        self.accepted.store(true, Relaxed);
    }

    /// Its session, if it has one, is to look at it.
    pub(super) fn stir(&self) {
        if let Some(carries) = self.carries.get() {
            carries.stir();
        }
    }

    /// Whether it is a conn: ours, or accepted.
    pub(super) fn accepted(&self) -> bool {
        self.accepted.load(Relaxed)
    }
}

impl State {
    /// Keeps a body that arrived, for the reader or in its very memory; who calls it wakes
    /// the readers. Returns how many bytes nobody will read.
    pub(super) fn store(
        &mut self,
        body: Body<'_>,
        id: StreamId,
        to: &mut Direct<'_>,
    ) -> Result<usize> {
        let n = body.len();
        let unread = if self.end.is_some() {
            // Dropping it has it checked and thrown away.
            n
        } else if self.deaf {
            // It counts as received, and so must be genuine.
            body.bytes()?;
            n
        } else if self.inbox.is_empty() && to.takes(id, n) {
            body.take_into(&mut to.buf[to.filled..to.filled + n])?;
            to.filled += n;
            0
        } else {
            // Another thread may read the inbox empty before the next body comes:
            // that must not go behind what is here already.
            to.overtaken |= to.id == Some(id) && to.filled > 0;
            self.inbox.push(body)?;
            self.account.hold(self.inbox.capacity());
            0
        };
        Ok(unread)
    }

    /// What a read finds now; `None`: it has to wait.
    pub(super) fn read(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Option<Ready> {
        if self.deaf {
            return Some(Ready::End(Ok(())));
        }
        if !self.inbox.is_empty() {
            let n = self.inbox.read(bufs);
            self.account.hold(self.inbox.capacity());
            return Some(Ready::Bytes(n));
        }
        self.ended().map(Ready::End)
    }

    /// The same without taking the bytes.
    pub(super) fn peek(&self, buf: &mut [u8]) -> Option<Ready> {
        if self.deaf {
            return Some(Ready::End(Ok(())));
        }
        if !self.inbox.is_empty() {
            return Some(Ready::Bytes(self.inbox.peek(buf)));
        }
        self.ended().map(Ready::End)
    }

    fn ended(&self) -> Option<Result<()>> {
        match &self.end {
            Some(End::Fin) => Some(Ok(())),
            Some(End::Broken(e)) => Some(Err(e.clone())),
            None => self.barred.clone().map(Err),
        }
    }

    /// Bytes that have arrived and wait for a read.
    pub(crate) fn held(&self) -> usize {
        self.inbox.len()
    }

    /// Takes bytes that were peeked at.
    pub(super) fn skip(&mut self, n: usize) {
        self.inbox.consume(n);
        self.account.hold(self.inbox.capacity());
    }

    /// The application has consumed so much: the window to grant, if it is due.
    /// `paused`: it is not granted yet.
    pub(super) fn consumed(
        &mut self,
        n: usize,
        now: Instant,
        rtt: Duration,
        paused: bool,
    ) -> Option<u32> {
        self.read_at = now;
        if n == 0 || self.end.is_some() {
            return None;
        }
        if paused {
            self.withheld += n;
            return None;
        }
        let (n, account) = (n + self.withheld(), &mut self.account);
        self.window.consumed(n, now, rtt, &mut |extra| account.promise(extra))
    }

    /// The window that the peer may fill.
    pub(crate) fn window(&self) -> u32 {
        self.window.size()
    }

    /// Nothing more is read: what waits is thrown away. Returns how much it was.
    pub(super) fn deafen(&mut self) -> usize {
        self.deaf = true;
        self.readers.wake();
        self.throw_away()
    }

    /// What waits, to be read elsewhere, and when something was last: whoever reads here
    /// fails with `why`, even if the peer has finished.
    pub(crate) fn leave(&mut self, why: &Error) -> (Inbox, Instant) {
        self.end = Some(End::Broken(why.clone()));
        self.account.hold(0);
        (std::mem::take(&mut self.inbox), self.read_at)
    }

    /// What waits is thrown away, and was not read. Returns how much it was.
    pub(super) fn throw_away(&mut self) -> usize {
        let n = self.inbox.clear();
        self.account.hold(0);
        n
    }

    /// Keeps what waits in no more room than it needs.
    pub(crate) fn shrink(&mut self) {
        self.inbox.shrink();
        self.account.hold(self.inbox.capacity());
    }

    /// What it holds, if nobody has read any of it for a while, and since when.
    pub(super) fn unread(&self, now: Instant) -> Option<(usize, Instant)> {
        let still = now.saturating_duration_since(self.read_at) >= STILL;
        (still && !self.inbox.is_empty()).then(|| (self.inbox.capacity(), self.read_at))
    }

    /// Its reader is at work, though elsewhere.
    pub(crate) fn note_reader(&mut self, now: Instant) {
        self.read_at = now;
    }

    /// What waits is thrown away though somebody may want it: there is no end behind it any
    /// more. Nothing if all was read.
    pub(super) fn spoil(&mut self, why: &Error) {
        if self.throw_away() > 0 {
            self.end = Some(End::Broken(why.clone()));
            self.readers.wake();
        }
    }

    /// What was not granted though it was consumed.
    pub(super) fn withheld(&mut self) -> usize {
        std::mem::take(&mut self.withheld)
    }

    /// The peer has finished.
    pub(super) fn finish(&mut self) {
        self.account.end();
        self.end.get_or_insert(End::Fin);
        self.readers.wake();
    }

    /// The stream was reset, or its link lost. Bytes and an end that had arrived
    /// stay.
    pub(super) fn break_off(&mut self, why: &Error) {
        self.end_by(Fate::Over(why.clone()));
    }

    /// The link ended: by a loss, or because somebody closed it.
    pub(super) fn lose(&mut self, why: &Error) {
        self.end_by(Fate::of(why));
    }

    fn end_by(&mut self, fate: Fate) {
        let (Fate::Lost(why) | Fate::Over(why)) = &fate;
        self.account.end();
        self.end.get_or_insert_with(|| End::Broken(why.clone()));
        self.write_end.get_or_insert_with(|| why.clone());
        self.fate.get_or_insert(fate);
        self.closed = true;
        self.readers.wake();
        self.writers.wake();
    }

    /// Reads that would wait fail from now on.
    pub(crate) fn bar(&mut self, why: &Error) {
        self.barred.get_or_insert_with(|| why.clone());
        self.readers.wake();
    }

    /// What the peer said to the head of a session's stream of ours, once.
    pub(crate) fn take_answer(&mut self) -> Option<Answered> {
        self.answered.take()
    }

    /// Whether somebody waits to write.
    #[cfg(test)]
    pub(crate) fn has_writers(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Nobody has it any more, since now if somebody had.
    pub(super) fn leave_alone(&mut self) {
        if !matches!(self.user, User::Gone(_)) {
            self.user = User::Gone(Instant::now());
        }
    }

    /// Something that writers wait for has changed.
    pub(crate) fn wake_writers(&mut self) {
        self.writers.wake();
    }

    /// Whether what arrives now counts.
    pub(super) fn is_receiving(&self) -> bool {
        self.end.is_none()
    }

    /// How it broke off, if it did.
    pub(crate) fn fate(&self) -> Option<&Fate> {
        self.fate.as_ref()
    }

    /// Why it broke off, whatever had come from the peer by then.
    pub(super) fn broken_off(&self) -> Option<Error> {
        let (Fate::Lost(why) | Fate::Over(why)) = self.fate.as_ref()?;
        Some(why.clone())
    }

    /// The peer has finished its direction.
    pub(crate) fn finished(&self) -> bool {
        matches!(self.end, Some(End::Fin))
    }

    /// What arrived so far was a head: the window counts from here, and a stream that comes
    /// to be idle does not keep the room for it.
    pub(super) fn begin(&mut self) {
        self.window = RecvWindow::new();
        if self.inbox.is_empty() {
            self.shrink();
        }
    }

    /// Nothing more is written. Returns whether that is news, and so a FIN due.
    pub(super) fn close(&mut self, why: Error) -> bool {
        self.write_end.get_or_insert(why);
        self.writers.wake();
        !std::mem::replace(&mut self.closed, true)
    }

    /// The peer grants credit, and we have sent so much by now. Whether there was
    /// a reason: it let us send nothing before, or we have sent something since.
    pub(super) fn credit_was_due(&mut self, sent: u64) -> bool {
        std::mem::replace(&mut self.credited_at, sent) != sent
    }

    pub(super) fn write_end(&self) -> Option<&Error> {
        self.write_end.as_ref()
    }

    /// Our FIN or RST is queued.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// How it broke, if it did.
    pub(crate) fn broken(&self) -> Option<Error> {
        match &self.end {
            Some(End::Broken(e)) => Some(e.clone()),
            _ => None,
        }
    }

    /// Neither side will say anything more: the link may forget it.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.end.is_some() && !matches!(self.user, User::Conn)
    }
}

/// Threads to wake when something changes.
#[derive(Default)]
pub(crate) struct Waiters(Vec<Arc<Waiter>>);

impl Waiters {
    pub(crate) fn add(&mut self, waiter: &Arc<Waiter>) {
        if !self.0.iter().any(|w| Arc::ptr_eq(w, waiter)) {
            self.0.push(waiter.clone());
        }
    }

    pub(crate) fn remove(&mut self, waiter: &Arc<Waiter>) {
        self.0.retain(|w| !Arc::ptr_eq(w, waiter));
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one who waits longest, to be woken once the lock is free that it would wait for.
    pub(crate) fn take_one(&mut self) -> Option<Arc<Waiter>> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Adds those who wait in `others`, who do not any more.
    pub(crate) fn take(&mut self, others: &mut Waiters) {
        others.0.drain(..).for_each(|waiter| self.add(&waiter));
    }

    /// Wakes all; who still has to wait adds itself again.
    pub(crate) fn wake(&mut self) {
        for waiter in self.0.drain(..) {
            waiter.wake();
        }
    }
}
