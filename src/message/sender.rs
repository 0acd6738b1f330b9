//! The sending half of a transporter, without its conn.

use std::io::{IoSlice, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::message::config::Config;
use crate::message::control::{Helm, SteeredOutlet};
use crate::message::frame::{Guide, Outgoing};
use crate::message::observer::{ClassStats, Transfer};
use crate::message::parts::Parts;
use crate::message::predictor::Predictor;
use crate::message::strategy::{MessageSizer, Operation, SizeClass, Strategy};
use crate::message::timeout::{Knobs, Limited};
use crate::resources::rate::Throttle;
use crate::stall::{Direction, Network};

pub(crate) struct Sender {
    config: Arc<Config>,
    outgoing: Outgoing,
    predictor: Predictor,
    rate: Rate,
    pub(crate) stats: [ClassStats; SizeClass::ALL.len()],
    pub(crate) stalls: u64,
}

/// How fast it may send.
#[derive(Default)]
pub(crate) struct Rate {
    pub(crate) bytes: Option<Throttle>,
    pub(crate) messages: Option<Throttle>,
}

impl Sender {
    pub(crate) fn new(config: Arc<Config>, rate: Rate) -> Sender {
        let outgoing = Outgoing::new(config.options);
        let (stats, stalls) = Default::default();
        Sender { config, outgoing, predictor: Predictor::new(), rate, stats, stalls }
    }

    /// What answers those that we receive from.
    pub(crate) fn voice(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    pub(crate) fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    pub(crate) fn send<C: Write>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
        parts: &[IoSlice<'_>],
    ) -> Result<()> {
        let parts = Parts::new(parts).ok_or_else(|| {
            Error::new(ErrorCode::InvalidInput, "the parts of a message are too long together")
        })?;
        let bytes = parts.len() as u64;
        let _admission = knobs.map(|knobs| knobs.admit(conn, bytes)).transpose()?;
        self.rate.message();
        let network = self.config.network(conn, knobs);
        let strategy = self.rate.fit(self.config.strategy(bytes, &network));
        self.watch(conn, knobs, &network, strategy, |this, to| {
            let start = Instant::now();
            let mut guide = this.rate.guide();
            this.outgoing.send(to, parts, &strategy, &mut guide)?;
            this.sent(bytes, start.elapsed(), false);
            Ok(())
        })
    }

    pub(crate) fn send_batch<C: Write, M: AsRef<[u8]>>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
        messages: &[M],
    ) -> Result<()> {
        if self.rate.messages.is_some() {
            // Each waits for its turn, and none for those behind it.
            let mut each = messages.iter().map(|message| [IoSlice::new(message.as_ref())]);
            return each.try_for_each(|parts| self.send(conn, knobs, &parts));
        }
        let most = messages.iter().map(|m| m.as_ref().len()).max().unwrap_or(0) as u64;
        // They go one after the other: who has room for the largest has it for all.
        let _admission = knobs.map(|knobs| knobs.admit(conn, most)).transpose()?;
        let network = self.config.network(conn, knobs);
        let strategy = self.config.strategy(most, &network);
        self.watch(conn, knobs, &network, strategy, |this, to| {
            let start = Instant::now();
            let config = Arc::clone(&this.config);
            let mut guide = this.rate.guide();
            let (burst, messages_of) = (guide.rate.burst(), messages.iter().map(AsRef::as_ref));
            let strategy = |len: usize| clamp(config.strategy(len as u64, &network), burst);
            this.outgoing.send_batch(to, &mut messages_of.into_iter(), &strategy, &mut guide)?;
            let took = start.elapsed() / messages.len().try_into().unwrap_or(u32::MAX).max(1);
            for message in messages {
                this.sent(message.as_ref().len() as u64, took, false);
            }
            Ok(())
        })
    }

    pub(crate) fn send_stream<C: Write, R: Read + ?Sized>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
        reader: &mut R,
    ) -> Result<u64> {
        self.rate.message();
        let network = self.config.network(conn, knobs);
        // A limit counts within a chunk, whatever the stream grows to.
        let strategy = self.config.strategy(SizeClass::Medium.range().start, &network);
        self.watch(conn, knobs, &network, strategy, |this, to| {
            let start = Instant::now();
            this.predictor.begin();
            let mut guide = StreamGuide {
                config: &this.config,
                network: &network,
                predictor: &mut this.predictor,
                rate: &mut this.rate,
            };
            let bytes = this.outgoing.send_stream(to, reader, &mut guide)?;
            this.sent(bytes, start.elapsed(), true);
            Ok(bytes)
        })
    }

    /// [`send`](Sender::send), steered.
    pub(crate) fn send_steered<C: Write>(
        &mut self,
        conn: &mut C,
        helm: Helm<'_, C>,
        data: &[u8],
    ) -> Result<()> {
        let slices = [IoSlice::new(data)];
        let parts = Parts::new(&slices).expect("a slice is not longer than the address space");
        let bytes = data.len() as u64;
        let _admission = helm.knobs.map(|knobs| knobs.admit(conn, bytes)).transpose()?;
        self.rate.message();
        let network = self.config.network(conn, helm.knobs);
        let strategy = self.rate.fit(self.config.strategy(bytes, &network));
        self.steer(conn, helm, &network, strategy, |this, to| {
            let mut guide = this.rate.guide();
            this.outgoing.send(to, parts, &strategy, &mut guide)?;
            Ok((bytes, false))
        })?;
        Ok(())
    }

    /// [`send_stream`](Sender::send_stream), steered.
    pub(crate) fn send_stream_steered<C: Write, R: Read + ?Sized>(
        &mut self,
        conn: &mut C,
        helm: Helm<'_, C>,
        reader: &mut R,
    ) -> Result<u64> {
        self.rate.message();
        let network = self.config.network(conn, helm.knobs);
        let strategy = self.config.strategy(SizeClass::Medium.range().start, &network);
        self.steer(conn, helm, &network, strategy, |this, to| {
            this.predictor.begin();
            let mut guide = StreamGuide {
                config: &this.config,
                network: &network,
                predictor: &mut this.predictor,
                rate: &mut this.rate,
            };
            Ok((this.outgoing.send_stream(to, reader, &mut guide)?, true))
        })
    }

    /// Puts the frames in order after a send that timed out.
    pub(crate) fn settle<C: Write>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
    ) -> Result<()> {
        let network = self.config.network(conn, knobs);
        let strategy = self.config.strategy(0, &network);
        self.watch(conn, knobs, &network, strategy, |this, to| this.outgoing.settle(to))
    }

    pub(crate) fn close<C: Write>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
    ) -> Result<()> {
        let network = self.config.network(conn, knobs);
        let limit = self.config.strategy(0, &network).stall_limit(Operation::Close, &network);
        let limit = |_| limit;
        let mut to = Limited::new(conn, knobs, Direction::Write, &limit);
        self.outgoing.settle(&mut to)?;
        Ok(to.flush()?)
    }

    /// Sends under the stall limit of `strategy`, and tells of a failure.
    fn watch<C: Write, T>(
        &mut self,
        conn: &mut C,
        knobs: Option<&dyn Knobs<C>>,
        network: &Network,
        strategy: Strategy,
        send: impl FnOnce(&mut Sender, &mut Limited<'_, C>) -> Result<T>,
    ) -> Result<T> {
        let limit = |_| strategy.stall_limit(Operation::Write, network);
        let mut to = Limited::new(conn, knobs, Direction::Write, &limit);
        let outcome = send(self, &mut to);
        self.stalls += u64::from(to.has_stalled());
        if let (Err(e), Some(observer)) = (&outcome, &self.config.observer) {
            observer.failed(Direction::Write, e);
        }
        outcome
    }

    /// The same, steered, and with the receiver's last word.
    fn steer<C: Write>(
        &mut self,
        conn: &mut C,
        helm: Helm<'_, C>,
        network: &Network,
        strategy: Strategy,
        send: impl FnOnce(&mut Sender, &mut SteeredOutlet<'_, C>) -> Result<(u64, bool)>,
    ) -> Result<u64> {
        let Helm { knobs, wires, pilot, ear } = helm;
        let limit = |_| strategy.stall_limit(Operation::Write, network);
        let start = Instant::now();
        let to = Limited::new(conn, knobs, Direction::Write, &limit);
        let mut to = SteeredOutlet::new(to, wires, pilot, ear);
        let outcome = send(self, &mut to);
        self.stalls += u64::from(to.has_stalled());
        match to.conclude(outcome, self.outgoing.is_between_messages()) {
            Ok((bytes, stream)) => {
                self.sent(bytes, start.elapsed(), stream);
                Ok(bytes)
            }
            Err(e) => {
                if let Some(observer) = &self.config.observer {
                    observer.failed(Direction::Write, &e);
                }
                Err(e)
            }
        }
    }

    fn sent(&mut self, bytes: u64, took: Duration, stream: bool) {
        let class = SizeClass::of(bytes);
        let transfer = Transfer { class, bytes, took, stream };
        self.stats[class as usize].add(&transfer);
        if let Some(observer) = &self.config.observer {
            observer.sent(&transfer);
        }
    }
}

impl Rate {
    /// Waits until another message may be sent.
    fn message(&mut self) {
        if let Some(bucket) = &mut self.messages {
            bucket.take(1);
        }
    }

    fn bytes(&mut self, n: usize) -> Option<Duration> {
        self.bytes.as_mut()?.try_take(n as u64)
    }

    fn burst(&self) -> usize {
        let burst = self.bytes.as_ref().map_or(u64::MAX, Throttle::burst);
        burst.try_into().unwrap_or(usize::MAX).max(LEAST_BURST)
    }

    /// Chunks that the limit lets pass smoothly.
    fn fit(&self, strategy: Strategy) -> Strategy {
        clamp(strategy, self.burst())
    }

    fn guide(&mut self) -> PaceOnly<'_> {
        PaceOnly { rate: self }
    }
}

fn clamp(mut strategy: Strategy, burst: usize) -> Strategy {
    strategy.chunk = strategy.chunk.min(burst);
    strategy.in_flight = strategy.in_flight.min(burst);
    strategy
}

/// Guides what is no stream.
struct PaceOnly<'a> {
    rate: &'a mut Rate,
}

impl Guide for PaceOnly<'_> {
    fn pace(&mut self, bytes: usize) -> Option<Duration> {
        self.rate.bytes(bytes)
    }

    fn room(&mut self) -> usize {
        SizeClass::Medium.strategy().chunk
    }

    fn sent(&mut self, _content: &[u8], _room: usize, _took: Duration) {}
}

/// Guides a stream as the predictor says.
struct StreamGuide<'a> {
    config: &'a Config,
    network: &'a Network,
    predictor: &'a mut Predictor,
    rate: &'a mut Rate,
}

impl Guide for StreamGuide<'_> {
    fn pace(&mut self, bytes: usize) -> Option<Duration> {
        self.rate.bytes(bytes)
    }

    fn room(&mut self) -> usize {
        let size = self.predictor.class().range().start;
        self.rate.fit(self.config.strategy(size, self.network)).chunk
    }

    fn sent(&mut self, content: &[u8], room: usize, took: Duration) {
        let estimated = if self.predictor.is_at_start() {
            self.predictor.estimated(self.config.sizer.estimate(content, room))
        } else {
            None
        };
        let updated = self.predictor.update(content.len(), room, took);
        if let Some(observer) = &self.config.observer {
            estimated.iter().chain(&updated).for_each(|switch| observer.switched(switch));
        }
    }
}

/// Guides a stream of a free function.
pub(crate) struct Unguided(pub(crate) Predictor);

impl Guide for Unguided {
    fn pace(&mut self, _bytes: usize) -> Option<Duration> {
        None
    }

    fn room(&mut self) -> usize {
        self.0.class().strategy().chunk
    }

    fn sent(&mut self, content: &[u8], room: usize, took: Duration) {
        if self.0.is_at_start() {
            self.0.estimated(crate::message::TableSizer.estimate(content, room));
        }
        self.0.update(content.len(), room, took);
    }
}

/// However slow a sender is to be, its chunks do not become smaller.
const LEAST_BURST: usize = 1024;
