//! The sending side of a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

use crate::error::{Error, ErrorCode, Result};
use crate::message::MessageTransporter;
use crate::transfer::blocks::{BlockSize, Blocks, Value};
use crate::transfer::channel::{Channel, Tally};
use crate::transfer::dir::Seen;
use crate::transfer::hashing::Hashing;
use crate::transfer::names::Name;
use crate::transfer::options::SendOptions;
use crate::transfer::part::READ;
use crate::transfer::report::Report;
use crate::transfer::wire::{Answer, Body, End, Meta, Offer, Start, VERSION};

/// Sends the file at `path`.
pub(crate) fn file<C: Read + Write>(
    to: &mut MessageTransporter<C>,
    path: &Path,
    options: &SendOptions,
) -> Result<Report> {
    let begun = Instant::now();
    let (_, name) = Name::of_path(path)?;
    let file = open(path)?;
    let mut source = Source::new(file, options)?;
    if source.meta.size == 0 {
        source.check_empty(&name)?;
    }
    let mut channel = Channel::new(to, &options.steered_by(), Some(source.meta.size));
    let mut report = Report::of(path.to_owned());
    let offer = Offer {
        version: VERSION,
        directory: false,
        name: name.as_bytes().to_vec(),
        meta: Some(source.meta.clone()),
        block_log2: source.block_size.log2(),
        believes: !options.verify,
    };
    let outcome = channel.say(Body::Offer(offer)).and_then(|()| {
        let answer = hear_answer(&mut channel)?;
        source.send(&mut channel, &answer, &mut report)?;
        hear_done(&mut channel)
    });
    channel.end(outcome)?;
    report.took = begun.elapsed();
    Ok(report)
}

/// A file that is being sent.
pub(crate) struct Source<'a> {
    file: File,
    pub(crate) meta: Meta,
    pub(crate) block_size: BlockSize,
    options: &'a SendOptions,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: File, options: &'a SendOptions) -> Result<Source<'a>> {
        let meta = Seen::of(&file)?.identified();
        let block_size = BlockSize::for_file(meta.size, options.block_size)?;
        Ok(Source { file, meta, block_size, options })
    }

    /// Whether there is nothing to read, as it says.
    fn check_empty(&mut self, name: &Name) -> Result<()> {
        let found = self.file.read(&mut [0]).map_err(|e| {
            let what = format!("cannot read {name}: {e}");
            Error::from(e).describe(what)
        })?;
        match found {
            0 => Ok(()),
            _ if self.has_changed()? => Err(source_changed("it grew")),
            _ => Err(length_unknown(name)),
        }
    }

    /// Sends what the answer lacks; whether the file changed meanwhile, which
    /// the receiver will answer with a failure.
    pub(crate) fn send<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        answer: &Answer,
        report: &mut Report,
    ) -> Result<bool> {
        let size = self.meta.size;
        let mut blocks = self.compare(channel, answer)?;
        let mut first = blocks.values().len();
        let complete = first as u64 == self.block_size.count(size);
        report.files += 1;
        report.bytes += size;
        if answer.whole {
            if complete {
                channel.say(Body::Start(Start { block: 0, same: true }))?;
                channel.passes(size);
                return Ok(false);
            }
            if !answer.replace {
                let what = "the receiver has another file of that name";
                return Err(Error::new(ErrorCode::FileExists, what)
                    .advise("send it under another name, or let the receiver replace it"));
            }
            first = 0;
            blocks.truncate(0);
        }
        let start = self.block_size.start_of(first, size);
        channel.say(Body::Start(Start { block: first as u32, same: false }))?;
        channel.passes(start);
        self.file.seek(SeekFrom::Start(start))?;
        let hashing = Hashing::new(blocks, &self.file, start, size - start);
        let mut content =
            Content { file: &mut self.file, meta: &self.meta, hashing, left: size - start };
        report.moved += channel.send_content(&mut content, &Tally::default())?;
        let hash = match content.hashing.finish() {
            Err(_) if self.has_changed()? => return Err(source_changed("it was written to")),
            hash => hash?,
        };
        report.hash = Some(hash);
        let changed = self.has_changed()?;
        channel.say(Body::End(End { hash: hash.to_vec(), changed }))?;
        Ok(changed)
    }

    /// The blocks that both sides have, up to the first that differs.
    fn compare<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        answer: &Answer,
    ) -> Result<Blocks> {
        let size = self.meta.size;
        let theirs = answer.values(self.block_size.count(size))?;
        let trusted = if self.options.verify { 0 } else { answer.trusted as usize };
        let trusted = theirs.get(..trusted).unwrap_or_default().to_vec();
        let mut blocks = Blocks::trusting(self.block_size, trusted);
        let from = blocks.values().len();
        self.file.seek(SeekFrom::Start(self.block_size.start_of(from, size)))?;
        let mut buffer = vec![0; if theirs.len() > from { READ } else { 0 }];
        for (block, theirs) in theirs.iter().enumerate().skip(from) {
            channel.check()?;
            let start = self.block_size.start_of(block, size);
            let len = self.block_size.start_of(block + 1, size) - start;
            let ours = blocks.read_block(&mut self.file, len, &mut buffer)?;
            if ours != Some(*theirs) {
                blocks.truncate(block);
                break;
            }
        }
        Ok(blocks)
    }

    fn has_changed(&self) -> io::Result<bool> {
        Ok(Seen::of(&self.file)?.identified() != self.meta)
    }
}

impl Answer {
    /// The values in it: whole ones, and no more than there are blocks.
    fn values(&self, count: u64) -> Result<Vec<Value>> {
        let values = self.blocks.chunks_exact(size_of::<Value>());
        if values.len() as u64 > count || !values.remainder().is_empty() {
            let what = "the receiver claims to have more than the file";
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        Ok(values.map(|value| value.try_into().expect("they are as long")).collect())
    }
}

/// The rest of a file, as it is read and hashed.
struct Content<'a> {
    file: &'a mut File,
    meta: &'a Meta,
    hashing: Hashing,
    left: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.left.try_into().unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buffer[..room])?;
        if n == 0 {
            let changed = Seen::of(self.file)?.identified() != *self.meta;
            let shorter = || source_changed("it became shorter");
            return Err(if changed { shorter() } else { length_unknown(&"the file") }.into());
        }
        self.hashing.moved(&buffer[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}

pub(crate) fn source_changed(how: &str) -> Error {
    Error::new(ErrorCode::SourceChanged, format!("the file changed while it was sent: {how}"))
}

/// The other side is told a length first, and this file's is not that of its content.
pub(crate) fn length_unknown(name: &dyn fmt::Display) -> Error {
    let what = format!("{name} has not the length that it says, like what a system makes up");
    Error::new(ErrorCode::InvalidInput, what).advise("copy it, and send the copy")
}

pub(crate) fn hear_answer<C: Read + Write>(channel: &mut Channel<'_, C>) -> Result<Answer> {
    match channel.hear()? {
        Body::Answer(answer) => Ok(answer),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn hear_done<C: Read + Write>(channel: &mut Channel<'_, C>) -> Result<()> {
    match channel.hear()? {
        Body::Done(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(body: &Body) -> Error {
    let what = match body {
        Body::Offer(_) => "an offer",
        Body::Answer(_) => "an answer",
        Body::Start(_) => "a start",
        Body::End(_) => "an end",
        Body::Done(_) => "an acknowledgement",
        Body::Failure(_) => "a failure",
        Body::Batch(_) => "a batch",
        Body::Held(_) => "what it has of a batch",
    };
    Error::new(ErrorCode::ProtocolViolation, format!("the peer sent {what} where none was due"))
}

/// A regular file, to read; never waits for the other end of a pipe, nor for what a
/// system has to say yet.
fn open(path: &Path) -> Result<File> {
    let describe = |e: io::Error| {
        let what = format!("cannot open {}: {e}", path.display());
        Error::from(e).describe(what)
    };
    let found = std::fs::metadata(path).map_err(describe)?;
    if !found.is_file() {
        let what = format!("{} is not a regular file", path.display());
        let advice = if found.is_dir() { "send it with send_dir" } else { "send a file" };
        return Err(Error::new(ErrorCode::InvalidInput, what).advise(advice));
    }
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(describe)
}
