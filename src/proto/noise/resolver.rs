//! What snow needs to compute, on aws-lc: X25519, SHA-256, ChaCha20-Poly1305
//! and randomness; nothing but `Noise_XX_25519_ChaChaPoly_SHA256`.

use std::sync::Arc;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use super::cipher::{self, Key, TAG};
use crate::random;

/// The length of X25519 keys, private and public.
pub(super) const DH_LEN: usize = 32;

/// snow's resolver for the one Noise protocol that libp2p speaks, for the side whose
/// static key this is.
pub(super) struct AwsLc(pub(super) Arc<KeyPair>);

impl CryptoResolver for AwsLc {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519)
            .then(|| Box::new(Dh25519::with_static(self.0.clone())) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::<Sha256>::default() as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::<ChaChaPoly>::default() as _)
    }
}

pub(super) struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        random::fill(dest).map_err(|_| Error::Rng)
    }
}

/// A private key of X25519 and its public key, which takes a third of the time of an
/// agreement to compute.
pub(super) struct KeyPair {
    private: Zeroizing<[u8; DH_LEN]>,
    public: [u8; DH_LEN],
    key: PrivateKey,
}

impl KeyPair {
    pub(super) fn generate(rng: &mut dyn Random) -> Result<KeyPair, Error> {
        let mut private = Zeroizing::new([0; DH_LEN]);
        rng.try_fill_bytes(&mut *private)?;
        Ok(KeyPair::new(private))
    }

    pub(super) fn new(private: Zeroizing<[u8; DH_LEN]>) -> KeyPair {
        let key = PrivateKey::from_private_key(&X25519, &*private)
            .expect("any 32 bytes are an X25519 private key");
        let mut public = [0; DH_LEN];
        let computed = key.compute_public_key().expect("every X25519 private key has a public one");
        public.copy_from_slice(computed.as_ref());
        KeyPair { private, public, key }
    }

    pub(super) fn private(&self) -> &[u8; DH_LEN] {
        &self.private
    }

    pub(super) fn public(&self) -> &[u8; DH_LEN] {
        &self.public
    }
}

pub(super) struct Dh25519 {
    /// The host's, computed once: snow knows it by its private key only.
    ours: Arc<KeyPair>,
    pair: Option<Arc<KeyPair>>,
}

impl Dh25519 {
    pub(super) fn with_static(ours: Arc<KeyPair>) -> Dh25519 {
        Dh25519 { ours, pair: None }
    }
}

impl Dh for Dh25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        DH_LEN
    }

    fn priv_len(&self) -> usize {
        DH_LEN
    }

    fn set(&mut self, private: &[u8]) {
        let is_ours = verify_slices_are_equal(private, self.ours.private()).is_ok();
        self.pair = Some(if is_ours {
            self.ours.clone()
        } else {
            let mut own = Zeroizing::new([0; DH_LEN]);
            own.copy_from_slice(private);
            Arc::new(KeyPair::new(own))
        });
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.pair = Some(Arc::new(KeyPair::generate(rng)?));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; DH_LEN], |pair| pair.public())
    }

    fn privkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; DH_LEN], |pair| pair.private())
    }

    /// Fails where the shared secret would be zero (RFC 7748, 6.1): a public
    /// key of low order would have chosen it for both sides.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let pair = self.pair.as_ref().ok_or(Error::Dh)?;
        let public = UnparsedPublicKey::new(&X25519, public.get(..DH_LEN).ok_or(Error::Dh)?);
        let out = out.get_mut(..DH_LEN).ok_or(Error::Dh)?;
        agree(&pair.key, public, Error::Dh, |secret| {
            out.copy_from_slice(secret);
            Ok(())
        })
    }
}

struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        SHA256.block_len()
    }

    fn hash_len(&self) -> usize {
        SHA256.output_len()
    }

    fn reset(&mut self) {
        *self = Sha256::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = std::mem::take(self).0.finish();
        out[..self.hash_len()].copy_from_slice(digest.as_ref());
    }
}

#[derive(Default)]
struct ChaChaPoly(Option<Key>);

impl ChaChaPoly {
    fn key(&self) -> &Key {
        self.0.as_ref().expect("snow sets the key before it uses the cipher")
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(Key::new(cipher::Cipher::ChaCha20Poly1305, key));
    }

    fn encrypt(&self, nonce: u64, ad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let len = plain.len() + TAG;
        self.key()
            .seal(nonce, ad, plain, &mut out[..len])
            .expect("a handshake message is never too long to be sealed");
        len
    }

    fn decrypt(&self, nonce: u64, ad: &[u8], frame: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let len = frame.len().checked_sub(TAG).ok_or(Error::Decrypt)?;
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        self.key().open(nonce, ad, frame, out).map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}
