//! A file that is being put together: `NAME.part`, with its checkpoint.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::blocks::{BlockSize, Blocks, Value};
use crate::transfer::checkpoint::{Checkpoint, in_the_way};
use crate::transfer::claim::Claim;
use crate::transfer::dir::Dir;
use crate::transfer::hashing::Hashing;
use crate::transfer::names::Name;
use crate::transfer::wire::Meta;

/// A part, locked for this process. Dropped, it stays for the next attempt.
pub(crate) struct Part<'a> {
    dir: &'a Dir,
    name: &'a Name,
    file: File,
    /// None in a directory that is put together as a whole.
    claim: Option<Claim<'a>>,
    claimed: Vec<Value>,
    blocks: Blocks,
    block_size: BlockSize,
    meta: &'a Meta,
}

impl<'a> Part<'a> {
    /// Opens the part that was claimed, or begins one; `claimed` are the values of what
    /// should be there.
    pub(crate) fn open(
        claim: Claim<'a>,
        claimed: Vec<Value>,
        meta: &'a Meta,
        block_size: BlockSize,
    ) -> Result<Part<'a>> {
        let (dir, name, part) = (claim.dir, claim.name, claim.name.part());
        let found = (!claim.is_new()).then(|| dir.open_file_to_write(&part));
        let file = match found {
            Some(Ok(file)) if has_other_names(&file)? => {
                return Err(in_the_way(&part, io::Error::other("it has another name as well")));
            }
            Some(Ok(file)) => file,
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => {
                return Err(in_the_way(&part, e));
            }
            _ => dir.create_file(&part)?,
        };
        let (claim, blocks) = (Some(claim), Blocks::new(block_size));
        Ok(Part { dir, name, file, claim, claimed, blocks, block_size, meta })
    }

    /// A file in a directory that is itself a part: it has its name already.
    pub(crate) fn staged(
        dir: &'a Dir,
        name: &'a Name,
        meta: &'a Meta,
        block_size: BlockSize,
        file: File,
    ) -> Part<'a> {
        let (blocks, claimed) = (Blocks::new(block_size), Vec::new());
        Part { dir, name, file, claim: None, claimed, blocks, block_size, meta }
    }

    /// Looks for the last point up to which what is there is good, as far as
    /// can be known here. Without `verify` the checkpoint is believed, and what
    /// is behind its claims is read; the number of blocks believed. Before each that is
    /// read `check` says whether to go on.
    pub(crate) fn examine(
        &mut self,
        verify: bool,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<usize> {
        let size = self.meta.size;
        let there = self.file.metadata()?.len().min(size);
        let complete = if there == size {
            self.block_size.count(size)
        } else {
            there / self.block_size.bytes()
        };
        self.claimed.truncate(complete as usize);
        if !verify {
            self.blocks = Blocks::trusting(self.block_size, self.claimed.clone());
        }
        let trusted = self.blocks.values().len();
        self.file.seek(SeekFrom::Start(self.block_size.start_of(trusted, size)))?;
        let mut buffer = vec![0; READ];
        for block in trusted..complete as usize {
            check()?;
            let start = self.block_size.start_of(block, size);
            let len = self.block_size.start_of(block + 1, size) - start;
            let value = self.blocks.read_block(&mut self.file, len, &mut buffer)?;
            let claimed = self.claimed.get(block);
            if value.is_none() || claimed.is_some_and(|claimed| value != Some(*claimed)) {
                self.blocks.truncate(block);
                break;
            }
        }
        Ok(trusted)
    }

    /// The values of the blocks that are there.
    pub(crate) fn values(&self) -> &[Value] {
        self.blocks.values()
    }

    /// Where a block begins.
    pub(crate) fn start_of(&self, block: usize) -> u64 {
        self.block_size.start_of(block, self.meta.size)
    }

    /// Removes it: the transfer is not to go on.
    pub(crate) fn discard(self) -> Result<()> {
        self.claim.map_or(Ok(()), Claim::discard)
    }

    /// Drops what is behind the first blocks and waits for the rest.
    pub(crate) fn go_on(mut self, block: usize) -> Result<Writing<'a>> {
        if block > self.values().len() {
            let what = "the sender left out what is not here";
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        let start = self.block_size.start_of(block, self.meta.size);
        if let Some(claim) = &mut self.claim {
            claim.checkpoint.unclaim(block)?;
        }
        if block < self.values().len() {
            self.blocks.truncate(block);
        }
        self.file.set_len(start)?;
        self.file.seek(SeekFrom::Start(start))?;
        Ok(Writing {
            dir: self.dir,
            name: self.name,
            meta: self.meta,
            hashing: Hashing::new(self.blocks, &self.file, start, self.meta.size - start),
            file: self.file,
            position: start,
            keeper: self.claim.map_or(Keeper::Nobody, |claim| Keeper::Idle(claim.checkpoint)),
            kept: Instant::now(),
            kept_at: start,
        })
    }
}

/// A part that grows.
pub(crate) struct Writing<'a> {
    dir: &'a Dir,
    name: &'a Name,
    meta: &'a Meta,
    file: File,
    hashing: Hashing,
    position: u64,
    keeper: Keeper,
    /// When the checkpoint was last brought up to date, and where.
    kept: Instant,
    kept_at: u64,
}

impl Writing<'_> {
    /// Makes it the file that it was to become; its hash.
    pub(crate) fn finish(self, hash: &[u8], replace: bool) -> Result<Value> {
        if self.position != self.meta.size {
            let what = format!("{} bytes of {} came", self.position, self.meta.size);
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        let ours = self.hashing.finish()?;
        let mut checkpoint = self.keeper.stop()?;
        if ours != hash {
            // The next attempt looks at every block again.
            if let Some(checkpoint) = &mut checkpoint {
                checkpoint.unclaim(0)?;
            }
            let what = format!("{} does not have the hash that its sender gave", self.name);
            return Err(Error::new(ErrorCode::ChecksumMismatch, what)
                .advise("send it again; what is bad will be found and sent"));
        }
        self.meta.put_on(&self.file)?;
        let (dir, name) = (self.dir, self.name);
        let Some(checkpoint) = checkpoint else { return Ok(ours) };
        self.file.sync_all()?;
        dir.rename(&name.part(), dir, name, replace).map_err(|e| exists(name, e))?;
        Claim { dir, name, checkpoint }.done()?;
        Ok(ours)
    }

    /// Removes the part: the transfer is not to go on.
    pub(crate) fn discard(self) -> Result<()> {
        let (dir, name) = (self.dir, self.name);
        let checkpoint = self.keeper.stop()?;
        checkpoint.map_or(Ok(()), |checkpoint| Claim { dir, name, checkpoint }.discard())
    }

    /// Keeps what has arrived before an attempt ends. Best effort: what is not
    /// claimed is looked at next time.
    pub(crate) fn keep(self) {
        let values = self.hashing.values();
        if let Ok(Some(mut checkpoint)) = self.keeper.stop()
            && self.file.sync_data().is_ok()
        {
            let _ = checkpoint.claim(&values);
        }
    }

    /// Brings the checkpoint up to date now and then, without waiting for it.
    fn claim_now_and_then(&mut self) -> io::Result<()> {
        let due = self.position - self.kept_at >= CLAIM_BYTES
            || (self.kept.elapsed() >= CLAIM_TIME && self.position > self.kept_at);
        if due {
            self.kept = Instant::now();
            if self.keeper.offer(&self.file, self.hashing.values())? {
                self.kept_at = self.position;
            }
        }
        Ok(())
    }
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.position.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.meta.size) {
            let what = "the sender sent more than the file that it announced";
            return Err(Error::new(ErrorCode::ProtocolViolation, what).into());
        }
        let n = self.file.write(bytes)?;
        self.hashing.moved(&bytes[..n]);
        self.position += n as u64;
        self.claim_now_and_then()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who writes the checkpoint: a thread, once there is something to claim.
enum Keeper {
    Nobody,
    Idle(Checkpoint),
    Working { jobs: SyncSender<Vec<Value>>, thread: JoinHandle<io::Result<Checkpoint>> },
    Failed,
}

impl Keeper {
    /// Hands it what could be claimed, unless it is still busy with the last.
    fn offer(&mut self, file: &File, values: Vec<Value>) -> io::Result<bool> {
        *self = match std::mem::replace(self, Keeper::Failed) {
            Keeper::Idle(checkpoint) => Keeper::start(file.try_clone()?, checkpoint)?,
            // It ends by itself only because the disk failed.
            Keeper::Working { jobs, thread } if thread.is_finished() => {
                Keeper::Working { jobs, thread }.stop()?;
                Keeper::Failed
            }
            other => other,
        };
        match self {
            Keeper::Working { jobs, .. } => Ok(jobs.try_send(values).is_ok()),
            _ => Ok(false),
        }
    }

    fn start(file: File, mut checkpoint: Checkpoint) -> io::Result<Keeper> {
        let (jobs, next) = mpsc::sync_channel::<Vec<Value>>(0);
        let thread = thread::Builder::new().name("pointsub-part".into()).spawn(move || {
            for values in next {
                file.sync_data()?;
                checkpoint.claim(&values)?;
            }
            Ok(checkpoint)
        });
        Ok(Keeper::Working { jobs, thread: thread.map_err(Error::no_thread)? })
    }

    /// Waits for what it is doing.
    fn stop(self) -> io::Result<Option<Checkpoint>> {
        match self {
            Keeper::Nobody => Ok(None),
            Keeper::Idle(checkpoint) => Ok(Some(checkpoint)),
            Keeper::Working { jobs, thread } => {
                drop(jobs);
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))).map(Some)
            }
            Keeper::Failed => Err(io::Error::other("the checkpoint could not be written")),
        }
    }
}

fn has_other_names(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink() > 1)
}

/// A name is taken.
pub(crate) fn exists(name: &Name, e: io::Error) -> Error {
    if e.kind() != io::ErrorKind::AlreadyExists {
        return e.into();
    }
    Error::with_source(ErrorCode::FileExists, format!("there is a {name} already"), e)
}

/// The checkpoint follows after so much content, or so much time.
const CLAIM_BYTES: u64 = 64 << 20;
const CLAIM_TIME: Duration = Duration::from_secs(1);

/// How much is read at once of what is there already.
pub(crate) const READ: usize = 256 << 10;
