//! What libp2p says inside the Noise handshake: who one is, and what one speaks.
//!
//! Specification: libp2p/specs, noise, "The libp2p Handshake Payload".

use prost::Message;

use super::capabilities::Capabilities;
use crate::error::{Error, ErrorCode, Result};

/// The multiplexer that we offer inside the handshake, so that a peer who offers
/// it as well spends no round trip on negotiating it.
pub(super) const EARLY_MUXER: &str = "/yamux/1.0.0";

/// The longest payload that is decoded, in bytes. An RSA key of 4,096 bits and
/// its signature take 1,100; the rest is room for extensions.
pub(super) const MAX_PAYLOAD: usize = 4096;

/// `NoiseHandshakePayload`. Fields that are not here are skipped.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Payload {
    /// The libp2p public key, in its own protobuf encoding.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) identity_key: Option<Vec<u8>>,
    /// Its signature over the Noise static key.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) identity_sig: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    pub(super) extensions: Option<Extensions>,
}

/// `NoiseExtensions`. Numbers above 1,024 are free for experiments: what two
/// pointsub hosts can do beyond libp2p is said up there, in a field of which
/// [`Capabilities`] knows, and which others skip as this decoder does.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Extensions {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) webtransport_certhashes: Vec<Vec<u8>>,
    /// The multiplexers on offer, the preferred one first.
    #[prost(string, repeated, tag = "2")]
    pub(super) stream_muxers: Vec<String>,
}

impl Payload {
    /// What the peer said, if it is a payload at all.
    pub(super) fn decode_bounded(bytes: &[u8]) -> Result<Payload> {
        if bytes.len() > MAX_PAYLOAD {
            let what = format!("a Noise payload of {} bytes, {MAX_PAYLOAD} at most", bytes.len());
            return Err(Error::new(ErrorCode::HandshakeFailed, what));
        }
        Payload::decode(bytes).map_err(|e| {
            Error::with_source(ErrorCode::HandshakeFailed, "a damaged Noise payload", e)
        })
    }

    /// The multiplexer that both sides offered. We offer one, so there is nothing
    /// to choose from; without it the multiplexer is negotiated afterwards.
    pub(super) fn early_muxer(&self) -> Option<String> {
        let offered = &self.extensions.as_ref()?.stream_muxers;
        offered.iter().find(|muxer| *muxer == EARLY_MUXER).cloned()
    }
}

/// What we say.
pub(super) fn encode(
    identity_key: Vec<u8>,
    identity_sig: Vec<u8>,
    capabilities: Capabilities,
) -> Vec<u8> {
    let known = Extensions { stream_muxers: vec![EARLY_MUXER.to_owned()], ..Default::default() };
    let extensions = [known.encode_to_vec(), capabilities.encode()].concat();
    Said { identity_key, identity_sig, extensions }.encode_to_vec()
}

/// `Payload` as it is written: with extensions that are encoded already.
#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    extensions: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{damaged, fuzz};

    /// A field in protobuf's encoding: number, wire type 2, length, bytes.
    fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
        out
    }

    #[test]
    fn our_payload_has_the_specified_bytes() {
        let bytes = encode(b"key".to_vec(), b"sig".to_vec(), Capabilities::with_aes());
        let expected = b"\x0a\x03key\x12\x03sig\x22\x1f\x12\x0c/yamux/1.0.0\
            \x9a\x83\x0a\x0dpsub\x01\0\0\0\x03\0\0\0\0";
        assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
        let payload = Payload::decode_bounded(&bytes).unwrap();
        assert_eq!(payload.early_muxer().as_deref(), Some(EARLY_MUXER));
    }

    #[test]
    fn fields_from_the_future_are_skipped() {
        let extensions = [
            field(1, b"certhash"),
            field(1025, b"something new"),
            field(2, b"/mplex/6.7.0"),
            field(2, EARLY_MUXER.as_bytes()),
            field(70_000, &[0xff; 100]),
        ]
        .concat();
        let bytes = [
            field(1, b"key"),
            field(3, b"early data of old"),
            field(4, &extensions),
            field(2, b"sig"),
            field(900, b"?"),
        ]
        .concat();
        let payload = Payload::decode_bounded(&bytes).unwrap();
        assert_eq!(payload.identity_key.as_deref(), Some(&b"key"[..]));
        assert_eq!(payload.identity_sig.as_deref(), Some(&b"sig"[..]));
        assert_eq!(payload.early_muxer().as_deref(), Some(EARLY_MUXER));
    }

    #[test]
    fn a_muxer_that_only_one_side_offers_is_not_agreed() {
        for offer in [&b"/mplex/6.7.0"[..], b"/yamux/1.0.1", b"/yamux/1.0.0\n", b""] {
            let bytes = field(4, &field(2, offer));
            assert_eq!(Payload::decode_bounded(&bytes).unwrap().early_muxer(), None);
        }
        assert_eq!(Payload::default().early_muxer(), None);
    }

    #[test]
    fn a_payload_above_the_limit_is_refused_undecoded() {
        let mut bytes = encode(vec![], vec![], Capabilities::default());
        bytes.extend(field(900, &[0; MAX_PAYLOAD]));
        assert!(Payload::decode(&bytes[..]).is_ok());
        let e = Payload::decode_bounded(&bytes).unwrap_err();
        assert_eq!(e.code(), ErrorCode::HandshakeFailed);
    }

    #[test]
    fn lying_lengths_and_deep_groups_are_errors() {
        let length_beyond_the_end = b"\x0a\xff\xff\xff\xff\x0f".to_vec();
        let length_of_64_bits = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec();
        let endless_varint = vec![0xff; 64];
        let groups = [0x3b].repeat(MAX_PAYLOAD);
        let text_that_is_none = field(4, &field(2, &[0xff, 0xfe]));
        for bytes in
            [length_beyond_the_end, length_of_64_bits, endless_varint, groups, text_that_is_none]
        {
            let e = Payload::decode_bounded(&bytes).unwrap_err();
            assert_eq!(e.code(), ErrorCode::HandshakeFailed);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..MAX_PAYLOAD + 9)) {
            let _ = Payload::decode_bounded(&bytes);
        }
    }

    #[test]
    fn fuzz_noise_payload() {
        let bytes = || prop::collection::vec(any::<u8>(), 0..100);
        let wire = (bytes(), bytes(), bytes()).prop_map(|(key, signature, more)| {
            let mut wire = encode(key, signature, Capabilities::with_aes());
            wire.extend(field(4, &[field(2, &more), field(20_531, &more)].concat()));
            wire
        });
        fuzz(damaged(wire), |wire| {
            if let Ok(payload) = Payload::decode_bounded(&wire) {
                let said = payload.encoded_len();
                prop_assert!(said <= wire.len() + 64, "{said} bytes out of {}", wire.len());
                prop_assert!(payload.early_muxer().is_none_or(|muxer| muxer == EARLY_MUXER));
            }
            // Capabilities are an extra: they never make a payload worse.
            let _ = Capabilities::find(&wire);
            Ok(())
        });
    }
}
