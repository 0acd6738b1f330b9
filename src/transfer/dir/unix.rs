//! Directories as Unix has them: file descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, FileType, FlockOperation, Mode, OFlags, RawMode, Stat, Timespec, Timestamps,
};
use rustix::io::Errno;

use crate::transfer::dir::{Found, Place};
use crate::transfer::meta::PERMISSIONS;
use crate::transfer::names::{Name, from_bytes};
use crate::transfer::wire::Meta;

/// A directory that is open.
pub(crate) struct Dir(OwnedFd);

impl Dir {
    /// The directory that the user means: links on the way are his.
    pub(crate) fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir(fs::open(path, flags, Mode::empty())?))
    }

    /// A directory in this one, not a link to one.
    pub(crate) fn open_dir(&self, name: &Name) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir(fs::openat(&self.0, name.as_bytes(), flags, Mode::empty())?))
    }

    /// Makes a directory that only its owner can enter, until it is complete.
    pub(crate) fn create_dir(&self, name: &Name) -> io::Result<()> {
        Ok(fs::mkdirat(&self.0, name.as_bytes(), Mode::RWXU)?)
    }

    /// A regular file, to read.
    pub(crate) fn open_file(&self, name: &Name) -> io::Result<File> {
        self.open_with(name, OFlags::RDONLY)
    }

    /// To read what was a regular file when it was last seen; its reader compares.
    pub(crate) fn open_seen(&self, name: &Name) -> io::Result<File> {
        self.open_any(name, OFlags::RDONLY)
    }

    /// A regular file, to read and to write.
    pub(crate) fn open_file_to_write(&self, name: &Name) -> io::Result<File> {
        self.open_with(name, OFlags::RDWR)
    }

    /// A file that was not there before.
    pub(crate) fn create_file(&self, name: &Name) -> io::Result<File> {
        self.create_file_with(name, 0o600)
    }

    /// The same with these permissions, as far as this process gives them to files.
    pub(crate) fn create_file_with(&self, name: &Name, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.open_as(name, flags, Mode::from_raw_mode((mode & PERMISSIONS) as RawMode))
    }

    /// What has this name.
    pub(crate) fn find(&self, name: &Name) -> io::Result<Found> {
        Ok(self.look_at(name)?.map_or(Found::Nothing, |seen| seen.found()))
    }

    /// What has this name, with what is known of it; nothing if nothing has.
    pub(crate) fn look_at(&self, name: &Name) -> io::Result<Option<Seen>> {
        match fs::statat(&self.0, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Seen(stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What is known of the directory itself.
    pub(crate) fn look(&self) -> io::Result<Seen> {
        Ok(Seen(fs::fstat(&self.0)?))
    }

    /// Moves something; what is there already is replaced only if that is
    /// allowed, and in one step.
    pub(crate) fn rename(
        &self,
        from: &Name,
        to: &Dir,
        name: &Name,
        replace: bool,
    ) -> io::Result<()> {
        let (from, name) = (from.as_bytes(), name.as_bytes());
        if replace {
            return Ok(fs::renameat(&self.0, from, &to.0, name)?);
        }
        match rename_at_once(&self.0, from, &to.0, name) {
            Err(e) if NOT_KNOWN.contains(&e) => self.rename_where_nothing_is(from, to, name),
            outcome => Ok(outcome?),
        }
    }

    /// For file systems that cannot do it in one step: a link fails where
    /// something is. Directories cannot be linked: those are looked for.
    fn rename_where_nothing_is(&self, from: &[u8], to: &Dir, name: &[u8]) -> io::Result<()> {
        match fs::linkat(&self.0, from, &to.0, name, AtFlags::empty()) {
            Ok(()) => return Ok(fs::unlinkat(&self.0, from, AtFlags::empty())?),
            Err(Errno::EXIST) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => {}
        }
        match fs::statat(&to.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(fs::renameat(&self.0, from, &to.0, name)?),
            Err(e) => Err(e.into()),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    pub(crate) fn remove_file(&self, name: &Name) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name.as_bytes(), AtFlags::empty())?)
    }

    pub(crate) fn remove_dir(&self, name: &Name) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name.as_bytes(), AtFlags::REMOVEDIR)?)
    }

    /// Makes a symbolic link, which nothing here will ever follow.
    pub(crate) fn symlink(&self, target: &[u8], name: &Name, meta: &Meta) -> io::Result<()> {
        fs::symlinkat(target, &self.0, name.as_bytes())?;
        let keep = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
        let mtime = Timespec { tv_sec: meta.mtime, tv_nsec: meta.mtime_ns.min(999_999_999).into() };
        let times = Timestamps { last_access: keep, last_modification: mtime };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(fs::utimensat(&self.0, name.as_bytes(), &times, flags)?)
    }

    /// Opens a directory of ours that was complete, and lets its owner in again.
    pub(crate) fn reopen_dir(&self, name: &Name) -> io::Result<Dir> {
        match self.open_dir(name) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                // It is a directory, not a link, or that would have been said.
                fs::chmodat(&self.0, name.as_bytes(), Mode::RWXU, AtFlags::empty())?;
                self.open_dir(name)
            }
            Err(e) => Err(e),
            Ok(dir) => {
                fs::fchmod(&dir.0, Mode::RWXU)?;
                Ok(dir)
            }
        }
    }

    pub(crate) fn read_link(&self, name: &Name) -> io::Result<Vec<u8>> {
        let target = fs::readlinkat(&self.0, name.as_bytes(), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// The names in it, in the order of their bytes.
    pub(crate) fn names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.extend(Name::from_os(from_bytes(bytes).as_os_str()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Itself as a file, to ask for its times and to set them.
    pub(crate) fn as_file(&self) -> io::Result<File> {
        Ok(self.0.try_clone()?.into())
    }

    /// Waits until the names in it are on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.0)?)
    }

    /// Waits until everything in it is on the disk; and on its file system.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.0)?)
    }

    /// Waits until everything in it is on the disk. Elsewhere `sync` need not wait:
    /// each for itself, but for what even its owner may not read.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        for name in self.names()? {
            let synced = match self.find(&name)? {
                Found::Directory => self.open_dir(&name).and_then(|dir| dir.sync_all()),
                Found::File(_) => self.open_file(&name).and_then(|file| file.sync_all()),
                _ => Ok(()),
            };
            match synced {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => fs::sync(),
                synced => synced?,
            }
        }
        self.sync()
    }

    pub(crate) fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    fn open_with(&self, name: &Name, flags: OFlags) -> io::Result<File> {
        let file = self.open_any(name, flags)?;
        regular(&file)?;
        Ok(file)
    }

    fn open_any(&self, name: &Name, flags: OFlags) -> io::Result<File> {
        self.open_as(name, flags, Mode::empty())
    }

    /// Never waits for the other end of a pipe.
    fn open_as(&self, name: &Name, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(fs::openat(&self.0, name.as_bytes(), flags, mode)?.into())
    }
}

/// Renames unless something has the name, in one step.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_at_once(dir: &OwnedFd, from: &[u8], to: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    fs::renameat_with(dir, from, to, name, fs::RenameFlags::NOREPLACE)
}

/// The system cannot.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_at_once(_: &OwnedFd, _: &[u8], _: &OwnedFd, _: &[u8]) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

fn regular(file: &File) -> io::Result<()> {
    if matches!(Seen::of(file)?.found(), Found::File(_)) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// What is known of something beside its content, at one moment.
pub(crate) struct Seen(Stat);

impl Seen {
    pub(crate) fn of(file: &File) -> io::Result<Seen> {
        Ok(Seen(fs::fstat(file)?))
    }

    pub(crate) fn found(&self) -> Found {
        match FileType::from_raw_mode(self.0.st_mode) {
            FileType::RegularFile => Found::File(self.size()),
            FileType::Directory => Found::Directory,
            FileType::Symlink => Found::Symlink,
            _ => Found::Special,
        }
    }

    /// What is sent of it. Its identity is left out: that takes longer, and nobody
    /// goes on inside a small file or a directory.
    #[expect(clippy::useless_conversion, reason = "the types differ between systems")]
    pub(crate) fn meta(&self) -> Meta {
        let is_file = matches!(self.found(), Found::File(_));
        Meta {
            size: if is_file { self.size() } else { 0 },
            mtime: self.0.st_mtime.into(),
            mtime_ns: self.0.st_mtime_nsec.try_into().unwrap_or(0),
            mode: Some(u32::from(self.0.st_mode) & PERMISSIONS),
            identity: Vec::new(),
        }
    }

    /// The same with its identity.
    pub(crate) fn identified(&self) -> Meta {
        Meta { identity: self.identity(), ..self.meta() }
    }

    /// Which file this is, in which state: 32 bytes.
    fn identity(&self) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        for number in self.state() {
            hasher.update(&number.to_be_bytes());
        }
        hasher.finalize().as_bytes().to_vec()
    }

    #[expect(clippy::useless_conversion, reason = "the types differ between systems")]
    pub(crate) fn place(&self) -> Place {
        (self.0.st_dev.try_into().unwrap_or(0), self.0.st_ino.into())
    }

    fn size(&self) -> u64 {
        self.0.st_size.try_into().unwrap_or(0)
    }

    /// Place on the disk, size, and the times of content and of anything else.
    fn state(&self) -> [i128; 7] {
        [
            i128::from(self.0.st_dev),
            i128::from(self.0.st_ino),
            i128::from(self.0.st_size),
            i128::from(self.0.st_mtime),
            i128::from(self.0.st_mtime_nsec),
            i128::from(self.0.st_ctime),
            i128::from(self.0.st_ctime_nsec),
        ]
    }
}

/// The same file, unchanged in between.
impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        self.state() == other.state()
    }
}

/// There is nothing of that name, or no directory; links count as none, which some
/// systems say in words of their own.
pub(crate) fn is_no_directory(e: &io::Error) -> bool {
    let said = Errno::from_io_error(e);
    matches!(said, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK))
}

/// Locks a file for this process, unless another has it.
pub(crate) fn try_lock(file: &impl AsFd) -> io::Result<bool> {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// How file systems say that they cannot rename without replacing.
const NOT_KNOWN: [Errno; 3] = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_is_reopened_for_its_owner_and_no_link_is_followed() {
        let path = std::env::temp_dir().join(format!("pointsub-reopen-{}", std::process::id()));
        let outside = path.join("outside");
        std::fs::create_dir_all(&outside).expect("directories");
        std::fs::create_dir(path.join("closed")).expect("a directory");
        symlink("outside", path.join("link")).expect("a link");
        let set = |name, mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path.join(name), permissions).expect("permissions");
        };
        let mode = |name| path.join(name).metadata().expect("stat").permissions().mode() & 0o777;
        let dir = Dir::open(&path).expect("the directory");
        let name = |name: &str| Name::from_peer(name.as_bytes()).expect("a name");
        for closed in [0o000, 0o555] {
            set("closed", closed);
            dir.reopen_dir(&name("closed")).expect("it is ours");
            assert_eq!(mode("closed"), 0o700);
        }
        set("outside", 0o755);
        assert!(dir.reopen_dir(&name("link")).is_err());
        assert_eq!(mode("outside"), 0o755);
        std::fs::remove_dir_all(path).expect("to remove them");
    }
}
