//! What a conn reads and writes: a plain stream of one link, or a session.

use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::sync::Arc;

use libp2p_identity::PeerId;

use super::Session;
use crate::driver::{Link, Patience, Priority, Stream};
use crate::error::{Error, Result};

/// A stream to a peer, of either kind. Its last user releases it.
#[derive(Clone)]
pub(crate) enum Channel {
    Plain(Arc<Link>, Arc<Stream>),
    Resumable(Arc<Session>),
}

impl Channel {
    pub(crate) fn peer(&self) -> PeerId {
        match self {
            Channel::Plain(link, _) => link.peer,
            Channel::Resumable(session) => session.peer,
        }
    }

    /// Reads into `bufs`; `None`: nothing came within `patience`.
    pub(crate) fn read(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        patience: Patience,
    ) -> Result<Option<usize>> {
        match self {
            Channel::Plain(link, stream) => link.read(stream, bufs, patience),
            Channel::Resumable(session) => session.read(bufs, patience),
        }
    }

    /// Copies what waits without taking it; blocks like `read`.
    pub(crate) fn peek(&self, buf: &mut [u8], patience: Patience) -> Result<Option<usize>> {
        match self {
            Channel::Plain(link, stream) => link.peek(stream, buf, patience),
            Channel::Resumable(session) => session.peek(buf, patience),
        }
    }

    /// Writes some of `bufs` and returns how much; `None`: nothing could be written
    /// within `patience`.
    pub(crate) fn write(&self, bufs: &[IoSlice<'_>], patience: Patience) -> Result<Option<usize>> {
        match self {
            Channel::Plain(link, stream) => link.write(stream, bufs, patience),
            Channel::Resumable(session) => session.write(bufs, patience),
        }
    }

    /// Waits until the kernel has all that was written so far. `false`: the time is
    /// over.
    pub(crate) fn flush(&self, patience: Patience) -> Result<bool> {
        match self {
            Channel::Plain(link, stream) => link.flush(stream, patience),
            Channel::Resumable(session) => session.flush(patience),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> Result<()> {
        match self {
            Channel::Plain(link, stream) => {
                if matches!(how, Shutdown::Write | Shutdown::Both) {
                    link.shut_write(stream)?;
                }
                if matches!(how, Shutdown::Read | Shutdown::Both) {
                    link.shut_read(stream)?;
                }
                Ok(())
            }
            Channel::Resumable(session) => session.shutdown(how),
        }
    }

    /// The last handle is gone: what was written is delivered, and then the stream ends.
    pub(crate) fn release(&self) {
        match self {
            Channel::Plain(link, stream) => {
                link.release(stream);
                link.leave();
            }
            Channel::Resumable(session) => session.release(),
        }
    }

    /// Ends both directions at once.
    pub(crate) fn reset(&self) {
        match self {
            Channel::Plain(link, stream) => link.reset(stream),
            Channel::Resumable(session) => session.reset(),
        }
    }

    /// Somebody has taken it out of the accept queue.
    pub(crate) fn accept(&self) {
        let (_, stream) = self.parts();
        stream.accept();
    }

    /// Why it is broken, if it is.
    pub(crate) fn broken(&self) -> Option<Error> {
        match self {
            Channel::Plain(_, stream) => stream.state.lock().broken(),
            Channel::Resumable(session) => session.broken(),
        }
    }

    pub(crate) fn set_priority(&self, priority: Priority) {
        match self {
            Channel::Plain(link, stream) => {
                stream.set_priority(priority);
                link.resume_paused();
            }
            Channel::Resumable(session) => session.set_priority(priority),
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        match self {
            Channel::Plain(_, stream) => stream.priority(),
            Channel::Resumable(session) => session.priority(),
        }
    }

    /// The link and the stream underneath: of a session the newest, alive or not.
    pub(crate) fn parts(&self) -> (Arc<Link>, Arc<Stream>) {
        match self {
            Channel::Plain(link, stream) => (link.clone(), stream.clone()),
            Channel::Resumable(session) => session.newest(),
        }
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Channel::Plain(..) => None,
            Channel::Resumable(session) => Some(session),
        }
    }
}
