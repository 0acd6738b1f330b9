//! What the files need of the world that decide who sends and who sleeps: `send`, `write`,
//! `rest`, `receipts` and `wait`. They take it from here alone, so that `model` can put
//! another one in its place: with a socket of its own, and threads whose every step it
//! orders.

use std::time::Instant;

pub(super) use std::net::TcpStream as Socket;
pub(super) use std::sync::atomic;
pub(super) use std::thread::yield_now;

pub(super) use parking_lot::{Mutex, MutexGuard};

pub(super) use crate::driver::stream::Stream;
pub(super) use crate::driver::waiter::{For, Waiter, is_readable, note_leave, remaining};

pub(super) fn now() -> Instant {
    Instant::now()
}
