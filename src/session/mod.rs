//! Floor 3: streams that survive the loss of their connection.
//!
//! A [`Session`] is a stream between two hosts that lives on one carrier after the
//! other: an ordinary stream of a link, whose head says which session it carries and
//! how much of it has arrived (the wire is in `proto/resume`). What is written is kept
//! until the peer confirms it, and sent again from there over the next carrier. Long
//! writes are not copied for that: they are kept as the link has sealed them, and opened
//! again if it is lost.
//!
//! | phase | reads | writes | left when |
//! |---|---|---|---|
//! | `Opening` | - | - | the peer welcomes it: `Attached`; else there is no conn |
//! | `Attached` | what is left of carriers before, then the carrier's inbox | sealed at once, and kept | the link is lost: `Lost`; it is closed or the stream reset: `Ended`; both ends have finished and the peer knows it too: `Ended` |
//! | `Lost` | what had arrived, then they wait | kept, then they wait | a new carrier is welcomed: `Attached`; the time is over or the peer knows it no more: `Ended` |
//! | `Ended` | what had arrived, then the end or the error | the error | never |
//!
//! Whoever uses a session notes what became of its carrier; all else is done by the
//! event loop (`Session::run`), which never waits: the session has itself called when
//! its carrier has news (a loss, an answer, credit, a confirmation) or its time is over.
//! Only dialling again has a thread, one for a peer (`redial`).
//!
//! # Locks
//!
//! Before those of `driver/link`, and none is held while a thread blocks:
//!
//! 1. `writer`: what was written and how far it is sealed.
//! 2. `state`: phase and carriers. Under it only a stream's `state` is taken.
//!
//! The table's lock is a leaf.

mod carriers;
mod channel;
mod ending;
mod graves;
mod lost;
mod opening;
mod outgoing;
mod reading;
mod receipt;
mod redial;
mod relief;
mod resuming;
mod successor;
mod table;
#[cfg(test)]
mod tests;
mod turn;
mod writing;

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use self::carriers::{Carrier, Carriers};
use self::outgoing::Outgoing;
use self::receipt::LastReceipt;
use self::resuming::{Asking, Requests};
use crate::driver::reactor::Task;
use crate::driver::{Link, Priority, Stream, Watcher};
use crate::error::Error;
use crate::proto::noise::StaticKey;
use crate::proto::resume::SessionId;

pub(crate) use channel::Channel;
pub(crate) use opening::Opened;
pub(crate) use table::{Lines, SessionLimits, Sessions};

/// A stream that lives on one connection after the other.
pub(crate) struct Session {
    pub(crate) peer: PeerId,
    pub(crate) protocol: Arc<str>,
    pub(crate) counters: Counters,
    id: SessionId,
    /// This end has opened it, and so is the one that resumes it.
    opener: bool,
    sessions: Arc<Sessions>,
    writer: Mutex<Outgoing>,
    state: Mutex<State>,
    /// Nothing more is written: wakes those who wait to.
    shut: AtomicBool,
    /// Where on the current link the kernel has all that was written: 0 if it has it, and
    /// [`NOWHERE`](writing::NOWHERE) if some is not sealed yet.
    unsent: AtomicU64,
    /// Nothing more has to be delivered.
    settled: AtomicBool,
    /// The event loop is to look soon whether what is kept has been confirmed.
    trims: AtomicBool,
    /// It waits for the event loop.
    queued: AtomicBool,
    /// Streams of the peer's that are to carry it.
    requests: Requests,
    /// When it is to look at its times again.
    alarm: Mutex<Option<Instant>>,
    me: Weak<Session>,
}

/// What a session has done and gone through.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) losses: AtomicU64,
    pub(crate) resumes: AtomicU64,
    pub(crate) replayed: AtomicU64,
    /// Of those that are over, in nanoseconds.
    pub(crate) longest_outage: AtomicU64,
}

/// Where it is.
struct State {
    phase: Phase,
    /// Of the newest carrier that was asked for.
    epoch: u64,
    carriers: Carriers,
    /// Reads were shut down.
    deaf: bool,
    last_receipt: LastReceipt,
    /// The last handle was dropped.
    released: Option<Instant>,
    /// How long it may be without a carrier.
    timeout: Duration,
    /// The host or the peer's connections are being closed, for this reason, and without
    /// a carrier it ends then.
    closing: Option<(Error, Instant)>,
    priority: Priority,
}

enum Phase {
    /// Its opener waits for the first welcome.
    Opening,
    Attached,
    Lost(Box<Outage>),
    /// With what went wrong; none if both ends have finished.
    Ended(Option<Error>),
}

/// A time without a carrier.
struct Outage {
    /// Its number among the sessions that are lost.
    number: u64,
    since: Instant,
    deadline: Instant,
    /// The number of the link that was lost, whether this host had dialled it, and how.
    link: u64,
    dials: bool,
    /// The host at its other end, and since when there is another of the same peer.
    host: StaticKey,
    succeeded: Option<Instant>,
    /// See `successor::Wanted`.
    elsewhere: bool,
    why: Error,
    asking: Option<Asking>,
    /// No other is asked for before.
    not_before: Instant,
    /// Attempts that the peer had no room for.
    refused: u32,
}

impl Outage {
    fn new(number: u64, link: &Link, why: Error, since: Instant, deadline: Instant) -> Outage {
        Outage {
            number,
            since,
            deadline,
            link: link.id,
            dials: link.dialled,
            host: link.peer_static,
            succeeded: None,
            elsewhere: false,
            why,
            asking: None,
            not_before: since,
            refused: 0,
        }
    }
}

impl Session {
    fn new(
        id: SessionId,
        opener: bool,
        peer: PeerId,
        protocol: Arc<str>,
        sessions: &Arc<Sessions>,
        first: Option<Arc<Carrier>>,
    ) -> Arc<Session> {
        let limits = &sessions.limits;
        let memory = &sessions.resources.memory;
        let outgoing = Outgoing::new(limits.replay, memory.clone());
        let phase = if first.is_some() { Phase::Attached } else { Phase::Opening };
        Arc::new_cyclic(|me| Session {
            peer,
            protocol,
            counters: Counters::default(),
            id,
            opener,
            sessions: sessions.clone(),
            writer: Mutex::new(outgoing),
            state: Mutex::new(State {
                phase,
                epoch: 0,
                carriers: Carriers::new(first, memory.clone()),
                deaf: false,
                last_receipt: LastReceipt::default(),
                released: None,
                timeout: limits.timeout,
                closing: None,
                priority: Priority::Normal,
            }),
            shut: AtomicBool::new(false),
            unsent: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            trims: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            requests: Requests::default(),
            alarm: Mutex::default(),
            me: me.clone(),
        })
    }

    fn key(&self) -> Key {
        Key { peer: self.peer, id: self.id, opener: self.opener }
    }

    /// The newest carrier, alive or not.
    pub(crate) fn newest(&self) -> (Arc<Link>, Arc<Stream>) {
        let state = self.state.lock();
        let newest = state.carriers.newest().expect("a conn is made of a session that was opened");
        (newest.link.clone(), newest.stream.clone())
    }

    /// The carrier that bytes go to now, if there is one.
    fn current(&self) -> Option<Arc<Carrier>> {
        self.state.lock().carriers.current.clone()
    }

    /// Whether it is without a carrier, and waits for one.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Lost(_))
    }

    /// The longest time without a carrier, the present one among them.
    pub(crate) fn longest_outage(&self) -> Duration {
        let longest = Duration::from_nanos(self.counters.longest_outage.load(Relaxed));
        match &self.state.lock().phase {
            Phase::Lost(outage) => longest.max(outage.since.elapsed()),
            _ => longest,
        }
    }

    /// Payload that has arrived, and what of it waits to be read.
    pub(crate) fn incoming(&self) -> (u64, usize) {
        let state = self.state.lock();
        let end = u64::from(state.carriers.is_finished());
        (state.carriers.received_so_far().saturating_sub(end), state.carriers.unread())
    }

    /// Why it is broken, if it is.
    pub(crate) fn broken(&self) -> Option<Error> {
        self.settle();
        match &self.state.lock().phase {
            Phase::Ended(why) => why.clone(),
            _ => None,
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        self.state.lock().priority
    }

    pub(crate) fn set_priority(&self, priority: Priority) {
        self.state.lock().priority = priority;
        if let Some(carrier) = self.current() {
            carrier.stream.set_priority(priority);
            carrier.link.resume_paused();
        }
    }
}

/// What names a session at this host. The roles are apart: nobody resumes a session
/// of ours from the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    peer: PeerId,
    id: SessionId,
    opener: bool,
}

impl Watcher for Session {
    fn stirred(&self) {
        if !self.queued.swap(true, SeqCst)
            && let Some(me) = self.me.upgrade()
        {
            self.sessions.reactor.run_soon(me);
        }
    }

    fn look(&self) {
        self.note_delivery();
        self.settle();
        self.finish_if_over(Instant::now());
    }
}

impl Task for Session {
    /// Looks at everything that may have happened, and does what is due.
    fn run(self: Arc<Session>, now: Instant) {
        self.queued.store(false, SeqCst);
        self.note_delivery();
        self.settle();
        self.hear_hellos();
        self.hear_answer(now);
        self.go_on(now);
        self.finish_if_over(now);
    }
}

/// Sessions without a carrier, of one peer and in all.
const MOST_LOST_OF_PEER: usize = 1024;
const MOST_LOST: usize = 8192;
