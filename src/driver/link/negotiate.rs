//! Streams that the peer opens: what they ask for, and who gets them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Link, Offer};
use crate::driver::carrier::Greeting;
use crate::driver::stream::{Answer, Place, Ready, Service, State, Stream, User};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::yamux::{Control, Flow, StreamId};
use crate::proto::{multistream, resume};
use crate::resources::limits::Limit;

impl Link {
    /// A new inbound stream; `None`: it is refused.
    pub(super) fn on_opened(&self, id: StreamId, flow: &Arc<Flow>) -> Result<Option<Arc<Stream>>> {
        let negotiating = Place::new(&self.negotiating);
        let fits = self.is_open()
            && self.has_memory()
            && self.resources.judge(Limit::Streams, self.streams())
            && self.resources.judge(Limit::Negotiating, negotiating.others);
        if !fits {
            self.tell_refused(id);
            self.push(Control::Reset { id })?;
            self.flood(Limit::Resets, 1)?;
            return Ok(None);
        }
        self.streams.fetch_add(1, Relaxed);
        self.notices.lock().idle_since = None;
        // At once: some implementations wait for it before they open more.
        self.push(Control::Ack { id })?;
        let user = User::Negotiating(multistream::Listener::new(), negotiating);
        Ok(Some(Stream::new(id, flow.clone(), user, &self.budget, Instant::now())))
    }

    /// Goes on with the negotiation of an inbound stream. Returns bytes consumed.
    pub(super) fn negotiate(
        self: &Arc<Link>,
        state: &mut State,
        stream: &Arc<Stream>,
    ) -> Result<usize> {
        let mut total = 0;
        let mut head = [0; HEAD];
        while let User::Negotiating(listener, _) = &mut state.user {
            let mut listener = std::mem::replace(listener, multistream::Listener::new());
            let n = match state.peek(&mut head) {
                Some(Ready::Bytes(n)) => n,
                _ => 0,
            };
            let mut reply = Vec::new();
            let owner = self.owner.upgrade();
            let mut serves = |name: &str| match name {
                resume::PROTOCOL => self.resumable,
                name => owner.as_ref().is_some_and(|o| o.serves(name)),
            };
            let Ok((used, agreed)) = listener.read(&head[..n], &mut reply, &mut serves) else {
                self.refuse(state, stream)?;
                return Ok(total + n);
            };
            state.skip(used);
            total += used;
            if let User::Negotiating(place, _) = &mut state.user {
                *place = listener;
            }
            match agreed {
                Some(protocol) if protocol == resume::PROTOCOL => {
                    self.await_head(state, stream, reply)?;
                    // A head is outside the window.
                    return Ok(0);
                }
                Some(protocol) => self.agreed(state, stream, &protocol, reply)?,
                None => {
                    if !reply.is_empty() {
                        self.reply(stream, reply)?;
                    }
                    if used == 0 {
                        break;
                    }
                }
            }
        }
        Ok(total)
    }

    /// The stream is to carry a session: its head says which.
    fn await_head(
        self: &Arc<Link>,
        state: &mut State,
        stream: &Arc<Stream>,
        reply: Vec<u8>,
    ) -> Result<()> {
        let user = std::mem::replace(&mut state.user, User::Conn);
        if let User::Negotiating(_, place) = user {
            state.user = User::Greeting(Greeting::new(reply, place));
        }
        self.greet(state, stream)
    }

    /// The stream has a protocol: whoever serves it gets it.
    fn agreed(
        self: &Arc<Link>,
        state: &mut State,
        stream: &Arc<Stream>,
        protocol: &str,
        reply: Vec<u8>,
    ) -> Result<()> {
        let Some(owner) = self.owner.upgrade() else { return self.refuse(state, stream) };
        state.user = User::Conn;
        stream.counters.begin(state.held());
        // Under this lock our answer precedes whatever the accepting thread writes.
        let mut control = self.control.lock();
        match owner.offer(self, stream, protocol) {
            Offer::Refused => {
                drop(control);
                self.refuse(state, stream)
            }
            offer => {
                control.push(Control::Reply {
                    id: stream.id,
                    flow: stream.flow.clone(),
                    bytes: reply,
                })?;
                self.mark_control();
                drop(control);
                match offer {
                    Offer::Service(service) => self.start_service(state, stream, service),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Nobody takes the stream.
    pub(super) fn refuse(&self, state: &mut State, stream: &Stream) -> Result<()> {
        state.user = User::Gone(Instant::now());
        self.tell_refused(stream.id);
        state.break_off(&Error::new(ErrorCode::ConnectionRefused, "the stream was refused"));
        self.push(Control::Reset { id: stream.id })?;
        self.flood(Limit::Resets, 1)
    }

    fn reply(&self, stream: &Stream, bytes: Vec<u8>) -> Result<()> {
        self.push(Control::Reply { id: stream.id, flow: stream.flow.clone(), bytes })
    }

    /// A service answers with what it has to say, and with what came already.
    fn start_service(
        &self,
        state: &mut State,
        stream: &Stream,
        mut service: Box<dyn Service>,
    ) -> Result<()> {
        let greeting = service.greet();
        state.user = User::Service(service);
        self.answer(state, stream, greeting)?;
        let mut early = vec![0; state.held()];
        if let Some(Ready::Bytes(n)) = state.peek(&mut early) {
            state.skip(n);
            self.serve(state, stream, &early)?;
            self.credit(state, stream, n)?;
        }
        Ok(())
    }

    pub(super) fn serve(&self, state: &mut State, stream: &Stream, bytes: &[u8]) -> Result<()> {
        let User::Service(service) = &mut state.user else { return Ok(()) };
        match service.data(bytes) {
            Ok(answer) => self.answer(state, stream, answer),
            Err(_) => self.refuse(state, stream),
        }
    }

    fn answer(&self, state: &mut State, stream: &Stream, answer: Answer) -> Result<()> {
        if !answer.bytes.is_empty() {
            self.reply(stream, answer.bytes)?;
        }
        if answer.finished {
            self.finish_service(state, stream)?;
        }
        Ok(())
    }

    /// The peer has finished its side: so do those that only answer.
    pub(super) fn on_fin(&self, state: &mut State, stream: &Stream, kept: bool) -> Result<()> {
        match state.user {
            User::Service(_) => self.finish_service(state, stream),
            User::Negotiating(..) | User::Greeting(_) => self.refuse(state, stream),
            User::Conn | User::Gone(_) if kept => self.kept_end(stream),
            User::Conn | User::Gone(_) | User::Answering(_) => Ok(()),
        }
    }

    fn finish_service(&self, state: &mut State, stream: &Stream) -> Result<()> {
        state.user = User::Gone(Instant::now());
        if state.close(Error::new(ErrorCode::BrokenPipe, "the service has answered")) {
            self.push(Control::Fin { id: stream.id })?;
        }
        Ok(())
    }
}

/// Of a negotiating stream's bytes this much is looked at: a line and its length.
const HEAD: usize = 2048;
