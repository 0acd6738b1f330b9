//! Reading: bytes from the socket, opened and given to their streams.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use super::{Fuse, Inbound, Link, millis};
use crate::driver::stream::{Direct, State, Stream, User, Waiters};
use crate::driver::waiter::Waiter;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::yamux::{Body, Control, Event, MIN_RECV_BUF, StreamId};
use crate::resources::buffers::{self, Buffer};
use crate::resources::limits::Limit;

impl Link {
    /// Reads the socket until it has no more, or until `direct` was served, and
    /// processes every whole frame. `dry`: until the socket says that it has no
    /// more, which an edge-triggered poll needs.
    pub(in crate::driver) fn pump(self: &Arc<Link>, direct: &mut Direct<'_>, dry: bool) {
        self.pump_leading(direct, dry);
        self.look_round();
        self.say_rest();
    }

    /// The same for the thread that leads, which says what rests before it sleeps.
    pub(super) fn pump_leading(self: &Arc<Link>, direct: &mut Direct<'_>, dry: bool) {
        // Burns after the lock is free again.
        let _fuse = Fuse::new(self);
        let result = self.pump_locked(&mut self.rx.lock(), direct, dry);
        match result {
            Ok(()) => self.flush_control(),
            Err(e) => self.end_by(e),
        }
        self.wake_acceptors();
    }

    /// A conn came for that thread, in what is being processed.
    pub(crate) fn wake_behind_answer(&self, acceptor: &Arc<Waiter>) {
        self.acceptors.lock().add(acceptor);
        self.has_acceptors.store(true, SeqCst);
    }

    pub(super) fn wake_acceptors(&self) {
        if self.has_acceptors.load(Relaxed) && self.has_acceptors.swap(false, SeqCst) {
            let mut acceptors = std::mem::take(&mut *self.acceptors.lock());
            acceptors.wake();
        }
    }

    /// Takes what the socket still has, before its end.
    pub(super) fn pump_last(self: &Arc<Link>) {
        let mut inbound = self.rx.lock();
        for _ in 0..LAST_PUMPS {
            let before = self.counters.bytes_received.load(Relaxed);
            let result = self.pump_locked(&mut inbound, &mut Direct::none(), true);
            if result.is_err() || self.counters.bytes_received.load(Relaxed) == before {
                return;
            }
        }
    }

    /// The peer broke a rule, or the socket failed.
    pub(super) fn end_by(self: &Arc<Link>, e: Error) {
        if matches!(e.code(), ErrorCode::ProtocolViolation) {
            // So that the peer's log has a reason too.
            let _ = self.push(Control::GoAway(1));
        }
        // A pong may wait: a peer that says goodbye behind its ping wants it.
        self.say_last();
        self.die(e);
    }

    fn pump_locked(
        self: &Arc<Link>,
        inbound: &mut Inbound,
        direct: &mut Direct<'_>,
        dry: bool,
    ) -> Result<()> {
        if inbound.ended {
            return Ok(());
        }
        let mut fills = 0;
        let result = loop {
            self.process(inbound, direct)?;
            if !dry && direct.filled > 0 {
                break Ok(());
            }
            fills += 1;
            if fills > MOST_FILLS {
                // The other links' turn; the edge that brought us here is spent.
                self.reactor.pump_soon(self);
                break Ok(());
            }
            match self.fill(&mut inbound.buf, direct.room()) {
                Ok(Filled::Some) => {}
                Ok(Filled::Last) if dry => {}
                Ok(Filled::Last) => {
                    self.process(inbound, direct)?;
                    break Ok(());
                }
                Ok(Filled::Nothing) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        if inbound.buf.is_empty() {
            drop(Buffer::from(std::mem::take(&mut inbound.buf).into_storage()));
        }
        inbound.wire.hold(inbound.buf.capacity());
        result
    }

    /// One read of the socket, of about as much as the reader wants.
    fn fill(&self, buf: &mut RecvBuf, wanted: usize) -> Result<Filled> {
        if buf.capacity() < MIN_RECV_BUF {
            let size = if wanted > buffers::SMALL_BATCH {
                buffers::LARGE_BATCH
            } else {
                buffers::SMALL_BATCH
            };
            let mut lent = RecvBuf::new(buffers::take(size).into_vec());
            lent.extend(buf.readable());
            *buf = lent;
        }
        let space = buf.space();
        let len = space.len();
        loop {
            match (&self.socket).read(space) {
                Ok(0) => return Err(self.eof()),
                Ok(n) => {
                    buf.filled(n);
                    self.counters.bytes_received.fetch_add(n as u64, Relaxed);
                    self.heard.store(millis(self.opened.elapsed()), Relaxed);
                    return Ok(if n < len { Filled::Last } else { Filled::Some });
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Filled::Nothing),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::with_source(
                        ErrorCode::ConnectionReset,
                        "the connection was lost",
                        e,
                    ));
                }
            }
        }
    }

    pub(super) fn eof(&self) -> Error {
        let notices = self.notices.lock();
        if notices.parting {
            return Error::new(ErrorCode::ConnectionAborted, "this host closed the connection");
        }
        match notices.goodbye {
            Some(0) => Error::new(ErrorCode::ConnectionAborted, "the peer closed the connection"),
            Some(code) => {
                let what = format!("the peer closed the connection for an error, code {code}");
                Error::new(ErrorCode::ConnectionAborted, what)
            }
            None => {
                let what = "the connection was lost: it ended without a goodbye";
                Error::new(ErrorCode::ConnectionReset, what)
            }
        }
    }

    /// Every whole frame of the buffer. Whoever reads some of it is woken behind the last:
    /// once for all that is there, and to find its stream's lock free.
    fn process(self: &Arc<Link>, inbound: &mut Inbound, direct: &mut Direct<'_>) -> Result<()> {
        let idle = inbound.rx.idle_frames();
        let result = self.process_all(inbound, direct);
        inbound.readers.wake();
        result?;
        match inbound.rx.idle_frames() - idle {
            0 => Ok(()),
            n => self.flood(Limit::EmptyFrames, n),
        }
    }

    fn process_all(self: &Arc<Link>, inbound: &mut Inbound, direct: &mut Direct<'_>) -> Result<()> {
        while let Some(event) = inbound.rx.poll(&mut inbound.buf)? {
            let over = match event {
                Event::Data { stream, body } => {
                    self.on_data(stream, body, direct, &mut inbound.readers)?
                }
                Event::Opened { id, flow } => {
                    if let Some(stream) = self.on_opened(id, &flow)? {
                        inbound.rx.insert(id, flow, stream);
                    }
                    None
                }
                Event::Acked { stream } => {
                    self.on_acked(stream);
                    None
                }
                // No end of it has asked for receipts.
                Event::Credit { stream } => {
                    let sent = stream.counters.bytes_sent.load(Relaxed);
                    let mut state = stream.state.lock();
                    if !state.credit_was_due(sent) {
                        self.flood(Limit::WindowUpdates, 1)?;
                    }
                    state.writers.wake();
                    drop(state);
                    if let Some(carries) = stream.carries.get() {
                        self.tell(carries);
                    }
                    // An answer may have waited for it.
                    if !self.control.lock().is_empty() {
                        self.mark_control();
                    }
                    None
                }
                Event::Fin { stream } => {
                    let mut state = stream.state.lock();
                    let kept = state.is_receiving();
                    state.finish();
                    self.on_fin(&mut state, stream, kept)?;
                    state.is_over().then_some(stream.id)
                }
                Event::Reset { stream, code } => {
                    if !stream.accepted() {
                        self.flood(Limit::Resets, 1)?;
                    }
                    let why = self.why_reset(stream, code);
                    let mut state = stream.state.lock();
                    // An answer that waits for credit would wait for ever.
                    self.control.lock().forget(stream.id);
                    state.break_off(&why);
                    self.tell_reset(stream, true);
                    match state.user {
                        // Whoever awaits the answer still looks at it.
                        User::Conn | User::Answering(_) => state.user = User::Conn,
                        _ => state.user = User::Gone(Instant::now()),
                    }
                    stream.stir();
                    state.is_over().then_some(stream.id)
                }
                Event::Received { stream, received } => {
                    self.on_received(stream, received)?;
                    None
                }
                Event::Unwanted { id, was_there } => {
                    // Many may go while much is on its way; it has bytes, and is no flood of
                    // what costs nothing.
                    if !was_there {
                        self.flood(Limit::EmptyFrames, 1)?;
                    }
                    self.push(Control::Reset { id })?;
                    None
                }
                Event::Ping(value) => {
                    self.answer_ping(value)?;
                    None
                }
                Event::Pong(value) => {
                    if !self.on_pong(value) {
                        self.flood(Limit::EmptyFrames, 1)?;
                    }
                    self.on_proof(value);
                    None
                }
                Event::GoAway(code) => {
                    if !self.on_goodbye(code) {
                        self.flood(Limit::EmptyFrames, 1)?;
                    }
                    None
                }
            };
            if let Some(id) = over {
                self.forget_in(inbound, id);
            }
        }
        Ok(())
    }

    /// A host acknowledges a stream before it looks what is wanted on it.
    fn why_reset(&self, stream: &Stream, code: u32) -> Error {
        if !stream.acked.load(Relaxed) {
            let peer = self.peer;
            let what = format!(
                "{peer} refused a stream: it has as many on this connection as it takes, or too \
                 little memory"
            );
            return Error::new(ErrorCode::TooManyStreams, what);
        }
        let what = match code {
            0 => "the peer reset the stream".to_string(),
            code => format!("the peer reset the stream, code {code}"),
        };
        Error::new(ErrorCode::ConnectionReset, what)
    }

    /// Payload for a stream. Returns the stream's id if the link is to forget it.
    fn on_data(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        body: Body<'_>,
        direct: &mut Direct<'_>,
        readers: &mut Waiters,
    ) -> Result<Option<StreamId>> {
        let mut state = stream.state.lock();
        // Under the lock under which a conn begins, and counts from there.
        stream.counters.received(body.len());
        readers.take(&mut state.readers);
        let consumed = match &mut state.user {
            User::Conn => {
                let (n, kept) = (body.len(), state.is_receiving());
                let unread = state.store(body, stream.id, direct)?;
                if kept {
                    self.kept(stream, n)?;
                }
                unread
            }
            User::Negotiating(..) => {
                state.store(body, stream.id, direct)?;
                self.negotiate(&mut state, stream)?
            }
            User::Greeting(_) => {
                state.store(body, stream.id, direct)?;
                self.greet(&mut state, stream)?;
                0
            }
            User::Answering(_) => {
                state.store(body, stream.id, direct)?;
                self.answered(&mut state, stream)?;
                0
            }
            User::Service(_) => {
                let n = body.len();
                self.serve(&mut state, stream, body.bytes()?)?;
                n
            }
            // The last handle is gone: a writer over there must learn of it.
            User::Gone(_) => {
                self.push(Control::Reset { id: stream.id })?;
                state.break_off(&Error::new(ErrorCode::ConnectionReset, "the stream was dropped"));
                stream.stir();
                0
            }
        };
        self.credit(&mut state, stream, consumed)?;
        Ok(state.is_over().then_some(stream.id))
    }

    /// Grants the window that is due after so many bytes were consumed.
    pub(super) fn credit(&self, state: &mut State, stream: &Stream, consumed: usize) -> Result<()> {
        if consumed == 0 {
            return Ok(());
        }
        let rtt = self.rtt().unwrap_or_default();
        let paused = self.pauses(stream);
        if let Some(delta) = state.consumed(consumed, Instant::now(), rtt, paused) {
            stream.flow.grant(delta);
            self.push(Control::Window { id: stream.id, delta })?;
            // It goes with the same frame, and spares one of its own.
            if let Some(carries) = stream.carries.get() {
                self.acknowledge(stream, carries)?;
            }
        }
        Ok(())
    }

    /// The link knows the stream no longer. Called under the `rx` lock.
    pub(super) fn forget_in(&self, inbound: &mut Inbound, id: StreamId) {
        let Some(stream) = inbound.rx.remove(id) else { return };
        self.on_acked(&stream);
        if self.streams.fetch_sub(1, Relaxed) == 1 {
            self.notices.lock().idle_since = Some(Instant::now());
        }
    }

    /// The peer has confirmed a stream of ours, or it counts no longer.
    fn on_acked(&self, stream: &Stream) {
        if !stream.acked.swap(true, Relaxed) {
            self.make_room();
        }
    }

    /// Whether it answers a ping that was not answered before.
    fn on_pong(&self, value: u32) -> bool {
        let mut notices = self.notices.lock();
        if value <= notices.ponged || value > notices.pings {
            return false;
        }
        notices.ponged = value;
        if let Some((_, at)) = notices.ping.take_if(|(sent, _)| *sent == value) {
            self.saw_rtt(at.elapsed());
        }
        notices.waiters.wake();
        true
    }

    /// Whether it is the first.
    fn on_goodbye(&self, code: u32) -> bool {
        self.retire();
        let mut notices = self.notices.lock();
        let is_first = notices.goodbye.replace(code).is_none();
        notices.waiters.wake();
        is_first
    }
}

enum Filled {
    /// The buffer was filled: there may be more.
    Some,
    /// The socket had less than fits: it is empty now, unless it has ended.
    Last,
    Nothing,
}

/// Reads of the socket in one pump.
const MOST_FILLS: usize = 16;

/// Pumps of a link whose socket takes nothing any more: more than a kernel's buffer
/// holds, so that they all come only if the peer goes on sending.
const LAST_PUMPS: usize = 32;
