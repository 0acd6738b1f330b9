//! The receiving side of a directory.

use std::io::{Read, Write};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::blocks::BlockSize;
use crate::transfer::channel::{Channel, Tally};
use crate::transfer::checkpoint::{Header, in_the_way};
use crate::transfer::claim::Claim;
use crate::transfer::dir::{Dir, Found};
use crate::transfer::names::Name;
use crate::transfer::options::ReceiveOptions;
use crate::transfer::part::Part;
use crate::transfer::receive::{another, examine, fill, hear_start};
use crate::transfer::report::Report;
use crate::transfer::send::unexpected;
use crate::transfer::tenure::Tenure;
use crate::transfer::tree::commit::{commit, in_place_of_directory};
use crate::transfer::tree::cursor::{Cursor, too_far_up};
use crate::transfer::tree::records::{Record, Records};
use crate::transfer::tree::size_of;
use crate::transfer::tree::stage::Stage;
use crate::transfer::wire::{
    Answer, Batch, Body, Entry, Held, HeldFile, Kind, MOST_ENTRIES, Meta, Offer,
};

/// Receives the directory that was offered, as `name` in `parent`.
pub(crate) fn receive<C: Read + Write>(
    channel: &mut Channel<'_, C>,
    parent: &Dir,
    name: &Name,
    offer: &Offer,
    options: &ReceiveOptions,
    report: &mut Report,
) -> Result<()> {
    let small = BlockSize::announced(offer.block_log2, 0)?.bytes();
    if small > LARGEST_SMALL {
        let what = format!("small files of up to {small} bytes");
        return Err(Error::new(ErrorCode::ProtocolViolation, what));
    }
    let target = || match parent.find(name)? {
        Found::Nothing => Ok(None),
        Found::Directory => Ok(Some(parent.open_dir(name)?)),
        _ => Err(in_place_of_directory(name)),
    };
    target()?;
    let (claim, part, resumed) = open_part(parent, name, channel.tenure())?;
    // Who had the claim until just now may have completed it.
    let target = target()?;
    let joins = target.is_some() && !options.overwrite;
    let meta = offer.meta.clone().filter(|_| !joins).unwrap_or_default();
    let mut receiving = Receiving {
        place: target.as_ref().map(Dir::try_clone).transpose()?,
        depth: 0,
        probes: resumed.then(|| part.try_clone()).transpose()?.map(|dir| Cursor::new(Some(dir))),
        targets: target.map(|dir| Cursor::new(Some(dir))),
        stage: Stage::new(part, meta, resumed),
        small,
        options,
        report,
    };
    if let Some(total) = offer.meta.as_ref().map(|meta| meta.size).filter(|&total| total > 0) {
        channel.expects(total);
    }
    let filled = channel.say(Body::Answer(Answer::default())).and_then(|()| receiving.run(channel));
    if let Err(e) = filled {
        if options.discards_after(&e) {
            claim.discard()?;
        }
        return Err(e);
    }
    let closed = receiving.stage.finish()?;
    commit(parent, name, &closed, options.overwrite)?;
    claim.done()
}

/// The directory that becomes the one that was offered; whether it was here before.
fn open_part<'a>(
    parent: &'a Dir,
    name: &'a Name,
    tenure: &Arc<Tenure>,
) -> Result<(Claim<'a>, Dir, bool)> {
    let part = name.part();
    let (claim, _) = Claim::take(parent, name, Header::of_directory(), tenure)?;
    let found = if claim.is_new() { Found::Nothing } else { parent.find(&part)? };
    match found {
        Found::Nothing => {
            parent.create_dir(&part)?;
            Ok((claim, parent.open_dir(&part)?, false))
        }
        Found::Directory => Ok((claim, parent.reopen_dir(&part)?, true)),
        _ => Err(in_the_way(&part, std::io::Error::other("it is no directory"))),
    }
}

struct Receiving<'a> {
    /// Where the entries are made.
    stage: Stage,
    /// The directory that has the name already.
    place: Option<Dir>,
    /// What an earlier attempt left there, and what has the name already: as
    /// far as the last batch that was announced.
    probes: Option<Cursor>,
    targets: Option<Cursor>,
    depth: usize,
    small: u64,
    options: &'a ReceiveOptions,
    report: &'a mut Report,
}

/// What is here of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Here {
    Nothing,
    /// In the part, from an earlier attempt.
    InPart,
    /// Under its own name; perhaps the same.
    InPlace,
    /// Something else has its name.
    Another,
}

impl Receiving<'_> {
    fn run<C: Read + Write>(&mut self, channel: &mut Channel<'_, C>) -> Result<()> {
        loop {
            channel.check()?;
            let (batch, here) = self.hear_batch(channel)?;
            self.receive_batch(channel, &batch, &here)?;
            if batch.last {
                return Ok(());
            }
        }
    }

    /// Hears what comes, and says what of it is here.
    fn hear_batch<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
    ) -> Result<(Batch, Vec<Here>)> {
        let batch = match channel.hear()? {
            Body::Batch(batch) => batch,
            other => return Err(unexpected(&other)),
        };
        if batch.entries.len() > MOST_ENTRIES {
            return Err(violation("a batch that is too long"));
        }
        let (mut here, mut held) = (Vec::new(), Held::default());
        for (index, entry) in batch.entries.iter().enumerate() {
            channel.check()?;
            self.check(entry)?;
            let mut hash = Vec::new();
            let found = self.look_for(entry, &mut hash)?;
            let has_content = matches!(entry.kind(), Kind::Small | Kind::Large);
            if has_content && matches!(found, Here::InPart | Here::InPlace) {
                held.files.push(HeldFile { index: index as u32, hash });
            }
            here.push(found);
        }
        channel.say(Body::Held(held))?;
        Ok((batch, here))
    }

    fn check(&mut self, entry: &Entry) -> Result<()> {
        let name = name(entry)?;
        self.depth = self.depth.checked_sub(entry.up as usize).ok_or_else(too_far_up)?;
        match entry.kind() {
            Kind::Unknown => {
                let what = "the sender has something of a kind unknown to this release";
                return Err(Error::new(ErrorCode::Unsupported, what));
            }
            Kind::Symlink
                if !self.options.outside_links && leads_out(&entry.target, self.depth) =>
            {
                let what = format!("{name} is a link that may lead out of the directory");
                return Err(Error::new(ErrorCode::Rejected, what)
                    .advise("leave it out, or allow the receiver such links (outside_links)"));
            }
            Kind::Small if size_of(entry) > self.small => {
                return Err(violation("a large file as a small one"));
            }
            Kind::Small | Kind::Large => {
                self.report.files += 1;
                self.count(size_of(entry))?;
            }
            Kind::Directory => self.depth += 1,
            Kind::Symlink => {}
        }
        Ok(())
    }

    /// Counts what files have, as long as that is not too much.
    fn count(&mut self, bytes: u64) -> Result<()> {
        self.report.bytes = self.report.bytes.saturating_add(bytes);
        if self.report.bytes > self.options.max_size {
            let limit = self.options.max_size;
            let what = format!("a directory with more than {limit} bytes in files");
            return Err(Error::new(ErrorCode::MessageTooLarge, what)
                .advise("raise the receiver's max_size"));
        }
        Ok(())
    }

    /// What of an entry is here already; of a small file its hash.
    fn look_for(&mut self, entry: &Entry, hash: &mut Vec<u8>) -> Result<Here> {
        let name = name(entry)?;
        let size = size_of(entry);
        let mut here = Here::Nothing;
        for (cursor, is_target) in [(&mut self.probes, false), (&mut self.targets, true)] {
            let Some(cursor) = cursor else { continue };
            cursor.leave(entry.up)?;
            let found = cursor.here().map(|dir| dir.find(&name)).transpose()?;
            let found = found.unwrap_or(Found::Nothing);
            if entry.kind() == Kind::Directory {
                if !is_target && found == Found::Directory {
                    // It may have been closed already.
                    cursor.here().map(|dir| dir.reopen_dir(&name)).transpose()?;
                }
                cursor.enter(&name)?;
                if is_target && !matches!(found, Found::Nothing | Found::Directory) {
                    return Err(in_place_of_directory(&name));
                }
                if is_target && found == Found::Directory {
                    here = Here::InPlace;
                }
                continue;
            }
            let Some(dir) = cursor.here().filter(|_| found != Found::Nothing) else { continue };
            if here == Here::InPart {
                continue;
            }
            match (entry.kind(), found) {
                (Kind::Small, Found::File(there)) if there == size => {
                    *hash = hash_of(dir, &name)?;
                    here = if is_target { Here::InPlace } else { Here::InPart };
                }
                (Kind::Large, Found::File(_)) if !is_target => here = Here::InPart,
                (Kind::Large, Found::File(there)) if there == size => here = Here::InPlace,
                (Kind::Symlink, Found::Symlink) if is_target => {
                    let same = dir.read_link(&name)? == entry.target;
                    here = if same { Here::InPlace } else { Here::Another };
                }
                _ if is_target => here = Here::Another,
                _ => {}
            }
        }
        if here == Here::Another && !self.options.overwrite {
            return Err(another(&name));
        }
        Ok(here)
    }

    fn receive_batch<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        batch: &Batch,
        here: &[Here],
    ) -> Result<()> {
        let mut first = 0;
        for (i, entry) in batch.entries.iter().enumerate() {
            if entry.kind() == Kind::Large {
                self.receive_run(channel, &batch.entries[first..i], &here[first..i])?;
                self.receive_large(channel, entry, here[i])?;
                first = i + 1;
            }
        }
        self.receive_run(channel, &batch.entries[first..], &here[first..])
    }

    /// Receives the small files among entries.
    fn receive_run<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        entries: &[Entry],
        here: &[Here],
    ) -> Result<()> {
        let mut rest = entries.iter().zip(here);
        if entries.iter().any(|entry| entry.kind() == Kind::Small) {
            let (most, tally) = (self.small, Tally::default());
            let mut records = Records::new(most, |record| {
                loop {
                    let Some((entry, here)) = rest.next() else {
                        return Err(violation("more small files than it announced"));
                    };
                    if entry.kind() == Kind::Small {
                        let is_here = matches!(record, Record::Same);
                        Tally::add(&tally.around, record.around());
                        self.take_small(entry, *here, record)?;
                        if is_here {
                            Tally::add(&tally.passed, size_of(entry));
                        }
                        return Ok(());
                    }
                    self.make(entry, *here)?;
                }
            });
            channel.receive_content(&mut records, &tally)?;
            if !records.is_complete() {
                return Err(violation("half a small file"));
            }
        }
        for (entry, here) in rest {
            if entry.kind() == Kind::Small {
                return Err(violation("fewer small files than it announced"));
            }
            self.make(entry, *here)?;
        }
        Ok(())
    }

    /// Makes what has no content.
    fn make(&mut self, entry: &Entry, here: Here) -> Result<()> {
        self.stage.leave(entry.up)?;
        let meta = entry.meta.clone().unwrap_or_default();
        match (entry.kind(), here) {
            // It joins one that keeps its own.
            (Kind::Directory, Here::InPlace) if !self.options.overwrite => {
                self.stage.enter(name(entry)?, Meta::default())
            }
            (Kind::Directory, _) => self.stage.enter(name(entry)?, meta),
            (_, Here::InPlace) => self.stage.forget(&name(entry)?),
            _ => self.stage.put_link(&name(entry)?, &meta, &entry.target),
        }
    }

    fn take_small(&mut self, entry: &Entry, here: Here, record: Record<'_>) -> Result<()> {
        self.stage.leave(entry.up)?;
        let name = name(entry)?;
        let mut meta = entry.meta.clone().unwrap_or_default();
        match (record, here) {
            (Record::Gone, _) => {
                self.report.files -= 1;
                self.report.bytes = self.report.bytes.saturating_sub(meta.size);
                self.stage.forget(&name)
            }
            (Record::Same, Here::InPart) => {
                self.stage.list(&name);
                Ok(meta.put_on(&self.stage.here().open_file(&name)?)?)
            }
            (Record::Same, Here::InPlace) => self.stage.forget(&name),
            (Record::Same, _) => Err(violation("that a file is here which is not")),
            (Record::Content { mtime, mtime_ns, content }, here) => {
                if here == Here::InPlace && !self.options.overwrite {
                    return Err(another(&name));
                }
                // It may have changed since it was announced.
                self.report.bytes = self.report.bytes.saturating_sub(meta.size);
                self.count(content.len() as u64)?;
                (meta.mtime, meta.mtime_ns) = (mtime, mtime_ns);
                self.report.moved += content.len() as u64;
                self.stage.put_file(&name, &meta, content)
            }
        }
    }

    fn receive_large<C: Read + Write>(
        &mut self,
        channel: &mut Channel<'_, C>,
        entry: &Entry,
        here: Here,
    ) -> Result<()> {
        self.stage.leave(entry.up)?;
        let name = name(entry)?;
        let meta = entry.meta.clone().unwrap_or_default();
        let block_size = BlockSize::announced(entry.block_log2, meta.size)?;
        let (options, replace) = (self.options, self.options.overwrite);
        self.stage.list(&name);
        if here == Here::InPlace {
            let place = self.stage.same_in(self.place.as_ref())?;
            let blocks = examine(channel, &place, &name, meta.size, block_size)?;
            channel.say(Body::Answer(Answer { blocks, whole: true, replace, trusted: 0 }))?;
            if hear_start(channel)?.same {
                channel.passes(meta.size);
                return self.stage.forget(&name);
            }
            if !replace {
                return Err(another(&name));
            }
            self.stage.clear(&name)?;
            let file = self.stage.create(&name)?;
            let part = Part::staged(self.stage.here(), &name, &meta, block_size, file);
            return fill(channel, part.go_on(0)?, options, self.report);
        }
        let file = if here == Here::InPart {
            self.stage.here().open_file_to_write(&name)?
        } else {
            self.stage.clear(&name)?;
            self.stage.create(&name)?
        };
        let mut part = Part::staged(self.stage.here(), &name, &meta, block_size, file);
        if here == Here::InPart {
            part.examine(true, &mut || channel.check())?;
            let blocks = part.values().concat();
            channel.say(Body::Answer(Answer { blocks, ..Answer::default() }))?;
        }
        let start = hear_start(channel)?;
        if start.same {
            return Err(violation("that a file is here which is not"));
        }
        channel.passes(part.start_of(start.block as usize));
        fill(channel, part.go_on(start.block as usize)?, options, self.report)
    }
}

/// The name of an entry, which has been checked.
fn name(entry: &Entry) -> Result<Name> {
    Name::from_peer(&entry.name)
}

fn hash_of(dir: &Dir, name: &Name) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    dir.open_file(name)?.take(LARGEST_SMALL + 1).read_to_end(&mut content)?;
    Ok(blake3::hash(&content).as_bytes().to_vec())
}

/// Whether a link that stands `depth` directories deep may lead out of the tree.
/// `..` is good at its beginning only: behind a name that is a link itself it
/// could lead anywhere.
fn leads_out(target: &[u8], depth: usize) -> bool {
    let parts: Vec<_> = target.split(|&b| b == b'/').collect();
    let ups = parts.iter().take_while(|part| matches!(part, [b'.', b'.'])).count();
    let later = parts[ups..].iter().any(|part| matches!(part, [b'.', b'.']));
    target.is_empty() || target.starts_with(b"/") || ups > depth || later
}

fn violation(what: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, format!("the sender sent {what}"))
}

/// Small files are held in memory as a whole.
const LARGEST_SMALL: u64 = 1 << 20;
