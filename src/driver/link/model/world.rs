//! The world of the model: locks, threads and time that shuttle orders.

use std::cell::Cell;
use std::sync::{Arc, LazyLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub(super) use shuttle::sync::atomic;
pub(super) use shuttle::thread::yield_now;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use atomic::AtomicBool;
use atomic::Ordering::SeqCst;

use crate::driver::drive::TICK;

pub(super) use super::small::Stream;
pub(super) use super::socket::Socket;
pub(super) use crate::driver::waiter::For;

/// As parking_lot's: without poison, and free for a while at its holder's wish.
#[derive(Default)]
pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(super) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while it is free.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.take()) }
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(held) => Some(MutexGuard { mutex: self, held: Some(held) }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(e)) => panic!("{e}"),
        }
    }

    fn take(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> MutexGuard<'_, T> {
    pub(super) fn unlocked<R>(guard: &mut Self, f: impl FnOnce() -> R) -> R {
        guard.held = None;
        let result = f();
        guard.held = Some(guard.mutex.take());
        result
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("nobody looks while it is free")
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("nobody looks while it is free")
    }
}

// All threads of a schedule are one for the system. Half ticks.
thread_local! { static CLOCK: Cell<u32> = const { Cell::new(0) }; }
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn now() -> Instant {
    *START + TICK / 2 * CLOCK.get()
}

/// Half a tick passes.
pub(super) fn pass_time() {
    CLOCK.set(CLOCK.get() + 1);
}

pub(super) fn begin_time() {
    CLOCK.set(0);
}

/// Whoever asks may have slept meanwhile.
pub(super) fn remaining(at: Instant) -> Option<Duration> {
    while thread_rng().gen_bool(0.2) {
        pass_time();
    }
    at.checked_duration_since(now()).filter(|left| !left.is_zero())
}

/// Whether the thread opens or accepts conns, and has been back at once.
pub(super) fn note_leave() -> (bool, bool) {
    let returns = thread_rng().gen_bool(0.7);
    (returns, returns && thread_rng().gen_bool(0.7))
}

pub(super) fn is_readable(socket: &Socket) -> bool {
    socket.look(|net| net.is_ready(For::Reading))
}

/// `driver::waiter::Waiter`, step by step.
pub(super) struct Waiter {
    thread: thread::Thread,
    woken: AtomicBool,
    polling: AtomicBool,
    /// The descriptor, and the token of `unpark`: each ends its own kind of sleep only.
    bell: AtomicBool,
    token: AtomicBool,
}

impl Waiter {
    pub(super) fn current() -> Arc<Waiter> {
        shuttle::thread_local! { static CURRENT: Arc<Waiter> = Waiter::new(); }
        CURRENT.with(Arc::clone)
    }

    fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            thread: thread::current(),
            woken: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            bell: AtomicBool::new(false),
            token: AtomicBool::new(false),
        })
    }

    pub(super) fn wake(&self) {
        if self.woken.swap(true, SeqCst) {
            return;
        }
        let how = if self.polling.load(SeqCst) { &self.bell } else { &self.token };
        how.store(true, SeqCst);
        self.thread.unpark();
    }

    pub(super) fn take_wake(&self) -> bool {
        self.woken.load(SeqCst) && self.woken.swap(false, SeqCst)
    }

    pub(super) fn park(&self, deadline: Option<Instant>) {
        while !self.take_wake() {
            while !self.token.swap(false, SeqCst) {
                if sleep(deadline) {
                    return;
                }
            }
        }
    }

    pub(super) fn poll_one(&self, socket: &Socket, what: For, deadline: Option<Instant>) {
        self.polling.store(true, SeqCst);
        if !self.woken.load(SeqCst) {
            socket.look(|net| net.come(what));
            while !socket.look(|net| net.polls(what)) && !self.bell.swap(false, SeqCst) {
                if sleep(deadline) {
                    break;
                }
                // It may have been long.
                while thread_rng().gen_bool(0.4) {
                    pass_time();
                }
            }
            socket.look(|net| net.go(what));
        }
        self.polling.store(false, SeqCst);
    }
}

/// Whether the deadline has passed. Who has one may sleep to its end, whatever happens.
fn sleep(deadline: Option<Instant>) -> bool {
    match deadline {
        None => thread::park(),
        Some(at) if remaining(at).is_none() => return true,
        Some(_) => thread::yield_now(),
    }
    false
}
