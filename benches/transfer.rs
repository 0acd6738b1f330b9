//! Files over a conn on loopback, between two threads, with everything that a
//! transfer does for them: hashes, checkpoints, names, and waiting for the disk.
//!
//! ```text
//! cargo bench --bench transfer
//! ```
//!
//! It prints medians of rounds in which all take their turn, and how they compare:
//! ten thousand small files beside one with as many bytes, and beside a plain copy of
//! them; a large file, cached, beside a stream from memory. First in a directory in
//! memory, then in one on a disk, where the large file is left out: that is about us,
//! not about the disk. `POINTSUB_BENCH_DIR` names another directory than these two,
//! and `-- small` or `-- large` chooses one of the comparisons.

mod ends;

use std::cell::Cell;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ends::Peers;
use pointsub::transfer::{receive_into_dir, send_dir, send_file};
use pointsub::{Conn, MessageTransporter};

const LARGE: u64 = 1 << 30;
const SMALL: usize = 1 << 10;
const MANY: usize = 10_000;

fn main() {
    // Run as a test, by `cargo test --benches` or to see that it works, it is short.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let (rounds, large) = if is_bench { (7, LARGE) } else { (1, 1 << 20) };
    let wants = |what: &str| {
        let mut chosen = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
        chosen.peek().is_none() || chosen.any(|arg| arg == what)
    };
    let peers = Peers::new();
    let chosen = std::env::var_os("POINTSUB_BENCH_DIR").map(PathBuf::from);
    let is_chosen = chosen.is_some();
    let memory = Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir());
    if let Some(dirs) = chosen.or(memory).map(|dir| Dirs::new(&dir)) {
        if wants("small") {
            compare_small(&peers, &dirs, rounds);
        }
        if wants("large") {
            compare_large(&peers, &dirs, rounds, large);
        }
    }
    if !is_chosen && wants("small") {
        compare_small(&peers, &Dirs::new(&std::env::temp_dir()), rounds);
    }
}

fn compare_small(peers: &Peers, dirs: &Dirs, rounds: usize) {
    let (one, tree) = (dirs.here.join("one"), dirs.here.join("tree"));
    write_file(&one, (SMALL * MANY) as u64);
    fs::create_dir(&tree).expect("a directory");
    for n in 0..MANY {
        write_file(&tree.join(n.to_string()), SMALL as u64);
    }
    sync(&dirs.root);
    let [one, tree, copied] = medians(
        rounds,
        [
            &|| dirs.receive(peers, |to| send_file(to, &one)),
            &|| dirs.receive(peers, |to| send_dir(to, &tree)),
            &|| dirs.copy(&tree),
        ],
    );
    println!("{}", dirs.root.display());
    println!("  one file of 10 MiB            {one:>10.1?}");
    println!("  10,000 files of 1 KiB         {tree:>10.1?}   {:.2} times", ratio(tree, one));
    println!("  the same copied and synced    {copied:>10.1?}   {:.2} times", ratio(copied, one));
}

fn compare_large(peers: &Peers, dirs: &Dirs, rounds: usize, size: u64) {
    let file = dirs.here.join("large");
    write_file(&file, size);
    let into = || File::create(dirs.place().join("large")).expect("a file");
    let from = || File::open(&file).expect("to open");
    let [stream, hashed, files, file] = medians(
        rounds,
        [
            &|| stream(peers, io::repeat(7).take(size), io::sink()),
            &|| stream(peers, Hashing::new(io::repeat(7).take(size)), Hashing::new(io::sink())),
            &|| dirs.clearing(|| stream(peers, Hashing::new(from()), Hashing::new(into()))),
            &|| dirs.clearing(|| dirs.receive(peers, |to| send_file(to, &file))),
        ],
    );
    let rate = |took: Duration| size as f64 / took.as_secs_f64() / f64::from(1 << 20);
    println!("  a stream from memory          {:>6.0} MiB/s", rate(stream));
    println!("  the same, hashed by its ends  {:>6.0} MiB/s", rate(hashed));
    println!("  the same from file to file    {:>6.0} MiB/s", rate(files));
    println!(
        "  a file of as many bytes       {:>6.0} MiB/s   {:.2}, {:.2} and {:.2} of them",
        rate(file),
        ratio(stream, file),
        ratio(hashed, file),
        ratio(files, file)
    );
}

/// The medians of what takes turns, after a round that does not count.
fn medians<const N: usize>(rounds: usize, each: [&dyn Fn() -> Duration; N]) -> [Duration; N] {
    let mut times = each.map(|run| {
        run();
        Vec::new()
    });
    for _ in 0..rounds {
        for (run, times) in each.iter().zip(&mut times) {
            times.push(run());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// How long both ends take on a conn that is open.
fn time<A, B>(
    peers: &Peers,
    send: impl FnOnce(&mut MessageTransporter<Conn>) -> pointsub::Result<A>,
    receive: impl FnOnce(&mut MessageTransporter<Conn>) -> pointsub::Result<B> + Send,
) -> Duration {
    let (near, far) = peers.conns("/bench/transfer/1.0.0");
    let start = Instant::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            black_box(receive(&mut MessageTransporter::new(far)).expect("to receive"));
        });
        black_box(send(&mut MessageTransporter::new(near)).expect("to send"));
        receiving.join().expect("the receiver");
    });
    start.elapsed()
}

fn stream(peers: &Peers, mut from: impl Read, mut into: impl Write + Send) -> Duration {
    time(peers, |to| to.send_stream(&mut from), |from| from.receive_stream(&mut into))
}

/// Hashes what passes, on the thread that moves it.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Hashing<T> {
        Hashing { inner, hasher: blake3::Hasher::new() }
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Where files come from and go to. Dropped, all of it is gone.
struct Dirs {
    root: PathBuf,
    here: PathBuf,
    /// How many places there were to receive into.
    places: Cell<usize>,
}

impl Dirs {
    fn new(parent: &Path) -> Dirs {
        let root = parent.join(format!("pointsub-{}", std::process::id()));
        let dirs = Dirs { here: root.join("here"), root, places: Cell::new(0) };
        fs::create_dir_all(&dirs.here).expect("a directory");
        dirs
    }

    /// How long it takes to receive something where nothing is.
    fn receive<A>(
        &self,
        peers: &Peers,
        send: impl FnOnce(&mut MessageTransporter<Conn>) -> pointsub::Result<A>,
    ) -> Duration {
        let there = self.place();
        time(peers, send, |from| receive_into_dir(from, &there))
    }

    /// How long it takes to copy the files of a directory without us.
    fn copy(&self, from: &Path) -> Duration {
        let there = self.place();
        let start = Instant::now();
        for n in 0..MANY {
            let content = fs::read(from.join(n.to_string())).expect("to read");
            fs::write(there.join(n.to_string()), content).expect("to write");
        }
        sync(&there);
        start.elapsed()
    }

    /// An empty directory. What earlier rounds have left is not removed before the
    /// end: for some minutes ext4 passes over the inodes of removed files one by one,
    /// whenever it makes another, and that is what would be measured.
    fn place(&self) -> PathBuf {
        self.places.set(self.places.get() + 1);
        let place = self.last_place();
        fs::create_dir(&place).expect("a directory");
        sync(&self.root);
        place
    }

    fn last_place(&self) -> PathBuf {
        self.root.join(self.places.get().to_string())
    }

    /// For large files: there is room for those of one round only.
    fn clearing(&self, run: impl FnOnce() -> Duration) -> Duration {
        let took = run();
        fs::remove_dir_all(self.last_place()).expect("to remove");
        took
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Waits until everything on its file system is on the disk.
#[cfg(target_os = "linux")]
fn sync(dir: &Path) {
    rustix::fs::syncfs(File::open(dir).expect("to open")).expect("to sync");
}

#[cfg(not(target_os = "linux"))]
fn sync(_dir: &Path) {}

fn write_file(path: &Path, size: u64) {
    let mut file = File::create(path).expect("a file");
    let piece: Vec<u8> = (0..size.min(1 << 20)).map(|i| ((i * i) >> 9) as u8).collect();
    let mut left = size as usize;
    while left > 0 {
        let n = left.min(piece.len());
        file.write_all(&piece[..n]).expect("to write");
        left -= n;
    }
}
