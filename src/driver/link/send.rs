//! Sending: one thread at a time is at the socket, without the lock. Who comes
//! meanwhile seals behind it and leaves the rest to that thread, so that under
//! contention one sends for all.
//!
//! While anything is pending, somebody is bound to send it: the thread at the socket;
//! the one that watches it (`watched`) for itself and those who are parked; or the
//! reactor. Whoever stops being that one passes it on, with `unlock_and_leave`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::bounds::{
    LARGE_BATCH, MOST_AT_ONCE, MOST_ROUNDS, MOST_SEALED, MOST_WAITING, SMALL_BATCH, WHOLE,
};
use super::run::Run;
use super::world::atomic::Ordering::Relaxed;
use super::world::{For, MutexGuard, Socket, Stream, Waiter, remaining};
use super::{Link, Patience, millis};
use crate::driver::holding::Pace;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::{Batch, Control, Tx};
use crate::resources::budget::Account;
use crate::resources::buffers;

/// What the sending side of a link needs its lock for.
pub(super) struct Outbound {
    pub(super) tx: Tx,
    /// Taken out of `tx`: they precede what is there. A thread at the socket has those
    /// that it found.
    batches: VecDeque<Batch>,
    /// Room for those that come meanwhile.
    spare: VecDeque<Batch>,
    /// How much a thread has at the socket, if one is there.
    away: usize,
    /// The socket took no more when it was last tried.
    full: bool,
    /// It took something since those who wait for room were last told.
    moved: bool,
    /// A thread sleeps until it takes more.
    watched: bool,
    /// What the output takes while the socket is full.
    wire: Account,
    /// Bytes that the kernel has taken in all.
    sent: u64,
    /// Who waits until the kernel has so many.
    sleepers: Vec<(u64, Arc<Waiter>)>,
    /// The last short writes.
    pub(super) run: Run,
    /// The socket's direction to the peer was shut down: nothing is sent any more.
    pub(super) finished: bool,
    /// The link has ended: nothing is kept for the socket any more.
    ended: bool,
    /// What that has thrown away. It stays before `mark`, and is never sent.
    unsent: usize,
    /// How the socket takes what waits, where memory is short.
    pace: Pace,
}

type Guard<'a> = MutexGuard<'a, Outbound>;

impl Outbound {
    pub(super) fn new(tx: Tx, wire: Account) -> Outbound {
        Outbound {
            tx,
            // Idle links have one at most, and are many.
            batches: VecDeque::with_capacity(1),
            spare: VecDeque::new(),
            away: 0,
            full: false,
            moved: false,
            watched: false,
            wire,
            sent: 0,
            sleepers: Vec::new(),
            run: Run::default(),
            finished: false,
            ended: false,
            unsent: 0,
            pace: Pace::default(),
        }
    }

    /// What is sealed and the kernel has not taken.
    pub(super) fn pending(&self) -> usize {
        self.away + pending(&self.batches) + self.tx.pending() + self.unsent
    }

    /// How much memory that takes.
    fn held(&self) -> usize {
        let batches: usize = self.batches.iter().map(Batch::capacity).sum();
        batches + self.tx.capacity()
    }

    /// The position behind everything that was sealed so far.
    pub(super) fn mark(&self) -> u64 {
        self.sent + self.pending() as u64
    }

    /// Another thread is at the socket, and looks again before it leaves.
    pub(super) fn is_sending(&self) -> bool {
        self.away > 0
    }

    /// Something waits that no other thread is sending.
    fn is_left(&self) -> bool {
        !self.is_sending() && self.pending() > 0 && !self.finished
    }

    /// Whether those who wait for room are to look again: there is some, and the kernel has
    /// taken something, or they would only wake each other.
    fn makes_room(&mut self) -> bool {
        let room = self.finished || self.pending() <= MOST_WAITING / 2;
        room && mem::take(&mut self.moved)
    }

    /// Whoever sends wakes those whose bytes it sent.
    fn wake_sleepers(&mut self) {
        let sent = self.sent;
        self.sleepers.retain(|(mark, sleeper)| {
            let waits = sent < *mark;
            if !waits {
                sleeper.wake();
            }
            waits
        });
    }

    /// Puts aside what is sealed, so that more can be.
    fn stow(&mut self) -> Result<()> {
        if self.tx.pending() > 0 {
            let full = self.tx.take()?;
            self.batches.push_back(full);
        }
        Ok(())
    }

    /// Has one of those who sleep send what is left. `false`: there is none.
    fn wake_heir(&self) -> bool {
        let heir = self.sleepers.first();
        heir.inspect(|(_, sleeper)| sleeper.wake()).is_some()
    }

    fn wake_all(&mut self) {
        self.sleepers.drain(..).for_each(|(_, sleeper)| sleeper.wake());
    }

    /// The link has ended, though handles may keep it: nobody waits for the socket any
    /// more, and nothing.
    pub(super) fn end(&mut self) {
        (self.finished, self.ended) = (true, true);
        self.throw_away();
        self.wake_all();
    }

    fn throw_away(&mut self) {
        self.unsent += pending(&self.batches) + self.tx.pending();
        (self.batches, self.spare) = (VecDeque::new(), VecDeque::new());
        // Without a nonce left it keeps the storage that it has.
        let _ = self.tx.take();
        self.wire.hold(0);
    }

    /// How much memory the output takes, if the socket does not take any of it, or next to
    /// none; and since when.
    pub(super) fn untaken(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let waiting = if self.ended { 0 } else { self.pending() as u64 };
        let since = self.pace.look(self.sent, waiting, now)?;
        Some((self.held(), since))
    }

    fn remove(&mut self, me: &Arc<Waiter>) {
        self.sleepers.retain(|(_, sleeper)| !Arc::ptr_eq(sleeper, me));
    }
}

/// How far sending has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel has everything before the mark.
    All,
    /// The time is over, and the reactor goes on with it.
    Late,
    /// Nothing more is written to the stream, or to the link.
    Over,
}

impl Link {
    /// Sends until the kernel has everything before `mark`.
    pub(crate) fn send_up_to(
        self: &Arc<Link>,
        mark: u64,
        stream: Option<&Arc<Stream>>,
        patience: Patience,
    ) -> Result<Sent> {
        let me = match patience {
            Patience::None => None,
            _ => Some(Waiter::current()),
        };
        let mut watches = false;
        loop {
            let mut out = self.tx.lock();
            if mem::take(&mut watches) {
                out.watched = false;
            }
            if let Some(me) = &me {
                out.remove(me);
            }
            let result = self.send(&mut out);
            if out.sent >= mark || out.finished {
                let sent = if out.sent >= mark { Sent::All } else { Sent::Over };
                // What others have sealed behind it is not ours to wait for.
                self.unlock_and_leave(out, result)?;
                return Ok(sent);
            }
            let late = patience.deadline().is_some_and(|at| remaining(at).is_none());
            let Some(me) = me.as_ref().filter(|_| !late && result.is_ok()) else {
                self.unlock_and_leave(out, result)?;
                return Ok(Sent::Late);
            };
            watches = !out.watched && !out.is_sending();
            out.watched |= watches;
            out.sleepers.push((mark, me.clone()));
            self.unlock(out, result)?;
            // So that a shutdown from another thread ends the sleep.
            if let Some(stream) = stream {
                let mut state = stream.state.lock();
                if state.write_end().is_some() {
                    drop(state);
                    let mut out = self.tx.lock();
                    out.watched &= !watches;
                    out.remove(me);
                    self.unlock_and_leave(out, Ok(()))?;
                    return Ok(Sent::Over);
                }
                state.writers.add(me);
            }
            if watches {
                me.poll_one(&self.socket, For::Writing, patience.deadline());
                me.take_wake();
            } else {
                me.park(patience.deadline());
            }
            if let Some(stream) = stream {
                stream.state.lock().writers.remove(me);
            }
        }
    }

    /// Waits until the kernel has all that was written so far. `false`: the time
    /// is over. An error: the stream broke off before.
    pub(crate) fn flush(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        patience: Patience,
    ) -> Result<bool> {
        let mark = self.written();
        let mut sent = self.send_up_to(mark, Some(stream), patience)?;
        if sent == Sent::Over {
            if let Some(why) = stream.state.lock().broken_off() {
                return Err(why);
            }
            // Only its writing has ended: what is before that goes out.
            sent = self.send_up_to(mark, None, patience)?;
        }
        match sent {
            Sent::All => Ok(true),
            Sent::Late => Ok(false),
            Sent::Over => Err(self.gone()),
        }
    }

    /// The position behind everything that was written so far. Who asks sends next,
    /// and so sends the control frames that others left for whoever had the lock.
    pub(super) fn written(&self) -> u64 {
        let mut out = self.tx.lock();
        // Whoever flushes what it writes gains nothing from leaving it to another.
        out.run = Run::default();
        // A frame that went on growing would have its middle there. Where it cannot be
        // sealed, whoever sends next says why.
        let _ = out.tx.close();
        out.mark()
    }

    /// The same with the control frames that wait; and whether all of them had room.
    /// `None`: nothing can be said any more.
    pub(super) fn said(&self) -> Option<(u64, bool)> {
        let mut out = self.tx.lock();
        if out.ended {
            return None;
        }
        out.tx.close().ok()?;
        let all = self.seal_control(&mut out).ok()?;
        Some((out.mark(), all))
    }

    /// The kernel has everything before `mark`.
    pub(crate) fn has_sent(self: &Arc<Link>, mark: u64) -> bool {
        let out = self.tx.lock();
        let sent = out.sent >= mark;
        // Somebody may have found it locked.
        let _ = self.unlock(out, Ok(()));
        sent
    }

    /// Queues a control frame; `flush_control` sends it. An error: the peer made
    /// us say too much.
    pub(super) fn push(&self, control: Control) -> Result<()> {
        let mut queue = self.control.lock();
        queue.push(control)?;
        self.mark_control();
        Ok(())
    }

    /// The same for one that goes with what is said next.
    pub(super) fn push_to_rest(&self, control: Control) -> Result<()> {
        let mut queue = self.control.lock();
        queue.push(control)?;
        self.rest.frames.begin();
        Ok(())
    }

    /// Called under the `control` lock, or for what is in the queue already.
    pub(super) fn mark_control(&self) {
        self.rest.frames.begin_due();
    }

    /// Whether control frames wait, be it at rest.
    pub(super) fn has_control(&self) -> bool {
        !self.rest.frames.is_none()
    }

    /// Sends the control frames that wait, unless another thread has the sending
    /// side: then that one does it, before it lets go or right after.
    pub(super) fn flush_control(self: &Arc<Link>) {
        while self.rest.frames.is_due() {
            let Some(mut out) = self.tx.try_lock() else { return };
            if out.is_sending() {
                return;
            }
            let result = self.send(&mut out);
            let (left, room) = (out.is_left(), out.makes_room());
            if result.is_err() {
                out.wake_all();
            }
            drop(out);
            if let Err(e) = result {
                self.die_after_reading(e);
                return;
            }
            if room {
                self.unblock();
            }
            if left {
                self.leave_rest_to_reactor();
                return;
            }
        }
    }

    /// Sends the control frames that wait, once more before the end: whose reason is
    /// known already, so that a failure says nothing new.
    pub(super) fn say_last(&self) {
        if self.has_control()
            && let Some(mut out) = self.tx.try_lock()
        {
            let _ = self.send(&mut out);
        }
    }

    /// Sends the short writes that wait for the reactor: a thread that is about to sleep is
    /// quicker.
    pub(super) fn send_joined(self: &Arc<Link>) {
        if self.joined.load(Relaxed)
            && let Some(mut out) = self.tx.try_lock()
        {
            let result = self.send(&mut out);
            let _ = self.unlock_and_leave(out, result);
        }
    }

    /// The socket takes output again, says the reactor's poll.
    pub(in crate::driver) fn on_writable(self: &Arc<Link>) {
        let mut out = self.tx.lock();
        let result = self.send(&mut out);
        if !out.is_left() {
            self.set_want_write(false);
        } else if !out.full {
            // The poll tells of a change only; this is told at once.
            self.set_want_write(false);
            self.set_want_write(true);
        }
        // Whoever has begun to wait for room has had this called.
        out.moved = true;
        let _ = self.unlock(out, result);
    }

    /// Lets go of the sending side, and looks once more whether somebody who found
    /// it locked left control frames for us.
    pub(super) fn unlock(self: &Arc<Link>, mut out: Guard<'_>, result: Result<()>) -> Result<()> {
        // Not only when nothing is left: writers that wait for the socket themselves may
        // see to it that there always is something.
        let room = out.makes_room();
        if result.is_err() {
            // The link may have ended before some of them began to wait.
            out.wake_all();
        }
        drop(out);
        if room {
            self.unblock();
        }
        match result {
            Ok(()) => self.flush_control(),
            Err(ref e) => self.die_after_reading(e.clone()),
        }
        result
    }

    /// The same, and another thread or the reactor sends what is left.
    pub(super) fn unlock_and_leave(
        self: &Arc<Link>,
        out: Guard<'_>,
        result: Result<()>,
    ) -> Result<()> {
        let left = out.is_left() && !out.watched && !out.wake_heir();
        self.unlock(out, result)?;
        if left {
            self.leave_rest_to_reactor();
        }
        Ok(())
    }

    /// The socket takes nothing more; what it still has to give is read first.
    fn die_after_reading(self: &Arc<Link>, e: Error) {
        self.pump_last();
        self.die_quietly(e);
    }

    /// Seals the control frames that wait and sends what the socket takes, unless
    /// another thread is at it. The lock is free meanwhile.
    pub(super) fn send(&self, out: &mut Guard<'_>) -> Result<()> {
        if out.is_sending() {
            return Ok(());
        }
        for _ in 0..MOST_ROUNDS {
            if out.finished {
                // Our direction has ended; answers to what still comes are moot.
                self.rest.frames.end();
                return Ok(());
            }
            self.seal_control(out)?;
            // While the socket does not take what is before it, what is sealed shares its
            // storage with what comes.
            if out.batches.is_empty() || !out.full {
                self.joined.store(false, Relaxed);
                // Storage that nothing was sealed into goes back.
                let batch = out.tx.take()?;
                if !batch.pending().is_empty() {
                    out.batches.push_back(batch);
                }
            }
            if out.batches.is_empty() || !self.send_batches(out)? {
                break;
            }
        }
        if out.pending() == 0 {
            self.joined.store(false, Relaxed);
        }
        let held = out.held();
        out.wire.hold(held);
        Ok(())
    }

    /// `false`: the socket takes no more for now.
    fn send_batches(&self, out: &mut Guard<'_>) -> Result<bool> {
        let was_full = out.full;
        let spare = mem::take(&mut out.spare);
        let mut batches = mem::replace(&mut out.batches, spare);
        let len = pending(&batches);
        out.away = len;
        let result = MutexGuard::unlocked(out, || write_all(&self.socket, &mut batches));
        let n = (len - pending(&batches)) as u64;
        out.away = 0;
        // What came meanwhile goes behind what is left.
        batches.append(&mut out.batches);
        out.spare = mem::replace(&mut out.batches, batches);
        out.sent += n;
        if out.ended {
            out.throw_away();
        }
        out.wake_sleepers();
        if n > 0 {
            out.moved = true;
            self.counters.bytes_sent.fetch_add(n, Relaxed);
            if was_full {
                // There is room again: the peer has confirmed some. An empty socket takes
                // what nobody hears.
                self.taken.store(millis(self.opened.elapsed()), Relaxed);
            }
        }
        let done = match result {
            // It was ended meanwhile.
            Err(_) if out.finished => false,
            result => result?,
        };
        out.full = !done;
        Ok(done)
    }

    /// Seals the control frames that wait: whoever seals data does so first. `false`: some
    /// wait still, for so much does for the socket that no more is sealed; the queue has
    /// its own bounds.
    pub(super) fn seal_control(&self, out: &mut Outbound) -> Result<bool> {
        while self.has_control() {
            if out.pending() >= MOST_SEALED {
                return Ok(false);
            }
            self.rest.frames.end();
            self.lend(out, 0)?;
            let mut queue = self.control.lock();
            out.tx.control(&mut queue)?;
            if !queue.is_empty() {
                self.mark_control();
                drop(queue);
                out.stow()?;
            }
        }
        Ok(true)
    }

    /// Lends the sealing side a buffer for `size` bytes, or a part of them, if it has none
    /// with room.
    pub(super) fn lend(&self, out: &mut Outbound, size: usize) -> Result<()> {
        if !out.tx.fits(size.min(WHOLE)) {
            out.stow()?;
        }
        if out.tx.needs_storage() {
            // What comes while a thread is at the socket goes together.
            let size =
                if size > SMALL_BATCH / 2 || out.is_sending() { LARGE_BATCH } else { SMALL_BATCH };
            out.tx.lend(buffers::take(size));
        }
        Ok(())
    }

    /// The same for a write that is kept as it is sealed: in memory that is not much larger,
    /// or as much of it as fits that.
    pub(super) fn lend_to_keep(&self, out: &mut Outbound, size: usize) -> Result<()> {
        let len = if size > LARGE_BATCH / 4 * 3 { LARGE_BATCH } else { SMALL_BATCH };
        if out.tx.capacity() > len || !out.tx.fits(size) {
            out.stow()?;
        }
        if out.tx.needs_storage() {
            out.tx.lend(buffers::take(len));
        }
        Ok(())
    }
}

fn pending(batches: &VecDeque<Batch>) -> usize {
    batches.iter().map(|batch| batch.pending().len()).sum()
}

/// `false`: the socket takes no more for now.
fn write_all(socket: &Socket, batches: &mut VecDeque<Batch>) -> Result<bool> {
    while !batches.is_empty() {
        match write(socket, batches) {
            Ok(mut n) => {
                while let Some(first) = batches.front_mut()
                    && n >= first.pending().len()
                {
                    n -= first.pending().len();
                    batches.pop_front();
                }
                if let Some(first) = batches.front_mut() {
                    first.consume(n);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                let what = "the connection was lost";
                return Err(Error::with_source(ErrorCode::ConnectionReset, what, e));
            }
        }
    }
    Ok(true)
}

/// One system call, for several of them if there are.
fn write(mut socket: &Socket, batches: &VecDeque<Batch>) -> io::Result<usize> {
    if let [batch] = batches.as_slices().0 {
        return socket.write(batch.pending());
    }
    let mut slices = [IoSlice::new(&[]); MOST_AT_ONCE];
    let n = batches.len().min(slices.len());
    for (slice, batch) in slices.iter_mut().zip(batches) {
        *slice = IoSlice::new(batch.pending());
    }
    socket.write_vectored(&slices[..n])
}
