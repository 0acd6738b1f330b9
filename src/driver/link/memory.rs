//! What a link does when its host is short of memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::Link;
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

    /// Ends a stream because of what it holds.
    pub(crate) fn reset_for_memory(self: &Arc<Link>, stream: &Arc<Stream>) {
        let what = "it held too much that nobody read, and the memory budget is used up";
        self.reset_because(stream, &Error::new(ErrorCode::OutOfMemory, what));
    }
}
