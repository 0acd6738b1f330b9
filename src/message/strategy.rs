//! How a message of a given size is sent: five classes, one table.

use std::fmt;
use std::time::Duration;

/// The class of a message, by its size. The borders are half-open: a message
/// of exactly 1 KiB is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SizeClass {
    /// Below 1 KiB: least latency, one write.
    Tiny,
    /// Below 64 KiB: one write out of a pooled buffer.
    Small,
    /// Below 1 MiB: chunks of 64 KiB.
    Medium,
    /// Below 100 MiB: chunks of 256 KiB.
    Large,
    /// From 100 MiB on: chunks of 1 MiB.
    Huge,
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Strategy {
    /// The class it was made for.
    pub class: SizeClass,
    /// How many bytes are handed to the transport at once, at most (one chunk
    /// at least).
    pub in_flight: usize,
    /// The size of a chunk; messages up to 65,535 bytes are never split.
    pub chunk: usize,
    /// How long a chunk may stand still, where the transport can be told.
    pub stall: Duration,
    /// How often an operation of this size is worth trying.
    pub attempts: u32,
}

impl SizeClass {
    /// Every class, the smallest first.
    pub const ALL: [SizeClass; 5] =
        [SizeClass::Tiny, SizeClass::Small, SizeClass::Medium, SizeClass::Large, SizeClass::Huge];

    /// The class of a message of `size` bytes.
    pub fn of(size: u64) -> SizeClass {
        let below = |class: &&SizeClass| size < class.row().below;
        *SizeClass::ALL.iter().find(below).unwrap_or(&SizeClass::Huge)
    }

    /// The sizes of this class: from the first up to, not including, the second.
    pub fn range(self) -> std::ops::Range<u64> {
        let start = if self == SizeClass::Tiny { 0 } else { TABLE[self as usize - 1].below };
        start..self.row().below
    }

    /// How messages of this class are sent if nothing is known of the network.
    pub fn strategy(self) -> Strategy {
        let row = self.row();
        Strategy {
            class: self,
            in_flight: row.in_flight,
            chunk: row.chunk,
            stall: Duration::from_secs(row.stall),
            attempts: row.attempts,
        }
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.row().name)
    }
}

struct Row {
    name: &'static str,
    below: u64,
    in_flight: usize,
    chunk: usize,
    /// Seconds.
    stall: u64,
    attempts: u32,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[rustfmt::skip]
const TABLE: [Row; 5] = [
    Row { name: "tiny",   below: 1 << 10,   in_flight: KIB,       chunk: KIB,       stall: 2,   attempts: 3 },
    Row { name: "small",  below: 64 << 10,  in_flight: 64 * KIB,  chunk: 64 * KIB,  stall: 5,   attempts: 3 },
    Row { name: "medium", below: 1 << 20,   in_flight: 256 * KIB, chunk: 64 * KIB,  stall: 15,  attempts: 5 },
    Row { name: "large",  below: 100 << 20, in_flight: MIB,       chunk: 256 * KIB, stall: 30,  attempts: 7 },
    Row { name: "huge",   below: u64::MAX,  in_flight: 4 * MIB,   chunk: MIB,       stall: 120, attempts: 10 },
];
