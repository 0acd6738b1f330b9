//! Under contention what a conn of high priority writes goes out before what others
//! write, though they began earlier.

mod attacker;
mod common;

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use attacker::{Raw, SYN, header, line, opening};
use common::{PROTOCOL, builder, socket_address, within};
use pointsub::{Conn, Keypair, Listener, Priority};

/// Writers of normal priority on the same connection.
const OTHERS: usize = 24;

#[test]
fn a_conn_of_high_priority_goes_in_where_others_wait() {
    within(120, || {
        let server = builder().build().expect("a host");
        let listener = Listener::bind(&server, PROTOCOL).expect("bind");
        let mut raw = Raw::quiet(socket_address(&server), &Keypair::generate_ed25519());
        let raw = raw.as_mut().expect("dial");
        let mut conns: Vec<Conn> = (0..OTHERS + 2).map(|_| open(raw, &listener)).collect();
        let (mut high, mut normal) = (conns.pop().expect("one"), conns.pop().expect("another"));
        high.set_priority(Priority::High);
        for conn in [&high, &normal] {
            conn.set_nonblocking(true).expect("set");
        }
        let written = &AtomicU64::new(0);
        thread::scope(|scope| {
            for mut other in &conns {
                scope.spawn(move || {
                    while other.write_all(&[b'o'; 64 << 10]).is_ok() {
                        written.fetch_add(1, SeqCst);
                    }
                });
            }
            // The peer reads nothing: soon all of them wait for the socket.
            wait_until_still(written);
            let refused = loop {
                if let Err(e) = normal.write(&[b'o'; 1000]) {
                    break e.kind();
                }
            };
            assert_eq!(refused, ErrorKind::WouldBlock);
            normal.set_nonblocking(false).expect("set");
            scope.spawn(move || {
                let _ = normal.write_all(&[b'N'; 1000]);
            });
            thread::sleep(Duration::from_millis(100));
            high.write_all(&[b'H'; 1000]).expect("there is room");
            let (mut bodies, mut behind) = (Bodies::new(raw), 0);
            while bodies.next()[0] != b'H' {}
            while bodies.next()[0] != b'N' {
                behind += 1;
            }
            eprintln!("{behind} bodies of others between them");
            server.shutdown();
        });
    });
}

/// A stream on which the peer takes any amount.
fn open(raw: &mut Raw, listener: &Listener) -> Conn {
    let (id, first) = (raw.id(), opening(PROTOCOL));
    let syn = header(0, SYN, id, u32::try_from(first.len()).expect("short"));
    let credit = header(1, 0, id, 1 << 31);
    raw.send(&[&syn, &first[..], &credit].concat()).expect("send");
    listener.accept().expect("accept").0
}

/// Nothing tells that a thread waits: only that no more is written.
fn wait_until_still(written: &AtomicU64) {
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 && {
        eprintln!("{last}");
        true
    } || since.elapsed() < Duration::from_millis(500)
    {
        thread::sleep(Duration::from_millis(10));
        let now = written.load(SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// The bodies of the frames that the victim has sent, in their order.
struct Bodies<'a> {
    raw: &'a mut Raw,
    plain: VecDeque<u8>,
}

impl Bodies<'_> {
    fn new(raw: &mut Raw) -> Bodies<'_> {
        let mut bodies = Bodies { raw, plain: VecDeque::new() };
        bodies.take(line("/multistream/1.0.0").len() + line("/yamux/1.0.0").len());
        bodies
    }

    /// That of the next frame with data; it has at least one byte.
    fn next(&mut self) -> Vec<u8> {
        loop {
            let header = self.take(12);
            let length = u32::from_be_bytes(header[8..].try_into().expect("four bytes"));
            if header[1] == 0 && length > 0 {
                return self.take(length as usize);
            }
        }
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        while self.plain.len() < n {
            self.plain.extend(self.raw.receive().expect("the next frame"));
        }
        self.plain.drain(..n).collect()
    }
}
