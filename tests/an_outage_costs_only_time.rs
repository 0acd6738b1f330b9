//! While a conn is without a connection its calls behave as on one that is slow:
//! timeouts fire and lose nothing, what has arrived can be read, what is written waits.

mod common;

use common::{Cut, Dice, LATE, Ways, Wired, assert_kind, eventually, exchange, payload, within};
use pointsub::{Conn, Event};
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

/// A conn whose wire is broken and stays so until `flow`.
struct Outage {
    wired: Wired,
    near: Conn,
    far: Conn,
}

impl Outage {
    /// With so many bytes at most kept for the peer.
    fn begin(before: impl FnOnce(&Conn, &Conn)) -> Outage {
        let wired = Wired::of(|host| host.replay_buffer(256 << 10));
        let (near, far) = wired.connect();
        before(&near, &far);
        // Dials get nowhere, and are not refused either.
        wired.proxy.stall(Ways::Both);
        wired.proxy.cut(Cut::Reset);
        for conn in [&near, &far] {
            eventually("the loss is noticed", 5, || conn.stats().losses == 1);
        }
        Outage { wired, near, far }
    }

    fn end(&self) {
        self.wired.proxy.flow();
    }
}

#[test]
fn read_timeouts_fire_and_the_conn_resumes() {
    within(60, || {
        let outage = Outage::begin(|_, _| ());
        for mut conn in [&outage.near, &outage.far] {
            conn.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            let start = Instant::now();
            assert_kind(conn.read(&mut [0]), LATE);
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(1));
            assert_kind(conn.peek(&mut [0]), LATE);
            conn.set_read_timeout(None).expect("set");
        }
        outage.end();
        exchange(&outage.near, &outage.far, 3 << 20, &mut Dice::new(), |_| ());
    });
}

#[test]
fn write_timeouts_fire_and_no_byte_is_lost() {
    within(60, || {
        let outage = Outage::begin(|_, _| ());
        let mut taken = Vec::new();
        for mut conn in [&outage.near, &outage.far] {
            conn.set_write_timeout(Some(Duration::from_millis(100))).expect("set");
            let (content, mut at) = (payload(1, 4 << 20), 0);
            let late = loop {
                match conn.write(&content[at..][..10_000]) {
                    Ok(n) => at += n,
                    Err(e) => break e,
                }
            };
            assert_kind::<()>(Err(late), LATE);
            assert!(at <= 256 << 10, "{at} bytes are kept");
            assert!(at >= 128 << 10, "only {at} bytes are kept");
            taken.push(at);
        }
        outage.end();
        for (n, mut conn) in [(0, &outage.far), (1, &outage.near)] {
            let mut arrived = vec![0; taken[n]];
            conn.read_exact(&mut arrived).expect("all that was taken");
            assert!(arrived == payload(1, 4 << 20)[..taken[n]]);
        }
        exchange(&outage.near, &outage.far, 3 << 20, &mut Dice::new(), |_| ());
    });
}

#[test]
fn nonblocking_calls_would_block_and_go_on_afterwards() {
    within(60, || {
        let outage = Outage::begin(|_, _| ());
        let mut near = &outage.near;
        near.set_nonblocking(true).expect("set");
        let block = assert_kind(near.read(&mut [0]), &[ErrorKind::WouldBlock]);
        assert_eq!(block.kind(), ErrorKind::WouldBlock);
        let mut sent = 0;
        let content = payload(3, 4 << 20);
        let mut resumed = false;
        while sent < content.len() {
            match near.write(&content[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if !resumed {
                        outage.end();
                        resumed = true;
                        let mut far = outage.far.try_clone().expect("clone");
                        let expected = content.clone();
                        thread::spawn(move || {
                            let mut arrived = vec![0; expected.len()];
                            far.read_exact(&mut arrived).expect("read");
                            far.write_all(&[u8::from(arrived == expected)]).expect("write");
                        });
                    }
                    // Nonblocking conns are polled.
                    thread::sleep(Duration::from_millis(1));
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(resumed, "the outage was felt");
        near.set_nonblocking(false).expect("set");
        let mut intact = [0];
        near.read_exact(&mut intact).expect("read");
        assert_eq!(intact, [1]);
    });
}

#[test]
fn what_had_arrived_is_read_and_peeked_meanwhile() {
    within(60, || {
        let sent = payload(4, 100_000);
        let outage = Outage::begin(|near, far| {
            for (mut from, to) in [(near, far), (far, near)] {
                from.write_all(&sent).expect("write");
                eventually("it has arrived", 5, || to.stats().unread == sent.len());
            }
        });
        for mut conn in [&outage.near, &outage.far] {
            let mut arrived = vec![0; sent.len()];
            assert!(conn.peek(&mut arrived[..10]).expect("peek") > 0);
            assert!(arrived[..10].iter().zip(&sent).all(|(a, b)| a == b));
            conn.read_exact(&mut arrived).expect("read");
            assert!(arrived == sent);
        }
        outage.end();
        exchange(&outage.near, &outage.far, 1 << 20, &mut Dice::new(), |_| ());
    });
}

#[test]
fn calls_of_nothing_return_at_once() {
    within(60, || {
        let outage = Outage::begin(|_, _| ());
        for mut conn in [&outage.near, &outage.far] {
            assert_eq!(conn.read(&mut []).expect("nothing to read"), 0);
            assert_eq!(conn.write(&[]).expect("nothing to write"), 0);
            conn.set_write_timeout(Some(Duration::from_millis(100))).expect("set");
            let start = Instant::now();
            // It may wait for a connection, but not for longer than a write.
            let _ = conn.flush();
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            assert!(conn.take_error().expect("no error of its own").is_none());
            assert!(conn.peer_addr().is_ok() && conn.local_addr().is_ok());
        }
        outage.end();
        exchange(&outage.near, &outage.far, 1 << 20, &mut Dice::new(), |_| ());
        outage.near.set_write_timeout(None).expect("set");
        (&outage.near).flush().expect("a whole conn");
    });
}

/// Blocked threads on several clones all go on.
#[test]
fn calls_that_were_blocked_before_go_on() {
    within(60, || {
        let wired = Wired::of(|host| host.replay_buffer(256 << 10));
        let (near, far) = wired.connect();
        let content = payload(5, 6 << 20);
        thread::scope(|scope| {
            let reader = near.try_clone().expect("clone");
            let writer = near.try_clone().expect("clone");
            let blocked = scope.spawn(move || {
                let mut answer = [0; 2];
                (&reader).read_exact(&mut answer).expect("read");
                answer
            });
            let sent = &content;
            scope.spawn(move || (&writer).write_all(sent).expect("write"));
            for round in 1..=5 {
                eventually("the writer waits for the reader", 10, || far.stats().unread > 0);
                wired.proxy.cut(Cut::Reset);
                eventually("a resume", 20, || near.stats().resumes >= round);
                assert!(!blocked.is_finished());
                let mut some = vec![0; 1 << 20];
                let at = (round as usize - 1) << 20;
                (&far).read_exact(&mut some).expect("read");
                assert!(some[..] == content[at..][..1 << 20]);
            }
            let mut rest = vec![0; 1 << 20];
            (&far).read_exact(&mut rest).expect("read");
            assert!(rest[..] == content[5 << 20..]);
            (&far).write_all(b"ok").expect("write");
            assert_eq!(blocked.join().expect("no panic"), *b"ok");
        });
    });
}

#[test]
fn events_and_figures_tell_of_it() {
    within(60, || {
        let wired = Wired::new();
        let (near, far) = wired.connect();
        let mut events = wired.pair.client.subscribe();
        let mut theirs = wired.pair.server.subscribe();
        // Dials get nowhere, and are not refused either.
        wired.proxy.stall(Ways::Both);
        wired.proxy.cut(Cut::Reset);
        let is_ours = |event: &Event| {
            matches!(event, Event::ConnLost { peer, protocol, .. }
                if *peer == near.peer_id() && &**protocol == near.protocol())
        };
        assert!(events.any(|event| is_ours(&event)));
        assert!(theirs.any(|event| matches!(event, Event::ConnLost { .. })));
        eventually("it is counted", 5, || wired.pair.client.stats().conns_waiting == 1);
        (&near).write_all(&payload(1, 1_000)).expect("kept for later");
        wired.proxy.flow();
        let resumed = events.find_map(|event| match event {
            Event::ConnResumed { outage, replayed, .. } => Some((outage, replayed)),
            _ => None,
        });
        let (outage, replayed) = resumed.expect("it is told");
        assert!(outage > Duration::ZERO && replayed <= 1_000, "{outage:?} {replayed}");
        (&far).read_exact(&mut [0; 1_000]).expect("read");
        for (conn, host) in [(&near, &wired.pair.client), (&far, &wired.pair.server)] {
            let (stats, host) = (conn.stats(), host.stats());
            assert_eq!((stats.losses, stats.resumes), (1, 1));
            assert_eq!((host.conns_lost, host.conns_resumed, host.conns_given_up), (1, 1, 0));
            assert_eq!(host.conns_waiting, 0);
            assert!(stats.longest_outage > Duration::ZERO);
        }
        assert_eq!(near.stats().bytes_sent, 1_000);
        assert_eq!(far.stats().bytes_received, 1_000);
    });
}
