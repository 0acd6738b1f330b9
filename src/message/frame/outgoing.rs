//! The sending end: frames in as few writes as their class asks for.

use std::io::{self, IoSlice, Read, Write};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::message::compress::{Compression, Packed, Packer};
use crate::message::frame::Guide;
use crate::message::frame::sequence::Sequence;
use crate::message::header::{
    Header, Kind, LONG, MAX_CHUNK, MAX_REASON, SHORT, SHORT_MAX, TRAILER,
};
use crate::message::parts::Parts;
use crate::message::strategy::Strategy;
use crate::resources::buffers::{self, Buffer};

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
    /// The rest of frames that the transport took only in part.
    unsent: Vec<u8>,
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

    /// Sends a message: whole if it is short, else in chunks of `strategy`.
    pub(crate) fn send<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        self.settle(to)?;
        if parts.len() as u64 <= SHORT_MAX {
            self.send_whole(to, parts, guide)?;
        } else if self.packer.is_off() {
            self.send_chunks(to, parts, strategy, guide)?;
        } else {
            self.send_packed_chunks(to, parts, strategy, guide)?;
        }
        flush(to)
    }

    /// Sends messages one behind the other, as many short ones in one write
    /// as are in flight at once.
    pub(crate) fn send_batch<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        messages: &mut dyn Iterator<Item = &[u8]>,
        strategy: &dyn Fn(usize) -> Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        self.settle(to)?;
        let mut buffer = buffers::take(BATCH);
        let mut at = 0;
        for message in messages {
            let whole = message.len() as u64 <= SHORT_MAX;
            if at > 0 && (!whole || at + SHORT + message.len() + TRAILER > BATCH) {
                guide.pace(at);
                self.put(to, &mut [IoSlice::new(&buffer[..at])], None)?;
                at = 0;
            }
            let slices = [IoSlice::new(message)];
            let Some(parts) = Parts::new(&slices) else { continue };
            if whole {
                at += self.encode(&mut buffer[at..], parts);
            } else {
                self.send(to, parts, &strategy(message.len()), guide)?;
            }
        }
        guide.pace(at);
        self.put(to, &mut [IoSlice::new(&buffer[..at])], None)?;
        flush(to)
    }

    /// Sends what `from` gives until its end: a chunk for each read, so that
    /// nothing waits here.
    pub(crate) fn send_stream<W: Write + ?Sized, R: Read + ?Sized>(
        &mut self,
        to: &mut W,
        from: &mut R,
        guide: &mut dyn Guide,
    ) -> Result<u64> {
        self.settle(to)?;
        let (mut sequence, begin) = Sequence::begin(Kind::Stream, 0, self.bare);
        let mut begin = begin.as_slice();
        let mut buffer = Buffer::default();
        loop {
            let room = guide.room().clamp(1, MAX_CHUNK);
            if buffer.len() < HEADERS + room + TRAILER {
                buffer = buffers::take(HEADERS + room + TRAILER);
            }
            let reading = Instant::now();
            let n = match read(from, &mut buffer[HEADERS..HEADERS + room]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    let reason = format!("its source failed ({})", e.kind());
                    self.abort(to, begin, sequence, &reason)?;
                    let what = format!("the reader that is sent as a stream failed: {e}");
                    return Err(Error::from(e).describe(what).advise("the receiver was told"));
                }
            };
            let read = reading.elapsed();
            guide.pace(n);
            let writing = Instant::now();
            let end = HEADERS + n;
            match self.packer.pack(&buffer[HEADERS..end]) {
                Some(packed) => {
                    self.put_packed(to, begin, &mut sequence, &packed, n, false)?;
                }
                None => self.put_read(to, begin, &mut sequence, &mut buffer, end)?,
            }
            guide.sent(&buffer[HEADERS..end], room, read + writing.elapsed());
            begin = &[];
        }
        let end = sequence.end();
        self.put(to, &mut [IoSlice::new(begin), IoSlice::new(&end)], None)?;
        flush(to)?;
        Ok(sequence.sent())
    }

    /// Puts the frames in order after a send that failed halfway: writes the
    /// rest of the frame, and takes back the message that was begun.
    pub(crate) fn settle<W: Write + ?Sized>(&mut self, to: &mut W) -> Result<()> {
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
        }
        match self.open.clone() {
            Some(sequence) => self.abort(to, &[], sequence, "its transport stood still"),
            None => Ok(()),
        }
    }

    /// Whether nothing of a message waits to be written or taken back.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.unsent.is_empty() && self.open.is_none() && self.broken.is_none()
    }

    /// Header, payload and checksum in one buffer and one write.
    fn send_whole<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        parts: Parts<'_>,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        let need = SHORT + parts.len() + TRAILER;
        guide.pace(parts.len());
        if need <= ON_STACK {
            let mut frame = [0; ON_STACK];
            let len = self.encode(&mut frame, parts);
            return self.put(to, &mut [IoSlice::new(&frame[..len])], None);
        }
        let mut frame = buffers::take(need);
        let len = self.encode(&mut frame, parts);
        self.put(to, &mut [IoSlice::new(&frame[..len])], None)
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

    /// As many chunks at a time as may be in flight, straight from where they lie.
    fn send_chunks<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        mut parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        let chunk = strategy.chunk.clamp(1, MAX_CHUNK);
        let at_once = (strategy.in_flight / chunk).clamp(1, MAX_GATHERED);
        let (mut sequence, begin) = Sequence::begin(Kind::Large, parts.len() as u64, self.bare);
        let mut framing = Vec::with_capacity((at_once + 2) * (LONG + TRAILER));
        framing.extend_from_slice(begin.as_slice());
        while parts.len() > 0 {
            guide.pace(parts.len().min(at_once * chunk));
            // The payloads, and where the piece of `framing` ends that each follows.
            let mut payloads: Vec<(usize, &[u8])> = Vec::with_capacity(at_once);
            for _ in 0..at_once {
                let size = parts.len().min(chunk);
                if size == 0 {
                    break;
                }
                framing.extend_from_slice(sequence.chunk(size, false).as_slice());
                parts.take(size, &mut |part| {
                    sequence.cover(part, part.len());
                    payloads.push((framing.len(), part));
                });
                framing.extend_from_slice(sequence.trailer().as_slice().as_flattened());
            }
            let last = parts.len() == 0;
            if last {
                framing.extend_from_slice(&sequence.end());
            }
            let mut slices = Vec::with_capacity(2 * payloads.len() + 1);
            let mut at = 0;
            for (end, payload) in payloads {
                if at < end {
                    slices.push(IoSlice::new(&framing[at..end]));
                    at = end;
                }
                slices.push(IoSlice::new(payload));
            }
            slices.push(IoSlice::new(&framing[at..]));
            self.put(to, &mut slices, (!last).then(|| sequence.clone()))?;
            framing.clear();
        }
        Ok(())
    }

    /// One chunk at a time, compressed where that is worth it.
    fn send_packed_chunks<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        mut parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        let chunk = strategy.chunk.clamp(1, MAX_CHUNK);
        let (mut sequence, begin) = Sequence::begin(Kind::Large, parts.len() as u64, self.bare);
        let mut begin = begin.as_slice();
        let mut buffer = buffers::take(HEADERS + chunk + TRAILER);
        while parts.len() > 0 {
            let size = parts.len().min(chunk);
            guide.pace(size);
            let mut end = HEADERS;
            parts.take(size, &mut |part| {
                buffer[end..end + part.len()].copy_from_slice(part);
                end += part.len();
            });
            let last = parts.len() == 0;
            match self.packer.pack(&buffer[HEADERS..end]) {
                Some(packed) => {
                    self.put_packed(to, begin, &mut sequence, &packed, size, last)?;
                }
                None => {
                    self.put_read(to, begin, &mut sequence, &mut buffer, end)?;
                    if last {
                        self.put(to, &mut [IoSlice::new(&sequence.end())], None)?;
                    }
                }
            }
            begin = &[];
        }
        Ok(())
    }

    /// Writes the chunk that lies in `buffer` between [`HEADERS`] and
    /// `end`; its header is put before it and its trailer behind.
    fn put_read<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        sequence: &mut Sequence,
        buffer: &mut [u8],
        end: usize,
    ) -> Result<()> {
        let size = end - HEADERS;
        let start = put_before(buffer, HEADERS, sequence.chunk(size, false).as_slice());
        let start = put_before(buffer, start, begin);
        sequence.cover(&buffer[HEADERS..end], size);
        let trailer = sequence.trailer();
        let trailer = trailer.as_slice().as_flattened();
        buffer[end..end + trailer.len()].copy_from_slice(trailer);
        let frame = &buffer[start..end + trailer.len()];
        self.put(to, &mut [IoSlice::new(frame)], Some(sequence.clone()))
    }

    /// Writes a compressed chunk, and the end of the message if it is the last.
    fn put_packed<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        sequence: &mut Sequence,
        packed: &Packed,
        content: usize,
        last: bool,
    ) -> Result<()> {
        let payload = packed.as_slice();
        let header = sequence.chunk(payload.len(), true);
        sequence.cover(payload, content);
        let trailer = sequence.trailer();
        let end = if last { sequence.end() } else { Vec::new() };
        let slices = [begin, header.as_slice(), payload, trailer.as_slice().as_flattened(), &end];
        self.put(to, &mut slices.map(IoSlice::new), (!last).then(|| sequence.clone()))
    }

    fn abort<W: Write + ?Sized>(
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
    fn put<W: Write + ?Sized>(
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

/// Reads once, whatever interrupts it.
fn read<R: Read + ?Sized>(from: &mut R, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn flush<W: Write + ?Sized>(to: &mut W) -> Result<()> {
    loop {
        match to.flush() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Copies `bytes` to where `end` follows them; where they start.
fn put_before(buffer: &mut [u8], end: usize, bytes: &[u8]) -> usize {
    let start = end - bytes.len();
    buffer[start..end].copy_from_slice(bytes);
    start
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Frames up to this length are built on the stack.
const ON_STACK: usize = 1024 + SHORT + TRAILER;

/// How much of a batch goes out in one write.
const BATCH: usize = 64 << 10 | (SHORT + TRAILER);

/// How many chunks one write takes at most.
const MAX_GATHERED: usize = 16;

/// The space before a chunk: its header, before the first the header of its
/// message as well.
const HEADERS: usize = 2 * LONG;
