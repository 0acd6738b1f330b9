//! The queue of streams that wait for `accept`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use libp2p_identity::PeerId;
use parking_lot::{Condvar, Mutex};

use crate::driver::{Link, Patience, Stream};
use crate::error::{Error, ErrorCode, Result};

/// One protocol's queue. It never holds a handle of the host.
pub(crate) struct Backlog {
    pub(crate) protocol: Arc<str>,
    pub(crate) opened: Instant,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arrival>,
    per_peer: HashMap<PeerId, usize>,
    closed: bool,
}

/// A stream that has agreed on the protocol.
pub(crate) struct Arrival {
    pub(crate) link: Arc<Link>,
    pub(crate) stream: Arc<Stream>,
}

impl Backlog {
    pub(crate) fn new(protocol: &str) -> Backlog {
        Backlog {
            protocol: protocol.into(),
            opened: Instant::now(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            queue: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// Queues an arrival; `false`: there is no room, or nobody will accept it.
    pub(crate) fn push(&self, arrival: Arrival) -> bool {
        let peer = arrival.link.peer;
        let mut queue = self.queue.lock();
        let of_peer = queue.per_peer.get(&peer).copied().unwrap_or(0);
        if queue.closed || queue.waiting.len() >= MOST_WAITING || of_peer >= MOST_OF_ONE_PEER {
            drop(queue);
            self.refused.fetch_add(1, Relaxed);
            return false;
        }
        queue.per_peer.insert(peer, of_peer + 1);
        queue.waiting.push_back(arrival);
        drop(queue);
        self.arrived.notify_one();
        true
    }

    /// The oldest arrival; `None`: none came within `patience`.
    pub(crate) fn pop(&self, patience: Patience) -> Result<Option<Arrival>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return Err(Error::new(ErrorCode::NotConnected, "the listener was closed"));
            }
            if let Some(arrival) = queue.waiting.pop_front() {
                queue.forget_one(&arrival.link.peer);
                arrival.stream.accept();
                self.accepted.fetch_add(1, Relaxed);
                return Ok(Some(arrival));
            }
            match patience {
                Patience::None => return Ok(None),
                Patience::Forever => self.arrived.wait(&mut queue),
                Patience::Until(at) => {
                    if self.arrived.wait_until(&mut queue, at).timed_out() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// Wakes who accepts, for good. Returns those that nobody accepted.
    pub(crate) fn close(&self) -> Vec<Arrival> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.per_peer.clear();
        let left = std::mem::take(&mut queue.waiting).into();
        drop(queue);
        self.arrived.notify_all();
        left
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

/// Conns that wait for `accept`, of all peers and of one.
const MOST_WAITING: usize = 256;
const MOST_OF_ONE_PEER: usize = 128;
