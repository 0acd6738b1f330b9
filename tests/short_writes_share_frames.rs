//! Short writes that follow each other closely go out together, and none of them waits.

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::{Pair, payload, within};
use pointsub::Conn;

const WRITES: usize = 20_000;
const LEN: usize = 16;

#[test]
fn short_writes_in_a_row_share_frames_unless_nodelay_is_on() {
    within(120, || {
        for pair in [Pair::new(), Pair::plain()] {
            let (near, far) = pair.connect();
            // A machine that is busy breaks the row now and then.
            let shared = (0..20).map(|_| frames(&near, &far)).find(|&n| n < WRITES as u64 / 4);
            assert!(shared.is_some(), "never");
            near.set_nodelay(true).expect("set");
            assert_eq!(frames(&near, &far), WRITES as u64);
        }
    });
}

/// How many frames that many writes come in.
fn frames(mut near: &Conn, mut far: &Conn) -> u64 {
    let before = far.stats().frames_received;
    let sent = payload(1, WRITES * LEN);
    thread::scope(|scope| {
        scope.spawn(|| sent.chunks(LEN).for_each(|piece| near.write_all(piece).expect("write")));
        let mut got = vec![0; sent.len()];
        far.read_exact(&mut got).expect("read");
        assert!(got == sent);
    });
    far.stats().frames_received - before
}

#[test]
fn the_last_of_a_row_arrives_whatever_its_writer_does_next() {
    within(120, || {
        for pair in [Pair::new(), Pair::plain()] {
            type Then = fn(&Conn);
            let reads: Then = |mut conn| conn.read_exact(&mut [0]).expect("read");
            let flushes: Then = |mut conn| conn.flush().expect("flush");
            for then in [reads, flushes, |_| thread::sleep(Duration::from_secs(1)), |_| ()] {
                let (near, far) = pair.connect();
                let echo = thread::spawn(move || {
                    (&far).read_exact(&mut [0; 1000 * LEN]).expect("read");
                    let came = Instant::now();
                    (&far).write_all(b"x").expect("write");
                    came
                });
                payload(2, 1000 * LEN).chunks(LEN).for_each(|piece| {
                    (&near).write_all(piece).expect("write");
                });
                let written = Instant::now();
                then(&near);
                // Nobody reads or writes: only the event loop can have sent it.
                let came = echo.join().expect("no panic");
                let took = came.saturating_duration_since(written);
                assert!(took < Duration::from_millis(500), "{took:?}");
            }
        }
    });
}

#[test]
fn what_was_written_in_a_row_precedes_the_end_and_what_others_write() {
    within(60, || {
        let pair = Pair::new();
        for seed in 0..50 {
            let (mut near, mut far) = pair.connect();
            let sent = payload(seed, 100_000);
            let (short, long) = sent.split_at(50_000);
            short.chunks(100).for_each(|piece| near.write_all(piece).expect("write"));
            near.write_all(long).expect("write");
            short.chunks(100).for_each(|piece| near.write_all(piece).expect("write"));
            drop(near);
            let mut got = Vec::new();
            far.read_to_end(&mut got).expect("read");
            assert!(got == [&sent, short].concat(), "seed {seed}");
        }
    });
}
