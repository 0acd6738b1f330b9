//! The two ends that the benchmarks measure: of a conn between two hosts of this
//! process, and of a plain TCP connection with `TCP_NODELAY`, over 127.0.0.1.

#![allow(dead_code, reason = "each benchmark uses some of it")]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use pointsub::{Conn, Host, Listener};

/// Two hosts of this process.
pub(crate) struct Peers {
    pub(crate) server: Host,
    pub(crate) client: Host,
}

impl Peers {
    pub(crate) fn new() -> Peers {
        let server = Host::builder().listen_on("127.0.0.1:0").build().expect("a host");
        Peers { server, client: Host::new().expect("a host") }
    }

    /// Two whose conns end with their connection.
    pub(crate) fn plain() -> Peers {
        let listening = Host::builder().listen_on("127.0.0.1:0").resumable(false);
        let client = Host::builder().resumable(false).build().expect("a host");
        Peers { server: listening.build().expect("a host"), client }
    }

    /// The two ends of a conn. They keep their hosts alive.
    pub(crate) fn conns(&self, protocol: &str) -> (Conn, Conn) {
        let listener = Listener::bind(&self.server, protocol).expect("bind");
        let address = &self.server.dial_addrs()[0];
        let near = Conn::connect(&self.client, address, protocol).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        (near, far)
    }
}

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = tcp_dial(listener.local_addr().expect("an address")).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    far.set_nodelay(true).expect("nodelay");
    (near, far)
}

pub(crate) fn tcp_dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
