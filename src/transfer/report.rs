//! What a transfer did.

use std::path::PathBuf;
use std::time::Duration;

/// What was transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The file or directory, on this side.
    pub path: PathBuf,
    /// How many files there are: 1, or those of the directory.
    pub files: u64,
    /// Their size together, in bytes.
    pub bytes: u64,
    /// How much of it this call transferred. The rest was there already.
    pub moved: u64,
    /// The BLAKE3 of a file's content; `None` for a directory, and for a file
    /// that the receiver had.
    pub hash: Option<[u8; 32]>,
    /// What a directory held and was left out, being neither a file nor a
    /// directory nor a symbolic link; the first hundred of them.
    pub left_out: Vec<PathBuf>,
    /// From the first message to the last.
    pub took: Duration,
}

impl Report {
    pub(crate) fn of(path: PathBuf) -> Report {
        Report {
            path,
            files: 0,
            bytes: 0,
            moved: 0,
            hash: None,
            left_out: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Bytes a second that this call transferred.
    pub fn rate(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.moved as f64 / seconds } else { 0.0 }
    }
}
