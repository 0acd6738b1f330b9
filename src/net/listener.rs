//! Conns that come in.

use std::fmt;
use std::io;
use std::iter::FusedIterator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use parking_lot::{Condvar, Mutex};

use super::{Conn, ListenerStats};
use crate::driver::Patience;
use crate::error::{Error, ErrorCode, Result};
use crate::host::backlog::Backlog;
use crate::host::{Handle, Host};

/// Accepts conns of one protocol: what [`TcpListener`](std::net::TcpListener) is for a
/// port.
///
/// Up to 256 conns, 128 of one peer, wait to be accepted, in order; a connect beyond
/// that is refused ([`HostBuilder`](crate::HostBuilder) has both numbers as options). A
/// connect succeeds before the accept.
///
/// When the last handle is dropped, or at [`close`](Listener::close), the protocol is
/// served no longer and conns that nobody accepted are reset. Accepted ones live on.
///
/// # Examples
///
/// ```no_run
/// use pointsub::{Host, Listener};
///
/// # fn main() -> std::io::Result<()> {
/// let host = Host::builder().listen_on("0.0.0.0:4001").build()?;
/// let listener = Listener::bind(&host, "/echo/1.0.0")?;
/// for conn in listener.incoming() {
///     let conn = conn?;
///     std::thread::spawn(move || std::io::copy(&mut &conn, &mut &conn));
/// }
/// # Ok(()) }
/// ```
pub struct Listener {
    shared: Arc<Shared>,
}

/// As a `TcpListener` is: a panic between two calls leaves nothing half done.
impl std::panic::UnwindSafe for Listener {}
impl std::panic::RefUnwindSafe for Listener {}

struct Shared {
    backlog: Arc<Backlog>,
    nonblocking: AtomicBool,
    host: Arc<Handle>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.host.core.unbind(&self.backlog);
    }
}

impl Listener {
    /// Serves `protocol` on this host.
    ///
    /// # Errors
    ///
    /// `AddrInUse`: it is served already, by another listener or by the host itself
    /// (ping, identify, and how lost conns come back). `InvalidInput`: a name that does
    /// not start with `/`, has a newline or is longer than 1,000 bytes. `NotConnected`:
    /// the host has been shut down.
    pub fn bind(host: &Host, protocol: &str) -> io::Result<Listener> {
        let backlog = host.handle.core.bind(protocol)?;
        log::debug!(protocol; "protocol served");
        let nonblocking = AtomicBool::new(false);
        Ok(Listener {
            shared: Arc::new(Shared { backlog, nonblocking, host: host.handle.clone() }),
        })
    }

    /// The next conn, and whose it is. The conn blocks, also when the listener does
    /// not.
    ///
    /// As with TCP, a conn that was reset or lost while it waited is returned all the
    /// same: its reads give what had arrived, and then fail.
    ///
    /// # Errors
    ///
    /// `NotConnected`: the listener was closed, or the host shut down. `WouldBlock`: it
    /// does not block and no conn waits.
    pub fn accept(&self) -> io::Result<(Conn, PeerId)> {
        let patience = match self.shared.nonblocking.load(Relaxed) {
            true => Patience::None,
            false => Patience::Forever,
        };
        self.take(patience)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// The conns that come in, one after the other, until the listener is closed.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The same, with the listener inside.
    pub fn into_incoming(self) -> IntoIncoming {
        IntoIncoming { listener: self }
    }

    /// Another handle of the same listener.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener { shared: self.shared.clone() })
    }

    /// Whether `accept` returns `WouldBlock` instead of blocking. Default: it blocks.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.shared.nonblocking.store(nonblocking, Relaxed);
        Ok(())
    }

    /// The host's first listening address.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable`: the host listens nowhere.
    pub fn local_addr(&self) -> io::Result<Multiaddr> {
        let first = self.shared.host.core.listening().next();
        first.ok_or_else(|| {
            let what = "the host listens nowhere: give its builder an address";
            Error::new(ErrorCode::UnknownAddress, what).into()
        })
    }

    /// The protocol that it serves.
    pub fn protocol(&self) -> &str {
        &self.shared.backlog.protocol
    }

    /// Figures of this listener.
    pub fn stats(&self) -> ListenerStats {
        let backlog = &self.shared.backlog;
        ListenerStats {
            accepted: backlog.accepted.load(Relaxed),
            waiting: backlog.len(),
            refused: backlog.refused.load(Relaxed),
            age: backlog.opened.elapsed(),
        }
    }

    /// Ends it for all handles: blocked and later `accept`s return `NotConnected`,
    /// `incoming` ends, and conns that nobody accepted are reset.
    pub fn close(&self) {
        self.shared.host.core.unbind(&self.shared.backlog);
    }

    /// Runs `handler` on a thread for each conn, at most `max` at once (at least one),
    /// until the listener is closed; then waits for those that run. Conns beyond `max`
    /// wait to be accepted.
    ///
    /// A handler that panics ends its conn only.
    ///
    /// # Errors
    ///
    /// No thread can be started ([`SystemLimit`](ErrorCode::SystemLimit)): the conn is
    /// dropped, and the error returned once the running handlers are done.
    pub fn serve<F>(&self, max: usize, handler: F) -> io::Result<()>
    where
        F: Fn(Conn, PeerId) + Sync,
    {
        let places = Places { free: Mutex::new(max.max(1)), freed: Condvar::new() };
        std::thread::scope(|scope| {
            loop {
                let place = places.take();
                let (conn, peer) = match self.take(Patience::Forever) {
                    Err(e) if e.code() == ErrorCode::NotConnected => return Ok(()),
                    taken => taken?.expect("patience without an end outlasts the wait"),
                };
                let handler = &handler;
                let name = format!("pointsub{}", self.protocol());
                let builder = std::thread::Builder::new().name(name.replace('\0', ""));
                let spawned = builder.spawn_scoped(scope, move || {
                    let _place = place;
                    // The panic has been reported by the hook.
                    let _ = catch_unwind(AssertUnwindSafe(|| handler(conn, peer)));
                });
                spawned.map_err(Error::no_thread)?;
            }
        })
    }

    /// The next conn, and whose it is; `None`: none came within `patience`.
    fn take(&self, patience: Patience) -> Result<Option<(Conn, PeerId)>> {
        let Shared { backlog, host, .. } = &*self.shared;
        let Some(channel) = backlog.pop(patience)? else { return Ok(None) };
        let (peer, protocol) = (channel.peer(), backlog.protocol.clone());
        let (link, stream) = channel.parts();
        log::debug!(link = link.id, peer:% = peer, stream = stream.id,
            protocol = &*protocol; "stream accepted");
        Ok(Some((Conn::new(host.clone(), channel, protocol), peer)))
    }

    fn next(&self) -> Option<io::Result<Conn>> {
        match self.accept() {
            Ok((conn, _)) => Some(Ok(conn)),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("protocol", &self.protocol()).finish_non_exhaustive()
    }
}

/// The conns that a [`Listener`] accepts; made by [`incoming`](Listener::incoming). It
/// ends when the listener is closed.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a Listener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<Conn>;

    fn next(&mut self) -> Option<io::Result<Conn>> {
        self.listener.next()
    }
}

impl FusedIterator for Incoming<'_> {}

/// The same with the listener inside; made by
/// [`into_incoming`](Listener::into_incoming).
#[derive(Debug)]
pub struct IntoIncoming {
    listener: Listener,
}

impl Iterator for IntoIncoming {
    type Item = io::Result<Conn>;

    fn next(&mut self) -> Option<io::Result<Conn>> {
        self.listener.next()
    }
}

impl FusedIterator for IntoIncoming {}

/// Threads that may still be started.
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// One of them; dropped, it is free again.
struct PlaceTaken<'a>(&'a Places);

impl Places {
    fn take(&self) -> PlaceTaken<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        PlaceTaken(self)
    }
}

impl Drop for PlaceTaken<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}
