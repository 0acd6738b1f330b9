//! What the examples share: their arguments, a host, and how they fail.

#![allow(dead_code, reason = "each example uses its part")]

use pointsub::Host;
use std::error::Error;
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
