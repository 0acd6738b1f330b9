//! What a scenario needs of a node and of a stream.

use std::io::{self, Read, Write};
use std::sync::Arc;

/// A node that listens, serves and dials.
pub trait Node: Send + Sync {
    /// Where it can be dialled: an address that ends in `/p2p/<peer id>`.
    fn address(&self) -> String;

    /// Gives every inbound stream of `protocol` to `handler`, on a thread of its own.
    fn serve(&self, protocol: &'static str, handler: Handler);

    /// Opens a stream to the node at `address`, dialling it if need be.
    fn open(&self, address: &str, protocol: &'static str) -> io::Result<Duplex>;
}

/// What to do with an inbound stream. Its error is what the peer will notice too.
pub type Handler = Arc<dyn Fn(Duplex) -> io::Result<()> + Send + Sync>;

/// A stream in two halves that two threads can use. Dropping both without
/// `finish` is whatever the implementation makes of it: libp2p resets, pointsub
/// sends FIN and answers later data with a reset.
pub struct Duplex {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn WriteEnd>,
}

/// A writer whose end can be told to the peer.
pub trait WriteEnd: Write + Send {
    /// No more will be written: the peer reads to the end of the stream.
    fn finish(&mut self) -> io::Result<()>;
}
