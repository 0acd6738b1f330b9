//! What is sent of a file beside its content, put on files.

use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::transfer::wire::Meta;

impl Meta {
    /// When the content was last changed; `None` for times that no system has.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        let nanos = Duration::from_nanos(u64::from(self.mtime_ns).min(999_999_999));
        let seconds = Duration::from_secs(self.mtime.unsigned_abs());
        let whole = if self.mtime < 0 {
            UNIX_EPOCH.checked_sub(seconds)
        } else {
            UNIX_EPOCH.checked_add(seconds)
        };
        whole?.checked_add(nanos)
    }

    /// Gives a file, or a directory, its permissions and its time.
    pub(crate) fn put_on(&self, file: &File) -> io::Result<()> {
        if let Some(mode) = self.mode {
            set_mode(file, mode & PERMISSIONS)?;
        }
        self.put_time_on(file)
    }

    /// Gives it its time.
    pub(crate) fn put_time_on(&self, file: &File) -> io::Result<()> {
        match self.modified() {
            Some(time) => file.set_times(FileTimes::new().set_modified(time)),
            None => Ok(()),
        }
    }
}

fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(Permissions::from_mode(mode))
}

/// What a peer may set: never set-user-id, set-group-id or the sticky bit.
pub(crate) const PERMISSIONS: u32 = 0o777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_on_both_sides_of_1970() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("pointsub-times-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (1 << 33, 5)] {
            let meta = Meta { mtime: seconds, mtime_ns: nanos, ..Meta::default() };
            meta.put_time_on(&file).unwrap();
            let found = file.metadata().unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, i64::from(nanos)));
        }
        std::fs::remove_file(path).unwrap();
        let never = Meta { mtime: i64::MIN, ..Meta::default() };
        let _ = never.modified();
    }
}
