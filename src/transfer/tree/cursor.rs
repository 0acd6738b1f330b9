//! A place in a tree: the directories that lead there, held open.

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::dir::{Dir, is_no_directory};
use crate::transfer::names::Name;
use crate::transfer::tree::DEEPEST;

/// A place in a tree. Below a directory that is not there nothing is.
pub(crate) struct Cursor(Vec<Option<Dir>>);

impl Cursor {
    pub(crate) fn new(root: Option<Dir>) -> Cursor {
        Cursor(vec![root])
    }

    /// The directory that is open.
    pub(crate) fn here(&self) -> Option<&Dir> {
        self.0.last()?.as_ref()
    }

    /// Leaves so many directories.
    pub(crate) fn leave(&mut self, up: u32) -> Result<()> {
        let left = self.0.len().checked_sub(up as usize).filter(|&left| left > 0);
        let left = left.ok_or_else(too_far_up)?;
        self.0.truncate(left);
        Ok(())
    }

    /// Enters a directory, which may be missing or be something else.
    pub(crate) fn enter(&mut self, name: &Name) -> Result<()> {
        if self.0.len() > DEEPEST {
            return Err(too_deep());
        }
        let dir = match self.here().map(|here| here.open_dir(name)) {
            None => None,
            Some(Ok(dir)) => Some(dir),
            Some(Err(e)) if is_no_directory(&e) => None,
            Some(Err(e)) => return Err(e.into()),
        };
        self.0.push(dir);
        Ok(())
    }
}

pub(crate) fn too_far_up() -> Error {
    Error::new(ErrorCode::ProtocolViolation, "the sender left its own directory")
}

pub(crate) fn too_deep() -> Error {
    let what = format!("directories are nested deeper than {DEEPEST}");
    Error::new(ErrorCode::InvalidName, what).advise("pack them into an archive and send that")
}
