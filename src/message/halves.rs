//! A transporter split for two threads.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::message::control::Reins;
use crate::message::observer::MessageStats;
use crate::message::predictor::Predictor;
use crate::message::receiver::Receiver;
use crate::message::sender::Sender;
use crate::message::timeout::Knobs;
use crate::message::transporter::at;
use crate::stall::{Admission, Direction, Network};

/// The sending half of a [`MessageTransporter`](crate::MessageTransporter);
/// the conn is dropped with the second of the halves.
pub struct MessageSender<C> {
    conn: Shared<C>,
    knobs: Option<Through<C>>,
    sender: Sender,
}

/// The receiving half of a [`MessageTransporter`](crate::MessageTransporter);
/// the conn is dropped with the second of the halves.
pub struct MessageReceiver<C> {
    conn: Shared<C>,
    knobs: Option<Through<C>>,
    receiver: Receiver,
}

impl<C> MessageSender<C> {
    pub(crate) fn new(
        conn: Arc<C>,
        knobs: Option<Arc<dyn Knobs<C>>>,
        sender: Sender,
    ) -> MessageSender<C> {
        MessageSender { conn: Shared(conn), knobs: knobs.map(Through), sender }
    }

    /// The conn underneath.
    pub fn get_ref(&self) -> &C {
        &self.conn.0
    }

    /// What was sent so far.
    pub fn stats(&self) -> MessageStats {
        let stalls = [0, self.sender.stalls];
        MessageStats { sent: self.sender.stats, stalls, ..MessageStats::default() }
    }

    /// As [`MessageTransporter::predictor`](crate::MessageTransporter::predictor).
    pub fn predictor(&self) -> &Predictor {
        self.sender.predictor()
    }
}

impl<C> MessageSender<C>
where
    for<'c> &'c C: Write,
{
    /// As [`MessageTransporter::send`](crate::MessageTransporter::send).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send_vectored(&[IoSlice::new(data)])
    }

    /// As [`MessageTransporter::send_vectored`](crate::MessageTransporter::send_vectored).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let outcome = self.sender.send(&mut self.conn, knobs(&self.knobs), parts);
        outcome.map_err(at("MessageSender::send"))
    }

    /// As [`MessageTransporter::send_batch`](crate::MessageTransporter::send_batch).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M]) -> Result<()> {
        let outcome = self.sender.send_batch(&mut self.conn, knobs(&self.knobs), messages);
        outcome.map_err(at("MessageSender::send_batch"))
    }

    /// As [`MessageTransporter::send_stream`](crate::MessageTransporter::send_stream).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_stream<R: Read + ?Sized>(&mut self, reader: &mut R) -> Result<u64> {
        let outcome = self.sender.send_stream(&mut self.conn, knobs(&self.knobs), reader);
        outcome.map_err(at("MessageSender::send_stream"))
    }

    /// As [`MessageTransporter::settle`](crate::MessageTransporter::settle).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn settle(&mut self) -> Result<()> {
        let outcome = self.sender.settle(&mut self.conn, knobs(&self.knobs));
        outcome.map_err(at("MessageSender::settle"))
    }

    /// As [`MessageTransporter::close`](crate::MessageTransporter::close), for
    /// this half.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(mut self) -> Result<()> {
        let outcome = self.sender.close(&mut self.conn, knobs(&self.knobs));
        outcome.map_err(at("MessageSender::close"))
    }
}

impl<C> MessageReceiver<C> {
    pub(crate) fn new(
        conn: Arc<C>,
        knobs: Option<Arc<dyn Knobs<C>>>,
        receiver: Receiver,
    ) -> MessageReceiver<C> {
        MessageReceiver { conn: Shared(conn), knobs: knobs.map(Through), receiver }
    }

    /// The conn underneath.
    pub fn get_ref(&self) -> &C {
        &self.conn.0
    }

    /// What was received so far.
    pub fn stats(&self) -> MessageStats {
        let stalls = [self.receiver.stalls, 0];
        MessageStats { received: self.receiver.stats, stalls, ..MessageStats::default() }
    }
}

impl<C> MessageReceiver<C>
where
    for<'c> &'c C: Read,
{
    /// As [`MessageTransporter::receive`](crate::MessageTransporter::receive).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        self.receive_into(&mut message)?;
        Ok(message)
    }

    /// As [`MessageTransporter::receive_into`](crate::MessageTransporter::receive_into).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive_into(&mut self, message: &mut Vec<u8>) -> Result<()> {
        let outcome =
            self.receiver.receive(&mut self.conn, Reins::loose(knobs(&self.knobs)), message);
        outcome.map_err(at("MessageReceiver::receive"))
    }

    /// As [`MessageTransporter::receive_stream`](crate::MessageTransporter::receive_stream).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive_stream<W: Write + ?Sized>(&mut self, writer: &mut W) -> Result<u64> {
        let mut writer = writer;
        let outcome = self.receiver.receive_stream(
            &mut self.conn,
            Reins::loose(knobs(&self.knobs)),
            &mut writer,
        );
        outcome.map_err(at("MessageReceiver::receive_stream"))
    }
}

impl<C: fmt::Debug> fmt::Debug for MessageSender<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageSender").field("conn", &self.conn.0).finish_non_exhaustive()
    }
}

impl<C: fmt::Debug> fmt::Debug for MessageReceiver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageReceiver").field("conn", &self.conn.0).finish_non_exhaustive()
    }
}

/// A conn that two halves use by reference.
struct Shared<C>(Arc<C>);

impl<C> Read for Shared<C>
where
    for<'c> &'c C: Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl<C> Write for Shared<C>
where
    for<'c> &'c C: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.0).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

/// The knobs of a conn, turned through a shared one.
struct Through<C>(Arc<dyn Knobs<C>>);

impl<C> Knobs<Shared<C>> for Through<C> {
    fn get(&self, conn: &Shared<C>, direction: Direction) -> io::Result<Option<Duration>> {
        self.0.get(&conn.0, direction)
    }

    fn set(
        &self,
        conn: &Shared<C>,
        direction: Direction,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        self.0.set(&conn.0, direction, limit)
    }

    fn network(&self, conn: &Shared<C>) -> Network {
        self.0.network(&conn.0)
    }

    fn admit(&self, conn: &Shared<C>, bytes: u64) -> Result<Admission> {
        self.0.admit(&conn.0, bytes)
    }
}

fn knobs<C>(through: &Option<Through<C>>) -> Option<&dyn Knobs<Shared<C>>> {
    through.as_ref().map(|through| through as _)
}
