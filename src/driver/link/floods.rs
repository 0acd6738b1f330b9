//! What a peer can make a link do for nothing: so much of it, and no more.
//!
//! Each of these costs the peer a few bytes and this host some work or an answer.
//! Honest peers stay far below; one that does not is told to go away.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Link;
use crate::driver::stream::Stream;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::{Control, StreamId};
use crate::resources::Resources;
use crate::resources::events::Event;
use crate::resources::limits::Limit;
use crate::resources::rate::{Bucket, Rate};

/// Most links see none of it, and are many.
#[derive(Default)]
pub(super) struct Floods(OnceLock<Box<Buckets>>);

struct Buckets {
    resets: Bucket,
    pings: Bucket,
    empty: Bucket,
    windows: Bucket,
}

impl Buckets {
    fn new(resources: &Resources, now: Instant) -> Buckets {
        let bucket = |limit| {
            let most = u32::try_from(resources.meters.most(limit)).unwrap_or(u32::MAX);
            Bucket::new(Rate::new(most, WHILE), now)
        };
        Buckets {
            resets: bucket(Limit::Resets),
            pings: bucket(Limit::Pings),
            empty: bucket(Limit::EmptyFrames),
            windows: bucket(Limit::WindowUpdates),
        }
    }
}

impl Floods {
    /// The peer did so much of it.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation`: that was too much, and the connection is to be ended.
    pub(super) fn note(&self, limit: Limit, n: u64, resources: &Resources) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let buckets = self.0.get_or_init(|| Box::new(Buckets::new(resources, now)));
        let bucket = match limit {
            Limit::Resets => &buckets.resets,
            Limit::Pings => &buckets.pings,
            Limit::WindowUpdates => &buckets.windows,
            _ => &buckets.empty,
        };
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        if bucket.take_many(n, now) {
            return Ok(());
        }
        resources.reject(limit);
        let what = format!("the peer floods this connection: too many {limit}");
        Err(Error::new(ErrorCode::ProtocolViolation, what))
    }
}

impl Link {
    /// The peer did so much of what does nothing.
    pub(super) fn flood(&self, limit: Limit, n: u64) -> Result<()> {
        self.floods.note(limit, n, &self.resources)
    }

    /// Whether something new may be taken on.
    pub(super) fn has_memory(&self) -> bool {
        let full = self.budget.is_full();
        if full && self.budget.used() >= self.budget.limit() {
            self.resources.reject(Limit::ReceiveMemoryPerConnection);
        } else if full {
            self.resources.reject(Limit::ReceiveMemory);
        }
        !full
    }

    pub(super) fn tell_refused(&self, stream: StreamId) {
        let (connection, peer) = (self.id, self.peer);
        self.resources.feed.tell(|| Event::StreamRefused { connection, peer, stream });
    }

    pub(super) fn tell_reset(&self, stream: &Stream, by_peer: bool) {
        let (connection, peer, stream) = (self.id, self.peer, stream.id);
        self.resources.feed.tell(|| Event::StreamReset { connection, peer, stream, by_peer });
    }

    pub(super) fn answer_ping(&self, value: u32) -> Result<()> {
        self.flood(Limit::Pings, 1)?;
        // Too many wait already: the peer does not read them.
        let told = |_: &Error| self.resources.reject(Limit::PingsWaiting);
        self.push(Control::Pong(value)).inspect_err(told)
    }
}

/// A full budget is there again after this.
const WHILE: Duration = Duration::from_secs(10);
