//! Directories where there are no file descriptors to hold them by: paths, looked
//! at before they are used. What changes in between is not noticed; a receiver's
//! directory must be its own there.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::transfer::dir::{Found, Place};
use crate::transfer::meta::since_1970;
use crate::transfer::names::{Name, from_bytes, to_bytes};
use crate::transfer::wire::Meta;

/// A directory that was there when it was opened.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn open(path: &Path) -> io::Result<Dir> {
        let path = path.canonicalize()?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Dir(path))
    }

    pub(crate) fn open_dir(&self, name: &Name) -> io::Result<Dir> {
        match self.find(name)? {
            Found::Directory => Ok(Dir(self.path(name))),
            Found::Nothing => Err(io::ErrorKind::NotFound.into()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(crate) fn create_dir(&self, name: &Name) -> io::Result<()> {
        fs::create_dir(self.path(name))
    }

    pub(crate) fn open_file(&self, name: &Name) -> io::Result<File> {
        self.open_with(name, OpenOptions::new().read(true))
    }

    pub(crate) fn open_seen(&self, name: &Name) -> io::Result<File> {
        self.open_file(name)
    }

    pub(crate) fn open_file_to_write(&self, name: &Name) -> io::Result<File> {
        self.open_with(name, OpenOptions::new().read(true).write(true))
    }

    pub(crate) fn create_file(&self, name: &Name) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name))
    }

    pub(crate) fn create_file_with(&self, name: &Name, _mode: u32) -> io::Result<File> {
        self.create_file(name)
    }

    pub(crate) fn find(&self, name: &Name) -> io::Result<Found> {
        Ok(self.look_at(name)?.map_or(Found::Nothing, |seen| seen.found()))
    }

    pub(crate) fn look_at(&self, name: &Name) -> io::Result<Option<Seen>> {
        match fs::symlink_metadata(self.path(name)) {
            Ok(found) => Ok(Some(Seen(found))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn look(&self) -> io::Result<Seen> {
        Ok(Seen(fs::metadata(&self.0)?))
    }

    pub(crate) fn rename(
        &self,
        from: &Name,
        to: &Dir,
        name: &Name,
        replace: bool,
    ) -> io::Result<()> {
        if !replace && to.find(name)? != Found::Nothing {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(self.path(from), to.path(name))
    }

    pub(crate) fn remove_file(&self, name: &Name) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    pub(crate) fn remove_dir(&self, name: &Name) -> io::Result<()> {
        fs::remove_dir(self.path(name))
    }

    pub(crate) fn symlink(&self, _target: &[u8], _name: &Name, _meta: &Meta) -> io::Result<()> {
        let what = "symbolic links are not made on this system";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    pub(crate) fn reopen_dir(&self, name: &Name) -> io::Result<Dir> {
        self.open_dir(name)
    }

    pub(crate) fn read_link(&self, name: &Name) -> io::Result<Vec<u8>> {
        let target = fs::read_link(self.path(name))?;
        to_bytes(target.as_os_str()).ok_or_else(|| io::ErrorKind::InvalidFilename.into())
    }

    pub(crate) fn names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.push(Name::from_os(&entry?.file_name())?);
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(crate) fn as_file(&self) -> io::Result<File> {
        File::open(&self.0)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Each file for itself: there is no way to say it once.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        for name in self.names()? {
            match self.find(&name)? {
                Found::Directory => self.open_dir(&name)?.sync_all()?,
                Found::File(_) => self.open_file_to_write(&name)?.sync_all()?,
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.clone()))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.0.join(from_bytes(name.as_bytes()))
    }

    fn open_with(&self, name: &Name, options: &OpenOptions) -> io::Result<File> {
        match self.find(name)? {
            Found::File(_) => options.open(self.path(name)),
            Found::Nothing => Err(io::ErrorKind::NotFound.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
        }
    }
}

/// What is known of something beside its content, at one moment.
pub(crate) struct Seen(Metadata);

impl Seen {
    pub(crate) fn of(file: &File) -> io::Result<Seen> {
        Ok(Seen(file.metadata()?))
    }

    pub(crate) fn found(&self) -> Found {
        match self.0.file_type() {
            kind if kind.is_file() => Found::File(self.0.len()),
            kind if kind.is_dir() => Found::Directory,
            kind if kind.is_symlink() => Found::Symlink,
            _ => Found::Special,
        }
    }

    /// What is sent of it, but for its identity.
    pub(crate) fn meta(&self) -> Meta {
        let (mtime, mtime_ns) = since_1970(self.modified());
        let size = if self.0.is_file() { self.0.len() } else { 0 };
        Meta { size, mtime, mtime_ns, mode: None, identity: Vec::new() }
    }

    /// The same with its identity.
    pub(crate) fn identified(&self) -> Meta {
        Meta { identity: self.identity(), ..self.meta() }
    }

    /// Which file this is, in which state: 32 bytes.
    fn identity(&self) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        let (mtime, mtime_ns) = since_1970(self.modified());
        let (born, born_ns) = since_1970(self.born());
        hasher.update(&self.0.len().to_be_bytes());
        hasher.update(&mtime.to_be_bytes()).update(&mtime_ns.to_be_bytes());
        hasher.update(&born.to_be_bytes()).update(&born_ns.to_be_bytes());
        hasher.finalize().as_bytes().to_vec()
    }

    /// All are the same: as nobody is kept out, nobody asks.
    pub(crate) fn place(&self) -> Place {
        Place::default()
    }

    fn modified(&self) -> SystemTime {
        self.0.modified().unwrap_or(UNIX_EPOCH)
    }

    fn born(&self) -> SystemTime {
        self.0.created().unwrap_or(UNIX_EPOCH)
    }
}

/// The same file, unchanged in between, as far as can be told.
impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        let state = |seen: &Seen| (seen.0.len(), seen.modified(), seen.born());
        state(self) == state(other)
    }
}

/// There is nothing of that name, or no directory.
pub(crate) fn is_no_directory(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Nobody is kept out.
pub(crate) fn try_lock(_file: &File) -> io::Result<bool> {
    Ok(true)
}
