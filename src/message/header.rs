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
    /// The sender listens while the message is under way.
    pub(crate) controlled: bool,
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
    /// What one end wants of a message under way; the length says what.
    Command,
}

/// What one end tells the other about a message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The sender stands still; or the receiver wants it to.
    Pause,
    /// The sender goes on; or the receiver lets it.
    Resume,
    /// The message is called off.
    Cancel,
    /// From the receiver: it has read the last frame of the message.
    Done,
    /// From the receiver: it cannot take the message, because of the error
    /// with this number.
    Failed(u16),
}

/// A header as it is written: up to sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct HeaderBytes {
    bytes: [u8; LONG],
    len: usize,
}

impl Header {
    pub(crate) fn new(kind: Kind, len: u64) -> Header {
        Header { kind, bare: false, packed: false, controlled: false, len }
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
        bytes[4] = flag(self.controlled, FLAG_CONTROLLED);
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
        let (controlled, high) = match bytes.len() {
            SHORT => (false, 0),
            _ => Self::decode_extension(bytes)?,
        };
        let len = high << 16 | low;
        let kind = match (lead & KIND_MASK) >> KIND_SHIFT {
            0 => Kind::Message,
            1 => Kind::Large,
            2 => Kind::Stream,
            3 => Kind::Chunk,
            4 => Kind::End,
            5 => Kind::Abort,
            6 => Kind::Command,
            _ => return Err(unsupported("a frame of the reserved kind 7")),
        };
        let (bare, packed) = (lead & FLAG_BARE != 0, lead & FLAG_PACKED != 0);
        let header = Header { kind, bare, packed, controlled, len };
        header.check(bytes.len() == LONG)?;
        Ok(header)
    }

    /// Out of the long form: whether it is controlled, and the upper 48 bits
    /// of the length.
    fn decode_extension(bytes: &[u8]) -> Result<(bool, u64)> {
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
        if first & !FLAG_CONTROLLED != 0 || second != 0 {
            return Err(unsupported(&format!("a frame with the flags {first:#04x} {second:#04x}")));
        }
        let high = covered[6..].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        Ok((first & FLAG_CONTROLLED != 0, high))
    }

    /// What holds for each kind by itself.
    fn check(&self, long: bool) -> Result<()> {
        if self.kind == Kind::Command && Command::of(self.len).is_none() {
            return Err(unsupported(&format!("the command number {}", self.len)));
        }
        let begins_chunks = matches!(self.kind, Kind::Large | Kind::Stream);
        let wrong = match self.kind {
            _ if long != self.is_long() => "a length that is not in its shortest form",
            _ if self.controlled && !begins_chunks => "control of what is not sent in chunks",
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
        self.len > SHORT_MAX || self.controlled
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> usize {
        if self.is_long() { LONG } else { SHORT }
    }

    /// Whether a message begins with it.
    pub(crate) fn begins(&self) -> bool {
        matches!(self.kind, Kind::Message | Kind::Large | Kind::Stream)
    }

    /// How many bytes of checksum follow the payload.
    pub(crate) fn trailer(&self) -> usize {
        let none = match self.kind {
            Kind::Message => self.len == 0,
            Kind::Large | Kind::Stream | Kind::Command => true,
            Kind::Chunk | Kind::End | Kind::Abort => false,
        };
        if self.bare || none { 0 } else { TRAILER }
    }

    /// How many bytes of payload follow the header.
    pub(crate) fn payload(&self) -> usize {
        match self.kind {
            // `check` has bounded them.
            Kind::Message | Kind::Chunk | Kind::Abort => self.len as usize,
            Kind::Large | Kind::Stream | Kind::End | Kind::Command => 0,
        }
    }
}

impl Command {
    /// The command with this code.
    pub(crate) fn of(code: u64) -> Option<Command> {
        match code {
            1 => Some(Command::Pause),
            2 => Some(Command::Resume),
            3 => Some(Command::Cancel),
            4 => Some(Command::Done),
            ERROR_MIN..=ERROR_MAX => Some(Command::Failed(code as u16)),
            _ => None,
        }
    }

    /// Its frame, which is a header alone.
    pub(crate) fn header(self) -> Header {
        Header::new(
            Kind::Command,
            match self {
                Command::Pause => 1,
                Command::Resume => 2,
                Command::Cancel => 3,
                Command::Done => 4,
                Command::Failed(number) => number.into(),
            },
        )
    }

    /// Whether the receiver sends no other behind it.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Command::Cancel | Command::Done | Command::Failed(_))
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

/// The numbers of errors that a receiver may give as its reason.
const ERROR_MIN: u64 = 1000;
const ERROR_MAX: u64 = 4999;

/// A flag of the long form.
const FLAG_CONTROLLED: u8 = 8;

/// Flags of the long form, reserved until a release knows them.
const EXTENDED_FLAGS: [(u8, &str); 3] =
    [(1, "a sealed frame"), (2, "a padded frame"), (4, "a frame with an operation id")];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{damaged, fuzz};

    fn decode(bytes: &[u8]) -> Result<Header> {
        let head = bytes[..SHORT].try_into().unwrap();
        let len = Header::length_of(head)?;
        Header::decode(&bytes[..len])
    }

    fn headers() -> Vec<Header> {
        let mut all = Vec::new();
        let header = Header::new;
        for (bare, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            for len in [1, 2, 1023, 1024, 65_535] {
                all.push(Header { bare, packed, ..header(Kind::Message, len) });
                all.push(Header { bare, packed, ..header(Kind::Chunk, len) });
            }
            all.push(Header { bare, packed, ..header(Kind::Chunk, MAX_CHUNK as u64) });
        }
        for bare in [false, true] {
            for len in [0, 1, 65_535, 65_536, 1 << 32, u64::MAX] {
                all.push(Header { bare, ..header(Kind::Large, len) });
                all.push(Header { bare, controlled: true, ..header(Kind::Large, len) });
                all.push(Header { bare, ..header(Kind::End, len) });
            }
            all.push(Header { bare, ..header(Kind::Message, 0) });
            all.push(Header { bare, ..header(Kind::Stream, 0) });
            all.push(Header { bare, controlled: true, ..header(Kind::Stream, 0) });
            all.push(Header { bare, ..header(Kind::Abort, 17) });
            for code in [1, 2, 3, 4, 1000, 4999] {
                all.push(Header { bare, ..header(Kind::Command, code) });
            }
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
        refused(VERSION_1 | 6 << KIND_SHIFT, 9, "number 9");
        refused(VERSION_1 | 6 << KIND_SHIFT, 5000, "number 5000");
        refused(VERSION_1 | 7 << KIND_SHIFT, 0, "kind 7");
        refused(VERSION_LATER, 0, "later version");

        for (flags, name) in [(1, "sealed"), (2, "padded"), (4, "operation id"), (16, "0x10")] {
            let mut bytes = Header::new(Kind::Large, 1 << 20).encode();
            bytes.bytes[4] = flags;
            let check = crc32fast::hash(&bytes.bytes[..12]);
            bytes.bytes[12..].copy_from_slice(&check.to_be_bytes());
            let e = decode(bytes.as_slice()).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Unsupported);
            assert!(e.to_string().contains(name), "{e}");
        }
    }

    #[test]
    fn fuzz_message_header() {
        let all = headers();
        let wire = prop::sample::select(all).prop_map(|h| h.encode().as_slice().to_vec());
        // With its checks made right again, what they protect is looked at.
        fuzz((damaged(wire), any::<bool>()), |(mut wire, repaired)| {
            wire.resize(wire.len().max(LONG), 0);
            if repaired {
                wire[3] = crc8(&wire[..3]);
                let check = crc32fast::hash(&wire[..12]);
                wire[12..LONG].copy_from_slice(&check.to_be_bytes());
            }
            if let Ok(header) = decode(&wire) {
                let again = header.encode();
                prop_assert_eq!(again.as_slice(), &wire[..again.as_slice().len()]);
                prop_assert!(header.payload() <= MAX_CHUNK);
            }
            Ok(())
        });
    }
}
