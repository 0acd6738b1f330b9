//! What one end of a session has written, as far as the other may not have it.

use std::collections::VecDeque;
use std::io::IoSlice;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::Kept;
use crate::resources::buffers::{self, Buffer};

/// The bytes that may have to be sent again, and how far they have come.
///
/// Positions count the session's bytes from its beginning; its FIN counts as one
/// byte behind the last. So much holds always:
///
/// ```text
/// acked <= at <= sent <= written (+ 1 for the FIN)
///   |       |      |       '- appended; none is lost until it is acknowledged
///   |       |      '- sealed once, on whichever carrier
///   |       '- sealed on the current carrier: what is behind is to be said again
///   '- the peer has it, and its memory is free
/// ```
///
/// The memory is lent in pieces and given back as soon as all of a piece is acknowledged.
/// It is not limited here: who appends asks for [`Outgoing::room`] first. What was sealed
/// in one go is not copied: it stays as the carrier has it, and is opened again if that is
/// lost.
pub(crate) struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// Of all chunks.
    held: usize,
    acked: u64,
    at: u64,
    sent: u64,
    written: u64,
    /// Nothing is appended any more: there is a FIN behind what was written.
    finished: bool,
    /// The current carrier has said FIN.
    fin_said: bool,
}

struct Chunk {
    data: Data,
    /// The position of its first byte.
    from: u64,
    filled: usize,
}

enum Data {
    Plain(Buffer),
    /// As a carrier has sealed it.
    Sealed(Kept),
}

impl Chunk {
    fn capacity(&self) -> usize {
        match &self.data {
            Data::Plain(data) => data.len(),
            Data::Sealed(kept) => kept.capacity(),
        }
    }

    /// What can still be put into it.
    fn space(&mut self) -> &mut [u8] {
        match &mut self.data {
            Data::Plain(data) => &mut data[self.filled..],
            Data::Sealed(_) => &mut [],
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Plain(data) => &data[..self.filled],
            Data::Sealed(_) => unreachable!("said again, and no new carrier had it opened"),
        }
    }
}

/// What is to be said next on the current carrier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// These bytes, and perhaps more behind them.
    Data(&'a [u8]),
    /// There are no bytes left: the end of the stream.
    Fin,
    Nothing,
}

impl Outgoing {
    /// That of a new session: nothing was written.
    pub(crate) fn new() -> Outgoing {
        Outgoing {
            chunks: VecDeque::new(),
            held: 0,
            acked: 0,
            at: 0,
            sent: 0,
            written: 0,
            finished: false,
            fin_said: false,
        }
    }

    /// How many more bytes may be appended if `cap` may wait for the peer.
    pub(crate) fn room(&self, cap: usize) -> usize {
        usize::try_from(self.unacked()).map_or(0, |unacked| cap.saturating_sub(unacked))
    }

    /// Adds the first `n` bytes of `bufs` behind all that was written.
    pub(crate) fn append(&mut self, bufs: &[IoSlice<'_>], mut n: usize) {
        debug_assert!(!self.finished, "written behind the end");
        for buf in bufs {
            let part = &buf[..buf.len().min(n)];
            self.copy(part);
            n -= part.len();
        }
    }

    fn copy(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.chunks.back_mut().map_or(&mut [][..], Chunk::space);
            if space.is_empty() {
                let data = buffers::take(self.next_size(bytes.len()));
                self.held += data.len();
                let data = Data::Plain(data);
                if self.chunks.capacity() == 0 {
                    // Many conns never keep more at once.
                    self.chunks.reserve_exact(1);
                }
                self.chunks.push_back(Chunk { data, from: self.written, filled: 0 });
                continue;
            }
            let n = bytes.len().min(space.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.chunks.back_mut().expect("one with space").filled += n;
            self.written += n as u64;
            bytes = &bytes[n..];
        }
    }

    /// How much memory to ask for, where `n` bytes are to be added.
    fn next_size(&self, n: usize) -> usize {
        // Between what was sealed, what is short stays so.
        let sealed = matches!(self.chunks.back(), Some(Chunk { data: Data::Sealed(_), .. }));
        let most = if sealed { n } else { self.held + n };
        let sizes = [(LITTLE, LITTLE), (FEW, FEW - LITTLE)];
        let size = sizes.into_iter().find(|&(up_to, size)| most <= up_to && n <= size);
        size.map_or(CHUNK, |(_, size)| size)
    }

    /// The same, and the carrier has sealed them: nothing was behind. `kept` is what they
    /// were sealed to, if the link leaves it to us.
    pub(crate) fn append_sealed(&mut self, bufs: &[IoSlice<'_>], n: usize, kept: Option<Kept>) {
        match kept.filter(|kept| kept.capacity() <= WASTE * n) {
            Some(kept) => {
                self.held += kept.capacity();
                let data = Data::Sealed(kept);
                self.chunks.push_back(Chunk { data, from: self.written, filled: n });
                self.written += n as u64;
            }
            None => self.append(bufs, n),
        }
        self.sealed(n);
    }

    /// Ends what is written. False if it was ended already.
    pub(crate) fn finish(&mut self) -> bool {
        !std::mem::replace(&mut self.finished, true)
    }

    /// What the current carrier has not said yet.
    pub(crate) fn next(&self) -> Next<'_> {
        if self.at < self.written {
            return Next::Data(self.slice(self.at));
        }
        if self.finished && !self.fin_said { Next::Fin } else { Next::Nothing }
    }

    /// The bytes that the current carrier has not said yet, `most` of them at most.
    pub(crate) fn slices(&self, most: usize) -> Vec<IoSlice<'_>> {
        let (mut slices, mut at, mut total) = (Vec::new(), self.at, 0);
        while at < self.written && total < most {
            let bytes = self.slice(at);
            let bytes = &bytes[..bytes.len().min(most - total)];
            slices.push(IoSlice::new(bytes));
            at += bytes.len() as u64;
            total += bytes.len();
        }
        slices
    }

    /// Whether bytes wait to be said on the current carrier: then new ones are
    /// appended behind them, and not sealed before.
    pub(crate) fn is_behind(&self) -> bool {
        self.at < self.written
    }

    /// The next `n` bytes were sealed on the current carrier.
    pub(crate) fn sealed(&mut self, n: usize) {
        self.at += n as u64;
        self.sent = self.sent.max(self.at);
    }

    /// The current carrier has said FIN, behind the last byte.
    pub(crate) fn said_fin(&mut self) {
        debug_assert!(self.finished && self.at >= self.written, "an end before the last byte");
        self.fin_said = true;
        self.at = self.written + FIN;
        self.sent = self.at;
    }

    /// The peer has received so much, as the low 32 bits of the count. Frees what it
    /// needs no more; returns how many bytes of the session that was news of.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` if the peer cannot have received so much, or told more
    /// before: its connection is to be ended.
    pub(crate) fn ack(&mut self, low: u32) -> Result<u64> {
        let ahead = low.wrapping_sub(self.acked as u32);
        self.confirm(self.acked.saturating_add(ahead.into()))
    }

    /// The same with the whole count.
    ///
    /// # Errors
    ///
    /// As [`Outgoing::ack`]; nothing has changed then.
    pub(crate) fn confirm(&mut self, received: u64) -> Result<u64> {
        if !self.may_resume(received) {
            let what = format!("the peer has received {received} bytes of {}", self.sent);
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        Ok(self.free(received))
    }

    /// Whether a peer may say that so much has arrived: no less than it said before,
    /// no more than was sent.
    pub(crate) fn may_resume(&self, received: u64) -> bool {
        (self.acked..=self.sent).contains(&received)
    }

    /// Goes on with a new carrier, whose peer has received so much. Returns how many
    /// bytes are to be said again.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` unless [`Outgoing::may_resume`]; nothing has changed then.
    /// Those of [`Kept::open`]: then nothing can be said again any more.
    pub(crate) fn resume(&mut self, received: u64) -> Result<u64> {
        self.confirm(received)?;
        self.open_sealed()?;
        self.at = received.min(self.written);
        self.fin_said = false;
        Ok(self.sent.min(self.written) - self.at)
    }

    /// Where the current carrier is: what is before was said on it, or had arrived.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// How many bytes are known to have arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.acked.min(self.written)
    }

    /// How many bytes were written in all.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// How many bytes were written and are not known to have arrived.
    pub(crate) fn unacked(&self) -> u64 {
        self.written - self.delivered()
    }

    /// Whether [`Outgoing::finish`] was called.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the current carrier has said FIN.
    pub(crate) fn is_fin_said(&self) -> bool {
        self.fin_said
    }

    /// Whether all is known to have arrived, and the FIN too.
    pub(crate) fn is_delivered(&self) -> bool {
        self.finished && self.acked > self.written
    }

    /// The memory that it takes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Frees all memory: the session has ended, nothing will be said again.
    pub(crate) fn clear(&mut self) {
        self.chunks = VecDeque::new();
        self.held = 0;
        (self.at, self.fin_said) = (self.written, true);
    }

    /// The bytes from position `at`, which is written and not acknowledged, to the
    /// end of its chunk.
    fn slice(&self, at: u64) -> &[u8] {
        let behind = self.chunks.partition_point(|chunk| chunk.from <= at);
        let chunk = &self.chunks[behind - 1];
        &chunk.bytes()[(at - chunk.from) as usize..]
    }

    /// What was sealed for a carrier that is gone is sealed anew for the next.
    fn open_sealed(&mut self) -> Result<()> {
        for chunk in &mut self.chunks {
            if let Data::Sealed(kept) = &chunk.data {
                let mut plain = buffers::take(chunk.filled);
                kept.open(&mut plain[..chunk.filled])?;
                self.held = self.held - kept.capacity() + plain.len();
                chunk.data = Data::Plain(plain);
            }
        }
        Ok(())
    }

    fn free(&mut self, acked: u64) -> u64 {
        let news = acked.min(self.written) - self.delivered();
        self.acked = acked;
        self.at = self.at.max(acked.min(self.written));
        while let Some(first) = self.chunks.front()
            && first.from + first.filled as u64 <= acked
        {
            self.held -= first.capacity();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 8 {
            self.chunks = VecDeque::new();
        }
        news
    }
}

/// Where the thread that reads a carrier leaves the newest receipt, for those who
/// write to find.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct AckCell(AtomicU64);

#[cfg(test)]
impl AckCell {
    /// False if it is no news.
    pub(crate) fn store(&self, low: u32) -> bool {
        let told = TOLD | u64::from(low);
        self.0.swap(told, Ordering::AcqRel) != told
    }

    /// The newest, if there was any.
    pub(crate) fn load(&self) -> Option<u32> {
        let told = self.0.load(Ordering::Acquire);
        (told & TOLD != 0).then_some(told as u32)
    }
}

/// Marks that there was a receipt, whatever it said.
#[cfg(test)]
const TOLD: u64 = 1 << 63;

/// How many bytes a FIN counts.
const FIN: u64 = 1;

/// The memory that is asked for at a time.
pub(crate) const CHUNK: usize = 64 * 1024;

/// What was sealed is kept in the memory that it is in unless that is so much larger.
const WASTE: usize = 2;

/// Conns that say little keep so much, those that say more a bit more: there may be
/// thousands of either.
const LITTLE: usize = 2 * 1024;
const FEW: usize = LITTLE + 8 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::noise::pair;
    use crate::proto::yamux::{Flow, MIN_STORAGE, Role, Tx};

    fn outgoing(bytes: &[u8]) -> Outgoing {
        let mut out = Outgoing::new();
        append(&mut out, bytes);
        out
    }

    fn append(out: &mut Outgoing, bytes: &[u8]) {
        out.append(&[IoSlice::new(bytes)], bytes.len());
    }

    /// The same, sealed by a link that leaves it to be kept.
    fn append_sealed(out: &mut Outgoing, link: &mut Tx, bytes: &[u8]) {
        link.lend(buffers::take(MIN_STORAGE.max(bytes.len() + 1024)));
        let (bufs, flow) = ([IoSlice::new(bytes)], Flow::new());
        let (n, kept) = link.data_to_keep(1, &flow, &bufs, || None).unwrap();
        assert_eq!(n, bytes.len());
        out.append_sealed(&bufs, n, kept);
        drop(link.take().unwrap());
    }

    fn link() -> Tx {
        Tx::new(pair(&[3; 32]).0, Role::Dialer)
    }

    /// All that the carrier has still to say.
    fn say(out: &mut Outgoing) -> (Vec<u8>, bool) {
        let mut said = Vec::new();
        loop {
            match out.next() {
                Next::Data(bytes) => {
                    let n = bytes.len();
                    said.extend_from_slice(bytes);
                    out.sealed(n);
                }
                Next::Fin => {
                    out.said_fin();
                    return (said, true);
                }
                Next::Nothing => return (said, false),
            }
        }
    }

    #[test]
    fn what_is_not_acknowledged_is_said_again_with_its_end() {
        let mut out = outgoing(b"hello, world");
        assert!(out.is_behind());
        out.finish();
        assert_eq!(say(&mut out), (b"hello, world".to_vec(), true));
        assert_eq!(out.ack(5).unwrap(), 5);
        assert_eq!(out.resume(7).unwrap(), 5);
        assert_eq!(say(&mut out), (b"world".to_vec(), true));
        assert_eq!((out.delivered(), out.written(), out.unacked()), (7, 12, 5));
        assert_eq!(out.ack(13).unwrap(), 5);
        assert!(out.is_delivered());
        assert_eq!((out.held(), out.next()), (0, Next::Nothing));
        // The new carrier ends too, though the peer knows that it is the end.
        assert_eq!(out.resume(13).unwrap(), 0);
        assert_eq!(say(&mut out), (Vec::new(), true));
        assert_eq!(out.ack(13).unwrap(), 0);
    }

    #[test]
    fn what_a_lost_carrier_had_sealed_is_said_again_on_the_next() {
        let (mut out, mut link) = (outgoing(b""), link());
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        append_sealed(&mut out, &mut link, &bytes[..60_000]);
        out.append_sealed(&[IoSlice::new(&bytes[60_000..60_010])], 10, None);
        append_sealed(&mut out, &mut link, &bytes[60_010..]);
        assert!(!out.is_behind() && out.unacked() == 100_000);
        assert!(out.held() < 150_000, "as it was sealed, but for what is short: {}", out.held());
        out.ack(70_000).unwrap();
        assert!(out.held() < 75_000, "{}", out.held());
        assert_eq!(out.resume(80_000).unwrap(), 20_000);
        assert!(say(&mut out).0 == bytes[80_000..]);
        // And once more, from memory that is plain by now.
        assert_eq!(out.resume(90_000).unwrap(), 10_000);
        assert!(say(&mut out).0 == bytes[90_000..]);
        out.ack(100_000).unwrap();
        assert_eq!(out.held(), 0);
    }

    #[test]
    fn little_is_not_kept_in_much_memory() {
        let mut out = outgoing(b"");
        let mut link = link();
        for _ in 0..100 {
            link.lend(buffers::take(64 * 1024));
            let bufs = [IoSlice::new(&[7; 1000])];
            let (n, kept) = link.data_to_keep(1, &Flow::new(), &bufs, || None).unwrap();
            out.append_sealed(&bufs, n, kept);
            drop(link.take().unwrap());
        }
        assert!(out.held() < 250_000, "{}", out.held());
        out.resume(0).unwrap();
        assert_eq!(say(&mut out).0, [7; 100_000]);
    }

    #[test]
    fn a_receipt_out_of_range_is_a_violation_and_changes_nothing() {
        let mut out = outgoing(b"0123456789");
        assert!(out.ack(1).is_err(), "nothing was sent yet");
        out.sealed(8);
        out.ack(4).unwrap();
        for low in [9, 3, 0, u32::MAX, 1 << 31] {
            assert_eq!(out.ack(low).unwrap_err().code(), ErrorCode::ProtocolViolation);
        }
        for received in [0, 3, 9, 1 << 32, u64::MAX] {
            assert!(out.resume(received).is_err());
        }
        out.finish();
        out.sealed(2);
        assert!(out.ack(11).is_err(), "the end was not sent yet");
        out.said_fin();
        assert!(out.ack(12).is_err());
        assert!(out.may_resume(11) && !out.may_resume(12));
        assert_eq!((out.delivered(), out.ack(11).unwrap()), (4, 6));
    }

    #[test]
    fn what_was_appended_while_there_was_no_carrier_was_not_sent() {
        let mut out = outgoing(b"abc");
        say(&mut out);
        append(&mut out, b"def");
        assert!(!out.may_resume(4));
        assert_eq!(out.resume(2).unwrap(), 1);
        assert_eq!(say(&mut out), (b"cdef".to_vec(), false));
    }

    #[test]
    fn positions_above_four_gib_are_told_in_32_bits() {
        let mut out = outgoing(b"");
        let start = (1 << 32) - 5;
        (out.acked, out.at, out.sent, out.written) = (start, start, start, start);
        append(&mut out, b"0123456789");
        say(&mut out);
        assert_eq!(out.ack((start + 4) as u32).unwrap(), 4);
        assert_eq!(out.ack(3).unwrap(), 4);
        assert_eq!(out.delivered(), start + 8);
        assert!(out.ack((start + 4) as u32).is_err());
    }

    #[test]
    fn a_cell_tells_zero_from_nothing() {
        let cell = AckCell::default();
        assert_eq!(cell.load(), None);
        assert!(cell.store(0));
        assert!(!cell.store(0));
        assert_eq!(cell.load(), Some(0));
        assert!(cell.store(u32::MAX));
        assert_eq!(cell.load(), Some(u32::MAX));
    }

    proptest! {
        #[test]
        fn every_byte_is_there_until_it_is_acknowledged_and_no_longer(
            steps in prop::collection::vec((0..6u8, 0..200_000usize), 1..60),
        ) {
            let (mut out, mut link) = (outgoing(b""), link());
            let mut all: Vec<u8> = Vec::new();
            for (what, n) in steps {
                let (acked, sent, at) = (out.acked as usize, out.sent as usize, out.at as usize);
                match what {
                    0 | 1 => {
                        let n = out.room(1 << 20).min(n);
                        let more: Vec<u8> = (0..n).map(|i| (all.len() + i) as u8 ^ 0x5c).collect();
                        append(&mut out, &more);
                        all.extend(more);
                    }
                    2 => {
                        if let Next::Data(bytes) = out.next() {
                            prop_assert_eq!(bytes, &all[at..at + bytes.len()]);
                            let n = bytes.len().min(n);
                            out.sealed(n);
                        }
                    }
                    3 if out.at == out.written => {
                        let n = out.room(1 << 20).min(n).min(100_000);
                        let more: Vec<u8> = (0..n).map(|i| (all.len() + i) as u8 ^ 0x5c).collect();
                        append_sealed(&mut out, &mut link, &more);
                        all.extend(more);
                    }
                    3 | 4 => drop(out.ack((acked + n % (sent - acked + 1)) as u32).unwrap()),
                    _ => drop(out.resume((acked + n % (sent - acked + 1)) as u64).unwrap()),
                }
                prop_assert!(out.acked <= out.at && out.at <= out.sent);
                prop_assert!(out.unacked() <= 1 << 20);
                let (held, unacked) = (out.held() as u64, out.unacked());
                let most = WASTE as u64 * unacked + 4 * CHUNK as u64;
                prop_assert!(held <= most, "{held} for {unacked}");
            }
            let rest = out.at as usize;
            prop_assert_eq!(&say(&mut out).0[..], &all[rest..]);
            out.ack(out.sent as u32).unwrap();
            prop_assert_eq!((out.held(), out.unacked()), (0, 0));
        }
    }
}
