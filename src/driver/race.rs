//! Dialling: all addresses of a peer race, each a little after the one before,
//! and the first whose handshake shows the right key wins.
//!
//! The race is a value. It runs on the thread that wants the connection; if that
//! thread's patience ends while others wait for the same peer, it goes on elsewhere.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use super::handshake::{Handshake, Proposal, Secured};
use super::spin::Spin;
use super::waiter::{self, For, Waiter};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::noise::Identity;

/// Where a peer may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Socket(SocketAddr),
    /// A name, which is resolved on a thread of its own: that can take long.
    Name {
        name: String,
        port: u16,
        family: Family,
    },
}

/// Which of a name's addresses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

pub(crate) struct Race {
    identity: Arc<Identity>,
    peer: PeerId,
    queue: VecDeque<SocketAddr>,
    running: Vec<Attempt>,
    /// When the next address starts, if no attempt fails before.
    next: Instant,
    ends: Instant,
    news: Arc<News>,
    failure: Option<Error>,
    spin: Arc<Spin>,
}

/// Ends a race from another thread.
pub(crate) struct Canceller(Arc<News>);

impl Canceller {
    pub(crate) fn cancel(&self, why: Error) {
        self.0.tell(|news| news.cancelled = Some(why));
    }
}

pub(crate) enum Outcome {
    Won(Secured),
    Lost(Error),
    /// `until` has passed.
    Unfinished(Race),
}

impl Race {
    /// A race that is lost at `ends`. What it learns of looking is for all that share `spin`.
    pub(crate) fn new(
        identity: Arc<Identity>,
        peer: PeerId,
        places: &[Place],
        ends: Instant,
        spin: Arc<Spin>,
    ) -> Race {
        let news = Arc::new(News::default());
        let mut queue = VecDeque::new();
        for place in places {
            match place {
                Place::Socket(addr) => queue.push_back(*addr),
                Place::Name { name, port, family } => news.resolve(name, *port, *family),
            }
        }
        let next = Instant::now();
        let (running, failure) = (Vec::new(), None);
        Race { identity, peer, queue, running, next, ends, news, failure, spin }
    }

    pub(crate) fn canceller(&self) -> Canceller {
        Canceller(self.news.clone())
    }

    /// Runs on the calling thread until there is a result or `until` has passed.
    pub(crate) fn run(mut self, until: Option<Instant>) -> Outcome {
        let me = Waiter::current();
        loop {
            let unresolved = match self.hear(&me) {
                Ok(unresolved) => unresolved,
                Err(cancelled) => return Outcome::Lost(cancelled),
            };
            self.start_due();
            if let Some(winner) = self.step() {
                return Outcome::Won(winner);
            }
            let now = Instant::now();
            if self.running.is_empty() && self.queue.is_empty() && !unresolved {
                return Outcome::Lost(self.verdict());
            }
            if now >= self.ends {
                return Outcome::Lost(self.too_late());
            }
            if until.is_some_and(|at| now >= at) {
                return Outcome::Unfinished(self);
            }
            if self.running.is_empty() && !self.queue.is_empty() {
                // Nothing is under way: the next address need not wait.
                self.next = now;
                continue;
            }
            let mut wake = until.map_or(self.ends, |at| at.min(self.ends));
            if !self.queue.is_empty() {
                wake = wake.min(self.next);
            }
            self.sleep(&me, wake);
        }
    }

    /// What other threads have found out. Returns whether names are still open.
    fn hear(&mut self, me: &Arc<Waiter>) -> Result<bool> {
        let mut news = self.news.0.lock();
        if let Some(why) = news.cancelled.take() {
            return Err(why);
        }
        self.queue.extend(news.found.drain(..));
        if let Some(e) = news.failure.take() {
            self.failure = Some(worse(self.failure.take(), e));
        }
        news.waiter = Some(me.clone());
        Ok(news.unresolved > 0)
    }

    fn start_due(&mut self) {
        while Instant::now() >= self.next {
            let Some(addr) = self.queue.pop_front() else { return };
            match Attempt::start(addr, &self.identity, self.peer) {
                Ok(attempt) => {
                    self.running.push(attempt);
                    self.next = Instant::now() + STAGGER;
                }
                Err(e) => self.fail(addr, e),
            }
        }
    }

    fn step(&mut self) -> Option<Secured> {
        let mut i = 0;
        while i < self.running.len() {
            match self.running[i].step() {
                Ok(false) => i += 1,
                Ok(true) => {
                    return self.running.swap_remove(i).handshake.map(Handshake::finish);
                }
                Err(e) => {
                    let addr = self.running.swap_remove(i).addr;
                    self.fail(addr, e);
                    self.next = Instant::now();
                }
            }
        }
        None
    }

    fn fail(&mut self, addr: SocketAddr, e: Error) {
        log::debug!(peer:% = self.peer, remote:% = addr; "an address failed: {e}");
        self.failure = Some(worse(self.failure.take(), e));
    }

    fn sleep(&self, me: &Waiter, until: Instant) {
        let sockets: Vec<_> = self.running.iter().filter_map(Attempt::waits_for).collect();
        if let [(socket, For::Reading)] = sockets[..]
            && self.spin.until(|| me.take_wake() || waiter::is_readable(socket))
        {
            return;
        }
        me.poll(&sockets, Some(until));
        me.take_wake();
    }

    fn verdict(&mut self) -> Error {
        self.failure.take().unwrap_or_else(|| {
            let what = format!("no address of {} can be dialled", self.peer);
            Error::new(ErrorCode::UnknownAddress, what)
        })
    }

    fn too_late(&mut self) -> Error {
        Error::new(ErrorCode::Timeout, format!("{} could not be reached in time", self.peer))
    }
}

/// One address.
struct Attempt {
    addr: SocketAddr,
    /// Until it is connected.
    socket: Option<(TcpStream, Proposal)>,
    /// From then on.
    handshake: Option<Handshake>,
}

impl Attempt {
    fn start(addr: SocketAddr, identity: &Arc<Identity>, peer: PeerId) -> Result<Attempt> {
        // Before it is connected, so that a peer that is near hears us at once.
        let proposal = Proposal::new(identity.clone(), peer).map_err(|e| at(addr, e))?;
        let socket = mio::net::TcpStream::connect(addr).map_err(|e| unreachable(addr, e))?;
        Ok(Attempt { addr, socket: Some((socket.into(), proposal)), handshake: None })
    }

    /// `true`: the handshake is complete.
    fn step(&mut self) -> Result<bool> {
        if let Some((socket, proposal)) = self.socket.take() {
            match self.connected(&socket) {
                Ok(false) => {
                    self.socket = Some((socket, proposal));
                    return Ok(false);
                }
                Ok(true) => {}
                Err(e) => return Err(unreachable(self.addr, e)),
            }
            self.handshake = Some(Handshake::dialer(socket, proposal));
        }
        let Some(handshake) = &mut self.handshake else { return Ok(false) };
        handshake.step().map_err(|e| at(self.addr, e))
    }

    fn connected(&self, socket: &TcpStream) -> io::Result<bool> {
        if let Some(e) = socket.take_error()? {
            return Err(e);
        }
        match socket.peer_addr() {
            Ok(_) => socket.set_nodelay(true).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn waits_for(&self) -> Option<(&TcpStream, For)> {
        match (&self.socket, &self.handshake) {
            (Some((socket, _)), _) => Some((socket, For::Writing)),
            (None, Some(handshake)) => Some((handshake.socket(), handshake.waits_for())),
            (None, None) => None,
        }
    }
}

/// What other threads tell a race.
#[derive(Default)]
struct News(Mutex<NewsState>);

#[derive(Default)]
struct NewsState {
    /// Names that are being resolved.
    unresolved: usize,
    found: Vec<SocketAddr>,
    failure: Option<Error>,
    cancelled: Option<Error>,
    waiter: Option<Arc<Waiter>>,
}

impl News {
    fn tell(&self, what: impl FnOnce(&mut NewsState)) {
        let mut news = self.0.lock();
        what(&mut news);
        if let Some(waiter) = news.waiter.take() {
            waiter.wake();
        }
    }

    fn resolve(self: &Arc<News>, name: &str, port: u16, family: Family) {
        self.0.lock().unresolved += 1;
        let (news, host) = (self.clone(), name.to_string());
        let thread = std::thread::Builder::new().name("pointsub-resolve".into());
        let spawned = thread.spawn(move || {
            let result = (host.as_str(), port).to_socket_addrs();
            let result = result.map(Iterator::collect);
            news.resolved(result.map_err(|e| unresolvable(&host, e)), &host, family);
        });
        if let Err(e) = spawned {
            self.resolved(Err(Error::no_thread(e)), name, family);
        }
    }

    fn resolved(&self, result: Result<Vec<SocketAddr>>, name: &str, family: Family) {
        let found = result.map(|mut addrs| {
            addrs.retain(|addr| family.has(addr));
            addrs
        });
        self.tell(|news| {
            news.unresolved -= 1;
            news.failure = match found {
                Ok(addrs) if !addrs.is_empty() => {
                    news.found.extend(addrs);
                    return;
                }
                Ok(_) => {
                    let what = format!("the name {name} has no address of the wanted kind");
                    Some(Error::new(ErrorCode::NameResolution, what))
                }
                Err(e) => Some(e),
            };
        });
    }
}

impl Family {
    fn has(self, addr: &SocketAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => addr.is_ipv4(),
            Family::V6 => addr.is_ipv6(),
        }
    }
}

fn unresolvable(name: &str, e: io::Error) -> Error {
    // Without a descriptor to ask with, the resolver knows no name.
    if let Some(lacking) = waiter::lacking() {
        let what = format!("the name {name} cannot be resolved: {lacking}");
        return Error::from(lacking).describe(what);
    }
    let what = format!("the name {name} cannot be resolved: {e}");
    Error::with_source(ErrorCode::NameResolution, what, e)
}

fn unreachable(addr: SocketAddr, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            let what = format!("nothing listens at {addr}");
            Error::with_source(ErrorCode::ConnectionRefused, what, e)
        }
        io::ErrorKind::TimedOut => {
            Error::with_source(ErrorCode::Timeout, format!("{addr} does not answer"), e)
        }
        _ => {
            let what = format!("{addr} cannot be reached: {e}");
            match Error::from(e) {
                // Of those with this code each keeps its kind; and who resets what connects
                // means what it means a moment later.
                e if matches!(
                    e.code(),
                    ErrorCode::SystemLimit | ErrorCode::Unreachable | ErrorCode::ConnectionReset
                ) =>
                {
                    e.describe(what)
                }
                e => Error::with_source(ErrorCode::Unreachable, what, e),
            }
        }
    }
}

/// Where a handshake failed.
fn at(addr: SocketAddr, e: Error) -> Error {
    let what = format!("{addr}: {}", e.description());
    Error::with_source(e.code(), what, e)
}

/// Of two failures the one that says more.
fn worse(a: Option<Error>, b: Error) -> Error {
    let weight = |e: &Error| match e.code() {
        ErrorCode::WrongPeer => 4,
        ErrorCode::HandshakeFailed | ErrorCode::ProtocolViolation => 3,
        // Nobody knows whether that address would refuse.
        ErrorCode::SystemLimit => 3,
        ErrorCode::ConnectionRefused => 2,
        ErrorCode::NameResolution => 0,
        _ => 1,
    };
    match a {
        Some(a) if weight(&a) >= weight(&b) => a,
        _ => b,
    }
}

/// How long an address has before the next one starts beside it.
const STAGGER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_the_system_says_of_an_address_keeps_its_kind() {
        let cases = [
            (Errno::MFILE, ErrorCode::SystemLimit),
            (Errno::NFILE, ErrorCode::SystemLimit),
            (Errno::NETUNREACH, ErrorCode::Unreachable),
            (Errno::NETDOWN, ErrorCode::Unreachable),
            (Errno::HOSTUNREACH, ErrorCode::Unreachable),
            (Errno::CONNREFUSED, ErrorCode::ConnectionRefused),
            (Errno::TIMEDOUT, ErrorCode::Timeout),
            (Errno::CONNRESET, ErrorCode::ConnectionReset),
        ];
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        for (errno, code) in cases {
            let e = unreachable(addr, errno.into());
            assert_eq!((e.code(), e.kind()), (code, io::Error::from(errno).kind()));
            assert!(e.to_string().contains("127.0.0.1:1"), "{e}");
        }
        // Other kinds would mean something else to who connects.
        let e = unreachable(addr, Errno::ACCESS.into());
        assert_eq!((e.code(), e.kind()), (ErrorCode::Unreachable, io::ErrorKind::HostUnreachable));
    }

    /// A peer that may be there is not given up because another of its addresses refuses.
    #[test]
    fn a_lack_of_descriptors_says_more_than_a_refusal() {
        let of = |errno: Errno| unreachable(SocketAddr::from(([127, 0, 0, 1], 1)), errno.into());
        let pairs = [(Errno::MFILE, Errno::CONNREFUSED), (Errno::CONNREFUSED, Errno::MFILE)];
        for (first, second) in pairs {
            assert_eq!(worse(Some(of(first)), of(second)).code(), ErrorCode::SystemLimit);
        }
    }
}
