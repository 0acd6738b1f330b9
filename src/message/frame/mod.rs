//! Frames on their way: [`Outgoing`] writes them, [`Incoming`] reads them.
//! Both survive a timeout in the middle of a frame.

mod incoming;
mod outgoing;

pub(crate) use incoming::Incoming;
pub(crate) use outgoing::{Options, Outgoing};
