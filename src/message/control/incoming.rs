//! The receiving end of a message that may be steered.

use std::io::{self, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use super::{
    GRACE, Pilot, SLICE, Wires, Wish, cancelled_here, interruption, left_here, user_timeout,
};
use crate::error::Result;
use crate::message::frame::{Incoming, Outgoing, Outlet, Source};
use crate::message::header::{Command, Header, Kind};
use crate::message::timeout::Limited;
use crate::stall::{Admission, Direction};

/// A conn while a message is received from it. Between reads it asks the pilot,
/// if there is one, and tells the sender, if that one listens.
pub(crate) struct SteeredSource<'a, C> {
    from: Limited<'a, C>,
    wires: Option<&'a dyn Wires<C>>,
    pilot: Option<&'a mut dyn Pilot>,
    /// Answers the sender; `None`: we have no say.
    voice: Option<&'a mut Outgoing>,
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
        voice: Option<&'a mut Outgoing>,
        incoming: &Incoming,
    ) -> SteeredSource<'a, C> {
        let (controlled, paused) = incoming.under_control().unzip();
        let paused = paused.unwrap_or(false);
        let (asked, grace, still) = (None, None, Duration::ZERO);
        SteeredSource { from, wires, pilot, voice, controlled, asked, paused, grace, still }
    }

    /// Whether a stall limit has struck.
    pub(crate) fn has_stalled(&self) -> bool {
        self.from.has_stalled()
    }

    /// Does what this end wants, before a read.
    fn attend(&mut self) -> io::Result<()> {
        if self.voice.as_ref().is_some_and(|voice| voice.has_unsaid())
            && let Some((voice, mut to)) = self.speaking(Duration::ZERO)
        {
            // Whoever cannot write can read all the same.
            let _ = voice.say(&mut to);
        }
        if let Some(at) = self.grace {
            let late = Instant::now() >= at;
            return if late { Err(interruption(cancelled_here())) } else { Ok(()) };
        }
        let Some(pilot) = &mut self.pilot else { return Ok(()) };
        let wish = pilot.wish();
        match wish {
            Wish::Cancel => return Err(interruption(cancelled_here())),
            Wish::Leave => return Err(interruption(left_here())),
            Wish::Go | Wish::Pause => {}
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

    /// Who answers the sender, and what over, for so long.
    fn speaking(&mut self, most: Duration) -> Option<(&mut Outgoing, Aside<'_, C>)> {
        let (wires, voice) = (self.wires?, self.voice.as_deref_mut()?);
        let aside = Aside { conn: self.from.conn(), wires, start: Instant::now(), most };
        Some((voice, aside))
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

    fn answer(&mut self, command: Command) -> Result<()> {
        let Some(wires) = self.wires else { return Ok(()) };
        let limit = wires.timeout(self.from.conn(), Direction::Read)?;
        match self.speaking(limit.unwrap_or(Duration::MAX)) {
            Some((voice, mut to)) => voice.answer(&mut to, command),
            None => Ok(()),
        }
    }

    fn winds_down(&mut self) -> bool {
        self.grace = Some(Instant::now() + GRACE);
        self.wires.is_some()
    }
}

/// A conn while the sender is answered over it: a moment at most, since nothing is
/// read meanwhile.
struct Aside<'a, C> {
    conn: &'a mut C,
    wires: &'a dyn Wires<C>,
    start: Instant,
    most: Duration,
}

impl<C> Outlet for Aside<'_, C> {}

impl<C> Write for Aside<'_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.wires.try_write(self.conn, slices, SLICE.min(self.most)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let cut_off = self.wires.is_interrupted(self.conn);
                    let most = if cut_off { MOST_OF_AN_OUTAGE } else { GRACE };
                    if self.start.elapsed() >= most.min(self.most) {
                        return Err(e);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A conn that is cut off has it, and sends it once it can: nobody waits for that.
        if self.wires.is_interrupted(self.conn) {
            return Ok(());
        }
        self.wires.flush(self.conn)
    }
}

/// How long an answer may wait for a conn that is cut off and takes no more.
const MOST_OF_AN_OUTAGE: Duration = Duration::from_secs(30);
