//! Golden bytes, and a receiver in another language: what releases have
//! written others can read.

mod support;
#[path = "support/transfers.rs"]
mod transfers;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use pointsub::transfer::progress::Status;
use pointsub::{
    ErrorCode, MessageTransporter, TransferHandle, receive_message, send_message, send_stream,
};
use support::bytes;
use transfers::{Recorder, pipe};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

fn golden(wire: &[u8], expected: &str, content: &[u8]) {
    assert_eq!(hex(wire), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(receive_message(&mut &wire[..]).unwrap(), content);
}

#[test]
fn an_empty_message() {
    let mut wire = Vec::new();
    send_message(&mut wire, b"").unwrap();
    golden(&wire, "80 00 00 5b", b"");
}

#[test]
fn a_short_message() {
    let mut wire = Vec::new();
    send_message(&mut wire, b"hello").unwrap();
    golden(&wire, "80 00 05 c8  68 65 6c 6c 6f  df ed f6 04", b"hello");
}

#[test]
fn a_short_message_without_checksum() {
    let mut here = MessageTransporter::builder(Vec::new()).checksum(false).build();
    here.send(b"hello").unwrap();
    golden(&here.into_inner(), "82 00 05 d4  68 65 6c 6c 6f", b"hello");
}

#[test]
fn a_stream() {
    let mut wire = Vec::new();
    send_stream(&mut wire, &mut &b"abc"[..]).unwrap();
    golden(
        &wire,
        "90 00 00 bb  98 00 03 ba  61 62 63  1a 21 fe ec  a0 00 03 c5  fe 02 ef 26",
        b"abc",
    );
}

#[test]
fn a_large_message() {
    let (mut wire, content) = (Vec::new(), [0; 70_000]);
    send_message(&mut wire, &content).unwrap();
    let second = 16 + 16 + 65_536 + 4;
    let framing = [&wire[..32], &wire[second - 4..second + 4], &wire[wire.len() - 24..]].concat();
    assert_eq!(wire.len(), second + 4 + (70_000 - 65_536) + 4 + 20);
    let expected = [
        "8c 11 70 e4 00 00 00 00 00 00 00 01 97 f4 9a ec", // 70,000 bytes begin
        "9c 00 00 f3 00 00 00 00 00 00 00 01 ca 7c c6 3b", // a chunk of 65,536
        "03 06 03 df",                                     // and its checksum
        "98 11 70 3c",                                     // a chunk of 4,464
        "1a 8c 64 63",                                     // and its checksum
        "a4 11 70 7b 00 00 00 00 00 00 00 01 9c e5 ba 05", // the end of 70,000
        "cd 09 d5 02",                                     // and its checksum
    ];
    assert_eq!(hex(&framing), expected.join(" "));
    assert_eq!(receive_message(&mut &wire[..]).unwrap(), content);
}

#[test]
fn a_stream_that_is_given_up() {
    struct Fails;
    impl std::io::Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }
    let mut wire = Vec::new();
    send_stream(&mut wire, &mut Fails).unwrap_err();
    // The reason is for people: its words may change.
    let reason = wire.len() - 12;
    assert_eq!(hex(&wire[..7]), format!("90 00 00 bb a8 00 {reason:02x}"));
    assert_eq!(receive_message(&mut &wire[..]).unwrap_err().code(), ErrorCode::Aborted);
}

/// Pauses its own transfer before it gives the first bytes.
struct Pauses(TransferHandle, &'static [u8]);

impl Read for Pauses {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.1.is_empty() {
            self.0.pause();
        }
        self.1.read(out)
    }
}

const CONTROLLED: &str = "94 00 00 83 08 00 00 00 00 00 00 00 98 31 58 33 \
                          98 00 03 ba 61 62 63 b0 e3 1b da \
                          b0 00 01 7b \
                          b0 00 02 0a \
                          a0 00 03 c5 61 24 52 a4";

#[test]
fn a_stream_under_control_and_its_commands() {
    let (near, mut far) = pipe(1 << 16);
    let (events, sender) = Recorder::with_handle();
    let mut source = Pauses(sender.clone(), b"abc");
    let hand = sender.clone();
    let sending = thread::spawn(move || {
        let mut near = MessageTransporter::builder(near).control().build();
        near.send_stream_with(&hand, &mut source)
    });
    events.wait_for_status(Status::Paused);
    sender.resume();
    let mut wire = vec![0; CONTROLLED.split(' ').count()];
    far.read_exact(&mut wire).unwrap();
    assert_eq!(hex(&wire), CONTROLLED);
    far.write_all(&[0xB0, 0, 4, 0xE8]).unwrap();
    assert_eq!(sending.join().unwrap().unwrap(), 3);
}

#[test]
fn what_a_receiver_says_of_a_stream_under_control() {
    let wire: Vec<u8> =
        CONTROLLED.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let answers = |steer: fn(&TransferHandle), sink: &mut dyn Write| {
        let (mut near, far) = pipe(1 << 16);
        near.write_all(&wire).unwrap();
        let hand = TransferHandle::new();
        steer(&hand);
        let mut far = MessageTransporter::builder(far).control().build();
        let outcome = far.receive_stream_with(&hand, &mut { sink });
        drop(far);
        let mut said = Vec::new();
        near.read_to_end(&mut said).unwrap();
        (outcome.map_err(|e| e.code()), hex(&said))
    };
    let (outcome, said) = answers(|_| {}, &mut io::sink());
    assert_eq!((outcome, &*said), (Ok(3), "b0 00 04 e8"));
    let (outcome, said) = answers(TransferHandle::pause, &mut io::sink());
    assert_eq!((outcome, &*said), (Ok(3), "b0 00 01 7b b0 00 04 e8"));
    let (outcome, said) = answers(|_| {}, &mut &mut [0; 2][..]);
    assert_eq!((outcome, &*said), (Err(ErrorCode::Io), "b0 0f a4 3c"));

    // One that is called off from its own writer.
    struct Cancels(TransferHandle);
    impl Write for Cancels {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.cancel();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut near, far) = pipe(1 << 16);
    near.write_all(&wire).unwrap();
    let hand = TransferHandle::new();
    let mut far = MessageTransporter::builder(far).control().build();
    let e = far.receive_stream_with(&hand, &mut Cancels(hand.clone())).unwrap_err();
    assert_eq!(e.code(), ErrorCode::Cancelled);
    let mut said = [0; 4];
    near.read_exact(&mut said).unwrap();
    assert_eq!(hex(&said), "b0 00 03 25");
}

#[test]
fn a_receiver_in_python_reads_what_we_write() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/receiver.py");
    let python = Command::new("python3").args([script, &port]).stdout(Stdio::piped()).spawn();
    let python = match python {
        Ok(python) => python,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: python3 is not installed, so its receiver was not tried");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let (conn, _) = listener.accept().unwrap();
    let mut bare = MessageTransporter::builder(&conn).checksum(false).build();
    let mut expected = String::new();
    for size in [0, 1, 1023, 1024, 65_535, 65_536, 65_537, 1 << 20, 5_000_000] {
        let content = bytes(size as u64, size);
        send_message(&mut &conn, &content).unwrap();
        send_stream(&mut &conn, &mut &content[..]).unwrap();
        bare.send(&content).unwrap();
        let line = format!("{size} {}\n", crc32fast::hash(&content));
        expected += &line.repeat(3);
    }
    let hand = TransferHandle::new();
    let (resuming, mut steered) = (hand.clone(), MessageTransporter::new(&conn));
    let resume = thread::spawn(move || {
        while resuming.status() != Status::Paused {
            thread::yield_now();
        }
        resuming.resume();
    });
    steered.send_stream_with(&hand, &mut Pauses(hand.clone(), b"paused")).unwrap();
    resume.join().unwrap();
    expected += &format!("6 {}\n", crc32fast::hash(b"paused"));
    conn.shutdown(Shutdown::Write).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
