//! The sending end: frames in as few writes as their class asks for.

use std::io::{self, IoSlice, Read, Write};

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::message::header::{
    Header, HeaderBytes, Kind, LONG, MAX_CHUNK, MAX_REASON, SHORT, SHORT_MAX, TRAILER,
};
use crate::message::parts::Parts;
use crate::message::strategy::Strategy;
use crate::resources::buffers::{self, Buffer};

/// What a sender was told to do with every frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// No checksums.
    pub(crate) bare: bool,
}

/// Where a sender stands on the wire. It outlives a timeout: the next send
/// first puts the frames in order again.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// The rest of frames that the transport took only in part.
    unsent: Vec<u8>,
    /// A message was begun in chunks and has not come to its end.
    open: Option<Sequence>,
    /// Why nothing more can be sent.
    broken: Option<Error>,
}

/// A message that is being sent in chunks.
#[derive(Clone)]
struct Sequence {
    bare: bool,
    /// Over all headers and payloads so far.
    crc: Hasher,
    /// Bytes of content so far.
    sent: u64,
}

impl Outgoing {
    /// Sends a message: whole if it is short, else in chunks of `strategy`.
    pub(crate) fn send<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        parts: Parts<'_>,
        strategy: &Strategy,
        options: Options,
    ) -> Result<()> {
        self.settle(to)?;
        if parts.len() as u64 <= SHORT_MAX {
            self.send_whole(to, parts, options)?;
        } else {
            self.send_chunks(to, parts, strategy, options)?;
        }
        flush(to)
    }

    /// Sends what `from` gives until its end: a chunk for each read, so that
    /// nothing waits here. `next_chunk` is told what the last read gave and
    /// says how much the next may give at most.
    pub(crate) fn send_stream<W: Write + ?Sized, R: Read + ?Sized>(
        &mut self,
        to: &mut W,
        from: &mut R,
        next_chunk: &mut dyn FnMut(usize) -> usize,
        options: Options,
    ) -> Result<u64> {
        self.settle(to)?;
        let (mut sequence, begin) = Sequence::begin(Header::new(Kind::Stream, 0), options);
        let mut begin = begin.as_slice();
        let mut buffer = Buffer::default();
        let mut last = 0;
        loop {
            let chunk = next_chunk(last).clamp(1, MAX_CHUNK);
            if buffer.len() < STREAM_HEAD + chunk + TRAILER {
                buffer = buffers::take(STREAM_HEAD + chunk + TRAILER);
            }
            last = match read(from, &mut buffer[STREAM_HEAD..STREAM_HEAD + chunk]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    let reason = format!("its source failed ({})", e.kind());
                    self.abort(to, begin, sequence, &reason)?;
                    let what = format!("the reader that is sent as a stream failed: {e}");
                    return Err(Error::from(e).describe(what).advise("the receiver was told"));
                }
            };
            let end = STREAM_HEAD + last;
            let header = sequence.header(Kind::Chunk, last as u64);
            let start = put_before(&mut buffer, STREAM_HEAD, header.as_slice());
            let start = put_before(&mut buffer, start, begin);
            sequence.content(&buffer[STREAM_HEAD..end]);
            let trailer = sequence.trailer();
            let trailer = trailer.as_slice().as_flattened();
            buffer[end..end + trailer.len()].copy_from_slice(trailer);
            let bytes = &buffer[start..end + trailer.len()];
            self.put(to, &mut [IoSlice::new(bytes)], Some(sequence.clone()))?;
            begin = &[];
        }
        let (total, end) = (sequence.sent, sequence.end());
        self.put(to, &mut [IoSlice::new(begin), IoSlice::new(&end)], None)?;
        flush(to)?;
        Ok(total)
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
        mut parts: Parts<'_>,
        options: Options,
    ) -> Result<()> {
        let len = parts.len();
        let header = Header { bare: options.bare, ..Header::new(Kind::Message, len as u64) };
        let need = SHORT + len + header.trailer();
        let mut stack = [0; ON_STACK];
        let mut pooled;
        let frame = if need <= ON_STACK {
            &mut stack[..need]
        } else {
            pooled = buffers::take(need);
            &mut pooled[..need]
        };
        frame[..SHORT].copy_from_slice(header.encode().as_slice());
        parts.take(len, &mut {
            let mut at = SHORT;
            let frame = &mut *frame;
            move |part: &[u8]| {
                frame[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        });
        if header.trailer() > 0 {
            let (covered, trailer) = frame.split_at_mut(SHORT + len);
            trailer.copy_from_slice(&crc32fast::hash(covered).to_be_bytes());
        }
        self.put(to, &mut [IoSlice::new(frame)], None)
    }

    /// As many chunks at a time as may be in flight, straight from where they lie.
    fn send_chunks<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        mut parts: Parts<'_>,
        strategy: &Strategy,
        options: Options,
    ) -> Result<()> {
        let total = parts.len();
        let chunk = strategy.chunk.clamp(1, MAX_CHUNK);
        let at_once = (strategy.in_flight / chunk).clamp(1, MAX_GATHERED);
        let (mut sequence, begin) =
            Sequence::begin(Header::new(Kind::Large, total as u64), options);
        let mut framing = Vec::with_capacity((at_once + 2) * (LONG + TRAILER));
        framing.extend_from_slice(begin.as_slice());
        let mut left = total;
        while left > 0 {
            // What stands between the payloads, and where each piece of it ends.
            let mut ends = [0; MAX_GATHERED];
            let mut payloads = Vec::with_capacity(at_once);
            for end in ends.iter_mut().take(at_once) {
                if left == 0 {
                    break;
                }
                let size = left.min(chunk);
                left -= size;
                framing.extend_from_slice(sequence.header(Kind::Chunk, size as u64).as_slice());
                *end = framing.len();
                let first = payloads.len();
                parts.take(size, &mut |part| {
                    sequence.content(part);
                    payloads.push((part, first == payloads.len()));
                });
                framing.extend_from_slice(sequence.trailer().as_slice().as_flattened());
            }
            let after = if left == 0 {
                framing.extend_from_slice(&sequence.end());
                None
            } else {
                Some(sequence.clone())
            };
            let mut slices = Vec::with_capacity(2 * payloads.len() + 1);
            let (mut at, mut ends) = (0, ends.iter());
            for (payload, begins_chunk) in payloads {
                if begins_chunk && let Some(&end) = ends.next() {
                    slices.push(IoSlice::new(&framing[at..end]));
                    at = end;
                }
                slices.push(IoSlice::new(payload));
            }
            slices.push(IoSlice::new(&framing[at..]));
            self.put(to, &mut slices, after)?;
            framing.clear();
        }
        Ok(())
    }

    fn abort<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        mut sequence: Sequence,
        reason: &str,
    ) -> Result<()> {
        let reason = &reason.as_bytes()[..reason.len().min(MAX_REASON)];
        let header = sequence.header(Kind::Abort, reason.len() as u64);
        sequence.crc.update(reason);
        let trailer = sequence.trailer();
        let frame = [begin, header.as_slice(), reason, trailer.as_slice().as_flattened()].concat();
        self.put(to, &mut [IoSlice::new(&frame)], None)?;
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
            if taken == 0 {
                return e.into();
            }
            let what = format!("a message was left half sent: {e}");
            return Error::from(e).describe(what).advise("the next send puts the frames in order");
        }
        let e = Error::from(e);
        self.broken = Some(e.clone());
        e
    }
}

impl Sequence {
    fn begin(header: Header, options: Options) -> (Sequence, HeaderBytes) {
        let mut sequence = Sequence { bare: options.bare, crc: Hasher::new(), sent: 0 };
        let bytes = sequence.header(header.kind, header.len);
        (sequence, bytes)
    }

    fn header(&mut self, kind: Kind, len: u64) -> HeaderBytes {
        let bytes = Header { bare: self.bare, ..Header::new(kind, len) }.encode();
        if !self.bare {
            self.crc.update(bytes.as_slice());
        }
        bytes
    }

    fn content(&mut self, payload: &[u8]) {
        if !self.bare {
            self.crc.update(payload);
        }
        self.sent += payload.len() as u64;
    }

    /// The checksum over all so far; nothing if there are none.
    fn trailer(&self) -> Option<[u8; TRAILER]> {
        (!self.bare).then(|| self.crc.clone().finalize().to_be_bytes())
    }

    fn end(&mut self) -> Vec<u8> {
        let header = self.header(Kind::End, self.sent);
        [header.as_slice(), self.trailer().as_slice().as_flattened()].concat()
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

/// How many chunks one write takes at most.
const MAX_GATHERED: usize = 16;

/// The space before a stream's chunk: its header, before the first the
/// header of the stream as well.
const STREAM_HEAD: usize = SHORT + LONG;
