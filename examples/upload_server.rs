//! Takes files and directories from any number of senders at once: a thread for
//! each connection.

mod common;

use common::{Result, usage_error};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use pointsub::transfer::ReceiveOptions;
use pointsub::{Conn, ErrorCode, Listener, MessageTransporter, PeerId};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const PROTOCOL: &str = "/pointsub/files/1.0.0";

/// Long enough to compare a part of many gigabytes with its source.
const IDLE: Duration = Duration::from_secs(600);

const USAGE: &str = "
Takes whatever `send_file` sends, from many at once, until it is stopped. Each
sender has a directory of its own in DIR, called by its peer id.

    cargo run --example upload_server -- DIR

    --listen IP:PORT    where to listen; default 127.0.0.1, a free port
    --key FILE          the key of this host, made if it is not there
    --at-once N         how many senders at once; default 32
    --max-size BYTES    the largest file or directory: 500k, 20M, 1G
    --overwrite         senders may replace what they have sent before
    --help

A sender whose upload was interrupted goes on with it by the same command, if it
has the same key. Exit codes as those of `receive_file`.";

struct Args {
    dir: PathBuf,
    listen: String,
    key: Option<PathBuf>,
    at_once: usize,
    options: ReceiveOptions,
}

fn main() -> ExitCode {
    common::run_parsed(USAGE, parse, |args| serve(&args))
}

fn parse(parser: &mut lexopt::Parser) -> Result<Args> {
    let (mut listen, mut key, mut at_once) = ("127.0.0.1:0".to_owned(), None, 32);
    let (mut options, mut values) = (ReceiveOptions::new(), Vec::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("listen") => listen = parser.value()?.string()?,
            Long("key") => key = Some(parser.value()?.into()),
            Long("at-once") => at_once = parser.value()?.parse()?,
            Long("max-size") => {
                options = options.max_size(common::bytes(&parser.value()?.string()?)?);
            }
            Long("overwrite") => options = options.overwrite(true),
            Value(value) => values.push(value),
            Short(_) | Long(_) => return Err(arg.unexpected().into()),
        }
    }
    let [dir] = <[_; 1]>::try_from(values).map_err(|_| usage_error("one DIR"))?;
    Ok(Args { dir: dir.into(), listen, key, at_once, options })
}

fn serve(args: &Args) -> Result {
    common::check_dir(&args.dir)?;
    let host = common::host_at(&args.listen, args.key.as_deref())?;
    let listener = Listener::bind(&host, PROTOCOL)?;
    common::print_other_side(&host, |address| {
        format!("cargo run --example send_file -- PATH {address}")
    });
    listener.serve(args.at_once, |conn, peer| {
        let dir = args.dir.join(peer.to_string());
        match take_all(conn, &dir, &args.options, &peer) {
            Err(e) if e.code() != ErrorCode::ConnectionClosed => eprintln!("{peer}: {e}"),
            _ => {}
        }
    })?;
    Ok(())
}

/// Takes one thing after the other, until the sender has no more.
fn take_all(
    conn: Conn,
    dir: &Path,
    options: &ReceiveOptions,
    peer: &PeerId,
) -> pointsub::Result<()> {
    // Where it cannot be made the sender hears of that too, as the answer to its offer.
    let _ = fs::create_dir(dir);
    // Who says nothing for so long gives its place to others.
    conn.set_read_timeout(Some(IDLE))?;
    let mut from = MessageTransporter::builder(conn).control().build();
    loop {
        let report = options.receive_into_dir(&mut from, dir)?;
        let rate = report.rate() / f64::from(1 << 20);
        let path = common::plain(&report.path.display().to_string());
        println!("{peer}: {path} ({} bytes, {rate:.0} MiB/s)", report.bytes);
    }
}
