//! The protocols that every host answers: ping and identify.

use crate::driver::{Answer, Service};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::identify::Identify;
use crate::proto::{identify, ping};

/// The names of the protocols below.
pub(crate) const NAMES: [&str; 2] = [ping::PROTOCOL, identify::PROTOCOL];

/// Echoes what comes, 32 bytes at a time.
pub(crate) struct Ping(ping::Responder);

impl Ping {
    pub(crate) fn new() -> Ping {
        Ping(ping::Responder::new())
    }
}

impl Service for Ping {
    fn data(&mut self, mut bytes: &[u8]) -> Result<Answer> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let taken = self.0.read(bytes, &mut out);
            if taken == 0 {
                return Err(Error::new(ErrorCode::ProtocolViolation, "too many pings at once"));
            }
            bytes = &bytes[taken..];
        }
        Ok(Answer { bytes: out, finished: false })
    }
}

/// Says who we are, and ends.
pub(crate) struct Introduction(pub(crate) Identify);

impl Service for Introduction {
    fn greet(&mut self) -> Answer {
        Answer { bytes: self.0.encode(), finished: true }
    }

    fn data(&mut self, _: &[u8]) -> Result<Answer> {
        Ok(Answer::default())
    }
}

/// What identify says of the program.
pub(crate) const AGENT: &str = concat!("pointsub/", env!("CARGO_PKG_VERSION"));
