//! What conns without connection hold is bounded in time, bytes and number, and all of
//! it is given back.

mod common;

use common::{
    Cut, Dice, LOST, Ways, Wired, assert_kind, child, code, eventually, exchange, payload, role,
    within,
};
use pointsub::{Conn, ErrorCode, Event, HostBuilder};
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Hosts that notice soon that a connection is dead.
fn quick(host: HostBuilder) -> HostBuilder {
    host.keepalive(Duration::from_millis(100)).keepalive_timeout(Duration::from_millis(400))
}

#[test]
fn a_conn_is_given_up_after_the_smaller_resume_timeout() {
    for (ours, theirs) in [(1_000, 30_000), (30_000, 1_000)] {
        within(60, || {
            let limit =
                |ms| move |host: HostBuilder| quick(host).resume_timeout(Duration::from_millis(ms));
            let wired =
                Wired::between(limit(theirs)(common::builder()), limit(ours)(<_>::default()));
            let (near, far) = wired.connect();
            let mut events = wired.pair.client.subscribe();
            wired.proxy.stall(Ways::Both);
            wired.proxy.cut(Cut::Reset);
            let start = Instant::now();
            (&near).write_all(&payload(1, 10_000)).expect("kept");
            for (mut conn, most) in [(&near, 2_000), (&far, 3_000)] {
                let error = assert_kind(conn.read(&mut [0]), &[ErrorKind::ConnectionReset]);
                let took = start.elapsed();
                assert!(took >= Duration::from_millis(900), "{took:?}");
                assert!(took < Duration::from_millis(most), "{took:?}: {error}");
                assert_kind(conn.write(b"x"), common::ENDED);
                assert!(conn.take_error().expect("it").is_some());
            }
            let given_up = |event| matches!(event, Event::ConnGivenUp { .. });
            assert!(events.any(given_up));
            for host in [&wired.pair.client, &wired.pair.server] {
                let stats = host.stats();
                assert_eq!((stats.conns_given_up, stats.conns_waiting), (1, 0));
            }
            // The wire is whole again: so are new conns.
            wired.proxy.flow();
            let (near, far) = wired.connect();
            exchange(&near, &far, MIB, &mut Dice::new(), |_| ());
        });
    }
}

#[test]
fn a_conn_is_given_up_after_five_seconds_if_every_address_refuses() {
    within(60, || {
        let wired = Wired::new();
        let (mut near, _far) = wired.connect();
        wired.proxy.refuse();
        wired.proxy.cut(Cut::Reset);
        let start = Instant::now();
        let error = assert_kind(near.read(&mut [0]), &[ErrorKind::ConnectionReset]);
        let took = start.elapsed();
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
        eprintln!("{took:?}: {error}");
    });
}

/// An address that refuses is no hindrance while another one says nothing.
#[test]
fn one_silent_address_keeps_a_conn_alive_for_its_resume_timeout() {
    within(60, || {
        let wired = Wired::of(|host| host.resume_timeout(Duration::from_secs(8)));
        let (mut near, _far) = wired.connect();
        let silent = common::Proxy::to(&wired.pair.server);
        silent.stall(Ways::Both);
        let server = wired.pair.server.peer_id();
        let other = silent.address(&wired.pair.server).parse().expect("an address");
        wired.pair.client.add_address(server, other);
        wired.proxy.refuse();
        wired.proxy.cut(Cut::Reset);
        let start = Instant::now();
        assert_kind(near.read(&mut [0]), &[ErrorKind::ConnectionReset]);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(7_500), "{took:?}");
        assert!(took < Duration::from_secs(12), "{took:?}");
    });
}

/// What a writer may keep and what a reader leaves unread does not grow with the cuts.
#[test]
fn a_stopped_reader_and_many_cuts_hold_no_more_than_one_window() {
    within(120, || {
        let wired = Wired::of(|host| host.replay_buffer(MIB));
        let (mut near, mut far) = wired.connect();
        near.set_write_timeout(Some(Duration::from_millis(100))).expect("set");
        let content = payload(1, 64 * MIB);
        let mut at = 0;
        let mut taken = Vec::new();
        for round in 1..=12 {
            while let Ok(n) = near.write(&content[at..][..100_000]) {
                at += n;
            }
            taken.push((at, far.stats().unread));
            wired.proxy.cut(Cut::Reset);
            eventually("a resume", 20, || far.stats().resumes == round);
        }
        eprintln!("{taken:?}");
        let (first, last) = (taken[0], *taken.last().expect("twelve"));
        assert!(last.0 <= first.0 + MIB, "{taken:?}");
        assert!(last.1 <= first.1.max(256 << 10) + 64 * 1024, "{taken:?}");
        let mut arrived = vec![0; at];
        far.read_exact(&mut arrived).expect("read");
        assert!(arrived == content[..at]);
        near.set_write_timeout(None).expect("set");
        exchange(&near, &far, 4 * MIB, &mut Dice::new(), |_| ());
    });
}

/// The peer is away, and hundreds of conns to it write what they can.
#[test]
fn replay_buffers_stay_within_the_memory_of_the_host() {
    within(120, || {
        let limit = 16 * MIB;
        let wired = Wired::of(|host| host.memory(limit).replay_buffer(4 * MIB));
        let conns: Vec<_> = (0..40).map(|_| wired.connect()).collect();
        wired.proxy.stall(Ways::Both);
        wired.proxy.cut(Cut::Reset);
        eventually("all are lost", 5, || wired.pair.client.stats().conns_waiting == 40);
        let chunk = payload(1, 64 * 1024);
        let mut written = Vec::new();
        for (near, _) in &conns {
            near.set_nonblocking(true).expect("set");
            let mut all = 0;
            while let Ok(n) = (&*near).write(&chunk) {
                all += n;
            }
            written.push(all);
        }
        let stats = wired.pair.client.stats();
        // Where memory runs out some of them end, and keep nothing.
        let lives = |conn: &Conn| conn.take_error().expect("it").is_none();
        let kept = conns.iter().zip(written).filter(|((near, _), _)| lives(near));
        let kept: usize = kept.map(|(_, written)| written).sum();
        eprintln!("{kept} bytes kept, {} in the books", stats.memory);
        assert!(kept <= limit, "{kept} bytes are kept");
        assert!(stats.memory <= limit as u64, "{stats:?}");
    });
}

/// What was confirmed is forgotten, also where nobody writes any more.
#[test]
fn bytes_that_have_arrived_are_kept_no_longer() {
    within(60, || {
        let wired = Wired::new();
        let conns: Vec<_> = (0..20).map(|_| wired.connect()).collect();
        for (near, far) in &conns {
            (&*near).write_all(&payload(1, 100_000)).expect("write");
            (&*far).read_exact(&mut vec![0; 100_000]).expect("read");
        }
        eventually("the memory is free", 5, || wired.pair.client.stats().memory < 64 * 1024);
        // And where the last confirmation is lost with the connection.
        for (near, far) in &conns {
            (&*near).write_all(&payload(1, 50_000)).expect("write");
            (&*far).read_exact(&mut vec![0; 50_000]).expect("read");
        }
        wired.proxy.cut(Cut::Reset);
        eventually("the memory is free", 10, || wired.pair.client.stats().memory < 64 * 1024);
    });
}

/// The peer takes few streams at once.
#[test]
fn a_peer_with_little_room_takes_them_one_after_the_other() {
    within(120, || {
        let little = common::builder().max_negotiating(8);
        let wired = Wired::between(little, pointsub::Host::builder());
        let conns: Vec<_> = (0..80).map(|_| wired.connect()).collect();
        for round in 1..=3 {
            wired.proxy.cut(Cut::Reset);
            for (near, far) in &conns {
                eventually("a resume", 30, || near.stats().resumes >= round);
                (&*near).write_all(b"x").expect("write");
                (&*far).read_exact(&mut [0]).expect("read");
            }
        }
    });
}

/// The least and the most that can be chosen.
#[test]
fn options_at_the_ends_of_their_ranges() {
    let day = Duration::from_secs(24 * 3600);
    for (timeout, replay) in [(Duration::from_millis(10), 256 << 10), (day, 1 << 30)] {
        within(60, || {
            let wired = Wired::of(|host| {
                host.resume_timeout(timeout).replay_buffer(replay).linger(Duration::ZERO)
            });
            let (near, far) = wired.connect();
            exchange(&near, &far, 3 * MIB, &mut Dice::new(), |_| ());
            let (mut near, far) = wired.connect();
            wired.proxy.cut(Cut::Reset);
            near.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
            let error = near.read(&mut [0]).expect_err("nothing comes");
            if timeout == day {
                assert!(common::LATE.contains(&error.kind()), "{error}");
                near.set_read_timeout(None).expect("set");
                exchange(&near, &far, MIB, &mut Dice::new(), |_| ());
            }
        });
    }
}

/// Many more are lost than anybody keeps: the oldest end with an error, the others resume.
#[test]
fn more_lost_conns_than_a_host_keeps_end_with_an_error() {
    within(180, || {
        let wired = Wired::of(|host| host.max_streams(16_384));
        let conns: Vec<_> = (0..600).map(|_| wired.connect()).collect();
        wired.proxy.cut(Cut::Reset);
        let (mut ended, mut whole) = (0, 0);
        for (mut near, mut far) in conns {
            far.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
            let there_and_back = |near: &mut Conn, far: &mut Conn| {
                near.write_all(b"ping")?;
                far.read_exact(&mut [0; 4])?;
                far.write_all(b"pong")?;
                near.read_exact(&mut [0; 4])
            };
            match there_and_back(&mut near, &mut far) {
                Ok(()) => whole += 1,
                Err(e) => {
                    assert!(LOST.contains(&e.kind()) || common::ENDED.contains(&e.kind()), "{e}");
                    assert_ne!(code(&e), ErrorCode::Timeout, "{e}");
                    ended += 1;
                }
            }
        }
        eprintln!("{whole} resumed, {ended} ended");
        assert!(whole >= 200, "{whole} resumed, {ended} ended");
        eventually("none is left behind", 40, || {
            wired.pair.client.stats().conns_waiting + wired.pair.server.stats().conns_waiting == 0
        });
    });
}

/// Threads, descriptors and memory are back after a hundred losses, and after conns
/// that never resumed.
#[test]
#[cfg(target_os = "linux")]
fn afterwards_everything_is_back() {
    const NAME: &str = "afterwards_everything_is_back";
    if role().is_none() {
        let mut process = child(NAME, "measure", "").spawn().expect("spawn");
        drop(process.stdin.take());
        return within(180, || assert!(process.wait().expect("wait").success()));
    }
    within(170, || {
        let wired = Wired::of(|host| quick(host).resume_timeout(Duration::from_secs(2)));
        let rounds = |rounds| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0..rounds {
                        let (near, far) = wired.connect();
                        exchange(&near, &far, MIB, &mut Dice::new(), |progress| {
                            progress.await_arrival(100_000);
                            wired.proxy.cut(Cut::Reset);
                        });
                        let (near, _far) = wired.connect();
                        (&near).write_all(&payload(1, MIB / 4)).expect("kept");
                        if round % 10 == 0 {
                            wired.proxy.stall(Ways::Both);
                            wired.proxy.cut(Cut::Close);
                            assert_kind((&near).read(&mut [0]), LOST);
                            wired.proxy.flow();
                        }
                    }
                });
            });
        };
        // What is made once is made then.
        rounds(11);
        let held = || {
            let count = |dir| std::fs::read_dir(dir).expect("proc").count();
            (count("/proc/self/task"), count("/proc/self/fd"))
        };
        let settled = || wired.pair.client.stats().streams + wired.pair.server.stats().streams == 0;
        eventually("all conns have ended", 40, settled);
        // Nobody comes back for a last receipt then.
        thread::sleep(Duration::from_millis(2_500));
        wired.proxy.cut(Cut::Reset);
        thread::sleep(Duration::from_millis(500));
        let (before, memory) = (held(), resident());
        rounds(60);
        eventually("all conns have ended", 40, settled);
        // Nobody comes back for a last receipt then.
        thread::sleep(Duration::from_millis(2_500));
        wired.proxy.cut(Cut::Reset);
        eventually("threads and descriptors are back", 40, || {
            let now = held();
            now.0 <= before.0 && now.1 <= before.1
        });
        let grown = resident().saturating_sub(memory);
        assert!(grown < 32 << 20, "{grown} bytes stayed behind");
        for host in [&wired.pair.client, &wired.pair.server] {
            assert_eq!(host.stats().memory, 0, "{:?}", host.stats());
        }
    });
}

#[cfg(target_os = "linux")]
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("proc");
    pages.split(' ').nth(1).expect("resident").parse::<usize>().expect("a number") * 4096
}
