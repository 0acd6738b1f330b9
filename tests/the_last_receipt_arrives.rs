//! Who has sent everything learns that it has arrived, also if the connection is lost with
//! the last receipt: the other end comes back for it, whoever opened the conn, whoever
//! dialled, and whether its handle is still there. Nobody waits for that, and it is bounded.

mod common;

use common::{Cut, Pair, Ways, Wired, eventually, read_all, within};
use pointsub::{Conn, Host, HostBuilder};
use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

/// Who opened the conn, and who of the two has everything first.
#[derive(Clone, Copy, Debug)]
struct Case {
    dialler_opens: bool,
    dialler_first: bool,
}

/// The fourth needs nobody to come back: the opener dials, and asks.
const CASES: [Case; 4] = [
    Case { dialler_opens: true, dialler_first: true },
    Case { dialler_opens: false, dialler_first: false },
    Case { dialler_opens: false, dialler_first: true },
    Case { dialler_opens: true, dialler_first: false },
];

impl Case {
    /// The end that has everything first, and the other.
    fn connect(self, wired: &Wired) -> (Conn, Conn) {
        let (near, far) = if self.dialler_opens { wired.connect() } else { wired.connect_back() };
        if self.dialler_first { (near, far) } else { (far, near) }
    }

    /// Whether the first end has to do something for the other.
    fn comes_back(self) -> bool {
        !self.dialler_opens || self.dialler_first
    }

    /// What the first says.
    fn way(self) -> Ways {
        if self.dialler_first { Ways::Out } else { Ways::Back }
    }

    /// The host of the first, and of the other.
    fn hosts(self, pair: &Pair) -> (&Host, &Host) {
        let Pair { client, server, .. } = pair;
        if self.dialler_first { (client, server) } else { (server, client) }
    }
}

/// One end has everything and knows that the other has; its last receipt is on a wire that
/// swallows it.
fn unconfirmed(wired: &Wired, case: Case) -> (Conn, Conn) {
    let (first, mut last) = case.connect(wired);
    (&first).write_all(b"question").expect("write");
    first.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut last).expect("the question"), b"question");
    // Its receipt is not seen from outside.
    thread::sleep(Duration::from_millis(300));
    wired.proxy.black_hole(case.way());
    last.write_all(b"answer").expect("write");
    last.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut first.try_clone().expect("clone")).expect("it"), b"answer");
    // Nor is this one; and it is there for longer than those take that are not asked for.
    thread::sleep(Duration::from_millis(300));
    (first, last)
}

fn impatient(host: HostBuilder) -> HostBuilder {
    host.resume_timeout(Duration::from_secs(3)).linger(Duration::from_millis(800))
}

#[track_caller]
fn all_is_over(pair: &Pair) {
    for host in [&pair.client, &pair.server] {
        eventually("no conn waits any more", 6, || host.stats().conns_waiting == 0);
        assert_eq!(host.stats().conns_given_up, 0);
    }
}

fn is_learnt(case: Case, dropped: bool) {
    within(60, || {
        let wired = Wired::of(impatient);
        let (first, mut last) = unconfirmed(&wired, case);
        let first = Some(first).filter(|_| !dropped);
        wired.proxy.flow();
        wired.proxy.cut(Cut::Reset);
        eventually("the loss is noticed", 5, || last.stats().losses == 1);
        let since = Instant::now();
        last.flush().unwrap_or_else(|e| panic!("{case:?}: {e}"));
        assert!(since.elapsed() < Duration::from_secs(2), "{case:?}: {:?}", since.elapsed());
        if let Some(mut first) = first {
            first.flush().expect("all has arrived");
            assert_eq!(read_all(&mut first).expect("the end, for ever"), b"");
            assert!(first.take_error().expect("it").is_none());
        }
        assert!(last.take_error().expect("it").is_none());
        all_is_over(&wired.pair);
    });
}

#[test]
fn the_opener_that_dialled_comes_back_for_it() {
    [true, false].into_iter().for_each(|dropped| is_learnt(CASES[0], dropped));
}

#[test]
fn the_opener_that_did_not_dial_is_still_there() {
    [true, false].into_iter().for_each(|dropped| is_learnt(CASES[1], dropped));
}

#[test]
fn the_responder_that_dialled_dials_again() {
    [true, false].into_iter().for_each(|dropped| is_learnt(CASES[2], dropped));
}

#[test]
fn a_responder_that_did_not_dial_is_asked() {
    [true, false].into_iter().for_each(|dropped| is_learnt(CASES[3], dropped));
}

/// Cut again and again where it is resumed: it gets through in the end.
#[test]
fn it_gets_through_more_cuts() {
    within(120, || {
        for (i, case) in CASES.into_iter().enumerate() {
            let wired = Wired::new();
            let (_first, mut last) = unconfirmed(&wired, case);
            wired.proxy.flow();
            // In the handshake, and in the heads behind it.
            wired.proxy.cut_after(&[100, 700, 1_100 + 50 * i as u64, 1_500], Cut::Reset);
            wired.proxy.cut(Cut::Reset);
            eventually("the loss is noticed", 5, || last.stats().losses >= 1);
            let since = Instant::now();
            last.flush().unwrap_or_else(|e| panic!("{case:?}: {e}"));
            eprintln!("{case:?}: {:?}, {} cuts", since.elapsed(), wired.proxy.cuts());
            assert!(since.elapsed() < Duration::from_secs(15));
        }
    });
}

/// The receipt has arrived, but not the sign that it has: whoever comes back finds nothing
/// to do.
#[test]
fn coming_back_in_vain_is_quiet() {
    for case in CASES {
        within(60, || {
            let wired = Wired::of(impatient);
            let (first, mut last) = case.connect(&wired);
            first.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_all(&mut last).expect("the end"), b"");
            thread::sleep(Duration::from_millis(300));
            // What answers it is swallowed.
            let back = if case.dialler_first { Ways::Back } else { Ways::Out };
            last.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_all(&mut first.try_clone().expect("clone")).expect("it"), b"");
            wired.proxy.black_hole(back);
            thread::sleep(Duration::from_millis(300));
            wired.proxy.flow();
            wired.proxy.cut(Cut::Reset);
            let (host, other) = case.hosts(&wired.pair);
            let comes_back = u64::from(case.comes_back());
            eventually("it is lost", 2, || host.stats().conns_lost == comes_back);
            first.try_clone().expect("clone").flush().expect("all has arrived");
            last.flush().expect("all has arrived");
            assert!(first.take_error().expect("it").is_none());
            assert!(last.take_error().expect("it").is_none());
            drop((first, last));
            all_is_over(&wired.pair);
            assert_eq!((host.stats().conns_lost, other.stats().conns_lost), (comes_back, 0));
        });
    }
}

/// Nobody needs it whose host ends, or who disconnects.
#[test]
fn the_end_of_a_host_does_not_wait_for_it() {
    for (case, shutdown) in CASES.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        within(60, || {
            let host = |waits| {
                let linger =
                    if waits { Duration::from_secs(10) } else { Duration::from_millis(200) };
                move |host: HostBuilder| host.linger(linger)
            };
            let (server, client) = (host(!case.dialler_first), host(case.dialler_first));
            let wired = Wired::between(server(common::builder()), client(Host::builder()));
            let (first, _last) = unconfirmed(&wired, case);
            wired.proxy.refuse();
            wired.proxy.cut(Cut::Reset);
            thread::sleep(Duration::from_millis(100));
            let (host, other) = case.hosts(&wired.pair);
            let since = Instant::now();
            if shutdown {
                host.shutdown();
            } else {
                host.disconnect(&other.peer_id());
            }
            assert!(since.elapsed() < Duration::from_secs(2), "{case:?}: {:?}", since.elapsed());
            eventually("it is over", 2, || host.stats().conns_waiting == 0);
            assert!(first.take_error().expect("it").is_none() || shutdown);
        });
    }
}

/// The peer never comes again, or is not there any more.
#[test]
fn nobody_comes_back_for_longer_than_for_any_conn() {
    for (case, dropped) in CASES.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        within(60, || {
            let wired = Wired::of(|host| {
                let time = Duration::from_millis(400);
                impatient(host).keepalive(Duration::from_millis(200)).keepalive_timeout(time)
            });
            let (first, _last) = unconfirmed(&wired, case);
            wired.proxy.refuse();
            wired.proxy.cut(Cut::Reset);
            let (host, _) = case.hosts(&wired.pair);
            let since = Instant::now();
            let comes_back = u64::from(case.comes_back());
            eventually("it is lost", 2, || host.stats().conns_lost == comes_back);
            let first = Some(first).filter(|_| !dropped);
            let most = if dropped { 2 } else { 5 };
            eventually("it is over", most, || host.stats().conns_waiting == 0);
            eprintln!("{case:?}: {:?}", since.elapsed());
            if let Some(mut first) = first {
                first.flush().expect("all has arrived");
                assert!(first.take_error().expect("it").is_none());
            }
            assert_eq!(host.stats().conns_given_up, 0);
        });
    }
}
