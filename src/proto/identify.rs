//! `/ipfs/id/1.0.0`: whoever accepts the stream sends one message about itself,
//! prefixed by its length as a varint, and closes.
//!
//! Specification: <https://github.com/libp2p/specs/blob/master/identify/README.md>.
//! The field `signedPeerRecord` is neither sent nor read. go sends it in a second
//! message if the first became too long; [`Reader`] takes the first and is done.
//!
//! | limit | value | above it |
//! |---|---|---|
//! | a message received | 64 KiB | `ProtocolViolation` |
//! | fields in it | 2,048 | the same |
//! | addresses taken from it | 128 | the others are left out |
//! | protocols taken from it | 1,024 | the same |
//! | a message sent | 4 KiB, the most that rust-libp2p reads | protocols, then addresses are left out |

use libp2p_core::Multiaddr;
use libp2p_identity::{PeerId, PublicKey};
use prost::Message as _;

use crate::error::{Error, ErrorCode, Result};
use crate::fields::fields;
use crate::varint;

/// The name of the protocol.
pub(crate) const PROTOCOL: &str = "/ipfs/id/1.0.0";

/// The protocol version that we announce. Nobody acts on it any more.
pub(crate) const PROTOCOL_VERSION: &str = "ipfs/0.1.0";

/// What a peer says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identify {
    /// The peer's key. Some nodes leave it out.
    pub(crate) public_key: Option<PublicKey>,
    /// Where the peer says it listens. Nothing vouches for them.
    pub(crate) listen_addrs: Vec<Multiaddr>,
    /// The protocols that it serves.
    pub(crate) protocols: Vec<String>,
    /// The address that it sees us come from.
    pub(crate) observed_addr: Option<Multiaddr>,
    /// Which program it is.
    pub(crate) agent_version: String,
    /// Which family of protocols it speaks.
    pub(crate) protocol_version: String,
}

impl Identify {
    /// The message with its length in front. If it would be longer than other
    /// nodes read, the last protocols are left out, then the last addresses.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut wire = Wire {
            public_key: self.public_key.as_ref().map(PublicKey::encode_protobuf),
            listen_addrs: self.listen_addrs.iter().map(Multiaddr::to_vec).collect(),
            protocols: self.protocols.clone(),
            observed_addr: self.observed_addr.as_ref().map(Multiaddr::to_vec),
            protocol_version: Some(self.protocol_version.clone()),
            agent_version: Some(self.agent_version.clone()),
        };
        let mut excess = wire.encoded_len().saturating_sub(MAX_SENT);
        while excess > 0 {
            let protocol = wire.protocols.pop().map(String::into_bytes);
            let Some(left_out) = protocol.or_else(|| wire.listen_addrs.pop()) else { break };
            // A field is its bytes, a tag of one byte and a length of at least one.
            excess = excess.saturating_sub(left_out.len() + 2);
        }
        let mut out = Vec::new();
        varint::encode(wire.encoded_len() as u64, &mut out);
        out.extend_from_slice(&wire.encode_to_vec());
        out
    }

    /// Reads a message, without its length, that `peer` sent.
    fn decode(message: &[u8], peer: &PeerId) -> Result<Identify> {
        check_fields(message)?;
        let wire = Wire::decode(message)
            .map_err(|e| Error::with_source(ErrorCode::ProtocolViolation, DAMAGED, e))?;
        let public_key = match wire.public_key.as_deref() {
            None | Some([]) => None,
            Some(key) => Some(key_of(key, peer)?),
        };
        let address = |bytes| Multiaddr::try_from(bytes).ok();
        let addrs = wire.listen_addrs.into_iter().filter_map(address);
        let protocols = wire.protocols.into_iter();
        Ok(Identify {
            public_key,
            listen_addrs: addrs.take(MAX_ADDRS).collect(),
            protocols: protocols.take(MAX_PROTOCOLS).collect(),
            observed_addr: wire.observed_addr.and_then(address),
            agent_version: wire.agent_version.unwrap_or_default(),
            protocol_version: wire.protocol_version.unwrap_or_default(),
        })
    }
}

/// Puts one message together from pieces of any size.
pub(crate) struct Reader {
    peer: PeerId,
    /// The length and the message as far as they have arrived.
    arrived: Vec<u8>,
}

impl Reader {
    /// For the message of `peer`, known by its handshake.
    pub(crate) fn new(peer: PeerId) -> Reader {
        Reader { peer, arrived: Vec::new() }
    }

    /// Takes what belongs to the message from `input`: how many bytes that were, and
    /// the message once it is whole. Not to be called again after that. Memory
    /// follows what has arrived.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` if the message is too long or damaged, or has another key
    /// than the peer's. Addresses that cannot be read are left out.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Identify>)> {
        let mut taken = 0;
        loop {
            if let Some((len, prefix)) = varint::decode(&self.arrived, PREFIX)? {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if len > MAX_RECEIVED {
                    return Err(violation(format!("an identify message of {len} bytes")));
                }
                let missing = prefix + len - self.arrived.len();
                let part = &input[taken..][..missing.min(input.len() - taken)];
                self.arrived.extend_from_slice(part);
                taken += part.len();
                if part.len() < missing {
                    return Ok((taken, None));
                }
                let identify = Identify::decode(&self.arrived[prefix..], &self.peer)?;
                return Ok((taken, Some(identify)));
            }
            let Some(&byte) = input.get(taken) else { return Ok((taken, None)) };
            self.arrived.push(byte);
            taken += 1;
        }
    }
}

/// The message as protobuf has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(bytes = "vec", optional, tag = "1")]
    public_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    listen_addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "4")]
    observed_addr: Option<Vec<u8>>,
    #[prost(string, optional, tag = "5")]
    protocol_version: Option<String>,
    #[prost(string, optional, tag = "6")]
    agent_version: Option<String>,
}

/// Counts the fields before anything is made of them.
fn check_fields(message: &[u8]) -> Result<()> {
    for (before, field) in fields(message).enumerate() {
        field.map_err(|e| e.describe(DAMAGED))?;
        if before == MAX_FIELDS {
            return Err(violation(format!("an identify message of over {MAX_FIELDS} fields")));
        }
    }
    Ok(())
}

/// The key in the message, if it is the one that `peer` is named after.
fn key_of(encoded: &[u8], peer: &PeerId) -> Result<PublicKey> {
    let key = PublicKey::try_decode_protobuf(encoded)
        .map_err(|e| Error::with_source(ErrorCode::ProtocolViolation, DAMAGED, e))?;
    if key.to_peer_id() != *peer {
        return Err(violation("the peer identifies itself with another key than its own"));
    }
    Ok(key)
}

fn violation(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

const DAMAGED: &str = "a damaged identify message";
/// The longest message that is received, in bytes.
const MAX_RECEIVED: usize = 64 * 1024;
/// The bytes that the length of such a message takes.
const PREFIX: usize = 3;
/// The longest message that is sent, in bytes.
const MAX_SENT: usize = 4 * 1024;
/// The fields of a received message, repeated ones counted each time.
const MAX_FIELDS: usize = 2048;
/// The addresses that are taken from a received message.
const MAX_ADDRS: usize = 128;
/// The protocols that are taken from a received message.
const MAX_PROTOCOLS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{damaged, fuzz};
    use libp2p_identity::Keypair;
    use proptest::prelude::*;

    fn key() -> PublicKey {
        Keypair::ed25519_from_bytes([7; 32]).unwrap().public()
    }

    fn sample() -> Identify {
        Identify {
            public_key: Some(key()),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()],
            protocols: vec!["/ipfs/ping/1.0.0".into(), "/echo/1.0.0".into()],
            observed_addr: Some("/ip6/::1/tcp/9".parse().unwrap()),
            agent_version: "pointsub/0.1.0".into(),
            protocol_version: PROTOCOL_VERSION.into(),
        }
    }

    fn read(wire: &[u8]) -> Result<(usize, Option<Identify>)> {
        Reader::new(key().to_peer_id()).read(wire)
    }

    /// A message of these fields, with its length.
    fn message(fields: Wire) -> Vec<u8> {
        delimited(&fields.encode_to_vec())
    }

    fn delimited(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::encode(body.len() as u64, &mut out);
        out.extend_from_slice(body);
        out
    }

    fn refused(wire: &[u8]) {
        assert_eq!(read(wire).unwrap_err().code(), ErrorCode::ProtocolViolation);
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_in_any_pieces() {
        let mut wire = sample().encode();
        wire.extend_from_slice(b"tail");
        let whole = wire.len() - 4;
        assert_eq!(read(&wire).unwrap(), (whole, Some(sample())));
        for piece in [1, 2, 5, 64] {
            let mut reader = Reader::new(key().to_peer_id());
            let mut got = None;
            for part in wire[..whole].chunks(piece) {
                assert!(got.is_none());
                let (taken, message) = reader.read(part).unwrap();
                assert_eq!(taken, part.len());
                got = message;
            }
            assert_eq!(got, Some(sample()));
        }
    }

    #[test]
    fn another_key_than_the_peers_is_refused() {
        let other = Keypair::ed25519_from_bytes([8; 32]).unwrap().public();
        refused(&Identify { public_key: Some(other), ..sample() }.encode());
        refused(&message(Wire { public_key: Some(vec![1, 2, 3]), ..Wire::default() }));
    }

    #[test]
    fn fields_that_are_missing_or_unknown_do_no_harm() {
        let (_, got) = read(&[0]).unwrap();
        let got = got.unwrap();
        assert_eq!((got.public_key, got.agent_version.as_str()), (None, ""));
        let unknown = [&sample().encode()[2..], b"\x42\x03abc"].concat();
        assert_eq!(sample().encode()[1] & 0x80, 0, "a length of two bytes");
        assert_eq!(read(&delimited(&unknown)).unwrap().1, Some(sample()));
    }

    #[test]
    fn bad_addresses_are_left_out() {
        let good: Multiaddr = "/ip4/1.2.3.4/tcp/5".parse().unwrap();
        let (_, got) = read(&message(Wire {
            listen_addrs: vec![vec![0xff; 9], good.to_vec(), vec![4, 1], vec![6]],
            observed_addr: Some(vec![4, 1, 2]),
            ..Wire::default()
        }))
        .unwrap();
        let got = got.unwrap();
        assert_eq!((got.listen_addrs, got.observed_addr), (vec![good], None));
    }

    #[test]
    fn what_is_too_long_or_too_many_is_bounded() {
        refused(&[0x81, 0x80, 0x04]); // 64 KiB and one byte
        refused(&[0xff, 0xff, 0xff]);
        let addr = "/ip4/1.2.3.4/tcp/5".parse::<Multiaddr>().unwrap().to_vec();
        let wire = |addrs, protocols| {
            message(Wire {
                listen_addrs: vec![addr.clone(); addrs],
                protocols: vec![String::new(); protocols],
                ..Wire::default()
            })
        };
        let (_, got) = read(&wire(800, 1248)).unwrap();
        let got = got.unwrap();
        assert_eq!((got.listen_addrs.len(), got.protocols.len()), (MAX_ADDRS, MAX_PROTOCOLS));
        refused(&wire(0, MAX_FIELDS + 1));
    }

    #[test]
    fn groups_are_refused_however_deep() {
        refused(&delimited(&[0x7b, 0x7c]));
        refused(&delimited(&vec![0x7b; 60_000]));
        refused(&delimited(&[0x7c]));
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let mut reader = Reader::new(key().to_peer_id());
        assert_eq!(reader.read(&[0x80, 0x80, 0x04, 1]).unwrap(), (4, None));
        assert!(reader.arrived.capacity() < 64);
    }

    #[test]
    fn what_we_send_is_never_longer_than_others_read() {
        let long = Identify {
            protocols: (0..1000).map(|i| format!("/protocol/{i}")).collect(),
            ..sample()
        };
        let wire = long.encode();
        assert!(wire.len() <= MAX_SENT + 2);
        let got = read(&wire).unwrap().1.unwrap();
        assert_eq!(got.listen_addrs, long.listen_addrs);
        assert!(got.protocols.len() > 100 && long.protocols.starts_with(&got.protocols));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_an_error_or_a_wait(
            random in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>(),
        ) {
            let _ = read(&random);
            let _ = read(&delimited(&random));
            let mut wire = sample().encode();
            let cut = cut.index(wire.len());
            prop_assert_eq!(read(&wire[..cut]).unwrap(), (cut, None));
            let at = at.index(wire.len());
            wire[at] ^= 1 << bit;
            if let Ok((taken, _)) = read(&wire) {
                prop_assert!(taken <= wire.len());
            }
        }

        #[test]
        fn any_bytes_are_an_address_or_left_out(
            addrs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            observed in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let sent = addrs.len();
            let wire = Wire { listen_addrs: addrs, observed_addr: Some(observed), ..Wire::default() };
            let got = read(&message(wire)).unwrap().1.unwrap();
            prop_assert!(got.listen_addrs.len() <= sent);
        }

        #[test]
        fn any_fields_come_back(
            protocols in prop::collection::vec("/[a-z]{0,20}", 0..10),
            ports in prop::collection::vec(any::<u16>(), 0..10),
            agent_version in ".{0,40}",
        ) {
            let sent = Identify {
                listen_addrs: ports.iter().map(|p| format!("/ip4/10.0.0.1/tcp/{p}").parse().unwrap()).collect(),
                protocols,
                agent_version,
                ..sample()
            };
            prop_assert_eq!(read(&sent.encode()).unwrap().1, Some(sent));
        }
    }

    #[test]
    fn fuzz_identify() {
        let wire = (prop::collection::vec("/[a-z]{0,20}", 0..10), any::<bool>()).prop_map(
            |(protocols, bare)| {
                let public_key = Some(key()).filter(|_| !bare);
                Identify { protocols, public_key, ..sample() }.encode()
            },
        );
        // With a length that is right, what is behind it is looked at.
        let body = damaged(Just(sample().encode()[2..].to_vec())).prop_map(|b| delimited(&b));
        fuzz((prop_oneof![damaged(wire), body], 1usize..300), |(wire, piece)| {
            let read = |piece: usize| {
                let mut reader = Reader::new(key().to_peer_id());
                let mut at = 0;
                while at < wire.len() {
                    let part = &wire[at..wire.len().min(at + piece)];
                    match reader.read(part) {
                        Ok((n, None)) => {
                            assert!(n > 0 && n <= part.len());
                            at += n;
                            assert!(reader.arrived.capacity() <= 2 * at + 64);
                        }
                        Ok((n, Some(said))) => return Ok((at + n, Some(said))),
                        Err(e) => return Err(e.code()),
                    }
                }
                Ok((at, None))
            };
            let whole = read(wire.len().max(1));
            prop_assert_eq!(&read(piece), &whole);
            if let Ok((_, Some(said))) = whole {
                prop_assert!(said.public_key.is_none_or(|k| k == key()));
            }
            Ok(())
        });
    }
}
