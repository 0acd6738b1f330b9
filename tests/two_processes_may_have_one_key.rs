//! A new process beside an old one with the same key, as while a service is replaced: each
//! has conns of its own, and they do not take each other's for theirs.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Cut, PROTOCOL, Proxy, within};
use pointsub::{Conn, Host, Keypair, Listener};

/// The other process is connected, and does not know the conn that was lost.
#[test]
fn a_lost_conn_goes_on_with_the_process_that_has_it() {
    within(60, || {
        let key = Keypair::generate_ed25519();
        let builder = || Host::builder().listen_on("127.0.0.1:0");
        let third = builder().build().expect("a host");
        let listener = Listener::bind(&third, PROTOCOL).expect("bind");
        let new = builder().keypair(key.clone()).build().expect("a host");
        let serves = Listener::bind(&new, PROTOCOL).expect("bind");
        let wire = Proxy::to(&new);
        let near = Conn::connect(&third, wire.address(&new).as_str(), PROTOCOL).expect("connect");
        let (mut far, _) = serves.accept().expect("accept");
        far.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let old = Host::builder().keypair(key).build().expect("a host");
        let of_old = Conn::connect(&old, &third.dial_addrs()[0], PROTOCOL).expect("connect");
        let (mut at_third, _) = listener.accept().expect("accept");
        for round in 0..3 {
            wire.cut(Cut::Reset);
            (&near).write_all(b"to the new one").expect("write");
            let mut heard = [0; 14];
            far.read_exact(&mut heard).expect("it is where it was");
            assert_eq!((&heard, near.stats().resumes), (b"to the new one", round + 1));
            (&of_old).write_all(b"x").expect("write");
            at_third.read_exact(&mut [0]).expect("the other goes on");
        }
        // While there is a wire.
        third.shutdown();
    });
}
