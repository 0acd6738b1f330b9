//! The streams that carry a session, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::driver::{Fate, Link, Stream, Waiters};
use crate::error::Error;
use crate::proto::yamux::INITIAL_WINDOW;

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

/// The one that bytes go to, those that have something left to read, and who waits
/// for the next.
pub(super) struct Carriers {
    pub(super) current: Option<Arc<Carrier>>,
    /// Oldest first.
    old: VecDeque<Arc<Carrier>>,
    /// The last one that was current.
    last: Option<Arc<Carrier>>,
    /// What this end had when the last one was lost.
    pub(super) received: u64,
    /// The peer had finished by then.
    pub(super) finished: bool,
    /// Unread bytes of the old ones, which the current one's window does without.
    occupied: usize,
    /// Those of them that are more than a window.
    debt: usize,
    /// Why what was not read is gone: there is no end behind it any more.
    spoiled: Option<Error>,
    pub(super) waiters: Waiters,
}

impl Carriers {
    pub(super) fn new(first: Option<Arc<Carrier>>) -> Carriers {
        Carriers {
            last: first.clone(),
            current: first,
            old: VecDeque::new(),
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

    /// Where the next byte to read is, or will be; and whether that is an old one.
    pub(super) fn source(&self) -> Option<(Arc<Carrier>, bool)> {
        let old = self.old.front().map(|carrier| (carrier.clone(), true));
        old.or_else(|| self.current.as_ref().map(|carrier| (carrier.clone(), false)))
    }

    /// The current one is lost, and nothing more is kept of what comes on it.
    pub(super) fn detach(&mut self) {
        let Some(carrier) = self.current.take() else { return };
        self.received = carrier.received();
        self.finished |= carrier.stream.state.lock().finished();
        if carrier.unread() > 0 {
            self.old.push_back(carrier);
        }
    }

    /// An old one was read to its end.
    pub(super) fn drained(&mut self, carrier: &Arc<Carrier>) {
        self.old.retain(|old| !Arc::ptr_eq(old, carrier));
    }

    /// How much the peer may send on the next one, and notes what it does without.
    pub(super) fn window(&mut self) -> u32 {
        let unread: usize = self.old.iter().map(|carrier| carrier.unread()).sum();
        let window = WINDOW.saturating_sub(unread);
        self.occupied = unread;
        self.debt = unread.saturating_sub(WINDOW);
        window as u32
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

    /// Something was read of an old one: how much more the peer may send now.
    pub(super) fn repay(&mut self) -> usize {
        let unread: usize = self.old.iter().map(|carrier| carrier.unread()).sum();
        let freed = self.occupied.saturating_sub(unread);
        self.occupied -= freed;
        let owed = freed.min(self.debt);
        self.debt -= owed;
        freed - owed
    }

    /// What came on old ones and was not read is thrown away.
    pub(super) fn discard(&mut self) {
        for carrier in self.old.drain(..) {
            // The last one stays for what is known of it.
            carrier.stream.state.lock().throw_away();
        }
    }

    /// The same, though somebody may want it. Nothing if all was read.
    pub(super) fn spoil(&mut self, why: Error) {
        if !self.old.is_empty() {
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
        self.old.iter().chain(&self.current).map(|carrier| carrier.unread()).sum()
    }
}

/// What a peer may send on a stream that nothing was said about.
const WINDOW: usize = INITIAL_WINDOW as usize;
