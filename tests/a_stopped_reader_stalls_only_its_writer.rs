//! Flow control: who does not read holds up who writes to it, and nobody else
//! on the same connection.

mod common;

use common::{LATE, Pair, assert_carries, payload, within};
use pointsub::Conn;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const LOAD: usize = 64 << 20;

#[test]
fn a_slow_or_stopped_reader_on_one_conn_blocks_its_writer_and_no_other() {
    within(120, || {
        let pair = Pair::new();
        let (mut stalled, _unread) = pair.connect();
        let (mut near, mut far) = pair.connect();
        let sent = fill(&mut stalled);
        assert!(sent < LOAD, "flow control must stop a writer that nobody reads");
        // The stalled conn is stalled: the other one carries in both directions.
        for seed in 0..20 {
            assert_carries(&mut near, &mut far, &payload(seed, 1 << 20));
            assert_carries(&mut far, &mut near, &payload(seed, 1 << 20));
        }
        let (mut late, mut later) = pair.connect();
        assert_carries(&mut late, &mut later, b"a conn opened meanwhile");
    });
}

#[test]
fn both_sides_writing_64_mib_before_either_reads_does_not_lock_up_a_third_conn() {
    within(180, || {
        let pair = Pair::new();
        let (first, first_far) = pair.connect();
        let (second, second_far) = pair.connect();
        let (mut near, mut far) = pair.connect();
        let (stalled, stalls) = mpsc::channel();
        thread::scope(|scope| {
            let ends = [&first, &first_far, &second, &second_far];
            for (seed, conn) in ends.into_iter().enumerate() {
                let stalled = stalled.clone();
                scope.spawn(move || write_through(conn, seed as u64, &stalled));
            }
            for _ in ends {
                stalls.recv().expect("each of them stalls, since nobody reads");
            }
            for seed in 0..20 {
                assert_carries(&mut near, &mut far, &payload(seed, 100_000));
                assert_carries(&mut far, &mut near, &payload(seed, 100_000));
            }
            // What each end reads is what the other end of the same conn wrote.
            for (conn, seed) in [(&first_far, 0), (&first, 1), (&second_far, 2), (&second, 3)] {
                scope.spawn(move || {
                    let mut arrived = vec![0; LOAD];
                    { conn }.read_exact(&mut arrived).expect("read");
                    assert!(arrived == payload(seed, LOAD), "writer {seed}'s bytes");
                });
            }
        });
    });
}

/// Writes the whole load; says once when it has to wait.
fn write_through(conn: &Conn, seed: u64, stalled: &mpsc::Sender<()>) {
    let sent = payload(seed, LOAD);
    let mut taken = 0;
    let mut conn = conn;
    conn.set_write_timeout(Some(STANDSTILL)).expect("set");
    while taken < LOAD {
        match conn.write(&sent[taken..]) {
            Ok(n) => taken += n,
            Err(error) => {
                assert!(LATE.contains(&error.kind()), "{error:?}");
                conn.set_write_timeout(None).expect("set");
                stalled.send(()).expect("the test listens");
            }
        }
    }
}

/// Writes until the conn takes no more; how much it took.
fn fill(conn: &mut Conn) -> usize {
    conn.set_write_timeout(Some(STANDSTILL)).expect("set");
    let chunk = payload(1, 64 * 1024);
    let mut taken = 0;
    loop {
        match conn.write(&chunk) {
            Ok(n) => taken += n,
            Err(error) => {
                assert!(LATE.contains(&error.kind()), "{error:?}");
                return taken;
            }
        }
        if taken >= LOAD {
            return taken;
        }
    }
}

/// A writer that got nothing through for so long stands still.
const STANDSTILL: Duration = Duration::from_millis(300);
