//! Reads and writes that are tried for a while.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::Direction;

/// A transport whose reads and writes can be tried for a while, whatever
/// timeouts are set on it. A transfer that can be steered from both ends asks
/// for it: one thread sends and listens.
///
/// [`Conn`](crate::Conn) has it, and on Unix `TcpStream` and `UnixStream`.
pub trait TryIo: Read + Write {
    /// Reads what is there, and waits at most `wait` for the first byte of it.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, if nothing came in that time; those of the transport.
    fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;

    /// Writes what the transport takes, and waits at most `wait` for it to take
    /// the first byte.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, if it took nothing in that time; those of the transport.
    fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize>;

    /// The timeout that the user has set. It is kept by whoever tries.
    ///
    /// # Errors
    ///
    /// Those of the transport.
    fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
        let _ = direction;
        Ok(None)
    }

    /// Whether the transport cannot move anything for the time being and works
    /// on it: a timeout does not count meanwhile.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// Who is at the other end, if the transport makes sure of that: the same text for
    /// the same peer, and for no other.
    fn remote(&self) -> Option<String> {
        None
    }
}

impl<T: TryIo + ?Sized> TryIo for &mut T {
    fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        (**self).try_read(buffer, wait)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        (**self).try_write(slices, wait)
    }

    fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
        (**self).timeout(direction)
    }

    fn is_interrupted(&self) -> bool {
        (**self).is_interrupted()
    }

    fn remote(&self) -> Option<String> {
        (**self).remote()
    }
}

macro_rules! by_socket_calls {
    ($($socket:ty),*) => {$(
        by_socket_calls!(@ $socket);
        by_socket_calls!(@ &$socket);
    )*};
    (@ $socket:ty) => {
        impl TryIo for $socket {
            fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
                within(&*self, PollFlags::IN, wait, |fd| {
                    let (n, _) = rustix::net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?;
                    Ok(n)
                })
            }

            fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
                within(&*self, PollFlags::OUT, wait, |fd| {
                    let none = &mut SendAncillaryBuffer::default();
                    rustix::net::sendmsg(fd, slices, none, SendFlags::DONTWAIT | NO_SIGNAL)
                })
            }

            fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
                match direction {
                    Direction::Read => self.read_timeout(),
                    Direction::Write => self.write_timeout(),
                }
            }
        }
    };
}

by_socket_calls!(TcpStream, UnixStream);

/// Calls, and if that would block waits a while and calls again. The socket's
/// own mode and timeouts are left alone: other threads may use it.
fn within<S: AsFd>(
    socket: &S,
    events: PollFlags,
    wait: Duration,
    mut call: impl FnMut(&S) -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    match call(socket) {
        Err(rustix::io::Errno::WOULDBLOCK) if !wait.is_zero() => {}
        outcome => return Ok(outcome?),
    }
    let timeout = Timespec {
        tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    };
    rustix::event::poll(&mut [PollFd::new(socket, events)], Some(&timeout))?;
    Ok(call(socket)?)
}

/// A peer that is gone is an error, not a signal.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();
