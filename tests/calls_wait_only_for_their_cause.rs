//! Timeouts, non-blocking calls, and several threads on one conn.

mod common;

use common::{LATE, Pair, Ways, Wired, assert_carries, assert_kind, payload, within};
use pointsub::{Conn, HostBuilder};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_read_times_out_and_the_conn_stays_usable() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        near.set_read_timeout(Some(SHORT)).expect("set");
        let start = Instant::now();
        assert_kind(near.read(&mut [0; 16]), LATE);
        assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
        near.set_read_timeout(None).expect("set");
        assert_carries(&mut far, &mut near, &payload(1, 100_000));
        assert_carries(&mut near, &mut far, &payload(2, 100_000));
    });
}

#[test]
fn a_write_times_out_and_no_byte_is_lost_or_doubled() {
    within(60, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        near.set_write_timeout(Some(SHORT)).expect("set");
        let sent = payload(3, 32 << 20);
        let mut taken = 0;
        let error = loop {
            match near.write(&sent[taken..]) {
                Ok(n) => taken += n,
                Err(error) => break error,
            }
        };
        assert_kind::<()>(Err(error), LATE);
        assert!(taken < sent.len(), "nobody reads: the window must shut");
        near.set_write_timeout(None).expect("set");
        thread::scope(|scope| {
            scope.spawn(|| {
                near.write_all(&sent[taken..]).expect("write");
                near.shutdown(Shutdown::Write).expect("shutdown");
            });
            let mut arrived = Vec::new();
            far.read_to_end(&mut arrived).expect("read");
            assert!(arrived == sent, "{} of {} bytes", arrived.len(), sent.len());
        });
    });
}

#[test]
fn a_zero_length_read_or_write_returns_at_once() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, far) = pair.connect();
        assert_eq!(near.read(&mut []).expect("read"), 0);
        assert_eq!(near.write(&[]).expect("write"), 0);
        // It was no end of the stream, at either side.
        let (mut near, mut far) = (near, far);
        assert_carries(&mut near, &mut far, b"still open");
        assert_carries(&mut far, &mut near, b"both ways");
    });
}

#[test]
fn a_read_and_a_write_of_one_conn_never_wait_for_each_other() {
    within(60, || {
        let pair = Pair::new();
        let (near, mut far) = pair.connect();
        let sent = payload(4, 24 << 20);
        thread::scope(|scope| {
            // Blocked for as long as the peer writes nothing.
            let reader = scope.spawn(|| {
                let mut byte = [0];
                (&near).read_exact(&mut byte).expect("read");
                byte[0]
            });
            scope.spawn(|| (&near).write_all(&sent).expect("write"));
            let mut arrived = vec![0; sent.len()];
            far.read_exact(&mut arrived).expect("all of it, though the reader waits");
            assert!(arrived == sent);
            assert!(!reader.is_finished());
            far.write_all(&[42]).expect("write");
            assert_eq!(reader.join().expect("no panic"), 42);
        });
        // And the other way round: a writer without credit does not stop reads.
        let (near, mut far) = pair.connect();
        near.set_write_timeout(Some(SHORT)).expect("set");
        assert_kind(fill(&near), LATE);
        near.set_write_timeout(None).expect("set");
        let mut drain = far.try_clone().expect("clone");
        thread::scope(|scope| {
            let writer = scope.spawn(|| (&near).write_all(&[1]));
            scope.spawn(|| far.write_all(&sent).expect("write"));
            let mut arrived = vec![0; sent.len()];
            (&near).read_exact(&mut arrived).expect("read beside the writer");
            assert!(arrived == sent);
            scope.spawn(move || io::copy(&mut drain, &mut io::sink()));
            writer.join().expect("no panic").expect("write");
            near.shutdown(Shutdown::Write).expect("shutdown");
        });
    });
}

#[test]
fn several_threads_share_one_conn_and_every_byte_arrives_once() {
    const THREADS: u8 = 4;
    const EACH: usize = 1 << 20;
    within(60, || {
        let pair = Pair::new();
        let (near, far) = pair.connect();
        let counts: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut buf = vec![0; 10_000];
                    while let Ok(n @ 1..) = (&far).read(&mut buf) {
                        for byte in &buf[..n] {
                            counts[usize::from(*byte)].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let writers: Vec<_> = (0..THREADS)
                .map(|value| {
                    let near = &near;
                    scope.spawn(move || {
                        for chunk in vec![value; EACH].chunks(7_001) {
                            let mut near = near;
                            near.write_all(chunk).expect("write");
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("no panic");
            }
            near.shutdown(Shutdown::Write).expect("shutdown");
        });
        for (value, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed), EACH as u64, "bytes of thread {value}");
        }
    });
}

#[test]
fn a_non_blocking_conn_says_would_block_and_nothing_else() {
    within(30, || {
        let pair = Pair::new();
        let (near, mut far) = pair.connect();
        near.set_nonblocking(true).expect("set");
        let error = assert_kind((&near).read(&mut [0; 16]), &[ErrorKind::WouldBlock]);
        assert!(error.get_ref().is_none(), "a bare WouldBlock: {error:?}");
        assert_kind(near.peek(&mut [0; 16]), &[ErrorKind::WouldBlock]);
        assert_kind(fill(&near), &[ErrorKind::WouldBlock]);
        near.set_nonblocking(false).expect("set");
        far.write_all(b"now it waits").expect("write");
        let mut arrived = [0; 12];
        (&near).read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"now it waits");
    });
}

#[test]
fn who_only_writes_a_little_learns_that_nobody_is_there() {
    within(30, || {
        let (life, answer) = (Duration::from_millis(300), Duration::from_millis(500));
        let options =
            |host: HostBuilder| host.resumable(false).keepalive(life).keepalive_timeout(answer);
        let wired = Wired::of(options);
        let (mut near, _far) = wired.pair.connect_at(&wired.address());
        wired.proxy.stall(Ways::Both);
        let start = Instant::now();
        let error = loop {
            match near.write(&[7; 8]) {
                // Its pace is what is tested.
                Ok(_) => thread::sleep(Duration::from_millis(20)),
                Err(error) => break error,
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the kernel takes it, and no more");
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    });
}

#[test]
fn a_timeout_that_does_not_run_out_changes_nothing() {
    within(30, || {
        let pair = Pair::new();
        let (mut near, mut far) = pair.connect();
        for conn in [&near, &far] {
            conn.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            conn.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
        }
        for seed in 0..50 {
            assert_carries(&mut near, &mut far, &payload(seed, 5_000));
            assert_carries(&mut far, &mut near, &payload(seed, 5_000));
        }
    });
}

/// Writes until the conn takes no more.
fn fill(conn: &Conn) -> io::Result<()> {
    let chunk = payload(9, 64 * 1024);
    let mut conn = conn;
    while conn.write(&chunk)? > 0 {}
    Ok(())
}
