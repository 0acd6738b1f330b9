//! What the observer of a transfer hears.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;

/// Hears how a transfer goes.
///
/// The calls are made on the thread that sends or receives, with no lock held;
/// what takes long delays the transfer. Progress and speed are told at most
/// every 50 ms, a change of status at once.
///
/// Both ends of a transfer that is under control (see the
/// [module docs](crate::transfer::progress)) hear the same statuses in the same
/// order.
pub trait TransferObserver: Send + Sync {
    /// Bytes have moved.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }

    /// The transfer is in another state. Each differs from the one before.
    fn status(&self, id: TransferId, status: Status) {
        let _ = (id, status);
    }

    /// How fast it is.
    fn speed(&self, speed: &Speed) {
        let _ = speed;
    }

    /// Something went wrong: `fatal`, it is the end of the transfer; else it
    /// goes on, or is about to be tried again. A transfer that stalls is told
    /// as a [`Timeout`](crate::ErrorCode::Timeout) that is not fatal.
    fn error(&self, id: TransferId, error: &Error, fatal: bool) {
        let _ = (id, error, fatal);
    }

    /// All of it is there: so many bytes in so much time, pauses included.
    fn complete(&self, id: TransferId, bytes: u64, took: Duration) {
        let _ = (id, bytes, took);
    }
}

/// Tells the transfers of a process apart. The two ends of one have ids of
/// their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub(super) u64);

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Which one.
    pub id: TransferId,
    /// How many bytes it has, where that is known beforehand.
    pub total: Option<u64>,
    /// How many bytes of it are over, those of earlier attempts included.
    pub transferred: u64,
}

/// How fast a transfer is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Speed {
    /// Which one.
    pub id: TransferId,
    /// Over the last seconds.
    pub bytes_per_second: f64,
    /// The time left at this speed, where the size is known and the speed is
    /// not 0.
    pub remaining: Option<Duration>,
}

/// The state of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Status {
    /// Nothing has moved yet.
    Initialising,
    /// Bytes move.
    Transferring,
    /// It stands still on purpose, of one side or of both.
    Paused,
    /// It is about to go on: after a pause, or after an interruption.
    Resuming,
    /// All of it is there.
    Completed,
    /// It has ended with an error.
    Failed,
    /// One side has called it off.
    Cancelled,
}

impl Progress {
    /// From 0 to 1, where the total is known. An empty transfer is at 1.
    pub fn fraction(&self) -> Option<f64> {
        match self.total? {
            0 => Some(1.0),
            total => Some((self.transferred as f64 / total as f64).min(1.0)),
        }
    }
}

impl Status {
    /// Whether no other follows.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Initialising => "initialising",
            Status::Transferring => "transferring",
            Status::Paused => "paused",
            Status::Resuming => "resuming",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        })
    }
}

impl<T: TransferObserver + ?Sized> TransferObserver for Arc<T> {
    fn progress(&self, progress: &Progress) {
        (**self).progress(progress);
    }

    fn status(&self, id: TransferId, status: Status) {
        (**self).status(id, status);
    }

    fn speed(&self, speed: &Speed) {
        (**self).speed(speed);
    }

    fn error(&self, id: TransferId, error: &Error, fatal: bool) {
        (**self).error(id, error, fatal);
    }

    fn complete(&self, id: TransferId, bytes: u64, took: Duration) {
        (**self).complete(id, bytes, took);
    }
}
