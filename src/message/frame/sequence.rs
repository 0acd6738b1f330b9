//! The frames of one message that is sent in chunks.

use crc32fast::Hasher;

use crate::message::header::{Command, Header, HeaderBytes, Kind, TRAILER};

/// What the frames of a message have in common: one checksum runs over all of
/// their headers and payloads.
#[derive(Clone)]
pub(crate) struct Sequence {
    bare: bool,
    crc: Hasher,
    sent: u64,
}

impl Sequence {
    /// The first header: of a message of a known length, or of a stream.
    pub(crate) fn begin(header: Header, bare: bool) -> (Sequence, HeaderBytes) {
        let mut sequence = Sequence { bare, crc: Hasher::new(), sent: 0 };
        let header = sequence.header(header);
        (sequence, header)
    }

    /// The header of a chunk, whose payload is to follow.
    pub(crate) fn chunk(&mut self, len: usize, packed: bool) -> HeaderBytes {
        self.header(Header { packed, ..Header::new(Kind::Chunk, len as u64) })
    }

    /// A command between chunks: a header alone.
    pub(crate) fn command(&mut self, command: Command) -> HeaderBytes {
        self.header(command.header())
    }

    /// Covers a payload, or a part of it, that holds so many bytes of content.
    pub(crate) fn cover(&mut self, payload: &[u8], content: usize) {
        if !self.bare {
            self.crc.update(payload);
        }
        self.sent += content as u64;
    }

    /// The checksum over all so far; nothing if there are none.
    pub(crate) fn trailer(&self) -> Option<[u8; TRAILER]> {
        (!self.bare).then(|| self.crc.clone().finalize().to_be_bytes())
    }

    /// Bytes of content so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The whole of the last frame.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let header = self.header(Header::new(Kind::End, self.sent));
        [header.as_slice(), self.trailer().as_slice().as_flattened()].concat()
    }

    /// The whole of the frame that takes the message back.
    pub(crate) fn abort(&mut self, reason: &[u8]) -> Vec<u8> {
        let header = self.header(Header::new(Kind::Abort, reason.len() as u64));
        self.cover(reason, 0);
        [header.as_slice(), reason, self.trailer().as_slice().as_flattened()].concat()
    }

    fn header(&mut self, header: Header) -> HeaderBytes {
        let bytes = Header { bare: self.bare, ..header }.encode();
        self.cover(bytes.as_slice(), 0);
        bytes
    }
}
