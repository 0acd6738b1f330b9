//! Receives a file from `send_file` with `std::io::copy`.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host, Listener};
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;

const PROTOCOL: &str = "/file/1.0.0";

const USAGE: &str = "
Receives one file and writes it to FILE, which must not exist yet.

    cargo run --example receive_file -- FILE [--listen IP:PORT]

It prints what to run on the other side.";

fn main() -> ExitCode {
    common::run(USAGE, |mut args: Args| {
        let host = common::listening_host(&mut args)?;
        receive(&host, &args.positional(1)?[0])
    })
}

fn receive(host: &Host, path: &str) -> Result {
    let listener = Listener::bind(host, PROTOCOL)?;
    let mut file =
        File::create_new(path).map_err(|error| format!("cannot create {path}: {error}"))?;
    common::print_other_side(host, |address| {
        format!("cargo run --example send_file -- FILE {address}")
    });
    let (conn, peer) = listener.accept()?;
    // A connection that is cut is an error here, never the end of a short file.
    match store(conn, &mut file) {
        Ok(bytes) => {
            println!("{bytes} bytes from {peer} are in {path}");
            Ok(())
        }
        Err(error) => {
            fs::remove_file(path)?;
            Err(error.into())
        }
    }
}

fn store(mut conn: Conn, file: &mut File) -> io::Result<u64> {
    let bytes = io::copy(&mut conn, file)?;
    file.sync_all()?;
    conn.write_all(&bytes.to_be_bytes())?;
    Ok(bytes)
}
