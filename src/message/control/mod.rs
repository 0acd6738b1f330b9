//! Steering a message under way: what the two ends want of it, and how each
//! hears of the other.
//!
//! One thread moves the message and does this beside it. Where the transport
//! has [`TryIo`](crate::stall::TryIo), reads and writes are tried for
//! [`SLICE`] at a time, and in between the pilot is asked, and the other end
//! listened to or told. Without it, that happens between chunks, and only the
//! sender can tell the receiver.

mod incoming;
mod outgoing;
mod pilot;
mod wires;

use std::io;
use std::time::Duration;

use crate::error::{Error, ErrorCode};
use crate::message::frame::{Incoming, Outgoing};
use crate::message::timeout::Knobs;

pub(crate) use incoming::SteeredSource;
pub(crate) use outgoing::SteeredOutlet;
pub(crate) use pilot::{Pilot, Wish};
pub(crate) use wires::{Tried, Wires};

/// What a message that is sent under a pilot hangs on, apart from its conn.
pub(crate) struct Helm<'a, C> {
    pub(crate) knobs: Option<&'a dyn Knobs<C>>,
    pub(crate) wires: Option<&'a dyn Wires<C>>,
    pub(crate) pilot: &'a mut dyn Pilot,
    /// Reads the receiver's commands; `None`: it has no say.
    pub(crate) ear: Option<&'a mut Incoming>,
}

/// What a message that is received hangs on, apart from its conn.
pub(crate) struct Reins<'a, C> {
    pub(crate) knobs: Option<&'a dyn Knobs<C>>,
    pub(crate) wires: Option<&'a dyn Wires<C>>,
    pub(crate) pilot: Option<&'a mut dyn Pilot>,
    /// Answers the sender, between what we send; `None`: we have no say.
    pub(crate) voice: Option<&'a mut Outgoing>,
}

impl<'a, C> Reins<'a, C> {
    /// Nobody steers.
    pub(crate) fn loose(knobs: Option<&'a dyn Knobs<C>>) -> Reins<'a, C> {
        Reins { knobs, wires: None, pilot: None, voice: None }
    }
}

fn left_here() -> Error {
    Error::new(ErrorCode::ConnectionReset, "this end has given the conn up")
}

fn cancelled_here() -> Error {
    Error::new(ErrorCode::Cancelled, "the transfer was cancelled here")
}

/// An error that leaves a frame where it is, as a timeout does.
fn interruption(e: Error) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, e)
}

fn user_timeout(what: &str, limit: Duration) -> io::Error {
    Error::new(ErrorCode::Timeout, format!("the {what} timed out after {limit:?}")).into()
}

/// How long a read or write is tried before somebody is asked again.
const SLICE: Duration = Duration::from_millis(25);

/// How long, after it was called off, a message may take to come to its end in
/// good order.
const GRACE: Duration = Duration::from_secs(1);
