//! Messages over one conn, with options and state.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::message::builder::MessageTransporterBuilder;
use crate::message::control::{Helm, Pilot, Reins, Wires};
use crate::message::halves::{MessageReceiver, MessageSender};
use crate::message::observer::MessageStats;
use crate::message::predictor::Predictor;
use crate::message::receiver::Receiver;
use crate::message::sender::Sender;
use crate::message::timeout::Knobs;
use crate::stall::Direction;

/// Sends and receives messages over `C`, with options, and goes on after a
/// timeout where it was.
///
/// It speaks the same frames as [`send_message`](crate::send_message) and its
/// likes; both can be used in turn at either end, between messages.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::os::unix::net::UnixStream;
/// use pointsub::MessageTransporter;
///
/// let (here, there) = UnixStream::pair()?;
/// let mut here = MessageTransporter::new(here);
/// let mut there = MessageTransporter::builder(there).max_message_size(1 << 20).build();
///
/// here.send(b"a question")?;
/// assert_eq!(there.receive()?, b"a question");
/// there.send_stream(&mut &b"an answer of unknown length"[..])?;
/// let mut answer = Vec::new();
/// here.receive_stream(&mut answer)?;
/// assert_eq!(answer, b"an answer of unknown length");
/// here.close()?;
/// # Ok(())
/// # }
/// ```
///
/// Dropped, it drops its conn; what had been sent halfway stays so.
pub struct MessageTransporter<C> {
    conn: C,
    knobs: Option<Arc<dyn Knobs<C>>>,
    wires: Option<Arc<dyn Wires<C>>>,
    sender: Sender,
    receiver: Receiver,
}

impl<C> MessageTransporter<C> {
    /// A transporter with the default options.
    pub fn new(conn: C) -> MessageTransporter<C> {
        MessageTransporter::builder(conn).build()
    }

    /// A transporter with options.
    pub fn builder(conn: C) -> MessageTransporterBuilder<C> {
        MessageTransporterBuilder::new(conn)
    }

    pub(crate) fn from_parts(
        conn: C,
        knobs: Option<Arc<dyn Knobs<C>>>,
        wires: Option<Arc<dyn Wires<C>>>,
        sender: Sender,
        receiver: Receiver,
    ) -> MessageTransporter<C> {
        MessageTransporter { conn, knobs, wires, sender, receiver }
    }

    /// The conn underneath.
    pub fn get_ref(&self) -> &C {
        &self.conn
    }

    /// The conn underneath. Between messages it may be used as it is.
    pub fn get_mut(&mut self) -> &mut C {
        &mut self.conn
    }

    /// The conn underneath, given back. Of a message that was sent or received
    /// in part the rest is lost.
    pub fn into_inner(self) -> C {
        self.conn
    }

    /// What was sent and received so far.
    pub fn stats(&self) -> MessageStats {
        MessageStats {
            sent: self.sender.stats,
            received: self.receiver.stats,
            stalls: [self.receiver.stalls, self.sender.stalls],
        }
    }

    /// What is known of the streams that were sent: their class, how fast
    /// each class is, and how they moved between them.
    pub fn predictor(&self) -> &Predictor {
        self.sender.predictor()
    }

    /// Two halves for two threads, that send and receive at the same time.
    /// Neither end can steer the other's transfers then.
    pub fn split(self) -> (MessageSender<C>, MessageReceiver<C>)
    where
        for<'c> &'c C: Read + Write,
    {
        let conn = Arc::new(self.conn);
        let sender = MessageSender::new(Arc::clone(&conn), self.knobs.clone(), self.sender);
        (sender, MessageReceiver::new(conn, self.knobs, self.receiver))
    }

    /// Who is at the other end, if the conn makes sure of that.
    pub(crate) fn remote(&self) -> Option<String> {
        self.wires.as_ref()?.remote(&self.conn)
    }

    /// Changes how long a read may stand still; what was set before. Does nothing
    /// where that cannot be set, or where reads are tried anyway.
    pub(crate) fn swap_read_limit(
        &self,
        change: impl FnOnce(Option<Duration>) -> Option<Duration>,
    ) -> io::Result<Option<Duration>> {
        let (Some(knobs), None) = (&self.knobs, &self.wires) else { return Ok(None) };
        let found = knobs.get(&self.conn, Direction::Read)?;
        knobs.set(&self.conn, Direction::Read, change(found))?;
        Ok(found)
    }
}

impl<C: Write> MessageTransporter<C> {
    /// Sends a message of any size and flushes the conn.
    ///
    /// # Errors
    ///
    /// Those of the conn. After a timeout in the middle of a message the next
    /// send writes the rest of its frame first; if more frames were to follow,
    /// the receiver is told that the message is
    /// [`Aborted`](crate::ErrorCode::Aborted). So a message whose send timed
    /// out arrives whole or not at all.
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send_vectored(&[IoSlice::new(data)])
    }

    /// Sends what lies in several places as one message.
    ///
    /// # Errors
    ///
    /// As [`send`](MessageTransporter::send).
    pub fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let outcome = self.sender.send(&mut self.conn, self.knobs.as_deref(), parts);
        outcome.map_err(at("MessageTransporter::send"))
    }

    /// Sends messages one behind the other, the short ones in as few writes as
    /// possible. They arrive one by one.
    ///
    /// # Errors
    ///
    /// As [`send`](MessageTransporter::send); some of them may have been sent.
    pub fn send_batch<M: AsRef<[u8]>>(&mut self, messages: &[M]) -> Result<()> {
        let outcome = self.sender.send_batch(&mut self.conn, self.knobs.as_deref(), messages);
        outcome.map_err(at("MessageTransporter::send_batch"))
    }

    /// Sends all that `reader` gives until its end; the number of bytes. What
    /// a read gives is sent at once.
    ///
    /// # Errors
    ///
    /// Those of the conn, and those of `reader`: the receiver is told, and the
    /// next message can be sent.
    pub fn send_stream<R: Read + ?Sized>(&mut self, reader: &mut R) -> Result<u64> {
        let outcome = self.sender.send_stream(&mut self.conn, self.knobs.as_deref(), reader);
        outcome.map_err(at("MessageTransporter::send_stream"))
    }

    /// Writes what a send that timed out had left, and tells the receiver if
    /// its message will not be completed. Each send begins with it; a receive does
    /// the same where it has to answer the sender of a
    /// [controlled](crate::message::MessageTransporterBuilder::control) transfer.
    ///
    /// # Errors
    ///
    /// Those of the conn; after a timeout, call it again.
    pub fn settle(&mut self) -> Result<()> {
        let outcome = self.sender.settle(&mut self.conn, self.knobs.as_deref());
        outcome.map_err(at("MessageTransporter::settle"))
    }

    /// [Settles](MessageTransporter::settle), flushes and drops the conn.
    ///
    /// # Errors
    ///
    /// Those of the conn, which is dropped all the same.
    pub fn close(mut self) -> Result<()> {
        let outcome = self.sender.close(&mut self.conn, self.knobs.as_deref());
        outcome.map_err(at("MessageTransporter::close"))
    }
}

impl<C: Read> MessageTransporter<C> {
    /// Receives a message, or a stream, of at most `max_message_size`.
    ///
    /// # Errors
    ///
    /// As [`receive_message`](crate::receive_message). After a timeout inside
    /// a message the next call goes on; after
    /// [`MessageTooLarge`](crate::ErrorCode::MessageTooLarge) and
    /// [`Aborted`](crate::ErrorCode::Aborted) it receives the next message.
    /// After a damaged frame every call gives the same error.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        self.receive_into(&mut message)?;
        Ok(message)
    }

    /// Receives a message into `message`, which it replaces; its storage is used.
    ///
    /// # Errors
    ///
    /// As [`receive`](MessageTransporter::receive); `message` is empty then.
    pub fn receive_into(&mut self, message: &mut Vec<u8>) -> Result<()> {
        let (receiver, conn, reins) = self.receiving(None);
        let outcome = receiver.receive(conn, reins, message);
        outcome.map_err(at("MessageTransporter::receive"))
    }

    /// Receives a stream, or a message, of any size into `writer`; its size.
    /// Each part is written once its checksum has been verified.
    ///
    /// # Errors
    ///
    /// As [`receive`](MessageTransporter::receive), and those of `writer`: the
    /// next call skips the rest of the stream. After a timeout call it again
    /// with the same writer; it gives the size of the whole stream.
    pub fn receive_stream<W: Write + ?Sized>(&mut self, writer: &mut W) -> Result<u64> {
        let mut writer = writer;
        let (receiver, conn, reins) = self.receiving(None);
        let outcome = receiver.receive_stream(conn, reins, &mut writer);
        outcome.map_err(at("MessageTransporter::receive_stream"))
    }

    /// What receives, and what it hangs on.
    fn receiving<'a>(
        &'a mut self,
        pilot: Option<&'a mut dyn Pilot>,
    ) -> (&'a mut Receiver, &'a mut C, Reins<'a, C>) {
        let reins = Reins {
            knobs: self.knobs.as_deref(),
            wires: self.wires.as_deref(),
            pilot,
            voice: Some(self.sender.voice()),
        };
        (&mut self.receiver, &mut self.conn, reins)
    }
}

/// For transfers: the same with somebody who steers.
impl<C: Write> MessageTransporter<C> {
    pub(crate) fn send_piloted(&mut self, pilot: &mut dyn Pilot, data: &[u8]) -> Result<()> {
        let helm = Helm {
            knobs: self.knobs.as_deref(),
            wires: self.wires.as_deref(),
            pilot,
            ear: Some(self.receiver.ear()),
        };
        let outcome = self.sender.send_steered(&mut self.conn, helm, data);
        outcome.map_err(at("MessageTransporter::send_with"))
    }

    pub(crate) fn send_stream_piloted<R: Read + ?Sized>(
        &mut self,
        pilot: &mut dyn Pilot,
        reader: &mut R,
    ) -> Result<u64> {
        let helm = Helm {
            knobs: self.knobs.as_deref(),
            wires: self.wires.as_deref(),
            pilot,
            ear: Some(self.receiver.ear()),
        };
        let outcome = self.sender.send_stream_steered(&mut self.conn, helm, reader);
        outcome.map_err(at("MessageTransporter::send_stream_with"))
    }
}

impl<C: Read> MessageTransporter<C> {
    pub(crate) fn receive_piloted(
        &mut self,
        pilot: &mut dyn Pilot,
        message: &mut Vec<u8>,
    ) -> Result<()> {
        let (receiver, conn, reins) = self.receiving(Some(pilot));
        let outcome = receiver.receive(conn, reins, message);
        outcome.map_err(at("MessageTransporter::receive_with"))
    }

    pub(crate) fn receive_stream_piloted<W: Write + ?Sized>(
        &mut self,
        pilot: &mut dyn Pilot,
        writer: &mut W,
    ) -> Result<u64> {
        let mut writer = writer;
        let (receiver, conn, reins) = self.receiving(Some(pilot));
        let outcome = receiver.receive_stream(conn, reins, &mut writer);
        outcome.map_err(at("MessageTransporter::receive_stream_with"))
    }
}

impl<C: fmt::Debug> fmt::Debug for MessageTransporter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageTransporter").field("conn", &self.conn).finish_non_exhaustive()
    }
}

pub(crate) fn at(place: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.at(place)
}
