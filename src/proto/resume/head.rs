//! What the two ends of a session say before its bytes flow on a carrier.

use std::marker::PhantomData;
use std::time::Duration;

use prost::Message;

use crate::error::{Error, ErrorCode, Result};
use crate::varint;

/// What names a session: chosen by its opener at random, known to both ends.
pub(crate) type SessionId = [u8; 16];

/// The protocol of a carrier, as multistream-select knows it.
pub(crate) const PROTOCOL: &str = "/pointsub/resume/1.0.0";

/// The opener's head: this stream carries that session from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) id: SessionId,
    /// How often the opener has said Hello for the session, this time included.
    pub(crate) epoch: u64,
    /// It was never answered: create the session if it is not there.
    pub(crate) opening: bool,
    /// What has arrived at the opener, its peer's FIN being one byte.
    pub(crate) received: u64,
    /// How much the responder may send on this stream before it is granted more.
    pub(crate) window: u32,
    /// How long the opener keeps a session that is lost.
    pub(crate) timeout: Duration,
    /// What is spoken in the session.
    pub(crate) protocol: String,
}

/// The responder's head if it has the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) received: u64,
    pub(crate) window: u32,
    pub(crate) timeout: Duration,
}

/// The responder's head if it has it not. Nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) code: Code,
    /// What had arrived when the session ended, where that is known.
    pub(crate) received: u64,
}

/// Why a responder does not go on with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// There is no such session: the process was restarted, or it is long over.
    Unknown = 1,
    /// It was there and has ended.
    Ended = 2,
    /// The epoch is old, or an offset is out of range. Also every code that we do not know.
    Invalid = 3,
    /// Nobody serves the protocol.
    NotServed = 4,
    /// There is no room for it now.
    Busy = 5,
}

impl Hello {
    /// With its length in front, as it stands on the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        framed(&wire::Hello {
            id: self.id.to_vec(),
            epoch: self.epoch,
            opening: self.opening,
            received: self.received,
            window: self.window,
            timeout_ms: millis(self.timeout),
            protocol: self.protocol.clone(),
        })
    }
}

impl Welcome {
    /// With its length in front, as it stands on the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        framed(&wire::Answer {
            gone: 0,
            received: self.received,
            window: self.window,
            timeout_ms: millis(self.timeout),
        })
    }
}

impl Gone {
    /// With its length in front, as it stands on the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        framed(&wire::Answer {
            gone: self.code as u32,
            received: self.received,
            ..wire::Answer::default()
        })
    }
}

/// What a [`HeadReader`] reads.
pub(crate) trait Head: Sized {
    /// Out of the bytes behind the length.
    fn decode(bytes: &[u8]) -> Result<Self>;
}

impl Head for Hello {
    fn decode(bytes: &[u8]) -> Result<Hello> {
        let hello = wire::Hello::decode(bytes).map_err(damaged)?;
        let id =
            hello.id.try_into().map_err(|_| violation("a session id that has not 16 bytes"))?;
        if hello.protocol.is_empty() {
            return Err(violation("a session without a protocol"));
        }
        Ok(Hello {
            id,
            epoch: hello.epoch,
            opening: hello.opening,
            received: hello.received,
            window: hello.window,
            timeout: Duration::from_millis(hello.timeout_ms.into()),
            protocol: hello.protocol,
        })
    }
}

impl Head for std::result::Result<Welcome, Gone> {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let answer = wire::Answer::decode(bytes).map_err(damaged)?;
        let received = answer.received;
        let code = match answer.gone {
            0 => {
                let timeout = Duration::from_millis(answer.timeout_ms.into());
                return Ok(Ok(Welcome { received, window: answer.window, timeout }));
            }
            1 => Code::Unknown,
            2 => Code::Ended,
            4 => Code::NotServed,
            5 => Code::Busy,
            _ => Code::Invalid,
        };
        Ok(Err(Gone { code, received }))
    }
}

/// Collects a head out of whatever pieces it arrives in. It holds no more than has
/// arrived, and nothing of what is behind the head.
#[derive(Debug)]
pub(crate) struct HeadReader<H> {
    bytes: Vec<u8>,
    head: PhantomData<H>,
}

impl<H: Head> HeadReader<H> {
    pub(crate) fn new() -> HeadReader<H> {
        HeadReader { bytes: Vec::new(), head: PhantomData }
    }

    /// Takes bytes from `input`: all of them, unless the end of the head is among
    /// them; then those behind it are left. Not to be called again after that, nor
    /// after an error.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` if this is no head, as soon as that is certain.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<H>)> {
        let mut taken = 0;
        loop {
            let missing = match varint::decode(&self.bytes, LENGTH)? {
                None => 1,
                Some((len, _)) if len > MAX_HEAD as u64 => {
                    return Err(violation("the head of a session is too long"));
                }
                Some((len, prefix)) => match prefix + len as usize - self.bytes.len() {
                    0 => return Ok((taken, Some(H::decode(&self.bytes[prefix..])?))),
                    missing => missing,
                },
            };
            let n = missing.min(input.len() - taken);
            if n == 0 {
                return Ok((taken, None));
            }
            self.bytes.extend_from_slice(&input[taken..taken + n]);
            taken += n;
        }
    }
}

fn framed(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(message.encoded_len() as u64, &mut out);
    out.extend(message.encode_to_vec());
    out
}

/// Longer times than this are as good as for ever: seven weeks.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn damaged(e: prost::DecodeError) -> Error {
    Error::with_source(ErrorCode::ProtocolViolation, "the head of a session is damaged", e)
}

fn violation(what: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

/// The messages, whose fields may become more: what is not here is skipped, and what
/// is absent is zero.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hello {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) id: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(super) epoch: u64,
        #[prost(bool, tag = "3")]
        pub(super) opening: bool,
        #[prost(uint64, tag = "4")]
        pub(super) received: u64,
        #[prost(uint32, tag = "5")]
        pub(super) window: u32,
        #[prost(uint32, tag = "6")]
        pub(super) timeout_ms: u32,
        #[prost(string, tag = "7")]
        pub(super) protocol: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Answer {
        /// Why not; 0: the session goes on.
        #[prost(uint32, tag = "1")]
        pub(super) gone: u32,
        #[prost(uint64, tag = "2")]
        pub(super) received: u64,
        #[prost(uint32, tag = "3")]
        pub(super) window: u32,
        #[prost(uint32, tag = "4")]
        pub(super) timeout_ms: u32,
    }
}

/// The longest head, without its length.
pub(crate) const MAX_HEAD: usize = 2048;

/// What the length takes at most.
const LENGTH: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{damaged, fuzz};

    type Answer = std::result::Result<Welcome, Gone>;

    fn hello() -> Hello {
        Hello {
            id: *b"0123456789abcdef",
            epoch: 1,
            opening: true,
            received: 0,
            window: 262_144,
            timeout: Duration::from_secs(30),
            protocol: "/echo/1.0.0".to_owned(),
        }
    }

    /// What a reader makes of `bytes` that arrive `part` at a time, and how many it took.
    fn read<H: Head>(bytes: &[u8], part: usize) -> Result<(usize, Option<H>)> {
        let (mut reader, mut total) = (HeadReader::new(), 0);
        for part in bytes.chunks(part) {
            let (taken, head) = reader.read(part)?;
            total += taken;
            assert!(reader.bytes.len() <= total);
            if head.is_some() {
                return Ok((total, head));
            }
            assert_eq!(taken, part.len());
        }
        Ok((total, None))
    }

    #[test]
    fn the_heads_have_their_documented_bytes() {
        let bytes = b"\x2b\x0a\x100123456789abcdef\x10\x01\x18\x01\x28\x80\x80\x10\
            \x30\xb0\xea\x01\x3a\x0b/echo/1.0.0";
        assert_eq!(hello().encode().escape_ascii().to_string(), bytes.escape_ascii().to_string());
        let welcome = Welcome { received: 300, window: 5, timeout: Duration::from_millis(7) };
        assert_eq!(welcome.encode(), b"\x07\x10\xac\x02\x18\x05\x20\x07");
        let gone = Gone { code: Code::Ended, received: 1 };
        assert_eq!(gone.encode(), b"\x04\x08\x02\x10\x01");
    }

    #[test]
    fn a_field_or_a_code_from_the_future_is_no_error() {
        let more = b"\x08\x10\x01\x18\x02\xa2\x06\x01!";
        let welcome = Welcome { received: 1, window: 2, timeout: Duration::ZERO };
        assert_eq!(read::<Answer>(more, 100).unwrap(), (9, Some(Ok(welcome))));
        let gone = Gone { code: Code::Invalid, received: 0 };
        assert_eq!(read::<Answer>(b"\x02\x08\x63", 100).unwrap(), (3, Some(Err(gone))));
        // An answer of nothing welcomes with nothing.
        assert!(matches!(read::<Answer>(b"\0", 1).unwrap(), (1, Some(Ok(_)))));
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_arrives() {
        for bytes in [&b"\x81\x10"[..], b"\xff\x7f", b"\x80\x80", b"\x80\x00"] {
            let e = read::<Hello>(bytes, 1).unwrap_err();
            assert_eq!(e.code(), ErrorCode::ProtocolViolation, "{}", bytes.escape_ascii());
        }
        assert_eq!(read::<Hello>(b"\x80\x10", 1).unwrap(), (2, None));
    }

    #[test]
    fn the_longest_name_of_a_protocol_fits() {
        let long = Hello { protocol: "x".repeat(1000), epoch: u64::MAX, ..hello() };
        let bytes = Hello { received: u64::MAX, window: u32::MAX, ..long }.encode();
        assert!(bytes.len() < MAX_HEAD);
        assert!(read::<Hello>(&bytes, 3).unwrap().1.is_some());
    }

    #[test]
    fn an_id_of_another_length_or_no_protocol_is_a_violation() {
        for id in [0, 15, 17] {
            let message = wire::Hello { id: vec![1; id], ..wire::Hello::default() };
            assert!(read::<Hello>(&framed(&message), 9).is_err());
        }
        let nameless = Hello { protocol: String::new(), ..hello() };
        assert!(read::<Hello>(&nameless.encode(), 9).is_err());
    }

    prop_compose! {
        fn any_hello()(
            id: SessionId, epoch: u64, opening: bool, received: u64, window: u32, millis: u32,
            protocol in "/[a-z0-9./]{1,100}",
        ) -> Hello {
            let timeout = Duration::from_millis(millis.into());
            Hello { id, epoch, opening, received, window, timeout, protocol }
        }
    }

    proptest! {
        #[test]
        fn every_head_comes_back_whole_and_leaves_what_follows(
            hello in any_hello(), code in 1u32..6, part in 1usize..200, tail: Vec<u8>,
        ) {
            let bytes = hello.encode();
            let sent = [&bytes[..], &tail].concat();
            for n in 0..bytes.len() {
                prop_assert_eq!(read::<Hello>(&bytes[..n], part).unwrap(), (n, None));
            }
            let welcome =
                Welcome { received: hello.received, window: hello.window, timeout: hello.timeout };
            prop_assert_eq!(read(&sent, part).unwrap(), (bytes.len(), Some(hello)));
            let bytes = welcome.encode();
            let sent = [&bytes[..], &tail].concat();
            prop_assert_eq!(read(&sent, part).unwrap(), (bytes.len(), Some(Ok::<_, Gone>(welcome))));
            let (gone, received) = (code, welcome.received);
            let bytes = framed(&wire::Answer { gone, received, ..wire::Answer::default() });
            let (_, gone) = read::<Answer>(&bytes, part).unwrap();
            let gone = gone.unwrap().unwrap_err();
            prop_assert_eq!((gone.code as u32, gone.received), (code, received));
            prop_assert_eq!(gone.encode(), bytes);
        }
    }

    /// Heads of every kind, and messages that look like them with fields of any length.
    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let answer = (0u32..8, any::<u64>(), any::<u32>(), any::<u32>());
        let answer = answer.prop_map(|(gone, received, window, timeout_ms)| {
            framed(&wire::Answer { gone, received, window, timeout_ms })
        });
        let id = prop::collection::vec(any::<u8>(), 0..40);
        let odd = (id, "[a-z/]{0,2100}").prop_map(|(id, protocol)| {
            framed(&wire::Hello { id, protocol, ..wire::Hello::default() })
        });
        prop_oneof![4 => any_hello().prop_map(|hello| hello.encode()), 4 => answer, 1 => odd]
    }

    /// Whatever comes, in whatever pieces: the same head or the same error, no byte of
    /// what is behind the head, and what was understood can be said again.
    #[test]
    fn fuzz_heads_are_read_to_their_end_or_refused() {
        fuzz((damaged(heads()), 1usize..300), |(bytes, part)| {
            if let Some(hello) = same_in_pieces::<Hello>(&bytes, part)? {
                let again = read::<Hello>(&hello.encode(), part).unwrap().1.unwrap();
                prop_assert_eq!(again, hello);
            }
            if let Some(answer) = same_in_pieces::<Answer>(&bytes, part)? {
                let said = answer.map_or_else(|gone| gone.encode(), |welcome| welcome.encode());
                prop_assert_eq!(read::<Answer>(&said, part).unwrap(), (said.len(), Some(answer)));
            }
            Ok(())
        });
    }

    fn same_in_pieces<H: Head + PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        part: usize,
    ) -> std::result::Result<Option<H>, TestCaseError> {
        let whole = read::<H>(bytes, usize::MAX);
        match (read::<H>(bytes, part), whole) {
            (Ok(pieces), Ok(whole)) => {
                prop_assert!(whole.0 <= MAX_HEAD + LENGTH || whole.1.is_none());
                prop_assert_eq!(&pieces, &whole);
                Ok(whole.1)
            }
            (Err(pieces), Err(whole)) => {
                prop_assert_eq!(pieces.code(), ErrorCode::ProtocolViolation);
                prop_assert_eq!(whole.code(), ErrorCode::ProtocolViolation);
                Ok(None)
            }
            (pieces, whole) => {
                let what = format!("{pieces:?} in pieces, {whole:?} as a whole");
                Err(TestCaseError::fail(what))
            }
        }
    }
}
