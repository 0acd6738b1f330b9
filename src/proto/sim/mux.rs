//! Both halves of a connection at one end, and the applications above them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Profile;
use super::app::{App, Gone, Reads};
use super::wire::{Rng, Wire};
use crate::error::Result;
use crate::proto::buf::RecvBuf;
use crate::proto::noise::{Opener, Sealer};
use crate::proto::yamux::{Batch, Control, ControlQueue, Event, Flow, Role, Rx, StreamId, Tx};
use crate::resources::buffers::LARGE_BATCH;

/// What the halves are made of.
pub(super) struct Keys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) leftover: Vec<u8>,
}

pub(super) struct Mux {
    role: Role,
    profile: Profile,
    rx: Rx<StreamId>,
    tx: Tx,
    pub(super) queue: ControlQueue,
    /// All that ever were.
    pub(super) streams: BTreeMap<StreamId, App>,
    pub(super) refused: Vec<StreamId>,
    /// Pings whose pongs are due.
    pub(super) pings: VecDeque<u32>,
    /// What windows may still grow by.
    reserve: u32,
    /// Storage that is not lent.
    batch: Batch,
}

impl Mux {
    pub(super) fn new(role: Role, profile: Profile, keys: Keys) -> Mux {
        let Keys { sealer, opener, leftover } = keys;
        Mux {
            role,
            profile,
            rx: Rx::new(opener, role, leftover),
            tx: Tx::new(sealer, role),
            queue: ControlQueue::new(32),
            streams: BTreeMap::new(),
            refused: Vec::new(),
            pings: VecDeque::new(),
            reserve: 3 << 19,
            batch: Batch::default(),
        }
    }

    /// The application does one thing.
    pub(super) fn act(&mut self, rng: &mut Rng, now: Instant) -> Result<()> {
        match rng.below(24) {
            0..=1 => self.open(rng),
            2..=10 => {
                let n = rng.up_to(self.profile.longest());
                let Some(id) = self.pick(rng, App::may_write) else { return Ok(()) };
                self.write(id, n, rng).map(drop)
            }
            11..=19 => {
                let n = rng.up_to(self.profile.longest());
                let Some(id) = self.pick(rng, App::may_read) else { return Ok(()) };
                self.read(id, n, now)
            }
            20 => self.ping(rng),
            21 => self.stop_reading(rng, now),
            _ if rng.one_in(3) => self.abandon(rng),
            _ => Ok(()),
        }
    }

    /// The application does all that it means to do; whether it did anything.
    pub(super) fn act_out(&mut self, rng: &mut Rng, now: Instant) -> Result<bool> {
        let mut progress = false;
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            while self.streams[&id].may_read() {
                self.read(id, usize::MAX, now)?;
                progress = true;
            }
            while self.streams[&id].may_write() && self.write(id, usize::MAX, rng)? > 0 {
                progress = true;
            }
        }
        Ok(progress)
    }

    /// Writes to the network up to `n` bytes of what waits; returns how much.
    pub(super) fn flush(&mut self, n: usize, wire: &mut Wire) -> Result<usize> {
        self.control()?;
        if self.batch.pending().is_empty() {
            self.batch = self.tx.take()?;
        }
        let n = self.batch.pending().len().min(n).min(wire.room());
        wire.write(&self.batch.pending()[..n]);
        self.batch.consume(n);
        Ok(n)
    }

    /// The next event; false if there is none yet.
    pub(super) fn hear(&mut self, buf: &mut RecvBuf, rng: &mut Rng, now: Instant) -> Result<bool> {
        let (streams, queue) = (&mut self.streams, &mut self.queue);
        let Some(event) = self.rx.poll(buf)? else { return Ok(false) };
        match event {
            Event::Opened { id, flow } => {
                self.opened(id, flow, rng)?;
            }
            Event::Data { stream, body } => {
                let id = *stream;
                let app = app(streams, id);
                app.hear(body, rng)?;
                if app.reads == Reads::Discards
                    && let Some(delta) = app.discard(now, &mut self.reserve)
                {
                    queue.push(Control::Window { id, delta })?;
                }
            }
            Event::Fin { stream } => app(streams, *stream).fin_heard = true,
            Event::Reset { stream, .. } => {
                let id = *stream;
                app(streams, id).reset_heard = true;
                queue.forget(id);
                self.rx.remove(id);
            }
            Event::Ping(value) => queue.push(Control::Pong(value))?,
            Event::Pong(value) => assert_eq!(self.pings.pop_front(), Some(value), "a wrong pong"),
            Event::Unwanted { id, .. } => queue.push(Control::Reset { id })?,
            Event::Acked { .. } | Event::Credit { .. } | Event::Received { .. } => {}
            Event::GoAway(code) => panic!("nobody says go-away {code}"),
        }
        Ok(true)
    }

    fn opened(&mut self, id: StreamId, flow: Arc<Flow>, rng: &mut Rng) -> Result<()> {
        if rng.one_in(16) {
            self.refused.push(id);
            return self.queue.push(Control::Reset { id });
        }
        self.rx.insert(id, flow.clone(), id);
        self.queue.push(Control::Ack { id })?;
        let mut app = App::new(id, false, flow.clone(), self.profile, rng);
        if rng.one_in(2) {
            let bytes = app.reply(rng.up_to(300));
            self.queue.push(Control::Reply { id, flow, bytes })?;
        }
        finish_if_due(id, &mut app, &mut self.queue)?;
        self.streams.insert(id, app);
        Ok(())
    }

    fn open(&mut self, rng: &mut Rng) -> Result<()> {
        let ours = self.streams.keys().filter(|id| self.role.opens(**id)).count();
        if ours < self.profile.streams() {
            let id = self.tx.next_id().expect("there are far more ids than streams");
            let flow = Flow::new();
            self.rx.insert(id, flow.clone(), id);
            self.streams.insert(id, App::new(id, true, flow, self.profile, rng));
        }
        Ok(())
    }

    fn write(&mut self, id: StreamId, n: usize, rng: &mut Rng) -> Result<usize> {
        self.control()?;
        let app = app(&mut self.streams, id);
        let taken = app.write(n, rng, &mut self.tx)?;
        finish_if_due(id, app, &mut self.queue)?;
        Ok(taken)
    }

    fn read(&mut self, id: StreamId, n: usize, now: Instant) -> Result<()> {
        let app = app(&mut self.streams, id);
        if let Some(delta) = app.read(n, now, &mut self.reserve)
            && app.is_live()
        {
            self.queue.push(Control::Window { id, delta })?;
        }
        Ok(())
    }

    fn ping(&mut self, rng: &mut Rng) -> Result<()> {
        if self.pings.len() < 4 {
            let value = rng.below(1 << 32) as u32;
            self.pings.push_back(value);
            self.queue.push(Control::Ping(value))?;
        }
        Ok(())
    }

    fn stop_reading(&mut self, rng: &mut Rng, now: Instant) -> Result<()> {
        if let Some(id) = self.pick(rng, App::is_live) {
            let app = app(&mut self.streams, id);
            app.reads = Reads::Discards;
            if let Some(delta) = app.discard(now, &mut self.reserve) {
                self.queue.push(Control::Window { id, delta })?;
            }
        }
        Ok(())
    }

    /// Drops or resets a stream.
    fn abandon(&mut self, rng: &mut Rng) -> Result<()> {
        let Some(id) = self.pick(rng, App::is_live) else { return Ok(()) };
        self.rx.remove(id);
        let app = app(&mut self.streams, id);
        app.gone = if rng.one_in(2) { Gone::Dropped } else { Gone::Reset };
        if app.syn {
            return Ok(());
        }
        match app.gone {
            Gone::Reset => self.queue.push(Control::Reset { id }),
            _ if app.fin_said => Ok(()),
            _ => {
                app.fin_said = true;
                self.queue.push(Control::Fin { id })
            }
        }
    }

    fn control(&mut self) -> Result<()> {
        self.tx.control(&mut self.queue)
    }

    fn pick(&self, rng: &mut Rng, which: fn(&App) -> bool) -> Option<StreamId> {
        let ids: Vec<_> =
            self.streams.iter().filter(|(_, app)| which(app)).map(|(id, _)| *id).collect();
        rng.pick(&ids)
    }

    /// What is held at this end stays within its bounds.
    pub(super) fn check_memory(&self) {
        assert!(self.tx.pending() <= LARGE_BATCH);
        assert!(self.queue.reply_bytes() <= 300 * self.streams.len());
        assert!(self.rx.len() <= self.streams.len());
    }

    /// Nothing that could be said is unsaid, nothing that was heard is undone.
    pub(super) fn check_quiet(&self) {
        assert!(self.queue.is_empty() && self.tx.pending() + self.batch.pending().len() == 0);
        assert!(self.pings.is_empty(), "a ping was not answered");
    }
}

fn app(streams: &mut BTreeMap<StreamId, App>, id: StreamId) -> &mut App {
    streams.get_mut(&id).expect("streams are never forgotten")
}

fn finish_if_due(id: StreamId, app: &mut App, queue: &mut ControlQueue) -> Result<()> {
    if app.must_finish() {
        app.fin_said = true;
        queue.push(Control::Fin { id })?;
    }
    Ok(())
}
