//! A sender that leaves as soon as it has heard that all is there does not make the
//! receiver's transfer fail: what is on the disk is on the disk.

mod common;
mod files;
mod support;

use std::fs;
use std::thread;

use common::{PROTOCOL, listening, within};
use files::Scratch;
use pointsub::transfer::{receive_file, send_file};
use pointsub::{Conn, Host, Listener, MessageTransporter};

const TIMES: usize = 50;

#[test]
fn fifty_of_them() {
    within(120, || {
        let scratch = Scratch::new("leaves");
        let content = support::bytes(9, 100_000);
        fs::write(scratch.here("source"), &content).expect("write");
        let server = listening();
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        for time in 0..TIMES {
            let arrives = scratch.there(&time.to_string());
            let host = Host::new().expect("a host");
            let conn = Conn::connect(&host, &server.dial_addrs()[0], PROTOCOL).expect("connect");
            let (far, _) = listener.accept().expect("accept");
            let controlled = time % 2 == 0;
            thread::scope(|scope| {
                let receiving = scope.spawn(|| receive_file(&mut over(far, controlled), &arrives));
                let mut to = over(conn, controlled);
                send_file(&mut to, scratch.here("source")).expect("all of it");
                match time % 3 {
                    0 => drop((to, host)),
                    1 => drop((host, to)),
                    _ => host.shutdown(),
                }
                let received = receiving.join().expect("it ends");
                assert_eq!(received.expect("all of it").bytes, content.len() as u64, "{time}");
            });
            assert!(fs::read(&arrives).expect("read") == content, "{time}");
        }
    });
}

fn over(conn: Conn, controlled: bool) -> MessageTransporter<Conn> {
    let builder = MessageTransporter::builder(conn);
    if controlled { builder.control().build() } else { builder.build() }
}
