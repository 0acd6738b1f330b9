//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod backoff;
mod driver;
mod error;
mod host;
pub mod message;
mod net;
mod proto;
mod resources;
mod stall;
mod varint;

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

/// The README's program, compiled and run as a test of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
