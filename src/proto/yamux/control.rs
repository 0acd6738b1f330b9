//! What is to be said besides the data of streams.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::flow::Flow;
use super::frame::{Flags, Header, StreamId, violation};
use crate::error::Result;

/// One thing to say.
#[derive(Debug)]
pub(crate) enum Control {
    /// The peer may send `delta` more; [`Flow::grant`] was told already.
    Window { id: StreamId, delta: u32 },
    /// The peer's stream is accepted.
    Ack { id: StreamId },
    /// We send no more.
    Fin { id: StreamId },
    /// We take nothing on the stream, whatever the peer thinks that it is.
    Reset { id: StreamId },
    /// We give the stream up, one of those that there are.
    GiveUp { id: StreamId },
    /// So much of a resumable stream has arrived, as the low 32 bits of the count. It
    /// needs no credit, and a newer count takes the place of one that waits.
    Received { id: StreamId, received: u32 },
    /// Asks for a pong of this value.
    Ping(u32),
    /// Answers a ping.
    Pong(u32),
    /// Ends the connection: 0 is as agreed, 1 a violation, 2 our own failure.
    GoAway(u32),
    /// A short answer of our own: of a negotiation, or of a small service. It
    /// needs credit as all data does, and waits where there is none.
    Reply { id: StreamId, flow: Arc<Flow>, bytes: Vec<u8> },
}

/// What waits to be said: coalesced, and bounded whatever a peer does.
///
/// Acks, replies, FINs and resets of one stream stay in their order and come
/// before receipts, window updates, pongs, pings and the go-away; so a ping or a
/// receipt that is pushed behind a FIN is written behind it. A receipt that waits as
/// the FIN of its stream is pushed is written before it. Data that is written by [`Tx::data`] does
/// not pass through here: whoever writes it first empties the queue.
///
/// [`Tx::data`]: super::Tx::data
#[derive(Debug, Default)]
pub(crate) struct ControlQueue {
    ordered: VecDeque<Ordered>,
    /// Replies without credit, and what must not overtake them.
    stalled: VecDeque<Ordered>,
    most_pongs: usize,
    /// The streams whose reset waits in `ordered`, and whether the peer has asked for it.
    resets: BTreeMap<StreamId, bool>,
    /// How many of them it has.
    asked_resets: usize,
    reply_bytes: usize,
    receipts: BTreeMap<StreamId, u32>,
    windows: BTreeMap<StreamId, u32>,
    pongs: VecDeque<u32>,
    pings: VecDeque<u32>,
    go_away: Option<u32>,
}

#[derive(Debug)]
struct Ordered {
    id: StreamId,
    what: What,
}

#[derive(Debug)]
enum What {
    Say(Flags),
    /// The receipt of the stream, if it was not said yet.
    Receipt,
    Reply {
        flow: Arc<Flow>,
        bytes: Vec<u8>,
        sent: usize,
    },
}

impl ControlQueue {
    /// With room for so many pongs.
    pub(crate) fn new(most_pongs: usize) -> ControlQueue {
        // Most connections are idle, and never have more to say at once.
        let ordered = VecDeque::with_capacity(1);
        ControlQueue { ordered, most_pongs, ..ControlQueue::default() }
    }

    /// Adds `control` to what waits.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` above a bound. Every bound is far above what a peer
    /// that reads what we answer ever makes us say at once, so the connection is
    /// to be ended.
    pub(crate) fn push(&mut self, control: Control) -> Result<()> {
        match control {
            Control::Window { id, delta } => self.push_window(id, delta),
            Control::Ack { id } => self.push_ordered(id, What::Say(Flags::ACK)),
            Control::Fin { id } => {
                if self.receipts.contains_key(&id) {
                    self.push_ordered(id, What::Receipt)?;
                }
                self.push_ordered(id, What::Say(Flags::FIN))
            }
            Control::Reset { id } => self.push_reset(id, true),
            Control::GiveUp { id } => self.push_reset(id, false),
            Control::Received { id, received } => self.push_received(id, received),
            Control::Reply { id, flow, bytes } => {
                if bytes.is_empty() {
                    return Ok(());
                }
                bound(self.reply_bytes.saturating_add(bytes.len()), MAX_REPLY_BYTES, "replies")?;
                let len = bytes.len();
                self.push_ordered(id, What::Reply { flow, bytes, sent: 0 })?;
                self.reply_bytes += len;
                Ok(())
            }
            Control::Ping(value) => push_bounded(&mut self.pings, value, MAX_PINGS, "pings"),
            Control::Pong(value) => push_bounded(&mut self.pongs, value, self.most_pongs, "pongs"),
            Control::GoAway(code) => {
                self.go_away = Some(code);
                Ok(())
            }
        }
    }

    /// Whether nothing waits that could be written now.
    pub(crate) fn is_empty(&self) -> bool {
        self.ordered.is_empty()
            && self.receipts.is_empty()
            && self.windows.is_empty()
            && self.pongs.is_empty()
            && self.pings.is_empty()
            && self.go_away.is_none()
            && !self.stalled.iter().any(Ordered::has_credit)
    }

    /// A receipt that waits for the stream is not to be said: a newer one is, elsewhere.
    pub(crate) fn withdraw_receipt(&mut self, id: StreamId) {
        self.receipts.remove(&id);
    }

    /// How many bytes of replies wait.
    #[cfg(test)]
    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Drops what waits for a stream that the peer has reset.
    pub(crate) fn forget(&mut self, id: StreamId) {
        self.windows.remove(&id);
        self.receipts.remove(&id);
        self.reset_is_said(id);
        let mut freed = 0;
        for queue in [&mut self.ordered, &mut self.stalled] {
            queue.retain(|item| {
                freed += if item.id == id { item.unsent() } else { 0 };
                item.id != id
            });
        }
        self.reply_bytes -= freed;
    }

    /// Moves as many whole frames as fit into `out`; returns their length. None where a
    /// reply comes first and `out` has room for its header only.
    pub(super) fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut out = Filler { out, len: 0 };
        self.fill_ordered(&mut out);
        // What is left of those that are ordered may fit less well than what is behind.
        while self.ordered.is_empty() && out.fits(Header::LEN) {
            let header = if let Some((id, received)) = self.receipts.pop_first() {
                Header::received(id, received)
            } else if let Some((id, delta)) = self.windows.pop_first() {
                Header::window(id, Flags::NONE, delta)
            } else if let Some(value) = self.pongs.pop_front() {
                Header::ping(Flags::ACK, value)
            } else if let Some(value) = self.pings.pop_front() {
                Header::ping(Flags::SYN, value)
            } else if let Some(code) = self.go_away.take() {
                Header::go_away(code)
            } else {
                break;
            };
            out.put(&header.encode());
        }
        out.len
    }

    /// The ordered items up to the first that does not fit. One without credit
    /// steps aside, and so does what is behind it on its stream.
    fn fill_ordered(&mut self, out: &mut Filler<'_>) {
        if self.stalled.iter().any(Ordered::has_credit) {
            self.stalled.append(&mut self.ordered);
            std::mem::swap(&mut self.stalled, &mut self.ordered);
        }
        while out.fits(Header::LEN) {
            let Some(mut item) = self.ordered.pop_front() else { return };
            let id = item.id;
            match &mut item.what {
                _ if self.stalled.iter().any(|stalled| stalled.id == id) => {
                    self.stalled.push_back(item);
                }
                What::Say(flags) => {
                    if flags.has(Flags::RST) {
                        self.reset_is_said(id);
                    }
                    out.put(&Header::window(id, *flags, 0).encode());
                }
                What::Receipt => {
                    if let Some(received) = self.receipts.remove(&id) {
                        out.put(&Header::received(id, received).encode());
                    }
                }
                What::Reply { flow, bytes, sent } => {
                    let n = out.reply(id, flow, &bytes[*sent..]);
                    *sent += n;
                    self.reply_bytes -= n;
                    if *sent == bytes.len() {
                        continue;
                    }
                    if flow.credit() > 0 {
                        self.ordered.push_front(item);
                        return;
                    }
                    self.stalled.push_back(item);
                }
            }
        }
    }

    fn push_ordered(&mut self, id: StreamId, what: What) -> Result<()> {
        bound(self.ordered.len() + self.stalled.len() + 1, MAX_ORDERED, "answers")?;
        self.ordered.push_back(Ordered { id, what });
        Ok(())
    }

    /// One reset is enough, whatever else is said of the stream.
    fn push_reset(&mut self, id: StreamId, asked: bool) -> Result<()> {
        if self.resets.contains_key(&id) {
            return Ok(());
        }
        if asked {
            bound(self.asked_resets + 1, MAX_RESETS, "resets")?;
        }
        if self.stalled.iter().any(|item| item.id == id) {
            self.forget(id);
        }
        self.windows.remove(&id);
        self.receipts.remove(&id);
        self.push_ordered(id, What::Say(Flags::RST))?;
        self.resets.insert(id, asked);
        self.asked_resets += usize::from(asked);
        Ok(())
    }

    fn reset_is_said(&mut self, id: StreamId) {
        let asked = self.resets.remove(&id).unwrap_or_default();
        self.asked_resets -= usize::from(asked);
    }

    fn push_received(&mut self, id: StreamId, received: u32) -> Result<()> {
        bound(self.receipts.len() + 1, MAX_WINDOWS, "receipts")?;
        self.receipts.insert(id, received);
        Ok(())
    }

    fn push_window(&mut self, id: StreamId, delta: u32) -> Result<()> {
        bound(self.windows.len() + 1, MAX_WINDOWS, "window updates")?;
        let waiting = self.windows.entry(id).or_default();
        // No window is above 16 MiB, so what is granted anew is far below 4 GiB.
        *waiting = waiting.saturating_add(delta);
        Ok(())
    }
}

impl Ordered {
    /// Whether a reply could be written now.
    fn has_credit(&self) -> bool {
        matches!(&self.what, What::Reply { flow, .. } if flow.credit() > 0)
    }

    fn unsent(&self) -> usize {
        match &self.what {
            What::Say(_) | What::Receipt => 0,
            What::Reply { bytes, sent, .. } => bytes.len() - sent,
        }
    }
}

/// Writes frames one behind the other.
struct Filler<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Filler<'_> {
    fn fits(&self, n: usize) -> bool {
        self.out.len() - self.len >= n
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// One DATA frame of what of `bytes` fits and has credit; returns how much.
    fn reply(&mut self, id: StreamId, flow: &Flow, bytes: &[u8]) -> usize {
        let room = (self.out.len() - self.len).saturating_sub(Header::LEN);
        let n = bytes.len().min(room).min(u32::try_from(flow.credit()).unwrap_or(0) as usize);
        if n > 0 {
            let length = n as u32;
            flow.spend(length);
            self.put(&Header::data(id, Flags::NONE, length).encode());
            self.put(&bytes[..n]);
        }
        n
    }
}

fn push_bounded(queue: &mut VecDeque<u32>, value: u32, max: usize, what: &str) -> Result<()> {
    bound(queue.len() + 1, max, what)?;
    queue.push_back(value);
    Ok(())
}

fn bound(n: usize, max: usize, what: &str) -> Result<()> {
    if n > max {
        return Err(violation(format!(
            "more than {max} {what} wait for a peer that does not read"
        )));
    }
    Ok(())
}

/// Pings of our own that wait. Their owner sends one at a time.
const MAX_PINGS: usize = 32;

/// Resets that wait which a peer can make us say as often as it likes. Of streams there are
/// only so many.
const MAX_RESETS: usize = 1_024;

/// Acks, replies, FINs and resets that wait, together.
const MAX_ORDERED: usize = 16_384;

/// Bytes of replies that wait: 2 KiB for each stream that may be negotiating.
const MAX_REPLY_BYTES: usize = 256 * 1024;

/// Streams whose window updates wait, and as many whose receipts do.
const MAX_WINDOWS: usize = 16_384;
