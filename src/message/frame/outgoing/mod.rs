//! The sending end: frames in as few writes as their class asks for.

mod chunks;

use std::io::{self, IoSlice};

use crate::error::{Error, ErrorCode, Result};
use crate::message::compress::{Compression, Packer};
use crate::message::frame::sequence::Sequence;
use crate::message::frame::{Guide, Outlet};
use crate::message::header::{Command, Header, Kind, MAX_REASON, SHORT, SHORT_MAX, TRAILER};
use crate::message::parts::Parts;
use crate::message::strategy::Strategy;
use crate::resources::buffers;

/// What a sender was told to do with every frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// No checksums.
    pub(crate) bare: bool,
    pub(crate) compression: Compression,
}

/// Where a sender stands on the wire. It outlives a timeout: the next send
/// first puts the frames in order again.
#[derive(Default)]
pub(crate) struct Outgoing {
    bare: bool,
    packer: Packer,
    /// The rest of frames that the transport took only in part, and what was
    /// answered behind them.
    unsent: Vec<u8>,
    /// So many answers are in there.
    unsaid: usize,
    /// A message was begun in chunks and has not come to its end.
    open: Option<Sequence>,
    /// Why nothing more can be sent.
    broken: Option<Error>,
}

impl Outgoing {
    pub(crate) fn new(options: Options) -> Outgoing {
        let Options { bare, compression } = options;
        Outgoing { bare, packer: Packer::new(compression), ..Outgoing::default() }
    }

    /// Sends a message: whole if it is short and there is nothing to tell the
    /// receiver before, else in chunks of `strategy`.
    pub(crate) fn send<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        self.settle(to)?;
        if parts.len() as u64 <= SHORT_MAX && pace(to, guide, parts.len())? {
            self.send_whole(to, parts)?;
        } else if parts.len() == 0 || self.packer.is_off() {
            self.send_chunks(to, parts, strategy, guide)?;
        } else {
            self.send_packed_chunks(to, parts, strategy, guide)?;
        }
        flush(to)
    }

    /// Sends messages one behind the other, as many short ones in one write
    /// as are in flight at once.
    pub(crate) fn send_batch<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        messages: &mut dyn Iterator<Item = &[u8]>,
        strategy: &dyn Fn(usize) -> Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        self.settle(to)?;
        let mut buffer = buffers::take(BATCH);
        // What is in the buffer, and how much content that was: the rate is of content.
        let (mut at, mut content) = (0, 0);
        for message in messages {
            let whole = message.len() as u64 <= SHORT_MAX;
            if at > 0 && (!whole || at + SHORT + message.len() + TRAILER > BATCH) {
                pace(to, guide, content)?;
                self.put(to, &mut [IoSlice::new(&buffer[..at])], None)?;
                (at, content) = (0, 0);
            }
            let slices = [IoSlice::new(message)];
            let Some(parts) = Parts::new(&slices) else { continue };
            if whole {
                at += self.encode(&mut buffer[at..], parts);
                content += message.len();
            } else {
                self.send(to, parts, &strategy(message.len()), guide)?;
            }
        }
        pace(to, guide, content)?;
        self.put(to, &mut [IoSlice::new(&buffer[..at])], None)?;
        flush(to)
    }

    /// Puts the frames in order after a send that failed halfway: writes the
    /// rest of the frame, and takes back the message that was begun.
    pub(crate) fn settle<W: Outlet + ?Sized>(&mut self, to: &mut W) -> Result<()> {
        if let Some(e) = &self.broken {
            return Err(e.clone());
        }
        if !self.unsent.is_empty() {
            let rest = std::mem::take(&mut self.unsent);
            let open = self.open.take();
            // Not a byte taken: put leaves the rest to us.
            if let Err(e) = self.put(to, &mut [IoSlice::new(&rest)], open.clone()) {
                if self.unsent.is_empty() {
                    (self.unsent, self.open) = (rest, open);
                }
                return Err(e);
            }
            self.unsaid = 0;
        }
        match self.open.clone() {
            Some(sequence) => self.abort(to, &[], sequence, STOOD_STILL),
            None => Ok(()),
        }
    }

    /// Answers what the peer sends: behind the frame that a send left half sent, and
    /// behind the word that its message will not be completed.
    ///
    /// What the transport does not take by then is left to whoever reads or sends
    /// next, and is no error. A peer that waits for an answer reads, so there is room
    /// for it; one that comes upon a message of ours first waits no longer. Were the
    /// rest written before anything is read, two peers without room for it would wait
    /// for each other.
    pub(crate) fn answer<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        command: Command,
    ) -> Result<()> {
        if self.unsaid == MOST_UNSAID {
            let what = "the sender of messages under control does not listen";
            return Err(Error::new(ErrorCode::Timeout, what));
        }
        if let Some(mut sequence) = self.open.take() {
            self.unsent.extend(sequence.abort(STOOD_STILL.as_bytes()));
        }
        self.unsent.extend(command.header().encode().as_slice());
        self.unsaid += 1;
        self.say(to)
    }

    /// Whether answers wait.
    pub(crate) fn has_unsaid(&self) -> bool {
        self.unsaid > 0
    }

    /// Writes the answers that wait, as far as the transport takes them.
    pub(crate) fn say<W: Outlet + ?Sized>(&mut self, to: &mut W) -> Result<()> {
        match self.settle(to).and_then(|()| flush(to)) {
            Err(e) if e.code() == ErrorCode::Timeout => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether nothing of a message waits to be written or taken back.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.unsent.is_empty() && self.open.is_none() && self.broken.is_none()
    }

    /// Header, payload and checksum in one buffer and one write.
    fn send_whole<W: Outlet + ?Sized>(&mut self, to: &mut W, parts: Parts<'_>) -> Result<()> {
        let need = SHORT + parts.len() + TRAILER;
        to.goes();
        if need <= ON_STACK {
            let mut frame = [0; ON_STACK];
            let len = self.encode(&mut frame, parts);
            self.put(to, &mut [IoSlice::new(&frame[..len])], None)?;
        } else {
            let mut frame = buffers::take(need);
            let len = self.encode(&mut frame, parts);
            self.put(to, &mut [IoSlice::new(&frame[..len])], None)?;
        }
        to.moved(parts.len());
        Ok(())
    }

    /// Builds the frame of a whole message; its length.
    fn encode(&mut self, frame: &mut [u8], mut parts: Parts<'_>) -> usize {
        let mut end = SHORT;
        parts.take(parts.len(), &mut |part| {
            frame[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        });
        let packed = self.packer.pack(&frame[SHORT..end]);
        if let Some(packed) = &packed {
            end = SHORT + packed.as_slice().len();
            frame[SHORT..end].copy_from_slice(packed.as_slice());
        }
        let header = Header {
            bare: self.bare,
            packed: packed.is_some(),
            ..Header::new(Kind::Message, (end - SHORT) as u64)
        };
        frame[..SHORT].copy_from_slice(header.encode().as_slice());
        if header.trailer() == 0 {
            return end;
        }
        let trailer = crc32fast::hash(&frame[..end]).to_be_bytes();
        frame[end..end + TRAILER].copy_from_slice(&trailer);
        end + TRAILER
    }

    fn abort<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        mut sequence: Sequence,
        reason: &str,
    ) -> Result<()> {
        let frame = sequence.abort(&reason.as_bytes()[..reason.len().min(MAX_REASON)]);
        self.put(to, &mut [IoSlice::new(begin), IoSlice::new(&frame)], None)?;
        flush(to)
    }

    /// Writes all, and remembers what is open `after` that. If the transport
    /// times out after it took a part, the rest stays for [`settle`].
    ///
    /// [`settle`]: Outgoing::settle
    fn put<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        mut slices: &mut [IoSlice<'_>],
        after: Option<Sequence>,
    ) -> Result<()> {
        let mut taken = 0;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let outcome = match slices {
                [one] => to.write(one),
                ref several => to.write_vectored(several),
            };
            match outcome {
                Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into(), taken)),
                Ok(n) => {
                    taken += n;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    if taken > 0 && is_timeout(&e) {
                        self.unsent =
                            slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
                        self.open = after;
                    }
                    return Err(self.fail(e, taken));
                }
            }
        }
        self.open = after;
        Ok(())
    }

    fn fail(&mut self, e: io::Error, taken: usize) -> Error {
        if is_timeout(&e) {
            let e = Error::from(e);
            if taken == 0 {
                return e;
            }
            let what = format!("a message was left half sent: {}", e.description());
            return e.describe(what).advise("the next send puts the frames in order");
        }
        let e = Error::from(e);
        self.broken = Some(e.clone());
        e
    }
}

/// Waits until so many bytes may go; `false`: there is something to tell the
/// receiver before.
fn pace<W: Outlet + ?Sized>(to: &mut W, guide: &mut dyn Guide, bytes: usize) -> Result<bool> {
    while !to.has_orders() {
        match guide.pace(bytes) {
            Some(wait) => to.rest(wait)?,
            None => return Ok(true),
        }
    }
    Ok(false)
}

fn flush<W: Outlet + ?Sized>(to: &mut W) -> Result<()> {
    loop {
        match to.flush() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Why a message is taken back whose send timed out.
const STOOD_STILL: &str = "its transport stood still";

/// How many answers may wait for a peer that sends and does not read.
const MOST_UNSAID: usize = 1024;

/// Frames up to this length are built on the stack.
const ON_STACK: usize = 1024 + SHORT + TRAILER;

/// How much of a batch goes out in one write.
const BATCH: usize = 64 << 10 | (SHORT + TRAILER);
