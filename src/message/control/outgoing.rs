//! The sending end of a message that is steered.

use std::io::{self, IoSlice, Write};
use std::time::{Duration, Instant};

use super::{GRACE, Pilot, SLICE, Wires, Wish, cancelled_here, interruption, user_timeout};
use crate::error::{Error, ErrorCode, Result};
use crate::message::frame::{Incoming, Order, Outlet};
use crate::message::header::Command;
use crate::message::timeout::Limited;
use crate::stall::Direction;

/// A conn while a message under a pilot is sent over it. Between chunks, and
/// while a write is blocked, it asks the pilot and listens to the receiver.
pub(crate) struct SteeredOutlet<'a, C> {
    to: Limited<'a, C>,
    wires: Option<&'a dyn Wires<C>>,
    pilot: &'a mut dyn Pilot,
    /// Reads the receiver's commands; `None`: it has no say.
    ear: Option<&'a mut Incoming>,
    /// A message was announced whose receiver has its say; whether a byte of it has
    /// been taken, so that there will be a last command.
    announced: Option<bool>,
    /// The receiver has said something about this message.
    heard: bool,
    /// The receiver wants a pause.
    held: bool,
    /// The receiver's last command.
    last: Option<Command>,
    listened: Option<Instant>,
    /// It was called off: until when the chunk under way may be completed.
    grace: Option<Instant>,
    /// For how long no byte has moved.
    still: Duration,
    writing: Instant,
    /// Bytes a second that writes have taken lately.
    rate: Option<f64>,
}

impl<'a, C: Write> SteeredOutlet<'a, C> {
    pub(crate) fn new(
        to: Limited<'a, C>,
        wires: Option<&'a dyn Wires<C>>,
        pilot: &'a mut dyn Pilot,
        ear: Option<&'a mut Incoming>,
    ) -> SteeredOutlet<'a, C> {
        let ear = ear.filter(|ear| wires.is_some() && ear.can_listen());
        SteeredOutlet {
            to,
            wires,
            pilot,
            ear,
            announced: None,
            heard: false,
            held: false,
            last: None,
            listened: None,
            grace: None,
            still: Duration::ZERO,
            writing: Instant::now(),
            rate: None,
        }
    }

    /// Whether a stall limit has struck.
    pub(crate) fn has_stalled(&self) -> bool {
        self.to.has_stalled()
    }

    /// What sending came to, once the receiver had its say, if it was announced
    /// that it has one. `ended`: it was sent the last frame of the message.
    ///
    /// The receiver's last command decides, and it knows our last frame: so both
    /// ends tell the same story.
    pub(crate) fn conclude<T>(mut self, outcome: Result<T>, ended: bool) -> Result<T> {
        if self.announced != Some(true) {
            return outcome;
        }
        let heard = match ended {
            true => self.await_last(outcome.is_ok()),
            false => Ok(()),
        };
        if self.last.is_none()
            && let Some(ear) = &mut self.ear
        {
            ear.owes_final();
        }
        match (outcome, self.last) {
            (outcome, Some(Command::Done)) => outcome,
            (outcome, Some(last)) => Err(called_off(last, outcome.err())),
            (Ok(sent), None) => heard.map(|()| sent),
            (Err(e), None) => Err(e),
        }
    }

    /// Listens until the receiver's last command has come; after an error
    /// only for a moment.
    fn await_last(&mut self, patient: bool) -> Result<()> {
        let limit = match self.wires {
            Some(wires) => wires.timeout(self.to.conn(), Direction::Read)?,
            None => None,
        };
        let start = Instant::now();
        let mut grace = (!patient).then_some(start + GRACE);
        self.still = Duration::ZERO;
        while self.last.is_none() && self.can_listen() {
            let now = Instant::now();
            if self.pilot.wish() == Wish::Cancel {
                grace.get_or_insert(now + GRACE);
            }
            if grace.is_some_and(|at| now >= at) {
                let what = "the transfer was cancelled here when all of it had been sent; \
                            the receiver may have it";
                return Err(Error::new(ErrorCode::Cancelled, what));
            }
            if let Some(limit) = limit
                && now.duration_since(start) >= limit
            {
                return Err(user_timeout("receiver's confirmation", limit).into());
            }
            self.listen(SLICE)?;
            self.still += now.elapsed();
            if self.last.is_none() {
                self.pilot.waits(self.still);
            }
        }
        Ok(())
    }

    fn can_listen(&self) -> bool {
        self.announced.is_some() && self.ear.as_ref().is_some_and(|ear| ear.can_listen())
    }

    /// Takes what the receiver says of what was announced, at most its last command;
    /// waits so long for the first.
    fn listen(&mut self, wait: Duration) -> Result<()> {
        let (Some(wires), Some(ear), Some(_)) = (self.wires, &mut self.ear, self.announced) else {
            return Ok(());
        };
        let conn = self.to.conn();
        let mut wait = wait;
        for _ in 0..MOST_AT_ONCE {
            if self.last.is_some() {
                break;
            }
            match ear.listen(&mut |buffer| wires.try_read(conn, buffer, wait))? {
                Some(Command::Pause) => self.held = true,
                Some(Command::Resume) => self.held = false,
                Some(last) => self.last = Some(last),
                None if self.heard && !ear.can_listen() => {
                    let what = "the receiver sent a message before its last command about ours";
                    return Err(Error::new(ErrorCode::ProtocolViolation, what));
                }
                None => break,
            }
            (self.heard, wait) = (true, Duration::ZERO);
        }
        Ok(())
    }

    /// Why there is nothing more to send, if so.
    fn called_off(&self) -> Option<Error> {
        match self.last {
            Some(last) => Some(called_off(last, None)),
            None => (self.pilot.wish() == Wish::Cancel).then(cancelled_here),
        }
    }

    fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(wires) = self.wires else { return self.to.write_vectored(slices) };
        loop {
            let tried = Instant::now();
            match wires.try_write(self.to.conn(), slices, SLICE) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.still = Duration::ZERO;
                    if let (Ok(1..), Some(taken)) = (&outcome, &mut self.announced) {
                        *taken = true;
                    }
                    return outcome;
                }
            }
            self.listen(Duration::ZERO)?;
            if let Some(e) = self.called_off() {
                let now = Instant::now();
                if now >= *self.grace.get_or_insert(now + GRACE) {
                    return Err(interruption(e));
                }
            }
            if !wires.is_interrupted(self.to.conn()) {
                self.still += tried.elapsed();
                self.to.check_limit(0, self.still)?;
                if let Some(limit) = wires.timeout(self.to.conn(), Direction::Write)?
                    && self.still >= limit
                {
                    return Err(user_timeout("write", limit));
                }
            }
            self.pilot.waits(self.still);
        }
    }
}

impl<C: Write> Outlet for SteeredOutlet<'_, C> {
    fn announces(&mut self) -> bool {
        self.announced = self.ear.as_ref().map(|_| false);
        self.announced.is_some()
    }

    fn has_orders(&self) -> bool {
        self.pilot.wish() != Wish::Go
    }

    fn order(&mut self) -> Result<Order> {
        let now = Instant::now();
        if self.listened.is_none_or(|at| now.duration_since(at) >= LISTEN_EVERY) {
            self.listened = Some(now);
            self.listen(Duration::ZERO)?;
        }
        if let Some(e) = self.called_off() {
            return Ok(Order::Cancel(e));
        }
        if self.held || self.pilot.wish() == Wish::Pause {
            self.pilot.pauses();
            return Ok(Order::Pause);
        }
        Ok(Order::Go)
    }

    fn hold(&mut self) -> Result<bool> {
        loop {
            if self.called_off().is_some() {
                return Ok(false);
            }
            if !self.held && self.pilot.wish() == Wish::Go {
                self.pilot.resumes();
                return Ok(true);
            }
            self.rest(SLICE)?;
        }
    }

    fn rest(&mut self, most: Duration) -> Result<()> {
        let most = most.min(SLICE);
        if self.can_listen() {
            self.listen(most)?;
        } else {
            self.pilot.rest(most);
        }
        Ok(())
    }

    fn room(&self) -> usize {
        let Some(rate) = self.rate else { return FIRST };
        // A float that does not fit becomes the nearest integer that does.
        ((rate * MOST_OF_A_CHUNK.as_secs_f64()) as usize).max(LEAST_CHUNK)
    }

    fn goes(&mut self) {
        self.writing = Instant::now();
        self.pilot.goes();
    }

    fn moved(&mut self, bytes: usize) {
        let took = self.writing.elapsed().as_secs_f64();
        if bytes >= LEAST_CHUNK {
            let rate = bytes as f64 / took.max(1e-9);
            self.rate = Some(self.rate.map_or(rate, |old| (old + rate) / 2.0));
        }
        self.pilot.moved(bytes as u64);
    }
}

impl<C: Write> Write for SteeredOutlet<'_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_slices(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_slices(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.wires {
            // A conn that is cut off has it, and sends it once it can: a pilot does not
            // wait for that, or could not call it off.
            Some(wires) if wires.is_interrupted(self.to.conn()) => Ok(()),
            // Under no limit: it may be cut off meanwhile, and that is no stall.
            Some(wires) => wires.flush(self.to.conn()),
            None => self.to.flush(),
        }
    }
}

/// What the receiver's last command makes of a message that we have not ended.
fn called_off(last: Command, ours: Option<Error>) -> Error {
    let (code, what) = match last {
        Command::Cancel => (ErrorCode::Cancelled, "the receiver cancelled the transfer".into()),
        Command::Failed(number) => {
            let code = ErrorCode::ALL.iter().find(|code| code.number() == number);
            let why = code.map_or_else(|| format!("error {number}"), |code| format!("{code:?}"));
            (ErrorCode::Aborted, format!("the receiver gave up ({why})"))
        }
        _ => {
            let what = "the receiver confirmed what had not been sent";
            (ErrorCode::ProtocolViolation, what.into())
        }
    };
    let e = match ours {
        Some(ours) => Error::with_source(code, what, ours),
        None => Error::new(code, what),
    };
    match last {
        Command::Failed(number) => e.with_context("receiver_error", number),
        _ => e,
    }
}

/// How often it is looked whether the receiver has said something.
const LISTEN_EVERY: Duration = Duration::from_millis(1);

/// How many commands are taken before what they come to is obeyed.
const MOST_AT_ONCE: usize = 64;

/// A chunk is to be over after this time, or a pause would have to wait for it.
const MOST_OF_A_CHUNK: Duration = Duration::from_millis(50);

const LEAST_CHUNK: usize = 16 << 10;

/// The first chunk, when nothing is known of the rate.
const FIRST: usize = 64 << 10;
