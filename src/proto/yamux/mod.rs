//! yamux 1.0.0 as libp2p speaks it, over Noise frames, in two halves that share
//! nothing but each stream's [`Flow`]: [`Rx`] reads, [`Tx`] writes.
//!
//! Bytes are copied at most once on their way through either half, and no frame
//! costs an allocation. What a peer may not do ends the connection before any
//! state exists for it.

mod control;
mod flow;
mod frame;
mod kept;
mod out;
mod records;
mod rx;
mod streams;
#[cfg(test)]
mod tests;
mod tx;
mod window;

pub(crate) use control::{Control, ControlQueue};
pub(crate) use flow::{Flow, INITIAL_WINDOW};
pub(crate) use frame::{Role, StreamId};
pub(crate) use kept::Kept;
pub(crate) use out::Batch;
pub(crate) use records::{Body, MIN_RECV_BUF};
pub(crate) use rx::{Event, Rx};
#[cfg(test)]
pub(crate) use tx::MIN_STORAGE;
pub(crate) use tx::Tx;
pub(crate) use window::{MAX_WINDOW, RecvWindow};
