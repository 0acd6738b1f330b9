//! The receiving end: where it stands in a frame and in a message.

mod content;
mod control;

use std::io::{self, Write};
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::message::compress;
use crate::message::frame::Source;
use crate::message::frame::progress::{Frame, Message, Target};
use crate::message::header::{Command, Header, Kind, LONG, SHORT};
use crate::resources::buffers::Buffer;

/// Where a receiver stands on the wire. It outlives a timeout: the next call
/// goes on with the byte at which the last one stopped.
#[derive(Default)]
pub(crate) struct Incoming {
    /// The bytes of the next header that are here already.
    head: [u8; LONG],
    head_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The message that the frames belong to.
    message: Option<Message>,
    /// Where a message is put together. Its first `message.received` bytes
    /// are checked; what is behind them belongs to `frame`.
    payload: Vec<u8>,
    /// Where a frame is put together that has to be checked before it goes on.
    scratch: Buffer,
    /// Messages that we sent under control, and whose receiver's last command
    /// has not come yet.
    owed: u32,
    /// The last error was that of whoever takes the content.
    unwanted: bool,
    /// Why nothing more can be read.
    broken: Option<Error>,
}

/// A message that is complete.
pub(crate) struct Arrived {
    pub(crate) bytes: u64,
    pub(crate) stream: bool,
    pub(crate) took: Duration,
}

/// Where this call wants the content.
enum Sink<'a> {
    Buffer { limit: u64 },
    Writer(&'a mut dyn Write),
    Nowhere,
}

impl Incoming {
    /// Receives a message or a stream into `into`, which it replaces.
    pub(crate) fn receive<R: Source + ?Sized>(
        &mut self,
        from: &mut R,
        into: &mut Vec<u8>,
        limit: u64,
    ) -> Result<Arrived> {
        into.clear();
        self.skip_rest(from)?;
        if self.target() == Some(Target::Writer) {
            return Err(Error::new(
                ErrorCode::InvalidInput,
                "a part of this message went to the writer of receive_stream",
            )
            .advise("go on with receive_stream"));
        }
        if self.message.is_none() {
            self.payload = std::mem::take(into);
        }
        let outcome = self.run(from, &mut Sink::Buffer { limit });
        self.answer_failure(from, &outcome);
        if self.message.is_none() {
            *into = std::mem::take(&mut self.payload);
        }
        if outcome.is_err() {
            into.clear();
        }
        outcome
    }

    /// Receives a message or a stream into `to`, each part once it is checked.
    pub(crate) fn receive_stream<R: Source + ?Sized>(
        &mut self,
        from: &mut R,
        to: &mut dyn Write,
    ) -> Result<Arrived> {
        self.skip_rest(from)?;
        let outcome = match self.target() {
            Some(Target::Buffer) => self.redirect(to),
            _ => Ok(()),
        };
        let outcome = outcome.and_then(|()| self.run(from, &mut Sink::Writer(to)));
        self.answer_failure(from, &outcome);
        outcome
    }

    /// How much memory it holds.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.payload.capacity() + self.scratch.len()
    }

    /// Whether nothing of the next message has been read.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.message.is_none() && self.head_len == 0
    }

    /// The bytes of the current message's payload that have arrived.
    fn arrived(&self) -> u64 {
        let checked = self.message.as_ref().map_or(0, |m| m.received);
        let rest = self.frame.as_ref().map_or(0, |f| f.got.min(f.header.payload()));
        checked + rest as u64
    }

    fn target(&self) -> Option<Target> {
        self.message.as_ref().map(|m| m.target)
    }

    /// Reads what is left of a message that nobody wants.
    fn skip_rest<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<()> {
        if self.target() == Some(Target::Nowhere) {
            let outcome = self.run(&mut Quiet(from), &mut Sink::Nowhere);
            // If it is over, it does not matter how.
            if self.message.is_some() || self.broken.is_some() {
                outcome?;
            }
        }
        Ok(())
    }

    /// Goes on until the message ends.
    fn run<R: Source + ?Sized>(&mut self, from: &mut R, sink: &mut Sink<'_>) -> Result<Arrived> {
        if let Some(e) = &self.broken {
            return Err(e.clone());
        }
        loop {
            match self.step(from, sink) {
                Ok(None) => {}
                Ok(Some(arrived)) => return Ok(arrived),
                Err(e) => return Err(self.note(from, e)),
            }
        }
    }

    /// After some errors nothing that follows can be trusted.
    fn note<R: Source + ?Sized>(&mut self, from: &mut R, e: Error) -> Error {
        use ErrorCode as C;
        let of_frames = matches!(
            e.code(),
            C::InvalidHeader | C::ChecksumMismatch | C::ProtocolViolation | C::Unsupported
        );
        let of_its_taker = std::mem::take(&mut self.unwanted);
        if of_frames && !of_its_taker {
            self.close_control(from, &e);
            (self.frame, self.message, self.head_len) = (None, None, 0);
            (self.payload, self.scratch) = (Vec::new(), Buffer::default());
            self.broken = Some(e.clone());
        }
        e
    }

    fn step<R: Source + ?Sized>(
        &mut self,
        from: &mut R,
        sink: &mut Sink<'_>,
    ) -> Result<Option<Arrived>> {
        if self.frame.is_none() {
            let header = self.read_header(from)?;
            if header.kind == Kind::Command {
                self.obey(from, header)?;
                return Ok(None);
            }
            self.begin(header)?;
            if header.controlled && !from.answers() {
                return Err(unanswerable());
            }
            from.begins(&header);
            self.apply_limit(sink)?;
            self.ask_for_room(from)?;
        }
        if self.goes_nowhere() {
            self.discard_payload(from)?;
        } else {
            self.read_payload(from)?;
        }
        self.finish(from, sink)
    }

    fn read_header<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<Header> {
        let mut need = SHORT;
        loop {
            while self.head_len < need {
                let begun = self.head_len > 0;
                let buffer = &mut self.head[self.head_len..need];
                let outcome = if begun { from.read_inside(0, buffer) } else { from.read(buffer) };
                match outcome {
                    Ok(0) => return Err(self.ended()),
                    Ok(n) => self.head_len += n,
                    Err(e) => self.interrupted(e)?,
                }
            }
            if need == LONG {
                break;
            }
            let [a, b, c, d, ..] = self.head;
            need = Header::length_of(&[a, b, c, d])?;
            if need == SHORT {
                break;
            }
        }
        Header::decode(&self.head[..need])
    }

    /// Takes a header that is complete: opens a message, or goes on with one.
    fn begin(&mut self, header: Header) -> Result<()> {
        let chunked = self.message.as_ref().is_some_and(|m| m.chunked);
        if header.begins() == chunked {
            let what = if chunked { "a new message inside another" } else { "a stray chunk" };
            return Err(violation(format!("the peer sent {what}")));
        }
        if header.begins() {
            self.message = Some(Message::begin(&header));
            self.payload.clear();
        }
        let message = self.message.as_mut().expect("made above, or chunked said it is there");
        if message.bare != header.bare {
            return Err(violation("the peer changed its mind about checksums in a message".into()));
        }
        if message.paused && header.kind != Kind::Abort {
            return Err(violation("the peer paused a message and went on without a word".into()));
        }
        if !message.has_room_for(&header) {
            return Err(violation("the chunks of a message do not add up to its length".into()));
        }
        message.crc.update(&self.head[..header.size()]);
        self.head_len = 0;
        self.frame = Some(Frame::new(header));
        Ok(())
    }

    /// Refuses a message above the limit before any of it is buffered.
    fn apply_limit(&mut self, sink: &Sink<'_>) -> Result<()> {
        let (Some(message), Some(frame)) = (&mut self.message, &self.frame) else { return Ok(()) };
        match sink {
            Sink::Writer(_) if message.target == Target::Buffer => message.target = Target::Writer,
            Sink::Buffer { limit } if message.target == Target::Buffer => {
                let header = &frame.header;
                let known = match header.kind {
                    Kind::Large => header.len,
                    Kind::Message | Kind::Chunk => {
                        let overhead = if header.packed { compress::PREFIX as u64 } else { 0 };
                        message.received + header.len.saturating_sub(overhead)
                    }
                    _ => 0,
                };
                if known > *limit {
                    return Err(self.refuse(known, *limit));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Large messages are received only if whoever has the memory lets them.
    fn ask_for_room<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<()> {
        let (Some(message), Some(frame)) = (&mut self.message, &self.frame) else { return Ok(()) };
        if frame.header.kind == Kind::Large && message.target != Target::Nowhere {
            match from.admit(frame.header.len) {
                Ok(admission) => message.admission = Some(admission),
                Err(e) => {
                    self.drop_content();
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// From here on the message is read and thrown away.
    fn refuse(&mut self, size: u64, limit: u64) -> Error {
        let exact = self.message.as_ref().is_none_or(|m| m.total.is_some() || !m.chunked);
        self.drop_content();
        let at_least = if exact { "" } else { "at least " };
        Error::new(
            ErrorCode::MessageTooLarge,
            format!("a message of {at_least}{size} bytes came, above the limit of {limit}"),
        )
        .with_context("size", size)
        .with_context("limit", limit)
    }

    /// Nobody wants this message any more; what is left of it will be skipped.
    fn drop_content(&mut self) {
        match &mut self.message {
            Some(message) if message.chunked || self.frame.is_some() => {
                message.target = Target::Nowhere;
                message.uncounted = true;
            }
            _ => self.message = None,
        }
        self.payload = Vec::new();
        self.scratch = Buffer::default();
    }

    fn goes_nowhere(&self) -> bool {
        let aborts = self.frame.as_ref().is_some_and(|f| f.header.kind == Kind::Abort);
        self.target() == Some(Target::Nowhere) && !aborts
    }

    /// A frame is complete: checks it, hands it on; the message if that is
    /// complete as well.
    fn finish<R: Source + ?Sized>(
        &mut self,
        from: &mut R,
        sink: &mut Sink<'_>,
    ) -> Result<Option<Arrived>> {
        let nowhere = self.goes_nowhere();
        let (Some(frame), Some(message)) = (self.frame.take(), &mut self.message) else {
            return Ok(None);
        };
        let header = frame.header;
        let (len, trailer) = (header.payload(), header.trailer());
        if trailer > 0 && frame.trailer != message.crc.clone().finalize().to_be_bytes() {
            return Err(mismatch(message.received));
        }
        let base = message.received as usize;
        let direct = message.keeps(&header);
        let ahead = len + trailer..frame.got;
        self.head_len = ahead.len();
        if !ahead.is_empty() {
            let buffer = if direct { &self.payload[base..] } else { &self.scratch[..] };
            self.head[..ahead.len()].copy_from_slice(&buffer[ahead]);
        }
        if direct {
            self.payload.truncate(base + len);
        }
        match header.kind {
            Kind::Large | Kind::Stream => return Ok(None),
            Kind::Abort => {
                let e = self.aborted(len);
                return Err(self.leave(from).err().unwrap_or(e));
            }
            Kind::Message | Kind::Chunk if nowhere => {
                message.received += header.len;
            }
            Kind::Message | Kind::Chunk => {
                self.accept(header, sink)?;
                from.moved(self.message.as_ref().map_or(base, |m| m.received as usize) - base);
            }
            Kind::End | Kind::Command => {}
        }
        match (header.kind, &self.message) {
            (Kind::Message | Kind::End, Some(message)) => {
                let arrived = Arrived {
                    bytes: message.received,
                    stream: message.chunked && message.total.is_none(),
                    took: message.begun.elapsed(),
                };
                self.leave(from)?;
                self.scratch = Buffer::default();
                Ok(Some(arrived))
            }
            _ => Ok(None),
        }
    }

    fn aborted(&mut self, reason: usize) -> Error {
        let reason = String::from_utf8_lossy(&self.scratch[..reason]).escape_debug().to_string();
        let received = self.message.as_ref().map_or(0, |m| m.received);
        (self.payload, self.scratch) = (Vec::new(), Buffer::default());
        Error::new(
            ErrorCode::Aborted,
            format!("the sender gave up after {received} bytes of a message: {reason}"),
        )
        .with_context("received", received)
    }

    /// The end of the stream, where no byte or some of a message is here.
    fn ended(&self) -> Error {
        if self.is_between_messages() {
            return Error::new(ErrorCode::ConnectionClosed, "the peer closed, between messages");
        }
        let received = self.arrived();
        let what = match self.message.as_ref().and_then(|m| m.total.or(self.whole_len())) {
            Some(total) => format!("the connection ended after {received} of {total} bytes"),
            None => format!("the connection ended after {received} bytes"),
        };
        Error::new(ErrorCode::UnexpectedEnd, format!("{what} of a message's payload"))
            .with_context("received", received)
    }

    fn whole_len(&self) -> Option<u64> {
        let header = self.frame.as_ref()?.header;
        (header.kind == Kind::Message).then_some(header.len)
    }

    /// Swallows an interruption; says where any other error has struck.
    fn interrupted(&self, e: io::Error) -> Result<()> {
        if e.kind() == io::ErrorKind::Interrupted {
            return Ok(());
        }
        if self.is_between_messages() {
            return Err(e.into());
        }
        let (e, received) = (Error::from(e), self.arrived());
        let what = format!("after {received} bytes of a message's payload: {}", e.description());
        Err(e.describe(what).with_context("received", received))
    }
}

/// Reads for a message that an earlier call was about.
struct Quiet<'a, R: ?Sized>(&'a mut R);

impl<R: Source + ?Sized> Source for Quiet<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn read_inside(&mut self, size: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_inside(size, buffer)
    }

    fn answers(&self) -> bool {
        self.0.answers()
    }

    fn answer(&mut self, command: Command) -> Result<()> {
        self.0.answer(command)
    }
}

fn violation(what: String) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

fn unanswerable() -> Error {
    let what = "a message under control came to a receiver that cannot answer";
    Error::new(ErrorCode::Unsupported, what)
        .advise("receive it with a MessageTransporter that was built with control()")
}

fn mismatch(received: u64) -> Error {
    Error::new(
        ErrorCode::ChecksumMismatch,
        format!("a frame was damaged, behind {received} good bytes of its message"),
    )
    .with_context("received", received)
}
