//! What a transport tells those who use it, and what they may set: how long it may
//! stand still, how far its peer is, and whether there is memory for more.

mod tried;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::error::Result;

pub use tried::TryIo;

/// A transport that can be told how long it may stand still.
///
/// While a limit is set, a read or a write that makes no progress for so long
/// fails with `WouldBlock` or `TimedOut`. The transporter sets one where a
/// chunk begins and puts back what it found where the chunk ends: between
/// chunks a stream may pause as long as it likes. For sockets, whose only such
/// limit is the timeout that the user may have set, the shorter of both counts.
pub trait StallLimit {
    /// The limit that is set.
    ///
    /// # Errors
    ///
    /// Those of the transport.
    fn stall_limit(&self, direction: Direction) -> io::Result<Option<Duration>>;

    /// Sets or lifts the limit.
    ///
    /// # Errors
    ///
    /// Those of the transport.
    fn set_stall_limit(&self, direction: Direction, limit: Option<Duration>) -> io::Result<()>;

    /// What the transport knows of its network.
    fn network(&self) -> Network {
        Network::default()
    }

    /// Asks to begin a transfer of so many bytes; it counts as under way until what is
    /// returned is dropped. By default there is always room.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorCode::OutOfMemory): whoever looks after the memory
    /// wants no more of this size just now. Nothing was sent; later it may go.
    fn admit(&self, _bytes: u64) -> Result<Admission> {
        Ok(Admission::default())
    }
}

/// A transfer that was [admitted](StallLimit::admit); dropped, it counts no longer.
#[derive(Default)]
#[must_use = "dropped, it counts no longer"]
pub struct Admission(#[expect(dead_code, reason = "held until it is dropped")] Option<Held>);

type Held = Box<dyn Send + Sync>;

impl Admission {
    /// It counts until it drops `held`.
    pub fn holding(held: impl Send + Sync + 'static) -> Admission {
        Admission(Some(Box::new(held)))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// What is known of the way to the peer and of the memory here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Network {
    /// The smoothed round trip, where it is measured.
    pub round_trip: Option<Duration>,
    /// How scarce memory is, where somebody watches it.
    pub pressure: Option<Pressure>,
}

/// How scarce memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// There is plenty.
    Low,
    /// Some is left.
    Medium,
    /// The budget is nearly used up.
    High,
}

/// One of the two directions of a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What we receive.
    Read,
    /// What we send.
    Write,
}

macro_rules! by_socket_timeouts {
    ($($socket:ty),*) => {$(
        impl StallLimit for $socket {
            fn stall_limit(&self, direction: Direction) -> io::Result<Option<Duration>> {
                match direction {
                    Direction::Read => self.read_timeout(),
                    Direction::Write => self.write_timeout(),
                }
            }

            fn set_stall_limit(
                &self,
                direction: Direction,
                limit: Option<Duration>,
            ) -> io::Result<()> {
                match direction {
                    Direction::Read => self.set_read_timeout(limit),
                    Direction::Write => self.set_write_timeout(limit),
                }
            }
        }
    )*};
}

by_socket_timeouts!(TcpStream);
by_socket_timeouts!(UnixStream);

impl<T: StallLimit + ?Sized> StallLimit for &T {
    fn stall_limit(&self, direction: Direction) -> io::Result<Option<Duration>> {
        (**self).stall_limit(direction)
    }

    fn set_stall_limit(&self, direction: Direction, limit: Option<Duration>) -> io::Result<()> {
        (**self).set_stall_limit(direction, limit)
    }

    fn network(&self) -> Network {
        (**self).network()
    }

    fn admit(&self, bytes: u64) -> Result<Admission> {
        (**self).admit(bytes)
    }
}
