//! What two nodes do together, whoever wrote them. Each scenario serves its
//! own protocol on `server` and opens streams to it from `client`.

use crate::node::{Duplex, Node};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

/// Writes of many sizes come back as they were, and the end after them.
pub fn echo(server: &dyn Node, client: &dyn Node) {
    serve_echo(server, "/echo/1.0.0");
    let mut stream = client.open(&server.address(), "/echo/1.0.0").expect("open");
    for size in [1, 2, 63, 64, 1023, 1024, 16_384, 65_519, 65_520, 262_144] {
        assert_echo(&mut stream, &payload(size as u64, size));
    }
    stream.writer.finish().expect("finish");
    assert_eq!(read_to_end(&mut stream).expect("read the end"), b"");
}

/// 64 MiB in each direction at the same time; each receiver's SHA-256 is the
/// sender's.
pub fn bulk_both_ways(server: &dyn Node, client: &dyn Node) {
    let (report, reported) = mpsc::channel();
    let handler = move |stream: Duplex| {
        let received = exchange(stream, SERVER_SEED);
        report.send(received).expect("the scenario waits");
        Ok(())
    };
    server.serve("/bulk/1.0.0", Arc::new(handler));
    let stream = client.open(&server.address(), "/bulk/1.0.0").expect("open");
    let at_client = exchange(stream, CLIENT_SEED).expect("the client's side");
    let at_server = reported.recv().expect("a report").expect("the server's side");
    assert_eq!(at_client, digest_of(SERVER_SEED), "server to client");
    assert_eq!(at_server, digest_of(CLIENT_SEED), "client to server");
}

/// 100 streams that are all open before the first of them carries its load.
/// They are opened one after another, each once its predecessor was taken: a
/// libp2p-stream server drops what it has not accepted before the next comes.
pub fn hundred_streams(server: &dyn Node, client: &dyn Node) {
    serve_echo(server, "/hundred/1.0.0");
    let address = server.address();
    let streams: Vec<_> = (0..100)
        .map(|n| {
            let mut stream = client.open(&address, "/hundred/1.0.0").expect("open");
            assert_echo(&mut stream, &[n]);
            stream
        })
        .collect();
    thread::scope(|scope| {
        for (n, mut stream) in streams.into_iter().enumerate() {
            scope.spawn(move || {
                for round in 0..4 {
                    assert_echo(&mut stream, &payload((n * 4 + round) as u64, 65_536));
                }
            });
        }
    });
}

/// 100 streams that 100 threads open at the same moment.
pub fn hundred_opened_at_once(server: &dyn Node, client: &dyn Node) {
    serve_echo(server, "/burst/1.0.0");
    let address = server.address();
    // The connection is there before the burst: this is about streams.
    assert_echo(&mut client.open(&address, "/burst/1.0.0").expect("open"), b"first");
    thread::scope(|scope| {
        for n in 0..100 {
            let address = &address;
            scope.spawn(move || {
                let mut stream = client.open(address, "/burst/1.0.0").expect("open");
                assert_echo(&mut stream, &payload(n, 65_536));
            });
        }
    });
}

/// A side that has finished writing goes on reading, whichever side that is.
pub fn half_close(server: &dyn Node, client: &dyn Node) {
    let reads_first = |mut stream: Duplex| {
        let all = read_to_end(&mut stream)?;
        stream.writer.write_all(&all)?;
        stream.writer.finish()
    };
    server.serve("/half-close/client-first/1.0.0", Arc::new(reads_first));
    let address = server.address();
    let sent = payload(7, 1 << 20);
    let mut stream = client.open(&address, "/half-close/client-first/1.0.0").expect("open");
    stream.writer.write_all(&sent).expect("write");
    stream.writer.finish().expect("finish");
    assert!(read_to_end(&mut stream).expect("read after finish") == sent);

    let (report, reported) = mpsc::channel();
    let finishes_first = move |mut stream: Duplex| {
        stream.writer.write_all(b"that is all")?;
        stream.writer.finish()?;
        report.send(read_to_end(&mut stream)).expect("the scenario waits");
        Ok(())
    };
    server.serve("/half-close/server-first/1.0.0", Arc::new(finishes_first));
    let mut stream = client.open(&address, "/half-close/server-first/1.0.0").expect("open");
    assert_eq!(read_to_end(&mut stream).expect("read"), b"that is all");
    stream.writer.write_all(&sent).expect("write after the peer's end");
    stream.writer.finish().expect("finish");
    assert!(reported.recv().expect("a report").expect("read after finish") == sent);
}

/// Who writes to a peer that has dropped the stream gets an error and does not
/// block for ever. Returns that error.
pub fn writer_learns_of_a_drop(server: &dyn Node, client: &dyn Node) -> io::Error {
    let drops = |mut stream: Duplex| stream.reader.read_exact(&mut [0]);
    server.serve("/drop/1.0.0", Arc::new(drops));
    let mut stream = client.open(&server.address(), "/drop/1.0.0").expect("open");
    let chunk = payload(3, 65_536);
    loop {
        if let Err(error) = stream.writer.write_all(&chunk).and_then(|()| stream.writer.flush()) {
            return error;
        }
    }
}

/// Serves `protocol` by sending back what comes, and then the end.
pub fn serve_echo(server: &dyn Node, protocol: &'static str) {
    let echo = |mut stream: Duplex| {
        let mut buf = vec![0; 65_536];
        loop {
            match stream.reader.read(&mut buf)? {
                0 => return stream.writer.finish(),
                n => stream.writer.write_all(&buf[..n])?,
            }
            stream.writer.flush()?;
        }
    };
    server.serve(protocol, Arc::new(echo));
}

/// Sends `data` and reads it back, at the same time: what is on its way may be
/// more than a window.
pub fn assert_echo(stream: &mut Duplex, data: &[u8]) {
    let Duplex { reader, writer } = stream;
    let mut back = vec![0; data.len()];
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(data).expect("write");
            writer.flush().expect("flush");
        });
        reader.read_exact(&mut back).expect("read");
    });
    assert!(back == data, "{} bytes came back changed", data.len());
}

/// Bytes that look random and are the same each time.
pub fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
    bytes
}

/// Sends the whole load of `seed` while reading to the end; the digest of what
/// was read.
fn exchange(stream: Duplex, seed: u64) -> io::Result<[u8; 32]> {
    let Duplex { mut reader, mut writer } = stream;
    let sender = thread::spawn(move || {
        for chunk in 0..CHUNKS {
            writer.write_all(&payload(seed + chunk, CHUNK))?;
        }
        writer.finish()?;
        // Given back: dropping it here would end the stream under the reader.
        Ok::<_, io::Error>(writer)
    });
    let mut hash = Sha256::new();
    let mut buf = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buf)? {
            0 => break,
            n => hash.update(&buf[..n]),
        }
    }
    sender.join().expect("the sender does not panic")?;
    Ok(hash.finalize().into())
}

fn digest_of(seed: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    for chunk in 0..CHUNKS {
        hash.update(payload(seed + chunk, CHUNK));
    }
    hash.finalize().into()
}

fn read_to_end(stream: &mut Duplex) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.reader.read_to_end(&mut all)?;
    Ok(all)
}

const CHUNK: usize = 1 << 20;
const CHUNKS: u64 = 64;
const CLIENT_SEED: u64 = 1_000;
const SERVER_SEED: u64 = 2_000;
