//! Secured connections: Noise XX with libp2p's payload, and the frames after it.
//!
//! The handshake is snow's, the cryptography aws-lc's, and both are hidden here:
//! a [`Handshake`] ends in a [`Secured`], whose [`Sealer`] and [`Opener`] work on
//! plain frames. Two hosts of this library also say there what they can do beyond
//! libp2p, and may seal with another cipher. Specification: libp2p/specs, noise.

mod capabilities;
mod cipher;
mod handshake;
mod identity;
mod payload;
mod resolver;
mod schedule;

#[cfg(test)]
mod tests;

pub(crate) use capabilities::Capabilities;
pub use cipher::Cipher;
#[cfg(test)]
pub(crate) use cipher::pair;
pub(crate) use cipher::{MAX_FRAME, MAX_PLAIN, Opener, Reopener, Sealer, TAG};
pub(crate) use handshake::{Handshake, Progress, Secured, StaticKey};
pub(crate) use identity::Identity;
