//! Limits on standing still inside a chunk.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::message::frame::{Outlet, Source};
use crate::stall::{Admission, Direction, Network, StallLimit};

/// A [`StallLimit`] seen from outside, so that transports without one can do
/// without the bound.
pub(crate) trait Knobs<C>: Send + Sync {
    fn get(&self, conn: &C, direction: Direction) -> io::Result<Option<Duration>>;
    fn set(&self, conn: &C, direction: Direction, limit: Option<Duration>) -> io::Result<()>;
    fn network(&self, conn: &C) -> Network;
    fn admit(&self, conn: &C, bytes: u64) -> Result<Admission>;
}

/// The conn has the knobs itself.
pub(crate) struct Direct;

impl<C: StallLimit> Knobs<C> for Direct {
    fn get(&self, conn: &C, direction: Direction) -> io::Result<Option<Duration>> {
        conn.stall_limit(direction)
    }

    fn set(&self, conn: &C, direction: Direction, limit: Option<Duration>) -> io::Result<()> {
        conn.set_stall_limit(direction, limit)
    }

    fn network(&self, conn: &C) -> Network {
        conn.network()
    }

    fn admit(&self, conn: &C, bytes: u64) -> Result<Admission> {
        conn.admit(bytes)
    }
}

/// A conn whose limit is set while a chunk is on its way, by whoever uses it.
/// Dropped, it puts back what it found.
pub(crate) struct Limited<'a, C> {
    conn: &'a mut C,
    knobs: Option<&'a dyn Knobs<C>>,
    direction: Direction,
    /// The limit for a message or chunk of this size.
    limit: &'a dyn Fn(u64) -> Duration,
    armed: Option<Armed>,
    stalled: bool,
}

struct Armed {
    found: Option<Duration>,
    limit: Option<Duration>,
}

impl<'a, C> Limited<'a, C> {
    pub(crate) fn new(
        conn: &'a mut C,
        knobs: Option<&'a dyn Knobs<C>>,
        direction: Direction,
        limit: &'a dyn Fn(u64) -> Duration,
    ) -> Limited<'a, C> {
        Limited { conn, knobs, direction, limit, armed: None, stalled: false }
    }

    /// Whether a limit has struck.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled
    }

    /// The conn itself, whose limits are then kept by the one who uses it.
    pub(crate) fn conn(&mut self) -> &mut C {
        self.conn
    }

    /// The limit for a chunk of this size has struck if no byte has moved for
    /// so long.
    pub(crate) fn check_limit(&mut self, size: u64, still: Duration) -> io::Result<()> {
        let limit = (self.limit)(size).max(LEAST_LIMIT);
        if self.knobs.is_none() || still < limit {
            return Ok(());
        }
        self.stalled = true;
        Err(stall(limit, None).into())
    }

    fn arm(&mut self, size: u64) -> io::Result<()> {
        let (Some(knobs), None) = (self.knobs, &self.armed) else { return Ok(()) };
        let found = knobs.get(self.conn, self.direction)?;
        let limit = (self.limit)(size).max(LEAST_LIMIT);
        let limit = found.is_none_or(|found| found > limit).then_some(limit);
        if limit.is_some() {
            knobs.set(self.conn, self.direction, limit)?;
        }
        self.armed = Some(Armed { found, limit });
        Ok(())
    }

    fn disarm(&mut self) -> io::Result<()> {
        match (self.knobs, self.armed.take()) {
            (Some(knobs), Some(Armed { found, limit: Some(_) })) => {
                knobs.set(self.conn, self.direction, found)
            }
            _ => Ok(()),
        }
    }

    /// Makes a call under the limit for a chunk of this size, and tells that limit
    /// from a timeout of the user and from a conn that does not block.
    fn watch<T>(&mut self, size: u64, call: impl FnOnce(&mut C) -> io::Result<T>) -> io::Result<T> {
        self.arm(size)?;
        let Some(Armed { limit: Some(limit), .. }) = self.armed else { return call(self.conn) };
        let start = Instant::now();
        let late =
            |e: &io::Error| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        match call(self.conn) {
            // The clock of a socket is coarse: its timeout may strike a little early.
            Err(e) if late(&e) && start.elapsed() >= limit / 2 => {
                self.stalled = true;
                Err(stall(limit, Some(e)).into())
            }
            outcome => outcome,
        }
    }
}

impl<C: Read> Source for Limited<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disarm()?;
        self.conn.read(buffer)
    }

    fn read_inside(&mut self, size: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.watch(size, |conn| conn.read(buffer))
    }

    fn admit(&mut self, bytes: u64) -> Result<Admission> {
        self.knobs.map_or_else(|| Ok(Admission::default()), |knobs| knobs.admit(self.conn, bytes))
    }
}

impl<C: Write> Write for Limited<'_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.watch(0, |conn| conn.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.watch(0, |conn| conn.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.watch(0, C::flush)
    }
}

impl<C: Write> Outlet for Limited<'_, C> {}

impl<C> Drop for Limited<'_, C> {
    fn drop(&mut self) {
        // A transport that cannot take its timeout back will say so when used.
        let _ = self.disarm();
    }
}

fn stall(limit: Duration, source: Option<io::Error>) -> Error {
    let what = format!("no byte moved for {limit:?} inside a chunk");
    let e = match source {
        Some(source) => Error::with_source(ErrorCode::Timeout, what, source),
        None => Error::new(ErrorCode::Timeout, what),
    };
    e.with_context("stall_limit_ms", limit.as_millis())
}

/// Sockets take no timeout of zero.
const LEAST_LIMIT: Duration = Duration::from_millis(1);
