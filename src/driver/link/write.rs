//! Writing: sealed by the thread that writes, sent by it too.

use std::io::{ErrorKind, IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use parking_lot::MutexGuard;

use super::{Link, Outbound, millis};
use crate::driver::stream::{Direct, Priority, Stream};
use crate::driver::waiter::{Waiter, remaining};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::Control;
use crate::resources::buffers::{self, Buffer};

/// How long a call may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until then.
    Until(Instant),
    Forever,
}

impl Patience {
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Until(at) => Some(at),
            Patience::None | Patience::Forever => None,
        }
    }
}

impl Link {
    /// Writes some of `bufs` and returns how much; `None`: nothing could be
    /// written within `patience`.
    ///
    /// When it returns, the kernel has all that was written, unless patience ran
    /// out first: then the reactor sends the rest, at most [`MOST_WAITING`].
    pub(crate) fn write(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        bufs: &[IoSlice<'_>],
        patience: Patience,
    ) -> Result<Option<usize>> {
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(Some(0));
        }
        loop {
            match self.try_write(stream, bufs)? {
                Written::Some { n, mark, left } => {
                    stream.counters.sent(n);
                    if left {
                        self.send_up_to(mark, Some(stream), patience)?;
                    }
                    return Ok(Some(n));
                }
                Written::NoRoom { mark } => {
                    if patience == Patience::None {
                        return Ok(None);
                    }
                    if !self.send_up_to(mark, Some(stream), patience)? {
                        return Ok(None);
                    }
                }
                Written::NoCredit => {
                    if patience == Patience::None || !self.wait_for_credit(stream, patience)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Seals and sends what credit and the socket take now.
    fn try_write(self: &Arc<Link>, stream: &Stream, bufs: &[IoSlice<'_>]) -> Result<Written> {
        self.check_writable(stream)?;
        self.writers_waiting.fetch_add(1, SeqCst);
        let mut out = self.tx.lock();
        self.writers_waiting.fetch_sub(1, SeqCst);
        let few = |out: &Outbound| out.tx.pending() < FEW;
        let mut result = Ok(());
        if !few(&out) || self.control_waits.load(SeqCst) {
            result = self.send(&mut out);
        }
        if out.finished {
            drop(out);
            return Err(self.gone());
        }
        // Under contention a conn of low priority waits until the others have written.
        let room = if stream.priority() == Priority::Low { ROOM_FOR_LOW } else { MOST_WAITING };
        if out.tx.pending() >= room {
            let mark = out.mark();
            self.unlock(out, result)?;
            return Ok(Written::NoRoom { mark });
        }
        // Our FIN is queued before the end of writing shows: whoever sees none
        // here, under this lock, precedes the FIN.
        let n = match self.check_writable(stream) {
            Ok(()) if result.is_ok() => {
                let size: usize = bufs.iter().map(|b| b.len()).sum();
                self.lend(&mut out, size);
                out.tx.data(stream.id, false, &stream.flow, bufs)
            }
            Ok(()) => Ok(0),
            Err(e) => Err(e),
        };
        if let Ok(n @ 1..) = n
            && few(&out)
            && self.writers_waiting.load(SeqCst) > 0
        {
            // Whoever waits for the lock sends this with its own, in one call.
            let mark = out.mark();
            return Ok(Written::Some { n, mark, left: false });
        }
        if result.is_ok() {
            result = self.send(&mut out);
        }
        let (left, mark) = (out.tx.pending() > 0, out.mark());
        if left && !matches!(n, Ok(1..)) {
            // What was sealed for others: this thread does not wait for the socket.
            self.unlock_and_leave(out, result)?;
        } else {
            self.unlock(out, result)?;
        }
        Ok(match n? {
            0 if stream.flow.credit() > 0 && left => Written::NoRoom { mark },
            0 => Written::NoCredit,
            n => Written::Some { n, mark, left },
        })
    }

    fn check_writable(&self, stream: &Stream) -> Result<()> {
        match stream.state.lock().write_end() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    /// Blocks until the peer grants something. `false`: the time is over.
    fn wait_for_credit(self: &Arc<Link>, stream: &Arc<Stream>, patience: Patience) -> Result<bool> {
        let me = Waiter::current()?;
        let ready = |_: &mut Direct<'_>| {
            let mut state = stream.state.lock();
            if let Some(why) = state.write_end() {
                return Some(Err(why.clone()));
            }
            if stream.flow.credit() > 0 {
                return Some(Ok(()));
            }
            state.writers.add(&me);
            None
        };
        let result = self.wait(&me, patience.deadline(), &mut Direct::none(), ready)?;
        stream.state.lock().writers.remove(&me);
        result.transpose().map(|granted| granted.is_some())
    }

    /// Sends until the kernel has everything before `mark`. `false`: the time is
    /// over, and the reactor does it.
    pub(super) fn send_up_to(
        self: &Arc<Link>,
        mark: u64,
        stream: Option<&Arc<Stream>>,
        patience: Patience,
    ) -> Result<bool> {
        let me = match patience {
            Patience::None => None,
            _ => Some(Waiter::current()?),
        };
        loop {
            let mut out = self.tx.lock();
            let result = self.send(&mut out);
            if out.sent >= mark || out.finished {
                // What others have sealed behind it is not ours to wait for.
                self.unlock_and_leave(out, result)?;
                return Ok(true);
            }
            self.unlock(out, result)?;
            let late = patience.deadline().is_some_and(|at| remaining(at).is_none());
            let Some(me) = me.as_ref().filter(|_| !late) else {
                self.leave_rest_to_reactor();
                return Ok(false);
            };
            // So that a shutdown from another thread ends the sleep.
            if let Some(stream) = stream {
                let mut state = stream.state.lock();
                if state.write_end().is_some() {
                    drop(state);
                    self.leave_rest_to_reactor();
                    return Ok(true);
                }
                state.writers.add(me);
            }
            self.sleep_until_writable(me, patience.deadline());
            me.take_wake();
            if let Some(stream) = stream {
                stream.state.lock().writers.remove(me);
            }
        }
    }

    /// Waits until the kernel has all that was written so far. `false`: the time
    /// is over.
    pub(crate) fn flush(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        patience: Patience,
    ) -> Result<bool> {
        let mark = self.written();
        self.send_up_to(mark, Some(stream), patience)
    }

    /// The position behind everything that was sealed so far. Who asks sends next,
    /// and so sends the control frames that others left for whoever had the lock.
    pub(super) fn written(&self) -> u64 {
        self.tx.lock().mark()
    }

    /// Queues a control frame; `flush_control` sends it. An error: the peer made
    /// us say too much.
    pub(super) fn push(&self, control: Control) -> Result<()> {
        let mut queue = self.control.lock();
        queue.push(control)?;
        self.mark_control();
        Ok(())
    }

    /// Called under the `control` lock.
    pub(super) fn mark_control(&self) {
        self.control_waits.store(true, SeqCst);
    }

    /// Sends the control frames that wait, unless another thread has the sending
    /// side: then that one does it, before it lets go or right after.
    pub(super) fn flush_control(self: &Arc<Link>) {
        while self.control_waits.load(SeqCst) {
            let Some(mut out) = self.tx.try_lock() else { return };
            let result = self.send(&mut out);
            let left = out.tx.pending() > 0 && !out.finished;
            drop(out);
            if let Err(e) = result {
                self.die_after_reading(e);
                return;
            }
            if left {
                self.leave_rest_to_reactor();
                return;
            }
        }
    }

    /// The socket takes output again, says the reactor's poll.
    pub(in crate::driver) fn on_writable(self: &Arc<Link>) {
        let mut out = self.tx.lock();
        let result = self.send(&mut out);
        if out.tx.pending() == 0 || out.finished {
            self.set_want_write(false);
        }
        let _ = self.unlock(out, result);
    }

    /// Locks the sending side with room for the first bytes of a stream; `None`: not
    /// in time.
    pub(super) fn lock_for_first(
        self: &Arc<Link>,
        deadline: Option<Instant>,
    ) -> Result<Option<MutexGuard<'_, Outbound>>> {
        let patience = deadline.map_or(Patience::Forever, Patience::Until);
        loop {
            let mut out = self.tx.lock();
            let result = self.send(&mut out);
            if result.is_ok() && (out.tx.pending() < ROOM_FOR_FIRST || out.finished) {
                return Ok(Some(out));
            }
            let mark = out.mark();
            self.unlock(out, result)?;
            if !self.send_up_to(mark, None, patience)? {
                return Ok(None);
            }
        }
    }

    /// Opens a stream: its first bytes go out with the SYN.
    pub(super) fn write_first(
        self: &Arc<Link>,
        mut out: MutexGuard<'_, Outbound>,
        stream: &Stream,
        first: &[u8],
    ) -> Result<()> {
        self.lend(&mut out, first.len());
        let n = out.tx.data(stream.id, true, &stream.flow, &[IoSlice::new(first)]);
        let result = self.send(&mut out);
        self.unlock_and_leave(out, result)?;
        debug_assert!(n.as_ref().map_or(true, |&n| n == first.len()), "there is room and credit");
        n.map(|_| ())
    }

    /// Lets go of the sending side, and looks once more whether somebody who found
    /// it locked left control frames for us.
    fn unlock(self: &Arc<Link>, out: MutexGuard<'_, Outbound>, result: Result<()>) -> Result<()> {
        drop(out);
        match result {
            Ok(()) => self.flush_control(),
            Err(ref e) => self.die_after_reading(e.clone()),
        }
        result
    }

    /// The same, and the reactor writes what is left.
    pub(super) fn unlock_and_leave(
        self: &Arc<Link>,
        out: MutexGuard<'_, Outbound>,
        result: Result<()>,
    ) -> Result<()> {
        let left = out.tx.pending() > 0 && !out.finished;
        self.unlock(out, result)?;
        if left {
            self.leave_rest_to_reactor();
        }
        Ok(())
    }

    /// The socket takes nothing more; what it still has to give is read first.
    fn die_after_reading(self: &Arc<Link>, e: Error) {
        self.pump_last();
        self.die(e);
    }

    /// Seals the control frames that wait and sends all that the socket takes.
    fn send(&self, out: &mut Outbound) -> Result<()> {
        loop {
            if out.finished {
                // Our direction has ended; answers to what still comes are moot.
                self.control_waits.store(false, SeqCst);
                return Ok(());
            }
            if self.control_waits.swap(false, SeqCst) {
                self.lend(out, 0);
                let mut queue = self.control.lock();
                out.tx.control(&mut queue)?;
                if !queue.is_empty() {
                    // The storage is full: the rest goes when the socket has taken some.
                    self.mark_control();
                }
            }
            if !self.send_sealed(out)? {
                out.wire.hold(buffers::LARGE_BATCH);
                return Ok(());
            }
            out.wire.hold(0);
            if let Some(storage) = out.tx.reclaim() {
                drop(Buffer::from(storage));
            }
            if !self.control_waits.load(SeqCst) {
                return Ok(());
            }
        }
    }

    /// `false`: the socket takes no more for now.
    fn send_sealed(&self, out: &mut Outbound) -> Result<bool> {
        while out.tx.pending() > 0 {
            match (&self.socket).write(out.tx.transmit()) {
                Ok(n) => {
                    out.tx.consume(n);
                    out.sent += n as u64;
                    self.counters.bytes_sent.fetch_add(n as u64, Relaxed);
                    self.taken.store(millis(self.opened.elapsed()), Relaxed);
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

    /// Lends the sealing side a buffer if it has none.
    fn lend(&self, out: &mut Outbound, size: usize) {
        if out.tx.needs_storage() {
            let size = if size > buffers::SMALL_BATCH / 2 {
                buffers::LARGE_BATCH
            } else {
                buffers::SMALL_BATCH
            };
            out.tx.lend(buffers::take(size).into_vec());
        }
    }
}

enum Written {
    /// So much; the kernel has it once it has everything before `mark`, and
    /// something is `left` of that.
    Some {
        n: usize,
        mark: u64,
        left: bool,
    },
    /// Too much waits for the socket already.
    NoRoom {
        mark: u64,
    },
    NoCredit,
}

/// Bytes that wait in a link for the socket, beyond which writers do.
pub(crate) const MOST_WAITING: usize = 256 * 1024;

/// The same for conns of low priority.
const ROOM_FOR_LOW: usize = 16 * 1024;

/// A writer that has sealed less leaves the sending to the next one that waits.
const FEW: usize = 16 * 1024;

/// A stream is opened only while less than this waits.
const ROOM_FOR_FIRST: usize = buffers::SMALL_BATCH / 2;
