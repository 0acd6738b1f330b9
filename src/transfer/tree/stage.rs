//! The directory in which another is put together: `NAME.part`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::dir::{Dir, Found, Seen};
use crate::transfer::names::Name;
use crate::transfer::tree::DEEPEST;
use crate::transfer::tree::cursor::{too_deep, too_far_up};
use crate::transfer::wire::Meta;

/// A place in it, where entries are made.
pub(crate) struct Stage {
    levels: Vec<Level>,
    /// An earlier attempt has left something in it.
    resumed: bool,
    closed: Closed,
    /// Permissions that a file had when it was made with them. What this process
    /// masks can only be learned so; what is asked for again is not asked for twice.
    given: Option<u32>,
}

/// Directories that even their owner may not change: they become so once
/// everything has its place.
#[derive(Default)]
pub(crate) struct Closed(Vec<(Way, Meta)>);

impl Closed {
    fn add(&mut self, way: Way, meta: Meta) -> Result<()> {
        if self.0.len() == MOST_CLOSED {
            let what =
                format!("more than {MOST_CLOSED} directories that their owner may not change");
            return Err(Error::new(ErrorCode::Rejected, what)
                .advise("let their owner change them, or pack them into an archive"));
        }
        self.0.push((way, meta));
        Ok(())
    }

    /// Each by the names that lead to it, those inside others before them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Vec<&Name>, &Meta)> {
        self.0.iter().map(|(way, meta)| (names_on(way), meta))
    }
}

/// How a directory is reached; at the root, nothing. What is in one directory shares
/// the way to it.
type Way = Option<Arc<Step>>;

struct Step {
    before: Way,
    name: Name,
}

fn names_on(way: &Way) -> Vec<&Name> {
    let steps = std::iter::successors(way.as_deref(), |step| step.before.as_deref());
    let mut names: Vec<_> = steps.map(|step| &step.name).collect();
    names.reverse();
    names
}

struct Level {
    dir: Dir,
    way: Way,
    meta: Meta,
    /// What the sender has in it, if anything else could be there.
    listed: HashSet<Name>,
}

impl Level {
    fn new(dir: Dir, way: Way, meta: Meta) -> Level {
        // An identity is of no use here, and may be as long as a message.
        let meta = Meta { identity: Vec::new(), ..meta };
        Level { dir, way, meta, listed: HashSet::new() }
    }
}

impl Stage {
    pub(crate) fn new(dir: Dir, meta: Meta, resumed: bool) -> Stage {
        let root = Level::new(dir, None, meta);
        Stage { levels: vec![root], resumed, closed: Closed::default(), given: None }
    }

    /// The directory that is open.
    pub(crate) fn here(&self) -> &Dir {
        &self.last().dir
    }

    fn last(&self) -> &Level {
        self.levels.last().expect("the root is never left")
    }

    /// The same place in another tree.
    pub(crate) fn same_in(&self, root: Option<&Dir>) -> Result<Dir> {
        let mut dir = root.map(Dir::try_clone).transpose()?;
        for name in names_on(&self.last().way) {
            dir = dir.map(|dir| dir.open_dir(name)).transpose()?;
        }
        dir.ok_or_else(|| Error::new(ErrorCode::FileExists, "a directory was moved meanwhile"))
    }

    /// Makes a directory and goes into it.
    pub(crate) fn enter(&mut self, name: Name, meta: Meta) -> Result<()> {
        if self.levels.len() > DEEPEST {
            return Err(too_deep());
        }
        self.list(&name);
        let here = self.here();
        let dir = match self.resumed.then(|| self.open_again(&name)).transpose()?.flatten() {
            Some(dir) => dir,
            None => {
                here.create_dir(&name).map_err(|e| twice(&name, e))?;
                here.open_dir(&name)?
            }
        };
        let way = Arc::new(Step { before: self.last().way.clone(), name });
        self.levels.push(Level::new(dir, Some(way), meta));
        Ok(())
    }

    /// A directory of an earlier attempt; what else has its name is removed.
    fn open_again(&self, name: &Name) -> Result<Option<Dir>> {
        match self.here().find(name)? {
            Found::Nothing => Ok(None),
            Found::Directory => Ok(Some(self.here().reopen_dir(name)?)),
            _ => {
                self.here().remove_file(name)?;
                Ok(None)
            }
        }
    }

    /// Leaves so many directories; they are complete.
    pub(crate) fn leave(&mut self, up: u32) -> Result<()> {
        for _ in 0..up {
            if self.levels.len() < 2 {
                return Err(too_far_up());
            }
            self.leave_one()?;
        }
        Ok(())
    }

    fn leave_one(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        if self.resumed {
            for name in level.dir.names()? {
                if !level.listed.contains(&name) {
                    level.dir.remove_all(&name)?;
                }
            }
        }
        let mut meta = level.meta;
        if let Some(mode) = meta.mode
            && mode & OWNER != OWNER
        {
            self.closed.add(level.way, meta.clone())?;
            meta.mode = Some(mode | OWNER);
        }
        Ok(meta.put_on(&level.dir.as_file()?)?)
    }

    /// Leaves all of it.
    pub(crate) fn finish(mut self) -> Result<Closed> {
        while !self.levels.is_empty() {
            self.leave_one()?;
        }
        Ok(self.closed)
    }

    /// Makes room for an entry: what an earlier attempt left there goes.
    pub(crate) fn clear(&mut self, name: &Name) -> Result<()> {
        self.list(name);
        if self.resumed { Ok(self.here().remove_all(name)?) } else { Ok(()) }
    }

    /// Remembers that the sender has this.
    pub(crate) fn list(&mut self, name: &Name) {
        if self.resumed
            && let Some(level) = self.levels.last_mut()
        {
            level.listed.insert(name.clone());
        }
    }

    /// The sender has it no more.
    pub(crate) fn forget(&mut self, name: &Name) -> Result<()> {
        if let Some(level) = self.levels.last_mut() {
            level.listed.remove(name);
        }
        if self.resumed { Ok(self.here().remove_all(name)?) } else { Ok(()) }
    }

    pub(crate) fn put_file(&mut self, name: &Name, meta: &Meta, content: &[u8]) -> Result<()> {
        self.clear(name)?;
        // Nobody else gets at it before it is complete: nobody else gets into the part.
        let file = self.here().create_file_with(name, meta.mode.unwrap_or(PRIVATE));
        let mut file = file.map_err(|e| twice(name, e))?;
        file.write_all(content)?;
        if self.given != meta.mode {
            self.given = Seen::of(&file)?.meta().mode;
        }
        let as_asked = self.given == meta.mode;
        let put = if as_asked { meta.put_time_on(&file) } else { meta.put_on(&file) };
        Ok(put?)
    }

    pub(crate) fn put_link(&mut self, name: &Name, meta: &Meta, target: &[u8]) -> Result<()> {
        self.clear(name)?;
        self.here().symlink(target, name, meta).map_err(|e| twice(name, e))
    }

    pub(crate) fn create(&self, name: &Name) -> Result<File> {
        self.here().create_file(name).map_err(|e| twice(name, e))
    }
}

/// In a directory of our own only the sender itself can have made it.
fn twice(name: &Name, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::AlreadyExists => {
            let what = format!("the sender has two of {name}, as far as this file system can tell");
            Error::with_source(ErrorCode::InvalidName, what, e)
        }
        io::ErrorKind::InvalidFilename => {
            let what = format!("this file system cannot have {name}: {e}");
            Error::with_source(ErrorCode::InvalidName, what, e)
        }
        _ => e.into(),
    }
}

/// What a directory must allow its owner, so that it can be filled.
const OWNER: u32 = 0o700;

/// So many directories are remembered that are closed in the end: 100 MB if their names
/// are as long as can be, some 30 MB with ordinary ones.
const MOST_CLOSED: usize = 250_000;

/// The permissions of a file whose sender knows none.
const PRIVATE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_closed_in_the_end_share_their_way_and_have_a_limit() {
        let name = |name: &str| Name::from_peer(name.as_bytes()).expect("a name");
        let step = |before: &Way, of: &str| {
            Some(Arc::new(Step { before: before.clone(), name: name(of) }))
        };
        let mut closed = Closed::default();
        let above = step(&None, "above");
        closed.add(step(&above, "inside"), Meta::default()).expect("the first");
        closed.add(None, Meta::default()).expect("the root");
        let ways: Vec<_> = closed.iter().map(|(names, _)| names).collect();
        assert_eq!(ways, [vec![&name("above"), &name("inside")], vec![]]);
        for _ in 2..MOST_CLOSED {
            closed.add(above.clone(), Meta::default()).expect("room");
        }
        let e = closed.add(above, Meta::default()).expect_err("no more");
        assert_eq!(e.code(), ErrorCode::Rejected);
    }
}
