//! The plaintext of the Noise frames that wait in a receive buffer.

use super::frame::{Header, violation};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::noise::{MAX_FRAME, Opener, TAG};

/// Reads yamux headers and pieces of bodies out of Noise frames, where they lie.
///
/// A Noise frame is opened in place and its plaintext read from the buffer, or,
/// if all of it belongs to the body that is read, handed out sealed: then its
/// taker opens it straight to where the bytes are wanted. Between two calls the
/// buffer begins either with what is left of an opened frame's plaintext and its
/// tag, or with a Noise frame's length.
pub(super) struct Records {
    opener: Opener,
    /// How much of an opened frame's plaintext is left at the front of the buffer.
    plain: usize,
    lent: Lent,
    /// What there is of a header that is spread over several Noise frames.
    header: [u8; Header::LEN],
    header_len: usize,
    /// Noise frames without a byte in them since the last one with any.
    empty: u32,
    /// Plaintext that came before the first Noise frame in the buffer.
    leftover: Vec<u8>,
}

/// What a [`Body`] has of the buffer's front. It is consumed by the next call.
#[derive(Debug, PartialEq, Eq)]
enum Lent {
    Nothing,
    /// So much plaintext.
    Plain(usize),
    /// A Noise frame of that length that was not opened yet, or that was forged:
    /// then no opener opens it, nor anything else.
    Sealed(usize),
    /// The same, and it was opened.
    Opened(usize),
}

impl Records {
    pub(super) fn new(opener: Opener, leftover: Vec<u8>) -> Records {
        Records {
            opener,
            plain: 0,
            lent: Lent::Nothing,
            header: [0; Header::LEN],
            header_len: 0,
            empty: 0,
            leftover,
        }
    }

    /// Consumes what was lent, and authenticates it if nobody has.
    pub(super) fn settle(&mut self, buf: &mut RecvBuf) -> Result<()> {
        if !self.leftover.is_empty() {
            self.put_back(buf);
        }
        match std::mem::replace(&mut self.lent, Lent::Nothing) {
            Lent::Nothing => {}
            Lent::Plain(n) => self.consume(buf, n),
            Lent::Opened(len) => buf.consume(PREFIX + len),
            Lent::Sealed(len) => {
                self.opener.open_in_place(sealed(buf, len))?;
                buf.consume(PREFIX + len);
            }
        }
        Ok(())
    }

    /// The next header, once all of it has arrived.
    pub(super) fn header(&mut self, buf: &mut RecvBuf) -> Result<Option<[u8; Header::LEN]>> {
        loop {
            if self.plain == 0 && !self.open_next(buf)? {
                return Ok(None);
            }
            if self.header_len == 0 && self.plain >= Header::LEN {
                // In one piece, as nearly all are.
                let header = buf.readable().first_chunk().copied();
                self.consume(buf, Header::LEN);
                return Ok(header);
            }
            let n = self.plain.min(Header::LEN - self.header_len);
            let part = &mut self.header[self.header_len..][..n];
            part.copy_from_slice(&buf.readable()[..n]);
            self.header_len += n;
            self.consume(buf, n);
            if self.header_len == Header::LEN {
                self.header_len = 0;
                return Ok(Some(self.header));
            }
        }
    }

    /// Reserves the next piece, of at most `max` bytes, for [`Records::body`];
    /// returns its length, or None where more bytes must arrive first.
    pub(super) fn piece(&mut self, buf: &mut RecvBuf, max: u32) -> Result<Option<usize>> {
        let max = max as usize;
        while self.plain == 0 {
            if let Some(len) = whole_frame(buf)? {
                let n = len - TAG;
                if (SEALED_MIN..=max).contains(&n) {
                    self.lent = Lent::Sealed(len);
                    self.empty = 0;
                    return Ok(Some(n));
                }
            }
            if !self.open_next(buf)? {
                return Ok(None);
            }
        }
        let n = self.plain.min(max);
        self.lent = Lent::Plain(n);
        Ok(Some(n))
    }

    /// The piece that was reserved.
    pub(super) fn body<'a>(&'a mut self, buf: &'a mut RecvBuf) -> Body<'a> {
        match self.lent {
            Lent::Sealed(len) => Body(Bytes::Sealed {
                frame: sealed(buf, len),
                opener: &mut self.opener,
                lent: &mut self.lent,
            }),
            Lent::Plain(n) => Body(Bytes::Plain(&buf.readable()[..n])),
            Lent::Nothing | Lent::Opened(_) => Body(Bytes::Plain(&[])),
        }
    }

    /// Opens the Noise frame at the front of the buffer; false if it has not
    /// arrived. It may be empty: then there is still no plaintext.
    fn open_next(&mut self, buf: &mut RecvBuf) -> Result<bool> {
        let Some(len) = whole_frame(buf)? else { return Ok(false) };
        buf.consume(PREFIX);
        let n = self.opener.open_in_place(&mut buf.readable_mut()[..len])?;
        self.plain = n;
        if n > 0 {
            self.empty = 0;
            return Ok(true);
        }
        buf.consume(TAG);
        self.empty += 1;
        if self.empty > MAX_EMPTY_FRAMES {
            return Err(violation("a flood of empty Noise frames"));
        }
        Ok(true)
    }

    /// Consumes plaintext, and the tag behind it with the last of it.
    fn consume(&mut self, buf: &mut RecvBuf, n: usize) {
        self.plain -= n;
        if n > 0 {
            buf.consume(if self.plain == 0 { n + TAG } else { n });
        }
    }

    /// Gives the leftover the form of a frame that was opened in the buffer.
    fn put_back(&mut self, buf: &mut RecvBuf) {
        let leftover = std::mem::take(&mut self.leftover);
        let rest = buf.readable().to_vec();
        buf.consume(rest.len());
        buf.extend(&leftover);
        buf.extend(&[0; TAG]);
        buf.extend(&rest);
        self.plain = leftover.len();
    }
}

/// A piece of a DATA frame's body, 1 to 65,519 bytes, still in the receive
/// buffer. One that is dropped is authenticated and discarded by the next poll.
pub(crate) struct Body<'a>(Bytes<'a>);

enum Bytes<'a> {
    Plain(&'a [u8]),
    Sealed { frame: &'a mut [u8], opener: &'a mut Opener, lent: &'a mut Lent },
}

impl<'a> Body<'a> {
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Bytes::Plain(bytes) => bytes.len(),
            Bytes::Sealed { frame, .. } => frame.len() - TAG,
        }
    }

    /// Puts the piece into `out`, which is as long as the piece: the one copy on
    /// its way, and none where it is opened on that way.
    ///
    /// # Errors
    ///
    /// `DecryptFailed`: what is in `out` is worthless and the connection over.
    pub(crate) fn take_into(self, out: &mut [u8]) -> Result<()> {
        match self.0 {
            Bytes::Plain(bytes) => out.copy_from_slice(bytes),
            Bytes::Sealed { frame, opener, lent } => {
                opener.open_into(frame, out)?;
                *lent = Lent::Opened(frame.len());
            }
        }
        Ok(())
    }

    /// Lends the piece where it lies.
    ///
    /// # Errors
    ///
    /// `DecryptFailed`: the connection is over.
    pub(crate) fn bytes(self) -> Result<&'a [u8]> {
        match self.0 {
            Bytes::Plain(bytes) => Ok(bytes),
            Bytes::Sealed { frame, opener, lent } => {
                let n = opener.open_in_place(frame)?;
                *lent = Lent::Opened(frame.len());
                Ok(&frame[..n])
            }
        }
    }
}

/// The length of the Noise frame at the front of the buffer, if it is all there.
fn whole_frame(buf: &RecvBuf) -> Result<Option<usize>> {
    let [hi, lo, rest @ ..] = buf.readable() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*hi, *lo]));
    if len < TAG {
        return Err(forged());
    }
    Ok((rest.len() >= len).then_some(len))
}

/// The Noise frame of length `len` at the front of the buffer.
fn sealed(buf: &mut RecvBuf, len: usize) -> &mut [u8] {
    &mut buf.readable_mut()[PREFIX..][..len]
}

fn forged() -> Error {
    Error::new(ErrorCode::DecryptFailed, "a Noise frame that its sender has not sealed")
}

/// The length of a Noise frame's length.
pub(super) const PREFIX: usize = 2;

/// A receive buffer that is shorter never holds the longest Noise frame.
pub(crate) const MIN_RECV_BUF: usize = PREFIX + MAX_FRAME;

/// Below this, opening in place is as good: what is saved is one short copy.
const SEALED_MIN: usize = 256;

/// So many Noise frames without a byte in them may follow each other.
const MAX_EMPTY_FRAMES: u32 = 64;
