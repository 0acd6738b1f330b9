//! The keys of the transport frames, from the end of the handshake on.
//!
//! `k1` and `k2` are what Noise's split gives, for what the initiator and what the
//! responder seals; `h` is the handshake hash.
//!
//! ChaCha20-Poly1305 is libp2p's: the keys are `k1` and `k2`, for good. For
//! AES-256-GCM, with HKDF (RFC 5869) on SHA-256:
//!
//! ```text
//! PRK             = HKDF-Extract(salt = h, k1 || k2)
//! initiator's key = HKDF-Expand(PRK, "pointsub aes-256-gcm initiator", 32)
//! responder's key = HKDF-Expand(PRK, "pointsub aes-256-gcm responder", 32)
//! next key        = HKDF-Expand(key, "rekey", 32)
//! ```
//!
//! The next key takes over at frame 2^20 of its direction, at frame 2 * 2^20, and so
//! on. A frame's nonce is 32 zero bits and its number, big-endian, as Noise has it
//! for AESGCM; the number goes on from key to key.
//!
//! # Why this is sound
//!
//! **The keys are as secret as Noise's.** `k1 || k2` is pseudorandom to everybody but
//! the two ends: that is what Noise proves of XX, and what the frames of any libp2p
//! node rest on. HKDF-Extract makes one uniform key of such input under any public
//! salt, HKDF-Expand independent ones under different labels. A direction's key tells
//! nothing of the other one, of the PRK, or of `k1` and `k2`.
//!
//! **No key serves two ciphers.** Where the cipher is AES, `k1` and `k2` are input of
//! the extraction and nothing else. snow sets up its own ChaCha20-Poly1305 with them,
//! as at the end of any handshake, but is never asked to seal or to open with it, and
//! is dropped with the handshake; our copies are wiped.
//!
//! **Nobody chooses the cipher for the two ends.** It is a function of both sets of
//! capabilities. Each set travels in a payload that is sealed with `h` so far as its
//! associated data: the responder's under the key of `ee` and `es`, which only the
//! holder of the responder's static key shares, the initiator's under that of `se` as
//! well. A set that is changed, cut out or replayed from another handshake fails to
//! open, and there is no connection, with whichever cipher. The responder's set is in
//! the `h` under which message 3 opens: both ends agree on that set or there is no end
//! of the handshake. The initiator's set is in message 3, without which the responder
//! has no keys and sends no frame. And `h`, both payloads in it, is the salt: two ends
//! that somehow saw different handshakes have no frame of AES in common.
//!
//! **No nonce comes twice under one key.** A key belongs to one direction of one
//! connection, for both ephemeral keys are in it, and the number only grows.
//!
//! **No key is used too much.** 2^20 frames of at most 2^16 bytes are 2^32 blocks:
//! what tells AES from a random function is then below 2^-64. A forged frame passes
//! with a chance below 2^-115, and there is one try: the first frame that fails ends
//! the connection.
//!
//! **A key that is found later opens little.** HKDF-Expand cannot be turned round, so
//! the present key does not open the frames under earlier ones. Both ends change keys
//! at the same frame because both count the frames of an ordered stream; nothing is
//! said about it on the wire that could be forged or lost. Until it is replaced a key
//! is a key of AES and, once, of HMAC: nothing is known that relates the two, and the
//! HMAC's output is never seen, only used as a key. A session keeps a key for as long as
//! it keeps what that has sealed, to be sent again; otherwise it would keep the content.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

/// A key of any cipher here, wiped when it is dropped.
pub(super) type Secret = Zeroizing<[u8; SECRET_LEN]>;

/// The raw keys of a finished handshake.
pub(super) struct Split {
    /// `k1`.
    pub(super) initiator: Secret,
    /// `k2`.
    pub(super) responder: Secret,
}

impl Split {
    /// The keys to begin with where the cipher is not the handshake's own.
    pub(super) fn derive(self, handshake_hash: &[u8]) -> Split {
        let mut input = Zeroizing::new([0; 2 * SECRET_LEN]);
        input[..SECRET_LEN].copy_from_slice(&*self.initiator);
        input[SECRET_LEN..].copy_from_slice(&*self.responder);
        let prk = Salt::new(HKDF_SHA256, handshake_hash).extract(&*input);
        Split { initiator: expand(&prk, INITIATOR), responder: expand(&prk, RESPONDER) }
    }
}

/// The key after `secret`.
pub(super) fn next(secret: &Secret) -> Secret {
    expand(&Prk::new_less_safe(HKDF_SHA256, &**secret), REKEY)
}

fn expand(prk: &Prk, label: &[u8]) -> Secret {
    let mut secret = Secret::default();
    prk.expand(&[label], Len)
        .and_then(|okm| okm.fill(&mut *secret))
        .expect("32 bytes are one block of HKDF with SHA-256");
    secret
}

struct Len;

impl KeyType for Len {
    fn len(&self) -> usize {
        SECRET_LEN
    }
}

const SECRET_LEN: usize = 32;
const INITIATOR: &[u8] = b"pointsub aes-256-gcm initiator";
const RESPONDER: &[u8] = b"pointsub aes-256-gcm responder";
const REKEY: &[u8] = b"rekey";
