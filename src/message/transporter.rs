//! The same with options and state.

use std::io::{IoSlice, Read, Write};

use crate::error::{Error, ErrorCode, Result};
use crate::message::DEFAULT_MAX;
use crate::message::frame::{Incoming, Options, Outgoing};
use crate::message::parts::Parts;
use crate::message::strategy::SizeClass;

/// Sends and receives messages over `C`, with options, and goes on after a timeout.
pub struct MessageTransporter<C> {
    conn: C,
    incoming: Incoming,
    outgoing: Outgoing,
    options: Options,
    max_message_size: usize,
}

/// Makes a [`MessageTransporter`].
pub struct MessageTransporterBuilder<C> {
    conn: C,
    options: Options,
    max_message_size: usize,
}

impl<C> MessageTransporter<C> {
    /// A transporter with the default options.
    pub fn new(conn: C) -> MessageTransporter<C> {
        MessageTransporter::builder(conn).build()
    }

    /// A transporter with options.
    pub fn builder(conn: C) -> MessageTransporterBuilder<C> {
        MessageTransporterBuilder {
            conn,
            options: Options::default(),
            max_message_size: DEFAULT_MAX,
        }
    }

    /// The conn underneath.
    pub fn get_ref(&self) -> &C {
        &self.conn
    }

    /// The conn underneath, given back.
    pub fn into_inner(self) -> C {
        self.conn
    }
}

impl<C: Read> MessageTransporter<C> {
    /// Receives a message, or a stream.
    ///
    /// # Errors
    ///
    /// As [`receive_message`](crate::receive_message); after a timeout inside a
    /// message, and after `MessageTooLarge` and `Aborted`, the next call goes on.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        self.receive_into(&mut message)?;
        Ok(message)
    }

    /// Receives a message into `message`, which it replaces; its storage is used.
    ///
    /// # Errors
    ///
    /// As [`receive`](MessageTransporter::receive).
    pub fn receive_into(&mut self, message: &mut Vec<u8>) -> Result<()> {
        self.incoming
            .receive(&mut self.conn, message, self.max_message_size as u64)
            .map_err(|e| e.at("MessageTransporter::receive"))
    }

    /// Receives a stream, or a message, into `writer`; the number of bytes.
    ///
    /// # Errors
    ///
    /// As [`receive_stream`](crate::receive_stream).
    pub fn receive_stream<W: Write + ?Sized>(&mut self, writer: &mut W) -> Result<u64> {
        self.incoming
            .receive_stream(&mut self.conn, &mut &mut *writer)
            .map_err(|e| e.at("MessageTransporter::receive_stream"))
    }
}

impl<C: Write> MessageTransporter<C> {
    /// Sends a message.
    ///
    /// # Errors
    ///
    /// Those of the conn.
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send_vectored(&[IoSlice::new(data)])
    }

    /// Sends what lies in several places as one message.
    ///
    /// # Errors
    ///
    /// As [`send`](MessageTransporter::send).
    pub fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let Some(parts) = Parts::new(parts) else {
            return Err(Error::new(ErrorCode::InvalidInput, "the parts are too long together"));
        };
        let strategy = SizeClass::of(parts.len() as u64).strategy();
        self.outgoing
            .send(&mut self.conn, parts, &strategy, self.options)
            .map_err(|e| e.at("MessageTransporter::send"))
    }

    /// Sends all that `reader` gives until its end; the number of bytes.
    ///
    /// # Errors
    ///
    /// As [`send_stream`](crate::send_stream).
    pub fn send_stream<R: Read + ?Sized>(&mut self, reader: &mut R) -> Result<u64> {
        let mut chunk = |_| SizeClass::Medium.strategy().chunk;
        self.outgoing
            .send_stream(&mut self.conn, reader, &mut chunk, self.options)
            .map_err(|e| e.at("MessageTransporter::send_stream"))
    }

    /// Writes what a send that timed out had left, and tells the receiver if
    /// its message will not be completed. Each send begins with it.
    ///
    /// # Errors
    ///
    /// Those of the conn; after a timeout, call it again.
    pub fn settle(&mut self) -> Result<()> {
        self.outgoing.settle(&mut self.conn)
    }

    /// Puts the frames in order if a send had failed halfway, flushes, and
    /// drops the conn.
    ///
    /// # Errors
    ///
    /// Those of the conn.
    pub fn close(mut self) -> Result<()> {
        self.outgoing.settle(&mut self.conn)?;
        Ok(self.conn.flush()?)
    }
}

impl<C> MessageTransporterBuilder<C> {
    /// The largest message that is received. Default: 1 GiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Whether frames carry checksums. Default: yes.
    #[must_use]
    pub fn checksum(mut self, on: bool) -> Self {
        self.options.bare = !on;
        self
    }

    /// The transporter.
    pub fn build(self) -> MessageTransporter<C> {
        MessageTransporter {
            conn: self.conn,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            options: self.options,
            max_message_size: self.max_message_size,
        }
    }
}
