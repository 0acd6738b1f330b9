//! One end of a connection that is there, with what its streams are for.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use crate::error::Result;
use crate::proto::buf::RecvBuf;
use crate::proto::multistream::{Dialer, Listener};
use crate::proto::noise::pair;
use crate::proto::resume::{Gone, HeadReader, Hello, MAX_HEAD, Welcome};
use crate::proto::sim::wire::Wire;
use crate::proto::yamux::{
    Batch, Control, ControlQueue, Event, Flow, Kept, MIN_RECV_BUF, MIN_STORAGE, Role, Rx, StreamId,
    Tx,
};
use crate::resources::buffers;

pub(super) struct LinkEnd {
    rx: Rx<StreamId>,
    pub(super) tx: Tx,
    batch: Batch,
    keeps: bool,
    pub(super) queue: ControlQueue,
    buf: RecvBuf,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    /// As far as this end knows.
    pub(super) is_alive: bool,
}

pub(super) struct Stream {
    pub(super) flow: Arc<Flow>,
    pub(super) use_: Use,
    /// Bytes of the peer's head.
    pub(super) head: usize,
}

/// What a stream is for.
pub(super) enum Use {
    /// The peer's, which has not said what for.
    Greeting { listener: Option<Listener>, reader: HeadReader<Hello>, reply: Vec<u8> },
    /// Ours, for the session of that number, or for none: then the peer says so.
    Answering { dialer: Option<Dialer>, reader: HeadReader<Answer>, session: Option<usize> },
    /// It carries a session, or did.
    Session,
    /// It was sent away.
    Done,
}

pub(super) type Answer = std::result::Result<Welcome, Gone>;

/// An event that owns what it tells.
pub(super) enum Told {
    Opened(StreamId),
    Data(StreamId, Vec<u8>),
    Fin(StreamId),
    Reset(StreamId),
    Received(StreamId, u32),
    Ping(u32),
    Pong(u32),
    Other,
}

impl LinkEnd {
    pub(super) fn new(role: Role) -> LinkEnd {
        let [(to_listener, from_dialer), (to_dialer, from_listener)] =
            [1, 2].map(|n| pair(&[n; 32]));
        let (sealer, opener) = match role {
            Role::Dialer => (to_listener, from_listener),
            Role::Listener => (to_dialer, from_dialer),
        };
        let mut rx = Rx::new(opener, role, Vec::new());
        rx.take_receipts();
        LinkEnd {
            rx,
            tx: Tx::new(sealer, role),
            batch: Batch::default(),
            keeps: false,
            queue: ControlQueue::new(32),
            buf: RecvBuf::new(vec![0; MIN_RECV_BUF]),
            streams: BTreeMap::new(),
            is_alive: true,
        }
    }

    /// Opens a stream with its first bytes.
    pub(super) fn open(&mut self, first: &[u8], use_: Use) -> Result<StreamId> {
        let id = self.tx.next_id().expect("there are far more ids than streams");
        let flow = Flow::new();
        self.rx.insert(id, flow.clone(), id);
        self.say_queued()?;
        let n = self.tx.data(id, true, &flow, &[IoSlice::new(first)])?;
        assert_eq!(n, first.len(), "a head waits for room");
        self.streams.insert(id, Stream { flow, use_, head: 0 });
        Ok(id)
    }

    /// Whether a head finds room.
    pub(super) fn has_room(&self) -> bool {
        self.is_alive && self.tx.fits(MAX_HEAD) && self.batch.pending().len() < 4 * 1024
    }

    /// Seals what of `bytes` credit and room allow.
    pub(super) fn write(&mut self, id: StreamId, flow: &Flow, bytes: &[u8]) -> Result<usize> {
        self.say_queued()?;
        self.tx.data(id, false, flow, &[IoSlice::new(bytes)])
    }

    /// The same, and it may be kept as it was sealed: every other time it is.
    pub(super) fn write_to_keep(
        &mut self,
        id: StreamId,
        flow: &Flow,
        bytes: &[u8],
    ) -> Result<(usize, Option<Kept>)> {
        self.say_queued()?;
        self.keeps = !self.keeps;
        if self.keeps {
            return self.tx.data_to_keep(id, flow, &[IoSlice::new(bytes)], || None);
        }
        Ok((self.tx.data(id, false, flow, &[IoSlice::new(bytes)])?, None))
    }

    fn say_queued(&mut self) -> Result<()> {
        if self.tx.needs_storage() {
            // So little that what is written in one go fills a good part of it.
            self.tx.lend(buffers::take(MIN_STORAGE));
        }
        self.tx.control(&mut self.queue)
    }

    pub(super) fn say(&mut self, control: Control) {
        self.queue.push(control).expect("no bound is reached");
    }

    /// Answers the head of a stream.
    pub(super) fn reply(&mut self, id: StreamId, bytes: Vec<u8>) {
        let flow = self.streams[&id].flow.clone();
        self.say(Control::Reply { id, flow, bytes });
    }

    /// Writes to the network up to `n` bytes of what waits; returns how much.
    pub(super) fn flush(&mut self, n: usize, wire: &mut Wire) -> Result<usize> {
        if !self.is_alive {
            return Ok(0);
        }
        self.say_queued()?;
        if self.batch.pending().is_empty() {
            self.batch = self.tx.take()?;
        }
        let n = self.batch.pending().len().min(n).min(wire.room());
        wire.write(&self.batch.pending()[..n]);
        self.batch.consume(n);
        Ok(n)
    }

    /// Up to `n` bytes arrive; returns how many.
    pub(super) fn deliver(&mut self, n: usize, wire: &mut Wire) -> usize {
        if !self.is_alive {
            return 0;
        }
        let space = self.buf.space();
        let n = n.min(space.len());
        let n = wire.deliver(&mut space[..n]);
        self.buf.filled(n);
        n
    }

    /// The next that the peer says; `None`: nothing more yet.
    pub(super) fn next(&mut self) -> Result<Option<Told>> {
        if !self.is_alive {
            return Ok(None);
        }
        let Some(event) = self.rx.poll(&mut self.buf)? else { return Ok(None) };
        Ok(Some(match event {
            Event::Opened { id, flow } => {
                self.rx.insert(id, flow.clone(), id);
                let (listener, reader) = (Some(Listener::new()), HeadReader::new());
                let use_ = Use::Greeting { listener, reader, reply: Vec::new() };
                self.streams.insert(id, Stream { flow, use_, head: 0 });
                Told::Opened(id)
            }
            Event::Data { stream, body } => Told::Data(*stream, body.bytes()?.to_vec()),
            Event::Fin { stream } => Told::Fin(*stream),
            Event::Reset { stream, .. } => Told::Reset(*stream),
            Event::Received { stream, received } => Told::Received(*stream, received),
            Event::Ping(value) => Told::Ping(value),
            Event::Pong(value) => Told::Pong(value),
            _ => Told::Other,
        }))
    }
}
