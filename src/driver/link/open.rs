//! Streams from the conns' side: opened, read, shut down, let go.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Link;
use super::patience::Patience;
use crate::driver::carrier::Carries;
use crate::driver::stream::{Direct, Ready, State, Stream, User};
use crate::driver::waiter::{self, Waiter};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::multistream::{Answer, Dialer};
use crate::proto::yamux::{Control, Flow};
use crate::resources::limits::Limit;

/// What opening a stream came to.
pub(crate) enum Negotiated {
    Open(Arc<Stream>),
    /// The link ended, or was about to, before the peer answered: another link
    /// may do better.
    LinkGone(Error),
}

/// What starting to open a stream came to.
pub(crate) enum Opening {
    Opened(Arc<Stream>),
    /// As above.
    LinkGone(Error),
    /// There was no room within the time.
    Late,
}

impl Link {
    /// Opens a stream and agrees on its protocol, in one round trip.
    pub(crate) fn open(
        self: &Arc<Link>,
        protocol: &str,
        deadline: Option<Instant>,
    ) -> Result<Negotiated> {
        let mut first = Vec::with_capacity(protocol.len() + 32);
        let dialer = Dialer::new(protocol, &mut first)?;
        let patience = deadline.map_or(Patience::Forever, Patience::Until);
        let stream = match self.open_with(&first, User::Conn, None, patience)? {
            Opening::Opened(stream) => stream,
            Opening::LinkGone(why) => return Ok(Negotiated::LinkGone(why)),
            Opening::Late => return Err(timed_out(protocol)),
        };
        let result = self.agree(&stream, dialer, protocol, deadline);
        if !matches!(result, Ok(Negotiated::Open(_))) {
            self.reset(&stream);
        }
        result
    }

    /// Opens a stream with its first bytes.
    pub(super) fn open_with(
        self: &Arc<Link>,
        first: &[u8],
        user: User,
        carries: Option<Box<Carries>>,
        patience: Patience,
    ) -> Result<Opening> {
        waiter::expect_back();
        let room = match self.wait_for_room(patience)? {
            Some(Some(room)) => room,
            Some(None) => return Ok(Opening::LinkGone(self.gone())),
            None => return Ok(Opening::Late),
        };
        let Some(mut out) = self.lock_for_first(patience)? else {
            return Ok(Opening::Late);
        };
        let id = if self.is_open() { out.tx.next_id() } else { None };
        let Some(id) = id else {
            self.retire();
            self.unlock_and_leave(out, Ok(()))?;
            return Ok(Opening::LinkGone(self.gone()));
        };
        let flow = Flow::new();
        let stream = Stream::new(id, flow.clone(), user, &self.budget, Instant::now());
        if let Some(mut carries) = carries {
            carries.set_proof(self.proof_of_answer());
            let _ = stream.carries.set(carries);
        }
        {
            let mut inbound = self.rx.lock();
            if inbound.ended {
                drop(inbound);
                drop(out);
                return Ok(Opening::LinkGone(self.gone()));
            }
            inbound.rx.insert(id, flow, stream.clone());
            // Under the lock under which streams go: the last one to go says since when the
            // link is idle.
            self.streams.fetch_add(1, Relaxed);
            self.notices.lock().idle_since = None;
        }
        room.keep();
        match self.write_first(out, &stream, first) {
            Ok(()) => Ok(Opening::Opened(stream)),
            Err(e) => Ok(Opening::LinkGone(e)),
        }
    }

    /// Why nothing more can be said on it.
    pub(crate) fn gone(&self) -> Error {
        self.death().cloned().unwrap_or_else(|| {
            Error::new(ErrorCode::ConnectionAborted, "the connection is being closed")
        })
    }

    /// Waits while the peer has too many of our streams unacknowledged. `None`: the
    /// time is over; `Some(None)`: the link opens no more streams.
    fn wait_for_room(self: &Arc<Link>, patience: Patience) -> Result<Option<Option<Room<'_>>>> {
        // Only told and counted here; `reserve` decides.
        self.resources.judge(Limit::Unacknowledged, self.unacked.load(Relaxed));
        if let Some(room) = Room::reserve(self) {
            return Ok(Some(Some(room)));
        }
        if patience == Patience::None {
            return Ok(None);
        }
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            let mut notices = self.notices.lock();
            if let Some(room) = Room::reserve(self) {
                return Some(Some(room));
            }
            if !self.is_open() {
                return Some(None);
            }
            notices.waiters.add(&me);
            None
        };
        let result = self.wait(&me, patience.deadline(), &mut Direct::none(), ready)?;
        self.notices.lock().waiters.remove(&me);
        Ok(result)
    }

    /// Streams that the peer has not acknowledged, beyond which opening waits.
    pub(super) fn most_unacked(&self) -> usize {
        let most = self.resources.meters.most(Limit::Unacknowledged);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// A stream of ours counts as unacknowledged no longer.
    pub(super) fn make_room(&self) {
        if self.unacked.fetch_sub(1, Relaxed) >= self.most_unacked() {
            self.notices.lock().waiters.wake();
        }
    }

    /// Whether the link goes on though the peer refused this stream. One that it did not
    /// even acknowledge may have crossed its goodbye, which comes soon then.
    pub(crate) fn stays_open(self: &Arc<Link>, stream: &Stream, deadline: Option<Instant>) -> bool {
        if !stream.acked.load(Relaxed) {
            let soon = self.rtt().unwrap_or_default().saturating_mul(2) + GOODBYE;
            if let Some(until) = Instant::now().checked_add(soon) {
                let until = deadline.map_or(until, |at| at.min(until));
                self.wait_for(until, || !self.is_open());
            }
        }
        self.is_open()
    }

    /// Why a stream of `protocol` could not be opened on a link that goes on, if it ended
    /// so before it was answered.
    pub(crate) fn unanswered(&self, protocol: &str, end: Error) -> Error {
        if end.code() != ErrorCode::ConnectionReset {
            return end;
        }
        let what =
            format!("{} refused a stream of {protocol}: too many wait to be accepted", self.peer);
        Error::with_source(ErrorCode::ConnectionRefused, what, end)
    }

    /// Reads the peer's answer, and not a byte more.
    fn agree(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        mut dialer: Dialer,
        protocol: &str,
        deadline: Option<Instant>,
    ) -> Result<Negotiated> {
        let me = Waiter::current();
        let mut head = [0; 2048];
        let ready = |_: &mut Direct<'_>| {
            let mut state = stream.state.lock();
            loop {
                match state.peek(&mut head) {
                    Some(Ready::Bytes(n)) => match dialer.read(&head[..n]) {
                        Ok((used, answer)) => {
                            state.skip(used);
                            if let Err(e) = self.credit(&mut state, stream, used) {
                                return Some(Err(e));
                            }
                            if let Some(answer) = answer {
                                stream.counters.begin(state.held());
                                return Some(Ok(Ok(answer)));
                            }
                            if used == 0 {
                                break;
                            }
                        }
                        Err(e) => return Some(Err(e)),
                    },
                    Some(Ready::End(end)) => return Some(Ok(Err(end.err()))),
                    None => break,
                }
            }
            state.readers.add(&me);
            None
        };
        let result = self.wait(&me, deadline, &mut Direct::none(), ready);
        stream.state.lock().readers.remove(&me);
        match result {
            Ok(Some(Ok(Ok(Answer::Agreed)))) => Ok(Negotiated::Open(stream.clone())),
            Ok(Some(Ok(Ok(Answer::Refused)))) => Err(Error::new(
                ErrorCode::ProtocolNotServed,
                format!("{} does not serve {protocol}", self.peer),
            )),
            Ok(Some(Ok(Err(end)))) if self.stays_open(stream, deadline) => {
                let end = end.unwrap_or_else(|| {
                    let what = "the peer ended a stream before it had answered";
                    Error::new(ErrorCode::ConnectionRefused, what)
                });
                Err(self.unanswered(protocol, end))
            }
            Ok(Some(Ok(Err(_)))) => Ok(Negotiated::LinkGone(self.gone())),
            Ok(Some(Err(e))) => Err(e),
            Ok(None) => Err(timed_out(protocol)),
            Err(_) if self.death().is_some() => Ok(Negotiated::LinkGone(self.gone())),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads into `bufs`; `None`: nothing came within `patience`.
    pub(crate) fn read(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        bufs: &mut [IoSliceMut<'_>],
        patience: Patience,
    ) -> Result<Option<usize>> {
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(Some(0));
        }
        let found = stream.state.lock().read(bufs);
        let found = match found {
            Some(found) => Some(found),
            None if patience == Patience::None => {
                // The reactor may be a tick away from noticing.
                self.pump(&mut Direct::none(), false);
                stream.state.lock().read(bufs)
            }
            None => self.read_blocking(stream, bufs, patience)?,
        };
        match found {
            Some(Ready::Bytes(n)) => {
                self.consumed(stream, n);
                Ok(Some(n))
            }
            Some(Ready::End(end)) => end.map(|()| Some(0)),
            None => Ok(None),
        }
    }

    fn read_blocking(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        bufs: &mut [IoSliceMut<'_>],
        patience: Patience,
    ) -> Result<Option<Ready>> {
        let me = Waiter::current();
        let mut opened = 0;
        let largest = (0..bufs.len()).max_by_key(|&i| bufs[i].len()).unwrap_or(0);
        let found = if bufs.len() == 1 {
            let mut direct = Direct::new(stream.id, &mut bufs[largest]);
            let ready = |direct: &mut Direct<'_>| {
                let mut state = stream.state.lock();
                if direct.filled > 0 {
                    state.readers.remove(&me);
                    return Some(Ready::Bytes(0));
                }
                let found = state.read(&mut [IoSliceMut::new(direct.buf)]);
                Self::await_reading(&mut state, &me, found)
            };
            let found = self.wait(&me, patience.deadline(), &mut direct, ready)?;
            opened = direct.filled;
            found
        } else {
            let ready = |_: &mut Direct<'_>| {
                let mut state = stream.state.lock();
                let found = state.read(bufs);
                Self::await_reading(&mut state, &me, found)
            };
            self.wait(&me, patience.deadline(), &mut Direct::none(), ready)?
        };
        if found.is_none() {
            stream.state.lock().readers.remove(&me);
        }
        // What was opened straight into the caller's memory counts as consumed already.
        Ok(if opened > 0 { Some(Ready::Bytes(opened)) } else { found })
    }

    fn await_reading(state: &mut State, me: &Arc<Waiter>, found: Option<Ready>) -> Option<Ready> {
        match found {
            Some(found) => {
                state.readers.remove(me);
                Some(found)
            }
            None => {
                state.readers.add(me);
                None
            }
        }
    }

    /// The application has taken `n` bytes, whatever becomes of the link.
    pub(super) fn consumed(self: &Arc<Link>, stream: &Arc<Stream>, n: usize) {
        let result = self.credit(&mut stream.state.lock(), stream, n);
        match result {
            Ok(()) => self.flush_control(),
            Err(e) => self.die(e),
        }
    }

    /// Copies what waits without taking it; blocks like `read`.
    pub(crate) fn peek(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        buf: &mut [u8],
        patience: Patience,
    ) -> Result<Option<usize>> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let me = Waiter::current();
        if patience == Patience::None && stream.state.lock().held() == 0 {
            self.pump(&mut Direct::none(), false);
        }
        let found = if patience == Patience::None {
            stream.state.lock().peek(buf)
        } else {
            let ready = |_: &mut Direct<'_>| {
                let mut state = stream.state.lock();
                let found = state.peek(buf);
                Self::await_reading(&mut state, &me, found)
            };
            let found = self.wait(&me, patience.deadline(), &mut Direct::none(), ready)?;
            stream.state.lock().readers.remove(&me);
            found
        };
        match found {
            Some(Ready::Bytes(n)) => Ok(Some(n)),
            Some(Ready::End(end)) => end.map(|()| Some(0)),
            None => Ok(None),
        }
    }

    /// Reads find the end from now on; what still arrives is thrown away.
    pub(crate) fn shut_read(self: &Arc<Link>, stream: &Arc<Stream>) -> Result<()> {
        let mut state = stream.state.lock();
        let unread = state.deafen();
        let result = self.credit(&mut state, stream, unread);
        drop(state);
        self.flush_control();
        result
    }

    /// Sends FIN behind what was written.
    pub(crate) fn shut_write(self: &Arc<Link>, stream: &Arc<Stream>) -> Result<()> {
        if self.finish(stream)? {
            self.say_rest();
        }
        Ok(())
    }

    /// The same, but that the caller has it said, by `say_rest` or `leave`. Whether it was
    /// not said before.
    pub(crate) fn finish(&self, stream: &Stream) -> Result<bool> {
        let why = Error::new(ErrorCode::BrokenPipe, "this conn's write side was shut down");
        let mut state = stream.state.lock();
        let news = state.close(why);
        if news {
            self.confirm_before_end(stream)?;
            self.push_to_rest(Control::Fin { id: stream.id })?;
        }
        Ok(news)
    }

    /// The last handle is gone: FIN, and what was not read is credited, so that
    /// the peer goes on and learns from its next frame that nobody reads.
    pub(crate) fn release(self: &Arc<Link>, stream: &Arc<Stream>) {
        let result = self.shut_write(stream).and_then(|()| self.shut_read(stream));
        let mut state = stream.state.lock();
        state.leave_alone();
        let over = state.is_over();
        drop(state);
        if over {
            self.forget(stream);
        }
        if let Err(e) = result {
            self.die(e);
        }
    }

    /// Ends both directions at once.
    pub(crate) fn reset(self: &Arc<Link>, stream: &Arc<Stream>) {
        let what = "the stream was given up";
        self.reset_because(stream, &Error::new(ErrorCode::ConnectionAborted, what));
    }

    /// The same; its conn hears why.
    pub(super) fn reset_because(self: &Arc<Link>, stream: &Arc<Stream>, why: &Error) {
        let mut state = stream.state.lock();
        state.throw_away();
        let known = state.closed() && state.broken().is_some();
        state.break_off(why);
        self.tell_reset(stream, false);
        state.leave_alone();
        drop(state);
        self.forget(stream);
        if known {
            return;
        }
        match self.push(Control::GiveUp { id: stream.id }) {
            Ok(()) => self.flush_control(),
            // The peer would take the stream for alive.
            Err(e) => self.die(e),
        }
    }

    /// Nothing if it was forgotten before: the peer may have given its id to another.
    fn forget(&self, stream: &Arc<Stream>) {
        let mut inbound = self.rx.lock();
        if inbound.rx.get(stream.id).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            self.forget_in(&mut inbound, stream.id);
        }
    }
}

/// A place among the streams that the peer has not acknowledged.
struct Room<'a>(&'a Link);

impl<'a> Room<'a> {
    fn reserve(link: &'a Link) -> Option<Room<'a>> {
        let most = link.most_unacked();
        let one_more = |n| (n < most).then_some(n + 1);
        link.unacked.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Room(link))
    }

    /// A stream has it now.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.make_room();
    }
}

fn timed_out(protocol: &str) -> Error {
    Error::new(
        ErrorCode::Timeout,
        format!("the peer did not answer the opening of {protocol} in time"),
    )
}

/// A goodbye that a stream has crossed is here so soon, beside two round trips.
const GOODBYE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conn, Host, Listener};

    #[test]
    fn why_a_conn_could_not_be_opened_is_told_as_it_is() {
        for resumable in [false, true] {
            let server = Host::builder().listen_on("127.0.0.1:0").resumable(resumable);
            let server = server.build().unwrap();
            let _listener = Listener::bind(&server, "/x").unwrap();
            let client = Host::new().unwrap();
            let (target, connecting) = (server.dial_addrs().remove(0), client.clone());
            let first = Conn::connect(&client, &target, "/x").unwrap();
            assert_eq!(first.is_resumable(), resumable);
            let near = client.handle.core.links().remove(0);
            let far = server.handle.core.links().remove(0);
            // Nobody answers.
            let deaf = far.rx.lock();
            let opening = std::thread::spawn(move || Conn::connect(&connecting, &target, "/x"));
            let newest = loop {
                match near.table().into_iter().max_by_key(|stream| stream.id) {
                    Some(newest) if newest.id > first.stats().stream => break newest,
                    _ => std::thread::yield_now(),
                }
            };
            near.reset_because(&newest, &Error::new(ErrorCode::OutOfMemory, "by a test"));
            let error = Error::from(opening.join().unwrap().unwrap_err());
            assert_eq!((error.code(), error.description()), (ErrorCode::OutOfMemory, "by a test"));
            drop(deaf);
        }
    }
}
