//! The right to put something together: its checkpoint, locked, and with it its part.

use std::io;
use std::sync::Arc;

use crate::error::Result;
use crate::transfer::blocks::Value;
use crate::transfer::checkpoint::{Checkpoint, Header, in_the_way};
use crate::transfer::dir::{Dir, Found};
use crate::transfer::names::Name;
use crate::transfer::tenure::Tenure;

/// The right to put `name` together in `dir`. Dropped, its part and its checkpoint stay
/// for the next attempt.
///
/// A part never outlives its checkpoint, not even a power cut: without one it would be
/// somebody else's. So the checkpoint is made before it, and goes after it.
pub(crate) struct Claim<'a> {
    pub(crate) dir: &'a Dir,
    pub(crate) name: &'a Name,
    pub(crate) checkpoint: Checkpoint,
}

impl<'a> Claim<'a> {
    /// Takes it, unless another transfer has it; and the values of what should be there.
    pub(crate) fn take(
        dir: &'a Dir,
        name: &'a Name,
        header: Header,
        tenure: &Arc<Tenure>,
    ) -> Result<(Claim<'a>, Vec<Value>)> {
        let part = name.part();
        let is_there = |name: &Name| Ok::<_, io::Error>(dir.find(name)? != Found::Nothing);
        // Looked for twice: one that was completed in between was ours.
        if is_there(&part)? && !is_there(&name.check())? && is_there(&part)? {
            return Err(in_the_way(&part, io::Error::other("it is not a part of ours")));
        }
        let (checkpoint, values) = Checkpoint::open(dir, name, header, tenure)?;
        Ok((Claim { dir, name, checkpoint }, values))
    }

    /// Whether nobody had it before: there is no part of ours.
    pub(crate) fn is_new(&self) -> bool {
        self.checkpoint.is_new()
    }

    /// There is no part any more, as soon as that is on the disk.
    pub(crate) fn done(self) -> Result<()> {
        self.dir.sync()?;
        Ok(self.dir.remove_file(&self.name.check())?)
    }

    /// Removes the part: it is not to be gone on with.
    pub(crate) fn discard(self) -> Result<()> {
        self.dir.remove_all(&self.name.part())?;
        self.done()
    }
}
