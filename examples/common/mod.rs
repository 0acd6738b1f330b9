//! What the examples share: their arguments, a host, and how they fail.

#![allow(dead_code, reason = "each example uses its part")]

use lexopt::ValueExt;
use pointsub::{ErrorCode, Event, Host};
use rustix::fs::{Access, access};
use std::error::Error;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::process::ExitCode;
use std::{fmt, fs, io, thread};

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Runs an example: `--help` prints its usage, an error ends it with one line and an
/// exit code that says of which kind it is.
pub(crate) fn run(usage: &str, example: impl FnOnce(Args) -> Result) -> ExitCode {
    run_parsed(usage, Args::parse, example)
}

/// The same for an example whose arguments `parse` reads.
pub(crate) fn run_parsed<A>(
    usage: &str,
    parse: impl FnOnce(&mut lexopt::Parser) -> Result<A>,
    example: impl FnOnce(A) -> Result,
) -> ExitCode {
    if std::env::args_os().any(|arg| arg == "--help" || arg == "-h") {
        println!("{}", usage.trim());
        return ExitCode::SUCCESS;
    }
    let args = parse(&mut lexopt::Parser::from_env()).map_err(|e| Usage(e.to_string()).into());
    match args.and_then(example) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if error.is::<Usage>() {
                eprintln!("\n{}", usage.trim());
            }
            ExitCode::from(exit_code(&*error))
        }
    }
}

/// The class of an error.
fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    if error.is::<Usage>() {
        return 2;
    }
    let io = error.downcast_ref::<io::Error>();
    let inner = match io {
        Some(io) => io.get_ref().and_then(|e| e.downcast_ref::<pointsub::Error>()),
        None => error.downcast_ref::<pointsub::Error>(),
    };
    let kind = io.map(io::Error::kind).or(inner.map(pointsub::Error::kind));
    match (inner.map(pointsub::Error::code), kind) {
        (Some(ErrorCode::InvalidInput), _) => 2,
        // What this machine says of a path.
        (
            None | Some(ErrorCode::Io),
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied),
        ) => 6,
        (None | Some(ErrorCode::Io), _) => 1,
        (Some(code), _) => match code.number() {
            1000..2000 => 3,
            2000..3000 => 4,
            3000..4000 => 5,
            _ => 6,
        },
    }
}

/// A mistake on the command line.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// What is missing on the command line.
pub(crate) fn usage_error(wanted: &str) -> Box<dyn Error> {
    Usage(format!("wanted: {wanted}")).into()
}

/// A number of bytes: 4096, 500k, 20M, 1G.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    let wrong = || usage_error(&format!("a number of bytes like 500k, 20M or 1G, not {text:?}"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|&n| n > 0).ok_or_else(wrong)
}

/// A host that listens there, with the key in a file if one is named.
pub(crate) fn host_at(listen: &str, key: Option<&Path>) -> Result<Host> {
    let at = listen.to_socket_addrs();
    let at = at.map_err(|e| usage_error(&format!("IP:PORT behind --listen, not {listen:?}: {e}")));
    let builder = Host::builder().listen_on(&*at?.collect::<Vec<_>>());
    let builder = match key {
        Some(key) => builder.keypair_file(key),
        None => builder,
    };
    Ok(builder.build()?)
}

/// A host that listens where `--listen` says, by default on a free port of this
/// machine only.
pub(crate) fn listening_host(args: &mut Args) -> Result<Host> {
    let at = args.option("--listen")?.unwrap_or_else(|| "127.0.0.1:0".to_owned());
    host_at(&at, None)
}

/// Says on stderr when a conn stands still because its connection was lost, and when
/// it goes on.
pub(crate) fn tell_of_losses(host: &Host) {
    let events = host.subscribe();
    thread::spawn(move || {
        for event in events {
            match event {
                Event::ConnLost { peer, .. } => {
                    eprintln!("the connection to {peer} was lost; waiting for a new one");
                }
                Event::ConnResumed { peer, outage, .. } => {
                    let seconds = outage.as_secs_f64();
                    eprintln!("connected to {peer} again after {seconds:.1} s");
                }
                _ => {}
            }
        }
    });
}

/// Before anybody sends anything: whether files can be made in there.
pub(crate) fn check_dir(dir: &Path) -> Result {
    let wrong = |kind, what| io::Error::new(kind, format!("{}: {what}", dir.display()));
    let found = fs::metadata(dir).map_err(|e| wrong(e.kind(), e.to_string()))?;
    if !found.is_dir() {
        return Err(wrong(io::ErrorKind::NotFound, "it is no directory".to_owned()).into());
    }
    let may = access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
    Ok(may.map_err(|e| wrong(e.kind(), format!("no file can be made in it: {e}")))?)
}

/// What others have named or written, so that it does nothing to a terminal.
pub(crate) fn plain(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(harmless).collect()
}

/// The command line.
pub(crate) struct Args {
    rest: Vec<String>,
}

impl Args {
    fn parse(parser: &mut lexopt::Parser) -> Result<Args> {
        let rest = parser.raw_args()?.map(|arg| arg.string());
        Ok(Args { rest: rest.collect::<std::result::Result<_, _>>()? })
    }

    /// Takes `name VALUE` out, wherever it stands.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.rest.iter().position(|arg| arg == name) else { return Ok(None) };
        self.rest.remove(at);
        if at == self.rest.len() {
            return Err(usage_error(&format!("a value behind {name}")));
        }
        Ok(Some(self.rest.remove(at)))
    }

    /// Takes the first argument out, unless it is an option.
    pub(crate) fn first(&mut self) -> Option<String> {
        let is_there = self.rest.first().is_some_and(|arg| !arg.starts_with("--"));
        is_there.then(|| self.rest.remove(0))
    }

    /// What is left, if no option is among it.
    pub(crate) fn all(self) -> Result<Vec<String>> {
        let count = self.rest.len();
        self.positional(count)
    }

    /// What is left, if it is `count` arguments.
    pub(crate) fn positional(self, count: usize) -> Result<Vec<String>> {
        if let Some(unknown) = self.rest.iter().find(|arg| arg.starts_with("--")) {
            return Err(Usage(format!("unknown option {unknown}")).into());
        }
        if self.rest.len() != count {
            return Err(Usage("wrong arguments".to_owned()).into());
        }
        Ok(self.rest)
    }
}

/// Prints the command for the other side, once per address.
pub(crate) fn print_other_side(host: &Host, command: impl Fn(&str) -> String) {
    println!("I am {}. On the other side:", host.peer_id());
    for address in host.dial_addrs() {
        println!("    {}", command(&address.to_string()));
    }
}
