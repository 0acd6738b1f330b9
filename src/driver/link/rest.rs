//! What has time: control frames that need not go alone, sessions that are over.
//!
//! The receipt of a peer's end is nothing that anybody waits for at that moment, and where
//! streams are short something else is said a few microseconds later: our own end, the
//! next stream. So it *rests* in the queue until something is sealed, and goes in the same
//! call of the system. So does the end of a conn whose thread was done with many before it
//! and had the next one at once each time. They never wait for long:
//!
//! * the thread that leads sends them before it sleeps, and when it gives the socket back;
//! * whoever else reads the socket, the reactor among them, sends them at once;
//! * a tick sends what rests when nobody leads any more, and what has rested since the
//!   tick before though the link is busy.
//!
//! So nothing may come to rest while the reactor has the socket or a thread sleeps on it.
//!
//! A session of which only the receipt was missing has nothing to do but to leave the tables.
//! It does at the same moments, in the thread that is there: while it waits for an answer
//! anyway, and with no other thread to be woken.

use std::sync::{Arc, Weak};

use super::Link;
use super::world::Mutex;
use super::world::atomic::AtomicU8;
use super::world::atomic::Ordering::SeqCst;
use crate::driver::carrier::{Carries, Watcher};

/// What rests on a link.
#[derive(Default)]
pub(super) struct Rest {
    /// The control queue, whether anything in it rests or not.
    pub(super) frames: Age,
    looks: Mutex<Vec<Weak<dyn Watcher>>>,
    /// Of `looks`.
    looked_for: Age,
}

/// Whether something waits, and for how long it has rested. One value, so that nobody
/// finds nothing while what rested becomes due.
#[derive(Default)]
pub(super) struct Age(AtomicU8);

impl Age {
    /// Something rests from now on. Called under the lock of what does.
    pub(super) fn begin(&self) {
        let _ = self.0.compare_exchange(NOTHING, FRESH, SeqCst, SeqCst);
    }

    /// Something waits that has no time. Called under the same, or for what is there already.
    pub(super) fn begin_due(&self) {
        self.0.store(DUE, SeqCst);
    }

    /// What rests is due now.
    fn hurry(&self) {
        let rests = |age| (age == FRESH || age == AGED).then_some(DUE);
        let _ = self.0.fetch_update(SeqCst, SeqCst, rests);
    }

    pub(super) fn is_due(&self) -> bool {
        self.0.load(SeqCst) == DUE
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.load(SeqCst) == NOTHING
    }

    /// It is taken. Whether there was anything.
    pub(super) fn end(&self) -> bool {
        !self.is_none() && self.0.swap(NOTHING, SeqCst) != NOTHING
    }

    /// A tick: whether there was something at the one before already.
    pub(super) fn ticks(&self) -> bool {
        self.0.compare_exchange(FRESH, AGED, SeqCst, SeqCst) == Err(AGED)
    }
}

impl Link {
    /// Sends what rests, and the other control frames that wait.
    pub(crate) fn say_rest(self: &Arc<Link>) {
        self.rest.frames.hurry();
        self.flush_control();
    }

    /// Tells a session what it is curious about: at once, or when there is time.
    pub(super) fn tell(&self, carries: &Carries) {
        let Some(session) = carries.stir_if_curious() else { return };
        let mut looks = self.rest.looks.lock();
        if looks.len() >= MOST_LOOKS {
            drop(looks);
            return carries.stir();
        }
        looks.push(session);
        self.rest.looked_for.begin();
    }

    /// Has those sessions look whose turn comes when there is time. Called without a lock.
    pub(super) fn look_round(&self) {
        if self.rest.looked_for.end() {
            let looks = std::mem::take(&mut *self.rest.looks.lock());
            looks.iter().filter_map(Weak::upgrade).for_each(|session| session.look());
        }
    }

    /// The link has ended: the event loop has them look. Called when nothing is told any more.
    pub(super) fn end_rest(&self) {
        let looks = std::mem::take(&mut *self.rest.looks.lock());
        looks.iter().filter_map(Weak::upgrade).for_each(|session| session.stirred());
    }

    /// The reactor's tick. `unled`: it reads the socket from now on.
    pub(super) fn tick_rest(self: &Arc<Link>, unled: bool) {
        // Who looks may have something to say.
        if self.rest.looked_for.ticks() || unled {
            self.look_round();
        }
        if self.rest.frames.ticks() || unled {
            self.say_rest();
        }
    }
}

const NOTHING: u8 = 0;
const FRESH: u8 = 1;
const AGED: u8 = 2;
const DUE: u8 = 3;

/// Sessions that look when there is time; the event loop has others look.
const MOST_LOOKS: usize = 256;
