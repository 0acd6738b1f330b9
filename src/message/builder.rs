//! Options of a transporter.

use std::sync::Arc;

use crate::error::Result;
use crate::message::DEFAULT_MAX;
use crate::message::compress::Compression;
use crate::message::config::Config;
use crate::message::control::{Tried, Wires};
use crate::message::frame::Options;
use crate::message::observer::MessageObserver;
use crate::message::receiver::Receiver;
use crate::message::sender::{Rate, Sender};
use crate::message::strategy::{MessageSizer, TableSizer};
use crate::message::timeout::{Direct, Knobs};
use crate::message::transporter::MessageTransporter;
use crate::resources::rate::Throttle;
use crate::stall::{Network, StallLimit, TryIo};

/// Makes a [`MessageTransporter`]; see [`MessageTransporter::builder`].
pub struct MessageTransporterBuilder<C> {
    conn: C,
    knobs: Option<Arc<dyn Knobs<C>>>,
    wires: Option<Arc<dyn Wires<C>>>,
    config: Config,
    rate: Rate,
}

impl<C> MessageTransporterBuilder<C> {
    pub(crate) fn new(conn: C) -> MessageTransporterBuilder<C> {
        let config = Config {
            options: Options::default(),
            max_message_size: DEFAULT_MAX,
            sizer: Box::new(TableSizer),
            observer: None,
            network: None,
        };
        let (knobs, wires, rate) = Default::default();
        MessageTransporterBuilder { conn, knobs, wires, config, rate }
    }

    /// The largest message that `receive` takes. Default: 1 GiB. Streams to a
    /// writer have no limit.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.config.max_message_size = bytes;
        self
    }

    /// Whether what is sent carries checksums of its content. Default: yes.
    /// Without them the frames say so; headers are checked all the same. Meant
    /// for transports that authenticate, as a [`Conn`](crate::Conn) does.
    #[must_use]
    pub fn checksum(mut self, on: bool) -> Self {
        self.config.options.bare = !on;
        self
    }

    /// Whether and how what is sent is compressed, chunk by chunk, where that
    /// saves a tenth. Default: off. Do not compress secrets together with what
    /// an attacker may choose: lengths tell.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.options.compression = compression;
        self
    }

    /// Who decides how messages are cut. Default: [`TableSizer`].
    #[must_use]
    pub fn sizer(mut self, sizer: impl MessageSizer + 'static) -> Self {
        self.config.sizer = Box::new(sizer);
        self
    }

    /// Who hears what happens. Default: nobody.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn MessageObserver>) -> Self {
        self.config.observer = Some(observer);
        self
    }

    /// Where to ask for round trip and memory. Default: the conn, if
    /// [`limits`](MessageTransporterBuilder::limits) were asked for.
    #[must_use]
    pub fn network(mut self, ask: impl Fn() -> Network + Send + Sync + 'static) -> Self {
        self.config.network = Some(Box::new(ask));
        self
    }

    /// At most so many bytes of content a second are sent; what is compressed
    /// counts as what it was. Default: no limit.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorCode::InvalidInput) for 0.
    pub fn bytes_per_second(mut self, rate: u64) -> Result<Self> {
        self.rate.bytes = Some(Throttle::new(rate)?);
        Ok(self)
    }

    /// At most so many messages and streams a second are sent. Default: no limit.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorCode::InvalidInput) for 0.
    pub fn messages_per_second(mut self, rate: u64) -> Result<Self> {
        self.rate.messages = Some(Throttle::new(rate)?);
        Ok(self)
    }

    /// Sending and receiving fail with [`Timeout`](crate::ErrorCode::Timeout)
    /// where a chunk makes no progress for the time that its class allows. A
    /// pause between chunks may last. And a message of 1 MiB and more is sent, or
    /// received, only if the conn [admits](StallLimit::admit) it: a
    /// [`Conn`](crate::Conn) whose host is short of memory says
    /// [`OutOfMemory`](crate::ErrorCode::OutOfMemory). Nothing of it is sent then;
    /// one that was to be received is skipped by the next `receive`. Default: no
    /// limits.
    #[must_use]
    pub fn limits(mut self) -> Self
    where
        C: StallLimit,
    {
        self.knobs = Some(Arc::new(Direct));
        self
    }

    /// Transfers can be steered from both ends: what is sent under a
    /// [`TransferHandle`](crate::TransferHandle) is announced to the receiver,
    /// who may then pause it and call it off, and confirms its end; and what is
    /// announced so can be received. A receiver without it refuses such a
    /// transfer by name. Default: only the sending end steers.
    ///
    /// The confirmation is waited for as long as the conn's read timeout allows;
    /// [`limits`](MessageTransporterBuilder::limits) do not count there, since the
    /// receiver may still be at work on what has arrived.
    ///
    /// A transfer blocks until it is over, also on a conn that is set not to
    /// block.
    #[must_use]
    pub fn control(mut self) -> Self
    where
        C: TryIo,
    {
        self.wires = Some(Arc::new(Tried));
        self
    }

    /// The transporter.
    pub fn build(self) -> MessageTransporter<C> {
        let config = Arc::new(self.config);
        let sender = Sender::new(Arc::clone(&config), self.rate);
        let receiver = Receiver::new(config);
        MessageTransporter::from_parts(self.conn, self.knobs, self.wires, sender, receiver)
    }
}
