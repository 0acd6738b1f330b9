//! Sends a file or a directory to `receive_file` or `upload_server`, and goes on
//! after whatever interrupts it.

mod common;
#[path = "common/watch.rs"]
mod watch;

use common::{Result, usage_error};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use pointsub::message::Compression;
use pointsub::transfer::progress::Status;
use pointsub::transfer::{Report, SendOptions};
use pointsub::{Conn, Error, ErrorCode, Host, MessageTransporter, TransferHandle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};
use watch::Said;

const PROTOCOL: &str = "/pointsub/files/1.0.0";

/// Nothing has to be said of a shorter wait.
const QUIET: Duration = Duration::from_secs(2);

/// A receiver that is started at the same time has so long to be there.
const NOBODY: Duration = Duration::from_secs(10);

/// An attempt that was killed is in the way until its conn is given up at the other end.
const KILLED: Duration = Duration::from_secs(90);

const USAGE: &str = "
Sends a file, or a directory and all that is in it. On the other side, first:

    cargo run --example receive_file

and then here, with the ADDRESS that it prints:

    cargo run --example send_file -- PATH ADDRESS

    --compress METHOD   lz4 or zstd, with the feature of that name
    --limit RATE        at most so many bytes a second: 500k, 20M, 1G
    --attempts N        how often to try, with those after interruptions; default 10
    --key FILE          the key of this host, made if it is not there: who goes on
                        with an upload must be who began it
    --no-verify         believe the checkpoints instead of reading what is there
    --json              one JSON object a line on stdout, for programs
    --help

Where nobody listens it tries for ten seconds. Interrupted, by a lost connection,
a kill or a full disk, the same command goes on where it was. Exit codes: 0 done,
1 any other error, 2 wrong arguments, 3 the network, 4 a limit was reached, 5 the
protocol, 6 the file or a name.
With the feature `progress` there is a progress bar.";

struct Args {
    path: PathBuf,
    address: String,
    compression: Compression,
    limit: Option<u64>,
    attempts: u32,
    key: Option<PathBuf>,
    verify: bool,
    json: bool,
}

fn main() -> ExitCode {
    common::run_parsed(USAGE, parse, |args| send(&args))
}

fn parse(parser: &mut lexopt::Parser) -> Result<Args> {
    let (mut compression, mut limit, mut attempts) = (Compression::Off, None, 10);
    let (mut key, mut verify, mut json, mut values) = (None, true, false, Vec::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("compress") => compression = method(&parser.value()?.string()?)?,
            Long("limit") => limit = Some(common::bytes(&parser.value()?.string()?)?),
            Long("attempts") => attempts = parser.value()?.parse()?,
            Long("key") => key = Some(parser.value()?.into()),
            Long("no-verify") => verify = false,
            Long("json") => json = true,
            Value(value) => values.push(value),
            Short(_) | Long(_) => return Err(arg.unexpected().into()),
        }
    }
    let [path, address] =
        <[_; 2]>::try_from(values).map_err(|_| usage_error("PATH and ADDRESS"))?;
    let (path, address) = (PathBuf::from(path), address.string()?);
    Ok(Args { path, address, compression, limit, attempts, key, verify, json })
}

fn method(name: &str) -> Result<Compression> {
    match name {
        #[cfg(feature = "lz4")]
        "lz4" => Ok(Compression::Lz4),
        #[cfg(feature = "zstd")]
        "zstd" => Ok(Compression::Zstd),
        #[cfg(not(feature = "lz4"))]
        "lz4" => Err(usage_error("--features lz4 when it is built")),
        #[cfg(not(feature = "zstd"))]
        "zstd" => Err(usage_error("--features zstd when it is built")),
        _ => Err(usage_error("lz4 or zstd behind --compress")),
    }
}

fn send(args: &Args) -> Result {
    check(&args.path)?;
    let host = match &args.key {
        Some(key) => Host::builder().keypair_file(key).build()?,
        None => Host::new()?,
    };
    common::tell_of_losses(&host);
    let (mut patience, mut said) = (Patience::new(args), Said::default());
    loop {
        let e = match send_once(&host, args, &mut patience) {
            Ok(report) => {
                watch::report(&report, args.json);
                return Ok(());
            }
            Err(e) => e,
        };
        let Some((delay, what)) = patience.after(&e) else { return Err(e.into()) };
        said.say(format!("{}; {what}", e.description()));
        thread::sleep(delay);
    }
}

/// Before anybody is bothered with it.
fn check(path: &Path) -> Result {
    let wrong =
        |kind, what: &str| io::Error::new(kind, format!("cannot send {}: {what}", path.display()));
    let found = fs::metadata(path).map_err(|e| wrong(e.kind(), &e.to_string()))?;
    if !found.is_file() && !found.is_dir() {
        let what = "it is neither a file nor a directory";
        return Err(wrong(io::ErrorKind::NotFound, what).into());
    }
    Ok(())
}

/// How long it is tried again.
struct Patience {
    begun: Instant,
    /// The other side was there.
    met: bool,
    attempts: u32,
    most: u32,
    has_key: bool,
    /// Until when another attempt may be in the way.
    cleared: Option<Instant>,
}

impl Patience {
    fn new(args: &Args) -> Patience {
        let (begun, has_key) = (Instant::now(), args.key.is_some());
        let (met, attempts, most, cleared) = (false, 0, args.attempts, None);
        Patience { begun, met, attempts, most, has_key, cleared }
    }

    /// When to try again after this error, and how to say so.
    fn after(&mut self, e: &Error) -> Option<(Duration, String)> {
        let now = Instant::now();
        if !self.met {
            let is_late = now >= self.begun + NOBODY || self.most < 2 || !e.is_retryable();
            let what = format!("trying for {} s", NOBODY.as_secs());
            return (!is_late).then_some((Duration::from_millis(250), what));
        }
        if e.code() == ErrorCode::Busy && now < *self.cleared.get_or_insert(now + KILLED) {
            let most = KILLED.as_secs();
            let mut what = format!("waiting for {most} s at most until that one is given up");
            if !self.has_key {
                what.push_str(" (if it was yours: with --key the next one need not wait)");
            }
            return Some((Duration::from_secs(1), what));
        }
        self.attempts += 1;
        let delay = e.retry_delay(self.attempts - 1).filter(|_| self.attempts < self.most)?;
        let delay = delay.max(Duration::from_millis(100));
        let (next, most, seconds) = (self.attempts + 1, self.most, delay.as_secs_f64());
        Some((delay, format!("attempt {next} of {most} in {seconds:.1} s")))
    }
}

fn send_once(host: &Host, args: &Args, patience: &mut Patience) -> pointsub::Result<Report> {
    let conn = Conn::connect(host, &*args.address, PROTOCOL)?;
    patience.met = true;
    let mut to = MessageTransporter::builder(conn).control().compression(args.compression);
    if let Some(limit) = args.limit {
        to = to.bytes_per_second(limit)?;
    }
    let mut to = to.build();
    let handle = watch::handle(&name_of(&args.path), args.json);
    tell_of_waiting(&handle);
    let options = SendOptions::new().verify(args.verify).handle(&handle);
    if args.path.is_dir() {
        options.send_dir(&mut to, &args.path)
    } else {
        options.send_file(&mut to, &args.path)
    }
}

/// Says why a sender stands still before anything moves.
fn tell_of_waiting(handle: &TransferHandle) {
    let handle = handle.clone();
    thread::spawn(move || {
        thread::sleep(QUIET);
        if handle.status() == Status::Initialising {
            eprintln!(
                "waiting: the other side is busy with others, or what it has is being compared"
            );
        }
    });
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
