//! Directories held open: everything that a peer names is reached from one,
//! by a single component, and never through a symbolic link.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{Dir, Seen, try_lock};

#[cfg(not(unix))]
mod portable;
#[cfg(not(unix))]
pub(crate) use portable::{Dir, Seen, try_lock};

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
