//! How much waits for the socket, and who waits beyond that. `model` has less of it.

pub(super) use crate::resources::buffers::{LARGE_BATCH, SMALL_BATCH};

/// Bytes that wait in a link for the socket, beyond which writers do.
pub(super) const MOST_WAITING: usize = 256 * 1024;

/// The same for what we have to answer.
pub(super) const MOST_SEALED: usize = MOST_WAITING + 128 * 1024;

/// What may wait for the socket before conns that come after others do.
pub(super) const ROOM_FOR_LAST: usize = 16 * 1024;

/// What those that come first may add where the others wait.
pub(super) const ROOM_FOR_FIRST: usize = 64 * 1024;

/// Short writes that wait for the reactor.
pub(super) const MOST_JOINED: usize = 32 * 1024;

/// A write of at most so many bytes is not cut for want of room.
pub(super) const WHOLE: usize = 64 * 1024;

/// What is written in one go is kept as it was sealed from this size on: what is shorter
/// is copied as fast, and would keep twice the memory.
pub(super) const KEPT: usize = SMALL_BATCH / 2 + 1;

/// How often a thread looks for what others have left it before it lets the reactor send
/// that.
pub(super) const MOST_ROUNDS: usize = 8;

/// Batches for one system call.
pub(super) const MOST_AT_ONCE: usize = 8;
