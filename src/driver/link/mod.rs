//! One secured connection and the threads that use it.
//!
//! A link has no thread of its own. Whoever needs it drives it: a blocked reader
//! pumps the socket (`wait`, `pump`), a writer seals (`write`) and sends (`send`) what it
//! writes, the reactor does either when nobody else does.
//!
//! # Locks
//!
//! In this order, and none is held over blocking I/O or while user code runs:
//!
//! 1. `tx`: sealing and the output that waits; it is free while a thread is at the
//!    socket. A reader only ever tries it; whoever unlocks it looks once more whether
//!    control frames wait.
//! 2. `rx`: opening, the table of streams, the input that waits.
//! 3. a stream's `state`.
//! 4. the queue of `proofs`.
//! 5. `control`: the control frames that wait.
//! 6. the owner's accept queues and sessions, `drive`, `notices`, `acks_due`, `outlived`,
//!    `acceptors`: leaves.
//!
//! A session's `writer` comes before all of them (see `session`).

mod bounds;
mod carry;
mod close;
mod floods;
mod memory;
#[cfg(test)]
mod model;
mod negotiate;
mod open;
mod patience;
mod proof;
mod pump;
mod receipts;
mod rest;
mod run;
mod send;
#[cfg(test)]
mod tests;
mod wait;
mod world;
mod write;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use super::carrier::{Greeted, Watcher};
use super::drive::Drive;
use super::holding::Pace;
use super::reactor::{self, Task};
use super::spin::Spin;
use super::stream::{Direct, Service, Stream, Waiters};
use super::waiter::Waiter;
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::connection::Upgraded;
use crate::proto::noise::{Capabilities, Cipher, StaticKey};
use crate::proto::resume::Hello;
use crate::proto::yamux::{ControlQueue, INITIAL_WINDOW, Role, Rx, StreamId, Tx};
use crate::resources::Resources;
use crate::resources::budget::{Account, Budget};
use crate::resources::limits::Limit;

use floods::Floods;
pub(crate) use open::{Negotiated, Opening};
pub(crate) use patience::Patience;
use proof::Proofs;
use rest::Rest;
use send::Outbound;
pub(crate) use send::Sent;
pub(crate) use write::{Left, Written};

/// A connection to a peer. The owner's table, the reactor and the conns on it
/// share it; its socket closes when the last of them lets go.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) peer: PeerId,
    /// The same for all links to one host, and for no other: the peer's next process has
    /// another.
    pub(crate) peer_static: StaticKey,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// We dialled it.
    pub(crate) dialled: bool,
    pub(crate) cipher: Cipher,
    /// The peer is a host of this library.
    pub(crate) kin: bool,
    /// Both ends can carry sessions on it.
    pub(crate) resumable: bool,
    pub(crate) opened: Instant,
    pub(crate) counters: LinkCounters,
    socket: TcpStream,
    rx: Mutex<Inbound>,
    tx: Mutex<Outbound>,
    /// Writers of high priority that want to send.
    urgent: AtomicUsize,
    control: Mutex<ControlQueue>,
    /// Mirrors "`control` is not empty", for a look without its lock; some frames have time.
    rest: Rest,
    /// Short writes wait for the reactor to send them.
    joined: AtomicBool,
    drive: Mutex<Drive<Arc<Waiter>>>,
    spin: Spin,
    notices: Mutex<Notices>,
    /// Streams in the table that we opened and the peer did not acknowledge.
    unacked: AtomicUsize,
    /// Streams of the peer's without a protocol yet.
    negotiating: Arc<AtomicUsize>,
    /// Streams whose peer is to be told what has come, soon.
    acks_due: Mutex<Vec<Arc<Stream>>>,
    /// Sessions that wait until the socket takes more.
    blocked: Mutex<Vec<Weak<dyn Watcher>>>,
    /// Mirrors "`blocked` is not empty".
    has_blocked: AtomicBool,
    /// Who accepts what came, to be woken once our answer is out: under the locks that both
    /// need it would only delay that.
    acceptors: Mutex<Waiters>,
    /// Mirrors "`acceptors` is not empty".
    has_acceptors: AtomicBool,
    /// Who waits to know that the peer has what was said.
    proofs: Proofs,
    floods: Floods,
    resources: Arc<Resources>,
    /// Its part of the host's memory.
    budget: Arc<Budget>,
    streams: AtomicUsize,
    /// The smallest round trip seen, in nanoseconds; 0: none yet.
    rtt: AtomicU64,
    /// Milliseconds from `opened` to the last inbound byte.
    heard: AtomicU64,
    /// The same to the last byte that a full socket took.
    taken: AtomicU64,
    /// No new streams: it is being closed, or the peer has said goodbye.
    retired: AtomicBool,
    /// Both sides dialled at once, and both prefer the other link.
    redundant: AtomicBool,
    /// Its peer has come back over another link: it may be lost.
    doubted: AtomicBool,
    /// What was consumed on conns of low priority was not granted.
    paused: AtomicBool,
    /// Streams that were not read to their end when the link ended.
    outlived: Mutex<Vec<Weak<Stream>>>,
    dead: OnceLock<Error>,
    reactor: Arc<reactor::Handle>,
    token: OnceLock<mio::Token>,
    owner: Weak<dyn Owner>,
}

/// What the receiving side of a link needs its lock for.
struct Inbound {
    rx: Rx<Arc<Stream>>,
    buf: RecvBuf,
    /// What `buf` takes while it waits for more.
    wire: Account,
    /// How it is made whole, where memory is short.
    pace: Pace,
    /// Those for whom something came in the frames that are being processed.
    readers: Waiters,
    /// No byte is taken from the socket any more.
    ended: bool,
}

/// What concerns the link as a whole, and who waits for it.
#[derive(Default)]
struct Notices {
    /// The last yamux ping we sent, and when, until its pong.
    ping: Option<(u32, Instant)>,
    pings: u32,
    /// The highest ping that was answered.
    ponged: u32,
    /// The peer said goodbye, with this code.
    goodbye: Option<u32>,
    /// We said it: the end of the peer's direction is what we wait for.
    parting: bool,
    /// The reactor closes the link for lack of use, since then.
    closing: Option<Instant>,
    /// When the last stream went.
    idle_since: Option<Instant>,
    waiters: Waiters,
}

/// Bytes of the socket, both ways, sealed.
#[derive(Default)]
pub(crate) struct LinkCounters {
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
}

/// What the floor above gives a link: who serves what, and who is told.
pub(crate) trait Owner: Send + Sync {
    /// Whether a stream of this protocol is taken.
    fn serves(&self, protocol: &str) -> bool;
    /// A stream has agreed on a protocol. Called under the stream's lock.
    fn offer(&self, link: &Arc<Link>, stream: &Arc<Stream>, protocol: &str) -> Offer;
    /// Whether links to such a peer can carry sessions.
    fn resumes_with(&self, peer: Option<Capabilities>) -> bool;
    /// A stream of the peer's is to carry a session. Called under the stream's lock.
    fn greet(&self, link: &Arc<Link>, stream: &Arc<Stream>, hello: Hello) -> Greeted;
    /// The link has ended.
    fn closed(&self, link: &Arc<Link>, why: &Error);
    /// Times and limits of its links.
    fn limits(&self) -> &LinkLimits;
    /// What it has and counts.
    fn resources(&self) -> &Arc<Resources>;
}

/// The owner's answer to a new inbound stream.
pub(crate) enum Offer {
    /// It waits to be accepted, or was.
    Taken,
    /// It is answered where it arrives.
    Service(Box<dyn Service>),
    /// There is no room for it: it is reset.
    Refused,
}

/// Times and limits of a link.
#[derive(Clone, Debug)]
pub(crate) struct LinkLimits {
    /// A link without streams is closed after this; zero: never.
    pub(crate) idle: Duration,
    /// A peer that was silent for so long is pinged.
    pub(crate) keepalive: Duration,
    /// A peer that says nothing for so long after that ping is lost.
    pub(crate) silence: Duration,
    /// A stream that was dropped here and not finished by the peer is reset after this.
    pub(crate) orphan: Duration,
    /// A waiting thread looks at the socket for so long before it sleeps.
    pub(crate) spin: Duration,
    /// A stream has this long to agree on its protocol.
    pub(crate) negotiation: Duration,
}

impl Link {
    /// A link over a socket whose upgrade is complete. `input` is what arrived
    /// behind it. It does nothing until it is given to the reactor by `start`.
    pub(crate) fn new(
        id: u64,
        socket: TcpStream,
        upgraded: Box<Upgraded>,
        input: RecvBuf,
        rtt: Option<Duration>,
        reactor: Arc<reactor::Handle>,
        owner: Weak<dyn Owner>,
    ) -> std::io::Result<Arc<Link>> {
        let role = if upgraded.is_dialer { Role::Dialer } else { Role::Listener };
        let remote = socket.peer_addr().map_err(|e| match e.kind() {
            // One that was reset meanwhile has no address any more.
            ErrorKind::NotConnected => {
                Error::with_source(ErrorCode::ConnectionReset, "the connection was lost", e).into()
            }
            _ => e,
        })?;
        let local = socket.local_addr()?;
        let now = Instant::now();
        let Some(host) = owner.upgrade() else { return Err(ErrorKind::NotConnected.into()) };
        let (spin, resources) = (host.limits().spin, host.resources().clone());
        let most = resources.meters.most(Limit::ReceiveMemoryPerConnection);
        let window = resources.meters.most(Limit::Window);
        let each = window.saturating_sub(u64::from(INITIAL_WINDOW));
        let budget = resources.memory.part(most, each);
        let pongs =
            usize::try_from(resources.meters.most(Limit::PingsWaiting)).unwrap_or(usize::MAX);
        let resumable = host.resumes_with(upgraded.peer_capabilities);
        let mut rx = Rx::new(upgraded.opener, role, upgraded.leftover);
        if resumable {
            rx.take_receipts();
        }
        Ok(Arc::new(Link {
            id,
            peer: upgraded.peer,
            peer_static: upgraded.peer_static,
            remote,
            local,
            dialled: upgraded.is_dialer,
            cipher: upgraded.cipher,
            kin: upgraded.peer_capabilities.is_some(),
            resumable,
            opened: now,
            counters: LinkCounters::default(),
            socket,
            rx: Mutex::new(Inbound {
                rx,
                buf: input,
                wire: Account::new(budget.clone()),
                pace: Pace::default(),
                readers: Waiters::default(),
                ended: false,
            }),
            tx: Mutex::new(Outbound::new(
                Tx::new(upgraded.sealer, role),
                Account::new(budget.clone()),
            )),
            urgent: AtomicUsize::new(0),
            control: Mutex::new(ControlQueue::new(pongs)),
            rest: Rest::default(),
            joined: AtomicBool::new(false),
            drive: Mutex::new(Drive::new()),
            spin: Spin::new(spin),
            notices: Mutex::new(Notices { idle_since: Some(now), ..Notices::default() }),
            unacked: AtomicUsize::new(0),
            negotiating: Arc::default(),
            acks_due: Mutex::default(),
            blocked: Mutex::default(),
            has_blocked: AtomicBool::new(false),
            acceptors: Mutex::default(),
            has_acceptors: AtomicBool::new(false),
            proofs: Proofs::default(),
            floods: Floods::default(),
            resources,
            budget,
            streams: AtomicUsize::new(0),
            rtt: AtomicU64::new(rtt.map_or(0, nanos)),
            heard: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            redundant: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            outlived: Mutex::default(),
            dead: OnceLock::new(),
            reactor,
            token: OnceLock::new(),
            owner,
        }))
    }

    /// Gives the link to the reactor.
    ///
    /// It may have been used, and have ended, before: whoever lists it does that
    /// first, so that nobody ends the host without it.
    pub(crate) fn start(self: &Arc<Link>) -> Result<()> {
        // What arrived behind the handshake raises no event: this thread takes it, so that no
        // other wakes for it.
        self.pump(&mut Direct::none(), true);
        {
            // `die` takes the link off the reactor's table under this lock.
            let mut drive = self.drive.lock();
            if let Some(why) = self.death() {
                return Err(why.clone());
            }
            let token = self.reactor.add(self);
            self.token.set(token).expect("a link is started once");
            if drive.begin(Instant::now()) {
                self.reactor.start_ticks(self);
            }
            self.reactor.register(&self.socket, token, drive.interest())?;
        }
        Ok(())
    }

    /// Why it ended, if it did.
    pub(crate) fn death(&self) -> Option<&Error> {
        self.dead.get()
    }

    /// Whether new streams may be opened on it.
    pub(crate) fn is_open(&self) -> bool {
        self.dead.get().is_none() && !self.retired.load(Acquire)
    }

    /// Opens no more streams and takes none.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Release);
        // Whoever waits for room among them.
        self.notices.lock().waiters.wake();
    }

    /// New streams go elsewhere: the link ends soon after its last one.
    pub(crate) fn supersede(&self) {
        self.redundant.store(true, Relaxed);
    }

    /// Streams in its table.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// The smallest round trip seen.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// A mebibyte on its way carries 2 GiB a second to such a peer, and what is more only
    /// waits in the kernel and leaves the processor's caches.
    pub(crate) fn is_near(&self) -> bool {
        self.rtt().is_some_and(|rtt| rtt < NEAR)
    }

    /// When the last byte came, or a full socket took one.
    pub(crate) fn last_moved(&self) -> Instant {
        let moved = self.heard.load(Relaxed).max(self.taken.load(Relaxed));
        self.opened + Duration::from_millis(moved)
    }

    /// Notes a round trip; the smallest counts.
    fn saw_rtt(&self, rtt: Duration) {
        let nanos = nanos(rtt);
        let _ = self
            .rtt
            .fetch_update(Relaxed, Relaxed, |old| (old == 0 || nanos < old).then_some(nanos));
    }

    /// Ends the link: every stream hears of it, every thread wakes, the socket
    /// closes. Called without any lock; only the first call counts.
    pub(crate) fn die(self: &Arc<Link>, why: Error) {
        if self.end(why) {
            self.tell_owner();
        }
    }

    /// The same for who may hold a session's lock: the owner, and with it the user's log, is
    /// told in a moment.
    pub(crate) fn die_quietly(self: &Arc<Link>, why: Error) {
        if self.end(why) && !self.reactor.run_soon(Arc::new(Obituary(self.clone()))) {
            self.tell_owner();
        }
    }

    fn tell_owner(self: &Arc<Link>) {
        if let (Some(owner), Some(why)) = (self.owner.upgrade(), self.death()) {
            owner.closed(self, why);
        }
    }

    /// Whether it had not ended before.
    fn end(self: &Arc<Link>, why: Error) -> bool {
        // Whatever the socket says then, behind a goodbye it is no loss.
        let told = self.notices.lock().goodbye.is_some();
        let why = if told && why.code() == ErrorCode::ConnectionReset { self.eof() } else { why };
        if self.dead.set(why.clone()).is_err() {
            return false;
        }
        self.retire();
        let streams: Vec<Arc<Stream>> = {
            let mut inbound = self.rx.lock();
            inbound.ended = true;
            inbound.buf = RecvBuf::default();
            inbound.wire.hold(0);
            let ids: Vec<StreamId> = inbound.rx.iter().map(|(id, _)| id).collect();
            ids.into_iter().filter_map(|id| inbound.rx.remove(id)).collect()
        };
        for stream in &streams {
            let mut state = stream.state.lock();
            state.lose(&why);
            if state.held() > 0 {
                self.outlived.lock().push(Arc::downgrade(stream));
            }
            drop(state);
            stream.stir();
        }
        // Before anything is logged.
        self.wake_acceptors();
        self.streams.store(0, Relaxed);
        self.end_proofs();
        self.end_rest();
        self.notices.lock().waiters.wake();
        let sleepers = {
            let mut drive = self.drive.lock();
            if let Some(&token) = self.token.get() {
                self.reactor.deregister(&self.socket);
                self.reactor.remove(token);
            }
            drive.die()
        };
        sleepers.iter().for_each(|waiter| waiter.wake());
        // Who polls the socket wakes too.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.tx.lock().end();
        *self.control.lock() = ControlQueue::default();
        true
    }
}

/// A link whose owner does not know yet that it has ended.
struct Obituary(Arc<Link>);

impl Task for Obituary {
    fn run(self: Arc<Obituary>, _: Instant) {
        self.0.tell_owner();
    }
}

impl Link {
    /// A thread panicked in the middle of its state, which nobody may trust now.
    pub(super) fn die_of_panic(self: &Arc<Link>) {
        let what = "a thread panicked while it drove this connection; this is a bug of pointsub";
        self.die(Error::new(ErrorCode::ConnectionAborted, what));
    }
}

/// Ends the link if the thread panics meanwhile.
struct Fuse<'a> {
    link: &'a Arc<Link>,
    /// The thread was unwinding before: what it does here, it does in a destructor.
    unwinding: bool,
}

impl<'a> Fuse<'a> {
    fn new(link: &'a Arc<Link>) -> Fuse<'a> {
        Fuse { link, unwinding: std::thread::panicking() }
    }
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        if !self.unwinding && std::thread::panicking() {
            self.link.die_of_panic();
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Round trips below this are short.
const NEAR: Duration = Duration::from_micros(500);

/// Since a link was opened, as its atomics keep it.
fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX).max(1)
}
