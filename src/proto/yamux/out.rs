//! The Noise frames that wait to be written.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use super::records::PREFIX;
use crate::proto::noise::{MAX_FRAME, MAX_PLAIN, TAG};
use crate::resources::buffers::Buffer;

/// Memory that is lent. Shared, it stays as it is until nobody has it any more.
enum Storage {
    Own(Buffer),
    Shared(Arc<Buffer>),
}

impl Default for Storage {
    fn default() -> Storage {
        Storage::Own(Buffer::default())
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Own(data) => data,
            Storage::Shared(data) => data,
        }
    }
}

/// Storage that is lent, with whole Noise frames in it.
#[derive(Default)]
pub(super) struct Outbox {
    data: Storage,
    end: usize,
}

impl Outbox {
    pub(super) fn lend(&mut self, storage: Buffer) {
        debug_assert!(self.end == 0, "storage was lent over what is pending");
        *self = Outbox { data: Storage::Own(storage), end: 0 };
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
        let Outbox { data, end } = mem::take(self);
        Batch { data, start: 0, end }
    }

    /// Shares what is pending with who keeps it: nothing is added any more.
    pub(super) fn share(&mut self) -> Arc<Buffer> {
        let data = match mem::take(&mut self.data) {
            Storage::Own(data) => Arc::new(data),
            Storage::Shared(data) => data,
        };
        self.data = Storage::Shared(data.clone());
        data
    }

    /// How many bytes may be pending before nothing more fits.
    pub(super) fn room(&self) -> usize {
        match &self.data {
            Storage::Own(data) => data.len() - self.end,
            Storage::Shared(_) => 0,
        }
    }

    /// How long the longest plaintext of one more Noise frame may be.
    pub(super) fn plain_room(&self) -> usize {
        self.room().saturating_sub(OVERHEAD).min(MAX_PLAIN)
    }

    /// Where the plaintext of the next frame goes, and behind it the tag. Until
    /// `commit`, nothing is pending yet.
    pub(super) fn next(&mut self, plain: usize) -> &mut [u8] {
        &mut self.own()[PREFIX..][..plain + TAG]
    }

    /// The frame in `next` is sealed.
    pub(super) fn commit(&mut self, plain: usize) {
        let len = plain + TAG;
        debug_assert!(len <= MAX_FRAME);
        self.own()[..PREFIX].copy_from_slice(&(len as u16).to_be_bytes());
        self.end += PREFIX + len;
    }

    /// What is left of it.
    fn own(&mut self) -> &mut [u8] {
        match &mut self.data {
            Storage::Own(data) => &mut data[self.end..],
            Storage::Shared(_) => &mut [],
        }
    }
}

/// Noise frames on their way to the socket: whole ones, but for the first if a part of
/// it was taken.
#[derive(Default)]
pub(crate) struct Batch {
    data: Storage,
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
}

/// What a Noise frame has around its plaintext.
pub(super) const OVERHEAD: usize = PREFIX + TAG;
