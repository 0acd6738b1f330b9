//! Streams that carry a session: opened and answered by a head, acknowledged.
//!
//! The head of either side, multistream's lines among it, is outside the window: it
//! is behind it that the window which the heads name begins.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Link;
use super::open::Opening;
use super::patience::Patience;
use crate::driver::carrier::{Answered, Answering, Carries, Greeted};
use crate::driver::stream::{Direct, Fate, Ready, State, Stream, User};
use crate::driver::waiter::Waiter;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::multistream::{self, Dialer};
use crate::proto::resume::{self, HeadReader};
use crate::proto::yamux::Control;

impl Link {
    /// Opens a stream for a session with the head `hello`, and returns at once: the
    /// session is stirred when the answer is there. `window`: what the peer may send
    /// behind it. `None`: not now.
    pub(crate) fn open_carrier(
        self: &Arc<Link>,
        hello: &[u8],
        carries: Box<Carries>,
        window: u32,
        patience: Patience,
    ) -> Result<Opening> {
        let mut first = Vec::with_capacity(hello.len() + 64);
        let dialer = Dialer::new(resume::PROTOCOL, &mut first)?;
        first.extend_from_slice(hello);
        let user = User::Answering(Box::new(Answering {
            dialer: Some(dialer),
            reader: HeadReader::new(),
            window,
            used: 0,
        }));
        self.open_with(&first, user, Some(carries), patience)
    }

    /// Waits for the answer; `None`: it did not come in time. An end without one is an
    /// error.
    pub(crate) fn await_answer(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        deadline: Option<Instant>,
    ) -> Result<Option<Answered>> {
        let me = Waiter::current();
        let ready = |_: &mut Direct<'_>| {
            let mut state = stream.state.lock();
            if let Some(answered) = state.answered.take() {
                return Some(Ok(answered));
            }
            if let Some(Fate::Lost(why) | Fate::Over(why)) = state.fate() {
                return Some(Err(why.clone()));
            }
            if state.finished() {
                let what = "the peer ended a stream before it had answered";
                return Some(Err(Error::new(ErrorCode::ConnectionRefused, what)));
            }
            state.readers.add(&me);
            None
        };
        let result = self.wait(&me, deadline, &mut Direct::none(), ready);
        stream.state.lock().readers.remove(&me);
        result?.transpose()
    }

    /// Answers the head of a stream that a session left unanswered so far.
    pub(crate) fn welcome(
        self: &Arc<Link>,
        stream: &Arc<Stream>,
        head: Vec<u8>,
        window: u32,
        their_window: u32,
        carries: Box<Carries>,
    ) -> Result<()> {
        let mut state = stream.state.lock();
        if let Some(Fate::Lost(why) | Fate::Over(why)) = state.fate() {
            return Err(why.clone());
        }
        let User::Greeting(greeting) = &mut state.user else {
            return Err(Error::new(ErrorCode::ConnectionReset, "the stream was dropped"));
        };
        let reply = [std::mem::take(&mut greeting.reply), head].concat();
        let _ = stream.carries.set(carries);
        stream.flow.grant(window);
        stream.flow.set_credit(their_window, reply.len());
        state.begin();
        state.user = User::Conn;
        stream.accept();
        let pushed =
            self.push(Control::Reply { id: stream.id, flow: stream.flow.clone(), bytes: reply });
        drop(state);
        self.flush_control();
        pushed
    }

    /// Answers it with the end of the session.
    pub(crate) fn send_away(self: &Arc<Link>, stream: &Arc<Stream>, head: Vec<u8>) {
        let mut state = stream.state.lock();
        let result = self.send_away_locked(&mut state, stream, head);
        drop(state);
        match result {
            Ok(()) => self.flush_control(),
            Err(e) => self.die(e),
        }
    }

    fn send_away_locked(&self, state: &mut State, stream: &Stream, head: Vec<u8>) -> Result<()> {
        let User::Greeting(greeting) = &mut state.user else { return Ok(()) };
        let bytes = [std::mem::take(&mut greeting.reply), head].concat();
        state.user = User::Gone(Instant::now());
        self.push(Control::Reply { id: stream.id, flow: stream.flow.clone(), bytes })?;
        if state.close(Error::new(ErrorCode::BrokenPipe, "the session is gone")) {
            self.push(Control::Fin { id: stream.id })?;
        }
        Ok(())
    }

    /// Bytes have come for a stream of the peer's that awaits its head.
    pub(super) fn greet(self: &Arc<Link>, state: &mut State, stream: &Arc<Stream>) -> Result<()> {
        let mut head = [0; resume::MAX_HEAD];
        loop {
            let n = match state.peek(&mut head) {
                Some(Ready::Bytes(n)) => n,
                _ => 0,
            };
            let User::Greeting(greeting) = &mut state.user else { return Ok(()) };
            if greeting.passed {
                return Err(violation("bytes of a session before its head was answered"));
            }
            let Ok((used, hello)) = greeting.reader.read(&head[..n]) else {
                return self.refuse(state, stream);
            };
            greeting.passed = hello.is_some();
            state.skip(used);
            let Some(hello) = hello else {
                if used == 0 {
                    return Ok(());
                }
                continue;
            };
            if state.held() > 0 {
                return Err(violation("bytes of a session before its head was answered"));
            }
            let came = stream.counters.bytes_received.load(Relaxed);
            stream.flow.begin_behind(usize::try_from(came).unwrap_or(usize::MAX), 0)?;
            return self.on_hello(state, stream, hello);
        }
    }

    fn on_hello(
        self: &Arc<Link>,
        state: &mut State,
        stream: &Arc<Stream>,
        hello: resume::Hello,
    ) -> Result<()> {
        let Some(owner) = self.owner.upgrade() else { return self.refuse(state, stream) };
        let their_window = hello.window;
        // Under this lock our answer precedes whatever the accepting thread writes.
        let mut control = self.control.lock();
        match owner.greet(self, stream, hello) {
            Greeted::Later => Ok(()),
            Greeted::Refused => {
                drop(control);
                self.refuse(state, stream)
            }
            Greeted::Gone(head) => {
                drop(control);
                self.send_away_locked(state, stream, head)
            }
            Greeted::Welcome(head, window) => {
                let User::Greeting(greeting) = &mut state.user else { return Ok(()) };
                let reply = [std::mem::take(&mut greeting.reply), head].concat();
                stream.flow.grant(window);
                stream.flow.set_credit(their_window, reply.len());
                let flow = stream.flow.clone();
                control.push(Control::Reply { id: stream.id, flow, bytes: reply })?;
                self.mark_control();
                state.begin();
                state.user = User::Conn;
                Ok(())
            }
        }
    }

    /// Bytes have come for a stream of ours that awaits the peer's head.
    pub(super) fn answered(
        self: &Arc<Link>,
        state: &mut State,
        stream: &Arc<Stream>,
    ) -> Result<()> {
        let mut head = [0; resume::MAX_HEAD];
        let answered = loop {
            let n = match state.peek(&mut head) {
                Some(Ready::Bytes(n)) => n,
                _ => 0,
            };
            let User::Answering(answering) = &mut state.user else { return Ok(()) };
            match answering.read(&head[..n]) {
                Ok((used, answered)) => {
                    answering.used += used;
                    state.skip(used);
                    match answered {
                        Some(answered) => break answered,
                        None if used == 0 => return Ok(()),
                        None => {}
                    }
                }
                Err(e) => break Answered::Violation(e),
            }
        };
        if let (Answered::Head(Ok(welcome)), User::Answering(answering)) = (&answered, &state.user)
        {
            let (used, window) = (answering.used, answering.window);
            stream.flow.begin_behind(used, window)?;
            stream.flow.set_credit(welcome.window, 0);
            self.kept(stream, state.held())?;
            state.begin();
        }
        state.user = User::Conn;
        state.answered = Some(answered);
        state.readers.wake();
        // A session that is opened has a thread that waits.
        if let Some(carries) = stream.carries.get() {
            self.note_proof(carries.proof());
            self.tell(carries);
        }
        Ok(())
    }

    /// Nothing that still comes on it counts: its session goes on elsewhere.
    pub(crate) fn fence(&self, stream: &Stream, why: &Error) {
        stream.state.lock().lose(why);
    }

    /// The session's application has taken `n` bytes that came on an older stream.
    pub(crate) fn consumed_elsewhere(self: &Arc<Link>, stream: &Arc<Stream>, n: usize) {
        self.consumed(stream, n);
    }
}

impl Answering {
    fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Answered>)> {
        let Some(dialer) = &mut self.dialer else {
            let (used, answer) = self.reader.read(input)?;
            return Ok((used, answer.map(Answered::Head)));
        };
        let (used, answer) = dialer.read(input)?;
        match answer {
            Some(multistream::Answer::Agreed) => self.dialer = None,
            Some(multistream::Answer::Refused) => return Ok((used, Some(Answered::NoProtocol))),
            None => {}
        }
        Ok((used, None))
    }
}

fn violation(what: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}
