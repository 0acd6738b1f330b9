//! What several test files need: deterministic content, unkind readers and
//! writers, pairs of ends.
#![allow(dead_code, unreachable_pub)]

use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Bytes that look random and depend on the seed only.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Content::new(seed).fill(&mut out);
    out
}

/// An endless source of such bytes.
pub struct Content(u64);

impl Content {
    pub fn new(seed: u64) -> Content {
        Content(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }
}

/// Two connected sockets.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    a.set_nodelay(true).unwrap();
    b.set_nodelay(true).unwrap();
    (a, b)
}

/// Reads and writes in pieces of random length, with interruptions, and times
/// out now and then if it is told to.
pub struct Unkind<T> {
    pub inner: T,
    pub random: Content,
    pub most: usize,
    pub timeouts: bool,
}

impl<T> Unkind<T> {
    pub fn new(inner: T, seed: u64, most: usize) -> Unkind<T> {
        Unkind { inner, random: Content::new(seed), most, timeouts: false }
    }

    fn trouble(&mut self) -> io::Result<()> {
        match self.random.below(8) {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 if self.timeouts => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }
}

impl<T: Read> Read for Unkind<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.trouble()?;
        let n = out.len().min(1 + self.random.below(self.most));
        self.inner.read(&mut out[..n])
    }
}

impl<T: Write> Write for Unkind<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.trouble()?;
        let n = bytes.len().min(1 + self.random.below(self.most));
        self.inner.write(&bytes[..n])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Counts calls and remembers how much each handed over.
#[derive(Default)]
pub struct Counting<T> {
    pub inner: T,
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
}

impl<T> Counting<T> {
    pub fn new(inner: T) -> Counting<T> {
        Counting { inner, reads: Vec::new(), writes: Vec::new() }
    }
}

impl<T: Read> Read for Counting<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.reads.push(n);
        Ok(n)
    }
}

impl<T: Write> Write for Counting<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.writes.push(n);
        Ok(n)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.inner.write_vectored(slices)?;
        self.writes.push(n);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
