//! The queue of streams that wait for `accept`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use crate::driver::{Link, Patience, Waiter, Waiters, expect_back};
use crate::error::{Error, ErrorCode, Result};
use crate::resources::Resources;
use crate::resources::limits::Limit;
use crate::session::Channel;

/// One protocol's queue. It never holds a handle of the host.
pub(crate) struct Backlog {
    pub(crate) protocol: Arc<str>,
    pub(crate) opened: Instant,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Channel>,
    per_peer: HashMap<PeerId, usize>,
    /// Where the last one came from.
    last: Weak<Link>,
    /// Who accepts and found it empty: each waits for one arrival.
    waiters: Waiters,
    closed: bool,
}

impl Backlog {
    pub(crate) fn new(protocol: &str) -> Backlog {
        Backlog {
            protocol: protocol.into(),
            opened: Instant::now(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            queue: Mutex::default(),
        }
    }

    /// Queues an arrival; `false`: there is no room, or nobody will accept it.
    pub(crate) fn push(&self, arrival: Channel, link: &Arc<Link>, resources: &Resources) -> bool {
        let peer = link.peer;
        let mut queue = self.queue.lock();
        let of_peer = queue.per_peer.get(&peer).copied().unwrap_or(0);
        let fits = !queue.closed
            && resources.judge(Limit::AcceptQueue, queue.waiting.len())
            && resources.judge(Limit::AcceptQueuePerPeer, of_peer);
        if !fits {
            drop(queue);
            self.refused.fetch_add(1, Relaxed);
            return false;
        }
        queue.per_peer.insert(peer, of_peer + 1);
        queue.last = Arc::downgrade(link);
        queue.waiting.push_back(arrival);
        let next = queue.waiters.take_one();
        drop(queue);
        next.inspect(|waiter| link.wake_behind_answer(waiter));
        true
    }

    /// The oldest arrival; `None`: none came within `patience`.
    pub(crate) fn pop(&self, patience: Patience) -> Result<Option<Channel>> {
        expect_back();
        let mut me = None;
        loop {
            let last = {
                let mut queue = self.queue.lock();
                if queue.closed {
                    return Err(Error::new(ErrorCode::NotConnected, "the listener was closed"));
                }
                if let Some(arrival) = queue.waiting.pop_front() {
                    queue.forget_one(&arrival.peer());
                    drop(queue);
                    arrival.accept();
                    self.accepted.fetch_add(1, Relaxed);
                    return Ok(Some(arrival));
                }
                queue.last.upgrade()
            };
            if patience.is_over() {
                return Ok(None);
            }
            let first = me.is_none();
            let me = me.get_or_insert_with(Waiter::current);
            match last.filter(|_| first) {
                // The peer that opened the last one is likely to open the next, and
                // then nobody has to wake this thread.
                Some(link) => link.attend(me, patience.within(ATTENTION), || self.watch(me)),
                None if self.watch(me) => {}
                None => me.park(patience.deadline()),
            }
            self.queue.lock().waiters.remove(me);
        }
    }

    /// Whether there is news; if not, `me` is woken when there is.
    fn watch(&self, me: &Arc<Waiter>) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed || !queue.waiting.is_empty() {
            return true;
        }
        queue.waiters.add(me);
        false
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// Wakes who accepts, for good. Returns those that nobody accepted.
    pub(crate) fn close(&self) -> Vec<Channel> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.per_peer.clear();
        queue.waiters.wake();
        std::mem::take(&mut queue.waiting).into()
    }
}

impl Queue {
    fn forget_one(&mut self, peer: &PeerId) {
        if let Some(count) = self.per_peer.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(peer);
            }
        }
    }
}

/// How long a thread that accepts reads the link of the last arrival itself.
const ATTENTION: Duration = Duration::from_millis(1);
