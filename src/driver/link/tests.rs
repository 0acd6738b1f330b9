//! What a link promises and its own files cannot show: those that `model` runs too are
//! compiled twice.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::rest::Age;
use super::{Link, Negotiated};
use crate::driver::STILL;
use crate::driver::stream::{Stream, User};
use crate::error::{Error, ErrorCode};
use crate::proto::yamux::Control;
use crate::testing::eventually;
use crate::{Conn, Host, Listener};

#[test]
fn a_tick_says_what_rests_while_the_link_is_busy() {
    let age = Age::default();
    assert!(!age.ticks() && !age.end());
    age.begin();
    assert!(!age.is_none() && !age.ticks() && age.ticks());
    assert!(age.end() && age.is_none() && !age.ticks());
}

#[test]
fn the_end_of_a_conn_that_no_other_follows_is_said_soon() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let (ends, ended) = mpsc::channel();
    let far = std::thread::spawn(move || {
        while let Ok((mut conn, _)) = listener.accept() {
            let mut byte = [0];
            conn.read_exact(&mut byte).unwrap();
            conn.write_all(&byte).unwrap();
            assert_eq!(conn.read(&mut byte).unwrap(), 0);
            ends.send(Instant::now()).unwrap();
            if byte == [1] {
                return;
            }
        }
    });
    let target = &server.dial_addrs()[0];
    let echo = |byte: u8| {
        let mut conn = Conn::connect(&client, target, "/x").unwrap();
        conn.write_all(&[byte]).unwrap();
        conn.read_exact(&mut [0]).unwrap();
    };
    let mut rested = false;
    let start = Instant::now();
    while !rested && start.elapsed() < Duration::from_secs(5) {
        echo(0);
        rested = !client.handle.core.links()[0].rest.frames.is_none();
    }
    assert!(rested, "a thread that goes from conn to conn says an end with a beginning");
    echo(1);
    let last = Instant::now();
    far.join().unwrap();
    let took = ended.iter().last().unwrap().saturating_duration_since(last);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(client.handle.core.links()[0].rest.frames.is_none());
}

#[test]
fn a_link_whose_socket_cannot_be_watched_ends() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let _listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let target = &server.dial_addrs()[0];
    let mut conn = Conn::connect(&client, target, "/x").unwrap();
    conn.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let link = client.handle.core.links().remove(0);
    let mut attempts = 0..500;
    let error = loop {
        attempts.next().expect("it ends soon");
        // The reactor has the socket back; it is as if the system had lost it.
        std::thread::sleep(Duration::from_millis(5));
        link.reactor.deregister(&link.socket);
        match conn.read(&mut [0]) {
            Err(e) if e.kind() == ErrorKind::TimedOut => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert!(error.to_string().contains("watch"), "{error}");
    Conn::connect(&client, target, "/x").expect("a new connection");
}

/// Two hosts with a conn, and the link and the stream of the one that dialled.
fn plain_ends() -> (Host, Host, Conn, Conn, Arc<Link>, Arc<Stream>) {
    let host = || Host::builder().listen_on("127.0.0.1:0").resumable(false).build().unwrap();
    let (server, client) = (host(), host());
    let listener = Listener::bind(&server, "/x").unwrap();
    let near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
    let (far, _) = listener.accept().unwrap();
    let link = client.handle.core.links().remove(0);
    let stream = link.table().remove(0);
    (server, client, near, far, link, stream)
}

/// Writes until so much waits for a socket that takes no more.
fn fill_socket(link: &Arc<Link>, stream: &Arc<Stream>, waiting: usize) {
    let bytes = vec![7; 16 << 10];
    let mut looks = 0;
    while looks < 20 {
        if link.tx.lock().pending() < waiting {
            stream.flow.add_credit(16 << 10).unwrap();
            link.write_now(stream, &[IoSlice::new(&bytes)], false).unwrap();
            looks = 0;
        } else {
            // The kernel may make room for more once or twice.
            std::thread::sleep(Duration::from_millis(10));
            looks += 1;
        }
    }
}

/// Handles keep it, and it still knows what went out.
#[test]
fn a_link_that_has_ended_keeps_nothing_for_its_socket() {
    let (server, _client, mut near, _far, link, stream) = plain_ends();
    near.write_all(b"sent").unwrap();
    near.flush().unwrap();
    let sent = link.written();
    let theirs = server.handle.core.links().remove(0);
    // Its host does not read any more.
    let stopped = theirs.rx.lock();
    fill_socket(&link, &stream, 200 << 10);
    let mark = link.written();
    assert!(link.budget().used() > 200 << 10 && !link.has_sent(mark));
    link.die(Error::new(ErrorCode::ConnectionReset, "cut by a test"));
    drop(stopped);
    // Its stream has a small buffer at hand.
    assert!(link.budget().used() <= 4096, "{} bytes", link.budget().used());
    assert_eq!((link.written(), link.has_sent(sent), link.has_sent(mark)), (mark, true, false));
    let error = near.flush().expect_err("it was not sent");
    assert!(error.to_string().contains("cut by a test"), "{error}");
    assert_eq!(link.said(), None);
}

/// There is no end behind what was thrown away, though the peer had finished.
#[test]
fn what_nobody_reads_of_a_link_that_has_ended_is_given_back() {
    let (_server, client, mut near, mut far, link, stream) = plain_ends();
    far.write_all(&[7; 100_000]).unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the end", || stream.state.lock().finished());
    link.die(Error::new(ErrorCode::ConnectionReset, "cut by a test"));
    near.read_exact(&mut [0; 1000]).unwrap();
    let outlived = client.handle.core.outlived_links();
    assert!(outlived.len() == 1 && Arc::ptr_eq(&outlived[0], &link));
    let now = Instant::now();
    assert!(link.unread(now).is_empty(), "it was read a moment ago");
    let mut held = link.unread(now + STILL);
    let held = held.pop().expect("one that is left");
    assert!(held.bytes >= 99_000 && held.peer == far.local_peer_id());
    (held.give_back)();
    assert_eq!(link.budget().used(), 0);
    let error = near.read(&mut [0]).expect_err("it is not whole");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    drop((near, stream));
    assert!(link.unread(now + STILL).is_empty() && !link.is_outlived());
}

#[test]
fn little_that_waits_for_a_full_socket_takes_little_memory() {
    for what in ["a byte of a long write", "a byte of one that is kept", "short writes", "pongs"] {
        let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
        let listener = Listener::bind(&server, "/x").unwrap();
        let client = Host::new().unwrap();
        let _near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
        let _far = listener.accept().unwrap();
        let link = client.handle.core.links().remove(0);
        let stream = link.table().remove(0);
        let theirs = server.handle.core.links().remove(0);
        // Its host does not read any more.
        let stopped = theirs.rx.lock();
        let bytes = vec![7; 1 << 20];
        fill_socket(&link, &stream, 64 << 10);
        stream.flow.set_credit(0, 0);
        let before = link.budget().used();
        for _ in 0..1000 {
            match what {
                "pongs" => {
                    link.push(Control::Pong(7)).unwrap();
                    link.flush_control();
                }
                "short writes" => {
                    stream.flow.add_credit(20).unwrap();
                    link.write_now(&stream, &[IoSlice::new(&bytes[..20])], false).unwrap();
                }
                _ => {
                    stream.flow.add_credit(1).unwrap();
                    link.write_now(&stream, &[IoSlice::new(&bytes)], what.ends_with("kept"))
                        .unwrap();
                }
            }
        }
        let more = link.budget().used().saturating_sub(before);
        assert!(more < 1 << 20, "{what}: {more} bytes");
        drop(stopped);
    }
}

#[test]
fn a_connect_that_waits_for_room_hears_that_its_connection_is_being_closed() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let _listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let _near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
    let link = client.handle.core.links().remove(0);
    let theirs = server.handle.core.links().remove(0);
    link.unacked.fetch_add(link.most_unacked(), Relaxed);
    let deadline = Instant::now() + Duration::from_secs(10);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| link.open("/x", Some(deadline)));
        eventually("it waits", || !link.notices.lock().waiters.is_empty());
        // Nobody answers.
        let _stopped = theirs.rx.lock();
        let why = Error::new(ErrorCode::ConnectionAborted, "closed by a test");
        assert!(link.begin_close(&why).is_some());
        let opened = opened.join().unwrap();
        assert!(matches!(opened, Ok(Negotiated::LinkGone(_))));
        assert!(Instant::now() + Duration::from_secs(5) < deadline, "at its end");
    });
}

#[test]
fn the_time_of_a_stream_that_nobody_has_begins_once() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let _near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
    let _far = listener.accept().unwrap();
    let link = client.handle.core.links().remove(0);
    let stream = link.table().remove(0);
    let release = || {
        link.release(&stream);
        match stream.state.lock().user {
            User::Gone(since) => since,
            _ => unreachable!("it was released"),
        }
    };
    assert_eq!(release(), release());
}

#[test]
fn every_stream_that_is_given_up_is_reset_however_many_there_are() {
    let builder = || Host::builder().resumable(false).max_streams(2000);
    let host = || builder().listen_on("127.0.0.1:0").build().unwrap();
    let (server, client) = (host(), host());
    let listener = Listener::bind(&server, "/x").unwrap();
    let conns: Vec<_> = (0..1500)
        .map(|_| {
            let near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
            (near, listener.accept().unwrap().0)
        })
        .collect();
    let link = client.handle.core.links().remove(0);
    let busy = link.tx.lock();
    let streams = link.table();
    streams.iter().for_each(|stream| link.reset(stream));
    drop(busy);
    link.flush_control();
    for (_, mut far) in conns {
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert!(link.death().is_none());
}

/// Its writes would find the link at its end, and no reason on the stream.
#[test]
fn no_stream_comes_onto_a_link_unseen_by_whoever_closes_it() {
    let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
    let _listener = Listener::bind(&server, "/x").unwrap();
    let client = Host::new().unwrap();
    let target = &server.dial_addrs()[0];
    let _near = Conn::connect(&client, target, "/x").unwrap();
    let link = client.handle.core.links().remove(0);
    let why = Error::new(ErrorCode::ConnectionAborted, "closed by a test");
    std::thread::scope(|scope| {
        let (table, queue) = (link.rx.lock(), link.control.lock());
        // It is held up behind its look whether the link is open.
        scope.spawn(|| Conn::connect(&client, target, "/x"));
        eventually("it opens a stream", || link.tx.is_locked());
        let closes = scope.spawn(|| link.begin_close(&why));
        // Time to overtake it.
        std::thread::sleep(Duration::from_millis(50));
        drop(table);
        std::thread::sleep(Duration::from_millis(50));
        drop(queue);
        assert!(closes.join().unwrap().is_some());
        eventually("it is open or not", || !link.tx.is_locked());
        let ended = |stream: &Arc<Stream>| stream.state.lock().write_end().is_some();
        assert!(link.table().iter().all(ended));
    });
}
