//! A server that sends back what it gets, and a client for it.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host, Listener};
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::thread;

const PROTOCOL: &str = "/echo/1.0.0";

const USAGE: &str = "
Sends back what it gets.

    cargo run --example echo [-- --listen IP:PORT]    the server
    cargo run --example echo -- ADDRESS               sends the lines you type

ADDRESS is what the server prints.";

fn main() -> ExitCode {
    common::run(USAGE, |mut args: Args| {
        if let Some(address) = args.first() {
            args.positional(0)?;
            return client(&address);
        }
        let host = common::listening_host(&mut args)?;
        args.positional(0)?;
        server(&host)
    })
}

fn server(host: &Host) -> Result {
    let listener = Listener::bind(host, PROTOCOL)?;
    common::print_other_side(host, |address| format!("cargo run --example echo -- {address}"));
    loop {
        let (conn, peer) = listener.accept()?;
        println!("{peer} came");
        thread::spawn(move || {
            let outcome = io::copy(&mut &conn, &mut &conn);
            match outcome {
                Ok(bytes) => println!("{peer} left after {bytes} bytes"),
                Err(error) => println!("{peer}: {error}"),
            }
        });
    }
}

fn client(address: &str) -> Result {
    let host = Host::new()?;
    let mut conn = Conn::connect(&host, address, PROTOCOL)?;
    common::tell_of_losses(&host);
    println!("connected to {}; type lines, end with Ctrl-D", conn.peer_id());
    let mut echoes = BufReader::new(conn.try_clone()?);
    for line in io::stdin().lines() {
        writeln!(conn, "{}", line?)?;
        let mut echo = String::new();
        if echoes.read_line(&mut echo)? == 0 {
            return Err("the server has closed".into());
        }
        print!("< {echo}");
    }
    conn.shutdown(Shutdown::Write)?;
    Ok(())
}
