//! The wire that the other tests break: each of its faults, seen by plain sockets.

mod common;

use common::{Cut, Dice, Proxy, Ways, payload, within};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// A proxy and what it forwards to.
fn wire() -> (Proxy, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    (Proxy::toward(listener.local_addr().expect("an address")), listener)
}

fn connect(proxy: &Proxy, listener: &TcpListener) -> [TcpStream; 2] {
    let near = TcpStream::connect(proxy.socket()).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    // Once a byte has gone through, the proxy has the connection on its list.
    for (mut from, mut to) in [(&near, &far), (&far, &near)] {
        from.set_nodelay(true).expect("set");
        from.write_all(b"x").expect("write");
        to.read_exact(&mut [0]).expect("read");
    }
    [near, far]
}

/// Nothing arrives there for a while.
#[track_caller]
fn assert_silent(mut end: &TcpStream) {
    end.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let silence = end.read(&mut [0]).expect_err("nothing to read").kind();
    assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    end.set_read_timeout(None).expect("set");
}

#[track_caller]
fn assert_carries(mut from: &TcpStream, mut to: &TcpStream, len: usize) {
    let (sent, mut arrived) = (payload(len as u64, len), vec![0; len]);
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).expect("write"));
        to.read_exact(&mut arrived).expect("read");
    });
    assert!(sent == arrived);
}

#[test]
fn a_whole_wire_carries_everything_and_each_end() {
    within(30, || {
        let (proxy, listener) = wire();
        let [near, far] = connect(&proxy, &listener);
        assert_carries(&near, &far, 3_000_000);
        assert_carries(&far, &near, 3_000_000);
        near.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!((&far).read(&mut [0]).expect("the end"), 0);
        assert_carries(&far, &near, 100_000);
        drop(far);
        assert_eq!((&near).read(&mut [0]).expect("the end"), 0);
    });
}

#[test]
fn a_reset_is_a_reset_and_a_close_an_end_on_both_sides() {
    within(30, || {
        let (proxy, listener) = wire();
        let [near, far] = connect(&proxy, &listener);
        assert_eq!(proxy.cut(Cut::Reset), 1);
        for mut end in [&near, &far] {
            let reset = end.read(&mut [0]).expect_err("a reset");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        }
        let [near, far] = connect(&proxy, &listener);
        assert_eq!(proxy.cut(Cut::Close), 1);
        for mut end in [&near, &far] {
            assert_eq!(end.read(&mut [0]).expect("an end"), 0);
        }
        assert_eq!((proxy.cuts(), proxy.accepted(), proxy.cut(Cut::Reset)), (2, 2, 0));
    });
}

#[test]
fn a_reset_ends_a_wire_that_is_full() {
    within(30, || {
        let (proxy, listener) = wire();
        let [mut near, _far] = connect(&proxy, &listener);
        thread::scope(|scope| {
            let writer = scope.spawn(move || near.write_all(&payload(1, 64 << 20)));
            // Until nobody takes any more.
            thread::sleep(Duration::from_millis(200));
            proxy.cut(Cut::Reset);
            assert!(writer.join().expect("no panic").is_err());
        });
    });
}

#[test]
fn a_stall_loses_nothing_and_a_black_hole_everything() {
    within(30, || {
        let (proxy, listener) = wire();
        let [near, far] = connect(&proxy, &listener);
        proxy.stall(Ways::Out);
        (&near).write_all(b"late").expect("into the kernel");
        assert_silent(&far);
        assert_carries(&far, &near, 10);
        proxy.flow();
        let mut late = [0; 4];
        (&far).read_exact(&mut late).expect("read");
        assert_eq!(&late, b"late");

        proxy.black_hole(Ways::Back);
        (&far).write_all(&payload(1, 8 << 20)).expect("all of it vanishes");
        assert_silent(&near);
        assert_carries(&near, &far, 10);
        proxy.flow();
        (&far).write_all(b"more").expect("it vanishes");
        assert_silent(&near);
        let [near, far] = connect(&proxy, &listener);
        assert_carries(&near, &far, 10);
    });
}

#[test]
fn it_can_be_slow_in_every_way() {
    within(30, || {
        let (proxy, listener) = wire();
        let [near, far] = connect(&proxy, &listener);
        let took = |len| {
            let start = Instant::now();
            assert_carries(&near, &far, len);
            start.elapsed()
        };
        proxy.delay(Duration::from_millis(150));
        assert!(took(100) >= Duration::from_millis(150));
        proxy.delay(Duration::ZERO);
        proxy.rate(1_000_000);
        assert!(took(200_000) >= Duration::from_millis(150));
        proxy.rate(u64::MAX);
        proxy.pieces(1);
        took(20_000);
    });
}

#[test]
fn cuts_come_after_so_many_bytes_and_so_much_time() {
    within(60, || {
        let dice = Dice::new();
        let (proxy, listener) = wire();
        proxy.cut_every_bytes(10_000, Cut::Reset, dice.clone());
        let mut total = 0;
        for _ in 0..50 {
            let mut near = TcpStream::connect(proxy.socket()).expect("connect");
            let (mut far, _) = listener.accept().expect("accept");
            let sender = thread::spawn(move || near.write_all(&payload(1, 1 << 20)));
            let mut arrived = Vec::new();
            let _ = far.read_to_end(&mut arrived);
            // The kernel may have taken it all.
            let _ = sender.join().expect("no panic");
            assert!(arrived[..] == payload(1, 1 << 20)[..arrived.len()]);
            assert!(arrived.len() <= 20_000, "{}", arrived.len());
            total += arrived.len();
        }
        assert!(total > 0 && proxy.cuts() == 50, "{total}");
        proxy.spare();

        let cutting = proxy.cut_every(Duration::from_millis(5), Cut::Close, dice);
        for _ in 0..5 {
            let Ok(mut near) = TcpStream::connect(proxy.socket()) else { continue };
            let (_far, _) = listener.accept().expect("accept");
            assert!(near.read(&mut [0]).is_ok_and(|n| n == 0));
        }
        drop(cutting);
        let [near, far] = connect(&proxy, &listener);
        assert_carries(&near, &far, 100);
    });
}

#[test]
fn a_refusal_is_one_and_a_new_target_takes_over() {
    within(30, || {
        let (proxy, listener) = wire();
        let [near, far] = connect(&proxy, &listener);
        proxy.refuse();
        for _ in 0..3 {
            let refused = TcpStream::connect(proxy.socket()).expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        assert_carries(&near, &far, 10);
        let other = TcpListener::bind("127.0.0.1:0").expect("bind");
        proxy.retarget(other.local_addr().expect("an address"));
        proxy.listen_again();
        let [near, far] = connect(&proxy, &other);
        assert_carries(&near, &far, 10);
    });
}

#[test]
fn damage_is_one_bit() {
    within(30, || {
        let (proxy, listener) = wire();
        let [mut near, mut far] = connect(&proxy, &listener);
        proxy.damage(Ways::Out);
        near.write_all(&[0; 4]).expect("write");
        let mut arrived = [9; 4];
        far.read_exact(&mut arrived).expect("read");
        assert_eq!(arrived.map(u8::count_ones).iter().sum::<u32>(), 1);
        assert_carries(&near, &far, 1_000);
    });
}
