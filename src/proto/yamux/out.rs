//! The Noise frames that wait to be written.

use super::records::PREFIX;
use crate::proto::noise::{MAX_FRAME, MAX_PLAIN, TAG};

/// Storage that is lent, with whole Noise frames in it.
#[derive(Default)]
pub(super) struct Outbox {
    data: Vec<u8>,
    end: usize,
}

impl Outbox {
    pub(super) fn lend(&mut self, storage: Vec<u8>) {
        debug_assert!(self.end == 0, "storage was lent over what is pending");
        *self = Outbox { data: storage, end: 0 };
    }

    pub(super) fn has_storage(&self) -> bool {
        !self.data.is_empty()
    }

    pub(super) fn capacity(&self) -> usize {
        self.data.len()
    }

    pub(super) fn pending(&self) -> usize {
        self.end
    }

    /// Everything that is pending, with the storage that it is in.
    pub(super) fn take(&mut self) -> Batch {
        let Outbox { data, end } = std::mem::take(self);
        Batch { data, start: 0, end }
    }

    /// How many bytes may be pending before nothing more fits.
    pub(super) fn room(&self) -> usize {
        self.data.len() - self.end
    }

    /// How long the longest plaintext of one more Noise frame may be.
    pub(super) fn plain_room(&self) -> usize {
        self.room().saturating_sub(OVERHEAD).min(MAX_PLAIN)
    }

    /// Where the plaintext of the next frame goes, and behind it the tag. Until
    /// `commit`, nothing is pending yet.
    pub(super) fn next(&mut self, plain: usize) -> &mut [u8] {
        &mut self.data[self.end + PREFIX..][..plain + TAG]
    }

    /// The frame in `next` is sealed.
    pub(super) fn commit(&mut self, plain: usize) {
        let len = plain + TAG;
        debug_assert!(len <= MAX_FRAME);
        self.data[self.end..][..PREFIX].copy_from_slice(&(len as u16).to_be_bytes());
        self.end += PREFIX + len;
    }
}

/// Noise frames on their way to the socket: whole ones, but for the first if a part of
/// it was taken.
#[derive(Default)]
pub(crate) struct Batch {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Batch {
    /// What the socket is to take next.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The socket has taken the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "consumed more than is pending");
        self.start += n;
    }

    /// How much memory it has.
    pub(crate) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Its storage, if nothing is pending.
    pub(crate) fn reclaim(&mut self) -> Option<Vec<u8>> {
        if self.data.is_empty() || self.start < self.end {
            return None;
        }
        Some(std::mem::take(self).data)
    }
}

/// What a Noise frame has around its plaintext.
pub(super) const OVERHEAD: usize = PREFIX + TAG;
