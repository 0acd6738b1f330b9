//! Stands in for `proto::noise` until that branch is here.
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::error::{Error, ErrorCode, Result};

pub(crate) const TAG: usize = 16;
pub(crate) const MAX_FRAME: usize = 65535;
pub(crate) const MAX_PLAIN: usize = 65519;

pub(crate) struct Sealer(LessSafeKey, u64);
pub(crate) struct Opener(LessSafeKey, u64);

pub(crate) fn pair(key: [u8; 32]) -> (Sealer, Opener) {
    let new = || LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    (Sealer(new(), 0), Opener(new(), 0))
}

fn nonce(n: &mut u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&n.to_le_bytes());
    *n += 1;
    Nonce::assume_unique_for_key(bytes)
}

impl Sealer {
    pub(crate) fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<()> {
        out[..plain.len()].copy_from_slice(plain);
        self.seal_in_place(out)
    }
    pub(crate) fn seal_in_place(&mut self, buf: &mut [u8]) -> Result<()> {
        let n = buf.len() - TAG;
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(&mut self.1), Aad::empty(), &mut buf[..n])
            .unwrap();
        buf[n..].copy_from_slice(tag.as_ref());
        Ok(())
    }
}

impl Opener {
    pub(crate) fn open_into(&mut self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        let (cipher, tag) = frame.split_at(frame.len() - TAG);
        self.0
            .open_separate_gather(nonce(&mut self.1), Aad::empty(), cipher, tag, out)
            .map_err(|_| Error::new(ErrorCode::DecryptFailed, "x"))
    }
    pub(crate) fn open_in_place(&mut self, frame: &mut [u8]) -> Result<usize> {
        self.0
            .open_in_place(nonce(&mut self.1), Aad::empty(), frame)
            .map(|p| p.len())
            .map_err(|_| Error::new(ErrorCode::DecryptFailed, "x"))
    }
}
