//! What hears of a conn may use it: the log is written under no lock of the library's.

mod common;

use common::{Cut, Wired, eventually, within};
use pointsub::Conn;
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// Says on a conn that it was told something.
struct Chatty;

static CONN: OnceLock<Conn> = OnceLock::new();
static TOLD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl log::Log for Chatty {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if INSIDE.replace(true) {
            return;
        }
        if let Some(mut conn) = CONN.get() {
            // It may have no room.
            let _ = conn.write(b"!");
            let text = record.args().to_string();
            if text.contains("goes on over") || text.contains("connection ended") {
                TOLD.fetch_add(1, SeqCst);
            }
        }
        INSIDE.set(false);
    }

    fn flush(&self) {}
}

#[test]
fn it_writes_to_conns_that_are_lost_and_resumed() {
    within(60, || {
        log::set_logger(&Chatty).expect("the only one");
        log::set_max_level(log::LevelFilter::Debug);
        let wired = Wired::new();
        let (near, mut far) = wired.connect();
        near.set_write_timeout(Some(Duration::from_millis(10))).expect("set");
        CONN.set(near.try_clone().expect("a clone")).expect("the only one");
        thread::scope(|scope| {
            scope.spawn(|| while far.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
            let mut writer = &near;
            for round in 1..=40 {
                eventually("a resumption", 20, || near.stats().resumes + 1 >= round);
                wired.proxy.cut(Cut::Reset);
                // Until it fails.
                while near.stats().losses < round {
                    let _ = writer.write(&[7; 1000]);
                }
            }
            eventually("the last resumption", 20, || near.stats().resumes >= 40);
            assert!(TOLD.load(SeqCst) >= 80);
            near.shutdown(std::net::Shutdown::Write).expect("the end");
        });
    });
}
