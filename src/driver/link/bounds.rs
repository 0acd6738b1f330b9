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

/// Batches that a thread sends in one go, its own and those of others that come
/// meanwhile.
pub(super) const MOST_BATCHES: usize = 8;
