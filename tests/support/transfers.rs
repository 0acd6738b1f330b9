//! For tests of transfers: an observer that remembers, a pipe in memory, a
//! source that is slow.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pointsub::message::{Direction, TryIo};
use pointsub::transfer::progress::{Progress, Speed, Status, TransferId, TransferObserver};
use pointsub::{Error, ErrorCode, TransferHandle};

/// Remembers what it hears, and when.
#[derive(Clone, Default)]
pub struct Recorder {
    heard: Arc<Mutex<Vec<(Instant, Heard)>>>,
    news: Arc<Condvar>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Progress(Progress),
    Status(Status),
    Speed(Speed),
    Error(ErrorCode, bool),
    Complete(u64, Duration),
}

impl Recorder {
    /// A recorder, and the handle of a transfer that it observes.
    pub fn with_handle() -> (Recorder, TransferHandle) {
        let recorder = Recorder::default();
        let handle = TransferHandle::builder().observer(recorder.clone()).build();
        (recorder, handle)
    }

    pub fn all(&self) -> Vec<(Instant, Heard)> {
        self.heard.lock().unwrap().clone()
    }

    pub fn statuses(&self) -> Vec<Status> {
        let status = |(_, heard)| match heard {
            Heard::Status(status) => Some(status),
            _ => None,
        };
        self.all().into_iter().filter_map(status).collect()
    }

    /// Waits until something like this was heard.
    #[track_caller]
    pub fn wait_for(&self, mut like: impl FnMut(&Heard) -> bool) -> Instant {
        let mut heard = self.heard.lock().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some((at, _)) = heard.iter().rev().find(|(_, h)| like(h)) {
                return *at;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not heard: {heard:?}");
            heard = self.news.wait_timeout(heard, left).unwrap().0;
        }
    }

    #[track_caller]
    pub fn wait_for_status(&self, status: Status) -> Instant {
        self.wait_for(|heard| *heard == Heard::Status(status))
    }

    fn note(&self, heard: Heard) {
        self.heard.lock().unwrap().push((Instant::now(), heard));
        self.news.notify_all();
    }
}

impl TransferObserver for Recorder {
    fn progress(&self, progress: &Progress) {
        self.note(Heard::Progress(*progress));
    }

    fn status(&self, _: TransferId, status: Status) {
        self.note(Heard::Status(status));
    }

    fn speed(&self, speed: &Speed) {
        self.note(Heard::Speed(*speed));
    }

    fn error(&self, _: TransferId, error: &Error, fatal: bool) {
        self.note(Heard::Error(error.code(), fatal));
    }

    fn complete(&self, _: TransferId, bytes: u64, took: Duration) {
        self.note(Heard::Complete(bytes, took));
    }
}

/// Gives `left` bytes, at most `piece` at a time, each after a while.
#[derive(Clone)]
pub struct Slow {
    pub left: u64,
    pub piece: usize,
    pub every: Duration,
    /// How much it has given.
    pub given: Arc<AtomicU64>,
}

impl Slow {
    pub fn new(left: u64, piece: usize, every: Duration) -> Slow {
        Slow { left, piece, every, given: Arc::default() }
    }

    /// One that does not end before the test does.
    pub fn endless() -> Slow {
        Slow::new(u64::MAX, 10_000, Duration::from_millis(1))
    }
}

impl Read for Slow {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        thread::sleep(self.every);
        let n = out.len().min(self.piece).min(self.left.try_into().unwrap_or(usize::MAX));
        out[..n].fill(7);
        self.left -= n as u64;
        self.given.fetch_add(n as u64, SeqCst);
        Ok(n)
    }
}

/// One end of a pipe in memory.
pub struct Pipe {
    incoming: Arc<Queue>,
    outgoing: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<(VecDeque<u8>, bool)>,
    changed: Condvar,
    room: usize,
}

/// Two ends; so many bytes fit in between, each way.
pub fn pipe(room: usize) -> (Pipe, Pipe) {
    let queue = || Arc::new(Queue { room, ..Queue::default() });
    let (one, other) = (queue(), queue());
    let near = Pipe { incoming: one.clone(), outgoing: other.clone() };
    (near, Pipe { incoming: other, outgoing: one })
}

impl Queue {
    /// Calls until it gives something, at most so long.
    fn within<T>(
        &self,
        wait: Duration,
        mut call: impl FnMut(&mut VecDeque<u8>, bool) -> Option<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now().checked_add(wait);
        let mut state = self.state.lock().unwrap();
        loop {
            let (bytes, closed) = &mut *state;
            if let Some(result) = call(bytes, *closed) {
                self.changed.notify_all();
                return Ok(result);
            }
            let left = deadline.map_or(Duration::from_secs(3600), |at| {
                at.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl TryIo for Pipe {
    fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        self.incoming.within(wait, |bytes, closed| match bytes.len() {
            0 => closed.then_some(0),
            _ => Some(bytes.read(buffer).unwrap()),
        })
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        let room = self.outgoing.room;
        self.outgoing.within(wait, |bytes, closed| {
            let mut n = 0;
            for slice in slices {
                let part = slice.len().min(room - bytes.len());
                bytes.extend(&slice[..part]);
                n += part;
            }
            (n > 0 || closed).then_some(n)
        })
    }

    fn timeout(&self, _: Direction) -> io::Result<Option<Duration>> {
        Ok(None)
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer, Duration::MAX)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(&[IoSlice::new(bytes)], Duration::MAX)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for queue in [&self.incoming, &self.outgoing] {
            queue.state.lock().unwrap().1 = true;
            queue.changed.notify_all();
        }
    }
}
