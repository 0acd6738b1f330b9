//! Directories held open: everything that a peer names is reached from one,
//! by a single component, and never through a symbolic link.

mod unix;

use std::io;

use crate::transfer::names::Name;

pub(crate) use unix::{Dir, Seen, is_no_directory, try_lock};

impl Dir {
    /// Removes something, with all that is in it.
    pub(crate) fn remove_all(&self, name: &Name) -> io::Result<()> {
        match self.find(name)? {
            Found::Nothing => return Ok(()),
            Found::Directory => {}
            _ => return self.remove_file(name),
        }
        let inside = self.reopen_dir(name)?;
        for name in inside.names()? {
            inside.remove_all(&name)?;
        }
        self.remove_dir(name)
    }
}

/// What stands in a directory under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A regular file of this size.
    File(u64),
    Directory,
    Symlink,
    /// A device, a pipe or a socket.
    Special,
}

/// Which file it is, whatever it is called: its device and its number there.
pub(crate) type Place = (u64, u64);
