//! Floor 1: the wire, without I/O. Bytes and the time go in; bytes and effects
//! come out. Nothing here knows a socket, a thread, a lock or a clock.

pub(crate) mod buf;
pub(crate) mod connection;
pub(crate) mod identify;
pub(crate) mod multistream;
pub(crate) mod noise;
pub(crate) mod ping;
pub(crate) mod resume;
pub(crate) mod yamux;

#[cfg(test)]
mod sim;
