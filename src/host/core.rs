//! What a host is made of, without its handles: peers, links, listeners.
//!
//! Locks: `peers` and `protocols` are taken for a moment, one at a time, and never
//! while a link's lock is held, but for `protocols` and a backlog's queue, which
//! come last in the order of `driver/link`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use parking_lot::{Condvar, Mutex};

use super::addrs;
use super::backlog::Backlog;
use super::dial::Dial;
use super::gate::Gate;
use super::lines;
use super::peers::{Peer, Peers};
use super::services;
use super::steward::Steward;
use crate::driver::{
    Door, Fate, Greeted, Link, LinkLimits, Offer, Outcome, Owner, Pass, Race, Reactors, Reception,
    Secured, Spin, Stream,
};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::identify::{self, Identify};
use crate::proto::noise::{Capabilities, Identity};
use crate::proto::ping;
use crate::proto::resume::{self, Hello};
use crate::resources::Resources;
use crate::resources::events::Event;
use crate::resources::limits::Limit;
use crate::resources::penalties::Fault;
use crate::session::{Channel, SessionLimits, Sessions};

pub(crate) struct Core {
    pub(crate) identity: Arc<Identity>,
    pub(crate) limits: Limits,
    pub(crate) counters: HostCounters,
    pub(crate) opened: Instant,
    pub(crate) resources: Arc<Resources>,
    pub(crate) sessions: Arc<Sessions>,
    steward: Steward,
    listening: Vec<SocketAddr>,
    gate: Gate,
    peers: Mutex<Peers>,
    /// Links that have ended, with what their conns have not read.
    outlived: Mutex<Vec<Weak<Link>>>,
    /// What each link counts against, by its number.
    passes: Mutex<HashMap<u64, Pass>>,
    protocols: Mutex<HashMap<Arc<str>, Arc<Backlog>>>,
    reactors: Reactors,
    /// What dials have learned of looking before they sleep.
    spin: Arc<Spin>,
    door: Mutex<Option<Door>>,
    next_link: AtomicU64,
    /// No new conns or listeners any more.
    closed: AtomicBool,
    /// No new links either.
    cut_off: AtomicBool,
    /// `shutdown` has done its work.
    ended: Mutex<bool>,
    ending: Condvar,
    me: Weak<Core>,
}

/// Times and bounds, from the builder.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) link: LinkLimits,
    pub(crate) dial: Duration,
    pub(crate) linger: Duration,
    /// Threads that drive links which nobody else drives.
    pub(crate) reactors: usize,
    pub(crate) session: SessionLimits,
    pub(crate) capabilities: Capabilities,
}

#[derive(Default)]
pub(crate) struct HostCounters {
    pub(crate) dialled: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) dials_failed: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) gate_refused: AtomicU64,
    pub(crate) queue_refused: AtomicU64,
    pub(crate) links_lost: AtomicU64,
}

impl Core {
    pub(crate) fn new(
        identity: Arc<Identity>,
        limits: Limits,
        resources: Arc<Resources>,
        gate: Gate,
        listening: Vec<SocketAddr>,
    ) -> Result<Arc<Core>> {
        let reactors = Reactors::start(limits.reactors)?;
        let waker = Arc::downgrade(reactors.first());
        resources.set_steward(move || {
            if let Some(reactor) = waker.upgrade() {
                reactor.chore_soon();
            }
        });
        let peers = Peers::new(resources.meters.most(Limit::Connections));
        let spin = limits.link.spin;
        let core = Arc::new_cyclic(|me: &Weak<Core>| Core {
            sessions: Sessions::new(
                limits.session.clone(),
                resources.clone(),
                reactors.first().clone(),
                me.clone(),
            ),
            identity,
            limits,
            counters: HostCounters::default(),
            opened: Instant::now(),
            resources,
            steward: Steward::default(),
            listening,
            gate,
            peers: Mutex::new(peers),
            outlived: Mutex::default(),
            passes: Mutex::default(),
            protocols: Mutex::default(),
            reactors,
            spin: Arc::new(Spin::of_handshakes(spin)),
            door: Mutex::new(None),
            next_link: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            ended: Mutex::new(false),
            ending: Condvar::new(),
            me: me.clone(),
        });
        let me = Arc::downgrade(&core);
        core.reactors.first().set_chore(move |now| {
            let core = me.upgrade()?;
            core.steward.look(&core, now)
        });
        Ok(core)
    }

    /// The listening sockets are at work from now on.
    pub(crate) fn set_door(&self, door: Door) {
        *self.door.lock() = Some(door);
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub(crate) fn listening(&self) -> impl Iterator<Item = Multiaddr> + '_ {
        self.listening.iter().map(|&addr| addrs::to_multiaddr(addr))
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(SeqCst) { Err(shut_down()) } else { Ok(()) }
    }

    /// The newest live link to the peer that can carry sessions, of those that suit.
    pub(super) fn resumable_link(
        &self,
        peer: &PeerId,
        suits: &dyn Fn(&Link) -> bool,
    ) -> Option<Arc<Link>> {
        let peers = self.peers.lock();
        let mut links = peers.get(peer)?.links.iter();
        links.rfind(|link| link.is_open() && link.resumable && suits(link)).cloned()
    }

    /// Whether links may be made still: for conns that were lost while the host ends.
    fn check_reachable(&self) -> Result<()> {
        if self.cut_off.load(SeqCst) { Err(shut_down()) } else { Ok(()) }
    }

    // Peers.

    pub(crate) fn add_address(&self, peer: PeerId, addr: Multiaddr) {
        self.peers.lock().wake(peer).tell(addr);
    }

    pub(crate) fn connected_peers(&self) -> Vec<PeerId> {
        let peers = self.peers.lock();
        let connected = peers.iter().filter(|(_, p)| p.best().is_some());
        connected.map(|(id, _)| *id).collect()
    }

    /// Every link there is.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.peers.lock().iter().flat_map(|(_, p)| p.links.iter().cloned()).collect()
    }

    /// Those that have ended and hold what their conns have not read.
    pub(crate) fn outlived_links(&self) -> Vec<Arc<Link>> {
        let mut outlived = self.outlived.lock();
        outlived.retain(|link| link.strong_count() > 0);
        outlived.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn links_to(&self, peer: &PeerId) -> Vec<Arc<Link>> {
        self.peers.lock().get(peer).map(|p| p.links.clone()).unwrap_or_default()
    }

    /// The link to a peer: the one there is, or a new one.
    pub(crate) fn link_to(
        &self,
        peer: PeerId,
        given: &[Multiaddr],
        deadline: Option<Instant>,
    ) -> Result<Arc<Link>> {
        self.check_open()?;
        self.link_or_dial(peer, given, &|_| true, deadline)
    }

    pub(super) fn link_or_dial(
        &self,
        peer: PeerId,
        given: &[Multiaddr],
        suits: &dyn Fn(&Link) -> bool,
        deadline: Option<Instant>,
    ) -> Result<Arc<Link>> {
        if peer == self.peer_id() {
            return Err(Error::new(
                ErrorCode::InvalidInput,
                "a host does not dial its own peer id",
            ));
        }
        addrs::check_given(given)?;
        loop {
            let (dial, pass) = {
                let mut peers = self.peers.lock();
                // Under this lock: `shut_down` cancels the dials that it finds here.
                self.check_reachable()?;
                let entry = peers.wake(peer);
                if let Some(link) = entry.best_of(suits) {
                    return Ok(link);
                }
                let dial = self.dial_for(entry, &peer, given);
                dial.inspect_err(|_| peers.settle(&peer, |_| ()))?
            };
            let link = match pass {
                Some(pass) => self.run_dial(peer, &dial, pass, deadline).map(Some),
                None => dial.wait(deadline),
            };
            // None: whoever dialled had no more patience. It is our turn.
            if let Some(link) = link? {
                return Ok(link);
            }
        }
    }

    /// The dial to wait for, or a new one to run and what it counts against. Another's
    /// is as good if it goes wherever this one would.
    fn dial_for(
        &self,
        entry: &mut Peer,
        peer: &PeerId,
        given: &[Multiaddr],
    ) -> Result<(Arc<Dial>, Option<Pass>)> {
        let places = entry.places(peer, given);
        if let Some(dial) = entry.dial_to(places.as_deref().unwrap_or_default()) {
            dial.join();
            return Ok((dial.clone(), None));
        }
        let dial = Arc::new(Dial::new(places?));
        let pass = self.gate.leave().ok_or_else(too_many_connections)?;
        entry.dials.push(dial.clone());
        Ok((dial, Some(pass)))
    }

    fn run_dial(
        &self,
        peer: PeerId,
        dial: &Arc<Dial>,
        pass: Pass,
        deadline: Option<Instant>,
    ) -> Result<Arc<Link>> {
        let core = self.me.upgrade().expect("the caller has a reference to it");
        let ends = Instant::now() + self.limits.dial;
        let race = Race::new(self.identity.clone(), peer, &dial.places, ends, self.spin.clone());
        let this = dial.clone();
        dial.run(race, deadline, move |outcome| {
            if Instant::now() >= ends && !matches!(outcome, Outcome::Won(_)) {
                core.resources.reject(Limit::DialTime);
            }
            let result = match outcome {
                Outcome::Won(secured) => core.new_link(secured, pass).inspect(|_| {
                    core.counters.dialled.fetch_add(1, Relaxed);
                }),
                Outcome::Lost(e) => Err(e),
                Outcome::Unfinished(_) => {
                    Err(Error::new(ErrorCode::Timeout, "the dial was given up"))
                }
            };
            core.dial_is_over(&peer, &this, result)
        })
    }

    /// Takes the dial off the list. What one has reached, all that are under way have.
    fn dial_is_over(
        &self,
        peer: &PeerId,
        dial: &Arc<Dial>,
        result: Result<Arc<Link>>,
    ) -> Result<Arc<Link>> {
        let mut others = Vec::new();
        self.peers.lock().settle(peer, |entry| {
            entry.dials.retain(|other| !Arc::ptr_eq(other, dial));
            others.clone_from(&entry.dials);
        });
        let result = result.or_else(|e| dial.reached().ok_or(e));
        match &result {
            Ok(link) => others.iter().for_each(|other| other.reach(link)),
            Err(_) => _ = self.counters.dials_failed.fetch_add(1, Relaxed),
        }
        result
    }

    /// Makes a link of a secured connection and lists it.
    fn new_link(&self, secured: Secured, pass: Pass) -> Result<Arc<Link>> {
        let id = self.next_link.fetch_add(1, Relaxed);
        let owner: Weak<dyn Owner> = self.me.clone();
        let Secured { socket, upgraded, input, rtt } = secured;
        let pointsub = upgraded.peer_capabilities.is_some();
        let link = Link::new(id, socket, upgraded, input, rtt, self.reactors.next(), owner)?;
        let (older, fits) = {
            let mut peers = self.peers.lock();
            self.check_reachable()?;
            let same = |l: &&Arc<Link>| l.dialled == link.dialled;
            let older: Vec<_> = match peers.get(&link.peer) {
                Some(entry) => entry.links.iter().filter(same).cloned().collect(),
                None => Vec::new(),
            };
            let fits = link.dialled || self.resources.judge(Limit::ConnectionsPerPeer, older.len());
            if fits {
                self.passes.lock().insert(id, pass);
                let (connection, peer, dialled) = (id, link.peer, link.dialled);
                // Before anybody finds it, and ends it perhaps.
                let opened = || Event::ConnectionOpened { connection, peer, dialled };
                self.resources.feed.tell(opened);
                peers.wake(link.peer).list(&link, &self.peer_id());
            }
            (older, fits)
        };
        if link.resumable {
            // Its peer comes back because it has lost one of them, most likely.
            older.iter().for_each(|older| older.doubt());
        }
        if !fits {
            return Err(too_many_connections());
        }
        log::debug!(link = id, peer:% = link.peer, remote:% = link.remote, dialled = link.dialled,
            pointsub; "connected");
        if let Err(e) = link.start() {
            link.die(e.clone());
            return Err(e);
        }
        self.sessions.link_up(&link);
        Ok(link)
    }

    // Listeners.

    pub(crate) fn bind(&self, protocol: &str) -> Result<Arc<Backlog>> {
        crate::proto::multistream::check_name(protocol)?;
        let mut protocols = self.protocols.lock();
        self.check_open()?;
        let own = services::NAMES.contains(&protocol) || protocol == resume::PROTOCOL;
        if own || protocols.contains_key(protocol) {
            let what = format!("{protocol} is served on this host already");
            return Err(Error::new(ErrorCode::AddressInUse, what));
        }
        let backlog = Arc::new(Backlog::new(protocol));
        protocols.insert(backlog.protocol.clone(), backlog.clone());
        Ok(backlog)
    }

    /// Serves the protocol no longer; streams that nobody accepted are reset.
    pub(crate) fn unbind(&self, backlog: &Arc<Backlog>) {
        {
            let mut protocols = self.protocols.lock();
            if protocols.get(&backlog.protocol).is_some_and(|b| Arc::ptr_eq(b, backlog)) {
                protocols.remove(&backlog.protocol);
            }
        }
        backlog.close().iter().for_each(|channel| channel.reset());
    }

    // The end.

    /// Closes every link to the peer, and ends the conns to it.
    pub(crate) fn disconnect(&self, peer: &PeerId, why: &Error) {
        let deadline = Instant::now() + self.limits.linger;
        self.sessions.close(Some(peer), why, None, deadline);
        self.close_links(&self.links_to(peer), why, deadline);
    }

    /// Closes these links, at most until then.
    fn close_links(&self, links: &[Arc<Link>], why: &Error, deadline: Instant) {
        let pings: Vec<_> = links.iter().map(|link| link.begin_close(why)).collect();
        // All say it before one waits for its socket.
        let part = |links: &[&Arc<Link>]| {
            links.iter().for_each(|link| link.say_goodbye());
            links.iter().for_each(|link| link.end_output(deadline));
        };
        let (kin, others): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.kin);
        part(&kin);
        for (link, ping) in links.iter().zip(pings) {
            if let Some(ping) = ping {
                link.await_delivery(ping, deadline);
            }
        }
        part(&others);
        links.iter().for_each(|link| link.finish_close(deadline, why.clone()));
        if !self.limits.linger.is_zero() && !links.is_empty() && Instant::now() >= deadline {
            self.resources.reject(Limit::Linger);
        }
    }

    /// Closes everything. The first call does it, the others wait for that.
    pub(crate) fn shut_down(&self) {
        if self.closed.swap(true, SeqCst) {
            let mut ended = self.ended.lock();
            while !*ended {
                self.ending.wait(&mut ended);
            }
            return;
        }
        let deadline = Instant::now() + self.limits.linger;
        let backlogs: Vec<_> = self.protocols.lock().values().cloned().collect();
        backlogs.iter().for_each(|backlog| self.unbind(backlog));
        self.sessions.stop_taking();
        self.sessions.close(None, &shut_down(), Some(deadline), deadline);
        self.cut_off.store(true, SeqCst);
        self.sessions.end(&shut_down());
        let door = self.door.lock().take();
        drop(door);
        let dials: Vec<_> = {
            let peers = self.peers.lock();
            peers.iter().flat_map(|(_, p)| p.dials.iter().cloned()).collect()
        };
        dials.iter().for_each(|dial| dial.cancel(shut_down()));
        self.close_links(&self.links(), &shut_down(), deadline);
        self.resources.meters.say(Instant::now());
        self.reactors.stop();
        self.resources.feed.end();
        *self.ended.lock() = true;
        self.ending.notify_all();
    }
}

impl Owner for Core {
    fn serves(&self, protocol: &str) -> bool {
        services::NAMES.contains(&protocol) || self.protocols.lock().contains_key(protocol)
    }

    fn offer(&self, link: &Arc<Link>, stream: &Arc<Stream>, protocol: &str) -> Offer {
        if protocol == ping::PROTOCOL {
            return Offer::Service(Box::new(services::Ping::new()));
        }
        if protocol == identify::PROTOCOL {
            return Offer::Service(Box::new(services::Introduction(self.introduction(link))));
        }
        let Some(backlog) = self.protocols.lock().get(protocol).cloned() else {
            return Offer::Refused;
        };
        match lines::queue(
            self,
            &backlog,
            Channel::Plain(link.clone(), stream.clone()),
            link,
            stream,
        ) {
            true => Offer::Taken,
            false => Offer::Refused,
        }
    }

    fn greet(&self, link: &Arc<Link>, stream: &Arc<Stream>, hello: Hello) -> Greeted {
        let backlog = self.protocols.lock().get(hello.protocol.as_str()).cloned();
        lines::greet(self, backlog.as_deref(), link, stream, hello)
    }

    fn resumes_with(&self, peer: Option<Capabilities>) -> bool {
        self.limits.capabilities.resumes_with(peer)
    }

    fn closed(&self, link: &Arc<Link>, why: &Error) {
        log::debug!(link = link.id, peer:% = link.peer; "connection ended: {why}");
        if matches!(Fate::of(why), Fate::Lost(_)) {
            self.counters.links_lost.fetch_add(1, Relaxed);
        }
        // What was damaged on the way is not the peer's fault; but one without sessions
        // gains nothing by coming back at once.
        let damaged = why.code() == ErrorCode::DecryptFailed && !link.resumable;
        if damaged || why.code() == ErrorCode::ProtocolViolation {
            self.gate.blame(link.peer, link.remote, Fault::Broken, Instant::now());
        }
        drop(self.passes.lock().remove(&link.id));
        if link.is_outlived() {
            let mut outlived = self.outlived.lock();
            outlived.retain(|link| link.strong_count() > 0);
            outlived.push(Arc::downgrade(link));
        }
        let (connection, peer) = (link.id, link.peer);
        self.resources.feed.tell(|| Event::ConnectionClosed { connection, peer, why: why.clone() });
        self.peers.lock().settle(&link.peer, |entry| {
            entry.links.retain(|other| !Arc::ptr_eq(other, link));
        });
    }

    fn limits(&self) -> &LinkLimits {
        &self.limits.link
    }

    fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }
}

impl Core {
    fn introduction(&self, link: &Link) -> Identify {
        let bound = self.protocols.lock().keys().map(|p| p.to_string()).collect::<Vec<_>>();
        let own = services::NAMES.iter().map(|p| p.to_string());
        Identify {
            public_key: Some(self.identity.public_key().clone()),
            listen_addrs: self.listening().collect(),
            protocols: own.chain(bound).collect(),
            observed_addr: Some(addrs::to_multiaddr(link.remote)),
            agent_version: services::AGENT.into(),
            protocol_version: identify::PROTOCOL_VERSION.into(),
        }
    }
}

impl Reception for Core {
    fn enter(&self, from: SocketAddr) -> Option<Pass> {
        self.gate.enter(from, Instant::now())
    }

    fn fits(&self, limit: Limit, now: usize) -> bool {
        self.resources.judge(limit, now)
    }

    fn arrived(&self, secured: Secured, pass: Pass) {
        let (peer, now) = (secured.upgraded.peer, Instant::now());
        let resumes = self.resumes_with(secured.upgraded.peer_capabilities);
        // It has no address any more if it has left already.
        let Ok(from) = secured.socket.peer_addr() else { return };
        let blame = || self.gate.blame(peer, from, Fault::Refused, now);
        if self.gate.is_banned(&peer, now) {
            return;
        }
        if !self.gate.allows(&peer) {
            self.counters.gate_refused.fetch_add(1, Relaxed);
            log::debug!(peer:% = peer, remote:% = from; "refused: not allowed here");
            return blame();
        }
        match self.new_link(secured, pass) {
            Ok(_) => drop(self.counters.accepted.fetch_add(1, Relaxed)),
            Err(e) => {
                log::debug!(peer:% = peer, remote:% = from;
                    "an inbound connection was dropped: {e}");
                // Who resumes conns may have lost the others, and is let in once we know.
                if e.code() == ErrorCode::TooManyConnections && !resumes {
                    blame();
                }
            }
        }
    }

    fn reached(&self, limit: Limit) {
        self.resources.reject(limit);
    }

    fn failed(&self, from: SocketAddr, why: &Error) {
        self.counters.handshakes_failed.fetch_add(1, Relaxed);
        self.gate.blame_address(from, Fault::Refused, Instant::now());
        log::debug!(remote:% = from; "an inbound handshake failed: {why}");
    }
}

fn too_many_connections() -> Error {
    Error::new(ErrorCode::TooManyConnections, "there are too many connections")
}

pub(crate) fn shut_down() -> Error {
    Error::new(ErrorCode::NotConnected, "the host has been shut down")
}
