//! What the tests of files share: a directory for each test, and both sides of
//! a transfer in one process.
#![allow(dead_code, unreachable_pub)]

pub mod trees;
pub mod wire;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use pointsub::transfer::{ReceiveOptions, Report, SendOptions};
use pointsub::{ErrorCode, MessageTransporter, Result};

/// A directory of its own with `here` and `there` in it; dropped, it is gone.
pub struct Scratch(PathBuf);

impl Scratch {
    /// In memory where that is possible: thousands of files come and go.
    pub fn new(name: &str) -> Scratch {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Scratch::within(&parent, name)
    }

    pub fn within(parent: &Path, name: &str) -> Scratch {
        let dir = parent.join(format!("pointsub-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("here")).expect("a directory");
        fs::create_dir_all(dir.join("there")).expect("a directory");
        Scratch(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn here(&self, name: &str) -> PathBuf {
        self.0.join("here").join(name)
    }

    pub fn there(&self, name: &str) -> PathBuf {
        self.0.join("there").join(name)
    }

    /// The names in `there`.
    pub fn arrived(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("there")).expect("read the directory");
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|e| name(e.expect("an entry"))).collect();
        names.sort();
        names
    }

    /// Sends a file from `here` into `there`, with the default options.
    pub fn send(&self, name: &str) -> (Result<Report>, Result<Report>) {
        self.send_with(name, &SendOptions::new(), &ReceiveOptions::new())
    }

    pub fn send_with(
        &self,
        name: &str,
        sender: &SendOptions,
        receiver: &ReceiveOptions,
    ) -> (Result<Report>, Result<Report>) {
        let path = self.here(name);
        both(
            |to| if path.is_dir() { sender.send_dir(to, path) } else { sender.send_file(to, path) },
            |from| receiver.receive_into_dir(from, self.there("")),
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs both sides over a pair of sockets.
pub fn both<A: Send, B>(
    send: impl FnOnce(&mut MessageTransporter<UnixStream>) -> A + Send,
    receive: impl FnOnce(&mut MessageTransporter<UnixStream>) -> B,
) -> (A, B) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&mut MessageTransporter::new(near)));
        let received = receive(&mut MessageTransporter::new(far));
        (sending.join().expect("the sender panicked"), received)
    })
}

#[track_caller]
pub fn code<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorCode {
    outcome.expect_err("an error was due").code()
}
