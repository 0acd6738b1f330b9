//! The outbound half of a connection.

use std::io::IoSlice;

use super::control::ControlQueue;
use super::flow::Flow;
use super::frame::{Flags, Header, Role, StreamId};
use super::kept::Kept;
use super::out::{Batch, OVERHEAD, Outbox};
use crate::error::Result;
use crate::proto::noise::{MAX_PLAIN, Sealer, TAG};
use crate::resources::buffers::Buffer;

/// Seals what is to be written into storage that is lent to it, and holds it
/// until it is taken to the socket.
///
/// Whoever writes data first calls [`Tx::control`], so that data does not
/// overtake a reply on its stream.
pub(crate) struct Tx {
    sealer: Sealer,
    role: Role,
    next_id: StreamId,
    out: Outbox,
    open: Option<Open>,
}

/// A short DATA frame that may grow still, behind what is sealed.
struct Open {
    id: StreamId,
    body: usize,
}

impl Tx {
    pub(crate) fn new(sealer: Sealer, role: Role) -> Tx {
        Tx { sealer, role, next_id: role.first_id(), out: Outbox::default(), open: None }
    }

    /// The id of the next stream of ours. None once they have run out: the
    /// connection then opens no more streams.
    pub(crate) fn next_id(&mut self) -> Option<StreamId> {
        let id = self.next_id;
        self.next_id = id.checked_add(2)?;
        Some(id)
    }

    /// As if so many streams had been opened.
    #[cfg(test)]
    pub(super) fn skip_ids_to(&mut self, id: StreamId) {
        self.next_id = id;
    }

    /// Seals as much of `bufs` as there is credit for and as fits the storage;
    /// returns how many bytes that is. 0: there is no credit, or, where there
    /// is, what is pending must be taken first. `syn` opens a stream of ours
    /// with its first bytes; nothing was said if 0 is returned.
    ///
    /// # Errors
    ///
    /// Those of the cipher, which has no nonces left: the connection is over.
    pub(crate) fn data(
        &mut self,
        id: StreamId,
        syn: bool,
        flow: &Flow,
        bufs: &[IoSlice<'_>],
    ) -> Result<usize> {
        debug_assert!(!syn || self.role.opens(id), "a SYN with an id of the peer's");
        self.data_behind(id, syn, flow, bufs, || None)
    }

    /// The same behind what `receipt` says has come on the stream, if there is room for that:
    /// it shares a Noise frame with the first bytes. Where none are sealed it is not asked.
    ///
    /// # Errors
    ///
    /// As [`Tx::data`].
    pub(crate) fn data_behind(
        &mut self,
        id: StreamId,
        syn: bool,
        flow: &Flow,
        bufs: &[IoSlice<'_>],
        receipt: impl FnOnce() -> Option<u32>,
    ) -> Result<usize> {
        self.close()?;
        self.provide_storage();
        let mut receipt = Some(receipt);
        let credit = usize::try_from(flow.credit()).unwrap_or(usize::MAX);
        let mut payload = Payload::new(bufs);
        let mut flags = if syn { Flags::SYN } else { Flags::NONE };
        let (wanted, mut taken) = (payload.len_up_to(credit), 0);
        while taken < wanted {
            let n = body_len(wanted - taken, self.out.room());
            if n == 0 {
                break;
            }
            let fits = Header::LEN + sealed_len(n) <= self.out.room();
            let received = receipt.take().filter(|_| fits).and_then(|receipt| receipt());
            self.data_frame(id, flags, n, &mut payload, received)?;
            flow.spend(n as u32);
            flags = Flags::NONE;
            taken += n;
        }
        Ok(taken)
    }

    /// The same, in storage that is shared from then on with what is returned beside: it
    /// takes nothing more before it is taken itself. `None`: nothing was sealed, or its key
    /// has changed in the middle.
    ///
    /// # Errors
    ///
    /// As [`Tx::data`].
    pub(crate) fn data_to_keep(
        &mut self,
        id: StreamId,
        flow: &Flow,
        bufs: &[IoSlice<'_>],
        receipt: impl FnOnce() -> Option<u32>,
    ) -> Result<(usize, Option<Kept>)> {
        self.close()?;
        let (from, first) = (self.out.pending(), self.sealer.position());
        let n = self.data_behind(id, false, flow, bufs, receipt)?;
        let opener = self.sealer.reopener(first).filter(|_| n > 0);
        let keep = |opener| Kept::new(self.out.share(), from, self.out.pending(), opener);
        Ok((n, opener.map(keep)))
    }

    /// The same for a short one that others may follow: they share a frame until something
    /// else is sealed, or all of it taken.
    ///
    /// # Errors
    ///
    /// As [`Tx::data`].
    pub(crate) fn join(
        &mut self,
        id: StreamId,
        flow: &Flow,
        bufs: &[IoSlice<'_>],
    ) -> Result<usize> {
        let mut payload = Payload::new(bufs);
        let n = payload.len_up_to(SMALL + 1);
        let before = match &self.open {
            Some(open) if open.id == id => open.body,
            _ => {
                self.close()?;
                self.provide_storage();
                0
            }
        };
        let body = before + n;
        let fits = body <= MAX_JOINED && Header::LEN + body + OVERHEAD <= self.out.room();
        if n == 0 || n > SMALL || n as u64 > flow.credit() || !fits {
            return self.data(id, false, flow, bufs);
        }
        payload.gather(&mut self.out.next(Header::LEN + body)[Header::LEN + before..][..n]);
        flow.spend(n as u32);
        self.open = Some(Open { id, body });
        Ok(n)
    }

    /// Seals the frame that could have grown.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Some(Open { id, body }) = self.open.take() else { return Ok(()) };
        let header = Header::data(id, Flags::NONE, body as u32).encode();
        self.out.next(Header::LEN)[..Header::LEN].copy_from_slice(&header);
        self.seal_in_place(Header::LEN + body)
    }

    /// Whether a DATA frame of `n` bytes can be sealed now, as far as room goes. If not,
    /// it can once what is pending was taken.
    pub(crate) fn fits(&self, n: usize) -> bool {
        self.needs_storage() || self.open_len() + sealed_len(n) <= self.out.room()
    }

    /// Seals what waits in `queue`, many frames of yamux to one of Noise, until
    /// it is empty or the storage full.
    ///
    /// # Errors
    ///
    /// As [`Tx::data`].
    pub(crate) fn control(&mut self, queue: &mut ControlQueue) -> Result<()> {
        while !queue.is_empty() {
            self.close()?;
            self.provide_storage();
            let room = self.out.plain_room();
            if room < Header::LEN {
                break;
            }
            let n = queue.fill(&mut self.out.next(room)[..room]);
            if n == 0 {
                break;
            }
            self.seal_in_place(n)?;
        }
        Ok(())
    }

    /// How many bytes wait for the socket.
    pub(crate) fn pending(&self) -> usize {
        self.out.pending() + self.open_len()
    }

    fn open_len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| Header::LEN + open.body + OVERHEAD)
    }

    /// Takes what is pending out, storage and all, to be written while more is sealed
    /// behind it. Empty: nothing is.
    ///
    /// # Errors
    ///
    /// As [`Tx::data`].
    pub(crate) fn take(&mut self) -> Result<Batch> {
        self.close()?;
        Ok(self.out.take())
    }

    /// How much storage it has.
    pub(crate) fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// Lends the storage to seal into: initialised, as long as what may be
    /// pending, best [`STORAGE`] and never below [`MIN_STORAGE`].
    pub(crate) fn lend(&mut self, storage: Buffer) {
        debug_assert!(storage.len() >= MIN_STORAGE, "storage that holds no whole frame");
        self.out.lend(storage);
    }

    /// Whether [`Tx::lend`] is due before something is sealed. If it is not
    /// called, the storage is allocated.
    pub(crate) fn needs_storage(&self) -> bool {
        !self.out.has_storage()
    }

    /// One DATA frame of the next `n` bytes: a short one in one Noise frame with
    /// its header, a long one in a frame of its own behind that of the header,
    /// which then also has what is too much for one frame. The receipt, if there is one,
    /// is before the header.
    fn data_frame(
        &mut self,
        id: StreamId,
        flags: Flags,
        n: usize,
        payload: &mut Payload<'_>,
        received: Option<u32>,
    ) -> Result<()> {
        let header = Header::data(id, flags, n as u32).encode();
        let beside = if n <= SMALL { n } else { n.saturating_sub(MAX_PLAIN) };
        let at = if received.is_some() { Header::LEN } else { 0 };
        let body = at + Header::LEN;
        let head = body + beside;
        let out = self.out.next(head);
        if let Some(received) = received {
            out[..at].copy_from_slice(&Header::received(id, received).encode());
        }
        out[at..body].copy_from_slice(&header);
        payload.gather(&mut out[body..head]);
        self.seal_in_place(head)?;
        match n - beside {
            0 => Ok(()),
            rest => self.seal_payload(rest, payload),
        }
    }

    /// A Noise frame of nothing but payload, out of the caller's slice if all of
    /// it is in one.
    fn seal_payload(&mut self, n: usize, payload: &mut Payload<'_>) -> Result<()> {
        let out = self.out.next(n);
        if let Some(slice) = payload.slice(n) {
            self.sealer.seal_into(slice, out)?;
            self.out.commit(n);
            return Ok(());
        }
        payload.gather(&mut out[..n]);
        self.seal_in_place(n)
    }

    /// Seals the first `n` bytes of the next frame, which are there already.
    fn seal_in_place(&mut self, n: usize) -> Result<()> {
        let out = self.out.next(n);
        debug_assert_eq!(out.len(), n + TAG);
        self.sealer.seal_in_place(out)?;
        self.out.commit(n);
        Ok(())
    }

    fn provide_storage(&mut self) {
        if self.needs_storage() {
            self.lend(Buffer::from(vec![0; STORAGE]));
        }
    }
}

/// The caller's slices, read from the front.
struct Payload<'a> {
    bufs: &'a [IoSlice<'a>],
    /// How much of the first slice was read.
    at: usize,
}

impl<'a> Payload<'a> {
    fn new(bufs: &'a [IoSlice<'a>]) -> Payload<'a> {
        Payload { bufs, at: 0 }
    }

    /// How many bytes there are, if fewer than `max`.
    fn len_up_to(&self, max: usize) -> usize {
        let mut len = 0usize;
        for buf in self.bufs {
            len = len.saturating_add(buf.len());
            if len >= max {
                return max;
            }
        }
        len
    }

    /// The next `n` bytes, if they lie in one slice.
    fn slice(&mut self, n: usize) -> Option<&'a [u8]> {
        self.skip_empty();
        let slice = self.bufs.first()?.get(self.at..)?.get(..n)?;
        self.at += n;
        Some(slice)
    }

    /// Copies the next `out.len()` bytes, which are there.
    fn gather(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            self.skip_empty();
            let rest = &self.bufs[0][self.at..];
            let n = rest.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&rest[..n]);
            self.at += n;
            out = later;
        }
    }

    fn skip_empty(&mut self) {
        while self.bufs.first().is_some_and(|buf| buf.len() == self.at) {
            (self.bufs, self.at) = (&self.bufs[1..], 0);
        }
    }
}

/// How long the body of the next DATA frame is, of `left` bytes and with `room`
/// in the storage; 0 where it is better to wait for room.
fn body_len(left: usize, room: usize) -> usize {
    let n = if left <= MAX_BODY { left } else { MAX_PLAIN };
    if sealed_len(n) <= room {
        return n;
    }
    match room.saturating_sub(sealed_len(0) + OVERHEAD) {
        shorter if shorter > SMALL => shorter.min(MAX_PLAIN),
        _ => 0,
    }
}

/// How long a DATA frame of `n` bytes is on the wire, at most.
fn sealed_len(n: usize) -> usize {
    let frames = if n <= SMALL { 1 } else { 2 };
    Header::LEN + n + frames * OVERHEAD
}

/// Up to this, a body is copied behind its header and sealed with it: cheaper
/// than a frame more.
const SMALL: usize = 4 * 1024;

/// Short writes share frames up to this.
const MAX_JOINED: usize = 16 * 1024;

/// The longest body: a full Noise frame, and a little more beside the header, so
/// that 64 KiB are one frame of yamux and two of Noise.
const MAX_BODY: usize = MAX_PLAIN + SMALL;

/// Storage in which 256 KiB of data fit with all that is around them.
pub(crate) const STORAGE: usize = 256 * 1024 + 1024;

/// Storage that is shorter than this may never hold the next frame.
pub(crate) const MIN_STORAGE: usize = 8 * 1024;
