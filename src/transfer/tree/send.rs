//! The sending side of a directory.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::message::MessageTransporter;
use crate::transfer::blocks::BlockSize;
use crate::transfer::channel::{Channel, Tally};
use crate::transfer::dir::{Dir, Found, Seen};
use crate::transfer::names::Name;
use crate::transfer::options::SendOptions;
use crate::transfer::report::Report;
use crate::transfer::send::{Source, length_unknown, source_changed};
use crate::transfer::send::{hear_answer, hear_done, unexpected};
use crate::transfer::tree::cursor::Cursor;
use crate::transfer::tree::records::Record;
use crate::transfer::tree::size_of;
use crate::transfer::tree::walk::Walk;
use crate::transfer::wire::{Answer, Batch, Body, Entry, Kind, Meta, Offer, VERSION};

/// Sends the directory at `path`.
pub(crate) fn send<C: Read + Write>(
    to: &mut MessageTransporter<C>,
    path: &Path,
    options: &SendOptions,
) -> Result<Report> {
    let begun = Instant::now();
    let (name, root) = open(path)?;
    let small = BlockSize::for_file(0, options.block_size.min(LARGEST_SMALL))?;
    let meta = root.look()?.meta();
    let walk = Walk::new(root.try_clone()?, small.bytes(), options.block_size)?;
    let mut channel = Channel::new(to, &options.steered_by(), None);
    let mut sending = Sending {
        cursor: Cursor::new(Some(root)),
        walk,
        small: small.bytes(),
        options,
        report: Report::of(path.to_owned()),
    };
    let outcome = sending.count(&mut channel).and_then(|total| {
        channel.say(Body::Offer(Offer {
            version: VERSION,
            directory: true,
            name: name.as_bytes().to_vec(),
            meta: Some(Meta { size: total, ..meta }),
            block_log2: small.log2(),
            believes: false,
        }))?;
        hear_answer(&mut channel)?;
        sending.run(&mut channel)?;
        hear_done(&mut channel)
    });
    channel.end(outcome)?;
    let mut report = sending.report;
    report.left_out.append(&mut sending.walk.left_out);
    report.hash = None;
    report.took = begun.elapsed();
    Ok(report)
}

/// The user's directory, and its name, also if he calls it `.`.
fn open(path: &Path) -> Result<(Name, Dir)> {
    let describe = |e: io::Error| {
        let what = format!("cannot open the directory {}: {e}", path.display());
        Error::from(e).describe(what)
    };
    let name = match path.file_name() {
        Some(name) => Name::from_os(name)?,
        None => Name::of_path(&path.canonicalize().map_err(describe)?)?.1,
    };
    Ok((name, Dir::open(path).map_err(describe)?))
}

struct Sending<'a> {
    walk: Walk,
    /// Where the content is that is sent next.
    cursor: Cursor,
    small: u64,
    options: &'a SendOptions,
    report: Report,
}

impl Sending<'_> {
    /// The size of all files, if somebody watches who wants to know it; else 0.
    fn count<C: Read + Write>(&mut self, channel: &mut Channel<'_, C>) -> Result<u64> {
        if !self.options.is_watched() {
            return Ok(0);
        }
        let total = self.walk.total(&mut || channel.check())?;
        channel.expects(total);
        Ok(total)
    }

    /// Tells what comes next, hears what of it is there, and sends the rest.
    fn run<C: Read + Write>(&mut self, channel: &mut Channel<'_, C>) -> Result<()> {
        loop {
            channel.check()?;
            let (batch, seen) = self.walk.batch()?;
            channel.say(Body::Batch(batch.clone()))?;
            self.send_batch(channel, &batch, &seen)?;
            if batch.last {
                return Ok(());
            }
        }
    }

    fn send_batch<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        batch: &Batch,
        seen: &[Seen],
    ) -> Result<()> {
        let held = match channel.hear()? {
            Body::Held(held) => held,
            other => return Err(unexpected(&other)),
        };
        let held: HashMap<usize, Vec<u8>> =
            held.files.into_iter().map(|file| (file.index as usize, file.hash)).collect();
        let (entries, mut first) = (&batch.entries, 0);
        for (i, entry) in entries.iter().enumerate() {
            if entry.kind() == Kind::Large {
                self.send_run(channel, &entries[first..i], &seen[first..i], first, &held)?;
                self.send_large(channel, entry, held.contains_key(&i))?;
                first = i + 1;
            }
        }
        self.send_run(channel, &entries[first..], &seen[first..], first, &held)
    }

    /// Sends the small files among entries in one stream.
    fn send_run<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        entries: &[Entry],
        seen: &[Seen],
        first: usize,
        held: &HashMap<usize, Vec<u8>>,
    ) -> Result<()> {
        let has_content = entries.iter().any(|entry| entry.kind() == Kind::Small);
        let entries = entries.iter().zip(seen).zip(first..);
        let tally = Tally::default();
        let mut run =
            Run { sending: self, entries, held, tally: &tally, records: Vec::new(), sent: 0 };
        if has_content {
            channel.send_content(&mut run, &tally)?;
        } else {
            // Only directories to go through.
            while run.next()? {}
        }
        Ok(())
    }

    fn send_large<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        entry: &Entry,
        is_held: bool,
    ) -> Result<()> {
        let name = self.follow(entry)?;
        let file = self.here()?.open_file(&name)?;
        let mut source = Source::new(file, self.options)?;
        if Some(&source.meta) != entry.meta.as_ref() {
            return Err(source_changed(&format!("{name} was written to")));
        }
        let answer = if is_held { hear_answer(channel)? } else { Answer::default() };
        if source.send(channel, &answer, &mut self.report)? {
            // The receiver gives up now.
            hear_answer(channel)?;
        }
        Ok(())
    }

    /// Goes to where an entry is, and into it if it is a directory.
    fn follow(&mut self, entry: &Entry) -> Result<Name> {
        let name = Name::from_peer(&entry.name)?;
        self.cursor.leave(entry.up)?;
        if entry.kind() == Kind::Directory {
            self.cursor.enter(&name)?;
        }
        Ok(name)
    }

    fn here(&self) -> Result<&Dir> {
        self.cursor.here().ok_or_else(|| source_changed("a directory has gone"))
    }

    /// The record of a small file, behind those that are there.
    fn read_small(
        &mut self,
        entry: &Entry,
        seen: &Seen,
        held: Option<&Vec<u8>>,
        tally: &Tally,
        records: &mut Vec<u8>,
    ) -> Result<()> {
        let name = self.follow(entry)?;
        let mut size = size_of(entry);
        let mut later = None;
        for _ in 0..READS {
            let opened = self.cursor.here().map(|here| here.open_seen(&name));
            let mut file = match opened {
                Some(Ok(file)) => file,
                Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(of_file(&name, e));
                }
                _ => {
                    Record::Gone.encode(records);
                    return Ok(());
                }
            };
            let mut content = vec![0; size as usize];
            let read = match file.read_exact(&mut content) {
                Ok(()) if size == 0 => file.read(&mut [0]).map(|more| more == 0),
                outcome => outcome.map(|()| true),
            };
            let is_whole = match read {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
                outcome => outcome.map_err(|e| of_file(&name, e))?,
            };
            let now = Seen::of(&file)?;
            if now != *later.as_ref().unwrap_or(seen) {
                match now.found() {
                    Found::File(found) if found <= self.small => size = found,
                    Found::File(_) => return Err(source_changed(&format!("{name} grew"))),
                    _ => return Err(source_changed(&format!("{name} is no file any more"))),
                }
                later = Some(now);
                continue;
            }
            if !is_whole {
                return Err(length_unknown(&name));
            }
            let after = now.meta();
            self.report.files += 1;
            self.report.bytes += after.size;
            let same = held.is_some_and(|held| *held == *blake3::hash(&content).as_bytes());
            let (mtime, mtime_ns) = (after.mtime, after.mtime_ns);
            if same {
                Record::Same.encode(records);
                Tally::add(&tally.passed, after.size);
            } else {
                self.report.moved += after.size;
                Record::Content { mtime, mtime_ns, content: &content }.encode(records);
            }
            return Ok(());
        }
        Err(source_changed(&format!("{name} is being written to")))
    }
}

fn of_file(name: &Name, e: io::Error) -> Error {
    let what = format!("cannot read {name}: {e}");
    Error::from(e).describe(what)
}

/// The content of the small files of a run, as a stream of records.
struct Run<'a, 'b, I> {
    sending: &'a mut Sending<'b>,
    entries: I,
    held: &'a HashMap<usize, Vec<u8>>,
    tally: &'a Tally,
    records: Vec<u8>,
    /// How many bytes of the records have been handed out.
    sent: usize,
}

impl<'e, I: Iterator<Item = ((&'e Entry, &'e Seen), usize)>> Run<'_, '_, I> {
    /// Goes on to the next entry; whether there was one.
    fn next(&mut self) -> Result<bool> {
        let Some(((entry, seen), index)) = self.entries.next() else { return Ok(false) };
        if entry.kind() == Kind::Small {
            let held = self.held.get(&index);
            let (before, moved) = (self.records.len(), self.sending.report.moved);
            self.sending.read_small(entry, seen, held, self.tally, &mut self.records)?;
            let content = self.sending.report.moved - moved;
            let record = (self.records.len() - before) as u64;
            Tally::add(&self.tally.around, record - content);
        } else {
            self.sending.follow(entry)?;
        }
        Ok(true)
    }
}

impl<'e, I: Iterator<Item = ((&'e Entry, &'e Seen), usize)>> Read for Run<'_, '_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let ready = &self.records[self.sent..];
            let n = ready.len().min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&ready[..n]);
            (self.sent, filled) = (self.sent + n, filled + n);
            if filled == buffer.len() {
                return Ok(filled);
            }
            self.records.clear();
            self.sent = 0;
            if !self.next()? {
                return Ok(filled);
            }
        }
    }
}

/// How often a small file that changes is read before it is given up.
const READS: usize = 3;

/// Small files are held in memory as a whole.
const LARGEST_SMALL: u64 = 1 << 20;
