//! What depends on moments that no test from outside can choose.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::carriers::Carrier;
use super::resuming::Asking;
use super::{Outage, Phase, Session};
use crate::driver::{Patience, STILL};
use crate::error::{Error, ErrorCode};
use crate::testing::eventually;
use crate::{Conn, Host, Listener};

/// Two ends of a conn whose hosts are here, and their sessions.
struct Ends {
    near: Conn,
    far: Conn,
    session: Arc<Session>,
    client: Host,
    _listener: Listener,
}

fn ends() -> Ends {
    let linger = Duration::from_millis(200);
    let host = || Host::builder().listen_on("127.0.0.1:0").linger(linger).build().unwrap();
    let (server, client) = (host(), host());
    let listener = Listener::bind(&server, "/x").unwrap();
    let near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
    let (far, _) = listener.accept().unwrap();
    for conn in [&near, &far] {
        conn.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        conn.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    let session = client.handle.core.sessions.live(None).remove(0);
    Ends { near, far, session, client, _listener: listener }
}

/// The connection is lost at both ends.
fn cut(carrier: &Carrier) {
    carrier.link.die(Error::new(ErrorCode::ConnectionReset, "cut by a test"));
}

/// A host that ends gives its sessions up, and then the connection breaks off.
#[test]
fn a_read_fails_where_the_session_ended_before_its_connection() {
    let Ends { mut near, far: _far, session, .. } = ends();
    let carrier = session.current().unwrap();
    session.give_up(Error::new(ErrorCode::NotConnected, "the host has been shut down"));
    cut(&carrier);
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(near.peek(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
}

/// Whoever ends a lost session may come late.
#[test]
fn a_session_that_goes_on_again_is_not_given_up_as_lost() {
    let Ends { mut near, mut far, session, .. } = ends();
    session.give_up_lost(Error::new(ErrorCode::ConnectionReset, "too many"));
    near.write_all(b"on").unwrap();
    let mut buf = [0; 2];
    far.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"on");
}

/// A reader that looked for bytes before a loss finds them where they are then, and the
/// peer may send as much again.
#[test]
fn what_is_left_of_a_lost_carrier_is_read_and_granted() {
    let Ends { mut near, mut far, session, .. } = ends();
    let full = 256 * 1024;
    far.write_all(&vec![7; full]).unwrap();
    eventually("a shut window", || near.stats().unread == full);
    let source = session.current().unwrap();
    cut(&source);
    eventually("a resumption", || near.stats().resumes == 1 && far.stats().resumes == 1);
    let mut all = vec![0; full];
    let bufs = &mut [IoSliceMut::new(&mut all)];
    source.link.read(&source.stream, bufs, Patience::None).unwrap_err();
    assert_eq!(near.peek(&mut all).unwrap(), full);
    near.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == 7));
    far.write_all(b"more").unwrap();
    let mut more = [0; 4];
    near.read_exact(&mut more).unwrap();
    assert_eq!(&more, b"more");
}

/// Whoever looked on the carrier that brought the peer's end does not find it there before
/// what is left.
#[test]
fn an_end_comes_behind_what_is_left_of_its_carrier() {
    let Ends { mut near, mut far, session, .. } = ends();
    far.write_all(b"left").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    eventually("the end", || session.state.lock().carriers.is_finished());
    let source = session.current().unwrap();
    cut(&source);
    eventually("a resumption", || near.stats().resumes == 1);
    let mut buf = [0; 5];
    let bufs = &mut [IoSliceMut::new(&mut buf)];
    source.link.read(&source.stream, bufs, Patience::None).unwrap_err();
    assert_eq!(near.read(&mut buf).unwrap(), 4);
    assert_eq!(near.read(&mut buf).unwrap(), 0);
}

/// A handle keeps it, and no table: the host finds it all the same where memory is short.
#[test]
fn what_an_ended_session_has_left_can_be_had_back() {
    let Ends { mut near, mut far, session, client, .. } = ends();
    far.write_all(&[7; 100_000]).unwrap();
    eventually("all", || near.stats().unread == 100_000);
    cut(&session.current().unwrap());
    session.settle();
    session.give_up(Error::new(ErrorCode::ConnectionReset, "given up by a test"));
    let sessions = &client.handle.core.sessions;
    eventually("its burial", || sessions.live(None).is_empty());
    for _ in 0..3 {
        session.finish_if_over(Instant::now());
    }
    near.read_exact(&mut [0; 1000]).unwrap();
    let now = Instant::now();
    assert!(sessions.holdings(now).is_empty(), "it was read a moment ago");
    let mut held = sessions.holdings(now + STILL);
    assert!(held.len() == 1 && held[0].bytes >= 99_000);
    (held.remove(0).give_back)();
    assert!(sessions.holdings(now + STILL).is_empty());
    assert_eq!(near.stats().unread, 0);
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::OutOfMemory);
}

/// However often a connection is lost, nothing is kept of it but what was not read.
#[test]
fn unread_bytes_hold_no_lost_connection() {
    let Ends { mut near, mut far, session, .. } = ends();
    let rounds = 40;
    let mut links = Vec::new();
    for round in 1..=rounds {
        far.write_all(&[round]).unwrap();
        eventually("a byte", || near.stats().unread == usize::from(round));
        let carrier = session.current().unwrap();
        links.push(Arc::downgrade(&carrier.link));
        cut(&carrier);
        let times = u64::from(round);
        eventually("a resumption", || {
            near.stats().resumes == times && far.stats().resumes == times
        });
    }
    eventually("all are let go", || links.iter().all(|link| link.strong_count() == 0));
    let memory = session.sessions.resources.memory.used();
    assert!(memory < 16 * 1024, "{memory} bytes for {rounds}");
    let mut all = vec![0; usize::from(rounds)];
    near.read_exact(&mut all).unwrap();
    assert!(all.into_iter().eq(1..=rounds), "in their order");
}

/// All has arrived and both ends know it: a flush has nothing to wait for.
#[test]
fn a_flush_behind_the_end_returns_whatever_became_of_the_connection() {
    let Ends { mut near, far, session, .. } = ends();
    near.shutdown(Shutdown::Write).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    eventually("the end", || matches!(session.state.lock().phase, Phase::Ended(None)));
    cut(&session.current().unwrap());
    near.flush().unwrap();
    session.state.lock().carriers.detach(&Error::new(ErrorCode::ConnectionReset, "lost"));
    near.flush().unwrap();
}

/// Only whether the peer has the last receipt is open: nothing is held for that but the
/// session itself, and for a moment.
#[test]
fn a_complete_session_has_no_place_on_its_link_and_no_memory() {
    let was_complete = |_| {
        let Ends { mut near, mut far, session, client, .. } = ends();
        let link = session.current().unwrap().link.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                near.write_all(&vec![7; 3 << 20]).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            });
            far.read_to_end(&mut Vec::new()).unwrap();
        });
        eventually("all is delivered", || session.settled.load(SeqCst));
        assert!(session.sessions.resources.memory.used() <= 4096, "in an idle host");
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        drop(near);
        eventually("the stream is forgotten", || link.streams() == 0);
        let complete = matches!(session.state.lock().phase, Phase::Attached);
        eventually("its end", || matches!(session.state.lock().phase, Phase::Ended(None)));
        eventually("its host forgets it", || session.sessions.live(None).is_empty());
        drop((client, far));
        complete
    };
    // A test that is held up finds it ended.
    assert!((0..20).any(was_complete));
}

/// What both ends have is worth less than what one still lacks.
#[test]
fn complete_sessions_go_first_where_too_many_are_lost() {
    let Ends { near, session, client, _listener, .. } = ends();
    let sessions = session.sessions.clone();
    let _other = Conn::connect(&client, near.peer_id(), "/x").unwrap();
    let other = sessions.live(None).into_iter().find(|one| !Arc::ptr_eq(one, &session)).unwrap();
    let mut numbers = Vec::new();
    let mut enlist = |session: &Session, complete| {
        let (number, goes) = sessions.enlist(session, false, complete);
        numbers.push((session.me.clone(), number));
        goes
    };
    assert!((0..1023).all(|_| enlist(&session, false).is_none()));
    assert!(enlist(&other, true).is_none());
    let goes = enlist(&session, false).expect("one too many");
    assert!(Arc::ptr_eq(&goes, &other), "not the oldest");
    for (session, number) in numbers {
        sessions.strike_off(&session.upgrade().unwrap(), number);
    }
    assert_eq!(sessions.waiting(), 0);
}

/// A busy conn holds up nobody else who comes in or accepts.
#[test]
fn an_accept_queue_is_free_while_a_conn_in_it_is_busy() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let _near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
    let session = server.handle.core.sessions.live(None).remove(0);
    let busy = session.state.lock();
    let (accepting, looking) = (listener.try_clone().unwrap(), listener);
    let accepted = std::thread::spawn(move || accepting.accept());
    let (tell, taken) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eventually("it is taken", || looking.stats().waiting == 0);
        tell.send(()).unwrap();
    });
    taken.recv_timeout(Duration::from_secs(20)).expect("the queue is free");
    drop(busy);
    accepted.join().unwrap().unwrap();
}

/// Places to ask are as many as were given back.
#[test]
fn a_place_to_ask_is_given_back_once() {
    let Ends { near, session, .. } = ends();
    let peer = near.peer_id();
    let take = || session.sessions.place_to_ask(&peer);
    let mut places: Vec<_> = std::iter::from_fn(take).collect();
    assert_eq!(places.len(), 64);
    for free in [1, 3, 64] {
        places.truncate(64 - free);
        places.extend(std::iter::from_fn(take));
        assert_eq!(places.len(), 64);
    }
}

/// Whatever ends a session that asks: its stream goes, and others may ask.
#[test]
fn a_session_that_ends_while_it_asks_leaves_no_stream_behind() {
    let finished = |session: &Session| {
        // The peer's end had come on a carrier before, and nobody owes anything.
        let mut state = session.state.lock();
        let why = Error::new(ErrorCode::NotConnected, "the host is being closed");
        state.carriers.finished = true;
        state.closing = Some((why, Instant::now() + Duration::from_secs(10)));
        drop(state);
        session.finish_if_over(Instant::now());
    };
    let given_up = |session: &Session| session.give_up(Error::new(ErrorCode::Io, "by a test"));
    for end in [&finished as &dyn Fn(&Session), &given_up] {
        let Ends { near, mut far, session, client, _listener } = ends();
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        eventually("its end is confirmed", || session.settled.load(SeqCst));
        // It asks on a stream that nobody answers: of another conn.
        let _other = Conn::connect(&client, near.peer_id(), "/x").unwrap();
        let (mut other_far, _) = _listener.accept().unwrap();
        other_far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let others = session.sessions.live(None);
        let other = others.iter().find(|one| !Arc::ptr_eq(one, &session)).unwrap();
        let (carrier, sessions) = (other.current().unwrap(), &session.sessions);
        {
            let (now, why) = (Instant::now(), Error::new(ErrorCode::ConnectionReset, "lost"));
            let (number, _) = sessions.enlist(&session, true, false);
            let place = sessions.place_to_ask(&near.peer_id()).unwrap();
            let mut state = session.state.lock();
            state.carriers.detach(&why);
            let deadline = now + Duration::from_secs(10);
            let mut outage = Outage::new(number, &carrier.link, why, now, deadline);
            outage.asking =
                Some(Asking { carrier: carrier.clone(), since: now, looks: now, place });
            state.phase = Phase::Lost(Box::new(outage));
        }
        end(&session);
        assert!(matches!(session.state.lock().phase, Phase::Ended(_)));
        assert_eq!(other_far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let take = || sessions.place_to_ask(&near.peer_id());
        assert_eq!(std::iter::from_fn(take).take(64).collect::<Vec<_>>().len(), 64);
    }
}

/// Each thread that redials looks whether it is needed whenever any session of the host has
/// news: that takes no longer where many are lost.
#[test]
fn whether_a_peer_is_to_be_dialled_is_known_without_a_look_at_all_that_are_lost() {
    let Ends { near, session, .. } = ends();
    let (sessions, peer) = (&session.sessions, near.peer_id());
    let time = || {
        let run = |_| {
            let table = sessions.table.lock();
            let start = Instant::now();
            assert!((0..10_000).all(|_| !table.lost.wants(&peer)));
            start.elapsed()
        };
        (0..5).map(run).min().unwrap()
    };
    let (first, _) = sessions.enlist(&session, false, false);
    let one = time();
    let others: Vec<_> = (1..1024).map(|_| sessions.enlist(&session, false, false).0).collect();
    let many = time();
    assert!(many < one * 50, "{one:?} with one, {many:?} with {}", others.len() + 1);

    let (dials, _) = sessions.enlist(&session, true, false);
    sessions.strike_off(&session, first);
    assert!(sessions.table.lock().lost.wants(&peer));
    sessions.strike_off(&session, dials);
    assert!(!sessions.table.lock().lost.wants(&peer));
    others.into_iter().for_each(|number| sessions.strike_off(&session, number));
    assert_eq!(sessions.waiting(), 0);
}

/// A head is behind much else on a slow connection; but for ever nobody waits.
#[test]
fn an_answer_is_late_where_nothing_moves_or_the_link_is_only_kept_busy() {
    let Ends { mut near, mut far, session, .. } = ends();
    let seconds = Duration::from_secs;
    assert_eq!(session.sessions.limits.answer, seconds(10));
    let link = session.current().unwrap().link.clone();
    let asked = Instant::now() - seconds(9);
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    let moved = link.last_moved();
    assert!(moved >= asked + seconds(8));
    session.wait_for_answer(&link, asked, moved + seconds(9));
    assert!(link.death().is_none());
    session.wait_for_answer(&link, moved - seconds(115), moved + seconds(4));
    assert!(link.death().is_none());
    session.wait_for_answer(&link, moved - seconds(115), moved + seconds(6));
    let why = link.death().expect("two minutes are over").to_string();
    assert!(why.contains("did not answer"), "{why}");
    eventually("a resumption", || near.stats().resumes == 1);
    let link = session.current().unwrap().link.clone();
    let moved = link.last_moved();
    session.wait_for_answer(&link, moved, moved + seconds(10));
    assert!(link.death().is_some());
}

/// The peer may have given the others up.
#[test]
fn a_session_that_is_back_makes_way_for_others_that_come_and_not_for_long() {
    for others_end in [true, false] {
        let Ends { mut near, mut far, session, .. } = ends();
        let sessions = session.sessions.clone();
        let (number, _) = sessions.enlist(&session, false, false);
        let start = Instant::now();
        cut(&session.current().unwrap());
        eventually("a resumption", || near.stats().resumes == 1);
        let (mut said, mut little) = (vec![7; 4000], [0; 4]);
        near.write_all(b"said").unwrap();
        far.read_exact(&mut little).unwrap();
        near.write_all(&said).unwrap();
        assert!(session.writer.lock().is_behind() || start.elapsed() > Duration::from_millis(500));
        if others_end {
            sessions.strike_off(&session, number);
        }
        near.flush().unwrap();
        let waited = start.elapsed();
        far.read_exact(&mut said).unwrap();
        assert!(said.iter().all(|&byte| byte == 7));
        assert!(others_end || waited >= Duration::from_millis(490), "{waited:?}");
        near.write_all(b"more").unwrap();
        far.read_exact(&mut little).unwrap();
        assert_eq!((&little, session.writer.lock().way.is_none()), (b"more", true));
        if !others_end {
            sessions.strike_off(&session, number);
        }
    }
}

/// It does not wait for the next thing to happen.
#[test]
fn a_flush_returns_when_the_last_byte_is_out() {
    let Ends { near, far: _far, session, .. } = ends();
    let carrier = session.current().unwrap();
    let late = |_| {
        {
            let mut out = session.writer.lock();
            out.append(&[IoSlice::new(b"x")], 1);
            session.unsent.store(super::writing::NOWHERE, SeqCst);
        }
        std::thread::scope(|scope| {
            let flushed = scope.spawn(|| {
                (&near).flush().unwrap();
                Instant::now()
            });
            eventually("it waits", || carrier.stream.state.lock().has_writers());
            let mut out = session.writer.lock();
            session.advance(&mut out, &carrier);
            // It is awake by now, and looks.
            std::thread::sleep(Duration::from_millis(10));
            let free = Instant::now();
            drop(out);
            flushed.join().unwrap().saturating_duration_since(free)
        })
    };
    let best = (0..5).map(late).min().unwrap();
    assert!(best < Duration::from_millis(50), "as if for the receipt: {best:?}");
}

/// A peer that says everything but the answer has it wait no longer than a lost conn waits.
#[test]
fn a_busy_link_without_an_answer_holds_no_session_beyond_its_time() {
    let Ends { near, far: _far, session, client, _listener } = ends();
    let other = Conn::connect(&client, near.peer_id(), "/x").unwrap();
    let (other_far, _) = _listener.accept().unwrap();
    // It asks on a stream that nobody answers.
    let _third = Conn::connect(&client, near.peer_id(), "/x").unwrap();
    let (_third_far, _) = _listener.accept().unwrap();
    let third = session.sessions.live(None).into_iter().max_by_key(|one| one.newest().1.id);
    let (carrier, sessions) = (third.unwrap().current().unwrap(), &session.sessions);
    let (now, why) = (Instant::now(), Error::new(ErrorCode::ConnectionReset, "lost"));
    {
        let (number, _) = sessions.enlist(&session, true, false);
        let place = sessions.place_to_ask(&near.peer_id()).unwrap();
        let mut state = session.state.lock();
        state.carriers.detach(&why);
        let deadline = now + Duration::from_secs(1);
        let mut outage = Outage::new(number, &carrier.link, why, now, deadline);
        let looks = now + Duration::from_millis(100);
        outage.asking = Some(Asking { carrier: carrier.clone(), since: now, looks, place });
        state.phase = Phase::Lost(Box::new(outage));
    }
    session.set_alarm();
    eventually("its end", || {
        (&other_far).write_all(b"x").unwrap();
        (&other).read_exact(&mut [0]).unwrap();
        matches!(session.state.lock().phase, Phase::Ended(Some(_)))
    });
    assert!(now.elapsed() >= Duration::from_secs(1) && carrier.link.death().is_none());
}

/// There is little time for what it has to say.
#[test]
fn a_session_whose_host_is_closed_makes_way_for_nobody() {
    for _ in 0..3 {
        let Ends { mut near, mut far, session, client, _listener } = ends();
        let (number, _) = session.sessions.enlist(&session, false, false);
        cut(&session.current().unwrap());
        eventually("a resumption", || near.stats().resumes == 1);
        near.write_all(&[7; 4000]).unwrap();
        drop(near);
        let closing = Instant::now();
        client.shutdown();
        assert!(closing.elapsed() < Duration::from_millis(400), "{:?}", closing.elapsed());
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 4000);
        session.sessions.strike_off(&session, number);
    }
}

#[test]
fn who_never_comes_back_is_waited_for_once() {
    let Ends { near, mut far, session, client: _client, _listener } = ends();
    let (number, _) = session.sessions.enlist(&session, false, false);
    let mut waits = Vec::new();
    for n in 1..=4 {
        cut(&session.current().unwrap());
        eventually("a resumption", || near.stats().resumes == n);
        let start = Instant::now();
        (&near).write_all(&[7; 4000]).unwrap();
        far.read_exact(&mut [0; 4000]).unwrap();
        waits.push(start.elapsed());
    }
    let long = waits.iter().filter(|wait| **wait >= Duration::from_millis(300)).count();
    assert!(long <= 1, "{waits:?}");
    session.sessions.strike_off(&session, number);
}
