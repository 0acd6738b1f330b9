//! Messages of 0 bytes to many GB, and streams of unknown size, over anything
//! that reads and writes.
//!
//! [`send_message`] and its likes need nothing but a conn; a
//! [`MessageTransporter`] has options and state, and goes on after a timeout.
//! Both speak one wire format and mix freely: nothing is read ahead of the
//! message that was asked for.
//!
//! # Classes
//!
//! How a message is sent follows from its size. A [`MessageSizer`] can decide
//! otherwise; this is what [`TableSizer`] does:
//!
//! | class | size | bytes in flight | chunk | stall limit | attempts |
//! |---|---|---|---|---|---|
//! | tiny | < 1 KiB | 1 KiB | whole | 2 s | 3 |
//! | small | < 64 KiB | 64 KiB | whole | 5 s | 3 |
//! | medium | < 1 MiB | 256 KiB | 64 KiB | 15 s | 5 |
//! | large | < 100 MiB | 1 MiB | 256 KiB | 30 s | 7 |
//! | huge | from there | 4 MiB | 1 MiB | 120 s | 10 |
//!
//! *Bytes in flight* is what one write hands to the transport, as several
//! chunks ([adapted](Strategy::adapted) to the network and to the memory there
//! is). A *stall limit* counts the time that a chunk makes no progress, not
//! what a transfer takes; see [`StallLimit`]. A stream is sent in a chunk for
//! each read of its source, at once; how much a read may give is decided by its
//! class, which it changes while it runs (see [`Predictor`]).
//!
//! # Memory
//!
//! A receiver holds what has arrived of a message, an eighth more at most, and
//! one chunk (4 MiB at most, as the format allows). What a header announces
//! makes nobody allocate, except for that one chunk. A stream passes through
//! the memory of one chunk at each end.
//!
//! # The wire
//!
//! This is version 1, complete: a program in another language can be written
//! from it. Integers are big-endian. A *frame* is a header, a payload, and a
//! trailer; which of the latter two there are follows from the header.
//!
//! ## Header
//!
//! Four bytes, and twelve more if `long` is set:
//!
//! ```text
//!  0        1        2        3
//! +--------+-----------------+--------+
//! |VVKKKLBP|  length, low 16 | check  |
//! +--------+-----------------+--------+
//!  4        5        6                                      12        16
//! +--------+--------+--------------------------------------+-----------+
//! | flags  |   0    |            length, high 48            |  check 2  |
//! +--------+--------+--------------------------------------+-----------+
//! ```
//!
//! - `VV` is 2 (binary 10). 3 stands for a later version, refused by name; 0
//!   and 1 are never used, so that no text begins like a frame.
//! - `KKK` is the kind, see below.
//! - `L` (*long*): the length is above 65,535 or `flags` are not 0, and the
//!   second part of the header follows. Otherwise it must not be set.
//! - `B` (*bare*): no frame of this message has a trailer.
//! - `P` (*packed*): the payload is compressed.
//! - `check` is the CRC-8/AUTOSAR of bytes 0 to 2: polynomial 0x2F, initial
//!   value 0xFF, not reflected, inverted at the end; of "123456789" it is 0xDF.
//!   A receiver verifies it before it uses the length or waits for more.
//! - `flags`: 8 controlled, of *large* and *stream* only, see below. The others
//!   are reserved and 0: 1 sealed, 2 padded, 4 with an operation id.
//! - `check 2` is the CRC-32 of bytes 0 to 11. CRC-32 is everywhere that of
//!   zlib, PNG and Ethernet.
//!
//! | kind | name | length | payload | trailer |
//! |---|---|---|---|---|
//! | 0 | message | of the payload, up to 65,535 | the message | yes, unless the length is 0 |
//! | 1 | large | of the content of all chunks | none | no |
//! | 2 | stream | 0 | none | no |
//! | 3 | chunk | of the payload, 1 to 4 MiB | content | yes |
//! | 4 | end | of the content of all chunks | none | yes |
//! | 5 | abort | of the payload, up to 1,024 | why, in UTF-8 | yes |
//! | 6 | command | what it says, see below | none | no |
//! | 7 | reserved | | | |
//!
//! ## Messages and streams
//!
//! A message is one *message* frame; or a *large* frame, any number of
//! *chunk*s, and an *end*. A stream is a *stream* frame, any number of chunks,
//! and an end. In place of the end an *abort* may stand: the sender gave up,
//! what had come is void, and the next frame begins another message. The frames
//! of one message are not mixed with others, and have the same `bare`. Chunks
//! may be of any size, also within one message. A receiver refuses lengths that
//! do not add up.
//!
//! A message above 65,535 bytes is always sent in chunks. So a receiver that
//! passes content on needs to hold one chunk to have it checked first.
//!
//! ## Commands
//!
//! A *command* is a header alone: its length says what it means.
//!
//! | length | meaning |
//! |---|---|
//! | 1 | pause |
//! | 2 | resume |
//! | 3 | cancel |
//! | 4 | done; backward only |
//! | 1000 to 4999 | failed, with the number of an [`ErrorCode`](crate::ErrorCode); backward only |
//!
//! *Forward*, from the sender of a *large* or *stream*, they stand between its
//! frames and belong to it (as to `bare` and to the checksum). After a pause only
//! a resume, a cancel or an abort comes; a resume comes only after a pause. A
//! cancel stands in place of the end, as an abort does. A receiver that shows
//! nobody how it goes may skip pause and resume.
//!
//! *Backward*, from the receiver, they come only while a message is under way
//! whose first header is *controlled*, each by itself and not `bare`. They are
//! any number of pauses and resumes, and then exactly one of: *done*, once the
//! last frame of the message (end, abort or cancel) was read and its content
//! taken; *cancel*; or *failed*. Behind that the receiver sends messages again. A
//! sender reads on to that command, and no further, before it counts the message
//! as sent; if it gives up before, it skips the commands up to there when it
//! receives next.
//!
//! Pause and resume are requests when they come backward. The sender obeys by
//! standing still after the chunk under way and by saying so forward; it goes on
//! when neither end wants a pause. A receiver reads on while it wants a pause, so
//! that what was under way does not block the sender. After it sent cancel or
//! failed it throws away what still comes, up to the sender's last frame. A
//! cancel or failed decides what becomes of the message, whatever the sender's
//! last frame is; else that does.
//!
//! A receiver that cannot write refuses a controlled message.
//!
//! ## Trailer
//!
//! The CRC-32, in four bytes, of all headers and all payloads (as they are on
//! the wire) of the message from its first frame to this payload; trailers
//! themselves are left out. One checksum runs on through all frames of a
//! message: an exchanged, lost or doubled chunk is found as well.
//!
//! ## Packed payloads
//!
//! Byte 0 is the algorithm: 1 lz4 (a raw block), 2 zstd (a frame). Bytes 1 to 3
//! are the length of the content, from 1 to 4 MiB; the rest is compressed
//! content. Each payload is compressed by itself. Only *message* and *chunk*
//! frames are ever packed. Lengths of *large* and *end* count content, those
//! of other frames what is on the wire.
//!
//! ## Examples
//!
//! ```text
//! 80 00 00 5b                                       an empty message
//! 80 00 05 c8  68 65 6c 6c 6f  df ed f6 04          "hello"
//! 82 00 05 d4  68 65 6c 6c 6f                       the same, bare
//! 90 00 00 bb                                       a stream:
//! 98 00 03 ba  61 62 63  1a 21 fe ec                  "abc",
//! a0 00 03 c5  fe 02 ef 26                            its end after 3 bytes
//!
//! 94 00 00 83 08 00 00 00 00 00 00 00 98 31 58 33  a stream under control:
//! 98 00 03 ba  61 62 63  b0 e3 1b da                  "abc",
//! b0 00 01 7b                                         a pause
//! b0 00 02 0a                                         and its end,
//! a0 00 03 c5  61 24 52 a4                            the end after 3 bytes
//! b0 00 04 e8                                       backward: done
//! b0 00 03 25                                       or: cancel
//! b0 0f a4 3c                                       or: failed (4004)
//! ```
//!
//! `tests/receiver.py` receives all of it but packed payloads and control.

mod builder;
mod compress;
mod config;
mod control;
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
use frame::{Incoming, Outgoing, Plain};
use parts::Parts;
use sender::Unguided;

pub use crate::stall::{Admission, Direction, Network, Pressure, StallLimit, TryIo};
pub use builder::MessageTransporterBuilder;
pub use compress::Compression;
pub(crate) use control::{Pilot, Wish};
pub use halves::{MessageReceiver, MessageSender};
pub use observer::{ClassStats, MessageObserver, MessageStats, Transfer};
pub use predictor::{Predictor, Switch, SwitchReason};
pub use strategy::{MessageSizer, Operation, SizeClass, Strategy, TableSizer};
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
    let outcome = outgoing.send(&mut Plain(conn), parts, &strategy, &mut guide);
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
    let outcome = outgoing.send_stream(&mut Plain(conn), reader, &mut guide);
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
