//! Each limit has the documented default and a setter, counts what it turns away, and
//! is in the log at most once a minute.

mod attacker;
mod common;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use attacker::{ACK, RST, Raw, SYN, connect, header, is_closed, opening, raw};
use common::{LATE, PROTOCOL, Pair, address, assert_carries, assert_kind, builder, dialling};
use common::{payload, socket_address, within};
use pointsub::message::StallLimit;
use pointsub::{Conn, ErrorCode, Event, Host, HostBuilder, Keypair, Limit, Listener};

const MIB: u64 = 1 << 20;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MILLIS: fn(u64) -> Duration = Duration::from_millis;

/// A limit, its default, and its setter with the value that it sets.
type Row = (Limit, u64, fn(HostBuilder) -> HostBuilder, u64);

const ROWS: &[Row] = &[
    (Limit::Connections, 10_000, |b| b.max_connections(7), 7),
    (Limit::ConnectionsPerPeer, 8, |b| b.max_connections_per_peer(7), 7),
    (Limit::ConnectionsPerIpv4, 64, |b| b.max_connections_per_ipv4(7), 7),
    (Limit::ConnectionsPerIpv6Net, 8, |b| b.max_connections_per_ipv6_net(7), 7),
    (Limit::ConnectionRate, 10, |b| b.connection_rate(7, 9), 7),
    (Limit::Handshakes, 256, |b| b.max_handshakes(7), 7),
    (Limit::HandshakesPerAddress, 16, |b| b.max_handshakes_per_address(7), 7),
    (Limit::Streams, 1024, |b| b.max_streams(7), 7),
    (Limit::Negotiating, 128, |b| b.max_negotiating(7), 7),
    (Limit::Unacknowledged, 256, |b| b.max_unacknowledged(7), 7),
    (Limit::AcceptQueue, 256, |b| b.max_waiting(7), 7),
    (Limit::AcceptQueuePerPeer, 128, |b| b.max_waiting_per_peer(7), 7),
    (Limit::Resets, 1000, |b| b.max_resets(7), 7),
    (Limit::ReceiveMemory, 1024 * MIB, |b| b.memory(7 << 20), 7 * MIB),
    (Limit::ReceiveMemoryPerConnection, 64 * MIB, |b| b.memory_per_connection(7 << 20), 7 * MIB),
    (Limit::Window, 16 * MIB, |b| b.max_window(7 << 20), 7 * MIB),
    (Limit::Transfers, 1024, |b| b.max_transfers(7), 7),
    // It has times, and no number.
    (Limit::Penalties, 0, |b| b.penalty(MILLIS(7), MILLIS(8)), 0),
    (Limit::Pings, 1000, |b| b.max_pings(7), 7),
    (Limit::PingsWaiting, 32, |b| b.max_pings_waiting(7), 7),
    (Limit::EmptyFrames, 10_000, |b| b.max_empty_frames(7), 7),
    (Limit::WindowUpdates, 10_000, |b| b.max_window_updates(7), 7),
    (Limit::HandshakeTime, 10_000, |b| b.handshake_timeout(MILLIS(7)), 7),
    (Limit::DialTime, 10_000, |b| b.dial_timeout(MILLIS(7)), 7),
    (Limit::NegotiationTime, 10_000, |b| b.negotiation_timeout(MILLIS(7)), 7),
    (Limit::Silence, 10_000, |b| b.keepalive_timeout(MILLIS(70)), 70),
    (Limit::Linger, 5_000, |b| b.linger(MILLIS(7)), 7),
];

#[test]
fn every_limit_has_the_documented_default_and_a_setter() {
    assert_eq!(ROWS.iter().map(|row| row.0).collect::<Vec<_>>(), Limit::ALL);
    let host = Host::new().expect("a host");
    for &(limit, default, set, value) in ROWS {
        assert_eq!(most(&host, limit), default, "{limit}");
        assert_eq!(host.stats().rejections(limit), 0);
        let host = set(Host::builder()).build().expect("a host");
        assert_eq!(most(&host, limit), value, "{limit}");
    }
}

#[test]
fn values_out_of_their_range_are_refused() {
    let bad: [fn(HostBuilder) -> HostBuilder; 15] = [
        |b| b.max_unacknowledged(0),
        |b| b.max_waiting(0),
        |b| b.max_window((256 << 10) - 1),
        |b| b.max_window((16 << 20) + 1),
        |b| b.max_pings_waiting(100_000),
        |b| b.keepalive_timeout(MILLIS(1)),
        |b| b.penalty(Duration::ZERO, MILLIS(1)),
        |b| b.penalty(MILLIS(2), MILLIS(1)),
        |b| b.idle_timeout(YEAR + MILLIS(1)),
        |b| b.keepalive(YEAR + MILLIS(1)),
        |b| b.keepalive_timeout(YEAR + MILLIS(1)),
        |b| b.dial_timeout(YEAR + MILLIS(1)),
        |b| b.handshake_timeout(YEAR + MILLIS(1)),
        |b| b.negotiation_timeout(YEAR + MILLIS(1)),
        |b| b.linger(YEAR + MILLIS(1)),
    ];
    for set in bad {
        assert_kind(set(Host::builder()).build(), &[ErrorKind::InvalidInput]);
    }
    let times = Host::builder().idle_timeout(YEAR).keepalive(YEAR).keepalive_timeout(YEAR);
    let times = times.dial_timeout(YEAR).handshake_timeout(YEAR).negotiation_timeout(YEAR);
    times.linger(YEAR).build().expect("a year is in range");
}

#[test]
fn conns_beyond_the_accept_queue_are_refused() {
    within(60, || {
        let server = builder().max_waiting(3).max_waiting_per_peer(2).build().expect("a host");
        let pair = Pair::of(server, dialling());
        let other = dialling();
        let connect = |host: &Host| Conn::connect(host, address(&pair.server), PROTOCOL);
        let held = [connect(&pair.client), connect(&pair.client), connect(&other)];
        assert!(held.iter().all(Result::is_ok));
        assert_kind(connect(&other), &[ErrorKind::ConnectionRefused]);
        assert_eq!(pair.server.stats().rejections(Limit::AcceptQueue), 1);
        pair.listener.accept().expect("accept");
        connect(&other).expect("there is room again");
        assert_eq!(pair.listener.stats().refused, pair.server.stats().refused_by_queue);
    });
}

#[test]
fn one_peer_leaves_room_in_the_accept_queue_for_others() {
    within(60, || {
        let server = builder().max_waiting_per_peer(2).build().expect("a host");
        let pair = Pair::of(server, dialling());
        let connect = |host: &Host| Conn::connect(host, address(&pair.server), PROTOCOL);
        let held = [connect(&pair.client), connect(&pair.client)];
        assert_kind(connect(&pair.client), &[ErrorKind::ConnectionRefused]);
        assert_eq!(pair.server.stats().rejections(Limit::AcceptQueuePerPeer), 1);
        let other = dialling();
        connect(&other).expect("another peer");
        drop(held);
    });
}

#[test]
fn connects_wait_while_too_many_are_unacknowledged() {
    within(60, || {
        let client = Host::builder().max_unacknowledged(1).build().expect("a host");
        let pair = Pair::of(builder().max_waiting_per_peer(1000).build().expect("a host"), client);
        pair.connect();
        let waited = || pair.client.stats().rejections(Limit::Unacknowledged);
        let start = Instant::now();
        while waited() == 0 {
            assert!(start.elapsed() < Duration::from_secs(30), "nobody had to wait");
            thread::scope(|scope| {
                for _ in 0..32 {
                    scope.spawn(|| {
                        Conn::connect(&pair.client, address(&pair.server), PROTOCOL)
                            .expect("connect")
                    });
                }
            });
            (0..32).for_each(|_| drop(pair.listener.accept().expect("accept")));
        }
    });
}

#[test]
fn a_window_grows_to_its_limit_and_no_further() {
    within(60, || {
        let server = builder().max_window(512 << 10).build().expect("a host");
        let pair = Pair::of(server, dialling());
        let (mut near, mut far) = pair.connect();
        assert_carries(&mut near, &mut far, &payload(1, 32 << 20));
        assert!(far.stats().receive_window <= 512 << 10, "{}", far.stats().receive_window);
        assert_eq!(pair.server.stats().rejections(Limit::Window), 0, "nothing went wrong");
    });
}

#[test]
fn large_transfers_beyond_the_limit_are_refused() {
    within(60, || {
        let pair = Pair::of(builder().max_transfers(2).build().expect("a host"), dialling());
        let (_near, far) = pair.connect();
        let held = [far.admit(MIB), far.admit(1 << 40)];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(far.admit(MIB).expect_err("the third").code(), ErrorCode::OutOfMemory);
        assert!(far.admit(MIB - 1).is_ok(), "a small one");
        assert_eq!(pair.server.stats().rejections(Limit::Transfers), 1);
        drop(held);
        assert!(far.admit(MIB).is_ok());
    });
}

type Setter = fn(HostBuilder) -> HostBuilder;

#[test]
fn floods_beyond_their_limits_end_the_connection() {
    let ping = || header(2, SYN, 0, 7).to_vec();
    let on_a_stream = |frame: [u8; 12]| {
        let first = opening(PROTOCOL);
        let length = u32::try_from(first.len()).expect("short");
        [&header(0, SYN, 1, length)[..], &first, &frame.repeat(6)].concat()
    };
    let pings = |n: usize| (0..n).flat_map(|_| ping()).collect::<Vec<_>>();
    let floods: [(Limit, Setter, Vec<u8>); 7] = [
        (Limit::Pings, |b| b.max_pings(5), pings(6)),
        (Limit::PingsWaiting, |b| b.max_pings_waiting(5), pings(6)),
        (Limit::EmptyFrames, |b| b.max_empty_frames(5), on_a_stream(header(0, 0, 1, 0))),
        // Answers to nothing; the first goodbye is none too many.
        (Limit::EmptyFrames, |b| b.max_empty_frames(5), header(2, ACK, 0, 7).repeat(6)),
        (Limit::EmptyFrames, |b| b.max_empty_frames(5), header(3, 0, 0, 1).repeat(7)),
        (Limit::WindowUpdates, |b| b.max_window_updates(4), on_a_stream(header(1, 0, 1, 1))),
        (Limit::Resets, |b| b.max_resets(5), {
            let one = |n: u32| [header(1, SYN, n, 0), header(1, RST, n, 0)].concat();
            (0..6).flat_map(|n| one(2 * n + 1)).collect()
        }),
    ];
    within(60, || {
        for (limit, set, flood) in floods {
            let server = set(builder()).build().expect("a host");
            let _listener = Listener::bind(&server, PROTOCOL).expect("bind");
            let mut raw = raw(&server);
            raw.send(&flood).expect("send");
            assert!(is_closed(&raw.socket), "{limit}");
            let stats = server.stats();
            assert_eq!(stats.rejections(limit), 1, "{limit}");
            let others = stats.limits.iter().filter(|l| l.limit != limit).map(|l| l.rejections);
            assert_eq!(others.sum::<u64>(), 0, "{limit}: {:?}", stats.limits);
        }
    });
}

#[test]
fn a_penalty_is_as_long_as_it_is_set() {
    within(60, || {
        let server = builder().max_pings(1).penalty(MILLIS(70), MILLIS(100)).build();
        let server = server.expect("a host");
        let events = server.subscribe();
        let key = Keypair::generate_ed25519();
        for expected in [70, 100, 100] {
            let banned = std::iter::from_fn(|| {
                let mut raw = Raw::dial(socket_address(&server), &key).ok()?;
                let _ = raw.send(&header(2, SYN, 0, 7).repeat(2));
                is_closed(&raw.socket);
                Some(std::iter::from_fn(|| events.try_next()).find_map(|event| match event {
                    Event::PeerBanned { time, .. } => Some(time),
                    _ => None,
                }))
            });
            assert_eq!(banned.flatten().next(), Some(MILLIS(expected)));
        }
        assert!(server.stats().rejections(Limit::Penalties) > 0);
    });
}

#[test]
fn what_takes_too_long_is_counted_under_its_limit() {
    within(60, || {
        let server = builder().handshake_timeout(MILLIS(50)).build().expect("a host");
        assert!(is_closed(&connect(socket_address(&server)).expect("connect")));
        await_count(&server, Limit::HandshakeTime);

        let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = Host::builder().dial_timeout(MILLIS(50)).build().expect("a host");
        let port = silent.local_addr().expect("an address").port();
        let target = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", server.peer_id());
        assert_kind(Conn::connect(&client, target, PROTOCOL), LATE);
        await_count(&client, Limit::DialTime);

        let server = builder().negotiation_timeout(MILLIS(50)).build().expect("a host");
        let mut undecided = raw(&server);
        undecided.send(&header(1, SYN, 1, 0)).expect("send");
        await_count(&server, Limit::NegotiationTime);

        let server = builder().keepalive(MILLIS(20)).keepalive_timeout(MILLIS(50)).build();
        let server = server.expect("a host");
        let silent = raw(&server);
        assert!(is_closed(&silent.socket));
        await_count(&server, Limit::Silence);

        let server = builder().linger(MILLIS(50)).build().expect("a host");
        let key = Keypair::generate_ed25519();
        let _deaf = Raw::quiet(socket_address(&server), &key).expect("dial");
        while server.connected_peers().is_empty() {
            thread::sleep(MILLIS(5));
        }
        server.disconnect(&key.public().to_peer_id());
        await_count(&server, Limit::Linger);
    });
}

/// Times are kept, whatever else is looked at in between: an idle connection and one
/// that is undecided end when they are to, not up to ten seconds later.
#[test]
fn times_are_kept_to_a_fraction_of_a_second() {
    within(60, || {
        let quick = |time: Duration| time < Duration::from_millis(1500);
        let server = builder().idle_timeout(MILLIS(700)).build().expect("a host");
        let (start, idle) = (Instant::now(), raw(&server));
        assert!(is_closed(&idle.socket));
        assert!(quick(start.elapsed()), "idle for {:?}", start.elapsed());

        let server = builder().negotiation_timeout(MILLIS(700)).build().expect("a host");
        let mut undecided = raw(&server);
        thread::sleep(MILLIS(500));
        let start = Instant::now();
        undecided.send(&header(1, SYN, 1, 0)).expect("send");
        await_count(&server, Limit::NegotiationTime);
        let took = start.elapsed();
        assert!(quick(took) && took >= MILLIS(600), "undecided for {took:?}");
    });
}

#[test]
fn a_limit_is_in_the_log_once_a_minute_with_its_count() {
    within(60, || {
        Records::install();
        let pair = Pair::of(builder().max_streams(2).build().expect("a host"), dialling());
        let held = [pair.connect(), pair.connect()];
        for _ in 0..5 {
            let refused = Conn::connect(&pair.client, address(&pair.server), PROTOCOL);
            assert_kind(refused, &[ErrorKind::ConnectionRefused]);
        }
        let start = Instant::now();
        let of_it = || Records::having("limit=streams per connection most=2 ");
        while of_it().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "nothing in the log");
            thread::sleep(MILLIS(5));
        }
        assert_eq!(pair.server.stats().rejections(Limit::Streams), 5);
        drop(held);
        // What came after the first line is said at the end, or a minute later.
        pair.server.shutdown();
        let lines = of_it();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("WARN "), "{lines:?}");
    });
}

/// The log of this process, in lines of level, key-values and text.
struct Records(Mutex<Vec<String>>);

static RECORDS: OnceLock<Records> = OnceLock::new();

impl Records {
    fn install() {
        let records = RECORDS.get_or_init(|| Records(Mutex::default()));
        log::set_logger(records).expect("the only logger");
        log::set_max_level(log::LevelFilter::Debug);
    }

    fn having(text: &str) -> Vec<String> {
        let lines = RECORDS.get().expect("installed").0.lock().expect("unpoisoned");
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl log::Log for Records {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(String);
        impl<'a> log::kv::VisitSource<'a> for Pairs {
            fn visit_pair(
                &mut self,
                key: log::kv::Key<'a>,
                value: log::kv::Value<'a>,
            ) -> Result<(), log::kv::Error> {
                self.0 += &format!("{key}={value} ");
                Ok(())
            }
        }
        let mut pairs = Pairs(format!("{} ", record.level()));
        record.key_values().visit(&mut pairs).expect("visited");
        let line = format!("{}{}", pairs.0, record.args());
        self.0.lock().expect("unpoisoned").push(line);
    }

    fn flush(&self) {}
}

fn most(host: &Host, limit: Limit) -> u64 {
    let stats = host.stats();
    stats.limits.iter().find(|l| l.limit == limit).expect("every limit").most
}

#[track_caller]
fn await_count(host: &Host, limit: Limit) {
    let start = Instant::now();
    while host.stats().rejections(limit) == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "{limit} was not counted");
        thread::sleep(MILLIS(5));
    }
}
