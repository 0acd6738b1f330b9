//! Commands: those that stand in a message, and those that come back about one
//! that we send.

use std::io;

use super::{Incoming, violation};
use crate::error::{Error, ErrorCode, Result};
use crate::message::frame::Source;
use crate::message::frame::progress::Target;
use crate::message::header::{Command, Header, Kind, SHORT};
use crate::resources::buffers::Buffer;

/// While we send, this end listens.
impl Incoming {
    /// Whether the next bytes may be commands: no message has begun to arrive.
    pub(crate) fn can_listen(&self) -> bool {
        let ordinary = self.head_len >= SHORT;
        self.broken.is_none() && self.message.is_none() && !ordinary
    }

    /// The next command of the one that we send to, and not a byte more; `None`
    /// if there is none yet, or if a message came first: then it
    /// [cannot listen](Incoming::can_listen) any more.
    pub(crate) fn listen(
        &mut self,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<Option<Command>> {
        while self.can_listen() {
            match read(&mut self.head[self.head_len..SHORT]) {
                Ok(0) => {
                    let what = "the peer closed before it had confirmed what was sent to it";
                    return Err(Error::new(ErrorCode::UnexpectedEnd, what));
                }
                Ok(n) => self.head_len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            if self.head_len == SHORT
                && let Some(command) = self.take_command()?
            {
                if self.owed == 0 {
                    return Ok(Some(command));
                }
                self.owed -= u32::from(command.is_final());
            }
        }
        Ok(None)
    }

    /// Nobody waits any more for the last command about what was sent: it is
    /// skipped when it comes.
    pub(crate) fn owes_final(&mut self) {
        self.owed = self.owed.saturating_add(1);
    }

    /// The command whose header is here; another header stays for a receive.
    fn take_command(&mut self) -> Result<Option<Command>> {
        let [a, b, c, d, ..] = self.head;
        let head = [a, b, c, d];
        if Header::length_of(&head)? != SHORT {
            return Ok(None);
        }
        let header = Header::decode(&head)?;
        if header.kind != Kind::Command {
            return Ok(None);
        }
        self.head_len = 0;
        Ok(Command::of(header.len))
    }
}

/// While we receive.
impl Incoming {
    /// Of the message that is under way: whether its sender listens, and
    /// whether it stands still on purpose.
    pub(crate) fn under_control(&self) -> Option<(bool, bool)> {
        self.message.as_ref().map(|m| (m.controlled && !m.closed, m.paused))
    }

    /// Takes a command that stands where a frame may begin.
    pub(super) fn obey<R: Source + ?Sized>(&mut self, from: &mut R, header: Header) -> Result<()> {
        let command = Command::of(header.len);
        let Some(message) = &mut self.message else {
            if self.owed == 0 {
                return Err(violation("the peer sent a command about no message".into()));
            }
            self.owed -= u32::from(command.is_some_and(Command::is_final));
            self.head_len = 0;
            return Ok(());
        };
        if message.bare != header.bare || !message.chunked {
            return Err(violation("the peer sent a command that does not fit its message".into()));
        }
        message.crc.update(&self.head[..SHORT]);
        self.head_len = 0;
        match command {
            Some(command @ Command::Pause) if !message.paused => {
                message.paused = true;
                from.commanded(command);
                Ok(())
            }
            Some(command @ Command::Resume) if message.paused => {
                message.paused = false;
                from.commanded(command);
                Ok(())
            }
            Some(Command::Cancel) => {
                let received = message.received;
                self.leave(from)?;
                (self.payload, self.scratch) = (Vec::new(), Buffer::default());
                let what = format!("the sender cancelled after {received} bytes of a message");
                Err(Error::new(ErrorCode::Cancelled, what).with_context("received", received))
            }
            _ => Err(violation("the peer sent a command out of turn".into())),
        }
    }

    /// The last frame of a message is here: the next begins behind it.
    pub(super) fn leave<R: Source + ?Sized>(&mut self, from: &mut R) -> Result<()> {
        match self.message.take() {
            Some(message) if message.controlled && !message.closed => from.answer(Command::Done),
            _ => Ok(()),
        }
    }

    /// If the message was given up here: tells its sender, and reads on to its
    /// end for a moment, so that both ends are in order again.
    pub(super) fn answer_failure<R: Source + ?Sized, T>(
        &mut self,
        from: &mut R,
        outcome: &Result<T>,
    ) {
        let Err(e) = outcome else { return };
        self.unwanted = false;
        if e.code() == ErrorCode::Cancelled && self.target() != Some(Target::Nowhere) {
            self.give_up();
        }
        if self.target() == Some(Target::Nowhere)
            && self.close_control(from, e)
            && from.winds_down()
        {
            // Whatever it comes to, the next receive goes on from there.
            let _ = self.run(from, &mut super::Sink::Nowhere);
        }
    }

    /// Sends our last command about the message, if it is due; whether it was.
    pub(super) fn close_control<R: Source + ?Sized>(&mut self, from: &mut R, why: &Error) -> bool {
        let Some(message) = &mut self.message else { return false };
        if !message.controlled || std::mem::replace(&mut message.closed, true) {
            return false;
        }
        let command = match why.code() {
            ErrorCode::Cancelled => Command::Cancel,
            code => Command::Failed(code.number()),
        };
        from.answer(command).is_ok()
    }

    /// Nobody wants the message any more, at any byte of it.
    fn give_up(&mut self) {
        match (&self.frame, &mut self.message) {
            // Its reason is still to be read, there.
            (Some(frame), Some(message)) if frame.header.kind == Kind::Abort => {
                message.target = Target::Nowhere;
            }
            _ => self.drop_content(),
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
