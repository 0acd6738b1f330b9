//! What comes is accepted, whatever the log does with what is said of the connection's end.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{PROTOCOL, builder, eventually, socket_address, within};
use pointsub::{Conn, Host, Listener};

const LATE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(100);

/// It holds the thread that tells it of an end until something was accepted.
struct Holding;

static HOLDS: AtomicBool = AtomicBool::new(false);

impl log::Log for Holding {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("connection ended") {
            eventually("an accept", 30, || !HOLDS.load(SeqCst));
        }
    }

    fn flush(&self) {}
}

/// The opening of a conn and the end of its connection arrive together.
#[test]
fn a_conn_whose_connection_ended_at_once_is_accepted_while_the_log_waits() {
    within(60, || {
        log::set_logger(&Holding).expect("the only one");
        log::set_max_level(log::LevelFilter::Debug);
        for resumable in [false, true].repeat(10) {
            let server = builder().resumable(resumable).linger(SHORT).build().expect("a host");
            let client =
                Host::builder().resumable(resumable).linger(SHORT).build().expect("a host");
            let listener = Listener::bind(&server, PROTOCOL).expect("bind");
            let wire = Wire::to(&server);
            let target = format!("{}/p2p/{}", wire.address, server.peer_id());
            // It connects the hosts.
            let _first = Conn::connect(&client, &*target, PROTOCOL).expect("connect");
            let _accepted = listener.accept().expect("accept");
            wire.hold();
            HOLDS.store(true, SeqCst);
            thread::scope(|scope| {
                scope.spawn(|| Conn::connect_timeout(&client, &*target, PROTOCOL, LATE));
                let accepting = scope.spawn(|| listener.accept());
                wire.release_and_end();
                accepting.join().expect("no panic").expect("accept");
                HOLDS.store(false, SeqCst);
            });
        }
    });
}

/// One connection that keeps back what the client says.
struct Wire {
    address: String,
    held: Arc<Mutex<Option<Vec<u8>>>>,
    there: mpsc::Receiver<[TcpStream; 2]>,
}

impl Wire {
    fn to(server: &Host) -> Wire {
        let (here, target) =
            (TcpListener::bind("127.0.0.1:0").expect("bind"), socket_address(server));
        let port = here.local_addr().expect("an address").port();
        let held = Arc::new(Mutex::new(None::<Vec<u8>>));
        let (tell, there) = mpsc::channel();
        let holding = held.clone();
        thread::spawn(move || {
            let (client, _) = here.accept().expect("accept");
            let server = TcpStream::connect(target).expect("connect");
            let ends = [&server, &client].map(|end| end.try_clone().expect("a clone"));
            tell.send(ends).expect("it is there");
            let (mut from, mut to) = (server.try_clone().expect("clone"), client.try_clone());
            thread::spawn(move || std::io::copy(&mut from, to.as_mut().expect("a clone")));
            let (mut from, mut to, mut bytes) = (client, server, [0; 4096]);
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                match &mut *holding.lock().expect("no panic") {
                    Some(held) => held.extend(&bytes[..n]),
                    None => drop(to.write_all(&bytes[..n])),
                }
            }
        });
        Wire { address: format!("/ip4/127.0.0.1/tcp/{port}"), held, there }
    }

    fn hold(&self) {
        *self.held.lock().expect("no panic") = Some(Vec::new());
    }

    fn release_and_end(&self) {
        let said = || self.held.lock().expect("no panic").as_ref().map_or(0, Vec::len);
        eventually("an opening", 10, || said() > 0);
        let [mut server, client] = self.there.recv().expect("it is connected");
        let held = self.held.lock().expect("no panic").take().expect("it holds");
        server.write_all(&held).expect("write");
        server.shutdown(Shutdown::Both).expect("the end");
        let _ = client.shutdown(Shutdown::Both);
    }
}
