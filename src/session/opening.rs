//! A session's first carrier.

use std::sync::{Arc, Weak};
use std::time::Instant;

use libp2p_identity::PeerId;

use super::carriers::Carrier;
use super::{Phase, Session, Sessions};
use crate::driver::{Answered, Carries, Link, Opening, Patience, Stream, Watcher};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::resume::{Code, Gone, Hello, SessionId, Welcome};
use crate::proto::yamux::INITIAL_WINDOW;
use crate::random;

/// What opening a session came to.
pub(crate) enum Opened {
    Open,
    /// The link ended, or was about to, before the peer answered: another link may do
    /// better, with the same session.
    LinkGone(Error),
    /// The peer had taken it, and has ended it before we knew: another session may do.
    Over(Error),
}

impl Sessions {
    /// A session that is not there yet at the other end.
    pub(crate) fn start(
        self: &Arc<Sessions>,
        peer: PeerId,
        protocol: &str,
    ) -> Result<Arc<Session>> {
        let mut id = SessionId::default();
        random::fill(&mut id)?;
        Ok(Session::new(id, true, peer, protocol.into(), self, None))
    }
}

impl Session {
    /// Has the peer take it, over this link. May be called again with another one if it
    /// was the link that failed: the peer makes one session of all the calls.
    pub(crate) fn open(
        self: &Arc<Session>,
        link: &Arc<Link>,
        deadline: Option<Instant>,
    ) -> Result<Opened> {
        let late = || {
            let what = format!("the peer did not answer the opening of {} in time", self.protocol);
            Error::new(ErrorCode::Timeout, what)
        };
        let epoch = {
            let mut state = self.state.lock();
            state.epoch += 1;
            state.epoch
        };
        let hello = self.hello(epoch, true, 0, INITIAL_WINDOW);
        let watcher: Weak<dyn Watcher> = self.me.clone();
        let carries = Carries::new(watcher, 0, false);
        let patience = deadline.map_or(Patience::Forever, Patience::Until);
        let stream = match link.open_carrier(&hello.encode(), carries, INITIAL_WINDOW, patience) {
            Ok(Opening::Opened(stream)) => stream,
            Ok(Opening::LinkGone(why)) => return Ok(Opened::LinkGone(why)),
            Ok(Opening::Late) => return Err(late()),
            Err(why) if !link.is_open() => return Ok(Opened::LinkGone(why)),
            Err(e) => return Err(e),
        };
        match link.await_answer(&stream, deadline) {
            Ok(Some(Answered::Head(Ok(welcome)))) => {
                self.attach_first(link, &stream, welcome)?;
                Ok(Opened::Open)
            }
            Ok(Some(Answered::Head(Err(Gone { code: Code::Ended, .. })))) if epoch > 1 => {
                link.release(&stream);
                let what = "the peer closed the connection while a conn was opened";
                Ok(Opened::Over(Error::new(ErrorCode::ConnectionAborted, what)))
            }
            Ok(Some(answered)) => {
                link.release(&stream);
                Err(self.refused(answered))
            }
            Ok(None) => {
                link.reset(&stream);
                Err(late())
            }
            Err(_) if !link.stays_open(&stream, deadline) => {
                link.reset(&stream);
                Ok(Opened::LinkGone(link.gone()))
            }
            Err(why) => {
                link.reset(&stream);
                Err(link.unanswered(&self.protocol, why))
            }
        }
    }

    fn attach_first(
        self: &Arc<Session>,
        link: &Arc<Link>,
        stream: &Arc<Stream>,
        welcome: Welcome,
    ) -> Result<()> {
        let carrier = Arc::new(Carrier { link: link.clone(), stream: stream.clone() });
        {
            let mut state = self.state.lock();
            state.phase = Phase::Attached;
            state.timeout = state.timeout.min(welcome.timeout);
            state.carriers.attach(carrier);
        }
        if !self.sessions.add(self) {
            link.reset(stream);
            return Err(Error::new(ErrorCode::NotConnected, "the host has been shut down"));
        }
        // It may have been lost before it was there.
        self.settle();
        Ok(())
    }

    /// What a refusal means to who connects.
    fn refused(&self, answered: Answered) -> Error {
        let (code, what) = match answered {
            Answered::Head(Err(Gone { code: Code::NotServed, .. })) => (
                ErrorCode::ProtocolNotServed,
                format!("{} does not serve {}", self.peer, self.protocol),
            ),
            Answered::Violation(e) => return e,
            _ => {
                let what = format!("{} refused a conn of {}", self.peer, self.protocol);
                (ErrorCode::ConnectionRefused, what)
            }
        };
        Error::new(code, what)
    }

    /// The other end has opened it.
    pub(super) fn open_as_responder(&self, hello: &Hello) {
        let mut state = self.state.lock();
        state.epoch = hello.epoch;
        state.timeout = state.timeout.min(hello.timeout);
    }

    pub(super) fn hello(&self, epoch: u64, opening: bool, received: u64, window: u32) -> Hello {
        Hello {
            id: self.id,
            epoch,
            opening,
            received,
            window,
            timeout: self.sessions.limits.timeout,
            protocol: self.protocol.to_string(),
        }
    }
}
