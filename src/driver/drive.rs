//! Who sleeps on a link's socket.
//!
//! A link's data is safe by its own locks, whoever reads the socket. This state
//! only says who *waits* for it: the reactor, or one blocked thread, the leader,
//! which saves a hop between threads on every message. It is a value without a
//! lock; the link keeps it behind one and does what the methods return, under
//! that lock where it concerns the socket's registration.
//!
//! | role | who sleeps on the socket | left when |
//! |---|---|---|
//! | `Reactor` | the reactor, armed | a thread blocks: it leads |
//! | `Leader` | that thread | it has what it wanted: the next blocked thread leads, else `Idle`, or `Reactor` if it slept long |
//! | `Idle` | nobody, at most for two ticks | a thread blocks, again or first: it leads; or a tick: `Reactor` |
//! | `Dead` | nobody | never |

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The state, over any handle `W` of a waiting thread.
pub(crate) struct Drive<W> {
    role: Role,
    /// Threads that sleep elsewhere and may be made leader, oldest first.
    followers: BTreeMap<Ticket, W>,
    next: u64,
    /// The reactor looks at this link at each tick.
    ticking: bool,
    /// The socket was full: the reactor is to write the rest.
    want_write: bool,
}

/// A thread's place among those who wait, from its first `enter` to `forget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Reactor,
    Leader(Ticket),
    Idle(Instant),
    Dead,
}

/// What a thread that has to wait does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Pump, and sleep on the socket.
    Lead,
    /// Sleep until woken.
    Follow,
    /// Look at what you waited for: the link has ended.
    Dead,
}

/// What is left to do after a leader has left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left<W> {
    /// Wake it: it leads now.
    Promote(W),
    /// Have the reactor look at this link at each tick from now on.
    StartTicks,
    /// Apply `interest`: the reactor is armed, or nothing has changed.
    Nothing,
}

impl<W: Clone> Drive<W> {
    pub(crate) fn new() -> Drive<W> {
        Drive {
            role: Role::Reactor,
            followers: BTreeMap::new(),
            next: 0,
            ticking: false,
            want_write: false,
        }
    }

    /// A link begins: the thread that made it, or that accepts what came with it, is about to
    /// lead, and the reactor would only be woken in between. Returns whether it is to look at
    /// this link at each tick.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let unled = self.role == Role::Reactor;
        if unled {
            self.role = Role::Idle(now);
        }
        unled && !std::mem::replace(&mut self.ticking, true)
    }

    /// What the reactor is to watch for: reading, writing.
    pub(crate) fn interest(&self) -> (bool, bool) {
        match self.role {
            Role::Dead => (false, false),
            role => (role == Role::Reactor, self.want_write),
        }
    }

    /// A thread has to wait. `ticket` is its own, `None` at first.
    pub(crate) fn enter(&mut self, me: &W, ticket: &mut Option<Ticket>) -> Turn {
        let ticket = *ticket.get_or_insert_with(|| {
            self.next += 1;
            Ticket(self.next)
        });
        match self.role {
            Role::Dead => Turn::Dead,
            Role::Leader(leader) if leader != ticket => {
                self.followers.insert(ticket, me.clone());
                Turn::Follow
            }
            _ => {
                self.followers.remove(&ticket);
                self.role = Role::Leader(ticket);
                Turn::Lead
            }
        }
    }

    /// A thread waits no longer. If it leads, perhaps without having noticed,
    /// somebody else does now. `slept`: it slept on the socket for longer than a
    /// tick, so that the next wait is likely to be long too.
    pub(crate) fn forget(&mut self, ticket: Ticket, slept: bool, now: Instant) -> Left<W> {
        self.followers.remove(&ticket);
        if self.role != Role::Leader(ticket) {
            return Left::Nothing;
        }
        if let Some((next, waiter)) = self.followers.pop_first() {
            self.role = Role::Leader(next);
            return Left::Promote(waiter);
        }
        if slept {
            self.role = Role::Reactor;
            return Left::Nothing;
        }
        self.role = Role::Idle(now);
        if std::mem::replace(&mut self.ticking, true) { Left::Nothing } else { Left::StartTicks }
    }

    /// A tick. Returns whether the next one is wanted; `interest` may have changed.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        match self.role {
            Role::Idle(since) if now.saturating_duration_since(since) < TICK => {}
            Role::Idle(_) => {
                self.role = Role::Reactor;
                self.ticking = false;
            }
            // A leader that leaves starts the ticks again.
            Role::Reactor | Role::Leader(_) | Role::Dead => self.ticking = false,
        }
        self.ticking
    }

    /// No thread is expected back soon: the reactor takes an idle link at once.
    /// `interest` may have changed.
    pub(crate) fn hand_back(&mut self) {
        if let Role::Idle(_) = self.role {
            self.role = Role::Reactor;
        }
    }

    /// Whether the reactor reads: a readiness that it saw before a thread took
    /// the lead is none of its business.
    pub(crate) fn reactor_reads(&self) -> bool {
        self.role == Role::Reactor
    }

    /// Whether a tick is to come before anybody sleeps on the socket.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.role, Role::Idle(_))
    }

    /// Whether the reactor is to write what the socket did not take.
    pub(crate) fn set_want_write(&mut self, want: bool) {
        self.want_write = want;
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.want_write
    }

    /// The link has ended: the threads to wake so that they see it.
    pub(crate) fn die(&mut self) -> Vec<W> {
        self.role = Role::Dead;
        std::mem::take(&mut self.followers).into_values().collect()
    }
}

/// How long a link stays with nobody at its socket before the reactor is armed.
pub(crate) const TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_leads_and_hands_on_in_the_order_of_arrival() {
        let now = Instant::now();
        let mut drive = Drive::new();
        let (mut a, mut b, mut c) = (None, None, None);
        assert_eq!(drive.enter(&'a', &mut a), Turn::Lead);
        assert_eq!(drive.enter(&'b', &mut b), Turn::Follow);
        assert_eq!(drive.enter(&'c', &mut c), Turn::Follow);
        assert_eq!(drive.forget(a.unwrap(), false, now), Left::Promote('b'));
        assert_eq!(drive.enter(&'b', &mut b), Turn::Lead);
        // A promoted thread that has given up meanwhile passes it on.
        assert_eq!(drive.forget(b.unwrap(), false, now), Left::Promote('c'));
        assert_eq!(drive.forget(c.unwrap(), true, now), Left::Nothing);
        assert_eq!(drive.interest(), (true, false));
    }

    #[test]
    fn an_idle_link_goes_back_to_the_reactor_within_two_ticks() {
        let now = Instant::now();
        let mut drive = Drive::new();
        let mut a = None;
        drive.enter(&'a', &mut a);
        assert!(!drive.reactor_reads());
        assert_eq!(drive.forget(a.unwrap(), false, now), Left::StartTicks);
        assert!(drive.tick(now + TICK / 2));
        assert!(!drive.tick(now + TICK));
        assert!(drive.reactor_reads());
    }

    #[test]
    fn a_new_link_waits_two_ticks_for_a_leader() {
        let now = Instant::now();
        let mut drive = Drive::<char>::new();
        assert!(drive.begin(now));
        assert_eq!(drive.interest(), (false, false));
        assert!(drive.tick(now + TICK / 2));
        assert!(!drive.tick(now + TICK));
        assert_eq!(drive.interest(), (true, false));
        // One that is led already, or has ended, stays as it is.
        let (mut drive, mut a) = (Drive::new(), None);
        drive.enter(&'a', &mut a);
        assert!(!drive.begin(now));
        assert_eq!(drive.forget(a.unwrap(), true, now), Left::Nothing);
        drive.die();
        assert!(!drive.begin(now));
        assert_eq!(drive.interest(), (false, false));
    }

    #[test]
    fn a_long_leader_stops_the_ticks_and_starts_them_again_when_it_leaves() {
        let now = Instant::now();
        let mut drive = Drive::new();
        for _ in 0..3 {
            let mut a = None;
            drive.enter(&'a', &mut a);
            assert!(!drive.tick(now));
            assert_eq!(drive.forget(a.unwrap(), false, now), Left::StartTicks);
        }
    }

    #[test]
    fn nobody_leads_a_dead_link() {
        let mut drive = Drive::new();
        let (mut a, mut b) = (None, None);
        drive.enter(&'a', &mut a);
        drive.enter(&'b', &mut b);
        assert_eq!(drive.die(), vec!['b']);
        assert_eq!(drive.enter(&'b', &mut b), Turn::Dead);
        assert_eq!(drive.interest(), (false, false));
    }
}
