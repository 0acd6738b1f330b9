//! A model of the states of a session at either end, and of what a head does to them. The
//! sessions themselves have theirs in `session/`, where their locks are.

use std::time::{Duration, Instant};

use super::head::{Code, Gone, Hello, SessionId, Welcome};
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::verdict;
use crate::error::Result;

/// Where a session is. All of its calls, with the [`Outgoing`] and the [`Incoming`]
/// that they are given, are one step: nothing else happens to the session between.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    role: Role,
    id: SessionId,
    protocol: String,
    /// How long this end keeps it while it is lost; the peer's time, once it is known.
    timeout: Duration,
    peer_timeout: Option<Duration>,
    /// Of the last Hello that was said, or that was answered with Welcome.
    epoch: u64,
    /// The peer is known to have the session.
    welcomed: bool,
    /// The peer is known to have the receipt for its end.
    confirmed: bool,
    state: State,
}

/// Which end of a session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It says Hello.
    Opener,
    /// It says Welcome.
    Responder,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// There is no carrier.
    Lost(Outage),
    /// Hello was said on a new carrier and waits for its answer. The first time there
    /// was no outage.
    Awaiting(Option<Outage>),
    /// Bytes flow on a carrier.
    Attached,
    Ended(End),
}

/// A time without a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    /// When the session is given up; `None`: never.
    pub(crate) until: Option<Instant>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything has arrived at either end, the ends of both directions too.
    Complete,
    /// A carrier was reset, by the peer or by us.
    Reset,
    /// The host at either end closed its connections, or its peer broke a rule.
    Aborted,
    /// It was without a carrier for so long.
    Expired(Duration),
    /// The peer does not have it.
    Gone(Code),
}

/// What an opener does behind a [`Gone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Says Hello again, a little later.
    Retry,
    Ended(End),
}

impl Lifecycle {
    /// A session that this end opens. Its first Hello is said next.
    pub(crate) fn open(id: SessionId, protocol: &str, timeout: Duration) -> Lifecycle {
        Lifecycle {
            role: Role::Opener,
            id,
            protocol: protocol.to_owned(),
            timeout,
            peer_timeout: None,
            epoch: 0,
            welcomed: false,
            confirmed: false,
            state: State::Awaiting(None),
        }
    }

    /// The session that a Hello asks for, of an id that is not known here. The answer
    /// is [`Lifecycle::welcome`].
    ///
    /// # Errors
    ///
    /// What to answer instead.
    pub(crate) fn accept(hello: &Hello, timeout: Duration) -> Result<Lifecycle, Gone> {
        verdict::may_open(hello)?;
        Ok(Lifecycle {
            role: Role::Responder,
            epoch: 0,
            ..Lifecycle::open(hello.id, &hello.protocol, timeout)
        })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn protocol(&self) -> &str {
        &self.protocol
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn end(&self) -> Option<End> {
        match self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// The outage that it is in.
    pub(crate) fn outage(&self) -> Option<Outage> {
        match self.state {
            State::Lost(outage) | State::Awaiting(Some(outage)) => Some(outage),
            _ => None,
        }
    }

    /// Whether the opener has a Hello to say: there is no carrier, and none under way.
    pub(crate) fn wants_carrier(&self) -> bool {
        self.role == Role::Opener && matches!(self.state, State::Lost(_))
            || self.epoch == 0 && matches!(self.state, State::Awaiting(None))
    }

    /// What the opener says on a new carrier. `None`: the session has ended, or waits
    /// for the answer to another one.
    ///
    /// The carrier before must not store anything from here on.
    pub(crate) fn hello(&mut self, incoming: &mut Incoming) -> Option<Hello> {
        if !self.wants_carrier() {
            return None;
        }
        // 2^64 losses are beyond every session.
        self.epoch = self.epoch.checked_add(1)?;
        self.state = State::Awaiting(self.outage());
        let (received, window) = incoming.announce();
        Some(Hello {
            id: self.id,
            epoch: self.epoch,
            opening: !self.welcomed,
            received,
            window,
            timeout: self.timeout,
            protocol: self.protocol.clone(),
        })
    }

    /// The opener is answered: the carrier of its last Hello is the session's. Returns
    /// how many bytes are to be said again on it.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation`: the peer resumes what it cannot have. The session has ended.
    pub(crate) fn welcomed(&mut self, welcome: &Welcome, out: &mut Outgoing) -> Result<u64> {
        debug_assert!(matches!(self.state, State::Awaiting(_)), "an answer to nothing");
        match out.resume(welcome.received) {
            Ok(again) => {
                self.peer_timeout = Some(welcome.timeout);
                self.welcomed = true;
                self.state = State::Attached;
                Ok(again)
            }
            Err(e) => {
                self.ended(End::Aborted);
                Err(e)
            }
        }
    }

    /// The opener is told that the session is not there.
    pub(crate) fn gone(&mut self, gone: Gone, out: &mut Outgoing, incoming: &Incoming) -> Fate {
        if let (Code::Busy, State::Awaiting(Some(outage))) = (gone.code, &self.state) {
            self.state = State::Lost(*outage);
            return Fate::Retry;
        }
        // So much had arrived all the same, if that can be.
        let _ = out.resume(gone.received);
        let complete = incoming.is_finished() && out.is_delivered();
        Fate::Ended(self.ended(if complete { End::Complete } else { End::Gone(gone.code) }))
    }

    /// Whether the responder goes on with its session on the carrier of `hello`.
    ///
    /// # Errors
    ///
    /// What to answer instead. The session is as it was.
    pub(crate) fn may_resume(
        &self,
        hello: &Hello,
        out: &Outgoing,
        incoming: &Incoming,
    ) -> Result<(), Gone> {
        if self.end().is_some() {
            return Err(Gone { code: Code::Ended, received: incoming.received() });
        }
        debug_assert!(self.role == Role::Responder && hello.id == self.id, "not its Hello");
        let possible = out.may_resume(hello.received);
        verdict::may_resume(hello, self.epoch, &self.protocol, possible)
    }

    /// The responder goes on with its session on the carrier of `hello`, which
    /// [`Lifecycle::may_resume`] or made it. Returns the answer, and how many bytes are
    /// to be said again behind it.
    ///
    /// The carrier before must not store anything from here on.
    ///
    /// # Errors
    ///
    /// As [`Lifecycle::may_resume`].
    pub(crate) fn welcome(
        &mut self,
        hello: &Hello,
        out: &mut Outgoing,
        incoming: &mut Incoming,
    ) -> Result<(Welcome, u64), Gone> {
        self.may_resume(hello, out, incoming)?;
        let again = out.resume(hello.received).expect("`may_resume` has said so");
        (self.epoch, self.peer_timeout) = (hello.epoch, Some(hello.timeout));
        (self.state, self.welcomed) = (State::Attached, true);
        let (received, window) = incoming.announce();
        Ok((Welcome { received, window, timeout: self.timeout }, again))
    }

    /// The carrier is lost, or the one on which Hello waits for its answer; or the
    /// answer was a reset, which is as good. The session is given up `grace` after the
    /// smaller of both ends' timeouts: the responder, who waits, adds the time that
    /// the opener may take to notice.
    pub(crate) fn lost(&mut self, now: Instant, grace: Duration) {
        let outage = match self.state {
            State::Attached | State::Awaiting(None) => {
                let timeout = self.peer_timeout.map_or(self.timeout, |t| t.min(self.timeout));
                let until = now.checked_add(timeout.saturating_add(grace));
                Outage { since: now, until }
            }
            State::Awaiting(Some(outage)) | State::Lost(outage) => outage,
            State::Ended(_) => return,
        };
        self.state = State::Lost(outage);
    }

    /// Ends the session if it was lost for too long by `now`; whether it has.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let Some(Outage { since, until: Some(until) }) = self.outage() else { return false };
        if now >= until {
            self.ended(End::Expired(now.saturating_duration_since(since)));
        }
        now >= until
    }

    /// The peer has the receipt for its end: it has answered what was said behind it, or a
    /// head that said so.
    pub(crate) fn confirmed(&mut self) {
        self.confirmed = true;
    }

    /// Whether everything has arrived at either end, and all that is open is whether the
    /// peer has the last receipt. An opener waits for that: a responder that lacks it
    /// hears of it by a Hello. What a responder has to say a Gone can say.
    pub(crate) fn owes_receipt(&self, out: &Outgoing, incoming: &Incoming) -> bool {
        let done = out.is_delivered() && incoming.is_finished();
        done && self.end().is_none() && self.role == Role::Opener && !self.confirmed
    }

    /// Ends the session if everything has arrived at either end, and the peer needs it no
    /// more. To be asked whenever the peer has told what it received, and when its FIN
    /// arrives; also of a session that is lost.
    pub(crate) fn complete(&mut self, out: &Outgoing, incoming: &Incoming) -> bool {
        let done = out.is_delivered() && incoming.is_finished();
        let complete = done && self.end().is_none() && !self.owes_receipt(out, incoming);
        if complete {
            self.ended(End::Complete);
        }
        complete
    }

    /// Ends the session for another reason, if it has not ended before. Returns how it
    /// has ended.
    pub(crate) fn ended(&mut self, end: End) -> End {
        if let State::Ended(before) = self.state {
            return before;
        }
        self.state = State::Ended(end);
        end
    }
}
