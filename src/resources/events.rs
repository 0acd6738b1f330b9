//! What happens, told to whoever wants to know.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use super::budget::Pressure;
use super::limits::Limit;
use crate::error::Error;

/// Something that happened to a host. More kinds may be added.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection was made.
    ConnectionOpened {
        /// Its number, as in the log and in [`ConnStats`](crate::ConnStats).
        connection: u64,
        /// Whose it is.
        peer: PeerId,
        /// This host dialled it.
        dialled: bool,
    },
    /// A connection ended.
    ConnectionClosed {
        /// Its number.
        connection: u64,
        /// Whose it was.
        peer: PeerId,
        /// Why.
        why: Error,
    },
    /// A stream was opened, by either side, and has a protocol.
    StreamOpened {
        /// The number of its connection.
        connection: u64,
        /// The other end.
        peer: PeerId,
        /// Its number on the connection.
        stream: u32,
        /// What it is for.
        protocol: Arc<str>,
        /// This host opened it.
        dialled: bool,
    },
    /// A stream that a peer opened was refused.
    StreamRefused {
        /// The number of its connection.
        connection: u64,
        /// Who opened it.
        peer: PeerId,
        /// Its number on the connection.
        stream: u32,
    },
    /// A stream was reset.
    StreamReset {
        /// The number of its connection.
        connection: u64,
        /// The other end.
        peer: PeerId,
        /// Its number on the connection.
        stream: u32,
        /// The peer did it.
        by_peer: bool,
    },
    /// A resumable conn lost its connection: it waits for a new one.
    ConnLost {
        /// The number of the connection that it lost.
        connection: u64,
        /// The other end.
        peer: PeerId,
        /// What it is for.
        protocol: Arc<str>,
        /// How the connection ended.
        why: Error,
    },
    /// A resumable conn goes on over a new connection.
    ConnResumed {
        /// The number of the new connection.
        connection: u64,
        /// The other end.
        peer: PeerId,
        /// What it is for.
        protocol: Arc<str>,
        /// How long it was without one.
        outage: Duration,
        /// Payload that this end sends again.
        replayed: u64,
    },
    /// A resumable conn ended because no new connection came in time, or because the
    /// peer does not know it any more.
    ConnGivenUp {
        /// The number of the connection that it lost.
        connection: u64,
        /// The other end.
        peer: PeerId,
        /// What it was for.
        protocol: Arc<str>,
        /// How long it was without one.
        outage: Duration,
        /// What its reads and writes fail with.
        why: Error,
    },
    /// Something was turned away because of a limit, for the first time since the log
    /// has said so.
    LimitReached {
        /// Which one.
        limit: Limit,
    },
    /// The host became more or less short of memory.
    PressureChanged {
        /// The level it had.
        from: Pressure,
        /// The level it has.
        to: Pressure,
    },
    /// A peer that broke the protocol or flooded is not let in for a while.
    PeerBanned {
        /// Who.
        peer: PeerId,
        /// For how long.
        time: Duration,
    },
}

/// A host's events from when it was [subscribed](crate::Host::subscribe) to.
///
/// Up to 1,024 wait to be taken; what comes beyond is counted in
/// [`missed`](Events::missed) and left out. As an iterator it blocks, and ends with the
/// host.
pub struct Events {
    queue: Receiver<Event>,
    missed: Arc<AtomicU64>,
}

impl Events {
    /// The next one, if there is one.
    pub fn try_next(&self) -> Option<Event> {
        self.queue.try_recv().ok()
    }

    /// The next one; `None`: none came in time, or the host has ended.
    pub fn next_timeout(&self, time: Duration) -> Option<Event> {
        self.queue.recv_timeout(time).ok()
    }

    /// How many were left out because nobody took those before them.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.queue.recv().ok()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("missed", &self.missed()).finish_non_exhaustive()
    }
}

/// Where they come from.
#[derive(Default)]
pub(crate) struct Feed {
    /// Somebody listens: so that nothing is made for nobody.
    wanted: AtomicBool,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    all: Vec<(SyncSender<Event>, Arc<AtomicU64>)>,
    ended: bool,
}

impl Feed {
    pub(crate) fn subscribe(&self) -> Events {
        let (sender, queue) = sync_channel(MOST_WAITING);
        let missed = Arc::<AtomicU64>::default();
        let mut listeners = self.listeners.lock();
        if !listeners.ended {
            listeners.all.push((sender, missed.clone()));
            self.wanted.store(true, Relaxed);
        }
        Events { queue, missed }
    }

    /// Tells everybody. It never waits, and runs nobody's code.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        if !self.wanted.load(Relaxed) {
            return;
        }
        let event = event();
        let mut listeners = self.listeners.lock();
        listeners.all.retain(|(sender, missed)| {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            match sender.try_send(event.clone()) {
                Ok(()) => true,
                Err(Full(_)) => {
                    missed.fetch_add(1, Relaxed);
                    true
                }
                Err(Disconnected(_)) => false,
            }
        });
        self.wanted.store(!listeners.all.is_empty(), Relaxed);
    }

    /// There will be no more.
    pub(crate) fn end(&self) {
        let mut listeners = self.listeners.lock();
        *listeners = Listeners { ended: true, ..Listeners::default() };
        self.wanted.store(false, Relaxed);
    }
}

/// Events that wait for one listener.
const MOST_WAITING: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::LimitReached { limit: Limit::Streams }
    }

    #[test]
    fn events_that_nobody_takes_are_counted_and_left_out() {
        let feed = Feed::default();
        feed.tell(|| unreachable!("nobody listens"));
        let (mut slow, gone) = (feed.subscribe(), feed.subscribe());
        drop(gone);
        (0..MOST_WAITING + 5).for_each(|_| feed.tell(event));
        assert_eq!(slow.missed(), 5);
        feed.end();
        assert_eq!(slow.by_ref().count(), MOST_WAITING);
        assert!(slow.try_next().is_none());
        drop(slow);
        assert_eq!(feed.subscribe().count(), 0);
        feed.tell(|| unreachable!("nobody listens any more"));
    }
}
