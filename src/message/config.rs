//! What both halves of a transporter were told.

use std::sync::Arc;

use crate::message::frame::Options;
use crate::message::observer::MessageObserver;
use crate::message::strategy::{MessageSizer, Strategy};
use crate::message::timeout::Knobs;
use crate::stall::Network;

pub(crate) struct Config {
    pub(crate) options: Options,
    pub(crate) max_message_size: usize,
    pub(crate) sizer: Box<dyn MessageSizer>,
    pub(crate) observer: Option<Arc<dyn MessageObserver>>,
    pub(crate) network: Option<Box<dyn Fn() -> Network + Send + Sync>>,
}

impl Config {
    /// What the user knows of the network, or else the conn.
    pub(crate) fn network<C>(&self, conn: &C, knobs: Option<&dyn Knobs<C>>) -> Network {
        match (&self.network, knobs) {
            (Some(network), _) => network(),
            (None, Some(knobs)) => knobs.network(conn),
            (None, None) => Network::default(),
        }
    }

    pub(crate) fn strategy(&self, size: u64, network: &Network) -> Strategy {
        self.sizer.optimise(self.sizer.strategy(size), network)
    }
}
