//! What has arrived on a stream and was not read yet.

use std::collections::VecDeque;
use std::io::IoSliceMut;

use crate::error::Result;
use crate::proto::yamux::Body;
use crate::resources::buffers::{self, Buffer};

/// A queue of bytes in lent buffers. Its bound is the stream's window: the
/// receiving half refuses what goes beyond.
#[derive(Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// Of all chunks.
    capacity: usize,
}

struct Chunk {
    data: Buffer,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The memory that it takes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a frame's body, opened straight into the queue.
    pub(crate) fn push(&mut self, body: Body<'_>) -> Result<()> {
        let n = body.len();
        body.take_into(self.room(n))?;
        self.filled(n);
        Ok(())
    }

    /// Room for `n` more bytes, in one piece.
    fn room(&mut self, n: usize) -> &mut [u8] {
        if self.chunks.back().is_none_or(|c| c.data.len() - c.end < n) {
            // A stream that holds little borrows little.
            let size = if self.len + n > UNPOOLED { buffers::SMALL_BATCH } else { n.max(1024) };
            let data = take(size.max(n));
            self.capacity += data.len();
            self.chunks.push_back(Chunk { data, start: 0, end: 0 });
        }
        let chunk = self.chunks.back_mut().expect("a chunk with room was just made sure of");
        &mut chunk.data[chunk.end..chunk.end + n]
    }

    fn filled(&mut self, n: usize) {
        let chunk = self.chunks.back_mut().expect("`room` has made one");
        chunk.end += n;
        self.len += n;
    }

    /// Moves what fits into `bufs`; returns how much.
    pub(crate) fn read(&mut self, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let mut total = 0;
        for buf in bufs {
            let n = self.peek(buf);
            self.consume(n);
            total += n;
            if self.len == 0 {
                break;
            }
        }
        total
    }

    /// Copies what fits into `buf` and keeps it.
    pub(crate) fn peek(&self, buf: &mut [u8]) -> usize {
        let mut at = 0;
        for chunk in &self.chunks {
            let n = (chunk.end - chunk.start).min(buf.len() - at);
            buf[at..at + n].copy_from_slice(&chunk.data[chunk.start..chunk.start + n]);
            at += n;
            if at == buf.len() {
                break;
            }
        }
        at
    }

    /// Forgets the first `n` bytes.
    pub(crate) fn consume(&mut self, mut n: usize) {
        assert!(n <= self.len, "consumed more than the inbox holds");
        self.len -= n;
        while n > 0 {
            let last = self.chunks.len() == 1;
            let first = self.chunks.front_mut().expect("the length counts what the chunks hold");
            let held = first.end - first.start;
            if n < held {
                first.start += n;
                return;
            }
            n -= held;
            if last && first.data.len() <= UNPOOLED {
                // Small messages use one small buffer over and over.
                (first.start, first.end) = (0, 0);
                return;
            }
            self.capacity -= first.data.len();
            self.chunks.pop_front();
        }
    }

    /// Forgets everything; returns how much that was.
    pub(crate) fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        self.capacity = 0;
        std::mem::take(&mut self.len)
    }
}

fn take(len: usize) -> Buffer {
    if len <= UNPOOLED {
        Buffer::from(vec![0; len.next_power_of_two()])
    } else {
        buffers::take(len)
    }
}

/// Buffers up to this size are the stream's own: an idle stream may keep one.
const UNPOOLED: usize = 4096;
