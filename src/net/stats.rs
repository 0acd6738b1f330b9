//! Figures of conns and listeners.

use std::time::Duration;

use crate::proto::noise::Cipher;

/// What a [`Conn`](crate::Conn) has done and how it stands. Taking it is cheap.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ConnStats {
    /// Number of the connection underneath, as in the log.
    pub connection: u64,
    /// What the connection underneath is sealed with.
    pub cipher: Cipher,
    /// Number of the stream on that connection, as on the wire.
    pub stream: u32,
    /// Payload that writes have taken.
    pub bytes_sent: u64,
    /// Writes that took something.
    pub writes: u64,
    /// Payload that has arrived, read or not.
    pub bytes_received: u64,
    /// Frames, or pieces of long ones, that the payload came in.
    pub frames_received: u64,
    /// Payload that has arrived and waits for a read.
    pub unread: usize,
    /// How much the peer may send without hearing from us: from 256 KiB to 16 MiB.
    pub receive_window: u32,
    /// How much we may send now without hearing from the peer.
    pub send_credit: u64,
    /// The smallest round trip seen on the connection, once there was one.
    pub rtt: Option<Duration>,
    /// How long ago the conn was opened.
    pub age: Duration,
    /// How long ago a byte was read or written through this conn.
    pub unused: Duration,
    /// How often a resumable conn has lost its connection. The figures above that are of
    /// one connection are then of the newest one.
    pub losses: u64,
    /// How often it went on over a new one.
    pub resumes: u64,
    /// Payload that was sent again because of that.
    pub bytes_replayed: u64,
    /// The longest time that it was without a connection, the present one among them.
    pub longest_outage: Duration,
}

/// What a [`Listener`](crate::Listener) has done and how it stands.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Conns that `accept` has returned.
    pub accepted: u64,
    /// Conns that wait for `accept` now, at most 256.
    pub waiting: usize,
    /// Conns refused because too many waited.
    pub refused: u64,
    /// How long ago the listener was bound.
    pub age: Duration,
}
