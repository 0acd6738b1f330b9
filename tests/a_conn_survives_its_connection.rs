//! Whatever happens to the TCP connection under a conn, both ends see nothing of it
//! but time: every fault of a wire, with content both ways at once.

mod common;

use common::{Cut, Dice, PROTOCOL, Pair, Ways, Wired, eventually, exchange, listening, within};
use pointsub::{Conn, HostBuilder, Listener};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// Hosts that notice soon that a connection is dead.
fn quick(host: HostBuilder) -> HostBuilder {
    host.keepalive(Duration::from_millis(100)).keepalive_timeout(Duration::from_millis(400))
}

/// Exchanges `len` bytes each way while `fault` is done to the wire, `times` times
/// and spread over the whole, and finds that the conn has lost and resumed so often.
fn survives(wired: &Wired, len: usize, times: u64, fault: impl Fn()) {
    let (near, far) = wired.connect();
    survives_on(&near, &far, len, times, fault);
}

fn survives_on(near: &Conn, far: &Conn, len: usize, times: u64, fault: impl Fn()) {
    let mut dice = Dice::new();
    let mut moments = dice.split();
    exchange(near, far, len, &mut dice, |progress| {
        for n in 0..times {
            let slot = 2 * len as u64 / times;
            progress.await_arrival(n * slot + moments.below(slot / 2));
            fault();
            eventually("a resume", 40, || near.stats().resumes > n);
        }
    });
    let stats = near.stats();
    assert!(stats.losses >= times && stats.resumes >= times, "{stats:?}");
    assert!(stats.longest_outage > Duration::ZERO && far.stats().resumes >= times, "{stats:?}");
}

fn cut(wired: &Wired, how: Cut) {
    wired.proxy.cut(how);
}

#[test]
fn a_reset() {
    within(60, || {
        let wired = Wired::new();
        survives(&wired, 8 * MIB, 12, || cut(&wired, Cut::Reset));
    });
}

#[test]
fn an_end_without_a_goodbye() {
    within(60, || {
        let wired = Wired::new();
        survives(&wired, 8 * MIB, 12, || cut(&wired, Cut::Close));
    });
}

/// Who opened the conn did not dial the connection.
#[test]
fn a_reset_where_the_dialler_is_not_the_opener() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect_back();
        survives_on(&near, &far, 8 * MIB, 12, || cut(&wired, Cut::Reset));
    });
}

#[test]
fn a_flipped_bit_in_either_direction() {
    for ways in [Ways::Out, Ways::Back] {
        within(60, || {
            let wired = Wired::of(quick);
            survives(&wired, 4 * MIB, 6, || wired.proxy.damage(ways));
            let Pair { server, client, .. } = &wired.pair;
            let lost = [server, client].map(|host| host.stats().connections_lost);
            assert!(lost.iter().all(|lost| *lost >= 6), "{lost:?} were counted");
        });
    }
}

/// What stood still goes on in the end, and nobody listens to it any more.
#[test]
fn a_stall_in_one_direction_or_both() {
    for ways in [Ways::Both, Ways::Out, Ways::Back] {
        within(60, || {
            let wired = Wired::of(quick);
            let (near, far) = wired.connect();
            survives_on(&near, &far, 4 * MIB, 3, || {
                let before = near.stats().losses + far.stats().losses;
                wired.proxy.stall(ways);
                eventually("the loss is noticed", 20, || {
                    near.stats().losses + far.stats().losses > before
                });
                wired.proxy.flow();
            });
        });
    }
}

#[test]
fn a_black_hole_in_one_direction_or_both() {
    for ways in [Ways::Both, Ways::Out, Ways::Back] {
        within(60, || {
            let wired = Wired::of(quick);
            survives(&wired, 4 * MIB, 3, || {
                wired.proxy.black_hole(ways);
                wired.proxy.flow();
            });
        });
    }
}

/// New connections vanish too, for a while.
#[test]
fn a_black_hole_that_stays() {
    within(90, || {
        let wired = Wired::of(|host| {
            let soon = Duration::from_millis(500);
            quick(host).dial_timeout(soon).handshake_timeout(soon)
        });
        survives(&wired, MIB, 2, || {
            let before = wired.proxy.accepted();
            wired.proxy.black_hole(Ways::Both);
            wired.proxy.await_accepted(before + 2);
            wired.proxy.flow();
        });
    });
}

#[test]
fn cuts_of_a_slow_wire() {
    within(120, || {
        let wired = Wired::new();
        wired.proxy.delay(Duration::from_millis(40));
        survives(&wired, 2 * MIB, 6, || cut(&wired, Cut::Reset));
        wired.proxy.delay(Duration::ZERO);
        wired.proxy.rate(2_000_000);
        survives(&wired, 2 * MIB, 6, || cut(&wired, Cut::Close));
    });
}

#[test]
fn cuts_of_a_wire_that_carries_single_bytes() {
    within(120, || {
        let wired = Wired::new();
        wired.proxy.pieces(1);
        survives(&wired, 300_000, 6, || cut(&wired, Cut::Reset));
    });
}

#[test]
fn cuts_after_every_few_bytes() {
    for (mean, how, len) in
        [(100_000, Cut::Reset, 2 * MIB), (20_000, Cut::Close, MIB / 2), (3_000, Cut::Reset, 20_000)]
    {
        within(120, || {
            let mut dice = Dice::new();
            let wired = Wired::new();
            let (near, far) = wired.connect();
            wired.proxy.cut_every_bytes(mean, how, dice.split());
            exchange(&near, &far, len, &mut dice, |_| ());
            let (cuts, stats) = (wired.proxy.cuts(), near.stats());
            eprintln!("{cuts} cuts every {mean} bytes: {stats:?}");
            assert!(cuts >= len as u64 / mean && stats.resumes > 0, "{cuts} cuts, {stats:?}");
        });
    }
}

#[test]
fn cuts_after_every_few_milliseconds() {
    within(120, || {
        let mut dice = Dice::new();
        let wired = Wired::new();
        wired.proxy.rate(1_000_000);
        let (near, far) = wired.connect();
        let cutting = wired.proxy.cut_every(Duration::from_millis(60), Cut::Reset, dice.split());
        exchange(&near, &far, MIB, &mut dice, |_| wired.proxy.await_cuts(25));
        drop(cutting);
        assert!(near.stats().resumes >= 10, "{:?}", near.stats());
    });
}

#[test]
fn a_peer_that_refuses_for_a_while() {
    within(60, || {
        let wired = Wired::new();
        survives(&wired, 2 * MIB, 2, || {
            wired.proxy.refuse();
            wired.proxy.cut(Cut::Reset);
            // Long enough to be refused more than once, and less than the 5 s after
            // which a conn is given up.
            std::thread::sleep(Duration::from_millis(1_500));
            wired.proxy.listen_again();
        });
    });
}

/// The wire leads to another port from now on; and the old address of a peer refuses
/// for good while another one is known.
#[test]
fn a_changed_address() {
    within(60, || {
        let wired = Wired::new();
        let second = common::Proxy::to(&wired.pair.server);
        let server = wired.pair.server.peer_id();
        let (near, far) = wired.connect();
        let mut dice = Dice::new();
        exchange(&near, &far, 2 * MIB, &mut dice, |progress| {
            progress.await_arrival(MIB as u64);
            wired.proxy.refuse();
            wired.proxy.cut(Cut::Reset);
            eventually("the loss is noticed", 10, || near.stats().losses == 1);
            let new = second.address(&wired.pair.server).parse().expect("an address");
            wired.pair.client.add_address(server, new);
        });
        assert_eq!((near.stats().resumes, second.accepted()), (1, 1));
        let address = near.peer_addr().expect("an address").to_string();
        assert!(address.contains(&second.socket().port().to_string()), "{address} is the new one");
    });
}

/// Somebody else has taken over the address: that address is of no use, the others are.
#[test]
fn another_key_at_the_address() {
    within(60, || {
        let wired = Wired::new();
        let impostor = listening();
        let _served = Listener::bind(&impostor, PROTOCOL).expect("bind");
        let second = common::Proxy::to(&wired.pair.server);
        let server = wired.pair.server.peer_id();
        let (near, far) = wired.connect();
        let new = second.address(&wired.pair.server).parse().expect("an address");
        wired.pair.client.add_address(server, new);
        let mut dice = Dice::new();
        exchange(&near, &far, 2 * MIB, &mut dice, |progress| {
            progress.await_arrival(MIB as u64);
            wired.proxy.retarget(common::socket_address(&impostor));
            wired.proxy.cut(Cut::Reset);
        });
        assert_eq!((near.stats().resumes, near.peer_id()), (1, server));
        assert!(impostor.stats().conns_resumed == 0);
    });
}

/// All that there are between two hosts are resumed over one new connection.
#[test]
fn a_reset_under_many_conns() {
    within(120, || {
        let wired = Wired::new();
        let conns: Vec<_> = (0..100).map(|_| wired.connect()).collect();
        let mut dice = Dice::new();
        for round in 1..=3 {
            let before = wired.proxy.accepted();
            wired.proxy.cut(Cut::Reset);
            std::thread::scope(|scope| {
                for (near, far) in &conns {
                    let mut dice = dice.split();
                    scope.spawn(move || {
                        let mut buf = [0; 100];
                        for (mut from, mut to) in [(near, far), (far, near)] {
                            let sent = dice.roll().to_be_bytes();
                            std::io::Write::write_all(&mut from, &sent).expect("write");
                            std::io::Read::read_exact(&mut to, &mut buf[..8]).expect("read");
                            assert_eq!(sent, buf[..8]);
                        }
                    });
                }
            });
            assert_eq!(wired.proxy.accepted(), before + 1, "one redial serves all");
            for (near, far) in &conns {
                assert_eq!((near.stats().resumes, far.stats().resumes), (round, round));
            }
        }
    });
}

/// Sixteen are kept of a peer, and the one in use is among them.
#[test]
fn a_loss_however_many_addresses_are_known() {
    within(60, || {
        for later in [false, true] {
            let wired = Wired::new();
            let know = || {
                for port in 1..=16 {
                    let dead = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
                    wired.pair.client.add_address(wired.pair.server.peer_id(), dead);
                }
            };
            if !later {
                know();
            }
            let (near, far) = wired.connect();
            if later {
                know();
            }
            survives_on(&near, &far, MIB, 3, || cut(&wired, Cut::Reset));
        }
    });
}
