//! The receiving half of a transporter, without its conn.

use std::io::{Read, Write};
use std::sync::Arc;

use crate::error::Result;
use crate::message::config::Config;
use crate::message::control::{Pilot, Reins, SteeredSource};
use crate::message::frame::{Arrived, Incoming};
use crate::message::observer::{ClassStats, Transfer};
use crate::message::strategy::{Operation, SizeClass};
use crate::message::timeout::Limited;
use crate::stall::Direction;

pub(crate) struct Receiver {
    config: Arc<Config>,
    incoming: Incoming,
    pub(crate) stats: [ClassStats; SizeClass::ALL.len()],
    pub(crate) stalls: u64,
}

impl Receiver {
    pub(crate) fn new(config: Arc<Config>) -> Receiver {
        let (incoming, stats, stalls) = Default::default();
        Receiver { config, incoming, stats, stalls }
    }

    pub(crate) fn receive<C: Read>(
        &mut self,
        conn: &mut C,
        reins: Reins<'_, C>,
        message: &mut Vec<u8>,
    ) -> Result<()> {
        let limit = self.config.max_message_size as u64;
        self.watch(conn, reins, |incoming, from| incoming.receive(from, message, limit))?;
        Ok(())
    }

    pub(crate) fn receive_stream<C: Read>(
        &mut self,
        conn: &mut C,
        reins: Reins<'_, C>,
        writer: &mut dyn Write,
    ) -> Result<u64> {
        self.watch(conn, reins, |incoming, from| incoming.receive_stream(from, writer))
    }

    /// Where the commands come of those that we send to.
    pub(crate) fn ear(&mut self) -> &mut Incoming {
        &mut self.incoming
    }

    /// Receives under the stall limits, counts and tells; the bytes.
    fn watch<C: Read>(
        &mut self,
        conn: &mut C,
        reins: Reins<'_, C>,
        receive: impl FnOnce(&mut Incoming, &mut SteeredSource<'_, C>) -> Result<Arrived>,
    ) -> Result<u64> {
        let network = self.config.network(conn, reins.knobs);
        let limit =
            |size| self.config.strategy(size, &network).stall_limit(Operation::Read, &network);
        let Reins { knobs, wires, pilot, voice } = reins;
        let pilot = pilot.map(|pilot| pilot as &mut dyn Pilot);
        let from = Limited::new(conn, knobs, Direction::Read, &limit);
        let mut from = SteeredSource::new(from, wires, pilot, voice, &self.incoming);
        let outcome = receive(&mut self.incoming, &mut from);
        self.stalls += u64::from(from.has_stalled());
        drop(from);
        match outcome {
            Ok(Arrived { bytes, stream, took }) => {
                let class = SizeClass::of(bytes);
                let transfer = Transfer { class, bytes, took, stream };
                self.stats[class as usize].add(&transfer);
                if let Some(observer) = &self.config.observer {
                    observer.received(&transfer);
                }
                Ok(bytes)
            }
            Err(e) => {
                if let Some(observer) = &self.config.observer {
                    observer.failed(Direction::Read, &e);
                }
                Err(e)
            }
        }
    }
}
