//! A direction whose reader has stopped is full, and nothing else is: what was received
//! is confirmed all the same, in both directions and across cuts.

mod common;

use common::traffic::{Gate, Progress, read_content, write_content};
use common::{Cut, Dice, Wired, eventually, payload, within};
use pointsub::Conn;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// Writes until nothing is taken any more. Returns what was.
fn fill(mut conn: &Conn) -> usize {
    let content = payload(9, 64 * MIB);
    conn.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut at = 0;
    while let Ok(n) = conn.write(&content[at..][..100_000]) {
        at += n;
    }
    conn.set_write_timeout(None).expect("set");
    at
}

fn drain(mut conn: &Conn, len: usize) {
    let mut arrived = vec![0; len];
    conn.read_exact(&mut arrived).expect("what was written");
    assert!(arrived == payload(9, 64 * MIB)[..len]);
}

/// Two conns, each shut in one direction, carry many times their windows in the other.
#[test]
fn two_conns_that_are_full_in_one_direction_run_in_the_other() {
    for cuts in [0, 10] {
        within(120, || {
            let wired = Wired::of(|host| host.replay_buffer(MIB));
            let conns = [wired.connect(), wired.connect()];
            let [(a, b), (d, c)] = &conns;
            // b to a and d to c are full; a to b and c to d run.
            let kept = [fill(b), fill(d)];
            let mut dice = Dice::new();
            let (len, progress, open) = (24 * MIB, Progress::default(), Gate::opened());
            thread::scope(|scope| {
                for (from, to) in [(a, b), (c, d)] {
                    let (dice, seed, progress) = (dice.split(), dice.roll(), &progress);
                    let open = &open;
                    scope.spawn(move || write_content(from, len, seed, dice, open));
                    scope.spawn(move || read_content(to, len, seed, progress));
                }
                for n in 1..=cuts {
                    progress.await_arrival(n * (len / 12) as u64);
                    wired.proxy.cut(Cut::Reset);
                    eventually("a resume", 20, || a.stats().resumes >= n);
                }
            });
            drain(a, kept[0]);
            drain(c, kept[1]);
        });
    }
}

/// Both directions of one conn are full; the other conns run.
#[test]
fn a_conn_that_is_full_both_ways_holds_up_no_other() {
    within(120, || {
        let wired = Wired::of(|host| host.replay_buffer(MIB));
        let (near, far) = wired.connect();
        let kept = [fill(&near), fill(&far)];
        let (other, end) = wired.connect();
        common::exchange(&other, &end, 16 * MIB, &mut Dice::new(), |progress| {
            for n in 1..=5 {
                progress.await_arrival(n * 2 * MIB as u64);
                wired.proxy.cut(Cut::Reset);
                eventually("a resume", 20, || other.stats().resumes >= n);
            }
        });
        drain(&far, kept[0]);
        drain(&near, kept[1]);
        common::exchange(&near, &far, 4 * MIB, &mut Dice::new(), |_| ());
    });
}
