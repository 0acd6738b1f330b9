//! A pointsub host, by its public contract only.

use crate::node::{Duplex, Handler, Node, WriteEnd};
use pointsub::{Conn, Host, Listener};
use std::io;
use std::net::Shutdown;
use std::thread;

/// The library under test.
pub struct PointsubNode {
    pub host: Host,
}

impl PointsubNode {
    pub fn new() -> PointsubNode {
        let listen = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
        PointsubNode { host: Host::builder().listen(listen).build().expect("a host") }
    }
}

impl Default for PointsubNode {
    fn default() -> PointsubNode {
        PointsubNode::new()
    }
}

impl Node for PointsubNode {
    fn address(&self) -> String {
        self.host.dial_addrs()[0].to_string()
    }

    fn serve(&self, protocol: &'static str, handler: Handler) {
        let listener = Listener::bind(&self.host, protocol).expect("bind");
        thread::spawn(move || {
            for conn in listener.incoming() {
                let conn = conn.expect("accept");
                let handler = handler.clone();
                thread::spawn(move || handler(halves(conn)?));
            }
        });
    }

    fn open(&self, address: &str, protocol: &'static str) -> io::Result<Duplex> {
        halves(Conn::connect(&self.host, address, protocol)?)
    }
}

impl WriteEnd for Conn {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn halves(conn: Conn) -> io::Result<Duplex> {
    Ok(Duplex { reader: Box::new(conn.try_clone()?), writer: Box::new(conn) })
}
