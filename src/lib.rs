//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod driver;
mod error;
mod host;
mod net;
mod proto;
mod resources;
mod varint;

pub use error::{Error, ErrorCode, Result};
pub use host::{Host, HostBuilder, HostStats};
pub use libp2p_core::{Multiaddr, PeerId};
pub use libp2p_identity::Keypair;
pub use net::{Conn, ConnStats, Incoming, IntoIncoming, Listener, ListenerStats, ToPeerAddrs};
