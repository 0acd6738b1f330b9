//! Writing: sealed by the thread that writes, sent by it too.

use std::io::IoSlice;
use std::sync::{Arc, Weak};

use super::bounds::{KEPT, MOST_JOINED, MOST_WAITING, ROOM_FOR_FIRST, ROOM_FOR_LAST};
use super::world::atomic::AtomicUsize;
use super::world::atomic::Ordering::{Relaxed, SeqCst};
use super::world::{MutexGuard, Stream, Waiter};
use super::{Link, Outbound, Patience, Sent};
use crate::driver::carrier::Watcher;
use crate::driver::stream::{Direct, Priority};
use crate::error::Result;
use crate::proto::yamux::Kept;
use crate::resources::budget::Pressure;

impl Link {
    /// Writes some of `bufs` and returns how much; `None`: nothing could be
    /// written within `patience`.
    ///
    /// When it returns, the kernel has all that was written, but for what another thread
    /// sends with its own, what follows other short writes closely, and the rest where
    /// patience ran out: the last two the reactor sends. At most [`MOST_WAITING`] are
    /// left so.
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
            let urgent = self.hurry(stream);
            match self.try_write(stream, bufs, false)? {
                Written::Some { n, mark, left, .. } => {
                    stream.counters.sent(n);
                    if left.is_waited_for(stream) {
                        // It is written, even if the link ends now.
                        let _ = self.send_up_to(mark, Some(stream), patience);
                    }
                    return Ok(Some(n));
                }
                Written::NoRoom { mark } => {
                    if patience == Patience::None {
                        return Ok(None);
                    }
                    if self.send_up_to(mark, Some(stream), patience)? == Sent::Late {
                        return Ok(None);
                    }
                }
                Written::NoCredit => {
                    drop(urgent);
                    if patience == Patience::None || !self.wait_for_credit(stream, patience)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Has the others make way for a stream of high priority, until it is dropped.
    pub(crate) fn hurry(&self, stream: &Stream) -> Option<Urgent<'_>> {
        (stream.priority() == Priority::High).then(|| Urgent::new(&self.urgent))
    }

    /// Seals and sends what credit and the socket take now.
    pub(super) fn try_write(
        self: &Arc<Link>,
        stream: &Stream,
        bufs: &[IoSlice<'_>],
        keeps: bool,
    ) -> Result<Written> {
        self.check_writable(stream)?;
        let mut out = self.tx.lock();
        let (mut result, room) = (Ok(()), self.room_for(stream));
        let tried = out.pending() >= room;
        if tried {
            result = self.send(&mut out);
        }
        if out.finished {
            drop(out);
            return Err(self.gone());
        }
        let answered = match result {
            Ok(()) if out.pending() < room => self.seal_control(&mut out),
            _ => Ok(false),
        };
        result = result.and(answered.as_ref().map(|_| ()).map_err(Clone::clone));
        if matches!(answered, Ok(false)) {
            // Half of it, so that writers go on before the socket runs dry.
            let mark = out.mark().saturating_sub((room / 2) as u64);
            self.unlock_and_leave(out, result)?;
            return Ok(Written::NoRoom { mark });
        }
        let mut joins = false;
        // Our FIN is queued before the end of writing shows: whoever sees none
        // here, under this lock, precedes the FIN.
        let sealed = match self.check_writable(stream) {
            Ok(()) if result.is_ok() => {
                let size: usize = bufs.iter().map(|b| b.len()).sum();
                joins = out.run.joins(stream, size);
                // No more is sealed, and storage is lent for that.
                let size = size.min(usize::try_from(stream.flow.credit()).unwrap_or(usize::MAX));
                if keeps && size >= KEPT {
                    self.seal_to_keep(&mut out, stream, bufs, size)
                } else {
                    self.seal(&mut out, stream, bufs, size, joins).map(|n| (n, None))
                }
            }
            Ok(()) => Ok((0, None)),
            Err(e) => Err(e),
        };
        let (n, kept) = match sealed {
            Ok((n, kept)) => (Ok(n), kept),
            Err(e) => (Err(e), None),
        };
        if let Ok(n @ 1..) = n
            && joins
            && out.pending() < MOST_JOINED
        {
            let (mark, first) = (out.mark(), !self.joined.swap(true, Relaxed));
            drop(out);
            if first || tried {
                self.leave_rest_to_reactor();
            }
            return Ok(Written::Some { n, mark, left: Left::Theirs, kept });
        }
        if result.is_ok() {
            result = self.send(&mut out);
        }
        let mark = out.mark();
        let left = match out.pending() {
            0 => Left::Nothing,
            _ if out.is_sending() => Left::Theirs,
            _ => Left::Ours,
        };
        if left == Left::Ours && !matches!(n, Ok(1..)) {
            // What was sealed for others: this thread does not wait for the socket.
            self.unlock_and_leave(out, result)?;
        } else if let Err(e) = self.unlock(out, result) {
            // What was sealed counts as written, though it goes nowhere any more.
            return n.and_then(|n| {
                if n > 0 {
                    Ok(Written::Some { n, mark, left: Left::Nothing, kept })
                } else {
                    Err(e)
                }
            });
        }
        Ok(match n? {
            0 if stream.flow.credit() > 0 && left != Left::Nothing => Written::NoRoom { mark },
            0 => Written::NoCredit,
            n => Written::Some { n, mark, left, kept },
        })
    }

    /// Seals what there is credit and room for.
    fn seal(
        &self,
        out: &mut Outbound,
        stream: &Stream,
        bufs: &[IoSlice<'_>],
        size: usize,
        joins: bool,
    ) -> Result<usize> {
        self.lend(out, size)?;
        let (id, flow) = (stream.id, &stream.flow);
        if joins {
            return out.tx.join(id, flow, bufs);
        }
        out.tx.data_behind(id, false, flow, bufs, || self.receipt_beside(stream))
    }

    /// The same for a session that keeps what it was sealed to.
    fn seal_to_keep(
        &self,
        out: &mut Outbound,
        stream: &Stream,
        bufs: &[IoSlice<'_>],
        size: usize,
    ) -> Result<(usize, Option<Kept>)> {
        self.lend_to_keep(out, size)?;
        let receipt = || self.receipt_beside(stream);
        out.tx.data_to_keep(stream.id, &stream.flow, bufs, receipt)
    }

    /// Seals and sends what credit and the socket take now, without waiting. Who `keeps` what
    /// it writes may have what that was sealed to.
    pub(crate) fn write_now(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        bufs: &[IoSlice<'_>],
        keeps: bool,
    ) -> Result<Written> {
        let written = self.try_write(stream, bufs, keeps)?;
        if let Written::Some { n, .. } = written {
            stream.counters.sent(n);
        }
        Ok(written)
    }

    /// Waits until the stream can be written again, as far as `ready` knows, or cannot
    /// any more. `false`: the time is over.
    pub(crate) fn await_writable(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        patience: Patience,
        ready: impl Fn() -> bool,
    ) -> Result<bool> {
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            let mut state = stream.state.lock();
            if state.write_end().is_some() || ready() {
                return Some(());
            }
            state.writers.add(&me);
            None
        };
        let result = self.wait(&me, patience.deadline(), &mut Direct::none(), ready)?;
        stream.state.lock().writers.remove(&me);
        Ok(result.is_some())
    }

    /// Has the session look once the socket takes output again.
    pub(crate) fn tell_when_writable(&self, session: Weak<dyn Watcher>) {
        {
            let mut blocked = self.blocked.lock();
            // It may look many times before the socket takes anything.
            if !blocked.iter().any(|other| other.ptr_eq(&session)) {
                blocked.push(session);
                self.has_blocked.store(true, SeqCst);
            }
        }
        self.leave_rest_to_reactor();
    }

    /// There is room again for what is to be sent.
    pub(super) fn unblock(&self) {
        if !self.has_blocked.load(SeqCst) {
            return;
        }
        let blocked = {
            let mut blocked = self.blocked.lock();
            self.has_blocked.store(false, SeqCst);
            std::mem::take(&mut *blocked)
        };
        blocked.iter().filter_map(Weak::upgrade).for_each(|session| session.stirred());
    }

    /// Under contention a conn of low priority waits until the others have written, and
    /// one of normal priority until those of high priority have: these go in where the
    /// others wait. Where the host is out of memory little waits.
    fn room_for(&self, stream: &Stream) -> usize {
        let is_last = || self.urgent.load(Relaxed) > 0 || self.pressure() == Pressure::Emergency;
        match stream.priority() {
            Priority::Low => ROOM_FOR_LAST,
            Priority::Normal if is_last() => ROOM_FOR_LAST,
            Priority::Normal => MOST_WAITING,
            Priority::High => MOST_WAITING + ROOM_FOR_FIRST,
        }
    }

    fn check_writable(&self, stream: &Stream) -> Result<()> {
        match stream.state.lock().write_end() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    /// Blocks until the peer grants something. `false`: the time is over.
    fn wait_for_credit(self: &Arc<Link>, stream: &Arc<Stream>, patience: Patience) -> Result<bool> {
        let me = Waiter::current();
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

    /// Locks the sending side with room for the first bytes of a stream, which is more than
    /// there is for others: they are few, and whoever opens one without waiting would find
    /// none on a busy link. `None`: not in time.
    pub(super) fn lock_for_first(
        self: &Arc<Link>,
        patience: Patience,
    ) -> Result<Option<MutexGuard<'_, Outbound>>> {
        loop {
            let mut out = self.tx.lock();
            let mut result = Ok(());
            let room = MOST_WAITING + ROOM_FOR_FIRST;
            if out.pending() >= room {
                result = self.send(&mut out);
            }
            if result.is_ok() && (out.pending() < room || out.finished) {
                // What rests goes with them.
                if !out.finished {
                    result = self.seal_control(&mut out).map(|_| ());
                }
                if result.is_ok() {
                    return Ok(Some(out));
                }
            }
            let mark = out.mark().saturating_sub((MOST_WAITING / 2) as u64);
            self.unlock(out, result)?;
            if self.send_up_to(mark, None, patience)? == Sent::Late {
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
        let n = self
            .lend(&mut out, first.len())
            .and_then(|()| out.tx.data(stream.id, true, &stream.flow, &[IoSlice::new(first)]));
        let result = self.send(&mut out);
        self.unlock_and_leave(out, result)?;
        debug_assert!(n.as_ref().map_or(true, |&n| n == first.len()), "there is room and credit");
        n.map(|_| ())
    }
}

/// A writer that comes before others, until it is dropped.
pub(crate) struct Urgent<'a>(&'a AtomicUsize);

impl<'a> Urgent<'a> {
    fn new(count: &'a AtomicUsize) -> Urgent<'a> {
        count.fetch_add(1, Relaxed);
        Urgent(count)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) enum Written {
    /// So much; the kernel has it once it has everything before `mark`.
    Some {
        n: usize,
        mark: u64,
        left: Left,
        /// What it was sealed to, for who keeps it.
        kept: Option<Kept>,
    },
    /// Too much waits for the socket already.
    NoRoom {
        mark: u64,
    },
    NoCredit,
}

/// What the kernel has not got yet of what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// Whoever has written it sends it, or has the reactor do so.
    Ours,
    /// Another thread is at the socket or on its way there, and sends it too.
    Theirs,
}

impl Left {
    /// Where the kernel has all of it, if that is before `mark`; 0: it has it.
    pub(crate) fn up_to(self, mark: u64) -> u64 {
        if self == Left::Nothing { 0 } else { mark }
    }

    /// Whether a writer returns only when the kernel has it.
    pub(crate) fn is_waited_for(self, stream: &Stream) -> bool {
        match self {
            Left::Nothing => false,
            Left::Ours => true,
            Left::Theirs => stream.priority() == Priority::High,
        }
    }
}
