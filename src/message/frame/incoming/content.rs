//! The content of frames: where it is read to, and where it goes from there.

use std::io::Write;

use super::{Incoming, Sink, violation};
use crate::error::{Error, Result};
use crate::message::compress;
use crate::message::frame::Source;
use crate::message::frame::progress::{Frame, Target, make_room, room_for};
use crate::message::header::Header;
use crate::resources::buffers;

impl Incoming {
    /// Reads payload and trailer to where they are wanted, without waiting for
    /// more; four bytes more of the same message are taken if they are there.
    pub(super) fn read_payload<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<()> {
        while let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) {
            let header = &frame.header;
            let need = header.payload() + header.trailer();
            if frame.got >= need {
                break;
            }
            let room = room_for(header);
            let buffer = if message.keeps(header) {
                let base = message.received as usize;
                make_room(&mut self.payload, base + frame.got, base + room);
                &mut self.payload[base..]
            } else {
                if self.scratch.len() < room {
                    // Nothing has been read there yet: room is for the frame.
                    self.scratch = buffers::take(room);
                }
                &mut self.scratch[..]
            };
            let end = buffer.len().min(room);
            let size = message.total.unwrap_or(header.len);
            match from.read_inside(size, &mut buffer[frame.got..end]) {
                Ok(0) => return Err(self.ended()),
                Ok(n) => {
                    let fresh = frame.takes(n, buffer);
                    if !frame.header.bare {
                        message.crc.update(fresh);
                    }
                }
                Err(e) => self.interrupted(e)?,
            }
        }
        Ok(())
    }

    /// Reads payload and trailer to nowhere.
    pub(super) fn discard_payload<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<()> {
        while let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) {
            let (payload, trailer) = (frame.header.payload(), frame.header.trailer());
            if frame.got >= payload + trailer {
                break;
            }
            if self.scratch.len() < SKIP_STEP {
                self.scratch = buffers::take(SKIP_STEP);
            }
            let buffer = if frame.got < payload {
                &mut self.scratch[..(payload - frame.got).min(SKIP_STEP)]
            } else {
                &mut frame.trailer[frame.got - payload..trailer]
            };
            let size = message.total.unwrap_or(frame.header.len);
            match from.read_inside(size, buffer) {
                Ok(0) => return Err(self.ended()),
                Ok(n) => {
                    if frame.got < payload {
                        message.crc.update(&self.scratch[..n]);
                    }
                    frame.got += n;
                }
                Err(e) => self.interrupted(e)?,
            }
        }
        Ok(())
    }

    /// Takes the checked content of a frame.
    pub(super) fn accept(&mut self, header: Header, sink: &mut Sink<'_>) -> Result<()> {
        let Some(message) = &mut self.message else { return Ok(()) };
        let scratch = std::mem::take(&mut self.scratch);
        let frame = &scratch[..header.payload().min(scratch.len())];
        if header.packed {
            let size = compress::unpacked_len(frame)?;
            let sum = message.received + size as u64;
            if message.total.is_some_and(|total| sum > total) {
                return Err(violation("a message is longer than its length".into()));
            }
            if let Sink::Buffer { limit } = sink
                && sum > *limit
            {
                return Err(self.refuse(sum, *limit));
            }
        }
        match (message.target, header.packed) {
            (Target::Buffer, true) => {
                let before = self.payload.len();
                compress::unpack(frame, &mut self.payload)?;
                message.received += (self.payload.len() - before) as u64;
            }
            (Target::Buffer, false) => message.received += header.len,
            (_, packed) => {
                let mut opened = Vec::new();
                if packed {
                    compress::unpack(frame, &mut opened)?;
                }
                let content = if packed { &opened } else { frame };
                message.received += content.len() as u64;
                if let Sink::Writer(to) = sink {
                    self.deliver(content, *to)?;
                }
            }
        }
        // Its storage serves the next chunk.
        self.scratch = scratch;
        Ok(())
    }

    pub(super) fn deliver(&mut self, content: &[u8], to: &mut dyn Write) -> Result<()> {
        to.write_all(content).map_err(|e| {
            self.drop_content();
            self.unwanted = true;
            let what = format!("the writer that receives the stream failed: {e}");
            Error::from(e).describe(what).advise("the next receive skips the rest of the stream")
        })
    }

    /// What a receive that timed out had gathered goes to a writer instead.
    pub(super) fn redirect(&mut self, to: &mut dyn Write) -> Result<()> {
        let Some(message) = &mut self.message else { return Ok(()) };
        let checked = message.received as usize;
        let mut gathered = std::mem::take(&mut self.payload);
        if let Some(Frame { header, got, .. }) = &self.frame
            && message.keeps(header)
        {
            self.scratch = buffers::take(room_for(header));
            self.scratch[..*got].copy_from_slice(&gathered[checked..checked + got]);
        }
        gathered.truncate(checked);
        message.target = Target::Writer;
        let partial = std::mem::take(&mut self.scratch);
        let outcome = self.deliver(&gathered, to);
        self.scratch = partial;
        outcome
    }
}

/// How much is read at once of what is thrown away.
const SKIP_STEP: usize = 64 << 10;
