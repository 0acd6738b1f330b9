//! A host that redials is no attacker: no limit, no penalty and no half-dead connection
//! of its own keeps it out. Only who is not allowed any more is refused.

mod common;

use common::{Cut, Dice, LOST, Proxy, Ways, Wired, assert_kind, eventually, exchange, within};
use pointsub::{Event, Host};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// The dialler sees that the connection is dead, the listener does not, and it lets in
/// only one or two of a peer.
#[test]
fn its_own_half_dead_connections_do_not_count_against_it() {
    for most in [1, 2] {
        within(60, || {
            let quick = Host::builder()
                .keepalive(Duration::from_millis(100))
                .keepalive_timeout(Duration::from_millis(300));
            let wired = Wired::between(common::builder().max_connections_per_peer(most), quick);
            let (near, far) = wired.connect();
            let mut dice = Dice::new();
            exchange(&near, &far, 2 * MIB, &mut dice, |progress| {
                for n in 1..=6 {
                    progress.await_arrival(n * MIB as u64 / 2);
                    wired.proxy.black_hole(Ways::Both);
                    wired.proxy.flow();
                    eventually("a resume", 8, || near.stats().resumes >= n);
                }
            });
            let stats = wired.pair.server.stats();
            assert_eq!(stats.connections, 1, "the old ones are closed: {stats:?}");
        });
    }
}

#[test]
fn hundreds_of_redials_in_a_row_are_no_flood() {
    within(120, || {
        let wired = Wired::new();
        let (near, _far) = wired.connect();
        let banned = wired.pair.server.subscribe();
        for round in 1..=200 {
            wired.proxy.cut(Cut::Reset);
            eventually("a resume", 20, || near.stats().resumes >= round);
        }
        while let Some(event) = banned.try_next() {
            assert!(!matches!(event, Event::PeerBanned { .. }), "{event:?}");
        }
    });
}

/// Not from this machine itself, as far as the limits per address can tell.
#[test]
fn redials_from_a_counted_address_come_through() {
    let Some(own) = own_address() else {
        return eprintln!("this machine has no address but loopback");
    };
    within(120, || {
        let server = Host::builder().listen_on((own, 0)).build().expect("a host");
        let pair = common::Pair::of(server, common::dialling());
        let proxy =
            Proxy::toward(SocketAddr::new(own, common::socket_address(&pair.server).port()));
        let wired = Wired { pair, proxy };
        let (near, far) = wired.connect();
        let mut dice = Dice::new();
        exchange(&near, &far, 2 * MIB, &mut dice, |progress| {
            for n in 1..=40 {
                progress.await_arrival(n * MIB as u64 / 25);
                wired.proxy.cut(Cut::Reset);
                eventually("a resume", 25, || near.stats().resumes >= n);
            }
        });
        // Handshakes are cut too: whose fault that is nobody knows.
        let (near, far) = wired.connect();
        wired.proxy.cut_every_bytes(3_000, Cut::Reset, dice.split());
        exchange(&near, &far, 8_000, &mut dice, |_| ());
    });
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only chooses the way there.
    socket.connect("192.0.2.77:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

/// Damage on the wire is nobody's fault that could be known.
#[test]
fn a_wire_that_flips_bits_bans_nobody() {
    within(60, || {
        let wired = Wired::new();
        let (near, _far) = wired.connect();
        for round in 1..=8 {
            wired.proxy.damage(Ways::Both);
            let start = Instant::now();
            // Something has to go over it.
            let _ = wired.pair.client.ping(&near.peer_id());
            eventually("a resume", 20, || near.stats().resumes >= round);
            assert!(start.elapsed() < Duration::from_secs(2), "{round}: {:?}", start.elapsed());
        }
    });
}

/// Who is not allowed any more does not come back, and his conns end.
#[test]
fn who_is_not_allowed_any_more_does_not_resume() {
    within(60, || {
        let allowed = Arc::new(AtomicBool::new(true));
        let gate = allowed.clone();
        let server = common::builder()
            .allow(move |_| gate.load(SeqCst))
            .resume_timeout(Duration::from_secs(4))
            .keepalive(Duration::from_millis(100))
            .keepalive_timeout(Duration::from_millis(400));
        let wired = Wired::between(server, Host::builder());
        let (mut near, mut far) = wired.connect();
        allowed.store(false, SeqCst);
        wired.proxy.cut(Cut::Reset);
        let start = Instant::now();
        assert_kind(near.read(&mut [0]), LOST);
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        assert_eq!((near.stats().resumes, far.stats().resumes), (0, 0));
        far.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        assert_kind(far.read(&mut [0]), LOST);
    });
}

/// A dial of the program's own and the redial are one.
#[test]
fn a_connect_in_the_outage_and_the_redial_are_one_dial() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        let before = wired.proxy.accepted();
        wired.proxy.stall(Ways::Both);
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || near.stats().losses == 1);
        std::thread::scope(|scope| {
            let new = scope.spawn(|| wired.connect());
            wired.proxy.await_accepted(before + 1);
            wired.proxy.flow();
            let (new_near, new_far) = new.join().expect("no panic");
            exchange(&new_near, &new_far, MIB, &mut Dice::new(), |_| ());
        });
        exchange(&near, &far, MIB, &mut Dice::new(), |_| ());
        let stats = wired.pair.client.stats();
        assert_eq!(stats.connections, 1, "{stats:?}");
    });
}
