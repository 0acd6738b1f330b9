//! How a message of a given size is sent: five classes, one table.

use std::fmt;
use std::time::Duration;

use crate::stall::{Network, Pressure};

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

impl Strategy {
    /// The same, fitted to the network and to the memory there is: the bytes
    /// in flight are halved below 1 ms of round trip and doubled above 100 ms;
    /// one and a half times as many while memory is plentiful, half of them
    /// while it is scarce; 1 KiB at least.
    #[must_use]
    pub fn adapted(mut self, network: &Network) -> Strategy {
        let by_distance = network.distance().choose(0.5, 1.0, 2.0);
        let by_memory = match network.pressure {
            Some(Pressure::Low) => 1.5,
            Some(Pressure::Medium) | None => 1.0,
            Some(Pressure::High) => 0.5,
        };
        let in_flight = self.in_flight as f64 * by_distance * by_memory;
        self.in_flight = (in_flight as usize).max(LEAST_IN_FLIGHT);
        self
    }

    /// How long `operation` may make no progress: the class's limit, more for
    /// a write (1.2), less for closing (0.5), less nearby (0.8 below 1 ms of
    /// round trip), more far away (2 above 100 ms).
    pub fn stall_limit(&self, operation: Operation, network: &Network) -> Duration {
        let by_operation = match operation {
            Operation::Connect | Operation::Read => 1.0,
            Operation::Write => 1.2,
            Operation::Close => 0.5,
        };
        self.stall.mul_f64(by_operation * network.distance().choose(0.8, 1.0, 2.0))
    }

    /// A limit for a whole transfer of `size` bytes, for those who want one:
    /// 120 s for each 100 MiB begun, for anything smaller its stall limit.
    pub fn total_limit(size: u64) -> Duration {
        match SizeClass::of(size) {
            SizeClass::Huge => {
                let begun = size.div_ceil(SizeClass::Huge.range().start);
                SizeClass::Huge
                    .strategy()
                    .stall
                    .saturating_mul(begun.try_into().unwrap_or(u32::MAX))
            }
            class => class.strategy().stall,
        }
    }
}

/// What a stall limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening a conn.
    Connect,
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Closing.
    Close,
}

impl Network {
    fn distance(&self) -> Distance {
        match self.round_trip {
            Some(rtt) if rtt < NEAR => Distance::Near,
            Some(rtt) if rtt > FAR => Distance::Far,
            _ => Distance::Between,
        }
    }
}

enum Distance {
    Near,
    Between,
    Far,
}

impl Distance {
    fn choose(&self, near: f64, between: f64, far: f64) -> f64 {
        match self {
            Distance::Near => near,
            Distance::Between => between,
            Distance::Far => far,
        }
    }
}

/// Decides how messages are sent. Every method has the default that the table
/// in the [module docs](crate::message#classes) describes.
///
/// ```
/// use pointsub::message::{MessageSizer, MessageTransporter, SizeClass, Strategy};
///
/// /// Never chunks above 64 KiB.
/// struct Modest;
///
/// impl MessageSizer for Modest {
///     fn strategy(&self, size: u64) -> Strategy {
///         SizeClass::of(size).min(SizeClass::Medium).strategy()
///     }
/// }
///
/// let transporter = MessageTransporter::builder(Vec::new()).sizer(Modest).build();
/// # let _: MessageTransporter<Vec<u8>> = transporter;
/// ```
pub trait MessageSizer: Send + Sync {
    /// How a message of `size` bytes is sent.
    fn strategy(&self, size: u64) -> Strategy {
        SizeClass::of(size).strategy()
    }

    /// Fits a strategy to what is known of the network.
    fn optimise(&self, strategy: Strategy, network: &Network) -> Strategy {
        strategy.adapted(network)
    }

    /// How long a stream may be whose first read gave `sample` where there was
    /// room for `room` bytes. What filled the room is taken for at least a
    /// medium stream, anything else for all there is.
    fn estimate(&self, sample: &[u8], room: usize) -> u64 {
        let seen = sample.len() as u64;
        if sample.len() < room { seen } else { seen.max(SizeClass::Medium.range().start) }
    }
}

/// The [`MessageSizer`] with all the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableSizer;

impl MessageSizer for TableSizer {}

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

/// Round trips below and above which the factors change.
const NEAR: Duration = Duration::from_millis(1);
const FAR: Duration = Duration::from_millis(100);

const LEAST_IN_FLIGHT: usize = KIB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_half_open_at_each_border() {
        use SizeClass::*;
        let borders = [(1 << 10, Tiny, Small), (64 << 10, Small, Medium), (1 << 20, Medium, Large)];
        for (size, below, from) in borders.into_iter().chain([(100 << 20, Large, Huge)]) {
            assert_eq!([size - 1, size, size + 1].map(SizeClass::of), [below, from, from]);
            assert_eq!((below.range().end, from.range().start), (size, size));
        }
        assert_eq!((SizeClass::of(0), SizeClass::of(u64::MAX)), (Tiny, Huge));
    }

    #[test]
    fn bytes_in_flight_follow_distance_and_memory() {
        let ms = |ms: f64| Some(Duration::from_secs_f64(ms / 1000.0));
        let in_flight = |class: SizeClass, round_trip, pressure| {
            class.strategy().adapted(&Network { round_trip, pressure }).in_flight
        };
        use SizeClass::*;
        assert_eq!(in_flight(Medium, None, None), 256 * KIB);
        assert_eq!(in_flight(Medium, ms(0.9), None), 128 * KIB);
        assert_eq!(in_flight(Medium, ms(1.0), None), 256 * KIB);
        assert_eq!(in_flight(Medium, ms(100.0), None), 256 * KIB);
        assert_eq!(in_flight(Medium, ms(100.1), None), 512 * KIB);
        assert_eq!(in_flight(Huge, ms(200.0), Some(Pressure::Low)), 12 * MIB);
        assert_eq!(in_flight(Large, None, Some(Pressure::Medium)), MIB);
        assert_eq!(in_flight(Large, None, Some(Pressure::High)), 512 * KIB);
        assert_eq!(in_flight(Tiny, ms(0.1), Some(Pressure::High)), KIB);
    }

    #[test]
    fn stall_limits_follow_operation_and_distance() {
        let far = Network { round_trip: Some(Duration::from_secs(1)), pressure: None };
        let near = Network { round_trip: Some(Duration::from_micros(50)), pressure: None };
        let medium = SizeClass::Medium.strategy();
        let unknown = Network::default();
        let limit = |operation, network| medium.stall_limit(operation, network).as_secs_f64();
        assert_eq!(limit(Operation::Read, &unknown), 15.0);
        assert_eq!(limit(Operation::Connect, &unknown), 15.0);
        assert_eq!(limit(Operation::Write, &unknown), 18.0);
        assert_eq!(limit(Operation::Close, &unknown), 7.5);
        assert_eq!(limit(Operation::Read, &far), 30.0);
        assert_eq!(limit(Operation::Read, &near), 12.0);
    }

    #[test]
    fn a_total_limit_counts_each_100_mib_begun() {
        let hundred = 100 << 20;
        let limits = [1, 10 << 20, hundred, hundred + 1, 10 * hundred, u64::MAX];
        let seconds = limits.map(|size| Strategy::total_limit(size).as_secs());
        assert_eq!(seconds[..5], [2, 30, 120, 240, 1200]);
        assert_eq!(seconds[5], 120 * u64::from(u32::MAX));
    }
}
