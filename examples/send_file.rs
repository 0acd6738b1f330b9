//! Sends a file or a directory to `receive_file` or `upload_server`, and goes on
//! after whatever interrupts it.

mod common;
#[path = "common/watch.rs"]
mod watch;

use common::{Result, usage_error};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use pointsub::message::Compression;
use pointsub::transfer::{Report, SendOptions};
use pointsub::{Conn, Error, ErrorCode, Host, MessageTransporter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

const PROTOCOL: &str = "/pointsub/files/1.0.0";

/// An attempt that was killed is in the way until its conn is given up at the other end.
const KILLED: Duration = Duration::from_secs(90);

const USAGE: &str = "
Sends a file, or a directory and all that is in it. On the other side, first:

    cargo run --example receive_file

and then here, with the ADDRESS that it prints:

    cargo run --example send_file -- PATH ADDRESS

    --compress METHOD   lz4 or zstd, with the feature of that name
    --limit RATE        at most so many bytes a second: 500k, 20M, 1G
    --attempts N        how often to go on after an interruption; default 10
    --key FILE          the key of this host, made if it is not there: who goes on
                        with an upload must be who began it
    --no-verify         believe the checkpoints instead of reading what is there
    --json              one JSON object a line on stdout, for programs
    --help

Interrupted, by a lost connection, a kill or a full disk, the same command goes
on where it was. Exit codes: 0 done, 1 any other error, 2 wrong arguments, 3 the
network, 4 a limit was reached, 5 the protocol, 6 the file or a name.
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
    // Before anybody is bothered with it.
    fs::metadata(&args.path).map_err(|e| {
        io::Error::new(e.kind(), format!("cannot send {}: {e}", args.path.display()))
    })?;
    let host = match &args.key {
        Some(key) => Host::builder().keypair_file(key).build()?,
        None => Host::new()?,
    };
    let (mut attempt, mut killed) = (0, None);
    loop {
        let e = match send_once(&host, args) {
            Ok(report) => {
                watch::report(&report, args.json);
                return Ok(());
            }
            Err(e) => e,
        };
        let waits = e.code() == ErrorCode::Busy
            && Instant::now() < *killed.get_or_insert_with(|| Instant::now() + KILLED);
        let delay = if waits {
            Some(Duration::from_secs(1))
        } else {
            attempt += 1;
            e.retry_delay(attempt - 1).filter(|_| attempt < args.attempts)
        };
        let Some(delay) = delay else { return Err(e.into()) };
        eprintln!("interrupted: {e}");
        thread::sleep(delay.max(Duration::from_millis(100)));
    }
}

fn send_once(host: &Host, args: &Args) -> pointsub::Result<Report, Error> {
    let conn = Conn::connect(host, &*args.address, PROTOCOL)?;
    let mut to = MessageTransporter::builder(conn).control().compression(args.compression);
    if let Some(limit) = args.limit {
        to = to.bytes_per_second(limit)?;
    }
    let mut to = to.build();
    let handle = watch::handle(&name_of(&args.path), args.json);
    let options = SendOptions::new().verify(args.verify).handle(&handle);
    if args.path.is_dir() {
        options.send_dir(&mut to, &args.path)
    } else {
        options.send_file(&mut to, &args.path)
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
