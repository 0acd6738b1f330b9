//! Sends a file to `receive_file` with `std::io::copy`.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host};
use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Instant;

const PROTOCOL: &str = "/file/1.0.0";

const USAGE: &str = "
Sends a file. On the other side, first:

    cargo run --example receive_file -- FILE [--listen IP:PORT]

and then here, with the ADDRESS that it prints:

    cargo run --example send_file -- FILE ADDRESS";

fn main() -> ExitCode {
    common::run(USAGE, |args: Args| {
        let [path, address] = &args.positional(2)?[..] else { unreachable!("two of them") };
        send(path, address)
    })
}

fn send(path: &str, address: &str) -> Result {
    let mut file = File::open(path).map_err(|error| format!("cannot open {path}: {error}"))?;
    let host = Host::new()?;
    let mut conn = Conn::connect(&host, address, PROTOCOL)?;
    let start = Instant::now();
    let sent = io::copy(&mut file, &mut conn)?;
    conn.shutdown(Shutdown::Write)?;
    // The receiver answers once the file is on its disk.
    let mut stored = [0; 8];
    conn.read_exact(&mut stored).map_err(|error| format!("the receiver gave up: {error}"))?;
    if u64::from_be_bytes(stored) != sent {
        return Err(format!("sent {sent} bytes, stored {}", u64::from_be_bytes(stored)).into());
    }
    println!("{sent} bytes sent and stored in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
