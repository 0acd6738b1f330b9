//! Chaos: a wire that does everything a wire can do to a connection, at random times,
//! while conns are opened, used in every way and closed. All of them succeed.
//!
//! `POINTSUB_CHAOS_SECONDS=600` runs it for longer.

mod common;

use common::traffic::{Gate, Progress, read_content, write_content};
use common::{Cut, Dice, PROTOCOL, Ways, Wired, within};
use pointsub::{Conn, Event, Events, Listener};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 6;

#[test]
fn chaos() {
    let seconds = std::env::var("POINTSUB_CHAOS_SECONDS");
    let seconds = seconds.map_or(15, |n| n.parse().expect("a number"));
    within(seconds + 120, || {
        let mut dice = Dice::new();
        let wired = Wired::of(|host| {
            host.keepalive(Duration::from_millis(100))
                .keepalive_timeout(Duration::from_millis(400))
                .dial_timeout(Duration::from_secs(2))
                .handshake_timeout(Duration::from_secs(2))
                .replay_buffer(1 << 20)
                // Dropped conns are redialled for as long as held ones: here both may need it.
                .linger(Duration::from_secs(30))
        });
        let events = wired.pair.client.subscribe();
        let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let jobs: Vec<_> = (0..WORKERS)
                .map(|_| {
                    let (wired, over, done, dice) = (&wired, &over, &done, dice.split());
                    scope.spawn(move || work(wired, over, done, dice))
                })
                .collect();
            let end = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < end && jobs.iter().all(|job| !job.is_finished()) {
                disturb(&wired, &mut dice);
                say_what_was_given_up(&events);
            }
            wired.proxy.flow();
            wired.proxy.cut(Cut::Reset);
            over.store(true, SeqCst);
        });
        let stats = wired.pair.client.stats();
        eprintln!("{} exchanges, {} losses", done.load(SeqCst), stats.conns_lost);
        assert!(done.load(SeqCst) >= WORKERS && stats.conns_lost > 10);
        say_what_was_given_up(&events);
        assert_eq!(stats.conns_given_up, 0);
    });
}

fn say_what_was_given_up(events: &Events) {
    std::iter::from_fn(|| events.try_next())
        .filter(|event| matches!(event, Event::ConnGivenUp { .. }))
        .for_each(|event| eprintln!("{event:?}"));
}

/// One thing that happens to the wire, and the time after it.
fn disturb(wired: &Wired, dice: &mut Dice) {
    let proxy = &wired.proxy;
    let ways = [Ways::Both, Ways::Out, Ways::Back][dice.below(3) as usize];
    let a_moment = Duration::from_millis(dice.around(150));
    match dice.below(10) {
        0 | 1 => drop(proxy.cut(Cut::Reset)),
        2 => drop(proxy.cut(Cut::Close)),
        3 => proxy.damage(ways),
        4 => {
            proxy.stall(ways);
            thread::sleep(Duration::from_millis(dice.around(400)));
            proxy.flow();
        }
        5 => {
            proxy.black_hole(ways);
            thread::sleep(a_moment);
            proxy.flow();
        }
        6 => {
            proxy.refuse();
            proxy.cut(Cut::Reset);
            thread::sleep(Duration::from_millis(dice.around(400)));
            proxy.listen_again();
        }
        7 => proxy.delay(Duration::from_millis(dice.below(20))),
        8 => proxy.rate([500_000, 5_000_000, 1 << 40][dice.below(3) as usize]),
        _ => proxy.pieces([7, 1_000, usize::MAX][dice.below(3) as usize]),
    }
    thread::sleep(a_moment);
}

/// Opens conns one after the other, and moves content over each.
fn work(wired: &Wired, over: &AtomicBool, done: &AtomicUsize, mut dice: Dice) {
    let open = Gate::opened();
    while !over.load(SeqCst) {
        let protocol = format!("{PROTOCOL}/{:x}", dice.roll());
        let listener = Listener::bind(&wired.pair.server, &protocol).expect("bind");
        // A connect may fail in such times, and leave a conn behind that nobody has.
        let Ok(near) = Conn::connect(&wired.pair.client, wired.address(), &protocol) else {
            continue;
        };
        let (far, _) = listener.accept().expect("accept");
        let (near, far) = if dice.below(2) == 0 { (near, far) } else { (far, near) };
        let mut len = || dice.below(1 << (4 + dice.clone().below(17))) as usize;
        let lens = [len(), len()];
        let (seed, drops) = (dice.roll(), dice.below(2) == 0);
        thread::scope(|scope| {
            let (near, far, open) = (&near, &far, &open);
            let [a, b] = [dice.split(), dice.split()];
            scope.spawn(move || write_content(near, lens[0], seed, a, open));
            if drops {
                // One way after the other, and the second only when the first has ended.
                read_content(far, lens[0], seed, &Progress::default());
                scope.spawn(move || write_content(far, lens[1], !seed, b, open));
            } else {
                scope.spawn(move || write_content(far, lens[1], !seed, b, open));
                read_content(far, lens[0], seed, &Progress::default());
            }
            read_content(near, lens[1], !seed, &Progress::default());
        });
        if dice.below(2) == 0 {
            near.shutdown(Shutdown::Both).expect("shutdown");
        }
        done.fetch_add(1, SeqCst);
    }
}
