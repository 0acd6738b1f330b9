//! What two hosts of this library can do beyond libp2p, said inside the handshake.
//!
//! # The wire
//!
//! One length-delimited field of `NoiseExtensions`, number 20,531, among those above
//! 1,024 that libp2p/specs leaves to experiments; other nodes skip it. Its contents:
//!
//! ```text
//! magic     4 bytes  "psub"
//! version   1 byte   1
//! ciphers   4 bytes  a set: bit 0 ChaCha20-Poly1305, bit 1 AES-256-GCM
//! features  4 bytes  a set: bit 0 resumable streams
//! ```
//!
//! Numbers are big-endian. Bits without a meaning are ignored, and so is what
//! follows the sets, so that there is room to say more. Whatever is not of
//! this form, another version and another wire type among it, is as if the field
//! were absent, and the peer is an ordinary libp2p node.
//!
//! The responder says it in message 2 and the initiator in message 3, which it
//! sends once it has verified message 2's signature and the peer id it dialled; so
//! an initiator tells nobody but the peer that was meant. Somebody who dials a
//! host and finishes no handshake does learn the host's capabilities, as he learns
//! its public key.

use prost::Message;

use super::cipher::Cipher;

/// What one host can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    ciphers: u32,
    features: u32,
}

impl Capabilities {
    /// Those of a host that may use `ciphers`, without any feature. ChaCha20-Poly1305
    /// is among them in any case, AES-256-GCM only where the processor computes it.
    pub(crate) fn new(ciphers: &[Cipher]) -> Capabilities {
        let fast = ciphers.iter().filter(|cipher| cipher.is_fast_here());
        Capabilities { ciphers: fast.fold(ALWAYS, |set, &cipher| set | bit(cipher)), features: 0 }
    }

    /// The same of a host that resumes streams, or does not.
    pub(crate) fn resume(self, on: bool) -> Capabilities {
        let features = if on { self.features | RESUME } else { self.features & !RESUME };
        Capabilities { features, ..self }
    }

    /// Whether both hosts resume streams.
    pub(crate) fn resumes_with(self, peer: Option<Capabilities>) -> bool {
        self.features & peer.map_or(0, |peer| peer.features) & RESUME != 0
    }

    /// The cipher of the connection between two hosts: the same at both ends, for it
    /// is a function of both sets and of nothing else. A peer that said nothing is
    /// an ordinary libp2p node.
    pub(super) fn cipher(self, peer: Option<Capabilities>) -> Cipher {
        let common = self.ciphers & peer.map_or(0, |peer| peer.ciphers);
        if common & bit(Cipher::Aes256Gcm) != 0 {
            Cipher::Aes256Gcm
        } else {
            Cipher::ChaCha20Poly1305
        }
    }

    /// The field, to stand among the extensions.
    pub(super) fn encode(self) -> Vec<u8> {
        let said =
            [MAGIC, &[VERSION], &self.ciphers.to_be_bytes()[..], &self.features.to_be_bytes()[..]];
        Extensions { capabilities: Some(said.concat()) }.encode_to_vec()
    }

    /// What the sender of an encoded payload says of itself, if it says it.
    pub(super) fn find(payload: &[u8]) -> Option<Capabilities> {
        let said = Payload::decode(payload).ok()?.extensions?.capabilities?;
        let sets = said.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
        let (ciphers, rest) = sets.split_first_chunk()?;
        let (features, _) = rest.split_first_chunk()?;
        Some(Capabilities {
            ciphers: u32::from_be_bytes(*ciphers),
            features: u32::from_be_bytes(*features),
        })
    }

    /// Those of a host whose processor computes AES, wherever this runs.
    #[cfg(test)]
    pub(crate) fn with_aes() -> Capabilities {
        Capabilities { ciphers: ALWAYS | bit(Cipher::Aes256Gcm), features: 0 }
    }
}

impl Default for Capabilities {
    /// Every cipher that this library and this processor have, and no feature.
    fn default() -> Capabilities {
        Capabilities::new(&Cipher::ALL)
    }
}

/// The payload as far as the field is concerned. It is decoded on its own, so that
/// a node that gives the number another meaning is understood in all the rest.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(message, optional, tag = "4")]
    extensions: Option<Extensions>,
}

#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(bytes = "vec", optional, tag = "20531")]
    capabilities: Option<Vec<u8>>,
}

/// The number of a cipher in the set.
const fn bit(cipher: Cipher) -> u32 {
    match cipher {
        Cipher::ChaCha20Poly1305 => 1,
        Cipher::Aes256Gcm => 2,
    }
}

/// What every libp2p node seals with.
const ALWAYS: u32 = bit(Cipher::ChaCha20Poly1305);

/// Streams that outlive their connection.
const RESUME: u32 = 1;

const MAGIC: &[u8] = b"psub";
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{damaged, fuzz};

    /// A payload whose extensions are `bytes`.
    fn payload(bytes: &[u8]) -> Vec<u8> {
        field(4, bytes)
    }

    /// A payload with `said` in the field.
    fn saying(said: &[u8]) -> Vec<u8> {
        payload(&field(20_531, said))
    }

    fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
        out
    }

    const AES: &[u8] = b"psub\x01\0\0\0\x03\0\0\0\0";

    #[test]
    fn the_field_has_its_documented_bytes() {
        assert_eq!(Capabilities::with_aes().encode(), field(20_531, AES));
        assert_eq!(Capabilities::find(&saying(AES)), Some(Capabilities::with_aes()));
        let only_chacha = Capabilities::new(&[]);
        assert_eq!(only_chacha.encode(), field(20_531, b"psub\x01\0\0\0\x01\0\0\0\0"));
        assert_eq!(only_chacha, Capabilities::new(&[Cipher::ChaCha20Poly1305]));
    }

    #[test]
    fn aes_is_offered_where_the_processor_computes_it() {
        let offered = Capabilities::default() == Capabilities::with_aes();
        assert_eq!(offered, Cipher::Aes256Gcm.is_fast_here());
        assert_eq!(Capabilities::new(&[Cipher::Aes256Gcm]), Capabilities::default());
    }

    #[test]
    fn what_is_malformed_is_as_if_it_were_absent() {
        let mut bad: Vec<Vec<u8>> = (0..AES.len()).map(|n| saying(&AES[..n])).collect();
        bad.push(saying(b"PSUB\x01\0\0\0\x03\0\0\0\0"));
        bad.push(saying(b"psub\x02\0\0\0\x03\0\0\0\0"));
        bad.push(saying(b"psub\0\0\0\0\x03\0\0\0\0"));
        bad.push(payload(b"\x98\x83\x0a\x07"));
        bad.push(payload(b"\x9a\x83\x0a\x7f"));
        bad.push(payload(&field(20_530, AES)));
        bad.push(payload(&[]));
        bad.push(Vec::new());
        for bytes in bad {
            assert_eq!(Capabilities::find(&bytes), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let more = Capabilities::find(&saying(b"psub\x01\xff\xff\xff\xff\xff\xff\xff\xffmore"));
        let more = more.unwrap();
        assert_eq!(Capabilities::with_aes().cipher(Some(more)), Cipher::Aes256Gcm);
        let unknown = Capabilities::find(&saying(b"psub\x01\xff\xff\xff\xfd\0\0\0\0"));
        assert_eq!(Capabilities::with_aes().cipher(unknown), Cipher::ChaCha20Poly1305);
    }

    #[test]
    fn aes_is_taken_where_both_have_it_and_nowhere_else() {
        let [aes, plain] = [Capabilities::with_aes(), Capabilities::new(&[])];
        assert_eq!(aes.cipher(Some(aes)), Cipher::Aes256Gcm);
        for (ours, theirs) in [
            (aes, Some(plain)),
            (plain, Some(aes)),
            (plain, Some(plain)),
            (aes, None),
            (plain, None),
        ] {
            assert_eq!(ours.cipher(theirs), Cipher::ChaCha20Poly1305);
        }
    }

    #[test]
    fn streams_are_resumed_where_both_do_it_and_nowhere_else() {
        let [on, off] = [true, false].map(|on| Capabilities::with_aes().resume(on));
        assert_eq!(on.encode(), field(20_531, b"psub\x01\0\0\0\x03\0\0\0\x01"));
        assert_eq!((off, on.resume(false)), (Capabilities::with_aes(), off));
        assert!(on.resumes_with(Some(on)));
        for (ours, theirs) in [(on, Some(off)), (off, Some(on)), (on, None), (off, None)] {
            assert!(!ours.resumes_with(theirs));
        }
    }

    proptest! {
        #[test]
        fn both_ends_come_to_the_same_cipher(a: [u32; 2], b: [u32; 2]) {
            let [a, b] = [a, b].map(|[ciphers, features]| Capabilities { ciphers, features });
            prop_assert_eq!(a.cipher(Some(b)), b.cipher(Some(a)));
            prop_assert_eq!(Capabilities::find(&payload(&a.encode())), Some(a));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Capabilities::find(&bytes);
            let _ = Capabilities::find(&saying(&bytes));
        }
    }

    #[test]
    fn fuzz_capabilities() {
        let wire = any::<[u32; 2]>()
            .prop_map(|[ciphers, features]| payload(&Capabilities { ciphers, features }.encode()));
        fuzz(damaged(wire), |wire| {
            let ours = Capabilities::with_aes();
            match Capabilities::find(&wire) {
                // What was read says the same when it is said again.
                Some(said) => {
                    prop_assert_eq!(Capabilities::find(&payload(&said.encode())), Some(said));
                    prop_assert_eq!(ours.cipher(Some(said)), said.cipher(Some(ours)));
                }
                None => prop_assert_eq!(ours.cipher(None), Cipher::ChaCha20Poly1305),
            }
            Ok(())
        });
    }
}
