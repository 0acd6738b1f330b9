//! The Noise frames that wait to be written.

use super::records::PREFIX;
use crate::proto::noise::{MAX_FRAME, MAX_PLAIN, TAG};

/// A linear buffer over storage that is lent, with whole Noise frames in it.
#[derive(Default)]
pub(super) struct Outbox {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outbox {
    pub(super) fn lend(&mut self, storage: Vec<u8>) {
        debug_assert!(self.pending().is_empty(), "storage was lent over what is pending");
        *self = Outbox { data: storage, start: 0, end: 0 };
    }

    pub(super) fn reclaim(&mut self) -> Option<Vec<u8>> {
        if self.data.is_empty() || !self.pending().is_empty() {
            return None;
        }
        Some(std::mem::take(self).data)
    }

    pub(super) fn has_storage(&self) -> bool {
        !self.data.is_empty()
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub(super) fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "consumed more than is pending");
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// How many bytes may be pending before nothing more fits. A short rest of
    /// what was written moves to the front; a long one is waited for instead.
    pub(super) fn room(&mut self) -> usize {
        if self.start > 0 && self.end - self.start <= MOVED {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.data.len() - self.end
    }

    /// How long the longest plaintext of one more Noise frame may be.
    pub(super) fn plain_room(&mut self) -> usize {
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

/// What a Noise frame has around its plaintext.
pub(super) const OVERHEAD: usize = PREFIX + TAG;

/// A rest of at most so many bytes is moved.
const MOVED: usize = 4 * 1024;
