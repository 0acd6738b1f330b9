//! The header of 12 bytes that every yamux frame starts with.

use std::ops::BitOr;

use crate::error::{Error, ErrorCode, Result};

/// A stream's number within its connection. 0 is the connection itself.
pub(crate) type StreamId = u32;

/// Which end of the connection we are. The one that dialled opens the odd ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dialer,
    Listener,
}

impl Role {
    /// The other end's role.
    pub(crate) fn peer(self) -> Role {
        match self {
            Role::Dialer => Role::Listener,
            Role::Listener => Role::Dialer,
        }
    }

    /// The first id that this end opens; the next ones are 2 apart.
    pub(crate) fn first_id(self) -> StreamId {
        match self {
            Role::Dialer => 1,
            Role::Listener => 2,
        }
    }

    /// Whether a stream of this id is this end's to open.
    pub(crate) fn opens(self, id: StreamId) -> bool {
        id != SESSION && id % 2 == self.first_id() % 2
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data = 0,
    WindowUpdate = 1,
    Ping = 2,
    GoAway = 3,
    /// Private to two hosts of this library: how much of a resumable stream arrived.
    Received = 0x50,
}

/// What a frame says beside its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NONE: Flags = Flags(0);
    pub(crate) const SYN: Flags = Flags(1);
    pub(crate) const ACK: Flags = Flags(2);
    pub(crate) const FIN: Flags = Flags(4);
    pub(crate) const RST: Flags = Flags(8);

    pub(crate) fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether none of the flags that we know is set.
    pub(crate) fn is_empty(self) -> bool {
        self.0 & 0xf == 0
    }

    /// Takes `other` out and says whether it was in.
    pub(crate) fn take(&mut self, other: Flags) -> bool {
        let had = self.has(other);
        self.0 &= !other.0;
        had
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The header of a frame. `length` is the length of the body only in a DATA
/// frame; elsewhere it is a credit, a value to echo, an error code, or a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) id: StreamId,
    pub(crate) length: u32,
}

impl Header {
    /// How long a header is on the wire.
    pub(crate) const LEN: usize = 12;

    pub(crate) fn data(id: StreamId, flags: Flags, length: u32) -> Header {
        Header { kind: Kind::Data, flags, id, length }
    }

    pub(crate) fn window(id: StreamId, flags: Flags, length: u32) -> Header {
        Header { kind: Kind::WindowUpdate, flags, id, length }
    }

    pub(crate) fn ping(flags: Flags, value: u32) -> Header {
        Header { kind: Kind::Ping, flags, id: SESSION, length: value }
    }

    pub(crate) fn go_away(code: u32) -> Header {
        Header { kind: Kind::GoAway, flags: Flags::NONE, id: SESSION, length: code }
    }

    pub(crate) fn received(id: StreamId, received: u32) -> Header {
        Header { kind: Kind::Received, flags: Flags::NONE, id, length: received }
    }

    pub(crate) fn encode(self) -> [u8; Header::LEN] {
        let mut out = [0; Header::LEN];
        out[0] = VERSION;
        out[1] = self.kind as u8;
        out[2..4].copy_from_slice(&self.flags.0.to_be_bytes());
        out[4..8].copy_from_slice(&self.id.to_be_bytes());
        out[8..12].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Flags that nobody has given a meaning yet are ignored, as go, rust, js
    /// and py do; a version or a kind that is not known ends the connection,
    /// because what follows it cannot be told.
    pub(crate) fn decode(bytes: &[u8; Header::LEN]) -> Result<Header> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = *bytes;
        if version != VERSION {
            return Err(violation(format!("a yamux frame of version {version}")));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            0x50 => Kind::Received,
            _ => return Err(unknown(kind)),
        };
        Ok(Header {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

/// The peer broke yamux's rules: the connection ends.
pub(super) fn violation(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

/// Nobody can tell where a frame of a type ends that is not known.
pub(super) fn unknown(kind: u8) -> Error {
    violation(format!("a yamux frame of the unknown type {kind}"))
}

/// The id that means the whole connection.
pub(super) const SESSION: StreamId = 0;

const VERSION: u8 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_a_header_are_those_of_the_specification() {
        let header = Header::data(0x0102_0304, Flags::SYN | Flags::FIN, 0x0a0b_0c0d);
        let golden = [0, 0, 0, 5, 1, 2, 3, 4, 10, 11, 12, 13];
        assert_eq!(header.encode(), golden);
        assert_eq!(Header::decode(&golden).unwrap(), header);
        assert_eq!(Header::ping(Flags::ACK, 7).encode(), [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(Header::go_away(1).encode(), [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Header::received(5, 9).encode(), [0, 0x50, 0, 0, 0, 0, 0, 5, 0, 0, 0, 9]);
    }

    #[test]
    fn each_end_opens_its_own_ids_and_nobody_opens_the_session() {
        for role in [Role::Dialer, Role::Listener] {
            assert!(role.opens(role.first_id()));
            assert!(!role.peer().opens(role.first_id()));
            assert!(!role.opens(SESSION));
        }
    }

    proptest! {
        #[test]
        fn any_twelve_bytes_are_a_header_or_a_violation(bytes: [u8; 12]) {
            match Header::decode(&bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(e) => {
                    prop_assert_eq!(e.code(), ErrorCode::ProtocolViolation);
                    prop_assert!(bytes[0] != 0 || bytes[1] > 3 && bytes[1] != 0x50);
                }
            }
        }
    }
}
