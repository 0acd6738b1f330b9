//! What is sent in chunks: streams, and messages that are not short.

use std::io::{self, IoSlice, Read};
use std::time::Instant;

use super::{Outgoing, flush};
use crate::error::{Error, ErrorCode, Result};
use crate::message::compress::Packed;
use crate::message::frame::sequence::Sequence;
use crate::message::frame::{Guide, Order, Outlet};
use crate::message::header::{Command, Header, Kind, LONG, MAX_CHUNK, TRAILER};
use crate::message::parts::Parts;
use crate::message::strategy::Strategy;
use crate::resources::buffers::{self, Buffer};

impl Outgoing {
    /// Sends what `from` gives until its end: a chunk for each read, so that
    /// nothing waits here.
    pub(crate) fn send_stream<W: Outlet + ?Sized, R: Read + ?Sized>(
        &mut self,
        to: &mut W,
        from: &mut R,
        guide: &mut dyn Guide,
    ) -> Result<u64> {
        self.settle(to)?;
        let (mut sequence, begin) = Sequence::begin(first(to, Kind::Stream, 0), self.bare);
        let mut begin = begin.as_slice();
        let mut buffer = Buffer::default();
        loop {
            if self.obey(to, begin, &mut sequence)? {
                begin = &[];
            }
            let room = guide.room().min(to.room()).clamp(1, MAX_CHUNK);
            if buffer.len() < HEADERS + room + TRAILER {
                buffer = buffers::take(HEADERS + room + TRAILER);
            }
            let reading = Instant::now();
            let n = match read(from, &mut buffer[HEADERS..HEADERS + room]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return self.give_up(to, begin, sequence, e),
            };
            let read = reading.elapsed();
            if self.pace(to, begin, &mut sequence, guide, n)? {
                begin = &[];
            }
            to.goes();
            let writing = Instant::now();
            let end = HEADERS + n;
            match self.packer.pack(&buffer[HEADERS..end]) {
                Some(packed) => {
                    self.put_packed(to, begin, &mut sequence, &packed, n, false)?;
                }
                None => self.put_read(to, begin, &mut sequence, &mut buffer, end)?,
            }
            to.moved(n);
            guide.sent(&buffer[HEADERS..end], room, read + writing.elapsed());
            begin = &[];
        }
        let end = sequence.end();
        self.put(to, &mut [IoSlice::new(begin), IoSlice::new(&end)], None)?;
        flush(to)?;
        Ok(sequence.sent())
    }

    /// Tells the receiver that the source of a stream has failed.
    fn give_up<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        mut sequence: Sequence,
        e: io::Error,
    ) -> Result<u64> {
        let (kind, what) = (e.kind(), format!("the reader that is sent as a stream failed: {e}"));
        let e = Error::from(e);
        if e.code() == ErrorCode::Cancelled {
            self.put_command(to, begin, &mut sequence, Command::Cancel)?;
        } else {
            self.abort(to, begin, sequence, &format!("its source failed ({kind})"))?;
        }
        Err(e.describe(what).advise("the receiver was told"))
    }

    /// As many chunks at a time as may be in flight, straight from where they lie.
    pub(super) fn send_chunks<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        mut parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        let chunk = strategy.chunk.clamp(1, MAX_CHUNK);
        let at_once = (strategy.in_flight / chunk).clamp(1, MAX_GATHERED);
        let begin = first(to, Kind::Large, parts.len() as u64);
        let (mut sequence, begin) = Sequence::begin(begin, self.bare);
        let mut framing = Vec::with_capacity((at_once + 2) * (LONG + TRAILER));
        framing.extend_from_slice(begin.as_slice());
        loop {
            if self.obey(to, &framing, &mut sequence)? {
                framing.clear();
            }
            let chunk = chunk.min(to.room());
            let at_once = at_once.min(to.room() / chunk);
            let size = parts.len().min(at_once * chunk);
            if self.pace(to, &framing, &mut sequence, guide, size)? {
                framing.clear();
            }
            to.goes();
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
            to.moved(size);
            if last {
                return Ok(());
            }
            framing.clear();
        }
    }

    /// One chunk at a time, compressed where that is worth it.
    pub(super) fn send_packed_chunks<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        mut parts: Parts<'_>,
        strategy: &Strategy,
        guide: &mut dyn Guide,
    ) -> Result<()> {
        let chunk = strategy.chunk.clamp(1, MAX_CHUNK);
        let begin = first(to, Kind::Large, parts.len() as u64);
        let (mut sequence, begin) = Sequence::begin(begin, self.bare);
        let mut begin = begin.as_slice();
        let mut buffer = buffers::take(HEADERS + chunk + TRAILER);
        while parts.len() > 0 {
            if self.obey(to, begin, &mut sequence)? {
                begin = &[];
            }
            let size = parts.len().min(chunk).min(to.room());
            if self.pace(to, begin, &mut sequence, guide, size)? {
                begin = &[];
            }
            to.goes();
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
            to.moved(size);
            begin = &[];
        }
        Ok(())
    }

    /// Does what is wanted before the next chunk; whether it has written the
    /// first header by that.
    fn obey<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        mut begin: &[u8],
        sequence: &mut Sequence,
    ) -> Result<bool> {
        let mut begun = false;
        loop {
            match to.order()? {
                Order::Go => return Ok(begun),
                Order::Pause => {
                    self.put_command(to, begin, sequence, Command::Pause)?;
                    (begin, begun) = (&[], true);
                    if to.hold()? {
                        self.put_command(to, begin, sequence, Command::Resume)?;
                    }
                }
                Order::Cancel(why) => {
                    // Also if nothing was sent yet: the receiver may wait for it.
                    self.put_command(to, begin, sequence, Command::Cancel)?;
                    return Err(why);
                }
            }
        }
    }

    /// Waits until so many bytes may go, and meanwhile does what is wanted; whether
    /// it has written the first header by that.
    fn pace<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        mut begin: &[u8],
        sequence: &mut Sequence,
        guide: &mut dyn Guide,
        bytes: usize,
    ) -> Result<bool> {
        let mut begun = false;
        while let Some(wait) = guide.pace(bytes) {
            to.rest(wait)?;
            if self.obey(to, begin, sequence)? {
                (begin, begun) = (&[], true);
            }
        }
        Ok(begun)
    }

    fn put_command<W: Outlet + ?Sized>(
        &mut self,
        to: &mut W,
        begin: &[u8],
        sequence: &mut Sequence,
        command: Command,
    ) -> Result<()> {
        let frame = sequence.command(command);
        let after = (command != Command::Cancel).then(|| sequence.clone());
        self.put(to, &mut [begin, frame.as_slice()].map(IoSlice::new), after)?;
        flush(to)
    }

    /// Writes the chunk that lies in `buffer` between [`HEADERS`] and
    /// `end`; its header is put before it and its trailer behind.
    fn put_read<W: Outlet + ?Sized>(
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
    fn put_packed<W: Outlet + ?Sized>(
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
}

/// The first header of a message that is sent in chunks.
fn first<W: Outlet + ?Sized>(to: &mut W, kind: Kind, len: u64) -> Header {
    Header { controlled: to.announces(), ..Header::new(kind, len) }
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

/// Copies `bytes` to where `end` follows them; where they start.
fn put_before(buffer: &mut [u8], end: usize, bytes: &[u8]) -> usize {
    let start = end - bytes.len();
    buffer[start..end].copy_from_slice(bytes);
    start
}

/// How many chunks one write takes at most.
const MAX_GATHERED: usize = 16;

/// The space before a chunk: its header, before the first the header of its
/// message as well.
const HEADERS: usize = 2 * LONG;
