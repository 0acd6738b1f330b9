//! What a transporter tells: to an observer while it happens, in numbers after.

use std::time::Duration;

use crate::error::Error;
use crate::message::predictor::Switch;
use crate::message::strategy::SizeClass;
use crate::stall::Direction;

/// Hears what a transporter does. The calls are made on the thread that sends
/// or receives, with no lock held; what takes long delays the next message.
pub trait MessageObserver: Send + Sync {
    /// A message or stream was sent.
    fn sent(&self, transfer: &Transfer) {
        let _ = transfer;
    }

    /// A message or stream was received.
    fn received(&self, transfer: &Transfer) {
        let _ = transfer;
    }

    /// A stream that is being sent moved to another class.
    fn switched(&self, switch: &Switch) {
        let _ = switch;
    }

    /// Sending or receiving failed; timeouts count as well.
    fn failed(&self, direction: Direction, error: &Error) {
        let _ = (direction, error);
    }
}

/// A message or stream that is complete.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Transfer {
    /// Its class, by its size.
    pub class: SizeClass,
    /// Its size.
    pub bytes: u64,
    /// From its first byte to its last.
    pub took: Duration,
    /// Its size was not known beforehand.
    pub stream: bool,
}

/// What went through a transporter, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageStats {
    pub(crate) sent: [ClassStats; SizeClass::ALL.len()],
    pub(crate) received: [ClassStats; SizeClass::ALL.len()],
    pub(crate) stalls: [u64; 2],
}

/// What went through a transporter in one class and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ClassStats {
    /// How many messages and streams.
    pub messages: u64,
    /// How many bytes of content.
    pub bytes: u64,
    /// How long they took together, and the slowest of them.
    pub time: Duration,
    /// The slowest of them.
    pub longest: Duration,
}

impl MessageStats {
    /// What was sent in a class.
    pub fn sent(&self, class: SizeClass) -> ClassStats {
        self.sent[class as usize]
    }

    /// What was received in a class.
    pub fn received(&self, class: SizeClass) -> ClassStats {
        self.received[class as usize]
    }

    /// How often a stall limit has struck.
    pub fn stalls(&self, direction: Direction) -> u64 {
        self.stalls[direction as usize]
    }
}

impl ClassStats {
    pub(crate) fn add(&mut self, transfer: &Transfer) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(transfer.bytes);
        self.time = self.time.saturating_add(transfer.took);
        self.longest = self.longest.max(transfer.took);
    }

    /// Bytes a second, over all of them.
    pub fn rate(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 / seconds } else { 0.0 }
    }
}
