//! Checksums off, compression, rates, limits, halves, batches, parts: each
//! does what it says, and everything still arrives as sent.

mod common;
mod support;

use std::io::{self, IoSlice, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::Pair;
use pointsub::message::{
    Admission, Compression, Direction, MessageSizer, MessageTransporterBuilder, SizeClass,
    StallLimit, Strategy,
};
use pointsub::{
    ErrorCode, MessageTransporter, receive_message, receive_stream, send_message, send_stream,
};
use support::{bytes, tcp_pair};

#[test]
fn without_checksums_headers_are_still_checked() {
    for size in [0, 10, 70_000] {
        let mut here = MessageTransporter::builder(Vec::new()).checksum(false).build();
        here.send(&vec![5; size]).unwrap();
        here.send_stream(&mut &vec![6; size][..]).unwrap();
        let wire = here.into_inner();
        let mut there = MessageTransporter::new(&wire[..]);
        assert_eq!(there.receive().unwrap(), vec![5; size]);
        assert_eq!(there.receive().unwrap(), vec![6; size]);
        for bit in 0..32 {
            let mut damaged = wire.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let e = receive_message(&mut &damaged[..]).unwrap_err();
            assert_eq!(e.code(), ErrorCode::InvalidHeader);
        }
    }
}

fn compressions() -> Vec<Compression> {
    vec![
        Compression::Off,
        #[cfg(feature = "lz4")]
        Compression::Lz4,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ]
}

#[test]
fn compressed_or_not_everything_arrives() {
    for compression in compressions() {
        for size in [0, 1, 63, 64, 1000, 65_535, 65_536, 3_000_000] {
            for content in [bytes(1, size), b"text ".repeat(size / 5 + 1)[..size].to_vec()] {
                let mut here =
                    MessageTransporter::builder(Vec::new()).compression(compression).build();
                here.send(&content).unwrap();
                here.send_stream(&mut &content[..]).unwrap();
                here.send_batch(&[&content, &content]).unwrap();
                let wire = here.into_inner();
                let mut there = MessageTransporter::new(&wire[..]);
                let mut out = Vec::new();
                assert_eq!(there.receive_stream(&mut out).unwrap(), size as u64);
                assert!(out == content);
                for _ in 0..3 {
                    assert!(there.receive().unwrap() == content, "{compression:?} {size}");
                }
                // Above the limit: refused, skipped, and the rest is in order.
                if size > 64 {
                    let mut there =
                        MessageTransporter::builder(&wire[..]).max_message_size(size - 1).build();
                    for _ in 0..4 {
                        let e = there.receive().unwrap_err();
                        assert_eq!(e.code(), ErrorCode::MessageTooLarge);
                    }
                    let e = there.receive().unwrap_err();
                    assert_eq!(e.code(), ErrorCode::ConnectionClosed);
                }
            }
        }
    }
}

#[test]
fn compression_is_kept_only_where_it_saves_a_tenth() {
    for compression in compressions() {
        let send = |content: &[u8]| {
            let mut here = MessageTransporter::builder(Vec::new()).compression(compression).build();
            here.send(content).unwrap();
            here.into_inner().len()
        };
        assert!(send(&bytes(1, 50_000)) == 50_008);
        if compression != Compression::Off {
            assert!(send(&[0; 50_000]) < 1000);
            assert!(send(&[0; 5_000_000]) < 50_000);
        }
    }
}

#[test]
fn parts_are_one_message() {
    let parts: Vec<Vec<u8>> = [0, 1, 70_000, 0, 5, 300_000].map(|n| bytes(n, n as usize)).into();
    let whole = parts.concat();
    for few in [2, 3, 6] {
        let slices: Vec<IoSlice<'_>> = parts[..few].iter().map(|p| IoSlice::new(p)).collect();
        let mut here = MessageTransporter::new(Vec::new());
        here.send_vectored(&slices).unwrap();
        let expected = &whole[..parts[..few].iter().map(Vec::len).sum()];
        assert!(receive_message(&mut &here.into_inner()[..]).unwrap() == expected);
    }
}

#[test]
fn a_rate_of_bytes_or_messages_is_kept() {
    let took = |builder: MessageTransporterBuilder<Vec<u8>>| {
        let mut here = builder.build();
        let start = Instant::now();
        for _ in 0..30 {
            here.send(&[0; 1000]).unwrap();
        }
        start.elapsed()
    };
    let builder = || MessageTransporter::builder(Vec::new());
    assert!(took(builder().bytes_per_second(100_000).unwrap()) > Duration::from_millis(190));
    assert!(took(builder().messages_per_second(100).unwrap()) > Duration::from_millis(190));
    let mut batch = builder().messages_per_second(100).unwrap().build();
    let start = Instant::now();
    batch.send_batch(&[[0; 1000]; 30]).unwrap();
    assert!(start.elapsed() > Duration::from_millis(190), "a batch is as many messages");
    // 70 kB of frames, and less content than goes at once.
    let mut batch = builder().bytes_per_second(100_000).unwrap().build();
    let start = Instant::now();
    batch.send_batch(&[[7]; 9_000]).unwrap();
    assert!(start.elapsed() < Duration::from_millis(300), "frames are no content");
    let start = Instant::now();
    batch.send_batch(&[[0; 1000]; 30]).unwrap();
    assert!(start.elapsed() > Duration::from_millis(190), "the content of a batch counts");
    let e = builder().bytes_per_second(0).err().unwrap();
    assert_eq!(e.code(), ErrorCode::InvalidInput);
}

/// Has room for messages below 2 MiB, and counts how often it was asked.
#[derive(Default)]
struct Cramped {
    sent: Vec<u8>,
    asked: std::cell::RefCell<Vec<u64>>,
}

impl Write for Cramped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StallLimit for Cramped {
    fn stall_limit(&self, _: Direction) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    fn set_stall_limit(&self, _: Direction, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn admit(&self, bytes: u64) -> pointsub::Result<Admission> {
        self.asked.borrow_mut().push(bytes);
        if bytes < 2 << 20 {
            return Ok(Admission::default());
        }
        Err(pointsub::Error::new(ErrorCode::OutOfMemory, "there is no room"))
    }
}

#[test]
fn a_batch_asks_for_room_as_its_messages_would() {
    let mut here = MessageTransporter::builder(Cramped::default()).limits().build();
    let messages = [vec![1; 10], vec![2; 1 << 20], vec![3; 10]];
    here.send_batch(&messages).unwrap();
    assert_eq!(here.get_ref().asked.take().iter().max(), Some(&(1 << 20)));
    let before = here.get_ref().sent.len();
    let e = here.send_batch(&[vec![1; 10], vec![2; 2 << 20]]).unwrap_err();
    assert_eq!((e.code(), here.get_ref().sent.len()), (ErrorCode::OutOfMemory, before));
    let sent = here.into_inner().sent;
    let mut there = MessageTransporter::new(&sent[..]);
    for message in messages {
        assert!(there.receive().unwrap() == message);
    }
}

#[test]
fn two_halves_send_and_receive_at_the_same_time() {
    let (a, b) = tcp_pair();
    let (mut sender, mut receiver) = MessageTransporter::builder(a).limits().build().split();
    let echo = thread::spawn(move || {
        let mut there = MessageTransporter::new(b);
        while let Ok(message) = there.receive() {
            there.send(&message).unwrap();
        }
    });
    // More than the sockets hold: it only works if both go on at once.
    let content = bytes(3, 3_000_000);
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..10 {
                sender.send(&content).unwrap();
            }
        });
        for _ in 0..10 {
            assert!(receiver.receive().unwrap() == content);
        }
    });
    assert_eq!(sender.stats().sent(SizeClass::Large).messages, 10);
    assert_eq!(receiver.stats().received(SizeClass::Large).bytes, 30_000_000);
    sender.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(receiver.receive().unwrap_err().code(), ErrorCode::ConnectionClosed);
    echo.join().unwrap();
}

/// The table with limits short enough for a test.
struct Impatient;

impl MessageSizer for Impatient {
    fn strategy(&self, size: u64) -> Strategy {
        let mut strategy = SizeClass::of(size).strategy();
        strategy.stall = Duration::from_millis(100);
        strategy
    }
}

fn impatient<C: StallLimit>(conn: C) -> MessageTransporter<C> {
    MessageTransporter::builder(conn).sizer(Impatient).limits().build()
}

#[test]
fn a_peer_that_stops_inside_a_chunk_is_noticed_within_the_limit() {
    stops_inside_a_chunk(tcp_pair());
    stops_inside_a_chunk(Pair::new().connect());
}

fn stops_inside_a_chunk<C: Read + Write + StallLimit>((mut a, b): (C, C)) {
    // All of it fits into a window that nobody opens further.
    let mut wire = Vec::new();
    send_message(&mut wire, &[1; 150_000]).unwrap();
    a.write_all(&wire[..50_000]).unwrap();
    let user = Some(Duration::from_secs(60));
    b.set_stall_limit(Direction::Read, user).unwrap();
    let mut there = impatient(b);
    let start = Instant::now();
    let e = there.receive().unwrap_err();
    assert_eq!(e.code(), ErrorCode::Timeout);
    let limit: u64 =
        e.context("stall_limit_ms").expect("the error names the limit").parse().unwrap();
    assert!((80..=200).contains(&limit), "{e}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(there.stats().stalls(Direction::Read), 1);
    // What the user had set is back, and the message is not lost.
    assert_eq!(there.get_ref().stall_limit(Direction::Read).unwrap(), user);
    a.write_all(&wire[50_000..]).unwrap();
    assert_eq!(there.receive().unwrap(), [1; 150_000]);
}

#[test]
fn a_receiver_that_stops_inside_a_chunk_is_noticed_within_the_limit() {
    stops_reading(tcp_pair());
    stops_reading(Pair::new().connect());
}

fn stops_reading<C: Read + Write + StallLimit + Send + 'static>((a, b): (C, C)) {
    let mut here = impatient(a);
    let content = bytes(1, 40_000_000);
    let e = here.send(&content).unwrap_err();
    assert_eq!(e.code(), ErrorCode::Timeout, "{e}");
    assert_eq!(here.stats().stalls(Direction::Write), 1);
    assert_eq!(here.get_ref().stall_limit(Direction::Write).unwrap(), None);
    // It is taken back, and the next message arrives.
    let reader = thread::spawn(move || {
        let mut there = MessageTransporter::new(b);
        (there.receive().unwrap_err().code(), there.receive().unwrap())
    });
    while here.settle().is_err() {}
    here.send(b"next").unwrap();
    assert_eq!(reader.join().unwrap(), (ErrorCode::Aborted, b"next".to_vec()));
}

#[test]
fn what_does_not_block_does_not_stall() {
    let (mut a, b) = tcp_pair();
    b.set_nonblocking(true).unwrap();
    let mut there = impatient(b);
    let mut wire = Vec::new();
    send_message(&mut wire, b"hello").unwrap();
    a.write_all(&wire[..6]).unwrap();
    let first = std::iter::repeat_with(|| there.receive().unwrap_err());
    let mut first = first.skip_while(|e| e.context("received") != Some("2"));
    let e = first.next().unwrap();
    assert_eq!((e.kind(), e.context("stall_limit_ms")), (io::ErrorKind::WouldBlock, None));
    drop(first);
    while there.send(&[1; 60_000]).is_ok() {}
    let stats = there.stats();
    assert_eq!([Direction::Read, Direction::Write].map(|way| stats.stalls(way)), [0, 0]);
}

/// Keeps all it takes, until it is told how long.
#[derive(Default)]
struct Clogged(std::cell::Cell<Option<Duration>>);

impl Write for Clogged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        thread::sleep(self.0.get().expect("a limit, or it would take for ever"));
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl StallLimit for Clogged {
    fn stall_limit(&self, _: Direction) -> io::Result<Option<Duration>> {
        Ok(self.0.get())
    }

    fn set_stall_limit(&self, _: Direction, limit: Option<Duration>) -> io::Result<()> {
        self.0.set(limit);
        Ok(())
    }
}

#[test]
fn a_close_has_its_limit_also_when_all_was_written() {
    let here = impatient(Clogged::default());
    let e = here.close().unwrap_err();
    assert_eq!(e.code(), ErrorCode::Timeout);
    assert!(e.context("stall_limit_ms").is_some(), "{e}");
}

#[test]
fn a_live_stream_may_pause_longer_than_any_limit() {
    struct Pausing(usize);
    impl Read for Pausing {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Ok(0);
            }
            self.0 -= 1;
            // The pause is the thing that is tested.
            thread::sleep(Duration::from_millis(300));
            out[..4].copy_from_slice(b"tick");
            Ok(4)
        }
    }
    let (a, b) = tcp_pair();
    let sender = thread::spawn(move || impatient(a).send_stream(&mut Pausing(3)).unwrap());
    let mut out = Vec::new();
    assert_eq!(impatient(b).receive_stream(&mut out).unwrap(), 12);
    assert_eq!((sender.join().unwrap(), &out[..]), (12, &b"tickticktick"[..]));
}

#[test]
fn what_a_live_source_gives_is_sent_when_it_is_read() {
    struct Live(mpsc::Receiver<&'static [u8]>);
    impl Read for Live {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Ok(piece) = self.0.recv() else { return Ok(0) };
            out[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }
    struct Arrives(mpsc::Sender<Vec<u8>>);
    impl Write for Arrives {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut a, mut b) = tcp_pair();
    let (say, live) = mpsc::channel();
    let (arrives, hear) = mpsc::channel();
    let sender = thread::spawn(move || send_stream(&mut a, &mut Live(live)).unwrap());
    let receiver = thread::spawn(move || receive_stream(&mut b, &mut Arrives(arrives)).unwrap());
    for piece in [&b"tick"[..], b"t", b"tock"] {
        say.send(piece).unwrap();
        // Nothing more is said before this has arrived.
        assert_eq!(hear.recv_timeout(Duration::from_secs(20)).unwrap(), piece);
    }
    drop(say);
    assert_eq!((sender.join().unwrap(), receiver.join().unwrap()), (9, 9));
}
