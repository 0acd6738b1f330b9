//! The streams that carry a session, one after the other.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Instant;

use crate::driver::{Fate, Inbox, Link, STILL, Stream, Waiters};
use crate::error::Error;
use crate::proto::yamux::INITIAL_WINDOW;
use crate::resources::budget::{Account, Budget};

/// A stream of a link.
pub(super) struct Carrier {
    pub(super) link: Arc<Link>,
    pub(super) stream: Arc<Stream>,
}

impl Carrier {
    /// How much of the session this end has with it, the peer's end as one more.
    pub(super) fn received(&self) -> u64 {
        self.stream.carries.get().map_or(0, |carries| carries.received())
    }

    /// How it broke off, if it did.
    pub(super) fn fate(&self) -> Option<Fate> {
        self.stream.state.lock().fate().cloned()
    }

    /// What has arrived on it and was not read.
    pub(super) fn unread(&self) -> usize {
        self.stream.state.lock().held()
    }
}

/// The one that bytes go to, what is left to read of those before, and who waits for the
/// next.
pub(super) struct Carriers {
    pub(super) current: Option<Arc<Carrier>>,
    /// What came on those that were lost and was not read: nothing else is kept of them,
    /// however many they were.
    left: Inbox,
    /// When some of it was last taken, or of what came before it.
    read_at: Instant,
    /// What that takes of the host's memory.
    account: Account,
    /// The last one that was current.
    last: Option<Arc<Carrier>>,
    /// What this end had when the last one was lost.
    pub(super) received: u64,
    /// The peer had finished by then.
    pub(super) finished: bool,
    /// How much was left when the current one's window was made, which does without it.
    occupied: usize,
    /// What of it is more than a window.
    debt: usize,
    /// Why what was not read is gone: there is no end behind it any more.
    spoiled: Option<Error>,
    pub(super) waiters: Waiters,
}

impl Carriers {
    pub(super) fn new(first: Option<Arc<Carrier>>, memory: Arc<Budget>) -> Carriers {
        Carriers {
            last: first.clone(),
            current: first,
            left: Inbox::default(),
            read_at: Instant::now(),
            account: Account::new(memory),
            received: 0,
            finished: false,
            occupied: 0,
            debt: 0,
            spoiled: None,
            waiters: Waiters::default(),
        }
    }

    /// The newest that there was.
    pub(super) fn newest(&self) -> Option<&Arc<Carrier>> {
        self.last.as_ref()
    }

    /// The current one is lost, for this reason, and nothing more is kept of what comes on it.
    pub(super) fn detach(&mut self, why: &Error) {
        let Some(carrier) = self.current.take() else { return };
        self.received = carrier.received();
        let (left, read_at) = {
            let mut stream = carrier.stream.state.lock();
            self.finished |= stream.finished();
            stream.leave(why)
        };
        if !self.has_left() {
            self.read_at = read_at;
        }
        self.left.append(left);
        self.left_changed();
    }

    /// Whether something is left to read of those before the current one.
    pub(super) fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Takes what fits of that; returns how much.
    pub(super) fn read_left(&mut self, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let n = self.left.read(bufs);
        self.left_changed();
        self.read_at = Instant::now();
        if let Some(current) = &self.current {
            current.stream.state.lock().note_reader(self.read_at);
        }
        n
    }

    /// How much memory it takes, if nobody has read any of it for a while, and since when.
    pub(super) fn unread_left(&self, now: Instant) -> Option<(usize, Instant)> {
        let still = now.saturating_duration_since(self.read_at) >= STILL;
        (still && self.has_left()).then(|| (self.left.capacity(), self.read_at))
    }

    /// Copies what fits of it and keeps it.
    pub(super) fn peek_left(&self, buf: &mut [u8]) -> usize {
        self.left.peek(buf)
    }

    fn left_changed(&mut self) {
        self.left.shrink();
        self.account.hold(self.left.capacity());
    }

    /// How much the peer may send on the next one, and notes what it does without.
    pub(super) fn window(&mut self) -> u32 {
        let left = self.left.len();
        self.occupied = left;
        self.debt = left.saturating_sub(WINDOW);
        WINDOW.saturating_sub(left) as u32
    }

    /// What this end has of the session by now.
    pub(super) fn received_so_far(&self) -> u64 {
        self.current.as_ref().map_or(self.received, |carrier| carrier.received())
    }

    /// The peer has finished.
    pub(super) fn is_finished(&self) -> bool {
        let now = |carrier: &Arc<Carrier>| carrier.stream.state.lock().finished();
        self.finished || self.current.as_ref().is_some_and(now)
    }

    /// From now on bytes go there.
    pub(super) fn attach(&mut self, carrier: Arc<Carrier>) {
        self.last = Some(carrier.clone());
        self.current = Some(carrier);
        self.waiters.wake();
    }

    /// Some of what was left was read: how much more the peer may send now.
    pub(super) fn repay(&mut self) -> usize {
        let freed = self.occupied.saturating_sub(self.left.len());
        self.occupied -= freed;
        let owed = freed.min(self.debt);
        self.debt -= owed;
        freed - owed
    }

    /// What was left is thrown away.
    pub(super) fn discard(&mut self) {
        self.left.clear();
        self.left_changed();
    }

    /// The same, though somebody may want it. Nothing if all was read.
    pub(super) fn spoil(&mut self, why: Error) {
        if self.has_left() {
            self.spoiled = Some(why);
            self.discard();
            self.waiters.wake();
        }
    }

    /// What reads fail with if that has happened.
    pub(super) fn spoiled(&self) -> Option<&Error> {
        self.spoiled.as_ref()
    }

    /// Bytes that wait to be read.
    pub(super) fn unread(&self) -> usize {
        self.left.len() + self.current.as_ref().map_or(0, |carrier| carrier.unread())
    }
}

/// What a peer may send on a stream that nothing was said about.
const WINDOW: usize = INITIAL_WINDOW as usize;
