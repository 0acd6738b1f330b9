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

    /// Takes over what waits in another, behind its own.
    pub(crate) fn append(&mut self, mut other: Inbox) {
        self.len += other.len;
        self.capacity += other.capacity;
        self.chunks.append(&mut other.chunks);
    }

    /// Keeps what waits in no more room than it needs.
    pub(crate) fn shrink(&mut self) {
        if self.len == 0 {
            (self.chunks, self.capacity) = (VecDeque::new(), 0);
        } else if self.capacity > WASTE * self.len {
            let mut data = vec![0; self.len];
            let end = self.peek(&mut data);
            let chunk = Chunk { data: Buffer::from(data), start: 0, end };
            (self.chunks, self.capacity) = (VecDeque::from([chunk]), end);
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

/// What waits is moved where it takes so many times the room that it needs.
const WASTE: usize = 2;

/// Buffers up to this size are the stream's own: an idle stream may keep one.
const UNPOOLED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_the_same_in_less_room() {
        let mut inbox = Inbox::default();
        for part in 0..3u8 {
            inbox.room(30_000).fill(part);
            inbox.filled(30_000);
        }
        inbox.consume(65_000);
        let (before, mut unread) = (inbox.capacity(), vec![0; 25_000]);
        inbox.shrink();
        assert!(before >= buffers::SMALL_BATCH && inbox.capacity() == 25_000);
        assert_eq!((inbox.len(), inbox.peek(&mut unread)), (25_000, 25_000));
        assert!(unread.iter().all(|&byte| byte == 2));
        inbox.room(10).fill(3);
        inbox.filled(10);
        inbox.consume(25_000);
        assert_eq!((inbox.peek(&mut unread), unread[0]), (10, 3));
        inbox.consume(10);
        inbox.shrink();
        assert_eq!(inbox.capacity(), 0);
    }
}
