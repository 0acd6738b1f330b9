//! The transport phase: frames sealed and opened with the keys of the handshake.
//!
//! snow's own transport state copies each frame; this one works from buffer to
//! buffer or in place, on the cipher directly. The numbering is Noise's: each
//! direction counts its frames from zero, and the count is the nonce. Where the keys
//! come from, and why they are good, is told in [`schedule`].

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;

use super::schedule::{self, Secret};
use crate::error::{Error, ErrorCode, Result};

/// The authentication tag that ends every frame, in bytes.
pub(crate) const TAG: usize = 16;
/// The longest frame, tag included: its length has to fit into two bytes.
pub(crate) const MAX_FRAME: usize = u16::MAX as usize;
/// The most plaintext that one frame carries.
pub(crate) const MAX_PLAIN: usize = MAX_FRAME - TAG;

/// How the frames of a connection are sealed.
///
/// Any libp2p node seals with ChaCha20-Poly1305. Two hosts of this library whose
/// processors have instructions for AES agree on AES-256-GCM, which is several times
/// faster there; [`HostBuilder::ciphers`](crate::HostBuilder::ciphers) can keep a host
/// from it. Neither is weaker than the other, and nobody on the way can make two hosts
/// take the one or the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cipher {
    /// AES with keys of 256 bits in Galois/counter mode, with a new key every 2^20
    /// frames.
    Aes256Gcm,
    /// ChaCha20 and Poly1305, as RFC 8439 joins them: libp2p's.
    #[default]
    ChaCha20Poly1305,
}

impl Cipher {
    pub(super) const ALL: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// Whether this processor has the instructions for it, or it needs none.
    pub(super) fn is_fast_here(self) -> bool {
        match self {
            Cipher::Aes256Gcm => has_aes(),
            Cipher::ChaCha20Poly1305 => true,
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// Noise, "Cipher functions": 32 zero bits, then the counter.
    fn nonce(self, counter: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&match self {
            Cipher::Aes256Gcm => counter.to_be_bytes(),
            Cipher::ChaCha20Poly1305 => counter.to_le_bytes(),
        });
        Nonce::assume_unique_for_key(bytes)
    }

    /// How many frames one key seals.
    fn key_lasts(self) -> u64 {
        match self {
            Cipher::Aes256Gcm => AES_KEY_LASTS,
            Cipher::ChaCha20Poly1305 => LAST_FRAME,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// One key of one cipher, without a counter: the caller numbers.
pub(super) struct Key {
    cipher: Cipher,
    key: LessSafeKey,
}

impl Key {
    /// The bytes stay the caller's, to be wiped; the copy inside is wiped by
    /// aws-lc when it is freed.
    pub(super) fn new(cipher: Cipher, secret: &[u8; 32]) -> Key {
        let key = UnboundKey::new(cipher.algorithm(), secret).expect("all keys have 32 bytes");
        Key { cipher, key: LessSafeKey::new(key) }
    }

    /// Seals from buffer to buffer; `out` is `TAG` longer than `plain`.
    pub(super) fn seal(
        &self,
        counter: u64,
        ad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (body, tag) = out.split_at_mut_checked(plain.len()).ok_or(Unspecified)?;
        let nonce = self.cipher.nonce(counter);
        self.key.seal_out_of_place_scatter(nonce, Aad::from(ad), plain, body, &[], tag)
    }

    /// Opens from buffer to buffer; `out` is `TAG` shorter than `frame`.
    pub(super) fn open(
        &self,
        counter: u64,
        ad: &[u8],
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (body, tag) = frame.split_last_chunk::<TAG>().ok_or(Unspecified)?;
        self.key.open_separate_gather(self.cipher.nonce(counter), Aad::from(ad), body, tag, out)
    }

    fn seal_in_place(&self, counter: u64, buf: &mut [u8]) -> Result<(), Unspecified> {
        let (body, tag) = buf.split_last_chunk_mut::<TAG>().ok_or(Unspecified)?;
        let nonce = self.cipher.nonce(counter);
        self.key.seal_in_place_scatter(nonce, Aad::empty(), body, &[], tag)
    }

    fn open_in_place(&self, counter: u64, frame: &mut [u8]) -> Result<usize, Unspecified> {
        let (body, tag) = frame.split_last_chunk_mut::<TAG>().ok_or(Unspecified)?;
        let nonce = self.cipher.nonce(counter);
        Ok(self.key.open_in_place_separate_tag(nonce, Aad::empty(), tag, body)?.len())
    }
}

/// Seals the frames of one direction, in the order in which they are to be sent.
///
/// After an error nothing more may be sent: the frame's number is spent.
pub(crate) struct Sealer {
    direction: Direction,
}

impl Sealer {
    pub(super) fn new(cipher: Cipher, secret: Secret) -> Sealer {
        Sealer { direction: Direction::new(cipher, secret, cipher.key_lasts()) }
    }

    /// Seals `plain`, at most `MAX_PLAIN` bytes, into `out`, which is `TAG` bytes
    /// longer.
    pub(crate) fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<()> {
        fits_a_frame(out.len())?;
        let (key, number) = self.direction.frame()?;
        key.seal(number, &[], plain, out).map_err(|_| not_sealed())
    }

    /// Seals all of `buf` but its last `TAG` bytes, which are room for the tag.
    pub(crate) fn seal_in_place(&mut self, buf: &mut [u8]) -> Result<()> {
        fits_a_frame(buf.len())?;
        let (key, number) = self.direction.frame()?;
        key.seal_in_place(number, buf).map_err(|_| not_sealed())
    }

    /// The number of the frame that is sealed next.
    pub(crate) fn position(&self) -> u64 {
        self.direction.next
    }

    /// Opens again what was sealed from frame `first` on. `None`: that was under another
    /// key, which is gone.
    pub(crate) fn reopener(&self, first: u64) -> Option<Reopener> {
        let Direction { key, turn, lasts, .. } = &self.direction;
        (turn - lasts <= first).then(|| Reopener { key: key.clone(), first })
    }
}

/// Opens the frames that a [`Sealer`] has sealed, for the end that has sealed them.
pub(crate) struct Reopener {
    key: Arc<Key>,
    first: u64,
}

impl Reopener {
    /// Opens the `n`th frame from the first on into `out`, which is `TAG` bytes shorter.
    pub(crate) fn open_into(&self, n: u64, frame: &[u8], out: &mut [u8]) -> Result<()> {
        self.key.open(self.first + n, &[], frame, out).map_err(|_| not_opened())
    }
}

/// Opens the frames of one direction, in the order in which they were sealed.
///
/// A frame that does not open is the last one: every later call fails as well,
/// whatever it brings, and no number is skipped.
pub(crate) struct Opener {
    direction: Direction,
    poisoned: bool,
}

impl Opener {
    pub(super) fn new(cipher: Cipher, secret: Secret) -> Opener {
        let direction = Direction::new(cipher, secret, cipher.key_lasts());
        Opener { direction, poisoned: false }
    }

    /// Opens `frame` into `out`, which is `TAG` bytes shorter. On an error `out`
    /// holds nothing of use.
    pub(crate) fn open_into(&mut self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        self.open(|key, counter| key.open(counter, &[], frame, out))
    }

    /// Opens `frame` where it lies; the plaintext is at its front, its length is
    /// returned.
    pub(crate) fn open_in_place(&mut self, frame: &mut [u8]) -> Result<usize> {
        self.open(|key, counter| key.open_in_place(counter, frame))
    }

    fn open<T>(&mut self, open: impl FnOnce(&Key, u64) -> Result<T, Unspecified>) -> Result<T> {
        if self.poisoned {
            return Err(not_opened());
        }
        // Set first, cleared by success: no way out of here forgets it.
        self.poisoned = true;
        let (key, number) = self.direction.frame()?;
        let opened = open(key, number).map_err(|_| not_opened())?;
        self.poisoned = false;
        Ok(opened)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("sealed", &self.direction.next).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("opened", &self.direction.next)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

/// The key of one direction, and the number of its next frame.
struct Direction {
    /// Shared with who may have to open again what it has sealed.
    key: Arc<Key>,
    next: u64,
    /// The number that asks for more than a look: for another key, or for the end.
    turn: u64,
    /// What the next key is made of, and how many frames it lasts.
    secret: Secret,
    lasts: u64,
}

impl Direction {
    fn new(cipher: Cipher, secret: Secret, lasts: u64) -> Direction {
        Direction { key: Arc::new(Key::new(cipher, &secret)), next: 0, turn: lasts, secret, lasts }
    }

    /// Gives each number once, with the key for it, and none from `LAST_FRAME` on.
    fn frame(&mut self) -> Result<(&Key, u64)> {
        if self.next == self.turn {
            self.renew()?;
        }
        let number = self.next;
        self.next += 1;
        Ok((&self.key, number))
    }

    #[cold]
    fn renew(&mut self) -> Result<()> {
        if self.next >= LAST_FRAME {
            let what = "the connection has carried as many frames as its keys may seal";
            return Err(Error::new(ErrorCode::ConnectionAborted, what));
        }
        self.secret = schedule::next(&self.secret);
        self.key = Arc::new(Key::new(self.key.cipher, &self.secret));
        self.turn = self.next.saturating_add(self.lasts).min(LAST_FRAME);
        Ok(())
    }
}

/// Both ends of one direction, for the tests of what is built on them.
#[cfg(test)]
pub(crate) fn pair(secret: &[u8; 32]) -> (Sealer, Opener) {
    pair_of(Cipher::ChaCha20Poly1305, secret)
}

/// The same for any cipher.
#[cfg(test)]
pub(crate) fn pair_of(cipher: Cipher, secret: &[u8; 32]) -> (Sealer, Opener) {
    (Sealer::new(cipher, Secret::new(*secret)), Opener::new(cipher, Secret::new(*secret)))
}

/// How many frames a key of AES-256-GCM seals.
const AES_KEY_LASTS: u64 = 1 << 20;

/// Noise ends at 2^64 - 1 frames; a connection ends far from there, and far
/// beyond what a wire can carry.
const LAST_FRAME: u64 = 1 << 62;

/// AES-GCM by instructions: the cipher, and the carry-less product of its hash.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        // Both, under this one name.
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

fn fits_a_frame(len: usize) -> Result<()> {
    if (TAG..=MAX_FRAME).contains(&len) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::InvalidInput, format!("{len} bytes are no Noise frame")))
}

fn not_sealed() -> Error {
    Error::new(ErrorCode::InvalidInput, "a frame could not be sealed")
}

fn not_opened() -> Error {
    Error::new(ErrorCode::DecryptFailed, "a frame failed authentication")
}

#[cfg(test)]
mod tests;
