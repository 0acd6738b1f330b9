//! A peer that takes everything and confirms nothing makes a host keep it. The host is
//! out of memory then, and gets out of that by itself.

mod attacker;
mod common;

use std::cell::Cell;
use std::io::Write;
use std::thread;

use attacker::header;
use attacker::resume::{Hello, Hostile};
use common::{PROTOCOL, address, builder, dialling, eventually, socket_address, within};
use pointsub::{Conn, Keypair, Listener, Pressure};

const SESSIONS: u8 = 64;
const WINDOW: u32 = 16 << 20;

#[test]
fn who_confirms_nothing_is_reset_and_newcomers_come_in_again() {
    within(120, || {
        let server = builder().memory(32 << 20).max_waiting(1000).build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let serving = listener.try_clone().expect("clone");
        let threads = thread::spawn(move || {
            serving.serve(100, |conn, _| while (&conn).write_all(&[7; 64 << 10]).is_ok() {})
        });
        let key = Keypair::generate_ed25519();
        let mut hostile = Hostile::dial(socket_address(&server), &key).expect("dial");
        let reached = Cell::new(false);
        for n in 0..SESSIONS {
            let Ok(stream) = hostile.hello(&Hello::opening([n; 16], PROTOCOL)) else { break };
            // It may send far more than it is to keep.
            hostile.send(&header(1, 0, stream, WINDOW - (256 << 10))).expect("send");
        }
        // Takes all, so that nothing waits for the socket.
        let reading = thread::spawn(move || while hostile.frame().is_ok() {});
        eventually("an emergency that ends", 60, || {
            let level = server.stats().pressure;
            reached.set(reached.get() || level == Pressure::Emergency);
            reached.get() && level < Pressure::Emergency
        });
        let newcomer = dialling();
        Conn::connect(&newcomer, address(&server), PROTOCOL).expect("a newcomer");
        server.shutdown();
        threads.join().expect("no panic").expect("served");
        reading.join().expect("no panic");
    });
}
