//! The other end of the model's socket: it opens what comes, and knows what may come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use super::socket::Said;
use crate::proto::buf::RecvBuf;
use crate::proto::noise::{Sealer, pair};
use crate::proto::yamux::{Event, Flow, INITIAL_WINDOW, Role, Rx, StreamId};

/// It opens every byte that the socket takes, in their order; each byte that is lost,
/// doubled or misplaced shows at once.
pub(super) struct Peer {
    rx: Rx<StreamId>,
    buf: RecvBuf,
    /// Bytes of each stream.
    pub(super) data: BTreeMap<StreamId, usize>,
    pub(super) receipts: BTreeMap<StreamId, u32>,
    /// What it may send on those that it has opened, and how far it lets us write on all.
    flows: BTreeMap<StreamId, Arc<Flow>>,
    limits: BTreeMap<StreamId, usize>,
    step: usize,
    /// What it says to that, to be said by the socket.
    pub(super) answers: Vec<Said>,
    pub(super) fins: BTreeSet<StreamId>,
    pub(super) pongs: u32,
}

impl Peer {
    /// It has opened these streams, and grants `step` bytes at a time. Returns with what it
    /// is spoken to.
    pub(super) fn new(opened: impl Iterator<Item = StreamId>, step: usize) -> (Peer, Sealer) {
        let (sealer, opener) = pair(&[7; 32]);
        let mut rx = Rx::new(opener, Role::Listener, Vec::new());
        rx.take_receipts();
        let flows: BTreeMap<_, _> = opened.map(|id| (id, Flow::new())).collect();
        flows.iter().for_each(|(&id, flow)| rx.insert(id, flow.clone(), id));
        let peer = Peer {
            rx,
            buf: RecvBuf::default(),
            data: BTreeMap::new(),
            receipts: BTreeMap::new(),
            flows,
            limits: BTreeMap::new(),
            step,
            answers: Vec::new(),
            fins: BTreeSet::new(),
            pongs: 0,
        };
        (peer, sealer)
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.buf.extend(bytes);
        while let Some(event) = self.rx.poll(&mut self.buf).expect("whole frames, in order") {
            match event {
                Event::Opened { id, flow } => self.rx.insert(id, flow, id),
                Event::Data { stream, body } => {
                    let (id, mut bytes) = (*stream, vec![0; body.len()]);
                    body.take_into(&mut bytes).expect("it was sealed");
                    assert!(!self.fins.contains(&id), "data behind a FIN");
                    let had = self.data.entry(id).or_default();
                    assert_eq!(bytes, content(id, *had, bytes.len()), "stream {id} at {had}");
                    *had += bytes.len();
                    let limit = self.limits.entry(id).or_insert(self.step);
                    if *had == *limit {
                        *limit += self.step;
                        self.answers.push(Said::Credit(id, self.step as u32));
                    }
                }
                Event::Received { stream, received } => {
                    let before = self.receipts.insert(*stream, received);
                    assert!(before.is_none_or(|n| n <= received), "a receipt takes back another");
                }
                Event::Credit { .. } => {}
                Event::Fin { stream } => assert!(self.fins.insert(*stream), "a second FIN"),
                Event::Pong(value) => {
                    self.pongs += 1;
                    assert_eq!(value, self.pongs, "a pong that is lost");
                }
                Event::Acked { .. } => {}
                _ => panic!("nobody says that"),
            }
        }
    }

    /// How much it was granted on a stream that it has opened.
    pub(super) fn granted(&self, id: StreamId) -> u64 {
        self.flows[&id].credit() - u64::from(INITIAL_WINDOW)
    }

    pub(super) fn has(&self, id: StreamId) -> usize {
        self.data.get(&id).copied().unwrap_or(0)
    }
}

/// What is written on a stream behind the first `at` bytes.
pub(super) fn content(id: StreamId, at: usize, len: usize) -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..1 << 17).map(|i: usize| (i * 31 + i / 251) as u8).collect());
    &BYTES[id as usize + at..][..len]
}
