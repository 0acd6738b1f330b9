//! A host with 64 MiB goes through all levels of pressure, up and down again, and does
//! at each what is to be done there. Levels change late on the way down.
//!
//! Whether a reader stands still, and so may be reset, is up to the test: one byte now
//! and then is enough to be no offender.

mod attacker;
mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use attacker::{Raw, SYN, connect, header, is_closed, raw};
use common::{
    PROTOCOL, Pair, address, assert_carries, assert_kind, builder, dialling, eventually, levels,
};
use common::{payload, socket_address, within};
use pointsub::message::StallLimit;
use pointsub::{Conn, Error, ErrorCode, Host, Limit, MessageTransporter, Pressure, Priority};

const BUDGET: usize = 64 << 20;
/// A little less than a window: the negotiation took some of it.
const UNREAD: usize = 255 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn every_level_does_its_part_and_is_left_again() {
    within(300, || {
        let server = builder().memory(BUDGET).memory_per_connection(BUDGET);
        let server = server.max_waiting(1).idle_timeout(Duration::ZERO).build().expect("a host");
        let pair = Pair::of(server, dialling());
        let events = pair.server.subscribe();
        let mut load = Load::new(&pair);
        // What is looked at on the way: a busy conn, one of low priority, idle ones.
        let mut busy = pair.connect();
        busy.1.set_priority(Priority::High);
        let low = pair.connect();
        low.1.set_priority(Priority::Low);
        let idle = raw(&pair.server);

        low_is_as_usual(&pair, &mut busy);

        medium_shrinks_and_trims(&pair, &mut load);

        high_stops_growth_and_refuses_large_transfers(&pair, &mut load, &mut busy, &idle);

        emergency_refuses_newcomers_and_pauses_low_priority(&pair, &mut load, &mut busy, &low);

        who_stands_still_is_reset(&pair, &mut load, &mut busy);

        all_levels_are_left_late(&pair, &mut load);
        drop(load);
        await_level(&pair.server, Pressure::Low);

        assert_carries(&mut busy.0, &mut busy.1, &payload(9, 4 << 20));
        assert!(busy.1.admit(GIB).is_ok());
        let newcomer = dialling();
        Conn::connect(&newcomer, address(&pair.server), PROTOCOL).expect("a newcomer");
        let changes = levels(&events);
        for level in [Pressure::Low, Pressure::Medium, Pressure::High, Pressure::Emergency] {
            assert!(changes.contains(&level), "{level:?} is not among {changes:?}");
        }
    });
}

fn low_is_as_usual(pair: &Pair, busy: &mut (Conn, Conn)) {
    assert_eq!(pair.server.stats().pressure, Pressure::Low);
    let held = [busy.1.admit(GIB), busy.1.admit(MIB)];
    assert!(held.iter().all(Result::is_ok));
    assert_carries(&mut busy.0, &mut busy.1, &payload(1, 4 << 20));
    // The pool has something to be trimmed.
    let lent: Vec<_> = (0..40).map(|_| pair.connect()).collect();
    for (near, _) in &lent {
        (&*near).write_all(&[1; 100_000]).expect("write");
    }
    let start = Instant::now();
    while lent.iter().any(|(_, far)| far.stats().unread < 100_000) {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not arrive");
        thread::sleep(Duration::from_millis(5));
    }
    drop(lent);
    eventually("a filled pool", 30, || pair.server.stats().pooled > 4 << 20);
}

fn medium_shrinks_and_trims(pair: &Pair, load: &mut Load<'_>) {
    // Each has a buffer for the rest of a frame that does not come.
    let halves: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = raw(&pair.server);
            let sealed = raw.seal(&[&header(0, SYN, 1, 1000)[..], &[0; 1000]].concat());
            (&raw.socket).write_all(&sealed[..200]).expect("half a frame");
            raw
        })
        .collect();
    // And each of these for a little that nobody reads.
    let leftovers: Vec<_> = (0..20).map(|_| pair.connect()).collect();
    for (near, _) in &leftovers {
        (&*near).write_all(&[1; 5_000]).expect("write");
    }
    eventually("their buffers", 30, || pair.server.stats().memory > 40 * (60 << 10));
    load.rise_to(Pressure::Medium);
    // The level was reached a moment before anything is done about it, and what the
    // pool has says nothing: they were lent theirs out of it.
    let most = 60 * BUDGET as u64 / 100;
    eventually("small buffers", 30, || pair.server.stats().memory < most - 40 * (50 << 10));
    eventually("a trimmed pool", 30, || pair.server.stats().pooled <= 3 << 20);
    // Those who had much have next to nothing now: little comes free with them.
    let before = pair.server.stats();
    drop((halves, leftovers));
    eventually("their end", 30, || pair.server.stats().connections + 20 == before.connections);
    eventually("their streams' end", 30, || pair.server.stats().streams + 20 == before.streams);
    let freed = before.memory - pair.server.stats().memory;
    assert!(freed < 40 * (10 << 10), "{freed} bytes were still held");
    assert_eq!(before.pressure, Pressure::Medium);
}

fn high_stops_growth_and_refuses_large_transfers(
    pair: &Pair,
    load: &mut Load<'_>,
    busy: &mut (Conn, Conn),
    idle: &Raw,
) {
    load.rise_to(Pressure::High);
    assert!(is_closed(&idle.socket), "an idle connection was kept");
    // A conn that reads fast goes on in the window that it begins with.
    let stopped = || pair.server.stats().rejections(Limit::Window);
    let before = stopped();
    let (mut near, mut far) = pair.connect();
    let start = Instant::now();
    while stopped() == before {
        assert!(start.elapsed() < Duration::from_secs(30), "no window was to grow");
        assert_carries(&mut near, &mut far, &payload(2, 2 << 20));
        assert_eq!(far.stats().receive_window, 256 << 10);
    }
    // Huge transfers are refused, and large ones are few.
    let refused = busy.1.admit(GIB).expect_err("a huge transfer");
    assert_eq!(refused.code(), ErrorCode::OutOfMemory);
    let held: Vec<_> = (0..200).map_while(|_| busy.1.admit(MIB).ok()).collect();
    assert_eq!(held.len(), 1024 / 16);
    let mut there = MessageTransporter::builder(&far).limits().build();
    let error = there.send(&vec![0; 1 << 20]).expect_err("a large message");
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    assert!(error.to_string().contains("short of memory"), "{error}");
    drop(held);
    // Messages go both ways on the same conn afterwards, large ones among them.
    assert_message(&mut there, &mut near, 1 << 20);
    assert_refused_on_arrival(busy, &mut there, &mut near);
    assert_eq!(pair.server.stats().pressure, Pressure::High);
}

/// A large message that is not to be received is skipped, and the next one comes.
fn assert_refused_on_arrival(
    busy: &mut (Conn, Conn),
    there: &mut MessageTransporter<&Conn>,
    near: &mut Conn,
) {
    let held: Vec<_> = (0..200).map_while(|_| busy.1.admit(MIB).ok()).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            pointsub::send_message(near, &vec![1; 1 << 20]).expect("send");
            pointsub::send_message(near, b"small").expect("send");
        });
        let error: Error = there.receive().expect_err("a large message");
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert_eq!(there.receive().expect("the next one"), b"small");
    });
    drop(held);
}

fn assert_message(from: &mut MessageTransporter<&Conn>, to: &mut Conn, size: usize) {
    thread::scope(|scope| {
        scope.spawn(|| from.send(&payload(3, size)).expect("send"));
        assert!(pointsub::receive_message(to).expect("receive") == payload(3, size));
    });
}

fn emergency_refuses_newcomers_and_pauses_low_priority(
    pair: &Pair,
    load: &mut Load<'_>,
    busy: &mut (Conn, Conn),
    (near, far): &(Conn, Conn),
) {
    load.rise_to(Pressure::Emergency);
    // Those who are there are served.
    assert_carries(&mut busy.0, &mut busy.1, &payload(4, 1 << 20));
    let before = pair.server.stats().rejections(Limit::ReceiveMemory);
    assert!(is_closed(&connect(socket_address(&pair.server)).expect("connect")));
    let refused = Conn::connect(&pair.client, address(&pair.server), PROTOCOL);
    assert_kind(refused, &[ErrorKind::ConnectionRefused]);
    assert!(pair.server.stats().rejections(Limit::ReceiveMemory) >= before + 2);
    assert!(busy.1.admit(MIB).is_err());
    eventually("an empty pool", 30, || pair.server.stats().pooled == 0);
    // Its reader reads, and yet the writer has to wait, once the window is used up.
    near.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
    far.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut written = 0;
    loop {
        match (&*near).write(&[5; 64 << 10]) {
            Ok(n) => {
                written += n;
                (&*far).read_exact(&mut vec![0; n]).expect("read");
            }
            Err(e) => break assert_eq!(e.kind(), ErrorKind::TimedOut),
        }
        assert!(written <= 1 << 20, "a conn of low priority goes on");
    }
    assert_eq!(pair.server.stats().pressure, Pressure::Emergency);
    assert_eq!(load.resets(), 0, "nobody stood still");
}

fn who_stands_still_is_reset(pair: &Pair, load: &mut Load<'_>, busy: &mut (Conn, Conn)) {
    load.stand_still();
    eventually("relief", 30, || pair.server.stats().pressure < Pressure::Emergency);
    let (resets, all) = (load.resets(), load.len());
    assert!(resets > 0 && resets < all / 4, "{resets} of {all}");
    let reason = load.reset_reason().expect("one was reset");
    assert_eq!(common::code(&reason), ErrorCode::OutOfMemory);
    assert_carries(&mut busy.0, &mut busy.1, &payload(5, 100_000));
}

/// 5 % below where it was reached a level is left, and not before.
fn all_levels_are_left_late(pair: &Pair, load: &mut Load<'_>) {
    let mut left = Vec::new();
    let mut last = pair.server.stats().pressure;
    while last > Pressure::Low {
        load.give_back_one();
        let stats = pair.server.stats();
        if stats.pressure != last {
            left.push((last, stats.memory * 100 / BUDGET as u64));
            last = stats.pressure;
        }
    }
    let (levels, percents): (Vec<_>, Vec<_>) = left.into_iter().unzip();
    assert_eq!(levels, [Pressure::High, Pressure::Medium]);
    assert!((72..75).contains(&percents[0]) && (52..55).contains(&percents[1]), "{percents:?}");
}

/// Conns whose readers read next to nothing, each with a window's worth unread.
struct Load<'a> {
    pair: &'a Pair,
    ends: Arc<Mutex<Vec<(Conn, Conn)>>>,
    trickles: Arc<AtomicBool>,
}

impl<'a> Load<'a> {
    fn new(pair: &'a Pair) -> Load<'a> {
        let ends = Arc::<Mutex<Vec<(Conn, Conn)>>>::default();
        let trickles = Arc::new(AtomicBool::new(true));
        let (all, on) = (ends.clone(), trickles.clone());
        thread::spawn(move || {
            while on.load(SeqCst) {
                for (_, far) in &*all.lock().expect("unpoisoned") {
                    let _ = (&*far).read(&mut [0]);
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        Load { pair, ends, trickles }
    }

    fn rise_to(&mut self, level: Pressure) {
        while self.pair.server.stats().pressure < level {
            let (near, far) = self.pair.connect();
            (&near).write_all(&vec![7; UNREAD]).expect("write");
            let start = Instant::now();
            while far.stats().unread < UNREAD {
                assert!(start.elapsed() < Duration::from_secs(20), "it does not arrive");
                thread::sleep(Duration::from_millis(1));
            }
            self.ends.lock().expect("unpoisoned").push((near, far));
        }
    }

    fn stand_still(&mut self) {
        self.trickles.store(false, SeqCst);
    }

    fn give_back_one(&mut self) {
        let (near, far) = self.ends.lock().expect("unpoisoned").pop().expect("one more");
        drop((far, near));
    }

    fn len(&self) -> usize {
        self.ends.lock().expect("unpoisoned").len()
    }

    fn resets(&self) -> usize {
        let ends = self.ends.lock().expect("unpoisoned");
        ends.iter().filter(|(_, far)| far.stats().unread == 0).count()
    }

    fn reset_reason(&self) -> Option<std::io::Error> {
        let ends = self.ends.lock().expect("unpoisoned");
        ends.iter().find_map(|(_, far)| far.take_error().expect("a look"))
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.trickles.store(false, SeqCst);
    }
}

#[track_caller]
fn await_level(host: &Host, level: Pressure) {
    eventually("the level", 30, || host.stats().pressure == level);
}
