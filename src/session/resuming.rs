//! From the loss of a carrier to the next one.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::carriers::Carrier;
use super::outgoing::Outgoing;
use super::table::PlaceToAsk;
use super::{Outage, Phase, Session};
use crate::driver::{
    Answered, Carries, Curious, Fate, Greeted, HeadAnswer, Link, Opening, Patience, Stream, Watcher,
};
use crate::error::{Error, ErrorCode};
use crate::proto::resume::{Code, Gone, Hello, Welcome, verdict};
use crate::resources::events::Event;

/// A stream of ours that is to be the next carrier: its head is not answered yet.
pub(super) struct Asking {
    pub(super) carrier: Arc<Carrier>,
    pub(super) since: Instant,
    /// When it is looked at again, whatever happens.
    pub(super) looks: Instant,
    #[expect(dead_code, reason = "held as long as it asks")]
    pub(super) place: PlaceToAsk,
}

impl Asking {
    /// Whatever the answer is, nobody goes on with it.
    pub(super) fn abandon(self) {
        self.carrier.link.reset(&self.carrier.stream);
    }
}

/// A stream of the peer's that is to be the next carrier.
pub(super) struct Request {
    link: Arc<Link>,
    stream: Arc<Stream>,
    hello: Hello,
}

/// Those that wait for the event loop.
pub(super) type Requests = Mutex<Vec<Request>>;

impl Session {
    /// Notes what became of its carrier. Called without a lock.
    pub(super) fn settle(&self) {
        let mut state = self.state.lock();
        let Phase::Attached = state.phase else { return };
        let Some(current) = state.carriers.current.clone() else { return };
        let mut fate = current.fate();
        let complete = self.is_complete(&state);
        if complete {
            // The link may have forgotten its stream.
            fate = fate.or_else(|| current.link.death().map(Fate::of));
        }
        match fate {
            None => {}
            Some(Fate::Lost(why)) if !complete || self.is_needed(&mut state, &current.link) => {
                let now = Instant::now();
                self.counters.losses.fetch_add(1, Relaxed);
                state.carriers.detach(&why);
                if state.deaf {
                    // Nobody reads what it has left.
                    state.carriers.discard();
                }
                state.last_receipt.lose();
                let deadline = now + self.keeping_time(state.timeout, current.link.dialled);
                let link = &current.link;
                let (number, oldest) = self.sessions.enlist(self, link.dialled, complete);
                let outage = Outage::new(number, link, why.clone(), now, deadline);
                state.phase = Phase::Lost(Box::new(outage));
                state.carriers.waiters.wake();
                drop(state);
                self.after_loss(link.id, &why, oldest);
            }
            Some(Fate::Over(why) | Fate::Lost(why)) => {
                state.phase = Phase::Ended((!complete).then_some(why));
                state.carriers.waiters.wake();
                drop(state);
                self.stirred();
            }
        }
    }

    /// How long it may be without a carrier. Who does not dial waits longer: the other
    /// end may have noticed later.
    fn keeping_time(&self, timeout: Duration, dials: bool) -> Duration {
        if dials { timeout } else { timeout + self.sessions.limits.detection }
    }

    fn after_loss(&self, connection: u64, why: &Error, oldest: Option<Arc<Session>>) {
        self.sessions.counters.lost.fetch_add(1, Relaxed);
        log::debug!(link = connection, peer:% = self.peer, protocol:% = self.protocol;
            "a conn lost its connection and waits for another: {why}");
        self.sessions.resources.feed.tell(|| Event::ConnLost {
            connection,
            peer: self.peer,
            protocol: self.protocol.clone(),
            why: why.clone(),
        });
        self.stirred();
        self.set_alarm();
        self.sessions.redial(self.peer);
        if let Some(oldest) = oldest {
            oldest.give_up_lost(super::table::too_many());
        }
    }

    // The opener.

    /// Says hello on a new carrier, if there is a link and it is time.
    pub(super) fn ask(&self, now: Instant) {
        let wanted = {
            let state = self.state.lock();
            let Phase::Lost(outage) = &state.phase else { return };
            if !self.opener || outage.asking.is_some() || outage.not_before > now {
                return;
            }
            outage.wanted()
        };
        let Some(lines) = self.sessions.lines.upgrade() else { return };
        let Some(link) = lines.line(&self.peer, &|link| wanted.suits(link)) else { return };
        let Some(place) = self.sessions.place_to_ask(&self.peer) else { return };
        let carrier = self.ask_on(&link);
        let looks = now + self.sessions.limits.answer;
        let asking = carrier.map(|carrier| Asking { carrier, since: now, looks, place });
        let mut state = self.state.lock();
        let Phase::Lost(outage) = &mut state.phase else {
            // It ended meanwhile.
            drop(state);
            if let Some(asking) = asking {
                asking.abandon();
            }
            return;
        };
        let at = if asking.is_some() { looks } else { now + BUSY };
        if asking.is_none() {
            outage.not_before = at;
        }
        outage.asking = asking;
        drop(state);
        self.wake_at(at);
    }

    fn ask_on(&self, link: &Arc<Link>) -> Option<Arc<Carrier>> {
        let (hello, carries, window) = {
            let mut state = self.state.lock();
            state.epoch += 1;
            let window = state.carriers.window();
            let received = state.carriers.received;
            let watcher: Weak<dyn Watcher> = self.me.clone();
            let carries = Carries::new(watcher, received, state.carriers.finished);
            carries.set_curious(Curious::Yes);
            (self.hello(state.epoch, false, received, window), carries, window)
        };
        match link.open_carrier(&hello.encode(), carries, window, Patience::None) {
            Ok(Opening::Opened(stream)) => Some(Arc::new(Carrier { link: link.clone(), stream })),
            Ok(Opening::LinkGone(_) | Opening::Late) | Err(_) => None,
        }
    }

    /// Looks whether the peer has answered.
    pub(super) fn hear_answer(&self, now: Instant) {
        let (carrier, since) = {
            let state = self.state.lock();
            let Phase::Lost(outage) = &state.phase else { return };
            let Some(asking) = &outage.asking else { return };
            (asking.carrier.clone(), asking.since)
        };
        let (answered, fate) = {
            let mut state = carrier.stream.state.lock();
            (state.take_answer(), state.fate().cloned())
        };
        if answered.is_none() && fate.is_none() {
            return self.wait_for_answer(&carrier.link, since, now);
        }
        self.stop_asking();
        match (answered, fate) {
            (Some(Answered::Head(HeadAnswer::Ok(welcome))), _) => self.welcomed(&carrier, welcome),
            (Some(Answered::Head(HeadAnswer::Err(gone))), _) => self.sent_away(&carrier, gone),
            (Some(Answered::NoProtocol | Answered::Violation(_)), _) => {
                let gone = Gone { code: Code::Invalid, received: 0 };
                self.sent_away(&carrier, gone);
            }
            (None, fate) => self.unanswered(now, matches!(fate, Some(Fate::Over(_)))),
        }
    }

    /// A head may be behind much else on a slow connection, and its answer too: what is
    /// heard on the link, or goes out on it, shows that they are on their way. No session
    /// waits longer than it may be without a carrier.
    pub(super) fn wait_for_answer(&self, link: &Arc<Link>, since: Instant, now: Instant) {
        let answer = self.sessions.limits.answer;
        let moved = since.max(link.last_moved());
        let end = (moved + answer).min(since + answer * PATIENCE);
        if now >= end {
            // Never a reset: the peer may have made it its carrier.
            let what = "the peer did not answer the resumption of a conn in time";
            return link.die(Error::new(ErrorCode::ConnectionReset, what));
        }
        {
            let mut state = self.state.lock();
            let Phase::Lost(outage) = &mut state.phase else { return };
            let Some(asking) = &mut outage.asking else { return };
            if now < asking.looks {
                return;
            }
            asking.looks = end;
        }
        self.wake_at(end);
    }

    /// What it had asked was answered, or will not be. Whoever ended it meanwhile has taken
    /// that already.
    fn stop_asking(&self) {
        let mut state = self.state.lock();
        let Phase::Lost(outage) = &mut state.phase else { return };
        let asking = outage.asking.take();
        drop(state);
        drop(asking);
    }

    /// The stream ended before it was answered: the peer had no room, or its link is
    /// lost too.
    fn unanswered(&self, now: Instant, refused: bool) {
        {
            let mut state = self.state.lock();
            let Phase::Lost(outage) = &mut state.phase else { return };
            outage.not_before = now;
            if refused {
                outage.refused += 1;
                outage.not_before += BUSY * outage.refused.min(10);
            }
        }
        if refused {
            self.set_alarm();
        }
        self.sessions.redial(self.peer);
        self.stirred();
    }

    fn welcomed(&self, carrier: &Arc<Carrier>, welcome: Welcome) {
        let mut out = self.writer_with_acks();
        let Ok(replayed) = out.resume(welcome.received) else {
            drop(out);
            let what = "the peer has more of a conn than was sent, or less than it had";
            carrier.link.reset(&carrier.stream);
            return self.give_up(Error::new(ErrorCode::ConnectionReset, what));
        };
        self.head_was_heard();
        self.go_on_with(out, carrier, replayed);
    }

    fn sent_away(&self, carrier: &Arc<Carrier>, gone: Gone) {
        if gone.code == Code::Busy {
            carrier.link.release(&carrier.stream);
            return self.unanswered(Instant::now(), true);
        }
        carrier.link.release(&carrier.stream);
        if gone.code == Code::Unknown && self.is_elsewhere(&carrier.link) {
            return self.unanswered(Instant::now(), false);
        }
        let mut out = self.writer.lock();
        let _ = out.confirm(gone.received);
        drop(out);
        let why = match gone.code {
            Code::Unknown => "it does not know the conn any more; was it restarted?",
            Code::Ended => "it has ended the conn",
            Code::Invalid | Code::Busy => "it refused to go on with the conn",
            Code::NotServed => "it does not serve the protocol any more",
        };
        self.give_up(Error::new(
            ErrorCode::ConnectionReset,
            format!("the peer came back, but {why}"),
        ));
    }

    // The responder.

    /// A stream of the peer's asks to be the next carrier. Called under its lock.
    pub(super) fn take_hello(
        &self,
        link: &Arc<Link>,
        stream: &Arc<Stream>,
        hello: Hello,
    ) -> Greeted {
        let mut requests = self.requests.lock();
        if requests.len() >= MOST_REQUESTS {
            return Greeted::Refused;
        }
        requests.push(Request { link: link.clone(), stream: stream.clone(), hello });
        drop(requests);
        self.stirred();
        Greeted::Later
    }

    /// Answers those that ask.
    pub(super) fn hear_hellos(&self) {
        let requests = std::mem::take(&mut *self.requests.lock());
        for Request { link, stream, hello } in requests {
            if let Err(gone) = self.hear_hello(&link, &stream, &hello) {
                link.send_away(&stream, gone.encode());
            }
        }
    }

    fn hear_hello(
        &self,
        link: &Arc<Link>,
        stream: &Arc<Stream>,
        hello: &Hello,
    ) -> Result<(), Gone> {
        if let Some(current) = self.check_hello(link, hello)? {
            let what = "the peer goes on over another connection";
            let why = Error::new(ErrorCode::ConnectionReset, what);
            // From here on nothing that comes on the old one counts.
            current.link.fence(&current.stream, &why);
            // Its other conns need not wait until it is found lost, and this one makes way
            // for them.
            current.link.die(why);
            self.sessions.live(Some(&self.peer)).iter().for_each(|other| other.settle());
        }
        self.settle();
        let mut out = self.writer.lock();
        let (carries, window, received) = {
            let mut state = self.state.lock();
            let (received, finished) = (state.carriers.received, state.carriers.finished);
            let watcher: Weak<dyn Watcher> = self.me.clone();
            (Carries::new(watcher, received, finished), state.carriers.window(), received)
        };
        let Ok(replayed) = out.resume(hello.received) else {
            return Err(Gone { code: Code::Invalid, received });
        };
        let timeout = self.sessions.limits.timeout;
        let head = Welcome { received, window, timeout }.encode();
        let carrier = Arc::new(Carrier { link: link.clone(), stream: stream.clone() });
        if link.welcome(stream, head, window, hello.window, carries).is_ok() {
            self.go_on_with(out, &carrier, replayed);
        }
        Ok(())
    }

    /// Whether it may resume the session. Returns the present carrier.
    fn check_hello(&self, link: &Arc<Link>, hello: &Hello) -> Result<Option<Arc<Carrier>>, Gone> {
        let possible = self.writer_with_acks().may_resume(hello.received);
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Ended(_)) {
            return Err(Gone { code: Code::Ended, received: state.carriers.received_so_far() });
        }
        let current = state.carriers.current.clone();
        // A link is not closed for the sake of a stream on itself.
        let moves = !current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.link, link));
        verdict::may_resume(hello, state.epoch, &self.protocol, possible && moves)?;
        state.epoch = hello.epoch;
        Ok(current)
    }

    // Both.

    /// Makes it the current carrier, and sends again what the peer has not got.
    fn go_on_with(&self, mut out: MutexGuard<'_, Outgoing>, carrier: &Arc<Carrier>, replayed: u64) {
        let (outage, deaf, closing) = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Lost(_)) {
                drop((state, out));
                carrier.link.reset(&carrier.stream);
                return;
            }
            let before = std::mem::replace(&mut state.phase, Phase::Attached);
            let Phase::Lost(outage) = before else { return };
            // Before a call may return because of it.
            self.count_resumption(&outage, replayed);
            state.carriers.attach(carrier.clone());
            (outage, state.deaf, state.closing.clone())
        };
        self.sessions.strike_off(self, outage.number);
        self.sessions.forget_attempts(&self.peer);
        carrier.stream.set_priority(self.priority());
        if deaf {
            let _ = carrier.link.shut_read(&carrier.stream);
        }
        if let Some((why, _)) = closing {
            carrier.stream.state.lock().bar(&why);
        }
        // A place on the old link says nothing here.
        self.unsent.store(if out.is_behind() { super::writing::NOWHERE } else { 0 }, SeqCst);
        out.way = self.sessions.way(&self.peer, carrier.link.rtt());
        self.advance(&mut out, carrier);
        drop(out);
        self.grant_what_was_read();
        self.tell_resumption(&outage, carrier.link.id, replayed);
        // It may have been lost before it was current.
        self.stirred();
    }

    fn count_resumption(&self, outage: &Outage, replayed: u64) {
        let nanos = u64::try_from(outage.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.longest_outage.fetch_max(nanos, Relaxed);
        self.counters.resumes.fetch_add(1, Relaxed);
        self.counters.replayed.fetch_add(replayed, Relaxed);
        self.sessions.counters.resumed.fetch_add(1, Relaxed);
        self.sessions.counters.replayed.fetch_add(replayed, Relaxed);
    }

    fn tell_resumption(&self, outage: &Outage, connection: u64, replayed: u64) {
        let time = outage.since.elapsed();
        log::debug!(link = connection, peer:% = self.peer, protocol:% = self.protocol,
            replayed = replayed; "a conn goes on over a new connection after {time:?}");
        self.sessions.resources.feed.tell(|| Event::ConnResumed {
            connection,
            peer: self.peer,
            protocol: self.protocol.clone(),
            outage: time,
            replayed,
        });
    }

    /// Goes on with whatever it can.
    pub(super) fn go_on(&self, now: Instant) {
        if let Some(carrier) = self.current() {
            let mut out = self.writer.lock();
            self.advance(&mut out, &carrier);
            self.trim_again(&out);
            return;
        }
        self.hear_last_acks(&mut self.writer.lock());
        self.wait_to_be_asked(now);
        self.make_way_for_successor();
        self.expire(now);
        self.ask(now);
    }

    pub(super) fn wake_at(&self, at: Instant) {
        self.sessions.reactor.run_at(at, self.me.clone());
    }
}

/// A peer that had no room is asked again after this, and later each time.
const BUSY: Duration = Duration::from_millis(100);
/// So many times the time for an answer is waited while the link moves.
const PATIENCE: u32 = 12;
/// Carriers that wait to be looked at.
const MOST_REQUESTS: usize = 8;
