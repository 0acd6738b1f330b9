//! A transfer as those see it who move its bytes.

use std::thread;
use std::time::{Duration, Instant};

use super::handle::TransferHandle;
use super::meter::Meter;
use super::observer::{Speed, Status};
use crate::error::{Error, ErrorCode, Result};
use crate::message::{Pilot, Wish};

/// Tells the observers of a [`TransferHandle`] how its transfer goes, and those
/// who move bytes what its handles want. It lives from the beginning of the
/// transfer to its end, over as many streams and attempts as that takes.
///
/// Dropped without [`finish`](Watch::finish), the transfer has failed.
pub(crate) struct Watch {
    handle: TransferHandle,
    status: Option<Status>,
    transferred: u64,
    total: Option<u64>,
    meter: Meter,
    begun: Instant,
    told: Instant,
    stalled: bool,
}

impl Watch {
    /// A transfer begins: `Initialising`.
    pub(crate) fn begin(handle: &TransferHandle, total: Option<u64>) -> Watch {
        let now = Instant::now();
        let mut watch = Watch {
            handle: handle.clone(),
            status: None,
            transferred: 0,
            total,
            meter: Meter::new(now),
            begun: now,
            told: now,
            stalled: false,
        };
        handle.set_total(total);
        handle.set_transferred(0);
        watch.enter(Status::Initialising);
        watch
    }

    /// So much more is over without having moved; no part of the speed.
    pub(crate) fn passes(&mut self, bytes: u64) {
        let at_start = self.transferred == 0;
        if bytes > 0 {
            self.transferred = self.transferred.saturating_add(bytes);
            self.handle.set_transferred(self.transferred);
            if at_start {
                self.handle.tell_progress();
            } else {
                self.tell_when_due(Instant::now());
            }
        }
    }

    /// Waits while this end wants a pause.
    ///
    /// # Errors
    ///
    /// `Cancelled`, if this end wants that.
    pub(crate) fn check(&mut self) -> Result<()> {
        loop {
            match self.handle.wish() {
                Wish::Go => {
                    if self.status == Some(Status::Paused) {
                        self.enter(Status::Resuming);
                    }
                    return Ok(());
                }
                Wish::Pause => {
                    self.enter(Status::Paused);
                    self.handle.wait_while(Wish::Pause, LONG);
                }
                Wish::Cancel | Wish::Leave => return Err(cancelled_here()),
            }
        }
    }

    /// Whether anybody could want something of the transfer.
    pub(crate) fn is_steered(&self) -> bool {
        self.handle.is_shared()
    }

    /// The transfer has ended in this way.
    pub(crate) fn finish<T>(mut self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) => {
                self.goes();
                self.handle.tell_progress();
                self.enter(Status::Completed);
                self.handle.tell_complete(self.transferred, self.begun.elapsed());
            }
            Err(e) => {
                self.handle.tell_error(e, true);
                self.enter(match e.code() {
                    ErrorCode::Cancelled => Status::Cancelled,
                    _ => Status::Failed,
                });
            }
        }
        outcome
    }

    /// Changes the status, and tells it if it is another.
    fn enter(&mut self, status: Status) {
        if self.status != Some(status) {
            self.status = Some(status);
            self.handle.tell_status(status);
        }
    }

    fn tell_when_due(&mut self, now: Instant) {
        if now.duration_since(self.told) < TELL_EVERY {
            return;
        }
        self.told = now;
        let rate = self.meter.rate(now);
        let left = self.total.map(|total| total.saturating_sub(self.transferred));
        let remaining = left.filter(|_| rate > 0.0).map(|left| left as f64 / rate);
        let speed = Speed {
            id: self.handle.id(),
            bytes_per_second: rate,
            remaining: remaining.and_then(|s| Duration::try_from_secs_f64(s).ok()),
        };
        self.handle.tell_progress();
        self.handle.tell_speed(&speed);
    }
}

impl Pilot for Watch {
    fn wish(&self) -> Wish {
        self.handle.wish()
    }

    fn rest(&self, most: Duration) {
        self.handle.wait_while(self.handle.wish(), most);
    }

    fn expects(&mut self, total: u64) {
        if self.total.is_none() {
            self.total = Some(total);
            self.handle.set_total(Some(total));
        }
    }

    fn goes(&mut self) {
        self.enter(Status::Transferring);
    }

    fn moved(&mut self, bytes: u64) {
        let now = Instant::now();
        self.transferred = self.transferred.saturating_add(bytes);
        self.handle.set_transferred(self.transferred);
        self.meter.add(bytes, now);
        self.stalled = false;
        self.tell_when_due(now);
    }

    fn pauses(&mut self) {
        self.enter(Status::Paused);
    }

    fn resumes(&mut self) {
        // The pause is no part of the speed.
        self.meter = Meter::new(Instant::now());
        self.enter(Status::Resuming);
    }

    fn waits(&mut self, still: Duration) {
        if self.status != Some(Status::Transferring) {
            return;
        }
        if !self.stalled && still >= self.handle.stalled_after() {
            self.stalled = true;
            let what = format!("the transfer stalls: no byte has moved for {still:.1?}");
            self.handle.tell_error(&Error::new(ErrorCode::Timeout, what), false);
        }
        self.tell_when_due(Instant::now());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Nobody is called while a panic, perhaps an observer's own, unwinds.
        if !self.status.is_some_and(Status::is_final) && !thread::panicking() {
            self.enter(Status::Failed);
        }
    }
}

fn cancelled_here() -> Error {
    Error::new(ErrorCode::Cancelled, "the transfer was cancelled here")
}

/// Observers are not called more often, except for changes of status.
const TELL_EVERY: Duration = Duration::from_millis(50);

const LONG: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_a_peer_made_up_do_not_overflow() {
        let handle = TransferHandle::new();
        let mut watch = Watch::begin(&handle, Some(0));
        watch.passes(u64::MAX);
        watch.passes(1);
        watch.moved(u64::MAX);
        watch.moved(u64::MAX);
        assert_eq!(handle.progress().transferred, u64::MAX);
    }
}
