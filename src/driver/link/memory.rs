//! What a link does when its host is short of memory.

use std::sync::Arc;
use std::time::Instant;

use super::Link;
use crate::driver::stream::Stream;
use crate::error::{Error, ErrorCode};
use crate::proto::buf::RecvBuf;
use crate::resources::budget::Budget;
use crate::resources::buffers::{self, Buffer};

impl Link {
    /// What it holds.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Keeps the part of a frame that has come in no more room than it needs.
    pub(crate) fn shrink(&self) {
        // Whoever has the lock uses the buffer.
        let Some(mut inbound) = self.rx.try_lock() else { return };
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

    /// Grants what was withheld from conns of low priority.
    pub(crate) fn resume_paused(self: &Arc<Link>) {
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
