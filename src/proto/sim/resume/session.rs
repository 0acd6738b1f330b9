//! One end of a session, and the application above it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::LinkEnd;
use crate::error::Result;
use crate::proto::resume::{AckCell, Incoming, Lifecycle, Next, Outgoing, Role};
use crate::proto::sim::app::said;
use crate::proto::yamux::{Control, Flow, INITIAL_WINDOW, RecvWindow, StreamId};

pub(super) struct Session {
    pub(super) life: Lifecycle,
    pub(super) out: Outgoing,
    pub(super) incoming: Incoming,
    /// What bytes flow on now, if there is one.
    pub(super) carrier: Option<Carrier>,
    /// The link on which the peer was asked whether it has the last receipt.
    asked: Option<usize>,
    /// What has arrived on whichever carrier and was not read.
    inbox: VecDeque<u8>,
    pub(super) app: App,
}

pub(super) struct Carrier {
    pub(super) link: usize,
    pub(super) id: StreamId,
    flow: Arc<Flow>,
    window: RecvWindow,
    pub(super) acks: AckCell,
}

/// What it means to do, and what it did.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// What tells this session's bytes from others'.
    pub(super) number: u32,
    /// It sends back what it reads, and ends where that ends.
    pub(super) echoes: bool,
    /// How many bytes it sends in all, and then a FIN.
    pub(super) wants: usize,
    pub(super) reads: bool,
    pub(super) wrote: usize,
    pub(super) read: usize,
    pub(super) saw_end: bool,
}

impl Carrier {
    pub(super) fn new(link: usize, id: StreamId, flow: Arc<Flow>) -> Carrier {
        Carrier { link, id, flow, window: RecvWindow::new(), acks: AckCell::default() }
    }

    pub(super) fn is(&self, link: usize, id: StreamId) -> bool {
        (self.link, self.id) == (link, id)
    }
}

impl Session {
    pub(super) fn new(life: Lifecycle, app: App) -> Session {
        Session {
            life,
            out: Outgoing::new(),
            incoming: Incoming::new(),
            carrier: None,
            asked: None,
            inbox: VecDeque::new(),
            app,
        }
    }

    /// Bytes flow on `carrier` from now on.
    pub(super) fn attach(&mut self, carrier: Carrier, links: &mut [LinkEnd], now: Instant) {
        let repaid = self.incoming.carry_on();
        self.carrier = Some(carrier);
        self.grant(repaid, links, now);
    }

    /// Bytes have arrived on the current carrier.
    pub(super) fn store(&mut self, bytes: &[u8], link: &mut LinkEnd) -> Result<()> {
        let due = self.incoming.stored(bytes.len())?;
        self.inbox.extend(bytes);
        self.tell(due, link);
        Ok(())
    }

    /// Tells the peer what has arrived.
    pub(super) fn tell(&mut self, due: Option<u32>, link: &mut LinkEnd) {
        if let (Some(received), Some(carrier)) = (due, &self.carrier) {
            link.say(Control::Received { id: carrier.id, received });
        }
    }

    /// Looks at the newest receipt.
    pub(super) fn trim(&mut self) -> Result<()> {
        if let Some(low) = self.carrier.as_ref().and_then(|carrier| carrier.acks.load()) {
            self.out.ack(low)?;
        }
        self.life.complete(&self.out, &self.incoming);
        Ok(())
    }

    /// Asks on the present link whether the peer has the last receipt, once; whether it did.
    pub(super) fn ask(&mut self, number: u32, links: &mut [LinkEnd]) -> bool {
        let Some(link) = self.carrier.as_ref().map(|carrier| carrier.link) else { return false };
        let asks = self.life.owes_receipt(&self.out, &self.incoming) && self.asked != Some(link);
        if asks {
            self.asked = Some(link);
            links[link].say(Control::Ping(number));
        }
        asks
    }

    /// The peer has answered that on a link.
    pub(super) fn answered(&mut self, link: usize) {
        if self.asked == Some(link) {
            self.life.confirmed();
            self.life.complete(&self.out, &self.incoming);
        }
    }

    /// The application writes up to `n` bytes, and ends behind its last one. Returns
    /// whether anything happened.
    pub(super) fn write(&mut self, n: usize, links: &mut [LinkEnd]) -> Result<bool> {
        let mut progress = self.say_again(links)?;
        let wants = if self.app.echoes { self.app.read } else { self.app.wants };
        let n = n.min(wants - self.app.wrote).min(self.out.room(REPLAY));
        if n > 0 && !self.is_over() {
            let by_opener = (self.life.role() == Role::Opener) != self.app.echoes;
            let bytes = said(self.app.number, by_opener, self.app.wrote, n);
            let taken = match &self.carrier {
                Some(carrier) if !self.out.is_behind() => {
                    let link = &mut links[carrier.link];
                    let (taken, kept) = link.write_to_keep(carrier.id, &carrier.flow, bytes)?;
                    self.out.append_sealed(&[IoSlice::new(bytes)], taken, kept);
                    taken
                }
                _ => {
                    self.out.append(&[IoSlice::new(bytes)], n);
                    n
                }
            };
            self.app.wrote += taken;
            progress |= taken > 0;
        }
        let ends = if self.app.echoes { self.app.saw_end } else { true };
        if ends && self.app.wrote == wants && !self.out.is_finished() && !self.is_over() {
            self.out.finish();
            progress = true;
        }
        Ok(self.say_again(links)? || progress)
    }

    /// Says what the current carrier has not said yet, its end included.
    fn say_again(&mut self, links: &mut [LinkEnd]) -> Result<bool> {
        let Some(carrier) = &self.carrier else { return Ok(false) };
        let link = &mut links[carrier.link];
        let mut progress = false;
        loop {
            match self.out.next() {
                Next::Data(bytes) => {
                    let n = link.write(carrier.id, &carrier.flow, bytes)?;
                    if n == 0 {
                        return Ok(progress);
                    }
                    self.out.sealed(n);
                }
                Next::Fin => {
                    link.say(Control::Fin { id: carrier.id });
                    self.out.said_fin();
                }
                Next::Nothing => return Ok(progress),
            }
            progress = true;
        }
    }

    /// The application reads up to `n` bytes: they are those that were sent next.
    pub(super) fn read(&mut self, n: usize, links: &mut [LinkEnd], now: Instant) -> bool {
        if !self.app.reads {
            return false;
        }
        let n = n.min(self.inbox.len());
        let by_opener = (self.life.role() == Role::Responder) != self.peer_echoes();
        let expected = said(self.app.number, by_opener, self.app.read, n);
        assert!(self.inbox.make_contiguous()[..n] == *expected, "not what was sent");
        self.inbox.drain(..n);
        self.app.read += n;
        let grant = self.incoming.consumed(n);
        self.grant(grant, links, now);
        let ends = self.inbox.is_empty() && self.incoming.is_finished() && !self.app.saw_end;
        self.app.saw_end |= ends;
        n > 0 || ends
    }

    /// What is held at this end stays within its bounds.
    pub(super) fn check_memory(&self) {
        assert!(self.out.unacked() <= REPLAY as u64);
        assert!(self.out.held() <= 2 * REPLAY + 2 * 64 * 1024);
        assert!(self.inbox.len() <= INITIAL_WINDOW as usize, "the inbox grows above its window");
        assert_eq!(self.inbox.len() as u64, self.incoming.unread());
    }

    fn is_over(&self) -> bool {
        self.life.end().is_some()
    }

    /// An opener with number 0 modulo 3 has its bytes sent back.
    fn peer_echoes(&self) -> bool {
        self.life.role() == Role::Opener && echoes(self.app.number)
    }

    /// So much of the current carrier's window is free again.
    fn grant(&mut self, n: usize, links: &mut [LinkEnd], now: Instant) {
        let Some(carrier) = &mut self.carrier else { return };
        let delta = carrier.window.consumed(n, now, Duration::from_millis(5), &mut |_| false);
        if let Some(delta) = delta {
            carrier.flow.grant(delta);
            links[carrier.link].say(Control::Window { id: carrier.id, delta });
        }
    }
}

/// Whether the responder of this session sends back what it reads.
pub(super) fn echoes(number: u32) -> bool {
    number.is_multiple_of(3)
}

/// What may be kept to be sent again.
pub(super) const REPLAY: usize = 100_000;
