//! The end of a link, and what the clock says about it.
//!
//! Bytes in the kernel are not delivered bytes: a process that exits with input
//! unread has its kernel send a reset, which destroys what the peer has not read
//! yet. So a link ends in steps: FIN on every stream and a yamux ping behind them;
//! everything is read until the pong shows that the peer has it all; then a
//! goodbye, the end of our direction, and reading to the end of the peer's.
//!
//! Some implementations drop what they have not given to the application yet when
//! they read a goodbye, so it waits for the pong. A host of this library does not:
//! there it follows the ping at once, and a round trip is saved.

use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::patience::Patience;
use super::{Link, LinkLimits, Sent};
use crate::driver::reactor::Task;
use crate::driver::stream::{Direct, Stream, User};
use crate::driver::waiter::Waiter;
use crate::error::{Error, ErrorCode};
use crate::proto::yamux::Control;
use crate::resources::limits::Limit;

impl Link {
    /// The first step. Our own conns on it end with `why`. Returns the ping that
    /// `await_delivery` waits for; `None`: the link has ended already. To a host of this
    /// library it goes out with the goodbye.
    pub(crate) fn begin_close(self: &Arc<Link>, why: &Error) -> Option<u32> {
        // Under the lock under which ours are opened: from here on none comes into the table,
        // where nobody would end it.
        let out = self.tx.lock();
        self.retire();
        let _ = self.unlock_and_leave(out, Ok(()));
        for stream in self.table() {
            let mut state = stream.state.lock();
            // A session says itself whether everything was said; one that is not through
            // must not pass for whole.
            let says_fin = stream.carries.get().is_none() && state.close(why.clone());
            if says_fin && self.push(Control::Fin { id: stream.id }).is_err() {
                return None;
            }
            state.break_off(why);
            drop(state);
            stream.stir();
        }
        let ping = self.ping()?;
        if !self.kin {
            self.flush_control();
        }
        Some(ping)
    }

    /// The second step: the peer has everything, or the time is over.
    pub(crate) fn await_delivery(self: &Arc<Link>, ping: u32, deadline: Instant) {
        self.wait_for(deadline, || self.notices.lock().ponged >= ping);
    }

    /// The third step, towards a host of this library the second: goodbye.
    pub(crate) fn say_goodbye(self: &Arc<Link>) {
        if self.death().is_none()
            && !self.notices.lock().parting
            && self.push(Control::GoAway(0)).is_ok()
        {
            self.flush_control();
        }
    }

    /// The next one: the end of our direction of the socket, behind all that was said.
    pub(crate) fn end_output(self: &Arc<Link>, deadline: Instant) {
        if self.death().is_some() || self.notices.lock().parting {
            return;
        }
        let patience = Patience::Until(deadline);
        while let Some((mark, all)) = self.said()
            && self.send_up_to(mark, None, patience).is_ok_and(|sent| sent != Sent::Late)
            && !all
        {}
        self.notices.lock().parting = true;
        let mut out = self.tx.lock();
        out.finished = true;
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The last one: reads to the end of the peer's direction.
    pub(crate) fn finish_close(self: &Arc<Link>, deadline: Instant, why: Error) {
        self.wait_for(deadline, || false);
        self.die(why);
    }

    /// Waits until `done`, the link's end or the deadline, and drives meanwhile.
    pub(super) fn wait_for(self: &Arc<Link>, deadline: Instant, done: impl Fn() -> bool) {
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            if done() || self.death().is_some() {
                return Some(());
            }
            self.notices.lock().waiters.add(&me);
            // What happened before the waiter was there.
            (done() || self.death().is_some()).then_some(())
        };
        let _ = self.wait(&me, Some(deadline), &mut Direct::none(), ready);
        self.notices.lock().waiters.remove(&me);
    }

    /// Queues a yamux ping. While one is under way its answer serves for timing,
    /// and a further one only for its number.
    pub(super) fn ping(self: &Arc<Link>) -> Option<u32> {
        if self.death().is_some() {
            return None;
        }
        let value = {
            let mut notices = self.notices.lock();
            notices.pings += 1;
            notices.ping = Some((notices.pings, Instant::now()));
            notices.pings
        };
        self.push(Control::Ping(value)).ok()?;
        Some(value)
    }

    /// Every stream of the table.
    pub(crate) fn table(&self) -> Vec<Arc<Stream>> {
        self.rx.lock().rx.iter().map(|(_, stream)| stream.clone()).collect()
    }

    /// The reactor's timer. Returns when to look again; `None`: never.
    pub(in crate::driver) fn on_timer(self: &Arc<Link>, now: Instant) -> Option<Instant> {
        let owner = self.owner.upgrade()?;
        let limits = owner.limits();
        let streams = self.end_orphans(limits, now);
        // Later than a peer that is silent is found lost: what it lacks then it has to be told.
        self.expire_proofs(limits.silence.saturating_mul(2).max(WITHHELD), now);
        if let Err(why) = self.check_life(limits, now) {
            self.resources.reject(Limit::Silence);
            self.die(why);
        }
        if self.death().is_some() {
            return None;
        }
        self.close_if_idle(limits, now);
        now.checked_add(self.next_look(limits, streams, now))
    }

    /// How soon the timer has something to do at the earliest: when the first time that
    /// runs is over, `streams` among them, and before one that begins now can be.
    fn next_look(&self, limits: &LinkLimits, streams: Option<Instant>, now: Instant) -> Duration {
        let LinkLimits { idle, keepalive, silence, orphan, negotiation, .. } = *limits;
        let idle = if idle.is_zero() { Duration::MAX } else { idle };
        let left = |since: Instant, time: Duration| {
            time.saturating_sub(now.saturating_duration_since(since))
        };
        let heard = self.opened + Duration::from_millis(self.heard.load(Relaxed));
        let taken = self.opened + Duration::from_millis(self.taken.load(Relaxed));
        let notices = self.notices.lock();
        let life = match notices.ping.map(|(_, at)| at).filter(|&at| heard < at) {
            Some(pinged) => left(pinged.max(taken), silence),
            None => left(heard, keepalive),
        };
        let unused = notices.idle_since.map(|since| {
            let idle = if self.redundant.load(Relaxed) { idle.min(REDUNDANT) } else { idle };
            notices.closing.map_or_else(|| left(since, idle), |closing| left(closing, silence))
        });
        let streams = streams.map(|at| at.saturating_duration_since(now));
        let running = [Some(life), unused, streams].into_iter().flatten();
        let next = [idle, keepalive, silence, orphan, negotiation].into_iter().chain(running).min();
        next.unwrap_or_default().clamp(Duration::from_millis(10), Duration::from_secs(3600))
    }

    /// Its peer has come back over another link, though nothing was heard of the end of
    /// this one: it is asked for a sign of life, and has little time for it. Being wrong
    /// costs the sessions on it a pause.
    pub(crate) fn doubt(self: &Arc<Link>) {
        if self.death().is_some() || self.doubted.swap(true, Relaxed) {
            return;
        }
        self.ping();
        self.flush_control();
        let link: Weak<dyn Task> = Arc::downgrade(self) as Weak<dyn Task>;
        self.reactor.run_at(Instant::now() + self.patience(), link);
    }

    /// How long a peer that is doubted has for an answer.
    fn patience(&self) -> Duration {
        self.rtt().unwrap_or_default().saturating_mul(8).max(Duration::from_secs(1))
    }

    /// Pings a silent peer; an error if it is lost.
    fn check_life(self: &Arc<Link>, limits: &LinkLimits, now: Instant) -> Result<(), Error> {
        let heard = self.opened + Duration::from_millis(self.heard.load(Relaxed));
        let silent = now.saturating_duration_since(heard);
        // A ping that was not answered though the peer spoke since proves nothing more.
        let pinged = self.notices.lock().ping.map(|(_, at)| at).filter(|&at| heard < at);
        let Some(pinged) = pinged else {
            self.doubted.store(false, Relaxed);
            if silent >= limits.keepalive {
                self.ping();
                self.flush_control();
            }
            return Ok(());
        };
        // A peer that takes what we send lives, however long our ping waits its turn.
        let taken = self.opened + Duration::from_millis(self.taken.load(Relaxed));
        let limit = match self.doubted.load(Relaxed) {
            true => limits.silence.min(self.patience()),
            false => limits.silence,
        };
        if now.saturating_duration_since(pinged.max(taken)) < limit {
            return Ok(());
        }
        let what = format!("the peer was silent for {silent:.1?}: the connection is lost");
        Err(Error::new(ErrorCode::ConnectionReset, what))
    }

    /// Says goodbye to a peer that nobody needs, or that has said it itself.
    fn close_if_idle(self: &Arc<Link>, limits: &LinkLimits, now: Instant) {
        let (closing, idle_since) = {
            let notices = self.notices.lock();
            (notices.closing, notices.idle_since)
        };
        if let Some(since) = closing {
            if now.saturating_duration_since(since) >= limits.silence {
                self.die(Error::new(ErrorCode::ConnectionAborted, "closed after it was idle"));
            }
            return;
        }
        let idle = idle_since.map(|since| now.saturating_duration_since(since));
        let unused = idle.is_some_and(|d| {
            !limits.idle.is_zero() && d >= limits.idle
                || self.redundant.load(Relaxed) && d >= REDUNDANT
        });
        let retired = idle.is_some() && !self.is_open();
        if (unused || retired) && self.retire_if_unused() {
            self.notices.lock().closing = Some(now);
            self.say_goodbye();
            // The event loop waits for no socket.
            self.end_output(now);
        }
    }

    /// Retires the link unless a stream was opened meanwhile: ours are opened under
    /// the first of these locks, the peer's under the second.
    fn retire_if_unused(self: &Arc<Link>) -> bool {
        let out = self.tx.lock();
        let unused = {
            let inbound = self.rx.lock();
            let unused = inbound.rx.len() == 0;
            if unused {
                self.retire();
            }
            unused
        };
        self.unlock_and_leave(out, Ok(())).is_ok() && unused
    }

    /// Ends streams that nobody has, or whose protocol is not agreed on in time. Returns
    /// when the time of the next one is over.
    fn end_orphans(self: &Arc<Link>, limits: &LinkLimits, now: Instant) -> Option<Instant> {
        if self.streams() == 0 {
            return None;
        }
        let (mut undecided, mut next) = (0, None);
        for stream in self.table() {
            let (since, time, agreed) = match stream.state.lock().user {
                User::Negotiating(..) | User::Greeting(_) => {
                    (stream.opened, limits.negotiation, false)
                }
                User::Gone(since) => (since, limits.orphan, true),
                // A session looks after its own time.
                User::Conn | User::Service(_) | User::Answering(_) => continue,
            };
            let Some(end) = since.checked_add(time) else { continue };
            if now < end {
                next = next.map_or(Some(end), |next: Instant| Some(next.min(end)));
            } else {
                self.reset(&stream);
                if !agreed {
                    self.resources.reject(Limit::NegotiationTime);
                    undecided += 1;
                }
            }
        }
        if let Err(why) = self.flood(Limit::Resets, undecided) {
            self.end_by(why);
        }
        next
    }
}

impl Task for Link {
    /// A look that is due besides those of the timer.
    fn run(self: Arc<Link>, now: Instant) {
        let _ = self.on_timer(now);
    }
}

/// A peer that lives leaves a ping unanswered for so long only if it means to.
const WITHHELD: Duration = Duration::from_secs(30);

/// How long a link stays without streams where another one to its peer is
/// preferred: the peer may be about to open one on it.
const REDUNDANT: Duration = Duration::from_secs(1);
