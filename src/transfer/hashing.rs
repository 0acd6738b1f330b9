//! Hashing what moves: on the thread that moves it, or behind it on another.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::transfer::blocks::{Blocks, Value};

/// Hashes a file while it is read, or written, from some place to its end.
pub(crate) enum Hashing {
    Here(Box<Blocks>),
    /// A thread reads again, out of the system's cache, what has moved: that
    /// costs a copy, but no time of the thread that moves.
    Behind(Follower),
}

impl Hashing {
    /// `left` bytes of `file` are about to move, the first of them at `position`.
    pub(crate) fn new(blocks: Blocks, file: &File, position: u64, left: u64) -> Hashing {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        if cores < TO_SPARE || left < WORTH_A_THREAD || !cfg!(unix) {
            return Hashing::Here(Box::new(blocks));
        }
        Hashing::behind(blocks, file, position)
    }

    fn behind(blocks: Blocks, file: &File, position: u64) -> Hashing {
        let shared = Arc::new(Shared {
            blocks: Mutex::new(blocks),
            moved: Mutex::new(Moved { position, ended: false }),
            more: Condvar::new(),
        });
        let thread = file.try_clone().and_then(|file| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name("pointsub-hash".into());
            builder.spawn(move || shared.follow(&file, position))
        });
        match thread {
            Ok(thread) => Hashing::Behind(Follower { shared, thread: Some(thread) }),
            Err(_) => {
                let shared = Arc::into_inner(shared).expect("no thread was made that shares it");
                Hashing::Here(Box::new(shared.blocks.into_inner()))
            }
        }
    }

    /// This has moved.
    pub(crate) fn moved(&mut self, content: &[u8]) {
        match self {
            Hashing::Here(blocks) => blocks.update(content),
            Hashing::Behind(follower) => {
                follower.shared.moved.lock().position += content.len() as u64;
                follower.shared.more.notify_one();
            }
        }
    }

    /// The values of the blocks that are hashed so far.
    pub(crate) fn values(&self) -> Vec<Value> {
        match self {
            Hashing::Here(blocks) => blocks.values().to_vec(),
            Hashing::Behind(follower) => follower.shared.blocks.lock().values().to_vec(),
        }
    }

    /// The hash of the whole file.
    pub(crate) fn finish(self) -> io::Result<Value> {
        match self {
            Hashing::Here(mut blocks) => Ok(blocks.finish()),
            Hashing::Behind(mut follower) => {
                follower.join()?;
                Ok(follower.shared.blocks.lock().finish())
            }
        }
    }
}

/// The thread that hashes behind. Dropped, it has ended.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Follower {
    /// Waits until everything that has moved is hashed.
    fn join(&mut self) -> io::Result<()> {
        self.shared.moved.lock().ended = true;
        self.shared.more.notify_one();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(io::Error::other("the thread that hashes panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

struct Shared {
    blocks: Mutex<Blocks>,
    moved: Mutex<Moved>,
    more: Condvar,
}

struct Moved {
    position: u64,
    ended: bool,
}

impl Shared {
    fn follow(&self, file: &File, mut position: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ];
        while let Some(end) = self.next(position) {
            while position < end {
                let room = buffer.len().min((end - position).try_into().unwrap_or(usize::MAX));
                match read_at(file, &mut buffer[..room], position) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => {
                        self.blocks.lock().update(&buffer[..n]);
                        position += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Waits until something has moved beyond `position`; nothing at the end.
    fn next(&self, position: u64) -> Option<u64> {
        let mut moved = self.moved.lock();
        while moved.position == position && !moved.ended {
            self.more.wait(&mut moved);
        }
        (moved.position > position).then_some(moved.position)
    }
}

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, position)
}

/// With fewer processors a thread is not worth its copy: whoever moves the bytes, drives
/// the connection, and does the same at the other end, if that is here, needs them all.
const TO_SPARE: usize = 4;

/// Below that a thread costs more than it saves.
const WORTH_A_THREAD: u64 = 8 << 20;

/// How much is read at once: it stays in the cache of the processor.
const READ: usize = 256 << 10;

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::transfer::blocks::BlockSize;

    #[test]
    fn a_thread_behind_comes_to_the_same_hash() {
        let path = std::env::temp_dir().join(format!("pointsub-hashing-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let mut file = file.expect("a file");
        std::fs::remove_file(&path).expect("to remove its name");
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
        let size = BlockSize::for_file(content.len() as u64, 1 << 16).expect("a size");
        let mut hashing = Hashing::behind(Blocks::new(size), &file, 0);
        for piece in content.chunks(70_001) {
            file.write_all(piece).expect("to write");
            hashing.moved(piece);
        }
        assert_eq!(hashing.finish().expect("a hash"), *blake3::hash(&content).as_bytes());

        let mut hashing = Hashing::behind(Blocks::new(size), &file, 0);
        hashing.moved(&content);
        hashing.moved(b"what is not there");
        assert_eq!(hashing.finish().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
