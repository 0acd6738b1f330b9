//! How a session ends: both ends have finished, or it is given up.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use libp2p_identity::PeerId;

use super::{Phase, Session, Sessions};
use crate::driver::Watcher;
use crate::error::{Error, ErrorCode, Result};
use crate::resources::events::Event;

impl Session {
    /// Ends one direction or both, as the application sees it.
    pub(super) fn shutdown(&self, how: Shutdown) -> Result<()> {
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.finish_writing();
            if let Some(carrier) = self.current() {
                carrier.link.say_rest();
            }
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.deafen()?;
        }
        Ok(())
    }

    /// Nothing more is written: the peer is told, behind all that was, when the link says
    /// what rests.
    fn finish_writing(&self) {
        {
            let mut out = self.writer.lock();
            if !out.finish() {
                return;
            }
            self.shut.store(true, SeqCst);
            if let Some(carrier) = self.current() {
                self.advance_to_rest(&mut out, &carrier);
            }
        }
        self.state.lock().carriers.waiters.wake();
    }

    /// Reads find the end from now on, on this carrier and all that follow.
    fn deafen(&self) -> Result<()> {
        let current = {
            let mut state = self.state.lock();
            state.deaf = true;
            state.carriers.discard();
            state.carriers.waiters.wake();
            state.carriers.current.clone()
        };
        self.grant_what_was_read();
        current.map_or(Ok(()), |carrier| carrier.link.shut_read(&carrier.stream))
    }

    /// The last handle is gone. What was written is delivered; what the peer goes on to
    /// say is thrown away, and refused once it has everything.
    pub(super) fn release(&self) {
        self.state.lock().released.get_or_insert_with(Instant::now);
        self.finish_writing();
        let _ = self.deafen();
        if let Some(carrier) = self.current() {
            carrier.link.leave();
        }
        self.set_alarm();
        self.settle();
        self.finish_if_over(Instant::now());
    }

    /// Nobody has accepted it, and nobody will.
    pub(super) fn reset(&self) {
        let why = Error::new(ErrorCode::ConnectionAborted, "the conn was given up");
        let current = self.current();
        self.give_up(why);
        if let Some(carrier) = current {
            carrier.link.reset(&carrier.stream);
        }
    }

    /// When it ends if it is still without a carrier.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state.lock();
        let Phase::Lost(outage) = &state.phase else { return None };
        let linger = |released: Instant| released.max(outage.since) + self.sessions.limits.linger;
        let closing = state.closing.as_ref().map(|(_, until)| *until);
        [Some(outage.deadline), state.released.map(linger), closing].into_iter().flatten().min()
    }

    /// Has itself called when something is due though nothing happens.
    pub(super) fn set_alarm(&self) {
        let retry = match &self.state.lock().phase {
            Phase::Lost(outage) if outage.asking.is_none() => Some(outage.not_before),
            _ => None,
        };
        let now = Instant::now();
        let retry = retry.filter(|at| *at > now);
        let Some(at) = [self.deadline(), retry].into_iter().flatten().min() else { return };
        // A peer can have it look as often as it likes.
        if self.alarm.lock().replace(at) != Some(at) || at <= now {
            self.wake_at(at);
        }
    }

    /// Ends it if it was without a carrier for too long.
    pub(super) fn expire(&self, now: Instant) {
        let Some(deadline) = self.deadline() else { return };
        if now < deadline {
            return self.set_alarm();
        }
        let why = {
            let state = self.state.lock();
            let Phase::Lost(outage) = &state.phase else { return };
            let out_of = now.saturating_duration_since(outage.since);
            match &state.closing {
                Some((why, _)) => why.clone(),
                None => {
                    let why = outage.why.description();
                    let what = format!("{why}; no new connection came for {out_of:.1?}");
                    Error::with_source(ErrorCode::ConnectionReset, what, outage.why.clone())
                }
            }
        };
        self.give_up_lost(why);
    }

    /// It ends without having finished: its calls fail with `why`, which comes to say how
    /// much has arrived. Nothing if it has ended already.
    pub(super) fn give_up(&self, why: Error) {
        self.give_up_if(why, |phase| !matches!(phase, Phase::Ended(_)));
    }

    /// The same, unless it has found a carrier, or has ended, before somebody came to end
    /// it. Whether it did now.
    pub(super) fn give_up_lost(&self, why: Error) -> bool {
        self.give_up_if(why, |phase| matches!(phase, Phase::Lost(_)))
    }

    fn give_up_if(&self, why: Error, may_end: impl Fn(&Phase) -> bool) -> bool {
        let (acked, written, delivered) = {
            let out = self.writer_with_acks();
            let done = out.is_delivered() || out.is_fin_said() && out.unacked() == 0;
            (out.delivered(), out.written(), done)
        };
        let what = format!(
            "{}; of {written} bytes written {acked} are known to have arrived",
            why.description()
        );
        let why = match why.code() {
            ErrorCode::ConnectionReset => Error::with_source(why.code(), what, why)
                .with_context("arrived", acked)
                .with_context("written", written),
            _ => why,
        };
        let mut state = self.state.lock();
        if !may_end(&state.phase) {
            return false;
        }
        // Only the last confirmation is missing, and nobody waits for that.
        let quiet = delivered && state.carriers.is_finished();
        let end = if quiet { None } else { Some(why.clone()) };
        let before = std::mem::replace(&mut state.phase, Phase::Ended(end));
        state.carriers.waiters.wake();
        drop(state);
        // At once: who ends some to have their memory looks whether that is enough.
        self.writer.lock().clear();
        if let Phase::Lost(outage) = before {
            self.sessions.strike_off(self, outage.number);
            if let Some(asking) = outage.asking {
                asking.abandon();
            }
            if !quiet {
                self.note_end(outage.link, outage.since, &why);
            }
        }
        self.stirred();
        true
    }

    fn note_end(&self, connection: u64, since: Instant, why: &Error) {
        self.sessions.counters.given_up.fetch_add(1, Relaxed);
        let outage = since.elapsed();
        let nanos = u64::try_from(outage.as_nanos()).unwrap_or(u64::MAX);
        self.counters.longest_outage.fetch_max(nanos, Relaxed);
        log::debug!(link = connection, peer:% = self.peer, protocol:% = self.protocol;
            "a conn was given up after {outage:?}: {why}");
        self.sessions.resources.feed.tell(|| Event::ConnGivenUp {
            connection,
            peer: self.peer,
            protocol: self.protocol.clone(),
            outage,
            why: why.clone(),
        });
    }

    /// Leaves the table once it has ended, or once both ends have finished and know it.
    pub(super) fn finish_if_over(&self, now: Instant) {
        let delivered = self.writer.lock().is_delivered();
        if delivered {
            // First: if the link is lost from here on, it is known what for.
            self.settle_for_good();
        }
        let waits = delivered && self.owes_receipt();
        let mut asking = None;
        let (ended, released, current, received, has_left) = {
            let mut state = self.state.lock();
            let over = delivered && !waits && state.carriers.is_finished();
            if over && !matches!(state.phase, Phase::Ended(_)) {
                let before = std::mem::replace(&mut state.phase, Phase::Ended(None));
                state.carriers.waiters.wake();
                if let Phase::Lost(outage) = before {
                    self.sessions.strike_off(self, outage.number);
                    asking = outage.asking;
                }
            }
            let ended = matches!(state.phase, Phase::Ended(_));
            let received = state.carriers.received_so_far();
            let has_left = state.carriers.has_left();
            (ended, state.released.is_some(), state.carriers.current.clone(), received, has_left)
        };
        if let Some(asking) = asking {
            asking.abandon();
        }
        if released
            && (ended || delivered)
            && let Some(carrier) = current
        {
            // What still comes from the peer is refused from here on.
            carrier.link.release(&carrier.stream);
        }
        if ended {
            self.settle_for_good();
            self.writer.lock().clear();
            self.sessions.bury(self, received, has_left, now);
        } else if delivered {
            self.sessions.tell();
        }
    }

    /// Hears the last confirmation before it is looked what became of the carrier, which
    /// may have ended right behind it.
    pub(super) fn note_delivery(&self) {
        if self.writer_with_acks().is_delivered() {
            self.settle_for_good();
        }
    }

    /// Nothing more has to be delivered, and nothing is kept for it.
    fn settle_for_good(&self) {
        if !self.settled.swap(true, SeqCst) {
            self.writer.lock().clear();
            self.state.lock().carriers.waiters.wake();
        }
    }

    /// Its host, or its peer's connections, are being closed: its calls fail from now on.
    /// Whether nothing has to be waited for.
    fn begin_close(&self, why: &Error, until: Instant, redials: bool) -> bool {
        let current = {
            let mut state = self.state.lock();
            state.closing = Some((why.clone(), until));
            state.carriers.waiters.wake();
            state.carriers.current.clone()
        };
        if let Some(carrier) = current {
            carrier.stream.state.lock().bar(why);
        }
        self.finish_writing();
        if !redials && self.has_said_all() {
            // The end of the link is news for it.
            return true;
        }
        if let Some(carrier) = self.current() {
            carrier.link.hand_back();
        }
        self.set_alarm();
        self.stirred();
        // Without a link, now or later, it delivers nothing more: it ends as soon as the event
        // loop comes to it.
        self.settled.load(SeqCst) || !redials && !self.has_link()
    }

    /// Its host is being closed, and all that was written has arrived; the peer may not know
    /// that it was all.
    pub(super) fn only_lacks_end(&self) -> bool {
        let out = self.writer_with_acks();
        let arrived = out.is_finished() && out.unacked() == 0;
        drop(out);
        arrived && self.state.lock().closing.is_some()
    }

    /// The end too, on a carrier that is there: an answer to what is said behind it means
    /// that all has arrived.
    fn has_said_all(&self) -> bool {
        let said = self.writer.lock().is_fin_said();
        said && self.has_link()
    }

    fn has_link(&self) -> bool {
        self.current().is_some_and(|carrier| carrier.link.death().is_none())
    }
}

impl Session {
    /// The time to close it is over: an end without all that was written would pass for
    /// a whole one.
    fn cut_short(&self) {
        let said = self.writer.lock().is_fin_said();
        if let Some(carrier) = self.current()
            && !said
        {
            carrier.link.reset(&carrier.stream);
        }
    }
}

impl Sessions {
    /// Ends those with `peer`, or all, with `why`: waits until everything is delivered,
    /// at most until `deadline`. One that is without a carrier at `redial_until` ends; if
    /// that is none, those that have said everything on theirs are left to the end of the
    /// link, which waits for its delivery.
    pub(crate) fn close(
        &self,
        peer: Option<&PeerId>,
        why: &Error,
        redial_until: Option<Instant>,
        deadline: Instant,
    ) {
        let sessions = self.live(peer);
        let (until, redials) = (redial_until.unwrap_or_else(Instant::now), redial_until.is_some());
        let waits = |session: &&Arc<Session>| !session.begin_close(why, until, redials);
        let waiting: Vec<_> = sessions.iter().filter(waits).collect();
        if !waiting.is_empty() {
            // The end of the others is not to wait for them.
            let carriers = sessions.iter().filter_map(|session| session.current());
            carriers.for_each(|carrier| carrier.link.say_rest());
        }
        for session in waiting {
            let mut table = self.table.lock();
            while !session.settled.load(SeqCst) && Instant::now() < deadline {
                self.changed.wait_until(&mut table, deadline);
            }
        }
        sessions.iter().for_each(|session| session.cut_short());
    }

    /// No new ones, and no more redialling: those that are left without a carrier end.
    pub(crate) fn end(&self, why: &Error) {
        {
            let mut table = self.table.lock();
            (table.closed, table.over) = (true, true);
        }
        self.changed.notify_all();
        self.live(None).iter().for_each(|session| session.give_up(why.clone()));
    }

    /// No new ones.
    pub(crate) fn stop_taking(&self) {
        self.table.lock().closed = true;
    }
}
