//! Blocking: lead the link, or sleep until somebody who leads has news.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::world::{For, Waiter, is_readable, note_leave, now, remaining, yield_now};
use super::{Fuse, Link};
use crate::driver::drive::{Left, TICK, Ticket, Turn};
use crate::driver::stream::Direct;
use crate::error::{Error, ErrorCode};

impl Link {
    /// Blocks until `ready` has a result; `None` when the deadline passes first.
    ///
    /// `ready` looks under the lock of what it waits for, and if there is nothing
    /// yet adds the waiter there before it unlocks: so no wake is missed. The
    /// caller takes the waiter out again.
    pub(super) fn wait<R>(
        self: &Arc<Link>,
        me: &Arc<Waiter>,
        deadline: Option<Instant>,
        direct: &mut Direct<'_>,
        mut ready: impl FnMut(&mut Direct<'_>) -> Option<R>,
    ) -> io::Result<Option<R>> {
        let mut place = Place { link: self, ticket: None, slept: false, fuse: Fuse::new(self) };
        loop {
            if let Some(result) = ready(direct) {
                return Ok(Some(result));
            }
            if deadline.is_some_and(|at| remaining(at).is_none()) {
                return Ok(None);
            }
            self.send_joined();
            match self.enter(me, &mut place.ticket) {
                Turn::Lead => place.slept |= self.lead(me, deadline, direct),
                Turn::Follow => me.park(deadline),
                // `die` tells every stream before it ends the drive.
                Turn::Dead => {
                    return match ready(direct) {
                        Some(result) => Ok(Some(result)),
                        None => Err(self.lost()),
                    };
                }
            }
        }
    }

    /// Waits for something that this link is likely to bring, and drives it
    /// meanwhile. `done` looks as `ready` does in `wait`.
    pub(crate) fn attend(
        self: &Arc<Link>,
        me: &Arc<Waiter>,
        until: Instant,
        mut done: impl FnMut() -> bool,
    ) {
        // The link's end is no news here.
        let _ = self.wait(me, Some(until), &mut Direct::none(), |_| done().then_some(()));
    }

    fn lost(&self) -> io::Error {
        self.death().cloned().map_or_else(|| io::ErrorKind::ConnectionAborted.into(), Into::into)
    }

    fn enter(&self, me: &Arc<Waiter>, ticket: &mut Option<Ticket>) -> Turn {
        let mut drive = self.drive.lock();
        let before = drive.interest();
        let turn = drive.enter(me, ticket);
        self.rearm(before, drive.interest());
        turn
    }

    /// Tells the reactor's poll what has changed. Called under the `drive` lock. A link
    /// that nobody watches as it should be would stand still for ever, so it ends.
    fn rearm(&self, before: (bool, bool), now: (bool, bool)) {
        if before != now
            && let Some(&token) = self.token.get()
            && let Err(e) = self.reactor.reregister(&self.socket, token, before, now)
        {
            let what = "the system does not watch the connection's socket as it should";
            let why = Error::with_source(ErrorCode::ConnectionAborted, what, e);
            self.reactor.end_soon(token, why);
        }
    }

    /// Pumps and sleeps on the socket until somebody, most likely this very pump,
    /// has woken this thread. Returns whether it slept for long.
    fn lead(
        self: &Arc<Link>,
        me: &Waiter,
        deadline: Option<Instant>,
        direct: &mut Direct<'_>,
    ) -> bool {
        let mut slept = false;
        loop {
            self.pump_leading(direct, false);
            if self.death().is_some() {
                // `die` is on its way to tell what this thread waits for.
                yield_now();
                return slept;
            }
            if me.take_wake() {
                return slept;
            }
            self.look_round();
            if self.spin(me, direct) {
                return slept;
            }
            self.look_round();
            self.say_rest();
            let asleep = now();
            me.poll_one(&self.socket, For::Reading, deadline);
            slept |= now().duration_since(asleep) > TICK;
            if me.take_wake() || deadline.is_some_and(|at| remaining(at).is_none()) {
                return slept;
            }
        }
    }

    /// Looks at the socket a few times more before it sleeps, where that pays.
    /// Returns whether it did.
    fn spin(self: &Arc<Link>, me: &Waiter, direct: &mut Direct<'_>) -> bool {
        self.spin.until(|| {
            if is_readable(&self.socket) {
                self.pump_leading(direct, false);
            }
            me.take_wake() || self.death().is_some()
        })
    }

    /// Has the reactor write the rest as soon as the socket takes it.
    pub(crate) fn leave_rest_to_reactor(&self) {
        self.set_want_write(true);
    }

    pub(super) fn set_want_write(&self, want: bool) {
        let mut drive = self.drive.lock();
        if drive.wants_write() != want {
            let before = drive.interest();
            drive.set_want_write(want);
            self.rearm(before, drive.interest());
        }
    }

    /// A conn came to its end: its reader will not be back in a moment, unless it is one
    /// that opens or accepts conns. One that goes from conn to conn says the end of this
    /// one with the beginning of the next.
    pub(crate) fn leave(self: &Arc<Link>) {
        let (returns, at_once) = note_leave();
        if !returns {
            self.hand_back();
        } else if !at_once || !self.drive.lock().is_idle() {
            self.say_rest();
        }
    }

    /// Whoever drove the link waits for something else now.
    pub(crate) fn hand_back(self: &Arc<Link>) {
        {
            let mut drive = self.drive.lock();
            let before = drive.interest();
            drive.hand_back();
            self.rearm(before, drive.interest());
        }
        self.say_rest();
    }

    /// The reactor's tick: takes the socket back if nobody wants it. Returns
    /// whether the next tick is wanted.
    pub(in crate::driver) fn tick(self: &Arc<Link>, now: Instant) -> bool {
        let (again, unled) = {
            let mut drive = self.drive.lock();
            let before = drive.interest();
            let again = drive.tick(now);
            self.rearm(before, drive.interest());
            (again, drive.reactor_reads())
        };
        self.tick_rest(unled);
        again
    }

    /// The socket is readable, says the reactor's poll.
    pub(in crate::driver) fn on_readable(self: &Arc<Link>) {
        if self.drive.lock().reactor_reads() {
            self.pump(&mut Direct::none(), true);
        }
    }
}

/// A thread's place in the queue for the lead; dropped, also by a panic, it
/// hands on.
struct Place<'a> {
    link: &'a Arc<Link>,
    ticket: Option<Ticket>,
    slept: bool,
    /// Last: it looks at the link when this thread has handed on.
    fuse: Fuse<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let (left, unled) = {
            let mut drive = self.link.drive.lock();
            let before = drive.interest();
            let left = drive.forget(ticket, self.slept, now());
            self.link.rearm(before, drive.interest());
            (left, drive.reactor_reads())
        };
        // Not if it is this wait that panics: the fuse ends the link.
        if unled && (self.fuse.unwinding || !std::thread::panicking()) {
            self.link.look_round();
            self.link.say_rest();
        }
        match left {
            Left::Promote(waiter) => waiter.wake(),
            Left::StartTicks => self.link.reactor.start_ticks(self.link),
            Left::Nothing => {}
        }
    }
}
