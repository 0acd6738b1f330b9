//! Frames on their way: [`Outgoing`] writes them, [`Incoming`] reads them.
//! Both survive a timeout in the middle of a frame.

mod incoming;
mod outgoing;
mod progress;
mod sequence;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Read, Write};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::message::header::{Command, Header};
use crate::stall::Admission;

pub(crate) use incoming::{Arrived, Incoming};
pub(crate) use outgoing::{Options, Outgoing};

/// What frames are read from. It hears whether a read is inside a frame, where
/// bytes must keep coming, or before one, where the sender may take his time;
/// and what comes.
pub(crate) trait Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// A read inside a frame of a message, or a chunk, of so many bytes.
    fn read_inside(&mut self, size: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// A frame has begun.
    fn begins(&mut self, _header: &Header) {}

    /// So many bytes of content were taken.
    fn moved(&mut self, _bytes: usize) {}

    /// The sender stands still, or goes on.
    fn commanded(&mut self, _command: Command) {}

    /// Whether the sender can be answered.
    fn answers(&self) -> bool {
        false
    }

    /// Tells the sender of a message under control.
    fn answer(&mut self, _command: Command) -> Result<()> {
        Ok(())
    }

    /// The message is not wanted any more. Whether to read on, for a moment, to
    /// its end.
    fn winds_down(&mut self) -> bool {
        false
    }

    /// A message of so many bytes, above 64 KiB, is about to be received.
    fn admit(&mut self, _bytes: u64) -> Result<Admission> {
        Ok(Admission::default())
    }
}

impl<R: Read + ?Sized> Source for R {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buffer)
    }

    fn read_inside(&mut self, _size: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buffer)
    }
}

/// What frames are written to. It hears where chunks stand, and may hold them up.
pub(crate) trait Outlet: Write {
    /// The first header of a message in chunks is about to be written. Whether it
    /// says that the sender listens.
    fn announces(&mut self) -> bool {
        false
    }

    /// Whether even a short message has to be sent in chunks, because there is
    /// something to tell the receiver before.
    fn has_orders(&self) -> bool {
        false
    }

    /// What is wanted before the next chunk.
    fn order(&mut self) -> Result<Order> {
        Ok(Order::Go)
    }

    /// The receiver knows of the pause: waits for its end. Whether it goes on.
    fn hold(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Waits for bytes that may go later, at most so long.
    fn rest(&mut self, most: Duration) -> Result<()> {
        thread::sleep(most);
        Ok(())
    }

    /// How much content a write may have, so that an order is soon obeyed.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Content is about to be written.
    fn goes(&mut self) {}

    /// So much of it was.
    fn moved(&mut self, _bytes: usize) {}
}

/// What is wanted of a message under way.
pub(crate) enum Order {
    Go,
    Pause,
    Cancel(Error),
}

/// An outlet that nobody steers.
pub(crate) struct Plain<'a, W: ?Sized>(pub(crate) &'a mut W);

impl<W: Write + ?Sized> Outlet for Plain<'_, W> {}

impl<W: Write + ?Sized> Write for Plain<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who decides how a stream is cut, and when bytes may go.
pub(crate) trait Guide {
    /// Lets so many bytes be written; or says how long to wait before the same is
    /// asked again.
    fn pace(&mut self, bytes: usize) -> Option<Duration>;

    /// How much the next read of the stream may give.
    fn room(&mut self) -> usize;

    /// What a read gave where there was `room`, and how long it took to read
    /// and to write it.
    fn sent(&mut self, content: &[u8], room: usize, took: Duration);
}
