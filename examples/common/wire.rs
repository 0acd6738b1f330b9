//! A TCP connection that can be cut: what it takes it passes on, until it is told to
//! break off.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Passes on what comes to its address.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    carried: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    /// A wire from a free port of this machine to `target`.
    pub(crate) fn to(target: SocketAddr) -> io::Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let wire = Wire { address: listener.local_addr()?, carried: Arc::default() };
        let carried = wire.carried.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let Ok((near, far)) = near.and_then(|near| Ok((near, TcpStream::connect(target)?)))
                else {
                    continue;
                };
                let Ok(ends) = pass_on(near, far) else { continue };
                carried.lock().expect("nobody panics with it").extend(ends);
            }
        });
        Ok(wire)
    }

    /// Cuts every connection there is. New ones are carried again.
    pub(crate) fn cut(&self) {
        for end in self.carried.lock().expect("nobody panics with it").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(near: TcpStream, far: TcpStream) -> io::Result<[TcpStream; 2]> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ends = [near.try_clone()?, far.try_clone()?];
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                if to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(ends)
}
