//! A TCP port here that leads to a TCP port there, through conns: both ways,
//! any number of connections.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host, Listener, Multiaddr, PeerId};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

const PROTOCOL: &str = "/forward/1.0.0";

const USAGE: &str = "
A TCP port here that leads to a TCP port there.

    cargo run --example forward -- --to HOST:PORT [--listen IP:PORT]
        there: connections that come through go on to HOST:PORT
    cargo run --example forward -- --from IP:PORT ADDRESS
        here: connections to IP:PORT go through to ADDRESS

ADDRESS is what the first prints.";

fn main() -> ExitCode {
    common::run(USAGE, |mut args: Args| {
        let (to, from) = (args.option("--to")?, args.option("--from")?);
        match (to, from) {
            (Some(to), None) => {
                let host = common::listening_host(&mut args)?;
                args.positional(0)?;
                there(&host, &to)
            }
            (None, Some(from)) => here(&from, &args.positional(1)?[0]),
            _ => Err(format!("say either --to or --from\n{USAGE}").into()),
        }
    })
}

/// Conns in, TCP out.
fn there(host: &Host, to: &str) -> Result {
    let listener = Listener::bind(host, PROTOCOL)?;
    println!("forwarding to {to}");
    common::print_other_side(host, |address| {
        format!("cargo run --example forward -- --from 127.0.0.1:8080 {address}")
    });
    loop {
        let (conn, peer) = listener.accept()?;
        let to = to.to_owned();
        thread::spawn(move || report(peer, TcpStream::connect(to).and_then(|tcp| join(conn, tcp))));
    }
}

/// TCP in, conns out.
fn here(from: &str, address: &str) -> Result {
    let listener =
        TcpListener::bind(from).map_err(|error| format!("cannot listen on {from}: {error}"))?;
    let host = Host::new()?;
    let target: Multiaddr = address.parse()?;
    // Says at once whether the other side is there.
    let peer = Conn::connect(&host, &target, PROTOCOL)?.peer_id();
    println!("forwarding {} to {peer}", listener.local_addr()?);
    loop {
        let (tcp, _) = listener.accept()?;
        let (host, target) = (host.clone(), target.clone());
        thread::spawn(move || {
            report(peer, Conn::connect(&host, target, PROTOCOL).and_then(|conn| join(conn, tcp)));
        });
    }
}

/// Carries both directions until both have ended, and hands each end on.
fn join(conn: Conn, tcp: TcpStream) -> io::Result<()> {
    let (conn_in, tcp_out) = (conn.try_clone()?, tcp.try_clone()?);
    let inward =
        thread::spawn(move || carry(conn_in, &tcp_out, || tcp_out.shutdown(Shutdown::Write)));
    carry(tcp, &conn, || conn.shutdown(Shutdown::Write))?;
    inward.join().unwrap_or_else(|_| Err(io::Error::other("a forwarding thread panicked")))
}

fn carry(
    mut from: impl io::Read,
    mut to: impl io::Write,
    end: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let outcome = io::copy(&mut from, &mut to);
    let ended = end();
    outcome.and(ended)
}

fn report(peer: PeerId, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{peer}: {error}");
    }
}
