//! The header of a frame: four bytes, or sixteen.
//!
//! The layout is described in the [module docs](crate::message#the-wire).

use crate::error::{Error, ErrorCode, Result};

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// No checksum follows the payload.
    pub(crate) bare: bool,
    /// The payload is compressed.
    pub(crate) packed: bool,
    pub(crate) len: u64,
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole message.
    Message,
    /// A message of a known length begins; chunks follow.
    Large,
    /// A stream of unknown length begins; chunks follow.
    Stream,
    /// A part of what has begun.
    Chunk,
    /// What has begun is complete; the length is that of all its chunks.
    End,
    /// What has begun will not be completed; the payload says why.
    Abort,
}

/// A header as it is written: up to sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct HeaderBytes {
    bytes: [u8; LONG],
    len: usize,
}

impl Header {
    pub(crate) fn new(kind: Kind, len: u64) -> Header {
        Header { kind, bare: false, packed: false, len }
    }

    /// The bytes of this header, of the shorter form that fits.
    pub(crate) fn encode(self) -> HeaderBytes {
        let mut bytes = [0; LONG];
        let long = self.is_long();
        bytes[0] = VERSION_1
            | (self.kind as u8) << KIND_SHIFT
            | flag(long, FLAG_LONG)
            | flag(self.bare, FLAG_BARE)
            | flag(self.packed, FLAG_PACKED);
        let len = self.len.to_be_bytes();
        bytes[1..3].copy_from_slice(&len[6..]);
        bytes[3] = crc8(&bytes[..3]);
        if !long {
            return HeaderBytes { bytes, len: SHORT };
        }
        bytes[6..12].copy_from_slice(&len[..6]);
        let check = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&check.to_be_bytes());
        HeaderBytes { bytes, len: LONG }
    }

    /// How long the header is that begins with these four bytes. They have
    /// been checked when it answers: nothing is waited for in vain.
    pub(crate) fn length_of(head: &[u8; SHORT]) -> Result<usize> {
        if crc8(&head[..3]) != head[3] {
            return Err(invalid("these bytes are not the header of a frame, or were damaged"));
        }
        match head[0] & VERSION_MASK {
            VERSION_1 => Ok(if head[0] & FLAG_LONG == 0 { SHORT } else { LONG }),
            VERSION_LATER => Err(unsupported("a frame of a later version of the wire format")),
            _ => Err(invalid("these bytes are not the header of a frame")),
        }
    }

    /// Reads a whole header, as long as [`length_of`](Header::length_of) says.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Header> {
        let lead = bytes[0];
        let low = u64::from(u16::from_be_bytes([bytes[1], bytes[2]]));
        let len = match bytes.len() {
            SHORT => low,
            _ => Self::decode_extension(bytes)? << 16 | low,
        };
        let kind = match (lead & KIND_MASK) >> KIND_SHIFT {
            0 => Kind::Message,
            1 => Kind::Large,
            2 => Kind::Stream,
            3 => Kind::Chunk,
            4 => Kind::End,
            5 => Kind::Abort,
            6 => return Err(unsupported(&format!("the command {}", command(len)))),
            _ => return Err(unsupported("a frame of the reserved kind 7")),
        };
        let header =
            Header { kind, bare: lead & FLAG_BARE != 0, packed: lead & FLAG_PACKED != 0, len };
        header.check(bytes.len() == LONG)?;
        Ok(header)
    }

    /// The upper 48 bits of the length, out of the long form.
    fn decode_extension(bytes: &[u8]) -> Result<u64> {
        let (covered, check) = bytes.split_at(12);
        if crc32fast::hash(covered).to_be_bytes() != check {
            return Err(invalid("the header of a frame was damaged"));
        }
        let [first, second] = [covered[4], covered[5]];
        for (bit, name) in EXTENDED_FLAGS {
            if first & bit != 0 {
                return Err(unsupported(name));
            }
        }
        if first != 0 || second != 0 {
            return Err(unsupported(&format!("a frame with the flags {first:#04x} {second:#04x}")));
        }
        Ok(covered[6..].iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    /// What holds for each kind by itself.
    fn check(&self, long: bool) -> Result<()> {
        let wrong = match self.kind {
            _ if long != self.is_long() => "a length that is not in its shortest form",
            Kind::Message if self.len > SHORT_MAX => "a whole message above 65,535 bytes",
            Kind::Stream if self.len != 0 => "a length at the beginning of a stream",
            Kind::Chunk if self.len == 0 => "a chunk without content",
            Kind::Chunk if self.len > MAX_CHUNK as u64 => "a chunk above 4 MiB",
            Kind::Abort if self.len > MAX_REASON as u64 => "a reason above 1 KiB",
            Kind::Message if self.packed && self.len == 0 => "an empty message, compressed",
            Kind::Message | Kind::Chunk => return Ok(()),
            _ if self.packed => "compression of a frame that has no content",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorCode::ProtocolViolation, format!("the peer sent {wrong}")))
    }

    /// Whether it takes the long form.
    pub(crate) fn is_long(&self) -> bool {
        self.len > SHORT_MAX
    }

    /// Whether a message begins with it.
    pub(crate) fn begins(&self) -> bool {
        matches!(self.kind, Kind::Message | Kind::Large | Kind::Stream)
    }

    /// How many bytes of checksum follow the payload.
    pub(crate) fn trailer(&self) -> usize {
        let none = match self.kind {
            Kind::Message => self.len == 0,
            Kind::Large | Kind::Stream => true,
            Kind::Chunk | Kind::End | Kind::Abort => false,
        };
        if self.bare || none { 0 } else { TRAILER }
    }

    /// How many bytes of payload follow the header.
    pub(crate) fn payload(&self) -> usize {
        match self.kind {
            // `check` has bounded them.
            Kind::Message | Kind::Chunk | Kind::Abort => self.len as usize,
            Kind::Large | Kind::Stream | Kind::End => 0,
        }
    }
}

impl HeaderBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn command(code: u64) -> String {
    match code {
        1 => "pause".into(),
        2 => "resume".into(),
        3 => "cancel".into(),
        other => format!("number {other}"),
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorCode::InvalidHeader, what)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("the peer sent {what}, unknown to this release"))
}

/// CRC-8/AUTOSAR: every change of up to three bits of a head is found, and
/// every burst of up to eight.
fn crc8(bytes: &[u8]) -> u8 {
    !bytes.iter().fold(0xFF, |crc, &byte| CRC8[usize::from(crc ^ byte)])
}

const CRC8: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x2F };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The lengths of the two forms.
pub(crate) const SHORT: usize = 4;
pub(crate) const LONG: usize = 16;

/// The checksum behind a payload.
pub(crate) const TRAILER: usize = 4;

/// The largest length that the short form holds, and the largest message that
/// is sent whole.
pub(crate) const SHORT_MAX: u64 = 0xFFFF;

/// The largest payload of a chunk, compressed or not: what a receiver must be
/// ready to hold before it can check it.
pub(crate) const MAX_CHUNK: usize = 4 << 20;

/// The longest reason in an abort.
pub(crate) const MAX_REASON: usize = 1024;

const VERSION_MASK: u8 = 0b1100_0000;
const VERSION_1: u8 = 0b1000_0000;
const VERSION_LATER: u8 = 0b1100_0000;
const KIND_MASK: u8 = 0b0011_1000;
const KIND_SHIFT: u32 = 3;
const FLAG_LONG: u8 = 0b100;
const FLAG_BARE: u8 = 0b010;
const FLAG_PACKED: u8 = 0b001;

/// Flags of the long form, reserved until a release knows them.
const EXTENDED_FLAGS: [(u8, &str); 3] =
    [(1, "a sealed frame"), (2, "a padded frame"), (4, "a frame with an operation id")];

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Header> {
        let head = bytes[..SHORT].try_into().unwrap();
        let len = Header::length_of(head)?;
        Header::decode(&bytes[..len])
    }

    fn headers() -> Vec<Header> {
        let mut all = Vec::new();
        for (bare, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            for len in [1, 2, 1023, 1024, 65_535] {
                all.push(Header { kind: Kind::Message, bare, packed, len });
                all.push(Header { kind: Kind::Chunk, bare, packed, len });
            }
            all.push(Header { kind: Kind::Chunk, bare, packed, len: MAX_CHUNK as u64 });
        }
        for bare in [false, true] {
            for len in [0, 1, 65_535, 65_536, 1 << 32, u64::MAX] {
                all.push(Header { kind: Kind::Large, bare, packed: false, len });
                all.push(Header { kind: Kind::End, bare, packed: false, len });
            }
            all.push(Header { kind: Kind::Message, bare, packed: false, len: 0 });
            all.push(Header { kind: Kind::Stream, bare, packed: false, len: 0 });
            all.push(Header { kind: Kind::Abort, bare, packed: false, len: 17 });
        }
        all
    }

    #[test]
    fn crc8_gives_the_published_check_value() {
        assert_eq!(crc8(b"123456789"), 0xDF);
    }

    #[test]
    fn every_header_is_read_as_it_was_written() {
        for header in headers() {
            assert_eq!(decode(header.encode().as_slice()).unwrap(), header);
        }
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_found_without_waiting_for_a_longer_one() {
        for header in headers() {
            let bytes = header.encode();
            for bit in 0..bytes.as_slice().len() * 8 {
                let mut damaged = bytes.as_slice().to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let e = decode(&damaged).unwrap_err();
                assert_eq!(e.code(), ErrorCode::InvalidHeader, "{header:?} bit {bit}");
            }
        }
    }

    #[test]
    fn no_four_bytes_panic() {
        for lead in 0..=u32::from(u8::MAX) {
            for rest in (0..1 << 24).step_by(251) {
                let head = (lead << 24 | rest).to_be_bytes();
                if let Ok(SHORT) = Header::length_of(&head) {
                    let _ = Header::decode(&head);
                }
            }
        }
    }

    #[test]
    fn what_is_reserved_is_refused_by_its_name() {
        let refused = |lead: u8, len: u16, name: &str| {
            let [hi, lo] = len.to_be_bytes();
            let e = decode(&[lead, hi, lo, crc8(&[lead, hi, lo])]).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Unsupported);
            assert!(e.to_string().contains(name), "{e}");
        };
        refused(VERSION_1 | 6 << KIND_SHIFT, 1, "pause");
        refused(VERSION_1 | 6 << KIND_SHIFT, 2, "resume");
        refused(VERSION_1 | 6 << KIND_SHIFT, 3, "cancel");
        refused(VERSION_1 | 6 << KIND_SHIFT, 9, "number 9");
        refused(VERSION_1 | 7 << KIND_SHIFT, 0, "kind 7");
        refused(VERSION_LATER, 0, "later version");

        for (flags, name) in [(1, "sealed"), (2, "padded"), (4, "operation id"), (8, "0x08")] {
            let mut bytes = Header::new(Kind::Large, 1 << 20).encode();
            bytes.bytes[4] = flags;
            let check = crc32fast::hash(&bytes.bytes[..12]);
            bytes.bytes[12..].copy_from_slice(&check.to_be_bytes());
            let e = decode(bytes.as_slice()).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Unsupported);
            assert!(e.to_string().contains(name), "{e}");
        }
    }
}
