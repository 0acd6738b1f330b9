//! Frames on their way: [`Outgoing`] writes them, [`Incoming`] reads them.
//! Both survive a timeout in the middle of a frame.

mod incoming;
mod outgoing;
mod progress;
mod sequence;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::time::Duration;

pub(crate) use incoming::{Arrived, Incoming};
pub(crate) use outgoing::{Options, Outgoing};

/// What frames are read from. It hears whether a read is inside a frame, where
/// bytes must keep coming, or before one, where the sender may take his time.
pub(crate) trait Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// A read inside a frame of a message, or a chunk, of so many bytes.
    fn read_inside(&mut self, size: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl<R: Read + ?Sized> Source for R {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buffer)
    }

    fn read_inside(&mut self, _size: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buffer)
    }
}

/// Who decides how a stream is cut, and when bytes may go.
pub(crate) trait Guide {
    /// Waits until so many bytes may be written.
    fn pace(&mut self, bytes: usize);

    /// How much the next read of the stream may give.
    fn room(&mut self) -> usize;

    /// What a read gave where there was `room`, and how long it took to read
    /// and to write it.
    fn sent(&mut self, content: &[u8], room: usize, took: Duration);
}
