//! Floor 6: messages of 0 bytes to many GB over anything that reads and writes.

mod builder;
mod compress;
mod config;
mod frame;
mod halves;
mod header;
mod observer;
mod parts;
mod predictor;
mod receiver;
mod sender;
mod strategy;
mod timeout;
mod transporter;

use std::io::{IoSlice, Read, Write};

use crate::error::{Error, Result};
use frame::{Incoming, Outgoing};
use parts::Parts;
use sender::Unguided;

pub use builder::MessageTransporterBuilder;
pub use compress::Compression;
pub use halves::{MessageReceiver, MessageSender};
pub use observer::{ClassStats, MessageObserver, MessageStats, Transfer};
pub use predictor::{Predictor, Switch, SwitchReason};
pub use strategy::{MessageSizer, Network, Operation, Pressure, SizeClass, Strategy, TableSizer};
pub use timeout::{Direction, StallLimit};
pub use transporter::MessageTransporter;

/// Sends a message of any size and flushes `conn`.
///
/// It arrives at [`receive_message`], [`receive_stream`] and their likes as
/// this one message, also if it is empty. Up to 65,535 bytes go out in one
/// write; larger messages are sent in chunks straight from `data`.
///
/// ```
/// # fn main() -> Result<(), pointsub::Error> {
/// let mut wire = Vec::new();
/// pointsub::send_message(&mut wire, b"hello")?;
/// assert_eq!(pointsub::receive_message(&mut &wire[..])?, b"hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of `conn`. After one in the middle of a message the other end cannot
/// know where the next begins: close the conn. (A [`MessageTransporter`] can
/// go on after a timeout.)
pub fn send_message<W: Write + ?Sized>(conn: &mut W, data: &[u8]) -> Result<()> {
    let slices = [IoSlice::new(data)];
    let parts = Parts::new(&slices).expect("a slice is not longer than the address space");
    let strategy = SizeClass::of(data.len() as u64).strategy();
    let mut outgoing = Outgoing::default();
    let mut guide = Unguided(Predictor::new());
    let outcome = outgoing.send(conn, parts, &strategy, &mut guide);
    outcome.map_err(|e| leave_sender("send_message", &outgoing, e))
}

/// Receives a message, or a stream, of at most 1 GiB.
///
/// Nothing behind it is read. Memory grows with what has arrived, never with
/// what a header announces.
///
/// # Errors
///
/// - [`ConnectionClosed`](crate::ErrorCode::ConnectionClosed): the peer closed
///   cleanly, and no message has begun.
/// - [`UnexpectedEnd`](crate::ErrorCode::UnexpectedEnd): the connection ended
///   inside a message; its [`context`](Error::context) `received` says how
///   many bytes of payload had arrived.
/// - [`MessageTooLarge`](crate::ErrorCode::MessageTooLarge): before any of it
///   is buffered.
/// - [`InvalidHeader`](crate::ErrorCode::InvalidHeader),
///   [`ChecksumMismatch`](crate::ErrorCode::ChecksumMismatch),
///   [`ProtocolViolation`](crate::ErrorCode::ProtocolViolation),
///   [`Unsupported`](crate::ErrorCode::Unsupported): what came is no good
///   message of this release.
/// - [`Aborted`](crate::ErrorCode::Aborted): the sender gave the message up.
///   The next one can be received.
/// - Those of `conn`, a timeout for example. Before the first byte of a
///   message the next call receives it whole.
///
/// After any other of them, close the conn: only a [`MessageTransporter`] can
/// go on inside a message.
pub fn receive_message<R: Read + ?Sized>(conn: &mut R) -> Result<Vec<u8>> {
    receive("receive_message", conn, DEFAULT_MAX)
}

/// Receives a message, or a stream, of at most `max` bytes.
///
/// # Errors
///
/// As [`receive_message`].
pub fn receive_message_max<R: Read + ?Sized>(conn: &mut R, max: usize) -> Result<Vec<u8>> {
    receive("receive_message_max", conn, max)
}

/// Sends all that `reader` gives until its end, whose size nobody knows yet,
/// and flushes `conn`; the number of bytes.
///
/// What a read gives is sent at once. If the reader fails, the receiver is
/// told, and the conn can be used for the next message.
///
/// # Errors
///
/// Those of `reader` and of `conn`; after the latter close the conn.
pub fn send_stream<W, R>(conn: &mut W, reader: &mut R) -> Result<u64>
where
    W: Write + ?Sized,
    R: Read + ?Sized,
{
    let mut outgoing = Outgoing::default();
    let mut guide = Unguided(Predictor::new());
    let outcome = outgoing.send_stream(conn, reader, &mut guide);
    outcome.map_err(|e| leave_sender("send_stream", &outgoing, e))
}

/// Receives a stream, or a message, of any size into `writer`; the number of bytes.
///
/// Each part is written once its checksum has been verified.
///
/// # Errors
///
/// As [`receive_message`], and those of `writer`; what was written by then are
/// good bytes from the beginning of the stream.
pub fn receive_stream<R, W>(conn: &mut R, writer: &mut W) -> Result<u64>
where
    R: Read + ?Sized,
    W: Write + ?Sized,
{
    let mut incoming = Incoming::default();
    let outcome = incoming.receive_stream(conn, &mut &mut *writer);
    outcome.map(|arrived| arrived.bytes).map_err(|e| leave_receiver("receive_stream", &incoming, e))
}

fn receive<R: Read + ?Sized>(place: &'static str, conn: &mut R, max: usize) -> Result<Vec<u8>> {
    let mut incoming = Incoming::default();
    let mut message = Vec::new();
    match incoming.receive(conn, &mut message, max as u64) {
        Ok(_) => Ok(message),
        Err(e) => Err(leave_receiver(place, &incoming, e)),
    }
}

/// The free functions forget where they were.
fn leave_receiver(place: &'static str, incoming: &Incoming, e: Error) -> Error {
    let e = e.at(place);
    if incoming.is_between_messages() { e } else { e.advise(CANNOT_GO_ON) }
}

fn leave_sender(place: &'static str, outgoing: &Outgoing, e: Error) -> Error {
    let e = e.at(place);
    if outgoing.is_between_messages() { e } else { e.advise(CANNOT_GO_ON) }
}

const CANNOT_GO_ON: &str =
    "close the conn: this function cannot go on inside a message (a MessageTransporter can)";

/// The default of the largest message that is received.
const DEFAULT_MAX: usize = 1 << 30;
