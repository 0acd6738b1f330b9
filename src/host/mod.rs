//! Floor 4: one identity, its sockets and its event loop.

pub(crate) mod addrs;
mod ask;
pub(crate) mod backlog;
mod builder;
pub(crate) mod core;
mod dial;
mod gate;
mod keyfile;
mod limits;
mod lines;
mod peers;
mod services;
mod stats;
mod steward;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_core::Multiaddr;
use libp2p_core::multiaddr::Protocol;
use libp2p_identity::PeerId;

use self::core::Core;
use crate::driver::{Link, Negotiated, Stream};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::{identify, ping};
use crate::resources::events::{Event, Events};
use crate::resources::limits::Limit;
use crate::session::{Channel, Opened};

pub use ask::PeerInfo;
pub use builder::HostBuilder;
pub use stats::HostStats;

/// One identity, its listening sockets, its connections and its event loop.
///
/// A host is a handle: clones are the same host, and so are the
/// [`Conn`](crate::Conn)s and [`Listener`](crate::Listener)s made with it, which keep
/// it alive.
///
/// It has one thread of its own for its connections ([more](HostBuilder::reactors) if
/// wanted), and one more if it listens. A thread of the program that has blocked in a
/// call of this library keeps one file descriptor, to be woken by, until it ends; where
/// the process has none left it looks every 5 ms instead.
///
/// # The end
///
/// The host ends when the last handle of all three kinds is dropped, or at
/// [`shutdown`](Host::shutdown). Both block until everything that was written has
/// been delivered, at most for [`linger`](HostBuilder::linger) (5 s); then the peers
/// read the end of their streams. `process::exit`, an abort, and handles in statics
/// or in threads that still run when `main` returns are not covered: call `shutdown`
/// first.
///
/// # Examples
///
/// ```
/// use pointsub::{Conn, Host, Listener};
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// let server = Host::builder().listen_on("127.0.0.1:0").build()?;
/// let listener = Listener::bind(&server, "/hello/1.0.0")?;
///
/// let client = Host::new()?;
/// let mut conn = Conn::connect(&client, &server.dial_addrs()[0], "/hello/1.0.0")?;
/// conn.write_all(b"hello")?;
/// drop(conn);
///
/// let (mut conn, peer) = listener.accept()?;
/// let mut text = String::new();
/// conn.read_to_string(&mut text)?;
/// assert_eq!((text.as_str(), peer), ("hello", client.peer_id()));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Host {
    pub(crate) handle: Arc<Handle>,
}

/// As the handles of `std::net` are: a panic between two calls leaves nothing half done.
impl std::panic::UnwindSafe for Host {}
impl std::panic::RefUnwindSafe for Host {}

/// What handles of all kinds share; dropped, it ends the host.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.shut_down();
    }
}

impl Host {
    /// A host with a fresh ed25519 key that does not listen: it can dial only.
    ///
    /// # Errors
    ///
    /// The system has no descriptors or threads left.
    pub fn new() -> io::Result<Host> {
        Host::builder().build()
    }

    /// All that can be chosen.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The id that its key gives it.
    pub fn peer_id(&self) -> PeerId {
        self.core().peer_id()
    }

    /// Where it listens, with real ports and without the peer id.
    ///
    /// A listener on all interfaces has the unspecified address here too.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.core().listening().collect()
    }

    /// The same addresses with `/p2p/<peer id>` at the end: what others dial. In that of a
    /// listener on all interfaces they put an address of this machine for the unspecified one.
    pub fn dial_addrs(&self) -> Vec<Multiaddr> {
        let peer = self.peer_id();
        self.core().listening().map(|addr| addr.with(Protocol::P2p(peer))).collect()
    }

    /// Says where `peer` may be dialled, for connects that name only its id.
    ///
    /// The address may end in `/p2p/…`. Whether it can be used shows when it is
    /// dialled. The newest 16 of a peer are kept, and those that it is connected to at
    /// are among them.
    ///
    /// Where a peer was dialled with success is known without this. Of those that are
    /// not connected any more, and that nobody has named here, the 4,096 that were used
    /// last are remembered; more if
    /// [`max_connections`](HostBuilder::max_connections) is more.
    pub fn add_address(&self, peer: PeerId, addr: Multiaddr) {
        self.core().add_address(peer, addr);
    }

    /// The peers that there is a connection to, in no order.
    pub fn connected_peers(&self) -> Vec<PeerId> {
        self.core().connected_peers()
    }

    /// The time of one round trip to `peer` and back (`/ipfs/ping/1.0.0`), over the
    /// connection that there is or a new one.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable`: the peer is neither connected nor known. `TimedOut`: no
    /// answer within the [`negotiation_timeout`](HostBuilder::negotiation_timeout), 10 s.
    /// `ConnectionRefused`: it does not answer pings. Otherwise as
    /// [`Conn::connect`](crate::Conn::connect).
    ///
    /// See the [specification](https://github.com/libp2p/specs/blob/master/ping/ping.md).
    pub fn ping(&self, peer: &PeerId) -> io::Result<Duration> {
        self.ask(peer, ping::PROTOCOL, ask::ping)
    }

    /// What `peer` says about itself (`/ipfs/id/1.0.0`), asked over the connection that
    /// there is or a new one.
    ///
    /// # Errors
    ///
    /// As [`ping`](Host::ping), and `InvalidData` if the answer is damaged or names
    /// another key than the peer's.
    ///
    /// See the [specification](https://github.com/libp2p/specs/blob/master/identify/README.md).
    pub fn identify(&self, peer: &PeerId) -> io::Result<PeerInfo> {
        self.ask(peer, identify::PROTOCOL, ask::identify)
    }

    fn ask<T>(
        &self,
        peer: &PeerId,
        protocol: &str,
        question: fn(&Arc<Link>, &Arc<Stream>, Instant) -> Result<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + self.core().limits.link.negotiation;
        let (link, stream) = self.handle.open_plain(*peer, protocol, Some(deadline))?;
        let answer = question(&link, &stream, deadline);
        link.release(&stream);
        Ok(answer?)
    }

    /// Closes every connection to `peer`; conns on them end.
    ///
    /// What was written is delivered first: it blocks for that, at most for
    /// [`linger`](HostBuilder::linger). Later connects dial again.
    pub fn disconnect(&self, peer: &PeerId) {
        let what = "this host closed the connections to the peer";
        let why = Error::new(ErrorCode::ConnectionAborted, what);
        self.core().disconnect(peer, &why);
    }

    /// Ends the host for all its handles: blocked calls return, later ones fail with
    /// `NotConnected`.
    ///
    /// What was written is delivered first: it blocks for that, at most for
    /// [`linger`](HostBuilder::linger). A second call waits for the first.
    pub fn shutdown(&self) {
        self.core().shut_down();
    }

    /// What happens from now on: connections, streams, limits, memory.
    pub fn subscribe(&self) -> Events {
        self.core().resources.feed.subscribe()
    }

    /// What the host has done so far, and what it has now.
    pub fn stats(&self) -> HostStats {
        HostStats::of(self.core())
    }

    fn core(&self) -> &Core {
        &self.handle.core
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("peer_id", &self.peer_id())
            .field("listen_addrs", &self.listen_addrs())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// A plain stream to `peer` that has agreed on `protocol`.
    pub(crate) fn open_plain(
        &self,
        peer: PeerId,
        protocol: &str,
        deadline: Option<Instant>,
    ) -> Result<(Arc<Link>, Arc<Stream>)> {
        self.over_a_link(peer, &[], protocol, deadline, |link, until| {
            Ok(match link.open(protocol, Some(until))? {
                Negotiated::Open(stream) => Ok((link.clone(), stream)),
                Negotiated::LinkGone(why) => Err(why),
            })
        })
    }

    /// A stream to `peer` that has agreed on `protocol`, resumable if both hosts are
    /// for it.
    pub(crate) fn open(
        &self,
        peer: PeerId,
        addrs: &[Multiaddr],
        protocol: &str,
        deadline: Option<Instant>,
    ) -> Result<Channel> {
        // The same for all attempts, so that the peer makes one conn of them.
        let mut session = None;
        let channel = self.over_a_link(peer, addrs, protocol, deadline, |link, until| {
            // What a host answers by itself is no session.
            if !link.resumable || services::NAMES.contains(&protocol) {
                return Ok(match link.open(protocol, Some(until))? {
                    Negotiated::Open(stream) => Ok(Channel::Plain(link.clone(), stream)),
                    Negotiated::LinkGone(why) => Err(why),
                });
            }
            let started = match session.take() {
                Some(session) => session,
                None => self.core.sessions.start(peer, protocol)?,
            };
            Ok(match started.open(link, Some(until))? {
                Opened::Open => Ok(Channel::Resumable(started)),
                Opened::Over(why) => Err(why),
                Opened::LinkGone(why) => {
                    session = Some(started);
                    Err(why)
                }
            })
        })?;
        let (link, stream) = channel.parts();
        log::debug!(link = link.id, peer:% = link.peer, stream = stream.id, protocol;
            "stream opened");
        self.core.resources.feed.tell(|| Event::StreamOpened {
            connection: link.id,
            peer,
            stream: stream.id,
            protocol: protocol.into(),
            dialled: true,
        });
        Ok(channel)
    }

    /// Has `open` open something over the link that there is or a new one; if the link
    /// fails it, an idle close that crossed it most likely, over another.
    fn over_a_link<T>(
        &self,
        peer: PeerId,
        addrs: &[Multiaddr],
        protocol: &str,
        deadline: Option<Instant>,
        mut open: impl FnMut(&Arc<Link>, Instant) -> Result<Result<T>>,
    ) -> Result<T> {
        // Before anything is dialled.
        crate::proto::multistream::check_name(protocol)?;
        let mut attempts = ATTEMPTS;
        loop {
            let link = self.core.link_to(peer, addrs, deadline)?;
            let limit = Instant::now() + self.core.limits.link.negotiation;
            let until = deadline.map_or(limit, |at| at.min(limit));
            attempts -= 1;
            let opened = open(&link, until).inspect_err(|e| {
                if e.code() == ErrorCode::Timeout && until == limit {
                    self.core.resources.reject(Limit::NegotiationTime);
                }
            });
            match opened? {
                Ok(opened) => return Ok(opened),
                Err(_) if attempts > 0 => {}
                Err(why) => {
                    self.core.check_open()?;
                    return Err(why);
                }
            }
        }
    }
}

/// Links that a connect tries, one after the other.
const ATTEMPTS: usize = 4;
