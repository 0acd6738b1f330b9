//! Buffers that are lent while bytes are in flight, so that an idle connection
//! holds none. One pool for the process, a shelf for each size.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Initialised memory of a shelf's size. Dropped, it goes back to its shelf.
#[derive(Default)]
pub(crate) struct Buffer(Vec<u8>);

/// A buffer of at least `len` bytes, with whatever its last user left in it.
pub(crate) fn take(len: usize) -> Buffer {
    let Some(shelf) = SHELVES.iter().find(|s| s.size >= len) else {
        return Buffer(vec![0; len]);
    };
    let kept = shelf.kept.lock().pop();
    Buffer(kept.unwrap_or_else(|| vec![0; shelf.size]))
}

impl Buffer {
    /// The memory itself, to be given back with `from`.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(storage: Vec<u8>) -> Buffer {
        Buffer(storage)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let storage = std::mem::take(&mut self.0);
        if let Some(shelf) = SHELVES.iter().find(|s| s.size == storage.len()) {
            let mut kept = shelf.kept.lock();
            if kept.len() * shelf.size < KEPT {
                kept.push(storage);
            }
        }
    }
}

/// Leaves so many bytes on each shelf.
pub(crate) fn trim(keep: usize) {
    for shelf in &SHELVES {
        let surplus = {
            let mut kept = shelf.kept.lock();
            let n = kept.len().min(keep / shelf.size);
            kept.split_off(n)
        };
        drop(surplus);
    }
}

/// Bytes that wait on the shelves, of all hosts of the process.
pub(crate) fn kept() -> usize {
    SHELVES.iter().map(|shelf| shelf.kept.lock().len() * shelf.size).sum()
}

struct Shelf {
    size: usize,
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Shelf {
    const fn new(size: usize) -> Shelf {
        Shelf { size, kept: Mutex::new(Vec::new()) }
    }
}

/// A few short messages; small frames; one full Noise frame and what goes with it; a
/// batch of four.
static SHELVES: [Shelf; 4] =
    [Shelf::new(2 * 1024), Shelf::new(8 * 1024), Shelf::new(SMALL_BATCH), Shelf::new(LARGE_BATCH)];

/// Room for 64 KiB of payload with its frame headers and tags, and some more.
pub(crate) const SMALL_BATCH: usize = 68 * 1024;
/// Room for 256 KiB of the same.
pub(crate) const LARGE_BATCH: usize = 264 * 1024;

/// Bytes that a shelf keeps at most.
pub(crate) const KEPT: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_what_was_asked_for_and_comes_back() {
        for len in [0, 1, 8 * 1024, 8 * 1024 + 1, LARGE_BATCH, LARGE_BATCH + 1] {
            let mut buffer = take(len);
            assert!(buffer.len() >= len);
            if let Some(last) = buffer.last_mut() {
                *last = 7;
            }
            let again = Buffer::from(buffer.into_vec());
            assert!(again.len() >= len);
        }
    }

    #[test]
    fn a_shelf_keeps_a_bounded_amount() {
        let many: Vec<Buffer> = (0..KEPT / LARGE_BATCH + 8).map(|_| take(LARGE_BATCH)).collect();
        drop(many);
        trim(KEPT / 2);
        assert!(SHELVES[2].kept.lock().len() * LARGE_BATCH <= KEPT + LARGE_BATCH);
    }
}
