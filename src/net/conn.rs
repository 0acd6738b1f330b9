//! A stream between two keys.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;

use super::{ConnStats, ToPeerAddrs};
use crate::driver::{Link, Patience, Priority};
use crate::error::{Error, ErrorCode, Result};
use crate::host::{Handle, Host, addrs};
use crate::resources::budget::Pressure;
use crate::session::{Channel, Session};
use crate::stall::{self, Admission, Direction, Network, StallLimit, TryIo};

/// A stream to a peer, for one protocol: what [`TcpStream`](std::net::TcpStream) is,
/// between two keys instead of two addresses.
///
/// It is encrypted and shares the connection to its peer with the other conns to it.
/// It is read and written through [`Read`] and [`Write`], also by reference and from
/// several threads at once: a read and a write never wait for each other, and a conn
/// whose reader is slow holds up its own writer only.
///
/// # The end
///
/// When the last handle of a conn is dropped the peer reads to the end of what was
/// written, and what the peer goes on to write fails there. (From a thread that drops
/// one conn and has the next at once, over and over, the peer hears of the end with the
/// next beginning, or a few milliseconds later.) The drop does not block;
/// that of the host's last handle does, until everything is delivered (see
/// [`Host`]).
///
/// # A lost connection
///
/// Between two hosts of this library a conn outlives its connection: when that is lost,
/// reads and writes wait (their timeouts count on), the host that had dialled dials
/// again, and both ends send what the other has not got. No byte is lost or doubled. It
/// fails with `ConnectionReset` when that takes longer than
/// [`resume_timeout`](crate::HostBuilder::resume_timeout), when every address refuses for
/// 5 s, and at once when the peer does not know it any more; the error says how many
/// bytes are known to have arrived.
///
/// To any other libp2p node, or where a host has
/// [`resumable(false)`](crate::HostBuilder::resumable), a conn is plain: a connection that
/// is lost is an error, `ConnectionReset` or `ConnectionAborted`.
///
/// It is never an end: only a peer that has finished reads as `Ok(0)`.
///
/// # Writing, flushing, dropping
///
/// What a write has taken is sent and delivered without a further call, and behind the last
/// handle too: the [host](Host) sees to it. [`flush`](Write::flush) waits until the kernel
/// has all of it, within the write timeout; no flush says that the peer has it, only its
/// answer does. Where the bytes were lost with their connection a flush of a plain conn is
/// an error; that of a resumable one waits for the next.
///
/// # Errors
///
/// Each carries a [`pointsub::Error`](crate::Error), except `WouldBlock`.
///
/// See the specifications of [Noise in libp2p], [yamux] and [multistream-select].
///
/// [Noise in libp2p]: https://github.com/libp2p/specs/blob/master/noise/README.md
/// [yamux]: https://github.com/libp2p/specs/blob/master/yamux/README.md
/// [multistream-select]: https://github.com/libp2p/specs/blob/master/connections/README.md
///
/// # Examples
///
/// ```
/// use pointsub::{Conn, Host, Listener};
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// let server = Host::builder().listen_on("127.0.0.1:0").build()?;
/// let listener = Listener::bind(&server, "/echo/1.0.0")?;
/// std::thread::spawn(move || -> std::io::Result<()> {
///     let (conn, _peer) = listener.accept()?;
///     std::io::copy(&mut &conn, &mut &conn)?;
///     Ok(())
/// });
///
/// let host = Host::new()?;
/// let mut conn = Conn::connect(&host, &server.dial_addrs()[0], "/echo/1.0.0")?;
/// conn.write_all(b"hello")?;
/// conn.shutdown(std::net::Shutdown::Write)?;
/// let mut text = String::new();
/// conn.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok(()) }
/// ```
pub struct Conn {
    shared: Arc<Shared>,
}

/// What the clones of a conn share; dropped, it closes the stream.
struct Shared {
    channel: Channel,
    protocol: Arc<str>,
    opened: Instant,
    /// Nanoseconds; zero: none.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    nonblocking: AtomicBool,
    nodelay: AtomicBool,
    /// An error was taken already.
    error_taken: AtomicBool,
    /// Milliseconds from the stream's opening to its last use.
    used: AtomicU64,
    /// Last, so that the stream is closed before the host may end.
    _host: Arc<Handle>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.channel.release();
    }
}

/// As a `TcpStream` is: a panic between two calls leaves nothing half done.
impl std::panic::UnwindSafe for Conn {}
impl std::panic::RefUnwindSafe for Conn {}

impl Conn {
    /// Opens a stream to a peer: over the connection that there is to it, or over a
    /// new one. It returns when the peer has agreed on the protocol, before it
    /// accepts; that takes one round trip on a live connection.
    ///
    /// # Errors
    ///
    /// * `ConnectionRefused`: nothing listens there; or the peer does not serve the
    ///   protocol ([`ProtocolNotServed`](ErrorCode::ProtocolNotServed)); or too many
    ///   conns wait there to be accepted, or are open on the connection.
    /// * `PermissionDenied`: another key answered than the one dialled. Nothing was
    ///   sent to it.
    /// * `AddrNotAvailable`: a bare peer id without a known address.
    /// * `InvalidInput`: the target is no address of TCP with a peer id, it is this
    ///   host's own id, or the protocol's name does not start with `/` or is longer
    ///   than 1,000 bytes.
    /// * `TimedOut`: the dial or the negotiation took longer than their limits, 10 s
    ///   each by default.
    /// * `NotConnected`: the host has been shut down.
    pub fn connect(host: &Host, target: impl ToPeerAddrs, protocol: &str) -> io::Result<Conn> {
        Conn::open(host, &target, protocol, None)
    }

    /// The same within a time that covers everything: names, dial, negotiation.
    ///
    /// # Errors
    ///
    /// As [`connect`](Conn::connect); a timeout of zero is `InvalidInput`.
    pub fn connect_timeout(
        host: &Host,
        target: impl ToPeerAddrs,
        protocol: &str,
        timeout: Duration,
    ) -> io::Result<Conn> {
        let timeout = check_timeout(Some(timeout))?.unwrap_or_default();
        Conn::open(host, &target, protocol, Instant::now().checked_add(timeout))
    }

    fn open(
        host: &Host,
        target: &dyn ToPeerAddrs,
        protocol: &str,
        deadline: Option<Instant>,
    ) -> io::Result<Conn> {
        let (peer, addrs) = target.to_peer_addrs()?;
        let channel = host.handle.open(peer, &addrs, protocol, deadline)?;
        Ok(Conn::new(host.handle.clone(), channel, protocol.into()))
    }

    pub(super) fn new(host: Arc<Handle>, channel: Channel, protocol: Arc<str>) -> Conn {
        Conn {
            shared: Arc::new(Shared {
                opened: channel.parts().1.opened,
                channel,
                protocol,
                read_timeout: AtomicU64::new(0),
                write_timeout: AtomicU64::new(0),
                nonblocking: AtomicBool::new(false),
                nodelay: AtomicBool::new(false),
                error_taken: AtomicBool::new(false),
                used: AtomicU64::new(0),
                _host: host,
            }),
        }
    }

    /// Another handle of the same stream. Timeouts and modes are shared; the last
    /// handle dropped closes it.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn try_clone(&self) -> io::Result<Conn> {
        Ok(Conn { shared: self.shared.clone() })
    }

    /// Ends one direction or both, for all handles; threads that are blocked in it
    /// return.
    ///
    /// * `Read`: blocked, buffered and later reads return `Ok(0)`. What still arrives is
    ///   thrown away, and the peer may go on writing.
    /// * `Write`: the peer reads to the end of what was written; reads go on here; later
    ///   writes are `BrokenPipe`.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Ok(self.shared.channel.shutdown(how)?)
    }

    /// How long a read may block; `None`, the default: for ever. A read that takes
    /// longer is `TimedOut`; no byte is lost and the conn stays usable.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the time is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.shared.read_timeout, timeout)
    }

    /// How long a write may block; `None`, the default: for ever. A write that takes
    /// longer is `TimedOut` if it has written nothing; the conn stays usable.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the time is zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.shared.write_timeout, timeout)
    }

    /// How long a read may block.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(load_timeout(&self.shared.read_timeout))
    }

    /// How long a write may block.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(load_timeout(&self.shared.write_timeout))
    }

    /// Whether reads and writes return `WouldBlock` instead of blocking. Default: they
    /// block.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.shared.nonblocking.store(nonblocking, Relaxed);
        Ok(())
    }

    /// Whether each small write has a frame and a call of the system of its own. Off, the
    /// default, writes of at most 4 KiB that follow each other within 20 µs, and nothing
    /// read between them, are sent together by another thread: they return before the
    /// system has them, as [`flush`](Write::flush) does not. None waits for a timer, or on
    /// an idle connection. The TCP socket itself always has `TCP_NODELAY`.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.shared.nodelay.store(nodelay, Relaxed);
        Ok(())
    }

    /// The flag of [`set_nodelay`](Conn::set_nodelay).
    ///
    /// # Errors
    ///
    /// None today.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.shared.nodelay.load(Relaxed))
    }

    /// Copies what can be read without taking it; blocks like a read.
    ///
    /// # Errors
    ///
    /// As a read.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        let shared = &*self.shared;
        let patience = shared.patience(&shared.read_timeout);
        let read = shared.channel.peek(buf, patience)?;
        read.ok_or_else(|| shared.late("read"))
    }

    /// Why the conn is broken, if it is, once; then `None`.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let broken = self.shared.channel.broken();
        Ok(broken.filter(|_| !self.shared.error_taken.swap(true, Relaxed)).map(Into::into))
    }

    /// The TCP address of the connection's other end.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn peer_addr(&self) -> io::Result<Multiaddr> {
        Ok(addrs::to_multiaddr(self.shared.link().remote))
    }

    /// The TCP address of the connection's end here.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn local_addr(&self) -> io::Result<Multiaddr> {
        Ok(addrs::to_multiaddr(self.shared.link().local))
    }

    /// Who the other end is: its key was proved in the handshake.
    pub fn peer_id(&self) -> PeerId {
        self.shared.channel.peer()
    }

    /// Who this end is.
    pub fn local_peer_id(&self) -> PeerId {
        self.shared._host.core.peer_id()
    }

    /// The protocol that both ends agreed on.
    pub fn protocol(&self) -> &str {
        &self.shared.protocol
    }

    /// Whether the conn survives the loss of its TCP connection: between two hosts of
    /// this library that both allow it, see
    /// [`resumable`](crate::HostBuilder::resumable).
    pub fn is_resumable(&self) -> bool {
        self.shared.channel.session().is_some()
    }

    /// Whether it comes before other conns, or after them, where there is not enough
    /// for all. Default: normal.
    pub fn set_priority(&self, priority: Priority) {
        self.shared.channel.set_priority(priority);
    }

    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.shared.channel.priority()
    }

    /// Figures of this conn.
    pub fn stats(&self) -> ConnStats {
        let Shared { channel, opened, used, .. } = &*self.shared;
        let (link, stream) = channel.parts();
        let age = opened.elapsed();
        let (unread, receive_window) = {
            let state = stream.state.lock();
            (state.held(), state.window())
        };
        let mut stats = ConnStats {
            connection: link.id,
            cipher: link.cipher,
            stream: stream.id,
            bytes_sent: stream.counters.bytes_sent.load(Relaxed),
            writes: stream.counters.writes.load(Relaxed),
            bytes_received: stream.counters.payload_received(),
            frames_received: stream.counters.frames_received.load(Relaxed),
            unread,
            receive_window,
            send_credit: stream.flow.credit(),
            rtt: link.rtt(),
            age,
            unused: age.saturating_sub(Duration::from_millis(used.load(Relaxed))),
            ..ConnStats::default()
        };
        if let Some(session) = channel.session() {
            let counters = &session.counters;
            (stats.bytes_received, stats.unread) = session.incoming();
            stats.bytes_sent = counters.bytes_sent.load(Relaxed);
            stats.writes = counters.writes.load(Relaxed);
            stats.losses = counters.losses.load(Relaxed);
            stats.resumes = counters.resumes.load(Relaxed);
            stats.bytes_replayed = counters.replayed.load(Relaxed);
            stats.longest_outage = session.longest_outage();
        }
        stats
    }
}

impl Shared {
    /// The connection underneath, the newest that there was.
    fn link(&self) -> Arc<Link> {
        self.channel.parts().0
    }

    fn patience(&self, timeout: &AtomicU64) -> Patience {
        if self.nonblocking.load(Relaxed) {
            return Patience::None;
        }
        match load_timeout(timeout).and_then(|time| Instant::now().checked_add(time)) {
            Some(at) => Patience::Until(at),
            None => Patience::Forever,
        }
    }

    fn read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let patience = self.patience(&self.read_timeout);
        self.done(self.channel.read(bufs, patience)?, "read")
    }

    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        let (wanted, mut n) = (buf.len(), 0);
        while n < wanted {
            match self.read(&mut [IoSliceMut::new(&mut buf[n..])])? {
                0 => {
                    let what = format!("the stream ended after {n} of {wanted} bytes");
                    return Err(Error::new(ErrorCode::UnexpectedEnd, what).into());
                }
                more => n += more,
            }
        }
        Ok(())
    }

    fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let patience = self.patience(&self.write_timeout);
        let n = self.done(self.channel.write(bufs, patience)?, "write")?;
        if self.nodelay.load(Relaxed) {
            // It is written, whatever becomes of that.
            let _ = self.channel.flush(Patience::None);
        }
        Ok(n)
    }

    fn flush(&self) -> io::Result<()> {
        let patience = self.patience(&self.write_timeout);
        if self.channel.flush(patience)? { Ok(()) } else { Err(self.late("flush")) }
    }

    fn try_read(&self, buf: &mut [u8], wait: Duration) -> io::Result<usize> {
        let bufs = &mut [IoSliceMut::new(buf)];
        match self.channel.read(bufs, Patience::lasting(wait))? {
            None => Err(io::ErrorKind::WouldBlock.into()),
            read => self.done(read, "read"),
        }
    }

    fn try_write(&self, bufs: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        match self.channel.write(bufs, Patience::lasting(wait))? {
            None => Err(io::ErrorKind::WouldBlock.into()),
            written => self.done(written, "write"),
        }
    }

    fn done(&self, result: Option<usize>, what: &str) -> io::Result<usize> {
        let n = result.ok_or_else(|| self.late(what))?;
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Relaxed);
        Ok(n)
    }

    fn late(&self, what: &str) -> io::Error {
        if self.nonblocking.load(Relaxed) {
            return io::ErrorKind::WouldBlock.into();
        }
        Error::new(ErrorCode::Timeout, format!("the {what} timed out; the conn stays usable"))
            .into()
    }
}

impl StallLimit for Conn {
    fn stall_limit(&self, direction: Direction) -> io::Result<Option<Duration>> {
        match direction {
            Direction::Read => self.read_timeout(),
            Direction::Write => self.write_timeout(),
        }
    }

    fn set_stall_limit(&self, direction: Direction, limit: Option<Duration>) -> io::Result<()> {
        match direction {
            Direction::Read => self.set_read_timeout(limit),
            Direction::Write => self.set_write_timeout(limit),
        }
    }

    fn network(&self) -> Network {
        let link = self.shared.link();
        let pressure = match link.pressure() {
            Pressure::Low => stall::Pressure::Low,
            Pressure::Medium => stall::Pressure::Medium,
            Pressure::High | Pressure::Emergency => stall::Pressure::High,
        };
        Network { round_trip: link.rtt(), pressure: Some(pressure) }
    }

    fn admit(&self, bytes: u64) -> Result<Admission> {
        let permit = self.shared.link().admit(bytes)?;
        Ok(permit.map_or_else(Admission::default, Admission::holding))
    }
}

impl TryIo for Conn {
    fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        (&*self).try_read(buffer, wait)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        (&*self).try_write(slices, wait)
    }

    fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
        (&self).timeout(direction)
    }

    fn is_interrupted(&self) -> bool {
        (&self).is_interrupted()
    }

    fn remote(&self) -> Option<String> {
        (&self).remote()
    }
}

impl TryIo for &Conn {
    fn try_read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        self.shared.try_read(buffer, wait)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], wait: Duration) -> io::Result<usize> {
        self.shared.try_write(slices, wait)
    }

    fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
        match direction {
            Direction::Read => self.read_timeout(),
            Direction::Write => self.write_timeout(),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.shared.channel.session().is_some_and(Session::is_lost)
    }

    fn remote(&self) -> Option<String> {
        Some(self.peer_id().to_string())
    }
}

impl Read for Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.shared.read(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.shared.read(bufs)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.shared.read_exact(buf)
    }
}

impl Read for &Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.shared.read(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.shared.read(bufs)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.shared.read_exact(buf)
    }
}

impl Write for Conn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.shared.write(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.shared.write(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.flush()
    }
}

impl Write for &Conn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.shared.write(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.shared.write(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.flush()
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (link, stream) = self.shared.channel.parts();
        f.debug_struct("Conn")
            .field("peer", &self.peer_id())
            .field("protocol", &self.protocol())
            .field("connection", &link.id)
            .field("stream", &stream.id)
            .finish_non_exhaustive()
    }
}

fn check_timeout(timeout: Option<Duration>) -> io::Result<Option<Duration>> {
    if timeout == Some(Duration::ZERO) {
        let what = "a timeout of zero: give at least a nanosecond, or none";
        return Err(Error::new(ErrorCode::InvalidInput, what).into());
    }
    Ok(timeout)
}

fn store_timeout(slot: &AtomicU64, timeout: Option<Duration>) -> io::Result<()> {
    let nanos =
        check_timeout(timeout)?.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
    slot.store(nanos, Relaxed);
    Ok(())
}

fn load_timeout(slot: &AtomicU64) -> Option<Duration> {
    match slot.load(Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}
