//! [`TryIo`] seen from outside.

use std::io::{self, IoSlice};
use std::time::Duration;

use crate::stall::{Direction, TryIo};

/// A [`TryIo`] seen from outside, so that transports without it can do without
/// the bound.
pub(crate) trait Wires<C>: Send + Sync {
    fn try_read(&self, conn: &mut C, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;
    fn try_write(&self, conn: &mut C, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize>;
    fn flush(&self, conn: &mut C) -> io::Result<()>;
    fn timeout(&self, conn: &C, direction: Direction) -> io::Result<Option<Duration>>;
    fn is_interrupted(&self, conn: &C) -> bool;
    fn remote(&self, conn: &C) -> Option<String>;
}

/// The conn can be tried itself.
pub(crate) struct Tried;

impl<C: TryIo> Wires<C> for Tried {
    fn try_read(&self, conn: &mut C, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        conn.try_read(buffer, wait)
    }

    fn try_write(&self, conn: &mut C, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        conn.try_write(slices, wait)
    }

    fn flush(&self, conn: &mut C) -> io::Result<()> {
        conn.flush()
    }

    fn timeout(&self, conn: &C, direction: Direction) -> io::Result<Option<Duration>> {
        conn.timeout(direction)
    }

    fn is_interrupted(&self, conn: &C) -> bool {
        conn.is_interrupted()
    }

    fn remote(&self, conn: &C) -> Option<String> {
        conn.remote()
    }
}
