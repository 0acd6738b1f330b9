//! Receives a file or a directory from `send_file`, and goes on with it after
//! whatever interrupts it.

mod common;
#[path = "common/watch.rs"]
mod watch;

use common::{Result, usage_error};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use pointsub::transfer::{ReceiveOptions, Report};
use pointsub::{Conn, Error, ErrorCode, Host, Listener, MessageTransporter, PeerId};
use std::error::Error as _;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;
use watch::Said;

const PROTOCOL: &str = "/pointsub/files/1.0.0";

/// How long a sender may take to close its conn once it has heard that all is there.
const FAREWELL: Duration = Duration::from_secs(1);

const USAGE: &str = "
Receives a file, or a directory and all that is in it, into DIR (default: the
current directory). It prints what to run on the other side.

    cargo run --example receive_file -- [DIR]

    --listen IP:PORT    where to listen; default 127.0.0.1, a free port
    --key FILE          the key of this host, made if it is not there: so the
                        address stays the same, with a port in --listen
    --overwrite         replace files that are there already
    --no-verify         believe the checkpoints instead of reading what is there
    --json              one JSON object a line on stdout, for programs
    --help

It waits until something has arrived as a whole; senders that cannot send it, or
have to be refused, do not end it. Until then it is NAME.part; started again, it
goes on with that. Exit codes: 0 done, 1 any other error, 2 wrong arguments, 3 the
network, 4 a limit was reached, 5 the protocol, 6 a file or a name of this side.
With the feature `progress` there is a progress bar.";

struct Args {
    dir: PathBuf,
    listen: String,
    key: Option<PathBuf>,
    overwrite: bool,
    verify: bool,
    json: bool,
}

fn main() -> ExitCode {
    common::run_parsed(USAGE, parse, receive)
}

fn parse(parser: &mut lexopt::Parser) -> Result<Args> {
    let mut args = Args {
        dir: ".".into(),
        listen: "127.0.0.1:0".into(),
        key: None,
        overwrite: false,
        verify: true,
        json: false,
    };
    let mut values = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("listen") => args.listen = parser.value()?.string()?,
            Long("key") => args.key = Some(parser.value()?.into()),
            Long("overwrite") => args.overwrite = true,
            Long("no-verify") => args.verify = false,
            Long("json") => args.json = true,
            Value(value) => values.push(value),
            Short(_) | Long(_) => return Err(arg.unexpected().into()),
        }
    }
    match <[_; 1]>::try_from(values) {
        Ok([dir]) => args.dir = dir.into(),
        Err(values) if values.is_empty() => {}
        Err(_) => return Err(usage_error("one DIR at most")),
    }
    Ok(args)
}

fn receive(args: Args) -> Result {
    common::check_dir(&args.dir)?;
    let host = common::host_at(&args.listen, args.key.as_deref())?;
    let listener = Listener::bind(&host, PROTOCOL)?;
    common::tell_of_losses(&host);
    announce(&host, args.json);
    let (json, mut said) = (args.json, Said::default());
    let (tell, outcomes) = mpsc::channel();
    thread::spawn(move || listen(&listener, &Arc::new(args), &tell));
    for (outcome, peer) in outcomes {
        match outcome {
            Ok((report, conn)) => {
                watch::report(&report, json);
                if !json {
                    println!("from {peer}");
                }
                // Once the sender has closed it knows. The host would wait for earlier
                // attempts too, which may have been killed.
                conn.set_read_timeout(Some(FAREWELL))?;
                if (&conn).read(&mut [0]).is_err() {
                    host.shutdown();
                }
                return Ok(());
            }
            // Its sender comes back.
            Err(e) if e.is_retryable() => {
                said.say(format!("interrupted: {}; waiting for the sender", e.description()));
            }
            Err(e) if e.code() == ErrorCode::ConnectionClosed => {
                said.say(format!("{peer} left before it sent anything; waiting for a sender"));
            }
            Err(e) if is_the_senders(&e) => {
                said.say(format!("nothing of {peer}: {}; waiting for a sender", e.description()));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Whether another sender may fare better: what stands in the way is not of this machine.
fn is_the_senders(e: &Error) -> bool {
    use ErrorCode as C;
    // A refusal of this machine has that as its source.
    let by_rule = e.code() == C::Rejected && e.source().is_none();
    e.context("by") == Some("peer")
        || by_rule
        || matches!(
            e.code(),
            C::InvalidName
                | C::InvalidHeader
                | C::ChecksumMismatch
                | C::ProtocolViolation
                | C::Unsupported
                | C::MessageTooLarge
                | C::Cancelled
        )
}

type Outcome = (pointsub::Result<(Report, Conn)>, PeerId);

/// A thread for each attempt: a sender that was killed comes back long before its last
/// conn is given up, and takes its place.
fn listen(listener: &Listener, args: &Arc<Args>, tell: &Sender<Outcome>) {
    while let Ok((conn, peer)) = listener.accept() {
        let (args, tell) = (Arc::clone(args), tell.clone());
        // Nobody listens any more once one has arrived.
        thread::spawn(move || drop(tell.send((receive_once(conn, &args), peer))));
    }
}

/// What came, and the conn that it came over, for its end.
fn receive_once(conn: Conn, args: &Args) -> pointsub::Result<(Report, Conn)> {
    let over = conn.try_clone()?;
    let handle = watch::handle("receiving", args.json);
    let options =
        ReceiveOptions::new().overwrite(args.overwrite).verify(args.verify).handle(&handle);
    let mut from = MessageTransporter::builder(conn).control().build();
    Ok((options.receive_into_dir(&mut from, &args.dir)?, over))
}

fn announce(host: &Host, json: bool) {
    if json {
        for address in host.dial_addrs() {
            println!("{{\"event\":\"listening\",\"address\":\"{address}\"}}");
        }
    } else {
        common::print_other_side(host, |address| {
            format!("cargo run --example send_file -- PATH {address}")
        });
    }
}
