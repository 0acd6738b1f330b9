//! The receiving end of a message that may be steered.

use std::io::{self, IoSlice, Read};
use std::time::{Duration, Instant};

use super::{GRACE, Pilot, SLICE, Wires, Wish, cancelled_here, interruption, user_timeout};
use crate::error::{Error, ErrorCode, Result};
use crate::message::frame::{Incoming, Source};
use crate::message::header::{Command, Header, Kind};
use crate::message::timeout::Limited;
use crate::stall::{Admission, Direction};

/// A conn while a message is received from it. Between reads it asks the pilot,
/// if there is one, and tells the sender, if that one listens.
pub(crate) struct SteeredSource<'a, C> {
    from: Limited<'a, C>,
    wires: Option<&'a dyn Wires<C>>,
    pilot: Option<&'a mut dyn Pilot>,
    /// The sender listens; `None`: nothing of the message has come yet.
    controlled: Option<bool>,
    /// Whether the sender knows that we want a pause; `None`: perhaps.
    asked: Option<bool>,
    /// The sender stands still on purpose.
    paused: bool,
    /// Nobody wants the message any more: until when it is read all the same.
    grace: Option<Instant>,
    /// For how long no byte has moved.
    still: Duration,
}

impl<'a, C: Read> SteeredSource<'a, C> {
    pub(crate) fn new(
        from: Limited<'a, C>,
        wires: Option<&'a dyn Wires<C>>,
        pilot: Option<&'a mut dyn Pilot>,
        incoming: &Incoming,
    ) -> SteeredSource<'a, C> {
        let (controlled, paused) = incoming.under_control().unzip();
        let paused = paused.unwrap_or(false);
        let (asked, grace, still) = (None, None, Duration::ZERO);
        SteeredSource { from, wires, pilot, controlled, asked, paused, grace, still }
    }

    /// Whether a stall limit has struck.
    pub(crate) fn has_stalled(&self) -> bool {
        self.from.has_stalled()
    }

    /// Does what this end wants, before a read.
    fn attend(&mut self) -> io::Result<()> {
        if let Some(at) = self.grace {
            let late = Instant::now() >= at;
            return if late { Err(interruption(cancelled_here())) } else { Ok(()) };
        }
        let Some(pilot) = &mut self.pilot else { return Ok(()) };
        let wish = pilot.wish();
        if wish == Wish::Cancel {
            return Err(interruption(cancelled_here()));
        }
        let pause = wish == Wish::Pause;
        // Who can wait for the sender's answer waits for the message as well.
        if self.controlled.unwrap_or(self.wires.is_some()) {
            if self.controlled.is_some() && self.asked != Some(pause) {
                self.asked = Some(pause);
                self.answer(if pause { Command::Pause } else { Command::Resume })?;
            }
        } else if pause {
            self.stand_still()?;
        }
        Ok(())
    }

    /// A pause that the sender is not told of: nothing is read.
    fn stand_still(&mut self) -> io::Result<()> {
        let Some(pilot) = &mut self.pilot else { return Ok(()) };
        pilot.pauses();
        while pilot.wish() == Wish::Pause {
            pilot.rest(SLICE);
        }
        if pilot.wish() == Wish::Cancel {
            return Err(interruption(cancelled_here()));
        }
        if !self.paused {
            pilot.resumes();
        }
        Ok(())
    }

    /// `inside`: a chunk of this size has begun.
    fn try_read(
        &mut self,
        wires: &dyn Wires<C>,
        inside: Option<u64>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            self.attend()?;
            let tried = Instant::now();
            match wires.try_read(self.from.conn(), buffer, SLICE) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.still = Duration::ZERO;
                    return outcome;
                }
            }
            let is_cut_off = wires.is_interrupted(self.from.conn());
            if let (true, Some(pilot)) = (is_cut_off, &mut self.pilot) {
                pilot.is_cut_off();
            }
            if self.paused || self.grace.is_some() || is_cut_off {
                continue;
            }
            self.still += tried.elapsed();
            if let Some(size) = inside {
                self.from.check_limit(size, self.still)?;
            }
            if let Some(limit) = wires.timeout(self.from.conn(), Direction::Read)?
                && self.still >= limit
            {
                self.still = Duration::ZERO;
                return Err(user_timeout("read", limit));
            }
            if let Some(pilot) = &mut self.pilot {
                pilot.waits(self.still);
            }
        }
    }

    /// Whether reads have to return now and then.
    fn tries(&self) -> Option<&'a dyn Wires<C>> {
        self.wires.filter(|_| self.pilot.is_some() || self.grace.is_some())
    }
}

impl<C: Read> Source for SteeredSource<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tries() {
            Some(wires) => self.try_read(wires, None, buffer),
            None => {
                self.attend()?;
                self.from.read(buffer)
            }
        }
    }

    fn read_inside(&mut self, size: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tries() {
            Some(wires) => self.try_read(wires, Some(size), buffer),
            None => {
                self.attend()?;
                self.from.read_inside(size, buffer)
            }
        }
    }

    fn admit(&mut self, bytes: u64) -> Result<Admission> {
        self.from.admit(bytes)
    }

    fn begins(&mut self, header: &Header) {
        if header.begins() {
            self.controlled = Some(header.controlled);
            (self.asked, self.paused) = (Some(false), false);
        }
        let Some(pilot) = &mut self.pilot else { return };
        match header.kind {
            Kind::Large => pilot.expects(header.len),
            Kind::Message => {
                if !header.packed {
                    pilot.expects(header.len);
                }
                pilot.goes();
            }
            Kind::Chunk => pilot.goes(),
            Kind::Stream | Kind::End | Kind::Abort | Kind::Command => {}
        }
    }

    fn moved(&mut self, bytes: usize) {
        if let Some(pilot) = &mut self.pilot {
            pilot.moved(bytes as u64);
        }
    }

    fn commanded(&mut self, command: Command) {
        self.paused = command == Command::Pause;
        let Some(pilot) = &mut self.pilot else { return };
        if self.paused {
            pilot.pauses();
        } else {
            pilot.resumes();
        }
    }

    fn answers(&self) -> bool {
        self.wires.is_some()
    }

    /// The sender listens: what little this is it takes soon.
    fn answer(&mut self, command: Command) -> Result<()> {
        let Some(wires) = self.wires else { return Ok(()) };
        let frame = command.header().encode();
        let (mut rest, start) = (frame.as_slice(), Instant::now());
        while !rest.is_empty() {
            match wires.try_write(self.from.conn(), &[IoSlice::new(rest)], SLICE) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if start.elapsed() >= MOST_FOR_AN_ANSWER {
                        let what = "the sender of a message under control does not listen";
                        return Err(Error::new(ErrorCode::Timeout, what));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        // A conn that is cut off has it, and sends it once it can: nobody waits for that.
        if wires.is_interrupted(self.from.conn()) {
            return Ok(());
        }
        Ok(wires.flush(self.from.conn())?)
    }

    fn winds_down(&mut self) -> bool {
        self.grace = Some(Instant::now() + GRACE);
        self.wires.is_some()
    }
}

/// How long the sender may leave four bytes untaken.
const MOST_FOR_AN_ANSWER: Duration = Duration::from_secs(30);
