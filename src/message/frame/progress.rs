//! How far a receiver is in a frame and in its message.

use std::time::Instant;

use crc32fast::Hasher;

use crate::message::header::{Header, Kind, SHORT, TRAILER};
use crate::stall::Admission;

/// A frame whose header has been read.
pub(crate) struct Frame {
    pub(crate) header: Header,
    /// How much of payload and trailer is here.
    pub(crate) got: usize,
    /// What is here of the trailer.
    pub(crate) trailer: [u8; TRAILER],
}

impl Frame {
    pub(crate) fn new(header: Header) -> Frame {
        Frame { header, got: 0, trailer: [0; TRAILER] }
    }

    /// So many bytes more have been read into `buffer`, which holds the frame from
    /// its payload on; those of them that are payload.
    pub(crate) fn takes<'b>(&mut self, n: usize, buffer: &'b [u8]) -> &'b [u8] {
        let (payload, before) = (self.header.payload(), self.got);
        self.got += n;
        let end = self.got.min(payload + self.header.trailer());
        if end > payload {
            self.trailer[..end - payload].copy_from_slice(&buffer[payload..end]);
        }
        &buffer[before.min(payload)..self.got.min(payload)]
    }
}

/// A message of which at least the first header has been read.
pub(crate) struct Message {
    pub(crate) chunked: bool,
    pub(crate) bare: bool,
    /// Its sender listens.
    pub(crate) controlled: bool,
    /// We have sent our last command about it.
    pub(crate) closed: bool,
    /// Its sender stands still on purpose.
    pub(crate) paused: bool,
    /// What its first header announced.
    pub(crate) total: Option<u64>,
    /// Bytes of content that were checked and are in `payload`, or were written.
    pub(crate) received: u64,
    /// The rest is thrown away, compressed or not: `received` is too low.
    pub(crate) uncounted: bool,
    /// Over all headers and payloads so far.
    pub(crate) crc: Hasher,
    /// When its first header was complete.
    pub(crate) begun: Instant,
    pub(crate) target: Target,
    /// While it is under way.
    pub(crate) admission: Option<Admission>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Buffer,
    Writer,
    Nowhere,
}

impl Message {
    /// A message whose first header this is.
    pub(crate) fn begin(header: &Header) -> Message {
        Message {
            chunked: header.kind != Kind::Message,
            bare: header.bare,
            controlled: header.controlled,
            closed: false,
            paused: false,
            total: (header.kind == Kind::Large).then_some(header.len),
            received: 0,
            uncounted: false,
            crc: Hasher::new(),
            begun: Instant::now(),
            target: Target::Buffer,
            admission: None,
        }
    }

    /// Whether the length in a header fits what was announced and has arrived.
    pub(crate) fn has_room_for(&self, header: &Header) -> bool {
        if header.kind == Kind::End {
            let len = if self.uncounted { header.len } else { self.received };
            return header.len == len && self.total.is_none_or(|total| total == len);
        }
        let more = match header.kind {
            Kind::Chunk if !header.packed => header.len,
            _ => 0,
        };
        match self.received.checked_add(more) {
            Some(sum) => self.total.is_none_or(|total| sum <= total),
            None => false,
        }
    }

    /// Whether a frame is read straight to its place in the message.
    pub(crate) fn keeps(&self, header: &Header) -> bool {
        let content = matches!(header.kind, Kind::Message | Kind::Chunk);
        content && !header.packed && self.target == Target::Buffer
    }
}

/// The space for payload and trailer, and for four bytes more where at least
/// that many follow in the same message: behind a chunk stands another header.
pub(crate) fn room_for(header: &Header) -> usize {
    let ahead = if header.kind == Kind::Chunk { SHORT } else { 0 };
    header.payload() + header.trailer() + ahead
}

/// Grows `buffer` so that some bytes can be read at `at`, never far beyond
/// what has arrived, and not beyond `most`.
///
/// The length grows by [`STEP_MIN`] to [`STEP_MAX`] (those bytes are cleared),
/// the capacity by what has arrived up to a mebibyte, and from eight on by an
/// eighth: one allocator or another copies at each growth.
pub(crate) fn make_room(buffer: &mut Vec<u8>, at: usize, most: usize) {
    if at < buffer.len() {
        return;
    }
    let len = most.min(at + at.clamp(STEP_MIN, STEP_MAX));
    if len > buffer.capacity() {
        let growth = at.clamp(STEP_MIN, CAPACITY_STEP.max(at / 8));
        buffer.reserve_exact(most.min(at + growth) - buffer.len());
    }
    buffer.resize(len, 0);
}

/// The first step holds any message that is sent whole.
const STEP_MIN: usize = (64 << 10) + 8;
const STEP_MAX: usize = 256 << 10;
const CAPACITY_STEP: usize = 1 << 20;
