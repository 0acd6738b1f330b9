//! All that is in a directory, the sender's way: each directory before what is
//! in it, in the order of the names' bytes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::vec;

use prost::Message as _;

use crate::error::Result;
use crate::transfer::blocks::BlockSize;
use crate::transfer::dir::{Dir, Found, Seen};
use crate::transfer::names::Name;
use crate::transfer::tree::cursor::too_deep;
use crate::transfer::tree::{DEEPEST, MOST_BYTES, size_of};
use crate::transfer::wire::{Batch, Entry, Kind, MOST_ENTRIES};

/// Goes through a tree.
pub(crate) struct Walk {
    root: Dir,
    stack: Vec<Level>,
    /// Batches that were looked at for the total, and not handed out yet.
    ahead: VecDeque<Sights>,
    /// How many directories were left since the last entry.
    up: u32,
    /// The largest file that is small.
    small: u64,
    /// The size of the blocks of others, at least.
    block_size: u64,
    /// What is neither file nor directory nor link.
    pub(crate) left_out: Vec<PathBuf>,
}

/// Entries, and each as it was seen.
type Sights = (Batch, Vec<Seen>);

struct Level {
    dir: Dir,
    name: PathBuf,
    names: vec::IntoIter<Name>,
}

impl Walk {
    pub(crate) fn new(root: Dir, small: u64, block_size: u64) -> Result<Walk> {
        let (stack, ahead, left_out) = Default::default();
        let mut walk = Walk { root, stack, ahead, up: 0, small, block_size, left_out };
        walk.begin()?;
        Ok(walk)
    }

    fn begin(&mut self) -> Result<()> {
        let (dir, names) = (self.root.try_clone()?, self.root.names()?.into_iter());
        self.stack = vec![Level { dir, name: PathBuf::new(), names }];
        self.up = 0;
        self.left_out.clear();
        Ok(())
    }

    /// The size of all files, before the first batch. A tree of a few batches is gone
    /// through once, others again. Before each batch `check` says whether to go on.
    pub(crate) fn total(&mut self, check: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        let mut total = 0u64;
        loop {
            check()?;
            let (batch, seen) = self.look_on()?;
            total = batch.entries.iter().map(size_of).fold(total, u64::saturating_add);
            let last = batch.last;
            if self.ahead.len() <= MOST_AHEAD {
                self.ahead.push_back((batch, seen));
            }
            if last {
                break;
            }
        }
        if self.ahead.len() > MOST_AHEAD {
            self.ahead.clear();
            self.begin()?;
        }
        Ok(total)
    }

    /// The next entries, and each as it was seen.
    pub(crate) fn batch(&mut self) -> Result<Sights> {
        self.ahead.pop_front().map_or_else(|| self.look_on(), Ok)
    }

    fn look_on(&mut self) -> Result<Sights> {
        let (mut batch, mut sights) = (Batch::default(), Vec::new());
        let mut bytes = 0;
        while batch.entries.len() < MOST_ENTRIES && bytes < MOST_BYTES {
            let Some((entry, seen)) = self.entry()? else {
                batch.last = true;
                break;
            };
            bytes += entry.encoded_len();
            batch.entries.push(entry);
            sights.push(seen);
        }
        Ok((batch, sights))
    }

    fn entry(&mut self) -> Result<Option<(Entry, Seen)>> {
        while let Some(level) = self.stack.last_mut() {
            let Some(name) = level.names.next() else {
                self.stack.pop();
                self.up += 1;
                continue;
            };
            let outcome = self.look_at(&name);
            let entry = outcome.map_err(|e| {
                let what = format!("{}: {}", self.path(&name).display(), e.description());
                e.describe(what)
            })?;
            if let Some(entry) = entry {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// What has this name; nothing if it has gone, or cannot be sent.
    fn look_at(&mut self, name: &Name) -> Result<Option<(Entry, Seen)>> {
        let Some(level) = self.stack.last() else { return Ok(None) };
        let Some(seen) = level.dir.look_at(name)? else { return Ok(None) };
        let mut entry = Entry { name: name.as_bytes().to_vec(), ..Entry::default() };
        let kind = match seen.found() {
            Found::Nothing => return Ok(None),
            Found::File(size) if size <= self.small => Kind::Small,
            Found::File(size) => {
                entry.block_log2 = BlockSize::for_file(size, self.block_size)?.log2();
                Kind::Large
            }
            Found::Directory => {
                match level.dir.open_dir(name).and_then(|dir| Ok((dir.names()?, dir))) {
                    Ok((names, dir)) => self.enter(dir, name, names)?,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(e.into()),
                }
                Kind::Directory
            }
            Found::Symlink => {
                entry.target = level.dir.read_link(name)?;
                Kind::Symlink
            }
            Found::Special => {
                if self.left_out.len() < MOST_LEFT_OUT {
                    self.left_out.push(self.path(name));
                }
                return Ok(None);
            }
        };
        entry.set_kind(kind);
        entry.up = std::mem::take(&mut self.up);
        entry.meta = Some(if kind == Kind::Large { seen.identified() } else { seen.meta() });
        Ok(Some((entry, seen)))
    }

    fn enter(&mut self, dir: Dir, name: &Name, names: Vec<Name>) -> Result<()> {
        if self.stack.len() > DEEPEST {
            return Err(too_deep());
        }
        self.stack.push(Level { dir, name: name.to_path(), names: names.into_iter() });
        Ok(())
    }

    fn path(&self, name: &Name) -> PathBuf {
        let levels = self.stack.iter().map(|level| &level.name);
        levels.collect::<PathBuf>().join(name.to_path())
    }
}

/// So many batches are kept: some megabytes.
const MOST_AHEAD: usize = 4;

/// More of what was left out is not remembered.
const MOST_LEFT_OUT: usize = 100;
