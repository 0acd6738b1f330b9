//! What a link does when its host is short of memory.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::{Inbound, Link, LinkCounters};
use crate::driver::holding::Holding;
use crate::driver::stream::{Priority, Stream};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::resources::budget::{Budget, Pressure};
use crate::resources::buffers::{self, Buffer};
use crate::resources::limits::Permit;

impl Link {
    /// What it holds.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How short of memory its host is.
    pub(crate) fn pressure(&self) -> Pressure {
        self.budget.level()
    }

    /// A transfer of so many bytes is to begin; an error: not now.
    pub(crate) fn admit(&self, bytes: u64) -> Result<Option<Permit>> {
        self.resources.admit(bytes)
    }

    /// Keeps the part of a frame that has come, and what its streams hold, in no more
    /// room than they need.
    pub(crate) fn shrink(&self) {
        // Whoever has the lock uses the buffer.
        let Some(mut inbound) = self.rx.try_lock() else { return };
        for (_, stream) in inbound.rx.iter() {
            stream.state.lock().shrink();
        }
        let waiting = inbound.buf.readable().len();
        if inbound.buf.capacity() >= buffers::SMALL_BATCH && waiting < buffers::SMALL_BATCH / 2 {
            let mut small = RecvBuf::default();
            small.extend(inbound.buf.readable());
            let large = std::mem::replace(&mut inbound.buf, small);
            drop(Buffer::from(large.into_storage()));
            let held = inbound.buf.capacity();
            inbound.wire.hold(held);
        }
    }

    /// It has no streams: it ends unless one is opened soon.
    pub(crate) fn close_soon(self: &Arc<Link>, now: Instant) {
        self.supersede();
        // The next look by the timer is far away; this one is extra.
        let _ = self.on_timer(now);
    }

    /// Whether the peer is granted nothing on this stream for now.
    pub(super) fn pauses(&self, stream: &Stream) -> bool {
        let pauses =
            || stream.priority() == Priority::Low && self.budget.level() == Pressure::Emergency;
        if !pauses() {
            return false;
        }
        self.paused.store(true, SeqCst);
        // An emergency that ended before that was seen resumes nobody any more.
        pauses()
    }

    /// Grants what was withheld from conns of low priority, unless they still are and
    /// the emergency lasts.
    pub(crate) fn resume_paused(self: &Arc<Link>) {
        if !self.paused.swap(false, SeqCst) {
            return;
        }
        for stream in self.table() {
            let mut state = stream.state.lock();
            let n = state.withheld();
            if let Err(e) = self.credit(&mut state, &stream, n) {
                drop(state);
                return self.die(e);
            }
        }
        self.flush_control();
    }

    /// What its streams hold that nobody reads.
    pub(crate) fn unread(self: &Arc<Link>, now: Instant) -> Vec<Holding> {
        let holding = |stream: Arc<Stream>| {
            let (bytes, since) = stream.state.lock().unread(now)?;
            let (link, priority) = (self.clone(), stream.priority());
            let give_back = Box::new(move || {
                log::info!(link = link.id, peer:% = link.peer, stream = stream.id, held = bytes;
                    "a stream is reset for what it holds");
                let what = "it held too much that nobody read, and the memory budget is used up";
                link.reset_for_memory(&stream, &Error::new(ErrorCode::OutOfMemory, what));
            });
            Some(Holding { peer: self.peer, priority, bytes, since, give_back })
        };
        let outlived = std::mem::take(&mut *self.outlived.lock());
        let streams = outlived.iter().filter_map(Weak::upgrade).chain(self.table());
        let holdings = streams.filter_map(holding).collect();
        self.outlived.lock().extend(outlived.into_iter().filter(|s| s.strong_count() > 0));
        holdings
    }

    /// What it holds itself and its peer leaves as it is: output that the peer does not take,
    /// and a frame that it does not finish.
    pub(crate) fn stuck(self: &Arc<Link>, now: Instant) -> Vec<Holding> {
        let untaken = self.tx.lock().untaken(now);
        let unfinished = self.rx.lock().unfinished(&self.counters, now);
        let holding = |held: Option<(usize, Instant)>, what| {
            let (bytes, since) = held?;
            let priority = self.table().iter().map(|stream| stream.priority()).max();
            let priority = priority.unwrap_or(Priority::Low);
            let link = self.clone();
            let give_back = Box::new(move || {
                log::info!(link = link.id, peer:% = link.peer, held = bytes;
                    "a connection is ended: {what}");
                let what = format!("{what}, and the memory budget is used up");
                link.die(Error::new(ErrorCode::OutOfMemory, what));
            });
            Some(Holding { peer: self.peer, priority, bytes, since, give_back })
        };
        let untaken = holding(untaken, "the peer did not take what it was sent");
        let unfinished = holding(unfinished, "the peer did not finish what it sent");
        [untaken, unfinished].into_iter().flatten().collect()
    }

    /// Ends a stream because of what is held for it, with what it has.
    pub(crate) fn reset_for_memory(self: &Arc<Link>, stream: &Arc<Stream>, why: &Error) {
        stream.state.lock().spoil(why);
        self.reset_because(stream, why);
    }

    /// Whether it has ended, and holds what its conns have not read.
    pub(crate) fn is_outlived(&self) -> bool {
        !self.outlived.lock().is_empty()
    }
}

impl Inbound {
    /// How much memory the part of a frame takes that has come, if no more than that comes,
    /// or next to nothing; and since when.
    fn unfinished(&mut self, counters: &LinkCounters, now: Instant) -> Option<(usize, Instant)> {
        let waiting = self.buf.readable().len() as u64;
        let taken = counters.bytes_received.load(Relaxed).saturating_sub(waiting);
        let since = self.pace.look(taken, waiting, now)?;
        Some((self.buf.capacity(), since))
    }
}
