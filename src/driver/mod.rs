//! Floor 2: sockets, threads, locks and the clock. It moves bytes between sockets
//! and the machines of `proto/`, and blocks those who wait.

mod doorman;
mod drive;
mod handshake;
mod inbox;
mod link;
mod race;
pub(crate) mod reactor;
mod spin;
mod stream;
mod waiter;

pub(crate) use doorman::{Door, Pass, Reception};
pub(crate) use handshake::Secured;
pub(crate) use link::{Link, LinkLimits, Negotiated, Offer, Owner, Patience};
pub(crate) use race::{Canceller, Family, Outcome, Place, Race};
pub use stream::Priority;
pub(crate) use stream::{Answer, Service, Stream};
