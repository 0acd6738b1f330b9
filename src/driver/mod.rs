//! Floor 2: sockets, threads, locks and the clock. It moves bytes between sockets
//! and the machines of `proto/`, and blocks those who wait.

// What another system has to be taught: `waiter`'s poll and bell, and to register sockets
// without a `SourceFd`, in `reactor` and `doorman`.
#[cfg(not(unix))]
compile_error!("pointsub needs a Unix system: a thread that blocks waits in poll(2) on its socket");

mod carrier;
mod doorman;
mod drive;
mod handshake;
mod holding;
mod inbox;
mod link;
mod race;
pub(crate) mod reactor;
mod reactors;
mod spin;
mod stream;
mod waiter;

pub(crate) use carrier::{Answer as HeadAnswer, Answered, Carries, Curious, Greeted, Watcher};
pub(crate) use doorman::{Door, Pass, Reception};
pub(crate) use handshake::Secured;
pub(crate) use holding::{Holding, Pace, STILL};
pub(crate) use inbox::Inbox;
pub(crate) use link::{
    Left, Link, LinkLimits, Negotiated, Offer, Opening, Owner, Patience, Sent, Written,
};
pub(crate) use race::{Canceller, Family, Outcome, Place, Race};
pub(crate) use reactors::Reactors;
pub(crate) use spin::Spin;
pub use stream::Priority;
pub(crate) use stream::{Answer, Fate, Service, Stream, Waiters};
pub(crate) use waiter::{Waiter, expect_back};
