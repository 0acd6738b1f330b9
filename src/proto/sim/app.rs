//! The application at one end of one stream.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Profile;
use super::wire::Rng;
use crate::error::Result;
use crate::proto::yamux::{Body, Flow, INITIAL_WINDOW, RecvWindow, StreamId, Tx};

/// What it means to do, what it did, and what it saw.
pub(super) struct App {
    id: StreamId,
    /// Whether this end opened the stream.
    is_opener: bool,
    pub(super) flow: Arc<Flow>,
    pub(super) window: RecvWindow,
    /// Whether the stream's first frame is still to be written.
    pub(super) syn: bool,
    /// How many bytes it will send in all, and then a FIN if it `finishes`.
    pub(super) wants: usize,
    pub(super) finishes: bool,
    pub(super) sent: usize,
    pub(super) fin_said: bool,
    pub(super) reads: Reads,
    /// Told by events, of which `consumed` were read, for which `granted` was given.
    pub(super) received: usize,
    pub(super) consumed: usize,
    pub(super) granted: usize,
    inbox: VecDeque<u8>,
    pub(super) fin_heard: bool,
    pub(super) reset_heard: bool,
    pub(super) gone: Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    All,
    Nothing,
    /// It shut its reading side down: what comes is discarded, and credited.
    Discards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    No,
    Dropped,
    Reset,
}

impl App {
    pub(super) fn new(
        id: StreamId,
        is_opener: bool,
        flow: Arc<Flow>,
        profile: Profile,
        rng: &mut Rng,
    ) -> App {
        App {
            id,
            is_opener,
            flow,
            window: RecvWindow::new(),
            syn: is_opener,
            wants: rng.up_to(profile.longest()),
            finishes: !rng.one_in(4),
            sent: 0,
            fin_said: false,
            reads: if rng.one_in(8) { Reads::Nothing } else { Reads::All },
            received: 0,
            consumed: 0,
            granted: 0,
            inbox: VecDeque::new(),
            fin_heard: false,
            reset_heard: false,
            gone: Gone::No,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.gone == Gone::No && !self.reset_heard
    }

    pub(super) fn may_write(&self) -> bool {
        self.is_live() && !self.fin_said && self.sent < self.wants
    }

    pub(super) fn must_finish(&self) -> bool {
        self.is_live() && !self.fin_said && self.finishes && self.sent == self.wants
    }

    pub(super) fn may_read(&self) -> bool {
        self.gone == Gone::No && self.reads == Reads::All && !self.inbox.is_empty()
    }

    /// Writes up to `n` of its next bytes, out of one to three slices.
    pub(super) fn write(&mut self, n: usize, rng: &mut Rng, tx: &mut Tx) -> Result<usize> {
        let n = n.min(self.wants - self.sent);
        let bytes = said(self.id, self.is_opener, self.sent, n);
        let (a, rest) = bytes.split_at(rng.below(n + 1));
        let (b, c) = rest.split_at(rng.below(rest.len() + 1));
        let slices = [a, b, c].map(IoSlice::new);
        let slices = if rng.one_in(2) { &slices[..] } else { &[IoSlice::new(bytes)] };
        let taken = if !self.syn && rng.one_in(2) {
            tx.join(self.id, &self.flow, slices)?
        } else {
            tx.data(self.id, self.syn, &self.flow, slices)?
        };
        assert!(taken <= n);
        self.syn &= taken == 0;
        self.sent += taken;
        Ok(taken)
    }

    /// A short answer that goes through the control queue.
    pub(super) fn reply(&mut self, n: usize) -> Vec<u8> {
        let n = n.min(self.wants - self.sent);
        let bytes = said(self.id, self.is_opener, self.sent, n).to_vec();
        self.sent += n;
        bytes
    }

    /// A piece arrived: it is what was sent next, whichever way it is taken.
    pub(super) fn hear(&mut self, body: Body<'_>, rng: &mut Rng) -> Result<()> {
        let n = body.len();
        let expected = said(self.id, !self.is_opener, self.received, n);
        if self.reads != Reads::Discards {
            if rng.one_in(2) {
                let mut space = vec![0; n];
                body.take_into(&mut space)?;
                assert!(space == expected, "stream {}: not what was sent", self.id);
            } else {
                assert!(body.bytes()? == expected, "stream {}: not what was sent", self.id);
            }
            self.inbox.extend(expected);
        }
        self.received += n;
        Ok(())
    }

    /// Reads up to `n` bytes of what arrived. Returns what to grant for it.
    pub(super) fn read(&mut self, n: usize, now: Instant, reserve: &mut u32) -> Option<u32> {
        let n = n.min(self.inbox.len());
        self.inbox.drain(..n);
        self.consume(n, now, reserve)
    }

    /// The same for all that arrived and that nobody will read.
    pub(super) fn discard(&mut self, now: Instant, reserve: &mut u32) -> Option<u32> {
        self.inbox.clear();
        self.consume(self.received - self.consumed, now, reserve)
    }

    fn consume(&mut self, n: usize, now: Instant, reserve: &mut u32) -> Option<u32> {
        self.consumed += n;
        let rtt = Duration::from_millis(5);
        let delta = self.window.consumed(n, now, rtt, &mut |extra| {
            let may = *reserve >= extra;
            *reserve -= if may { extra } else { 0 };
            may
        })?;
        self.granted += delta as usize;
        self.flow.grant(delta);
        Some(delta)
    }

    /// Every byte of the window is somewhere: `peer` sends what this end reads.
    pub(super) fn check_window(&self, peer: &App, replies_wait: bool) {
        let size = self.window.size() as usize;
        let allowance = self.flow.allowance() as usize;
        let ungranted = self.window.ungranted() as usize;
        let announced = INITIAL + self.granted - allowance;
        assert!(self.inbox.len() <= size, "stream {}: more is held than its window", self.id);
        assert!(self.received <= announced && announced <= peer.sent);
        assert_eq!(allowance + (announced - self.consumed) + ungranted, size, "window lost");
        // What a reset stream had left to reply is never sent.
        if peer.is_live() && !replies_wait {
            let credited = (peer.flow.credit() as usize + peer.sent).checked_sub(INITIAL);
            assert!(credited.is_some_and(|c| c <= self.granted), "credit from nowhere");
        }
    }
}

/// What a stream carries in one of its directions: `n` bytes from `at` on.
pub(super) fn said(id: StreamId, by_opener: bool, at: usize, n: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut rng = Rng::new(0);
        (0..1 << 20).map(|_| rng.below(256) as u8).collect()
    });
    let at = id as usize * 311 + usize::from(by_opener) * 157 + at;
    &bytes[at..][..n]
}

const INITIAL: usize = INITIAL_WINDOW as usize;
