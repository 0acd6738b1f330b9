//! Golden bytes, and a receiver in another language: what releases have
//! written others can read.

mod support;

use std::net::{Shutdown, TcpListener};
use std::process::{Command, Stdio};

use pointsub::{ErrorCode, MessageTransporter, receive_message, send_message, send_stream};
use support::bytes;

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
    conn.shutdown(Shutdown::Write).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
