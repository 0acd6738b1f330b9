//! Clones on several threads, nonblocking conns, short timeouts, peeks, vectored calls,
//! flushes and priorities, all while the connection is cut again and again.

mod common;

use common::traffic::{Gate, Progress, read_content, write_content};
use common::{Cut, Dice, PROTOCOL, Wired, eventually, payload, within};
use pointsub::{Conn, Listener, Priority};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const LEN: usize = 6 << 20;

/// Cuts the wire until what runs beside it is done.
fn under_cuts(wired: &Wired, work: impl FnOnce() + Send) {
    let mut dice = Dice::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            work();
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) && !working.is_finished() {
            // Time is what decides when it breaks.
            thread::sleep(Duration::from_millis(dice.around(100)));
            wired.proxy.cut(if dice.below(2) == 0 { Cut::Reset } else { Cut::Close });
        }
    });
}

/// A rate that gives the cuts something to cut.
fn wired() -> Wired {
    let wired = Wired::new();
    wired.proxy.rate(4_000_000);
    wired
}

fn is_late(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Moves `LEN` bytes from one end to the other by these calls, which may be late.
fn moves(
    from: &Conn,
    to: &Conn,
    write: impl Fn(&Conn, &[u8]) -> io::Result<usize> + Sync,
    read: impl Fn(&Conn, &mut [u8]) -> io::Result<usize> + Sync,
) {
    let content = payload(LEN as u64, LEN);
    let mut arrived = vec![0; LEN];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < LEN {
                match write(from, &content[at..LEN.min(at + 50_000)]) {
                    Ok(n) => at += n,
                    Err(e) if is_late(&e) => thread::yield_now(),
                    Err(e) => panic!("after {at} bytes written: {e}"),
                }
            }
        });
        let mut at = 0;
        while at < LEN {
            let end = LEN.min(at + 30_000);
            match read(to, &mut arrived[at..end]) {
                Ok(0) => panic!("the end after {at} bytes"),
                Ok(n) => at += n,
                Err(e) if is_late(&e) => thread::yield_now(),
                Err(e) => panic!("after {at} bytes read: {e}"),
            }
        }
    });
    assert!(arrived == content);
}

fn write(mut conn: &Conn, bytes: &[u8]) -> io::Result<usize> {
    conn.write(bytes)
}

fn read(mut conn: &Conn, bytes: &mut [u8]) -> io::Result<usize> {
    conn.read(bytes)
}

#[test]
fn timeouts_of_a_millisecond() {
    within(120, || {
        let wired = wired();
        let (near, far) = wired.connect();
        for conn in [&near, &far] {
            conn.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
            conn.set_write_timeout(Some(Duration::from_millis(1))).expect("set");
        }
        under_cuts(&wired, || {
            moves(&near, &far, write, read);
            moves(&far, &near, write, read);
        });
    });
}

/// Such as are read into the caller's memory without a stop on the way.
#[test]
fn reads_and_writes_of_a_mebibyte() {
    within(120, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        under_cuts(&wired, || {
            let content = payload(3, 96 << 20);
            thread::scope(|scope| {
                scope.spawn(|| (&near).write_all(&content).expect("write"));
                let mut arrived = vec![0; content.len()];
                for piece in arrived.chunks_mut(1 << 20) {
                    (&far).read_exact(piece).expect("read");
                }
                assert!(arrived == content);
            });
        });
        assert!(near.stats().resumes > 0, "{:?}", near.stats());
    });
}

#[test]
fn nonblocking_conns() {
    within(120, || {
        let wired = wired();
        let (near, far) = wired.connect();
        near.set_nonblocking(true).expect("set");
        far.set_nonblocking(true).expect("set");
        under_cuts(&wired, || {
            moves(&near, &far, write, read);
            moves(&far, &near, write, read);
        });
    });
}

#[test]
fn peeks_before_reads() {
    within(120, || {
        let wired = wired();
        let (near, far) = wired.connect();
        under_cuts(&wired, || {
            moves(&near, &far, write, |mut conn, bytes| {
                let mut seen = vec![0; bytes.len()];
                let peeked = conn.peek(&mut seen)?;
                let n = conn.read(bytes)?;
                let both = n.min(peeked);
                assert!(both > 0 && seen[..both] == bytes[..both], "{peeked} peeked, {n} read");
                Ok(n)
            });
        });
    });
}

#[test]
fn vectored_calls_with_flushes_and_changes_of_priority() {
    within(120, || {
        let wired = wired();
        let (near, far) = wired.connect();
        let count = AtomicUsize::new(0);
        under_cuts(&wired, || {
            let write = |mut conn: &Conn, bytes: &[u8]| {
                let (a, b) = bytes.split_at(bytes.len() / 3);
                let n = conn.write_vectored(&[IoSlice::new(a), IoSlice::new(&[]), IoSlice::new(b)]);
                conn.flush()?;
                let priorities = [Priority::Low, Priority::Normal, Priority::High];
                conn.set_priority(priorities[count.fetch_add(1, SeqCst) % 3]);
                n
            };
            moves(&near, &far, write, |mut conn, bytes| {
                let (a, b) = bytes.split_at_mut(bytes.len() / 2);
                conn.read_vectored(&mut [IoSliceMut::new(a), IoSliceMut::new(b)])
            });
        });
    });
}

/// Each byte tells who wrote it; several threads read, and together they read all.
#[test]
fn clones_on_several_threads() {
    within(120, || {
        let wired = wired();
        let (near, far) = wired.connect();
        let counts: Vec<_> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        under_cuts(&wired, || {
            thread::scope(|scope| {
                let writers: Vec<_> = (0..4_u8)
                    .map(|n| {
                        let mut near = near.try_clone().expect("clone");
                        scope.spawn(move || near.write_all(&vec![n; LEN / 4]).expect("write"))
                    })
                    .collect();
                for _ in 0..3 {
                    let mut far = far.try_clone().expect("clone");
                    let counts = &counts;
                    scope.spawn(move || {
                        let mut buf = vec![0; 10_000];
                        loop {
                            match far.read(&mut buf).expect("read") {
                                0 => break,
                                n => buf[..n].iter().for_each(|&who| {
                                    counts[usize::from(who)].fetch_add(1, SeqCst);
                                }),
                            }
                        }
                    });
                }
                writers.into_iter().for_each(|writer| writer.join().expect("written"));
                near.shutdown(Shutdown::Write).expect("the end");
            });
        });
        assert!(counts.iter().all(|count| count.load(SeqCst) == LEN / 4), "{counts:?}");
    });
}

/// Conns are opened, used and closed while the connection is cut; each that was opened
/// is accepted once.
#[test]
fn connects_and_closes_while_the_connection_is_cut() {
    within(180, || {
        let mut dice = Dice::new();
        let wired = Wired::new();
        wired.proxy.cut_every_bytes(6_000, Cut::Reset, dice.split());
        let (mut opened, mut failed) = (0, 0);
        let accepted = AtomicUsize::new(0);
        thread::scope(|scope| {
            let serving = wired.pair.listener.try_clone().expect("clone");
            let accepted = &accepted;
            scope.spawn(move || {
                let _ = serving.serve(64, |mut conn, _| {
                    accepted.fetch_add(1, SeqCst);
                    let _ = io::copy(&mut &conn, &mut &conn);
                    let _ = conn.flush();
                });
            });
            for n in 0..60 {
                let near = Conn::connect(&wired.pair.client, wired.address(), PROTOCOL);
                let Ok(mut near) = near else {
                    failed += 1;
                    continue;
                };
                opened += 1;
                let sent = payload(n, dice.below(4_000) as usize);
                near.write_all(&sent).expect("write");
                near.shutdown(Shutdown::Write).expect("shutdown");
                assert!(common::read_all(&mut near).expect("to the end") == sent, "conn {n}");
            }
            wired.pair.listener.close();
        });
        let accepted = accepted.load(SeqCst);
        eprintln!("{opened} opened, {failed} failed, {accepted} accepted");
        assert!(opened >= 30, "{opened} opened, {failed} failed");
        assert!(accepted >= opened && accepted <= opened + failed, "{accepted} accepted");
    });
}

/// The loss comes before anybody has accepted.
#[test]
fn a_conn_that_waits_to_be_accepted_survives_too() {
    within(60, || {
        let wired = Wired::new();
        let near = Conn::connect(&wired.pair.client, wired.address(), PROTOCOL).expect("connect");
        (&near).write_all(b"early").expect("write");
        for round in 1..=3 {
            wired.proxy.cut(Cut::Reset);
            eventually("a resume", 20, || near.stats().resumes == round);
        }
        let (mut far, _) = wired.pair.listener.accept().expect("accept");
        let mut arrived = [0; 5];
        far.read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"early");
        common::exchange(&near, &far, 1 << 20, &mut Dice::new(), |_| ());
        wired.pair.listener.set_nonblocking(true).expect("set");
        let more = wired.pair.listener.accept().expect_err("it is one conn");
        assert_eq!(more.kind(), ErrorKind::WouldBlock);
    });
}

/// Its listener is closed in the outage: accepted conns live on, the other ends.
#[test]
fn a_listener_that_closed_takes_along_what_was_not_accepted_only() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        let waiting =
            Conn::connect(&wired.pair.client, wired.address(), PROTOCOL).expect("connect");
        wired.proxy.stall(common::Ways::Both);
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || wired.pair.server.stats().conns_waiting == 2);
        wired.pair.listener.close();
        wired.proxy.flow();
        let error = (&waiting).read(&mut [0]).expect_err("nobody will accept it");
        assert!(common::LOST.contains(&error.kind()), "{error}");
        common::exchange(&near, &far, 1 << 20, &mut Dice::new(), |_| ());
    });
}

/// Both hosts dial each other, and both redial.
#[test]
fn two_hosts_that_both_dialled_resume_everything() {
    within(120, || {
        let hosts = [common::listening(), common::listening()];
        let proxies: Vec<_> = hosts.iter().map(common::Proxy::to).collect();
        let listeners: Vec<_> =
            hosts.iter().map(|host| Listener::bind(host, PROTOCOL).expect("bind")).collect();
        let barrier = std::sync::Barrier::new(2);
        let conns: Vec<Conn> = thread::scope(|scope| {
            let dial = |from: usize| {
                let (hosts, proxies, barrier) = (&hosts, &proxies, &barrier);
                scope.spawn(move || {
                    let at = proxies[1 - from].address(&hosts[1 - from]);
                    barrier.wait();
                    Conn::connect(&hosts[from], at, PROTOCOL).expect("connect")
                })
            };
            [dial(0), dial(1)].map(|dial| dial.join().expect("no panic")).into()
        });
        let ends: Vec<_> =
            listeners.iter().map(|listener| listener.accept().expect("accept").0).collect();
        let mut dice = Dice::new();
        thread::scope(|scope| {
            let (conns, ends, proxies) = (&conns, &ends, &proxies);
            let mut seeds = dice.clone();
            for (near, far) in [(&conns[0], &ends[1]), (&conns[1], &ends[0])] {
                let mut dice = seeds.split();
                scope.spawn(move || {
                    common::exchange(near, far, LEN, &mut dice, |progress| {
                        for n in 1..=8 {
                            progress.await_arrival(n * LEN as u64 / 5);
                            for proxy in proxies {
                                proxy.cut(Cut::Reset);
                            }
                        }
                    });
                });
            }
            dice.roll();
        });
        assert!(conns.iter().all(|conn| conn.stats().losses > 0));
    });
}

/// Nobody reads, writes or waits when it happens, for longer than an idle connection
/// is kept.
#[test]
fn an_idle_conn_comes_back_by_itself() {
    within(60, || {
        let wired = Wired::of(|host| host.idle_timeout(Duration::from_millis(50)));
        let (near, far) = wired.connect();
        for round in 1..=3 {
            wired.proxy.cut(Cut::Reset);
            eventually("a resume", 20, || near.stats().resumes == round);
            thread::sleep(Duration::from_millis(200));
        }
        let mut dice = Dice::new();
        let (progress, open) = (Progress::default(), Gate::opened());
        thread::scope(|scope| {
            let split = dice.split();
            scope.spawn(|| write_content(&far, 100_000, 5, split, &open));
            read_content(&near, 100_000, 5, &progress);
        });
        assert_eq!(near.stats().losses, 3);
    });
}

/// A connect that nobody answers in time leaves nothing behind that anybody accepts for
/// good.
#[test]
fn a_connect_that_gave_up_leaves_no_live_conn_behind() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        wired.proxy.stall(common::Ways::Both);
        let time = Duration::from_millis(200);
        let late = Conn::connect_timeout(&wired.pair.client, wired.address(), PROTOCOL, time);
        assert_eq!(late.expect_err("nobody answers").kind(), ErrorKind::TimedOut);
        wired.proxy.flow();
        wired.pair.listener.set_nonblocking(true).expect("set");
        // It may be accepted, and has ended then.
        common::exchange(&near, &far, 100_000, &mut Dice::new(), |_| ());
        if let Ok((ghost, _)) = wired.pair.listener.accept() {
            ghost.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
            let ended = (&ghost).read(&mut [0]);
            assert!(!ended.is_err_and(|e| is_late(&e)), "it lives");
        }
        assert_eq!(near.stats().losses, 0);
    });
}

/// `shutdown(Read)` holds on every later connection.
#[test]
fn a_conn_that_is_deaf_stays_deaf() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        near.shutdown(Shutdown::Read).expect("shutdown");
        far.shutdown(Shutdown::Read).expect("shutdown");
        for round in 1..=4 {
            for conn in [&near, &far] {
                (&*conn).write_all(&payload(1, 3 << 20)).expect("nobody blocks it");
                assert_eq!((&*conn).read(&mut [0]).expect("deaf"), 0);
            }
            wired.proxy.cut(Cut::Reset);
            eventually("a resume", 20, || near.stats().resumes == round);
        }
    });
}
