//! Blocking, encrypted, multiplexed streams and messages between two keys.
//!
//! A [`Host`] is a key and its connections. A [`Conn`] is a `TcpStream` to a peer and a
//! protocol; a [`Listener`] is a `TcpListener` for a protocol. Many conns share one
//! connection, and between two hosts of this library a conn survives the loss of it. Any
//! libp2p node that speaks TCP, Noise and yamux is a peer. There is no async runtime: one
//! thread of the host's waits for sockets that nobody reads, the others are yours.
//!
//! ```
//! use pointsub::{Conn, Host, Listener, receive_message, send_message};
//!
//! # fn main() -> std::io::Result<()> {
//! let server = Host::builder().listen_on("127.0.0.1:0").build()?;
//! let listener = Listener::bind(&server, "/shout/1.0.0")?;
//! std::thread::spawn(move || {
//!     for mut conn in listener.incoming().flatten() {
//!         while let Ok(question) = receive_message(&mut conn) {
//!             let _ = send_message(&mut conn, &question.to_ascii_uppercase());
//!         }
//!     }
//! });
//!
//! let client = Host::new()?;
//! let mut conn = Conn::connect(&client, &server.dial_addrs()[0], "/shout/1.0.0")?;
//! send_message(&mut conn, b"hello")?;
//! assert_eq!(receive_message(&mut conn)?, b"HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! On top of a conn, or of anything that reads and writes: messages of any size and
//! streams of unknown size in [`message`], files and directories that are gone on with
//! after any interruption in [`transfer`].
//!
//! # Features
//!
//! None is on by default. `lz4` and `zstd` compress messages and files; `progress` brings a
//! bar for transfers on a terminal.
//!
//! # Errors
//!
//! Every call of a conn, a listener or a host fails with a `std::io::Error` whose kind is
//! that of `std::net`; inside is an [`Error`] with a [code](ErrorCode), and what to do next.

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
mod random;
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
