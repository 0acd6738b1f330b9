//! Trees to send, and whether two are the same.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::support::{self, Content};

/// A tree with one of everything that can be sent.
pub fn make_varied(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and/deeper")).expect("directories");
    fs::create_dir(root.join("empty")).expect("a directory");
    fs::create_dir(root.join("closed")).expect("a directory");
    let sizes = [0, 1, 1023, 1 << 16, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 77];
    for (i, size) in sizes.into_iter().enumerate() {
        fs::write(root.join(format!("size-{size}")), support::bytes(i as u64, size))
            .expect("write");
    }
    for (i, dir) in ["deep", "deep/er", "deep/er/and/deeper", "closed"].iter().enumerate() {
        for n in 0..7 {
            let path = root.join(dir).join(format!("file {n}"));
            fs::write(path, support::bytes((7 * i + n) as u64, 100 * n)).expect("write");
        }
    }
    symlink("size-1023", root.join("link")).expect("a link");
    symlink("../../size-1", root.join("deep/er/up")).expect("a link");
    symlink("nowhere", root.join("dangling")).expect("a link");
    symlink("deep", root.join("to a directory")).expect("a link");
    fs::write(root.join("ünï\n\u{1b}[2Jcode"), "name").expect("write");
    fs::write(root.join(OsStr::from_bytes(b"x\xff\xfe")), "name").expect("write");
    let modes = [
        ("size-1", 0o600),
        ("size-0", 0o444),
        ("size-1023", 0o755),
        // More than most processes give to a file that they make.
        ("size-65536", 0o666),
        ("deep/file 1", 0o666),
        ("deep", 0o750),
    ];
    for (name, mode) in modes {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(root.join(name), permissions).expect("permissions");
    }
    for (i, name) in ["size-1", "deep/er", "empty", "closed/file 3"].iter().enumerate() {
        let file = File::open(root.join(name)).expect("open");
        let time = UNIX_EPOCH + Duration::new(1_000_000_000 * i as u64, 123_456_789);
        file.set_times(FileTimes::new().set_modified(time)).expect("times");
    }
    let read_only = fs::Permissions::from_mode(0o555);
    fs::set_permissions(root.join("closed"), read_only).expect("permissions");
}

/// A tree of `files` files that have about `bytes` bytes together, of all sizes.
pub fn make_large(root: &Path, files: usize, bytes: usize, seed: u64) {
    let mut random = Content::new(seed);
    for n in 0..files {
        let dir = root.join(format!("{}/{}", n % 7, n % 13));
        fs::create_dir_all(&dir).expect("directories");
        // Half of the bytes are in a hundredth of the files.
        let mean = if n % 100 == 0 { bytes * 50 / files } else { bytes / 2 / files };
        let size = random.below(2 * mean);
        fs::write(dir.join(n.to_string()), support::bytes(n as u64, size)).expect("write");
    }
}

/// Fails unless both trees are the same, names, kinds, modes, times and all.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    assert_eq!(names(a), names(b), "in {}", b.display());
    for name in names(a) {
        let (a, b) = (a.join(&name), b.join(&name));
        let found = |path| fs::symlink_metadata(path).expect("stat");
        let (from, to) = (found(&a), found(&b));
        assert_eq!(from.mode(), to.mode(), "{}", b.display());
        let times = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec());
        assert_eq!(times(&from), times(&to), "{}", b.display());
        if from.is_symlink() {
            assert_eq!(fs::read_link(&a).expect("a link"), fs::read_link(&b).expect("a link"));
        } else if from.is_dir() {
            assert_same(&a, &b);
        } else {
            let same = fs::read(&a).expect("read") == fs::read(&b).expect("read");
            assert!(same, "{} differs", b.display());
        }
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("read the directory");
    let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().into()).collect();
    names.sort();
    names
}
