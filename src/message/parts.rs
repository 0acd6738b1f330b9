//! The content of a message, which may lie in several places.

use std::io::IoSlice;

/// A cursor over slices that are one message together.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    slices: &'a [IoSlice<'a>],
    /// How much of the first slice has been taken.
    offset: usize,
    left: usize,
}

impl<'a> Parts<'a> {
    /// `None`: together they are longer than the address space.
    pub(crate) fn new(slices: &'a [IoSlice<'a>]) -> Option<Parts<'a>> {
        let left = slices.iter().try_fold(0usize, |sum, slice| sum.checked_add(slice.len()))?;
        Some(Parts { slices, offset: 0, left })
    }

    /// How much is left.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    /// Visits the next `n` bytes, or as many as are left, piece by piece.
    pub(crate) fn take(&mut self, n: usize, visit: &mut dyn FnMut(&'a [u8])) {
        let mut n = n.min(self.left);
        self.left -= n;
        while n > 0 {
            let Some((first, rest)) = self.slices.split_first() else { return };
            let here = &first[self.offset..];
            let piece = &here[..here.len().min(n)];
            if !piece.is_empty() {
                visit(piece);
            }
            n -= piece.len();
            if piece.len() == here.len() {
                (self.slices, self.offset) = (rest, 0);
            } else {
                self.offset += piece.len();
            }
        }
    }
}
