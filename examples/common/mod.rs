//! What the examples share: their arguments, a host, and how they fail.

#![allow(dead_code, reason = "each example uses its part")]

use pointsub::{ErrorCode, Host};
use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Runs an example: `--help` prints its usage, an error ends it with one line.
pub(crate) fn run(usage: &str, example: impl FnOnce(Args) -> Result) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{}", usage.trim());
        return ExitCode::SUCCESS;
    }
    match example(Args { usage: usage.to_owned(), rest: args }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs an example whose arguments `parse` reads; the exit code says what kind of
/// error ended it.
pub(crate) fn run_parsed<A>(
    usage: &str,
    parse: impl FnOnce(&mut lexopt::Parser) -> Result<A>,
    example: impl FnOnce(A) -> Result,
) -> ExitCode {
    if std::env::args_os().any(|arg| arg == "--help" || arg == "-h") {
        println!("{}", usage.trim());
        return ExitCode::SUCCESS;
    }
    let args = match parse(&mut lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", usage.trim());
            return ExitCode::from(2);
        }
    };
    match example(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit_code(&*error))
        }
    }
}

/// The class of an error.
fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    let io = error.downcast_ref::<io::Error>();
    let inner = match io {
        Some(io) => io.get_ref().and_then(|e| e.downcast_ref::<pointsub::Error>()),
        None => error.downcast_ref::<pointsub::Error>(),
    };
    match (inner.map(pointsub::Error::code), io.map(io::Error::kind)) {
        (Some(ErrorCode::InvalidInput), _) => 2,
        (Some(ErrorCode::Io), _) => 1,
        (Some(code), _) => match code.number() {
            1000..2000 => 3,
            2000..3000 => 4,
            3000..4000 => 5,
            _ => 6,
        },
        (None, Some(io::ErrorKind::NotFound)) => 6,
        _ => 1,
    }
}

/// What is missing on the command line.
pub(crate) fn usage_error(wanted: &str) -> Box<dyn Error> {
    format!("wanted: {wanted}").into()
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
    let builder = Host::builder().listen_on(listen);
    let builder = match key {
        Some(key) => builder.keypair_file(key),
        None => builder,
    };
    builder.build().map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse
            || error.kind() == io::ErrorKind::AddrNotAvailable
        {
            eprintln!("cannot listen on {listen}");
        }
        error.into()
    })
}

/// The command line.
pub(crate) struct Args {
    usage: String,
    rest: Vec<String>,
}

impl Args {
    /// Takes `name VALUE` out, wherever it stands.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.rest.iter().position(|arg| arg == name) else { return Ok(None) };
        self.rest.remove(at);
        if at == self.rest.len() {
            return Err(format!("{name} wants a value\n\n{}", self.usage.trim()).into());
        }
        Ok(Some(self.rest.remove(at)))
    }

    /// Takes the first argument out, unless it is an option.
    pub(crate) fn first(&mut self) -> Option<String> {
        let is_there = self.rest.first().is_some_and(|arg| !arg.starts_with("--"));
        is_there.then(|| self.rest.remove(0))
    }

    /// What is left, if it is `count` arguments.
    pub(crate) fn positional(self, count: usize) -> Result<Vec<String>> {
        if let Some(unknown) = self.rest.iter().find(|arg| arg.starts_with("--")) {
            return Err(format!("unknown option {unknown}\n\n{}", self.usage.trim()).into());
        }
        if self.rest.len() != count {
            return Err(format!("wrong arguments\n\n{}", self.usage.trim()).into());
        }
        Ok(self.rest)
    }
}

/// A host that listens where `--listen` says, by default on a free port of this
/// machine only.
pub(crate) fn listening_host(args: &mut Args) -> Result<Host> {
    let at = args.option("--listen")?.unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let host = Host::builder().listen_on(&*at).build();
    host.map_err(|error| format!("cannot listen on {at}: {error}").into())
}

/// Prints the command for the other side, once per address.
pub(crate) fn print_other_side(host: &Host, command: impl Fn(&str) -> String) {
    println!("I am {}. On the other side:", host.peer_id());
    for address in host.dial_addrs() {
        println!("    {}", command(&address.to_string()));
    }
}
