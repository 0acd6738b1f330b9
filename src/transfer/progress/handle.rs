//! Steering a transfer from another thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::observer::{Progress, Speed, Status, TransferId, TransferObserver};
use crate::error::Error;
use crate::message::Wish;

/// A transfer, to be watched, paused, resumed and called off by any thread.
///
/// It is made before the transfer and given to the call that makes it. Clones
/// are the same transfer; dropping them changes nothing. One handle serves one
/// transfer, however many attempts it takes.
#[derive(Clone)]
pub struct TransferHandle {
    shared: Arc<Shared>,
}

/// Makes a [`TransferHandle`].
#[must_use]
pub struct TransferHandleBuilder {
    observers: Vec<Box<dyn TransferObserver>>,
    stalled_after: Duration,
}

struct Shared {
    id: TransferId,
    observers: Vec<Box<dyn TransferObserver>>,
    stalled_after: Duration,
    wish: Mutex<Wish>,
    changed: Condvar,
    status: AtomicU8,
    transferred: AtomicU64,
    /// `u64::MAX`: not known.
    total: AtomicU64,
}

impl TransferHandle {
    /// A transfer that nobody observes.
    pub fn new() -> TransferHandle {
        TransferHandle::builder().build()
    }

    /// A transfer with observers and options.
    pub fn builder() -> TransferHandleBuilder {
        TransferHandleBuilder { observers: Vec::new(), stalled_after: STALLED_AFTER }
    }

    /// Its number in this process.
    pub fn id(&self) -> TransferId {
        self.shared.id
    }

    /// Has it stand still until [`resume`](TransferHandle::resume). Returns at
    /// once.
    pub fn pause(&self) {
        self.want(Wish::Pause);
    }

    /// Has it go on.
    pub fn resume(&self) {
        self.want(Wish::Go);
    }

    /// Calls it off. Returns at once; there is no way back, and what comes
    /// after the last byte comes too late. A receiver of which nothing has come
    /// yet returns, and leaves what comes to the next call.
    pub fn cancel(&self) {
        self.want(Wish::Cancel);
    }

    /// Its state, as observers were told last.
    pub fn status(&self) -> Status {
        STATUSES[usize::from(self.shared.status.load(Relaxed))]
    }

    /// How far it is, to the last chunk.
    pub fn progress(&self) -> Progress {
        let total = self.shared.total.load(Relaxed);
        Progress {
            id: self.shared.id,
            total: (total != u64::MAX).then_some(total),
            transferred: self.shared.transferred.load(Relaxed),
        }
    }

    fn want(&self, wish: Wish) {
        let mut current = self.shared.wish.lock();
        if *current != Wish::Cancel {
            *current = wish;
            self.shared.changed.notify_all();
        }
    }
}

impl TransferHandleBuilder {
    /// Who hears how the transfer goes; of several each hears it, in this order.
    pub fn observer(mut self, observer: impl TransferObserver + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// After how long without a byte a transfer is told to stall. It goes on
    /// all the same. Default: 5 s. What is paused does not stall.
    pub fn stalled_after(mut self, time: Duration) -> Self {
        self.stalled_after = time;
        self
    }

    /// The transfer.
    pub fn build(self) -> TransferHandle {
        let TransferHandleBuilder { observers, stalled_after } = self;
        TransferHandle {
            shared: Arc::new(Shared {
                id: TransferId(NEXT_ID.fetch_add(1, Relaxed)),
                observers,
                stalled_after,
                wish: Mutex::new(Wish::Go),
                changed: Condvar::new(),
                status: AtomicU8::new(Status::Initialising as u8),
                transferred: AtomicU64::new(0),
                total: AtomicU64::new(u64::MAX),
            }),
        }
    }
}

/// What those that move it see of a transfer.
impl TransferHandle {
    pub(super) fn wish(&self) -> Wish {
        *self.shared.wish.lock()
    }

    /// Whether there is another handle of this transfer.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Sleeps until the wish is another than this, at most so long.
    pub(super) fn wait_while(&self, wish: Wish, most: Duration) {
        let mut current = self.shared.wish.lock();
        self.shared.changed.wait_while_for(&mut current, |current| *current == wish, most);
    }

    pub(super) fn stalled_after(&self) -> Duration {
        self.shared.stalled_after
    }

    pub(super) fn set_total(&self, total: Option<u64>) {
        self.shared.total.store(total.unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn set_transferred(&self, bytes: u64) {
        self.shared.transferred.store(bytes, Relaxed);
    }

    pub(super) fn tell_status(&self, status: Status) {
        self.shared.status.store(status as u8, Relaxed);
        self.shared.observers.iter().for_each(|o| o.status(self.id(), status));
    }

    pub(super) fn tell_progress(&self) {
        let progress = self.progress();
        self.shared.observers.iter().for_each(|o| o.progress(&progress));
    }

    pub(super) fn tell_speed(&self, speed: &Speed) {
        self.shared.observers.iter().for_each(|o| o.speed(speed));
    }

    pub(super) fn tell_error(&self, error: &Error, fatal: bool) {
        self.shared.observers.iter().for_each(|o| o.error(self.id(), error, fatal));
    }

    pub(super) fn tell_complete(&self, bytes: u64, took: Duration) {
        self.shared.observers.iter().for_each(|o| o.complete(self.id(), bytes, took));
    }
}

impl Default for TransferHandle {
    fn default() -> TransferHandle {
        TransferHandle::new()
    }
}

impl fmt::Debug for TransferHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferHandle")
            .field("id", &self.id())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

const STALLED_AFTER: Duration = Duration::from_secs(5);

/// By their numbers.
const STATUSES: [Status; 7] = [
    Status::Initialising,
    Status::Transferring,
    Status::Paused,
    Status::Resuming,
    Status::Completed,
    Status::Failed,
    Status::Cancelled,
];
