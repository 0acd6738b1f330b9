//! Whoever resumes with a forged id, an old epoch or an offset that cannot be gets an
//! error, and every session goes on as before. The hostile peers have wire code of
//! their own and are used on both sides.

mod attacker;
mod common;

use attacker::resume::{Answer, Fate, Hello, Hostile, INVALID, UNKNOWN, framed};
use attacker::{FIN, RST, header};
use common::{ENDED, PROTOCOL, assert_kind, eventually, payload, socket_address, within};
use pointsub::{Conn, Host, HostBuilder, Keypair, Limit, Listener, PeerId, Pressure};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// A host that is attacked, and what it serves.
struct Victim {
    host: Host,
    listener: Listener,
}

impl Victim {
    fn new() -> Victim {
        Victim::of(common::builder())
    }

    fn of(host: HostBuilder) -> Victim {
        let host = host.linger(Duration::from_millis(100)).build().expect("a host");
        let listener = Listener::bind(&host, PROTOCOL).expect("bind");
        Victim { host, listener }
    }

    fn address(&self) -> SocketAddr {
        socket_address(&self.host)
    }

    fn dial(&self, key: &Keypair) -> Hostile {
        Hostile::dial(self.address(), key).expect("connected")
    }
}

/// A session that is as it should be so far: 1,000 bytes went there and 500 came back,
/// all confirmed but the last 100.
struct Session {
    hello: Hello,
    carrier: Hostile,
    stream: u32,
    conn: Conn,
}

impl Session {
    fn open(victim: &Victim, key: &Keypair, id: u8) -> Session {
        let mut carrier = victim.dial(key);
        let hello = Hello::opening([id; 16], PROTOCOL);
        let stream = carrier.hello(&hello).expect("said");
        let answer = carrier.fate(stream).welcome();
        assert_eq!(answer.received, 0);
        let (mut conn, peer) = victim.listener.accept().expect("accept");
        assert_eq!(peer, PeerId::from_public_key(&key.public()));
        assert!(conn.is_resumable());
        carrier.data(stream, 0, &payload(1, 1_000)).expect("sent");
        let mut arrived = vec![0; 1_000];
        conn.read_exact(&mut arrived).expect("read");
        assert!(arrived == payload(1, 1_000));
        conn.write_all(&payload(2, 500)).expect("write");
        assert!(carrier.payload(stream, 500).expect("read") == payload(2, 500));
        carrier.received(stream, 400).expect("sent");
        Session { hello, carrier, stream, conn }
    }

    /// It goes on where it was, on the connection where it was.
    #[track_caller]
    fn assert_unharmed(&mut self) {
        self.carrier.data(self.stream, 0, b"still").expect("sent");
        let mut arrived = [0; 5];
        self.conn.read_exact(&mut arrived).expect("read");
        assert_eq!(&arrived, b"still");
        self.conn.write_all(b"there").expect("write");
        assert_eq!(self.carrier.payload(self.stream, 5).expect("read"), b"there");
        assert_eq!(self.conn.stats().losses, 0);
    }
}

#[test]
fn what_a_hostile_peer_may_do_rightly_works() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        let mut session = Session::open(&victim, &key, 1);
        let mut second = victim.dial(&key);
        let stream = second.hello(&session.hello.again(2, 450)).expect("said");
        let answer = second.fate(stream).welcome();
        assert_eq!(answer.received, 1_000);
        // What had not arrived comes again, and nothing else.
        assert!(second.payload(stream, 50).expect("read") == payload(2, 500)[450..]);
        second.data(stream, FIN, b"the end").expect("sent");
        let mut rest = String::new();
        session.conn.read_to_string(&mut rest).expect("read");
        assert_eq!(rest, "the end");
        assert_eq!((session.conn.stats().losses, session.conn.stats().resumes), (1, 1));
        assert!(session.carrier.is_closed(), "the old connection is fenced");
    });
}

/// Receipts that say what was said before, for sessions and for streams that are none:
/// each is little work for a peer, and many of them end its connection.
#[test]
fn receipts_that_say_nothing_new_are_bounded() {
    within(60, || {
        let victim = Victim::of(common::builder().max_empty_frames(100));
        let mut session = Session::open(&victim, &Keypair::generate_ed25519(), 1);
        let rejections = || victim.host.stats().rejections(Limit::EmptyFrames);
        // Those with a reason are free: one for each byte that comes, and the questions
        // of one that sends.
        for n in 0..500_u32 {
            session.conn.write_all(b"x").expect("write");
            session.carrier.payload(session.stream, 1).expect("read");
            session.carrier.received(session.stream, 501 + n).expect("sent");
        }
        for _ in 0..500 {
            session.carrier.data(session.stream, 0, b"x").expect("sent");
            session.carrier.received(session.stream, 1000).expect("sent");
        }
        session.conn.read_exact(&mut [0; 500]).expect("read");
        session.assert_unharmed();
        assert_eq!(rejections(), 0);
        for _ in 0..200 {
            // The victim may have ended it already.
            let _ = session.carrier.received(session.stream, 1000);
        }
        assert!(session.carrier.is_closed());
        assert_eq!(rejections(), 1);
    });
}

/// What is still on its way over the old connection when the session is resumed.
#[test]
fn nothing_is_taken_from_the_old_connection_after_a_resume() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        for round in 0..20 {
            let mut session = Session::open(&victim, &key, round);
            let mut second = victim.dial(&key);
            let (old, mut carrier) = (session.stream, session.carrier);
            // It sends all the time, before and after.
            let flood = thread::spawn(move || {
                for _ in 0..2_000 {
                    if carrier.data(old, 0, &[7; 100]).is_err() {
                        break;
                    }
                }
            });
            let answer = second.ask(&session.hello.again(2, 500)).welcome();
            let stream = 1;
            second.data(stream, FIN, &[9; 10]).expect("sent");
            let mut rest = Vec::new();
            session.conn.read_to_end(&mut rest).expect("read");
            let of_old = usize::try_from(answer.received).expect("few") - 1_000;
            assert_eq!(rest.len(), of_old + 10, "what Welcome told, and what came then");
            assert!(rest[..of_old].iter().all(|b| *b == 7) && rest[of_old..] == [9; 10]);
            flood.join().expect("no panic");
        }
    });
}

#[test]
fn forged_resumes_by_the_same_peer_are_refused() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        let mut session = Session::open(&victim, &key, 1);
        let hello = session.hello.clone();
        let mut second = victim.dial(&key);
        let unknown = Hello { id: vec![2; 16], ..hello.again(2, 0) };
        assert_eq!(second.ask(&unknown).gone(), Some(UNKNOWN));
        let almost = [&[1; 15][..], &[0]].concat();
        assert_eq!(second.ask(&Hello { id: almost, ..unknown }).gone(), Some(UNKNOWN));
        for (epoch, received) in [
            // Old epochs.
            (0, 500),
            (1, 500),
            // Less than was confirmed, more than was sent.
            (2, 399),
            (2, 0),
            (2, 10_000),
            (2, u64::MAX),
            (u64::MAX, 10_000),
        ] {
            let fate = second.ask(&hello.again(epoch, received));
            assert_eq!(fate.gone(), Some(INVALID), "epoch {epoch}, received {received}");
            session.assert_unharmed();
            // Which sent five bytes that are not confirmed, and were received.
            session.carrier.received(session.stream, 400).expect("sent");
        }
        // On the connection that carries it.
        let stream = session.carrier.hello(&hello.again(2, 400)).expect("said");
        assert_eq!(session.carrier.fate(stream).gone(), Some(INVALID));
        session.assert_unharmed();
        // Once more as if it were the first.
        let fate = second.ask(&hello);
        assert!(matches!(fate.gone(), Some(n) if n != 0) || fate == Fate::Reset, "{fate:?}");
        session.assert_unharmed();
        assert_eq!(victim.host.stats().conns_lost, 0);
    });
}

#[test]
fn nobody_else_resumes_a_session() {
    within(60, || {
        let victim = Victim::new();
        let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let mut session = Session::open(&victim, &key, 1);
        let mut thief = victim.dial(&other);
        for epoch in [2, 3, u64::MAX] {
            let fate = thief.ask(&session.hello.again(epoch, 500));
            assert_eq!(fate.gone(), Some(UNKNOWN));
        }
        // The same id of another peer is another session.
        let own = thief.hello(&session.hello).expect("said");
        thief.fate(own).welcome();
        let (mut conn, peer) = victim.listener.accept().expect("accept");
        assert_eq!(peer, PeerId::from_public_key(&other.public()));
        conn.write_all(b"yours").expect("write");
        assert_eq!(thief.payload(own, 5).expect("read"), b"yours");
        session.assert_unharmed();
        // Also while it is lost.
        drop(session.carrier);
        eventually("the loss is noticed", 5, || session.conn.stats().losses == 1);
        let fate = thief.ask(&session.hello.again(7, 500));
        assert!(fate.gone().is_some_and(|code| code != 0) || fate == Fate::Reset, "{fate:?}");
        let mut second = victim.dial(&key);
        second.ask(&session.hello.again(2, 500)).welcome();
        second.data(1, FIN, b"mine").expect("sent");
        let mut rest = String::new();
        session.conn.read_to_string(&mut rest).expect("read");
        assert!(rest.ends_with("mine"), "{rest}");
    });
}

/// Heads that are none end their stream or their connection, and nothing else.
#[test]
fn damaged_heads_are_refused() {
    within(120, || {
        let victim = Victim::new();
        let good = Hello::opening([1; 16], PROTOCOL).again(2, 500);
        let mut heads = vec![
            vec![0],
            vec![0xff; 10],
            vec![0x80, 0x80, 0x80, 0x01],
            [&[0xff, 0x7f][..], &[8; 3_000]].concat(),
            [&[20][..], &[0xff; 20]].concat(),
            framed(&Hello { id: vec![1; 15], ..good.clone() }),
            framed(&Hello { id: vec![1; 17], ..good.clone() }),
            framed(&Hello { id: vec![], ..good.clone() }),
            framed(&Hello { protocol: String::new(), ..good.clone() }),
            framed(&Hello { protocol: "x".repeat(1_900), ..good.clone() }),
            framed(&Hello { protocol: "/other/1.0.0".into(), opening: true, ..good.clone() }),
        ];
        // All beginnings of a good one, behind which the stream ends.
        let whole = framed(&good);
        heads.extend((0..whole.len()).map(|n| whole[..n].to_vec()));
        for (n, head) in heads.iter().enumerate() {
            // Another peer each time, for it may be banned afterwards.
            let key = Keypair::generate_ed25519();
            let mut session = Session::open(&victim, &key, 1);
            let mut second = victim.dial(&key);
            if let Ok(stream) = second.open(head) {
                let _ = second.send(&header(0, FIN, stream, 0));
                let fate = second.fate(stream);
                assert_ne!(fate.gone(), Some(0), "{n}: {head:?}");
            }
            session.assert_unharmed();
        }
    });
}

/// Windows, times and epochs at the ends of their ranges.
#[test]
fn extreme_numbers_panic_nowhere() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        for (id, window) in [(1, 0), (2, 1), (3, u32::MAX), (4, 256 << 10)] {
            for timeout_ms in [0, 1, u32::MAX] {
                let mut carrier = victim.dial(&key);
                let id = [id * 16 + (timeout_ms % 7) as u8; 16];
                let hello = Hello { window, timeout_ms, ..Hello::opening(id, PROTOCOL) };
                let stream = carrier.hello(&hello).expect("said");
                if carrier.fate(stream).gone() != Some(0) {
                    continue;
                }
                let (mut conn, _) = victim.listener.accept().expect("accept");
                conn.set_write_timeout(Some(Duration::from_millis(50))).expect("set");
                let _ = conn.write(&[1; 100_000]);
                // More than can be, then as much as was ever sent and more.
                for credit in [u32::MAX, u32::MAX] {
                    let _ = carrier.send(&header(1, 0, stream, credit));
                }
                drop(carrier);
                let Ok(mut second) = Hostile::dial(victim.address(), &key) else { continue };
                let fate = second.ask(&Hello { window, ..hello.again(u64::MAX, 0) });
                if fate.gone() == Some(0) {
                    let _ = second.data(1, 0, b"x");
                }
                assert!(second.ask(&hello.again(u64::MAX, 0)).gone() != Some(0), "an old epoch");
            }
        }
        assert_serves(&victim);
    });
}

/// A host that is honest is served.
#[track_caller]
fn assert_serves(victim: &Victim) {
    let client = Host::new().expect("a host");
    let at = common::address(&victim.host);
    let mut near = Conn::connect(&client, at, PROTOCOL).expect("connect");
    near.write_all(b"hello").expect("write");
    let honest = std::iter::repeat_with(|| victim.listener.accept().expect("accept"));
    let (mut far, _) = honest.take(2_000).find(|(_, peer)| *peer == client.peer_id()).expect("it");
    let mut arrived = [0; 5];
    far.read_exact(&mut arrived).expect("read");
    assert_eq!(&arrived, b"hello");
}

/// Confirmations that confirm what was never sent, or take it back.
#[test]
fn lies_about_what_was_received_harm_only_their_own_session() {
    within(60, || {
        let victim = Victim::new();
        let mut honest = Session::open(&victim, &Keypair::generate_ed25519(), 9);
        for (id, lie) in [(1, 501), (2, u32::MAX), (3, 0), (4, 399), (5, 1 << 31)] {
            let key = Keypair::generate_ed25519();
            let mut session = Session::open(&victim, &key, id);
            let _ = session.carrier.received(session.stream, lie);
            let _ = session.carrier.received(77, lie);
            let _ = session.conn.write(b"more");
            drop(session.carrier);
            honest.assert_unharmed();
        }
        assert_serves(&victim);
    });
}

/// Sessions that nobody ever comes back to.
#[test]
fn a_flood_of_sessions_is_bounded() {
    within(240, || {
        let victim = victim_of_a_flood();
        let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let mut honest = Session::open(&victim, &other, 9);
        let held = hold_all(&victim);
        flood(&victim, &key);
        honest.assert_unharmed();
        victim.listener.close();
        drop(held.join().expect("no panic"));
        honest.assert_unharmed();
    });
}

/// The same while another peer is away, which has been for longer than any of them.
#[test]
fn a_flood_of_sessions_ends_its_own_first() {
    within(240, || {
        let victim = victim_of_a_flood();
        let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let mut honest = Session::open(&victim, &other, 9);
        drop(honest.carrier);
        eventually("it is lost", 5, || victim.host.stats().conns_waiting == 1);
        let held = hold_all(&victim);
        flood(&victim, &key);
        eventually("there is room", 5, || victim.host.stats().pressure < Pressure::Emergency);
        honest.carrier = victim.dial(&other);
        honest.stream = honest.carrier.hello(&honest.hello.again(2, 500)).expect("said");
        assert_eq!(honest.carrier.fate(honest.stream).welcome().received, 1_000);
        honest.conn.write_all(b"there").expect("write");
        assert_eq!(honest.carrier.payload(honest.stream, 5).expect("read"), b"there");
        victim.listener.close();
        drop(held.join().expect("no panic"));
    });
}

/// It has less memory than `flood` would take, and waits long for who does not answer pings.
fn victim_of_a_flood() -> Victim {
    Victim::of(common::builder().memory(MEMORY).keepalive(Duration::from_secs(600)))
}

const MEMORY: usize = 64 << 20;

/// A thread that accepts conns and keeps them, unread.
fn hold_all(victim: &Victim) -> thread::JoinHandle<Vec<Conn>> {
    let drain = victim.listener.try_clone().expect("clone");
    thread::spawn(move || std::iter::from_fn(|| Some(drain.accept().ok()?.0)).collect())
}

/// Opens sessions, writes to them and goes away, again and again.
fn flood(victim: &Victim, key: &Keypair) {
    let mut number = 0_u128;
    for _ in 0..30 {
        let Ok(mut carrier) = Hostile::dial(victim.address(), key) else { break };
        for _ in 0..100 {
            number += 1;
            let hello = Hello::opening(number.to_be_bytes(), PROTOCOL);
            let Ok(stream) = carrier.hello(&hello) else { break };
            let _ = carrier.data(stream, 0, &[1; 20_000]);
        }
        let _ = carrier.frame();
    }
    let stats = victim.host.stats();
    eprintln!("{number} opened, {} wait, {} bytes", stats.conns_waiting, stats.memory);
    assert!(stats.memory < MEMORY as u64 * 5 / 4, "{stats:?}");
    eventually("no more wait than may", 5, || victim.host.stats().conns_waiting <= 1_025);
}

/// The victim opens a session to a peer that answers as it likes.
#[test]
fn false_answers_end_the_conn_with_an_error() {
    let answers: &[(&str, Vec<u8>)] = &[
        ("more than was sent", framed(&answer(u64::MAX, 256 << 10))),
        ("one more than was sent", framed(&answer(1_001, 256 << 10))),
        ("less than was confirmed", framed(&answer(1, 256 << 10))),
        ("an unknown refusal", framed(&Answer { gone: 77, ..answer(0, 0) })),
        ("unknown session", framed(&Answer { gone: UNKNOWN, ..answer(0, 0) })),
        ("no answer of any kind", vec![5, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("an endless answer", vec![0xff; 100]),
    ];
    for (what, head) in answers {
        within(60, || {
            let key = Keypair::generate_ed25519();
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let port = listener.local_addr().expect("an address").port();
            let peer = PeerId::from_public_key(&key.public());
            let target = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}");
            let (head, over) = (head.clone(), Arc::new(AtomicBool::new(false)));
            let leave = over.clone();
            let hostile = thread::spawn(move || {
                let mut first = Hostile::accept(&listener, &key).expect("accepted");
                let (stream, hello) = first.await_hello().expect("a Hello");
                assert!((hello.epoch, hello.opening) == (1, true) && hello.protocol == PROTOCOL);
                first.answer(stream, &framed(&answer(0, 256 << 10))).expect("said");
                first.payload(stream, 1_000).expect("read");
                first.received(stream, 1_000).expect("said");
                first.data(stream, 0, b"!").expect("said");
                drop(first);
                let mut hellos = 0;
                // It may come again until it gives up.
                while !leave.load(SeqCst) {
                    let Ok(mut next) = Hostile::accept(&listener, &key) else { continue };
                    let Ok((stream, again)) = next.await_hello() else { continue };
                    assert!(again.id == hello.id && again.epoch > hellos + 1);
                    assert!(!again.opening || again.protocol == PROTOCOL);
                    hellos = again.epoch - 1;
                    let _ = next.answer(stream, &head);
                    next.is_closed();
                }
            });
            let client = Host::builder().resume_timeout(Duration::from_secs(6)).build();
            let client = client.expect("a host");
            let mut near = Conn::connect(&client, target, PROTOCOL).expect("connect");
            near.write_all(&payload(1, 1_000)).expect("write");
            near.read_exact(&mut [0]).expect("read");
            let error = assert_kind(near.read(&mut [0]), ENDED);
            eprintln!("{what}: {error}");
            assert!(near.write(b"x").is_err(), "{what}");
            assert_eq!(client.stats().conns_waiting, 0);
            drop((near, client));
            over.store(true, SeqCst);
            drop(std::net::TcpStream::connect(("127.0.0.1", port)));
            hostile.join().expect("no panic");
        });
    }
}

fn answer(received: u64, window: u32) -> Answer {
    Answer { gone: 0, received, window, timeout_ms: 30_000 }
}

/// Who answers sessions does not resume them: not even those that a victim has opened.
#[test]
fn a_peer_resumes_no_session_that_it_did_not_open() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let peer = PeerId::from_public_key(&key.public());
        let target = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}");
        let (host, their) = (victim.host.clone(), key.clone());
        let dialled = thread::spawn(move || {
            let mut carrier = Hostile::accept(&listener, &their).expect("accepted");
            let (stream, hello) = carrier.await_hello().expect("a Hello");
            carrier.answer(stream, &framed(&answer(0, 256 << 10))).expect("said");
            (carrier, stream, hello)
        });
        let mut conn = Conn::connect(&host, target, PROTOCOL).expect("connect");
        let (mut carrier, stream, hello) = dialled.join().expect("no panic");
        let mut second = victim.dial(&key);
        for epoch in [1, 2, 3] {
            assert_eq!(second.ask(&hello.again(epoch, 0)).gone(), Some(UNKNOWN));
        }
        carrier.data(stream, 0, b"still").expect("sent");
        let mut arrived = [0; 5];
        conn.read_exact(&mut arrived).expect("read");
        assert_eq!((&arrived, conn.stats().losses), (b"still", 0));
    });
}

/// A window of the answer is what may be sent, however small or large.
#[test]
fn the_windows_of_heads_are_kept() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        let mut session = Session::open(&victim, &key, 1);
        session.conn.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
        let mut second = victim.dial(&key);
        let hello = Hello { window: 1_000, ..session.hello.again(2, 400) };
        let stream = second.hello(&hello).expect("said");
        let answer = second.fate(stream).welcome();
        assert!(answer.window >= 1_000 && answer.window <= 256 << 10, "{answer:?}");
        while session.conn.write(&[3; 100]).is_ok() {}
        let mut sent = 0;
        second.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
        while let Ok(frame) = second.frame() {
            if frame.stream == stream && frame.kind == 0 {
                sent += frame.body.len();
            }
        }
        assert_eq!(sent, 1_000, "as much as the window, of 100 that come again and many more");
    });
}

/// RST on a live connection is the end, not a loss.
#[test]
fn a_reset_of_the_stream_ends_the_session() {
    within(60, || {
        let (victim, key) = (Victim::new(), Keypair::generate_ed25519());
        let mut session = Session::open(&victim, &key, 1);
        session.carrier.send(&header(1, RST, session.stream, 0)).expect("sent");
        assert_kind(session.conn.read(&mut [0]), &[ErrorKind::ConnectionReset]);
        assert_kind(session.conn.write(b"x"), ENDED);
        let mut second = victim.dial(&key);
        let fate = second.ask(&session.hello.again(2, 500));
        assert!(fate.gone().is_some_and(|code| code != 0), "{fate:?}");
        assert_eq!(victim.host.stats().conns_waiting, 0);
    });
}
