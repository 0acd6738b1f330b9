//! The sessions of a host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::{Condvar, Mutex};

use super::carriers::Carrier;
use super::graves::Graves;
use super::lost::Lost;
use super::{Key, Session};
use crate::driver::{Carries, Greeted, Link, Stream, Watcher, reactor};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::resume::{Code, Gone, Hello, Welcome, verdict};
use crate::proto::yamux::INITIAL_WINDOW;
use crate::resources::Resources;

/// Times and bounds of sessions.
#[derive(Clone, Debug)]
pub(crate) struct SessionLimits {
    /// How long a lost session is kept.
    pub(crate) timeout: Duration,
    /// Bytes that one keeps at most until the peer confirms them.
    pub(crate) replay: usize,
    /// How long one is redialled for that nobody has any more.
    pub(crate) linger: Duration,
    /// How long a peer has to answer a head on a link that stands still.
    pub(crate) answer: Duration,
    /// How long a peer may take to notice a loss.
    pub(crate) detection: Duration,
}

/// What sessions need of the floor above: links to their peers.
pub(crate) trait Lines: Send + Sync {
    /// A live link to the peer that suits, if there is one. `suits` is asked under a lock.
    fn line(&self, peer: &PeerId, suits: &dyn Fn(&Link) -> bool) -> Option<Arc<Link>>;
    /// Dials the peer where it is known to be, unless there is such a link.
    fn dial(
        &self,
        peer: PeerId,
        suits: &dyn Fn(&Link) -> bool,
        deadline: Instant,
    ) -> Result<Arc<Link>>;
}

/// All of a host.
pub(crate) struct Sessions {
    pub(crate) limits: SessionLimits,
    pub(crate) counters: Counters,
    pub(super) resources: Arc<Resources>,
    pub(super) reactor: Arc<reactor::Handle>,
    pub(super) lines: Weak<dyn Lines>,
    pub(super) table: Mutex<Table>,
    /// Something that a thread may wait for.
    pub(super) changed: Condvar,
}

/// What the sessions of a host have gone through.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) lost: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) replayed: AtomicU64,
}

#[derive(Default)]
pub(super) struct Table {
    live: HashMap<Key, Arc<Session>>,
    pub(super) lost: Lost,
    graves: Graves,
    /// Those that have ended and may have something left to read.
    outlived: Vec<Weak<Session>>,
    /// Heads that the peer has not answered.
    asking: HashMap<PeerId, usize>,
    /// Peers that a thread redials, and how often it has since a session was resumed.
    pub(super) redialled: HashMap<PeerId, u32>,
    /// Those among them whose thread could not be started yet.
    pub(super) unstarted: Vec<PeerId>,
    /// No new ones.
    pub(super) closed: bool,
    /// No dialling either.
    pub(super) over: bool,
}

/// A place among the heads that a peer has not answered; dropped, it is free.
pub(super) struct PlaceToAsk {
    sessions: Arc<Sessions>,
    peer: PeerId,
}

impl Drop for PlaceToAsk {
    fn drop(&mut self) {
        let was_full = {
            let mut table = self.sessions.table.lock();
            let Entry::Occupied(mut asking) = table.asking.entry(self.peer) else { return };
            let before = *asking.get();
            *asking.get_mut() -= 1;
            if before == 1 {
                asking.remove();
            }
            before == MOST_ASKING
        };
        if was_full {
            // Others may wait for it.
            self.sessions.lost_of(&self.peer).iter().for_each(|session| session.stirred());
        }
    }
}

impl Sessions {
    pub(crate) fn new(
        limits: SessionLimits,
        resources: Arc<Resources>,
        reactor: Arc<reactor::Handle>,
        lines: Weak<dyn Lines>,
    ) -> Arc<Sessions> {
        Arc::new(Sessions {
            limits,
            counters: Counters::default(),
            resources,
            reactor,
            lines,
            table: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// A stream of the peer's says which session it is to carry. A new one is given to
    /// `offer`, which says whether somebody takes it. Called under the stream's lock.
    pub(crate) fn greet(
        self: &Arc<Sessions>,
        link: &Arc<Link>,
        stream: &Arc<Stream>,
        hello: Hello,
        serves: impl FnOnce(&str) -> bool,
        offer: impl FnOnce(&Arc<Session>) -> bool,
    ) -> Greeted {
        let key = Key { peer: link.peer, id: hello.id, opener: false };
        let known = {
            let table = self.table.lock();
            if let Some(received) = table.graves.get(&key) {
                return gone(Code::Ended, received);
            }
            table.live.get(&key).cloned()
        };
        if let Some(session) = known {
            return session.take_hello(link, stream, hello);
        }
        if let Err(gone) = verdict::may_open(&hello) {
            return Greeted::Gone(gone.encode());
        }
        if !serves(&hello.protocol) {
            return gone(Code::NotServed, 0);
        }
        let carrier = Arc::new(Carrier { link: link.clone(), stream: stream.clone() });
        let session = Session::new(
            hello.id,
            false,
            link.peer,
            hello.protocol.as_str().into(),
            self,
            Some(carrier),
        );
        session.open_as_responder(&hello);
        if !self.add(&session) {
            return Greeted::Refused;
        }
        let watcher: Weak<dyn Watcher> = session.me.clone();
        let _ = stream.carries.set(Carries::new(watcher, 0, false));
        if !offer(&session) {
            self.table.lock().live.remove(&key);
            return Greeted::Refused;
        }
        let timeout = self.limits.timeout;
        Greeted::Welcome(
            Welcome { received: 0, window: INITIAL_WINDOW, timeout }.encode(),
            INITIAL_WINDOW,
        )
    }

    /// `false`: no more are taken, or it is there already.
    pub(super) fn add(&self, session: &Arc<Session>) -> bool {
        let mut table = self.table.lock();
        let new = !table.closed && !table.live.contains_key(&session.key());
        if new {
            table.live.insert(session.key(), session.clone());
        }
        new
    }

    /// It has ended; a peer that asks for it is told so for a while.
    pub(super) fn bury(&self, session: &Session, received: u64, has_left: bool, now: Instant) {
        let mut table = self.table.lock();
        let key = session.key();
        let was_there = table.live.remove(&key).is_some();
        if was_there && !session.opener {
            let until = now + self.limits.timeout + self.limits.detection;
            table.graves.add(key, received, until);
        }
        table.graves.forget(now);
        if was_there && has_left {
            table.outlived.retain(|session| session.strong_count() > 0);
            table.outlived.push(session.me.clone());
        }
        drop(table);
        self.tell();
    }

    /// Wakes the threads that wait for a change. Under the table's lock, so that none
    /// misses it that has just looked.
    pub(super) fn tell(&self) {
        let _table = self.table.lock();
        self.changed.notify_all();
    }

    /// It has lost its carrier. Returns its number among the lost, and one that has to
    /// end because there are too many.
    pub(super) fn enlist(
        &self,
        session: &Session,
        dials: bool,
        complete: bool,
    ) -> (u64, Option<Arc<Session>>) {
        self.table.lock().lost.add(session, dials, complete)
    }

    /// It has a carrier again, or has ended.
    pub(super) fn strike_off(&self, session: &Session, number: u64) {
        let through = self.table.lock().lost.remove(session.peer, number);
        self.changed.notify_all();
        through.iter().filter_map(Weak::upgrade).for_each(|session| session.stirred());
    }

    /// A place among the heads that the peer has not answered, if there is one.
    pub(super) fn place_to_ask(self: &Arc<Sessions>, peer: &PeerId) -> Option<PlaceToAsk> {
        let mut table = self.table.lock();
        let asking = table.asking.entry(*peer).or_default();
        let fits = *asking < MOST_ASKING;
        *asking += usize::from(fits);
        fits.then(|| PlaceToAsk { sessions: self.clone(), peer: *peer })
    }

    /// Those without a carrier.
    pub(super) fn lost_of(&self, peer: &PeerId) -> Vec<Arc<Session>> {
        self.table.lock().lost.of(peer)
    }

    /// How many are without a carrier.
    pub(crate) fn waiting(&self) -> usize {
        self.table.lock().lost.count()
    }

    /// A new link is up.
    pub(crate) fn link_up(&self, link: &Link) {
        for session in self.lost_of(&link.peer) {
            if link.resumable {
                session.stirred();
            } else {
                let what = "the peer came back without a memory of this conn";
                session.give_up_lost(Error::new(ErrorCode::ConnectionReset, what));
            }
        }
    }

    /// All that are there, and those that have ended with something left to read.
    pub(super) fn with_something_left(&self) -> Vec<Arc<Session>> {
        let table = self.table.lock();
        let outlived = table.outlived.iter().filter_map(Weak::upgrade);
        table.live.values().cloned().chain(outlived).collect()
    }

    /// Those with this peer, or all.
    pub(super) fn live(&self, peer: Option<&PeerId>) -> Vec<Arc<Session>> {
        let table = self.table.lock();
        let of_peer = |session: &&Arc<Session>| peer.is_none_or(|peer| session.peer == *peer);
        table.live.values().filter(of_peer).cloned().collect()
    }
}

/// The head that says that a session does not go on.
pub(super) fn gone(code: Code, received: u64) -> Greeted {
    Greeted::Gone(Gone { code, received }.encode())
}

/// Why one of too many ends.
pub(super) fn too_many() -> Error {
    let what = "the connection was lost, and too many conns wait to be resumed";
    Error::new(ErrorCode::ConnectionReset, what)
}

/// Heads of one host that one peer has not answered: fewer than it negotiates at once.
const MOST_ASKING: usize = 64;
