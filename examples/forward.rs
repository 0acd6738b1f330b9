//! A TCP port here that leads to a TCP port there, through conns: both ways,
//! any number of connections.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host, Listener, PeerId, ToPeerAddrs};
use rustix::net::sockopt::set_socket_linger;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

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
            _ => Err(common::usage_error("either --to or --from")),
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
        thread::spawn(move || {
            let tcp = TcpStream::connect(&*to)
                .map_err(|e| io::Error::new(e.kind(), format!("it finds nobody at {to}: {e}")));
            report(peer, tcp.and_then(|tcp| join(conn, tcp)));
        });
    }
}

/// TCP in, conns out.
fn here(from: &str, address: &str) -> Result {
    let listener =
        TcpListener::bind(from).map_err(|error| format!("cannot listen on {from}: {error}"))?;
    let host = Host::new()?;
    let (peer, addresses) = address.to_peer_addrs()?;
    for address in addresses {
        host.add_address(peer, address);
    }
    // Says at once whether the other side is there; a conn would go on to its target.
    if !host.identify(&peer)?.protocols.iter().any(|protocol| protocol == PROTOCOL) {
        return Err(format!("{peer} forwards nothing: start it there with --to").into());
    }
    common::tell_of_losses(&host);
    println!("forwarding {} to {peer}", listener.local_addr()?);
    loop {
        let (tcp, _) = listener.accept()?;
        let host = host.clone();
        thread::spawn(move || {
            let conn = Conn::connect(&host, peer, PROTOCOL).or_else(|error| {
                // An end would say that there was nothing to come.
                set_socket_linger(&tcp, Some(Duration::ZERO))?;
                Err(error)
            });
            report(peer, conn.and_then(|conn| join(conn, tcp)));
        });
    }
}

/// Carries both directions until both have ended, and hands each end on. Where the conn
/// breaks off the TCP connection is reset: an end would say that all has come.
fn join(conn: Conn, tcp: TcpStream) -> io::Result<()> {
    let (mut conn_in, mut tcp_out) = (conn.try_clone()?, tcp.try_clone()?);
    let inward = thread::spawn(move || {
        if let Err(error) = io::copy(&mut conn_in, &mut tcp_out) {
            // When both handles are closed; the other thread's read ends now.
            set_socket_linger(&tcp_out, Some(Duration::ZERO))?;
            let _ = tcp_out.shutdown(Shutdown::Read);
            return Err(error);
        }
        tcp_out.shutdown(Shutdown::Write)
    });
    let outward = io::copy(&mut &tcp, &mut &conn);
    let ended = conn.shutdown(Shutdown::Write);
    drop(tcp);
    let inward = inward.join();
    let inward = inward.unwrap_or_else(|_| Err(io::Error::other("a forwarding thread panicked")));
    inward.and(outward).and(ended)
}

fn report(peer: PeerId, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{peer}: {error}");
    }
}
