//! What was sealed, kept until the peer is known to have it: where it does not, it is
//! opened again, to be sealed anew for another connection.

use std::sync::Arc;

use super::frame::{Header, Kind, violation};
use super::records::PREFIX;
use crate::error::{Error, Result};
use crate::proto::noise::{Reopener, TAG};
use crate::resources::buffers::Buffer;

/// DATA frames of one stream as they were sealed. The memory is that of the
/// [`Batch`](super::Batch) which has them, for as long as it has.
pub(crate) struct Kept {
    storage: Arc<Buffer>,
    from: usize,
    end: usize,
    opener: Reopener,
}

impl Kept {
    pub(super) fn new(storage: Arc<Buffer>, from: usize, end: usize, opener: Reopener) -> Kept {
        Kept { storage, from, end, opener }
    }

    /// How much memory it takes.
    pub(crate) fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Opens it into `out`, which is as long as what was written.
    ///
    /// # Errors
    ///
    /// `DecryptFailed`, `ProtocolViolation`: the memory is not what it was.
    pub(crate) fn open(&self, mut out: &mut [u8]) -> Result<()> {
        let mut frames = &self.storage[self.from..self.end];
        let (mut left, mut nth) = (0, 0);
        while let Some((len, rest)) = frames.split_first_chunk::<PREFIX>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let (Some(frame), Some(n)) = (rest.get(..len), len.checked_sub(TAG)) else {
                return Err(changed());
            };
            frames = &rest[len..];
            if n <= left {
                let part = out.split_off_mut(..n).ok_or_else(changed)?;
                self.opener.open_into(nth, frame, part)?;
                left -= n;
            } else {
                // A header, behind a receipt or not, and what of the body is sealed with it.
                let mut plain = vec![0; n];
                self.opener.open_into(nth, frame, &mut plain)?;
                let (mut header, mut body) = split_header(&plain)?;
                if header.kind == Kind::Received {
                    (header, body) = split_header(body)?;
                }
                left = (header.length as usize).checked_sub(body.len()).ok_or_else(changed)?;
                out.split_off_mut(..body.len()).ok_or_else(changed)?.copy_from_slice(body);
            }
            nth += 1;
        }
        if out.is_empty() { Ok(()) } else { Err(changed()) }
    }
}

fn split_header(plain: &[u8]) -> Result<(Header, &[u8])> {
    let (header, rest) = plain.split_first_chunk().ok_or_else(changed)?;
    Ok((Header::decode(header)?, rest))
}

fn changed() -> Error {
    violation("what was sealed is not what was kept")
}
