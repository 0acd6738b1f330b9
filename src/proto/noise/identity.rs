//! Whose Noise key it is: the libp2p key behind it, ours and the peer's.
//!
//! Specification: libp2p/specs, noise, "Static Key Authentication", and peer-ids.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, RsaParameters, UnparsedPublicKey};
use libp2p_identity::{KeyType, Keypair, PeerId, PublicKey};

use super::capabilities::Capabilities;
use super::payload::{self, Payload};
use super::resolver::{KeyPair, SystemRandom};
use crate::error::{Error, ErrorCode, Result};
use crate::resources::proofs::{Proof, Proofs};

/// Who we are, made once per host and shared by its handshakes: a fresh Noise
/// static key, and the libp2p key's signature over it. The libp2p private key
/// itself is not kept.
pub(crate) struct Identity {
    public_key: PublicKey,
    peer_id: PeerId,
    noise: Arc<KeyPair>,
    capabilities: Capabilities,
    payload: Vec<u8>,
    /// Peers that have proven who they are.
    proofs: Proofs,
}

impl Identity {
    /// Announces all that we are capable of.
    #[cfg(test)]
    pub(crate) fn new(keypair: Keypair) -> Result<Identity> {
        Identity::with_capabilities(keypair, Capabilities::default())
    }

    /// Announces `capabilities` to every peer.
    pub(crate) fn with_capabilities(
        keypair: Keypair,
        capabilities: Capabilities,
    ) -> Result<Identity> {
        let noise = KeyPair::generate(&mut SystemRandom).map_err(|e| {
            Error::with_source(ErrorCode::Io, "the system gives no random numbers", e)
        })?;
        let signature = keypair
            .sign(&signed_bytes(noise.public()))
            .map_err(|e| Error::with_source(ErrorCode::InvalidInput, "the key cannot sign", e))?;
        let public_key = keypair.public();
        let payload = payload::encode(public_key.encode_protobuf(), signature, capabilities);
        let peer_id = public_key.to_peer_id();
        Ok(Identity {
            public_key,
            peer_id,
            noise: Arc::new(noise),
            capabilities,
            payload,
            proofs: Proofs::default(),
        })
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(super) fn noise(&self) -> &Arc<KeyPair> {
        &self.noise
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// What every handshake of ours carries, encoded.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whose key signed `noise_static`: all that a peer is named by. That it holds
    /// `noise_static` is for the handshake to find out.
    pub(super) fn recognize(&self, payload: &Payload, noise_static: &[u8]) -> Result<PeerId> {
        let proof = digest(payload, noise_static);
        if let Some(peer) = self.proofs.recall(&proof) {
            return Ok(peer);
        }
        let peer = verify(payload, noise_static)?.to_peer_id();
        self.proofs.keep(proof, peer);
        Ok(peer)
    }
}

/// Of everything that `verify` looks at; no two of them run into each other.
fn digest(payload: &Payload, noise_static: &[u8]) -> Proof {
    let mut hasher = blake3::Hasher::new();
    for part in [&payload.identity_key, &payload.identity_sig] {
        let part = part.as_deref().unwrap_or_default();
        hasher.update(&part.len().to_le_bytes()).update(part);
    }
    *hasher.update(noise_static).finalize().as_bytes()
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id).finish_non_exhaustive()
    }
}

/// The key that signed `noise_static`. Only this very value may name the peer:
/// what the payload calls its key proves nothing before.
fn verify(payload: &Payload, noise_static: &[u8]) -> Result<PublicKey> {
    let (Some(key), Some(signature)) = (&payload.identity_key, &payload.identity_sig) else {
        return Err(refused("the peer sent no identity key, or no signature"));
    };
    let key = PublicKey::try_decode_protobuf(key).map_err(|e| {
        Error::with_source(ErrorCode::HandshakeFailed, "the peer's identity key is damaged", e)
    })?;
    check_size(&key)?;
    if !has_signed(&key, &signed_bytes(noise_static), signature) {
        return Err(refused("the peer's identity key did not sign its Noise key"));
    }
    Ok(key)
}

/// The usual kind of key is faster on aws-lc.
fn has_signed(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    match key.clone().try_into_ed25519() {
        Ok(key) => {
            UnparsedPublicKey::new(&ED25519, key.to_bytes()).verify(message, signature).is_ok()
        }
        Err(_) => key.verify(message, signature),
    }
}

/// RSA keys have any size, and the work of verifying grows with it: what is too
/// large is refused before any of that is done, what is too small means nothing.
fn check_size(key: &PublicKey) -> Result<()> {
    if key.key_type() != KeyType::RSA {
        return Ok(());
    }
    let rsa = key.clone().try_into_rsa().expect("the key's type has just been looked at");
    let bits = RsaParameters::public_modulus_len(&rsa.encode_pkcs1())
        .map_err(|_| refused("the peer's RSA key is damaged"))?;
    if !RSA_BITS.contains(&bits) {
        return Err(refused(format!("the peer's RSA key has {bits} bits, not {RSA_BITS:?}")));
    }
    Ok(())
}

fn signed_bytes(noise_static: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, noise_static].concat()
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::HandshakeFailed, what)
}

const SIGNED_PREFIX: &[u8] = b"noise-libp2p-static-key:";
const RSA_BITS: RangeInclusive<u32> = 2048..=4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::vectors::*;
    use super::*;

    fn payload(key: &[u8], signature: &[u8]) -> Payload {
        Payload {
            identity_key: Some(key.to_vec()),
            identity_sig: Some(signature.to_vec()),
            extensions: None,
        }
    }

    /// A key, its signature over `NOISE_STATIC`, and its peer id.
    struct Vector {
        key: Vec<u8>,
        signature: Vec<u8>,
        peer_id: String,
    }

    /// The keys of the peer-ids specification, of all four types.
    fn specified() -> Vec<Vector> {
        let signing = [
            (ED25519_PRIVATE, ED25519_PUBLIC, ED25519_PEER_ID),
            (SECP256K1_PRIVATE, SECP256K1_PUBLIC, SECP256K1_PEER_ID),
            (ECDSA_PRIVATE, ECDSA_PUBLIC, ECDSA_PEER_ID),
        ];
        let mut vectors: Vec<Vector> = signing
            .into_iter()
            .map(|(private, public, peer_id)| {
                let keypair = Keypair::from_protobuf_encoding(&hex(private)).unwrap();
                assert_eq!(keypair.public().encode_protobuf(), hex(public));
                Vector {
                    key: hex(public),
                    signature: keypair.sign(&signed_bytes(&NOISE_STATIC)).unwrap(),
                    peer_id: peer_id.to_owned(),
                }
            })
            .collect();
        vectors.push(Vector {
            key: hex(RSA_4096_PUBLIC),
            signature: hex(RSA_4096_SIGNATURE),
            peer_id: RSA_4096_PEER_ID.to_owned(),
        });
        vectors
    }

    fn refused(payload: &Payload, noise_static: &[u8]) {
        let e = verify(payload, noise_static).unwrap_err();
        assert_eq!(e.code(), ErrorCode::HandshakeFailed);
    }

    #[test]
    fn the_specified_keys_of_every_type_are_verified_and_name_their_peers() {
        for v in specified() {
            let key = verify(&payload(&v.key, &v.signature), &NOISE_STATIC).unwrap();
            assert_eq!(key.to_peer_id().to_string(), v.peer_id);
        }
    }

    #[test]
    fn a_proof_that_held_holds_again_and_nothing_like_it_does() {
        let host = Identity::new(Keypair::generate_ed25519()).unwrap();
        for v in specified() {
            let good = payload(&v.key, &v.signature);
            for _ in 0..2 {
                let peer = host.recognize(&good, &NOISE_STATIC).unwrap();
                assert_eq!(peer.to_string(), v.peer_id);
            }
            let mut other_static = NOISE_STATIC;
            other_static[31] ^= 1;
            assert!(host.recognize(&good, &other_static).is_err());
            let mut signature = v.signature.clone();
            signature[10] ^= 1;
            for _ in 0..2 {
                assert!(host.recognize(&payload(&v.key, &signature), &NOISE_STATIC).is_err());
            }
            // A byte that moves from one field to its neighbour.
            let (mut key, mut signature) = (v.key.clone(), v.signature.clone());
            signature.insert(0, key.pop().unwrap());
            assert!(host.recognize(&payload(&key, &signature), &NOISE_STATIC).is_err());
        }
    }

    #[test]
    fn a_signature_over_anything_else_is_refused_for_every_type() {
        for v in specified() {
            let mut other_static = NOISE_STATIC;
            other_static[31] ^= 1;
            refused(&payload(&v.key, &v.signature), &other_static);
            refused(&payload(&v.key, &v.signature), &[]);
        }
        let keypair = Keypair::from_protobuf_encoding(&hex(ED25519_PRIVATE)).unwrap();
        let without_prefix = keypair.sign(&NOISE_STATIC).unwrap();
        refused(&payload(&hex(ED25519_PUBLIC), &without_prefix), &NOISE_STATIC);
    }

    #[test]
    fn a_damaged_signature_is_refused_for_every_type() {
        for v in specified() {
            for bit in (0..v.signature.len() * 8).step_by(37) {
                let mut signature = v.signature.clone();
                signature[bit / 8] ^= 1 << (bit % 8);
                refused(&payload(&v.key, &signature), &NOISE_STATIC);
            }
            refused(&payload(&v.key, &v.signature[1..]), &NOISE_STATIC);
            refused(&payload(&v.key, &[]), &NOISE_STATIC);
        }
    }

    #[test]
    fn nobody_passes_for_another_with_a_signature_of_his_own() {
        let vectors = specified();
        for (i, victim) in vectors.iter().enumerate() {
            for (j, thief) in vectors.iter().enumerate() {
                if i != j {
                    refused(&payload(&victim.key, &thief.signature), &NOISE_STATIC);
                }
            }
        }
        let same_type =
            [Keypair::generate_ed25519(), Keypair::generate_secp256k1(), Keypair::generate_ecdsa()];
        for (thief, victim) in same_type.iter().zip(&vectors) {
            let signature = thief.sign(&signed_bytes(&NOISE_STATIC)).unwrap();
            refused(&payload(&victim.key, &signature), &NOISE_STATIC);
        }
        refused(&payload(&hex(RSA_4096_PUBLIC), &hex(RSA_2048_SIGNATURE)), &NOISE_STATIC);
    }

    #[test]
    fn a_missing_key_or_signature_is_refused() {
        for v in specified() {
            let mut p = payload(&v.key, &v.signature);
            p.identity_sig = None;
            refused(&p, &NOISE_STATIC);
            let mut p = payload(&v.key, &v.signature);
            p.identity_key = None;
            refused(&p, &NOISE_STATIC);
        }
    }

    #[test]
    fn rsa_keys_from_2048_to_4096_bits_are_verified_and_others_are_not() {
        let good = [(RSA_2048_PUBLIC, RSA_2048_SIGNATURE), (RSA_4096_PUBLIC, RSA_4096_SIGNATURE)];
        for (key, signature) in good {
            verify(&payload(&hex(key), &hex(signature)), &NOISE_STATIC).unwrap();
        }

        // Its signature is right, so it is its size that is refused.
        let large = PublicKey::try_decode_protobuf(&hex(RSA_4104_PUBLIC)).unwrap();
        assert!(large.verify(&signed_bytes(&NOISE_STATIC), &hex(RSA_4104_SIGNATURE)));
        for (key, signature, bits) in [
            (RSA_1024_PUBLIC, RSA_1024_SIGNATURE, "1024 bits"),
            (RSA_4104_PUBLIC, RSA_4104_SIGNATURE, "4104 bits"),
        ] {
            let e = verify(&payload(&hex(key), &hex(signature)), &NOISE_STATIC).unwrap_err();
            assert!(e.to_string().contains(bits), "{e}");
        }
    }

    #[test]
    fn the_debug_form_tells_no_secret() {
        let identity = Identity::new(Keypair::generate_ed25519()).unwrap();
        let expected = format!("Identity {{ peer_id: {:?}, .. }}", identity.peer_id());
        assert_eq!(format!("{identity:?}"), expected);
    }

    proptest! {
        #[test]
        fn a_damaged_key_never_panics_and_never_keeps_its_name(
            which in 0..4usize,
            at in any::<prop::sample::Index>(),
            change in 1..=255u8,
            cut in any::<Option<prop::sample::Index>>(),
        ) {
            let v = specified().swap_remove(which);
            let mut key = v.key.clone();
            key[at.index(v.key.len())] ^= change;
            if let Some(cut) = cut {
                key.truncate(cut.index(key.len()));
            }
            if let Ok(key) = verify(&payload(&key, &v.signature), &NOISE_STATIC) {
                prop_assert_eq!(key.to_peer_id().to_string(), v.peer_id);
            }
        }

        #[test]
        fn random_keys_and_signatures_are_refused(
            key_type in 0..5u8,
            data in prop::collection::vec(any::<u8>(), 0..600),
            signature in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut key = vec![8, key_type, 18];
            prost::encoding::encode_varint(data.len() as u64, &mut key);
            key.extend(data);
            prop_assert!(verify(&payload(&key, &signature), &NOISE_STATIC).is_err());
        }
    }
}
