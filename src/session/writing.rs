//! Writing: sealed by the thread that writes, and kept until the peer confirms it.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::carriers::Carrier;
use super::outgoing::Outgoing;
use super::{Phase, Session};
use crate::driver::{Curious, Left, Patience, Sent, Waiter, Watcher, Written};
use crate::error::{Error, ErrorCode, Result};
use crate::resources::budget::Pressure;

impl Session {
    /// Writes some of `bufs` and returns how much; `None`: nothing could be written
    /// within `patience`.
    ///
    /// With a carrier it waits as a plain stream does: for credit, and until the kernel
    /// has what was sealed. Without one it keeps what there is room for, unless the host is
    /// out of memory.
    pub(super) fn write(&self, bufs: &[IoSlice<'_>], patience: Patience) -> Result<Option<usize>> {
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        if wanted == 0 {
            return Ok(Some(0));
        }
        loop {
            let mut out = self.writer.lock();
            self.check_writable()?;
            let carrier = self.current();
            let obstacle = match &carrier {
                Some(carrier) => match self.write_to(carrier, out, bufs, wanted, patience)? {
                    Wrote::Bytes(n) => return Ok(Some(n)),
                    Wrote::Nothing(obstacle) => obstacle,
                },
                None => {
                    let n = if self.may_keep() { wanted.min(out.room()) } else { 0 };
                    out.append(bufs, n);
                    if n > 0 {
                        self.unsent.store(NOWHERE, SeqCst);
                    }
                    drop(out);
                    match n {
                        0 => Obstacle::Carrier,
                        n => return Ok(Some(self.wrote(n))),
                    }
                }
            };
            if patience == Patience::None || !self.wait_out(carrier, obstacle, patience)? {
                return Ok(None);
            }
        }
    }

    /// Whether what is written without a carrier is kept. Out of memory the host is ending
    /// such conns, and this one is not to take what the others give back.
    fn may_keep(&self) -> bool {
        self.sessions.resources.memory.level() < Pressure::Emergency
    }

    /// Over its present carrier.
    fn write_to(
        &self,
        carrier: &Arc<Carrier>,
        mut out: MutexGuard<'_, Outgoing>,
        bufs: &[IoSlice<'_>],
        wanted: usize,
        patience: Patience,
    ) -> Result<Wrote> {
        let _urgent = carrier.link.hurry(&carrier.stream);
        let seen = self.hear_acks(&mut out, carrier);
        let may_grow = || carrier.stream.flow.credit() > 0 && !carrier.link.is_near();
        if out.room() == 0 && !(may_grow() && out.grow()) {
            let asks = out.most() < SAID_UNASKED;
            drop(out);
            if asks {
                carrier.link.ask_for_ack(&carrier.stream);
            }
            return Ok(Wrote::Nothing(Obstacle::Acks(seen)));
        }
        if out.is_behind() || out.way.is_some() {
            // Behind what is sealed again first.
            let n = wanted.min(out.room());
            out.append(bufs, n);
            self.unsent.store(NOWHERE, SeqCst);
            self.advance(&mut out, carrier);
            return Ok(Wrote::Bytes(self.wrote(n)));
        }
        let cut;
        let most = out.room().min(out.piece());
        let bufs = if wanted <= most {
            bufs
        } else {
            cut = up_to(bufs, most);
            &cut
        };
        match carrier.link.write_now(&carrier.stream, bufs, true) {
            Ok(Written::Some { n, mark, left, kept }) => {
                out.append_sealed(bufs, n, kept);
                self.unsent.store(left.up_to(mark), SeqCst);
                drop(out);
                if left.is_waited_for(&carrier.stream) {
                    // It is written, whatever becomes of the link.
                    let _ = carrier.link.send_up_to(mark, Some(&carrier.stream), patience);
                }
                Ok(Wrote::Bytes(self.wrote(n)))
            }
            Ok(Written::NoRoom { mark }) => Ok(Wrote::Nothing(Obstacle::Socket(mark))),
            Ok(Written::NoCredit) => Ok(Wrote::Nothing(Obstacle::Credit)),
            Err(_) => Ok(Wrote::Nothing(Obstacle::Broken)),
        }
    }

    /// Waits until it may be better. `false`: the time is over.
    fn wait_out(
        &self,
        carrier: Option<Arc<Carrier>>,
        obstacle: Obstacle,
        patience: Patience,
    ) -> Result<bool> {
        let shut = || self.shut.load(SeqCst);
        let Some(carrier) = carrier else { return self.wait_for_carrier(patience, shut) };
        let (link, stream) = (&carrier.link, &carrier.stream);
        // Nothing more comes of one that has broken off: it would be ready for ever.
        let broken = stream.state.lock().fate().is_some();
        match if broken { Obstacle::Broken } else { obstacle } {
            Obstacle::Credit => {
                link.await_writable(stream, patience, || stream.flow.credit() > 0 || shut())
            }
            Obstacle::Acks(seen) => {
                let acked = || stream.carries.get().and_then(|carries| carries.acked());
                link.await_writable(stream, patience, || acked() != seen || shut())
            }
            Obstacle::Socket(mark) => {
                let sent = link.send_up_to(mark, Some(stream), patience);
                // What became of the carrier shows at the next look.
                Ok(sent.map_or_else(|_| !patience.is_over(), |sent| sent != Sent::Late))
            }
            Obstacle::Broken | Obstacle::Carrier => {
                self.settle();
                if self.current().is_some_and(|current| Arc::ptr_eq(&current, &carrier)) {
                    // Another thread is about to say why.
                    std::thread::yield_now();
                }
                Ok(!patience.is_over())
            }
        }
    }

    /// Waits until there is a carrier, or will be none, or `done`. `false`: the time is
    /// over.
    fn wait_for_carrier(&self, patience: Patience, done: impl Fn() -> bool) -> Result<bool> {
        let me = Waiter::current();
        {
            let mut state = self.state.lock();
            let waits = state.carriers.current.is_none()
                && !matches!(state.phase, Phase::Ended(_))
                && !done();
            if !waits {
                return Ok(true);
            }
            state.carriers.waiters.add(&me);
        }
        Ok(self.sleep(&me, patience))
    }

    fn check_writable(&self) -> Result<()> {
        if self.shut.load(SeqCst) {
            let closing = self.state.lock().closing.clone();
            let what = "this conn's write side was shut down";
            let shut = || Error::new(ErrorCode::BrokenPipe, what);
            return Err(closing.map_or_else(shut, |(why, _)| why));
        }
        match &self.state.lock().phase {
            Phase::Ended(Some(why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    fn wrote(&self, n: usize) -> usize {
        self.trim_soon();
        self.counters.bytes_sent.fetch_add(n as u64, Relaxed);
        self.counters.writes.fetch_add(1, Relaxed);
        n
    }

    /// Waits until the kernel has all that was written so far. `false`: the time is
    /// over.
    pub(super) fn flush(&self, patience: Patience) -> Result<bool> {
        loop {
            self.settle();
            let carrier = {
                let state = self.state.lock();
                match &state.phase {
                    // The peer left in good order behind all that went to the kernel.
                    Phase::Ended(Some(why)) if why.code() == ErrorCode::ConnectionAborted => {
                        let (why, last) = (why.clone(), state.carriers.newest().cloned());
                        drop(state);
                        return if self.has_sent(last) { Ok(true) } else { Err(why) };
                    }
                    Phase::Ended(Some(why)) => return Err(why.clone()),
                    // Everything has arrived.
                    Phase::Ended(None) => return Ok(true),
                    _ if self.settled.load(SeqCst) => return Ok(true),
                    _ => state.carriers.current.clone(),
                }
            };
            let Some(carrier) = carrier else {
                // The end of writing is no end of waiting: it has to go out too.
                let arrived = || self.settled.load(SeqCst);
                if patience == Patience::None || !self.wait_for_carrier(patience, arrived)? {
                    return Ok(false);
                }
                continue;
            };
            let (link, stream) = (&carrier.link, &carrier.stream);
            let (behind, unsent) = {
                let out = self.writer.lock();
                (out.is_behind(), self.unsent.load(SeqCst))
            };
            if !behind {
                match link.flush(stream, patience) {
                    Ok(done) => {
                        if done {
                            // Unless somebody has written meanwhile.
                            let _ = self.unsent.compare_exchange(unsent, 0, SeqCst, SeqCst);
                        }
                        return Ok(done);
                    }
                    Err(_) => {
                        if !self.wait_out(Some(carrier), Obstacle::Broken, patience)? {
                            return Ok(false);
                        }
                    }
                }
                continue;
            }
            // Not by the writer's lock: whoever wakes this thread has it.
            let caught_up = || self.unsent.load(SeqCst) != NOWHERE || self.settled.load(SeqCst);
            if patience == Patience::None || !link.await_writable(stream, patience, caught_up)? {
                return Ok(false);
            }
        }
    }

    /// Whether the kernel had all that was written.
    fn has_sent(&self, last: Option<Arc<Carrier>>) -> bool {
        match self.unsent.load(SeqCst) {
            0 => true,
            NOWHERE => false,
            mark => last.is_some_and(|last| last.link.has_sent(mark)),
        }
    }

    /// Has the event loop give back what is kept for nothing, if no later write does.
    fn trim_soon(&self) {
        if !self.trims.load(Relaxed) && !self.trims.swap(true, Relaxed) {
            self.wake_at(Instant::now() + TRIM_AFTER);
        }
    }

    /// The same again, if there is something to give back still.
    pub(super) fn trim_again(&self, out: &Outgoing) {
        if self.trims.load(Relaxed) {
            self.trims.store(false, Relaxed);
            if out.unacked() > 0 {
                self.trim_soon();
            }
        }
    }

    /// Notes what the peer had confirmed when the last carrier was lost.
    pub(super) fn hear_last_acks(&self, out: &mut Outgoing) {
        let last = self.state.lock().carriers.newest().cloned();
        if let Some(last) = last {
            self.hear_acks(out, &last);
        }
    }

    /// Notes what the peer has confirmed. Returns what it last said.
    pub(super) fn hear_acks(&self, out: &mut Outgoing, carrier: &Carrier) -> Option<u32> {
        let acked = carrier.stream.carries.get()?.acked()?;
        if let Err(why) = out.ack(acked) {
            carrier.link.die_quietly(why);
        }
        Some(acked)
    }

    /// The lock, with all that the peer has confirmed so far.
    pub(super) fn writer_with_acks(&self) -> MutexGuard<'_, Outgoing> {
        let mut out = self.writer.lock();
        self.hear_last_acks(&mut out);
        out
    }

    /// Seals what the carrier has not got yet, as far as credit and the socket let it,
    /// and the end behind it. What is left goes on when there is news of either.
    pub(super) fn advance(&self, out: &mut Outgoing, carrier: &Arc<Carrier>) {
        self.advance_to_rest(out, carrier);
        carrier.link.say_rest();
    }

    /// The same, but that the caller has the end said, by `say_rest` or `leave`.
    pub(super) fn advance_to_rest(&self, out: &mut Outgoing, carrier: &Arc<Carrier>) {
        let Some(carries) = carrier.stream.carries.get() else { return };
        let (link, stream) = (&carrier.link, &carrier.stream);
        // Before it looks, so that no news is missed.
        carries.set_curious(Curious::Yes);
        self.hear_acks(out, carrier);
        while out.is_behind() && !self.makes_way(out) {
            let written = link.write_now(stream, &out.next(), false);
            match written {
                Ok(Written::Some { n, mark, left, .. }) => {
                    out.sealed(n);
                    let unsent = if out.is_behind() { NOWHERE } else { left.up_to(mark) };
                    self.unsent.store(unsent, SeqCst);
                    if left == Left::Ours {
                        link.leave_rest_to_reactor();
                    }
                }
                Ok(Written::NoCredit) => break,
                Ok(Written::NoRoom { .. }) => {
                    let watcher: std::sync::Weak<dyn Watcher> = self.me.clone();
                    link.tell_when_writable(watcher);
                    break;
                }
                Err(_) => break,
            }
        }
        // What an ended one has forgotten was not sent.
        if !out.is_behind() && !matches!(self.state.lock().phase, Phase::Ended(_)) {
            // What was confirmed meanwhile is not sealed any more.
            let _ = self.unsent.compare_exchange(NOWHERE, 0, SeqCst, SeqCst);
        }
        if !self.say_end(out, carrier) {
            return;
        }
        carries.set_curious(match (out.is_behind(), out.is_finished()) {
            (false, false) => Curious::No,
            // Nobody waits for the receipt, but who closes the host.
            (false, true) if self.state.lock().closing.is_none() => Curious::Calmly,
            _ => Curious::Yes,
        });
        stream.state.lock().wake_writers();
    }
}

/// What was written has no place on the link yet.
pub(super) const NOWHERE: u64 = u64::MAX;

/// What is kept although it was confirmed goes within this time.
const TRIM_AFTER: Duration = Duration::from_millis(300);

/// A peer that has so much to confirm says so soon enough by itself: twice what it waits
/// for at most.
const SAID_UNASKED: usize = 512 * 1024;

enum Wrote {
    Bytes(usize),
    Nothing(Obstacle),
}

/// What a writer waits for.
enum Obstacle {
    /// The peer has to read.
    Credit,
    /// It has to confirm more than it last did.
    Acks(Option<u32>),
    /// The kernel has to take what is before that mark.
    Socket(u64),
    /// A new carrier has to come.
    Carrier,
    /// The carrier is broken: what became of it shows in a moment.
    Broken,
}

/// The first `n` bytes of `bufs`.
fn up_to<'a>(bufs: &'a [IoSlice<'_>], mut n: usize) -> Vec<IoSlice<'a>> {
    let mut cut = Vec::with_capacity(bufs.len());
    for buf in bufs {
        let part = &buf[..buf.len().min(n)];
        n -= part.len();
        cut.push(IoSlice::new(part));
        if n == 0 {
            break;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use crate::{Conn, Host, Listener};

    #[test]
    fn a_flush_behind_the_end_does_not_wait_for_what_cannot_be_sent() {
        let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
        let listener = Listener::bind(&server, "/x").unwrap();
        let client = Host::new().unwrap();
        let mut near = Conn::connect(&client, &server.dial_addrs()[0], "/x").unwrap();
        let (_far, peer) = listener.accept().unwrap();
        let link = client.handle.core.links().remove(0);
        let stream = link.table().remove(0);
        near.write_all(b"x").unwrap();
        server.disconnect(&peer);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        while link.death().is_none() {
            std::thread::yield_now();
        }
        // What the link still has to say stays with it.
        link.ask_for_ack(&stream);
        near.flush().expect("the kernel had all that was written");
        let error = near.write_all(b"y").unwrap_err();
        assert!(error.to_string().contains("closed"), "{error}");
    }
}
