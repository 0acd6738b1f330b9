//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod backoff;
mod driver;
mod error;
mod fields;
#[cfg(test)]
mod fuzz;
mod host;
pub mod message;
mod net;
mod proto;
mod resources;
mod session;
mod stall;
#[cfg(test)]
mod testing;
pub mod transfer;
mod varint;

pub use driver::Priority;
pub use error::{Error, ErrorCode, Result, Severity};
pub use host::{Host, HostBuilder, HostStats, PeerInfo};
pub use libp2p_core::{Multiaddr, PeerId};
pub use libp2p_identity::Keypair;
pub use message::{
    MessageTransporter, receive_message, receive_message_max, receive_stream, send_message,
    send_stream,
};
pub use net::{Conn, ConnStats, Incoming, IntoIncoming, Listener, ListenerStats, ToPeerAddrs};
pub use proto::noise::Cipher;
pub use resources::budget::Pressure;
pub use resources::events::{Event, Events};
pub use resources::limits::{Limit, LimitStats};
pub use transfer::progress::{TransferHandle, TransferObserver};

/// The README's program, compiled and run as a test of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
