//! A file, or a directory, whose sender or receiver is killed goes on where it was, as often as
//! it takes, and arrives byte by byte.

mod common;
mod files;
mod support;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use files::Scratch;
use files::trees::{assert_same, make_large};
use pointsub::MessageTransporter;
use pointsub::message::{MessageSizer, SizeClass, Strategy};
use pointsub::transfer::{ReceiveOptions, SendOptions};
use support::Content;

const KILLS: usize = 50;
const SIZE: u64 = 24 << 20;
const BLOCK: u64 = 256 << 10;
/// What a sender that keeps a rate sends at once is worth so much time.
const BURST_MILLIS: u64 = 100;
const CHUNK: u64 = 64 << 10;

#[test]
fn a_file_survives_fifty_kills_and_sends_at_most_a_block_again_for_each() {
    if in_child() {
        return;
    }
    common::within(150, || {
        let scene = Scene::new(
            "a_file_survives_fifty_kills_and_sends_at_most_a_block_again_for_each",
            "fifty",
        );
        let content = support::bytes(7, SIZE as usize);
        fs::write(scene.scratch.here("source"), &content).expect("write the source");
        let attempts = scene.kill_fifty_times(SIZE, 70);
        scene.finish();
        let arrived = fs::read(scene.scratch.there("source")).expect("read");
        assert!(arrived == content, "it differs");
        assert_eq!(scene.scratch.arrived(), ["source"], "nothing of the attempts stays");
        assert_read(&scene, SIZE, attempts, SIZE / 1000);
    });
}

#[test]
fn a_tree_survives_fifty_kills_and_sends_at_most_a_block_again_for_each() {
    let name = "a_tree_survives_fifty_kills_and_sends_at_most_a_block_again_for_each";
    tree_survives(name, 400, 24 << 20, 120);
}

#[test]
#[ignore = "takes a while: run by CI"]
fn a_tree_of_two_thousand_files_and_300_mib_survives_fifty_kills() {
    let name = "a_tree_of_two_thousand_files_and_300_mib_survives_fifty_kills";
    tree_survives(name, 2000, 300 << 20, 1500);
}

fn tree_survives(name: &'static str, files: usize, bytes: usize, most_millis: u64) {
    if in_child() {
        return;
    }
    common::within(400, || {
        let scene = Scene::new(name, &files.to_string());
        let tree = scene.scratch.here("source");
        make_large(&tree, files, bytes, 5);
        let size = size_of(&tree);
        let attempts = scene.kill_fifty_times(size, most_millis);
        scene.finish();
        assert_same(&tree, &scene.scratch.there("source"));
        assert_eq!(scene.scratch.arrived(), ["source"], "nothing of the attempts stays");
        // Each attempt hears all names and, of what is there, that it is.
        assert_read(&scene, size, attempts, (attempts + 1) as u64 * files as u64 * 100);
    });
}

/// The receivers have read the content, and for each kill a block and a chunk
/// at most; and what goes around it.
#[track_caller]
fn assert_read(scene: &Scene, size: u64, attempts: usize, around: u64) {
    let read = scene.read_by_receivers();
    let again = read.saturating_sub(size) >> 10;
    println!("{attempts} attempts, {KILLS} kills, {size} bytes, {again} KiB more were read");
    let most = size + KILLS as u64 * (BLOCK + CHUNK) + attempts as u64 * 1024 + around;
    assert!(read <= most, "{again} KiB were sent again");
}

#[test]
fn a_kill_around_the_last_moments_loses_nothing() {
    if in_child() {
        return;
    }
    common::within(60, || {
        let mut random = Content::new(seed());
        for round in 0..12 {
            let name = "a_kill_around_the_last_moments_loses_nothing";
            let scene = Scene::new(name, &format!("last-{round}"));
            let content = support::bytes(round, BLOCK as usize * 3 + 77);
            fs::write(scene.scratch.here("source"), &content).expect("write the source");
            let (mut sender, mut receiver) = scene.start(1);
            let (part, whole) = (scene.scratch.there("source.part"), scene.scratch.there("source"));
            let full = || fs::metadata(&part).is_ok_and(|part| part.len() == content.len() as u64);
            while !full() && !whole.exists() {
                let runs = receiver.try_wait().expect("wait").is_none();
                assert!(runs || whole.exists(), "it ended early");
                thread::yield_now();
            }
            let pause = Duration::from_micros(random.below(4000) as u64);
            let start = Instant::now();
            while start.elapsed() < pause {}
            let victim = if round % 2 == 0 { &mut sender } else { &mut receiver };
            victim.kill().expect("kill");
            scene.end(sender, receiver);
            scene.finish();
            assert!(fs::read(&whole).expect("read") == content, "round {round}");
            assert_eq!(scene.scratch.arrived(), ["source"], "round {round}");
        }
    });
}

fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("read the directory");
    let size = |path: &Path| if path.is_dir() { size_of(path) } else { length(path) };
    entries.map(|e| size(&e.expect("an entry").path())).sum()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("stat").len()
}

/// Directories of a sender and a receiver, and where they meet.
struct Scene {
    scratch: Scratch,
    test: &'static str,
}

impl Scene {
    fn new(test: &'static str, name: &str) -> Scene {
        let scratch = Scratch::new(&format!("kill-{name}"));
        File::create(scratch.path().join("count")).expect("a counter");
        Scene { scratch, test }
    }

    fn start(&self, attempt: usize) -> (Child, Child) {
        let argument = format!("{}\n{attempt}", self.scratch.path().display());
        let child = |role| {
            let mut child = common::child(self.test, role, &argument);
            child.arg("--include-ignored").spawn().expect("a process")
        };
        (child("send"), child("receive"))
    }

    /// Starts both, kills one of them after a while, fifty times; how often
    /// they were started.
    fn kill_fifty_times(&self, size: u64, most_millis: u64) -> usize {
        // So slow that all attempts together send two thirds of it.
        let rate = size * 667 / KILLS as u64 / (10 + most_millis / 2 + BURST_MILLIS);
        let file = File::create(self.scratch.path().join("rate")).expect("create");
        file.set_len(rate).expect("its length is the rate");
        let mut random = Content::new(seed());
        let (mut kills, mut attempts) = (0, 0);
        while kills < KILLS {
            attempts += 1;
            assert!(attempts < 4 * KILLS, "it does not last");
            let (mut sender, mut receiver) = self.start(attempts);
            thread::sleep(Duration::from_millis(10 + random.below(most_millis as usize) as u64));
            let victim = if random.below(2) == 0 { &mut sender } else { &mut receiver };
            kills += usize::from(victim.try_wait().expect("wait").is_none());
            victim.kill().expect("kill");
            self.end(sender, receiver);
        }
        attempts
    }

    /// Waits for both; whether they succeeded. A receiver whose sender was
    /// killed before they met is killed as well.
    fn end(&self, mut sender: Child, mut receiver: Child) -> bool {
        let sent = sender.wait().expect("wait").success();
        if !sent {
            let patience = Instant::now() + Duration::from_secs(2);
            while receiver.try_wait().expect("wait").is_none() && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = receiver.kill();
        }
        receiver.wait().expect("wait").success() && sent
    }

    /// The last attempt, which nobody disturbs.
    fn finish(&self) {
        let (sender, receiver) = self.start(0);
        assert!(self.end(sender, receiver), "the last attempt failed");
    }

    /// How many bytes the receivers of all attempts have read together.
    fn read_by_receivers(&self) -> u64 {
        let counts = fs::read(self.scratch.path().join("count")).expect("the counter");
        counts.chunks_exact(8).map(|n| u64::from_be_bytes(n.try_into().expect("eight"))).sum()
    }
}

/// Plays its part, if this process was started for one.
fn in_child() -> bool {
    let Some((role, argument)) = common::role() else { return false };
    let (dir, attempt) = argument.split_once('\n').expect("two arguments");
    let (dir, attempt) = (Path::new(dir), attempt.parse::<u64>().expect("a number"));
    let socket = dir.join(format!("socket-{attempt}"));
    let rate = if attempt == 0 { None } else { fs::metadata(dir.join("rate")).ok() };
    let outcome = common::within(60, || match &role[..] {
        "send" => send(dir, &socket, rate.map_or(1 << 30, |file| file.len())),
        _ => receive(dir, &socket, attempt),
    });
    if let Err(e) = outcome {
        // The other one was killed.
        eprintln!("{role}: {e}");
        std::process::exit(3);
    }
    true
}

fn send(dir: &Path, socket: &Path, rate: u64) -> Result<(), pointsub::Error> {
    let patience = Instant::now() + Duration::from_secs(2);
    let conn = loop {
        match UnixStream::connect(socket) {
            Ok(conn) => break conn,
            Err(e) if Instant::now() > patience => return Err(e.into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    let builder = MessageTransporter::builder(conn).sizer(SmallChunks);
    let mut transporter = builder.bytes_per_second(rate)?.build();
    let (options, source) = (SendOptions::new().block_size(BLOCK), dir.join("here/source"));
    if source.is_dir() {
        options.send_dir(&mut transporter, source)?;
    } else {
        options.send_file(&mut transporter, source)?;
    }
    Ok(())
}

fn receive(dir: &Path, socket: &Path, attempt: u64) -> Result<(), pointsub::Error> {
    let listener = UnixListener::bind(socket)?;
    let (conn, _) = listener.accept()?;
    let log = File::options().write(true).open(dir.join("count"))?;
    let conn = Counted { conn, log, attempt, count: 0 };
    let mut transporter = MessageTransporter::new(conn);
    ReceiveOptions::new().receive_into_dir(&mut transporter, dir.join("there"))?;
    Ok(())
}

/// Writes down how much it has read, where no kill can undo it.
struct Counted {
    conn: UnixStream,
    log: File,
    attempt: u64,
    count: u64,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.conn.read(out)?;
        self.count += n as u64;
        self.log.write_all_at(&self.count.to_be_bytes(), 8 * self.attempt)?;
        Ok(n)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.conn.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.flush()
    }
}

/// Keeps small what is on its way when a receiver dies.
struct SmallChunks;

impl MessageSizer for SmallChunks {
    fn strategy(&self, size: u64) -> Strategy {
        SizeClass::of(size).min(SizeClass::Medium).strategy()
    }
}

fn seed() -> u64 {
    let time = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = std::env::var("POINTSUB_SEED").map_or(time, |n| n.parse().expect("a seed"));
    eprintln!("POINTSUB_SEED={seed}");
    seed
}
