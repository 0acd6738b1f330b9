//! The bytes that have arrived and are not understood yet.

/// A linear buffer with a reading end and a filling end. It owns initialised
/// storage that is lent to it, so that an idle connection can hold none.
#[derive(Default)]
pub(crate) struct RecvBuf {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl RecvBuf {
    /// A buffer over storage whose whole length may be filled.
    pub(crate) fn new(storage: Vec<u8>) -> RecvBuf {
        RecvBuf { data: storage, start: 0, end: 0 }
    }

    /// What has arrived and was not consumed.
    pub(crate) fn readable(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The same, to be opened in place.
    pub(crate) fn readable_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Forgets the first `n` readable bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "consumed more than has arrived");
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where the next bytes go. What is left moves to the front first if less
    /// than half of the storage is free behind it.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.data.len() - self.end < self.data.len() / 2 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.data[self.end..]
    }

    /// Says that the first `n` bytes of `space` hold what arrived.
    pub(crate) fn filled(&mut self, n: usize) {
        assert!(n <= self.data.len() - self.end, "filled more than there was space");
        self.end += n;
    }

    /// Appends, growing the storage if need be. For tests and handshakes.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        if self.data.len() - self.end < bytes.len() {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let need = self.end + bytes.len();
            if self.data.len() < need {
                self.data.resize(need, 0);
            }
        }
        self.data[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The whole length of the storage.
    pub(crate) fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Gives the storage back. What was readable is lost.
    pub(crate) fn into_storage(self) -> Vec<u8> {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_read_in_order_across_a_compaction() {
        let mut buf = RecvBuf::new(vec![0; 16]);
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for _ in 0..100 {
            let n = buf.space().len().min(5);
            for slot in &mut buf.space()[..n] {
                *slot = next_in;
                next_in = next_in.wrapping_add(1);
            }
            buf.filled(n);
            for _ in 0..buf.readable().len().min(4) {
                assert_eq!(buf.readable()[0], next_out);
                next_out = next_out.wrapping_add(1);
                buf.consume(1);
            }
        }
        assert!(next_out > 100);
    }
}
