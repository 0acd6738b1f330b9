//! The receiving side of a file.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorCode, Result};
use crate::message::MessageTransporter;
use crate::transfer::blocks::{BlockSize, Blocks, Value};
use crate::transfer::channel::{Channel, Tally};
use crate::transfer::checkpoint::Header;
use crate::transfer::claim::Claim;
use crate::transfer::dir::{Dir, Found};
use crate::transfer::names::Name;
use crate::transfer::options::ReceiveOptions;
use crate::transfer::part::{Part, READ, Writing};
use crate::transfer::report::Report;
use crate::transfer::send::{source_changed, unexpected};
use crate::transfer::tenure::Tenure;
use crate::transfer::tree;
use crate::transfer::wire::{Answer, Body, Done, End, Meta, Offer, Start, VERSION};

/// Receives a file to the path of the caller's choice.
pub(crate) fn to_path<C: Read + Write>(
    from: &mut MessageTransporter<C>,
    path: &Path,
    options: &ReceiveOptions,
) -> Result<Report> {
    receive(from, options, |channel, offer| {
        let (parent, name) = Name::of_path(path)?;
        if offer.directory {
            let what = "the sender offers a directory where a file was awaited";
            return Err(
                Error::new(ErrorCode::Rejected, what).advise("receive it with receive_into_dir")
            );
        }
        let dir = open_dir(&parent)?;
        file(channel, &dir, &parent, &name, offer, options)
    })
}

/// Receives whatever comes, under the name that the sender gives it.
pub(crate) fn into_dir<C: Read + Write>(
    from: &mut MessageTransporter<C>,
    path: &Path,
    options: &ReceiveOptions,
) -> Result<Report> {
    receive(from, options, |channel, offer| {
        let dir = open_dir(path)?;
        let name = Name::from_peer_at_top(&offer.name)?;
        if offer.directory {
            let mut report = Report::of(path.join(name.to_path()));
            tree::receive(channel, &dir, &name, offer, options, &mut report)?;
            report.hash = None;
            return Ok(report);
        }
        file(channel, &dir, path, &name, offer, options)
    })
}

/// Hears an offer, takes it as `take` says, and says whether that went well.
fn receive<C: Read + Write>(
    from: &mut MessageTransporter<C>,
    options: &ReceiveOptions,
    take: impl FnOnce(&mut Channel<'_, C>, &Offer) -> Result<Report>,
) -> Result<Report> {
    let mut channel = Channel::new(from, &options.steered_by(), None);
    let mut begun = Instant::now();
    let outcome = channel.hear().and_then(|body| {
        begun = Instant::now();
        let Body::Offer(offer) = body else { return Err(unexpected(&body)) };
        check(&offer, options)?;
        let report = take(&mut channel, &offer)?;
        match channel.say(Body::Done(Done {})) {
            // The sender leaves as soon as it has heard that, perhaps before this
            // end has seen the last byte go. What is on the disk is on the disk.
            Err(e) if LEFT_IN_ORDER.contains(&e.code()) => Ok(report),
            outcome => outcome.map(|()| report),
        }
    });
    let mut report = channel.end(outcome)?;
    report.took = begun.elapsed();
    Ok(report)
}

fn check(offer: &Offer, options: &ReceiveOptions) -> Result<()> {
    if offer.version != VERSION {
        let what = format!("the sender speaks version {} about files", offer.version);
        return Err(Error::new(ErrorCode::Unsupported, what));
    }
    let size = offer.meta.as_ref().map_or(0, |meta| meta.size);
    if size > options.max_size {
        let limit = options.max_size;
        let what = format!("a file of {size} bytes was offered, above the limit of {limit}");
        return Err(
            Error::new(ErrorCode::MessageTooLarge, what).advise("raise the receiver's max_size")
        );
    }
    Ok(())
}

fn file<C: Read + Write>(
    channel: &mut Channel<'_, C>,
    dir: &Dir,
    parent: &Path,
    name: &Name,
    offer: &Offer,
    options: &ReceiveOptions,
) -> Result<Report> {
    let meta = offer.meta.clone().unwrap_or_default();
    let block_size = BlockSize::announced(offer.block_log2, meta.size)?;
    let mut report = Report::of(parent.join(name.to_path()));
    report.files = 1;
    report.bytes = meta.size;
    let verify = options.verify || !offer.believes;
    let target = Target { dir, name, meta: &meta, block_size, verify, options };
    channel.expects(meta.size);
    target.receive(channel, &mut report)?;
    Ok(report)
}

/// Where a file is to stand.
struct Target<'a> {
    dir: &'a Dir,
    name: &'a Name,
    meta: &'a Meta,
    block_size: BlockSize,
    /// One of the sides wants to know whether what is there is good.
    verify: bool,
    options: &'a ReceiveOptions,
}

impl Target<'_> {
    fn receive<C: Read + Write>(
        &self,
        channel: &mut Channel<'_, C>,
        report: &mut Report,
    ) -> Result<()> {
        let replace = self.options.overwrite;
        let found = self.dir.find(self.name)?;
        if let Some(blocks) = self.examine_whole(found, channel)? {
            let answer = Answer { blocks, whole: true, replace, trusted: 0 };
            channel.say(Body::Answer(answer))?;
            if hear_start(channel)?.same {
                channel.passes(self.meta.size);
                return self.settle(channel.tenure());
            }
            if !replace {
                return Err(another(self.name));
            }
            let (claim, claimed) = self.claim(channel.tenure())?;
            let part = Part::open(claim, claimed, self.meta, self.block_size)?;
            return fill(channel, part.go_on(0)?, self.options, report);
        }
        let (claim, claimed) = self.claim(channel.tenure())?;
        if self.dir.find(self.name)? != found {
            // Who had the claim until just now may have completed it.
            if claim.is_new() {
                claim.done()?
            } else {
                drop(claim)
            }
            return self.receive(channel, report);
        }
        let mut part = Part::open(claim, claimed, self.meta, self.block_size)?;
        match self.agree(channel, &mut part) {
            Ok(block) => fill(channel, part.go_on(block)?, self.options, report),
            Err(e) => {
                if self.options.discards_after(&e) {
                    part.discard()?;
                }
                Err(e)
            }
        }
    }

    fn claim(&self, tenure: &Arc<Tenure>) -> Result<(Claim<'_>, Vec<Value>)> {
        let header = Header::of_file(self.meta, self.block_size);
        Claim::take(self.dir, self.name, header, tenure)
    }

    /// Says what there is of a part, and hears from which block on it goes on.
    fn agree<C: Read + Write>(
        &self,
        channel: &mut Channel<'_, C>,
        part: &mut Part<'_>,
    ) -> Result<usize> {
        let trusted = part.examine(self.verify, &mut || channel.check())? as u32;
        let (blocks, replace) = (part.values().concat(), self.options.overwrite);
        channel.say(Body::Answer(Answer { blocks, trusted, whole: false, replace }))?;
        let start = hear_start(channel)?;
        if start.same {
            let what = "the sender says that a file is here which is not";
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        channel.passes(part.start_of(start.block as usize));
        Ok(start.block as usize)
    }

    /// Looks at what has the name already. The values of its blocks, if it may
    /// be this very file; nothing if there is nothing, or something that may
    /// be replaced.
    fn examine_whole<C: Read + Write>(
        &self,
        found: Found,
        channel: &mut Channel<'_, C>,
    ) -> Result<Option<Vec<u8>>> {
        let size = match found {
            Found::Nothing => return Ok(None),
            Found::File(size) => size,
            Found::Symlink if self.options.overwrite => return Ok(None),
            Found::Symlink => return Err(another(self.name)),
            Found::Directory => return Err(self.stands_there("a directory")),
            Found::Special => return Err(self.stands_there("a device or the like")),
        };
        let has_part = || Ok::<_, Error>(self.dir.find(&self.name.part())? != Found::Nothing);
        if size != self.meta.size || (self.options.overwrite && has_part()?) {
            return if self.options.overwrite { Ok(None) } else { Err(another(self.name)) };
        }
        examine(channel, self.dir, self.name, size, self.block_size).map(Some)
    }

    /// The file is there, whoever put it there: that comes to be on the disk, and
    /// whatever an attempt left beside it goes.
    fn settle(&self, tenure: &Arc<Tenure>) -> Result<()> {
        self.dir.open_file(self.name)?.sync_all()?;
        self.dir.sync()?;
        if self.dir.find(&self.name.check())? != Found::Nothing {
            self.claim(tenure)?.0.discard()?;
        }
        Ok(())
    }

    fn stands_there(&self, what: &str) -> Error {
        let what = format!("{} is {what}, which a file never replaces", self.name);
        Error::new(ErrorCode::FileExists, what)
            .advise("move it away, or receive into another directory")
    }
}

/// Receives the content of a file, and gives it its name.
pub(crate) fn fill<C: Read + Write>(
    channel: &mut Channel<'_, C>,
    mut writing: Writing<'_>,
    options: &ReceiveOptions,
    report: &mut Report,
) -> Result<()> {
    let end = channel.receive_content(&mut writing, &Tally::default()).and_then(|moved| {
        report.moved += moved;
        hear_end(channel)
    });
    match end {
        Ok(end) if end.changed => {
            writing.keep();
            Err(source_changed("it was written to"))
        }
        Ok(end) => {
            report.hash = Some(writing.finish(&end.hash, options.overwrite)?);
            Ok(())
        }
        Err(e) => {
            if options.discards_after(&e) {
                writing.discard()?;
            } else {
                writing.keep();
            }
            Err(e)
        }
    }
}

/// The values of the blocks of a file that may be the one that comes.
pub(crate) fn examine<C: Read + Write>(
    channel: &mut Channel<'_, C>,
    dir: &Dir,
    name: &Name,
    size: u64,
    block_size: BlockSize,
) -> Result<Vec<u8>> {
    let mut file = dir.open_file(name)?;
    let mut blocks = Blocks::new(block_size);
    let mut buffer = vec![0; READ];
    for block in 0..block_size.count(size) as usize {
        channel.check()?;
        let start = block_size.start_of(block, size);
        let len = block_size.start_of(block + 1, size) - start;
        if blocks.read_block(&mut file, len, &mut buffer)?.is_none() {
            break;
        }
    }
    Ok(blocks.values().concat())
}

pub(crate) fn another(name: &Name) -> Error {
    Error::new(ErrorCode::FileExists, format!("there is another {name} already"))
}

pub(crate) fn hear_start<C: Read + Write>(channel: &mut Channel<'_, C>) -> Result<Start> {
    match channel.hear()? {
        Body::Start(start) => Ok(start),
        other => Err(unexpected(&other)),
    }
}

fn hear_end<C: Read + Write>(channel: &mut Channel<'_, C>) -> Result<End> {
    match channel.hear()? {
        Body::End(end) => Ok(end),
        other => Err(unexpected(&other)),
    }
}

/// The user's own directory. Where that is, the sender need not know: it is told what
/// happened, not what to do about it.
fn open_dir(path: &Path) -> Result<Dir> {
    Dir::open(path).map_err(|e| {
        let what = format!("cannot open the directory to receive into: {e}");
        Error::from(e).describe(what).advise(format!("see that {} is one", path.display()))
    })
}

/// How it reads here that the peer has closed what it had: its conn, or its host.
const LEFT_IN_ORDER: [ErrorCode; 2] = [ErrorCode::ConnectionClosed, ErrorCode::ConnectionAborted];
