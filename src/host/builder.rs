//! What can be chosen about a host.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libp2p_core::Multiaddr;
use libp2p_identity::{Keypair, PeerId};

use super::core::{Core, Limits};
use super::gate::{Allow, Gate};
use super::limits::Chosen;
use super::{Handle, Host, addrs, keyfile};
use crate::driver::{Door, LinkLimits};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::noise::{Capabilities, Cipher, Identity};
use crate::resources::Resources;
use crate::resources::limits::Limit;
use crate::session::SessionLimits;

/// Builds a [`Host`]. Nothing has to be set.
///
/// Each option names its default and its range; [`build`](HostBuilder::build) refuses
/// what is out of range with `InvalidInput`.
#[must_use = "a builder does nothing until `build`"]
pub struct HostBuilder {
    keypair: Result<Option<Keypair>>,
    listen: Vec<Result<Vec<SocketAddr>>>,
    allow: Allow,
    pub(super) chosen: Chosen,
    capabilities: Capabilities,
    idle: Duration,
    keepalive: Duration,
    silence: Duration,
    dial: Duration,
    handshake: Duration,
    negotiation: Duration,
    linger: Duration,
    spin: Duration,
    reactors: usize,
    resumable: bool,
    resume: Duration,
    replay: usize,
}

impl Default for HostBuilder {
    fn default() -> HostBuilder {
        HostBuilder {
            keypair: Ok(None),
            listen: Vec::new(),
            allow: Box::new(|_| true),
            chosen: Chosen::default(),
            capabilities: Capabilities::default(),
            idle: Duration::from_secs(60),
            keepalive: Duration::from_secs(15),
            silence: Duration::from_secs(10),
            dial: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            negotiation: Duration::from_secs(10),
            linger: Duration::from_secs(5),
            spin: Duration::from_micros(50),
            reactors: 1,
            resumable: true,
            resume: Duration::from_secs(30),
            replay: 16 << 20,
        }
    }
}

impl HostBuilder {
    /// The host's key, which gives it its peer id. Default: a fresh ed25519 key.
    pub fn keypair(mut self, keypair: Keypair) -> HostBuilder {
        self.keypair = Ok(Some(keypair));
        self
    }

    /// A key that outlives the process: read from `path` in libp2p's protobuf
    /// encoding, or made there if the file is missing, with mode 0600.
    ///
    /// [`build`](HostBuilder::build) fails with `PermissionDenied` if others can read
    /// the file, with `InvalidInput` if it holds no key.
    pub fn keypair_file(mut self, path: impl AsRef<Path>) -> HostBuilder {
        self.keypair = keyfile::load_or_create(path.as_ref()).map(Some);
        self
    }

    /// Listens there too: `/ip4/…/tcp/…` or `/ip6/…/tcp/…`; port 0 takes a free one.
    /// Any number; default: none, and the host can dial only.
    pub fn listen(mut self, addr: Multiaddr) -> HostBuilder {
        self.listen.push(addrs::to_listen(&addr).map(|socket| vec![socket]));
        self
    }

    /// The same with what [`std::net::TcpListener::bind`] takes. Of several
    /// addresses that a name has, the first that can be bound is taken.
    pub fn listen_on(mut self, addr: impl ToSocketAddrs) -> HostBuilder {
        let found = addr.to_socket_addrs().map(Iterator::collect);
        self.listen.push(found.map_err(unresolved));
        self
    }

    /// Who may come in: called with the peer's id when its handshake has proved
    /// it, on the listening thread; `false` closes the connection, which a dialler finds
    /// closed behind its handshake, as an error of its connect. Default: all.
    /// Peers that this host dials are not asked about.
    pub fn allow(mut self, gate: impl Fn(&PeerId) -> bool + Send + Sync + 'static) -> HostBuilder {
        self.allow = Box::new(gate);
        self
    }

    /// What connections to other hosts of this library may be sealed with. Default:
    /// both ciphers, of which two hosts take AES-256-GCM if both processors have
    /// instructions for it.
    ///
    /// The order says nothing. ChaCha20-Poly1305 need not be named: it is what every
    /// libp2p node speaks, and always allowed. So `&[Cipher::ChaCha20Poly1305]` means
    /// that alone, and a host without AES instructions never takes the other one.
    pub fn ciphers(mut self, ciphers: &[Cipher]) -> HostBuilder {
        self.capabilities = Capabilities::new(ciphers);
        self
    }

    /// A connection without streams is closed after this. Default 60 s; zero:
    /// never; at most 365 days.
    pub fn idle_timeout(mut self, time: Duration) -> HostBuilder {
        self.idle = time;
        self
    }

    /// A peer that was silent for so long is pinged, and lost if it says nothing for
    /// [`keepalive_timeout`](HostBuilder::keepalive_timeout) after that. Default 15 s;
    /// from 10 ms to 365 days.
    pub fn keepalive(mut self, time: Duration) -> HostBuilder {
        self.keepalive = time;
        self
    }

    /// A peer that says nothing, and takes nothing, for so long after a ping is lost.
    /// Default 10 s; from 10 ms to 365 days.
    pub fn keepalive_timeout(mut self, time: Duration) -> HostBuilder {
        self.silence = time;
        self
    }

    /// How long a dial may take, all addresses and the handshake together.
    /// Default 10 s; from 1 ms to 365 days.
    pub fn dial_timeout(mut self, time: Duration) -> HostBuilder {
        self.dial = time;
        self
    }

    /// How long an inbound handshake may take. Default 10 s; from 1 ms to 365
    /// days.
    pub fn handshake_timeout(mut self, time: Duration) -> HostBuilder {
        self.handshake = time;
        self
    }

    /// How long a stream has to agree on its protocol, both ways. A conn that is to go on
    /// over a new connection waits longer where that is slow: up to twelve times as long,
    /// while bytes move on it. Default 10 s; from 1 ms to 365 days.
    pub fn negotiation_timeout(mut self, time: Duration) -> HostBuilder {
        self.negotiation = time;
        self
    }

    /// How long the end of the host, or a disconnect, may block until all that was
    /// written is delivered. Default 5 s; zero: no wait; at most 365 days.
    pub fn linger(mut self, time: Duration) -> HostBuilder {
        self.linger = time;
        self
    }

    /// Whether conns to other pointsub hosts survive the loss of their TCP connection:
    /// reads and writes then pause until there is a new one, and no byte is lost or
    /// doubled. Default `true`; both ends have to allow it, otherwise their conns are
    /// plain. With any other libp2p node they always are.
    pub fn resumable(mut self, resumable: bool) -> HostBuilder {
        self.resumable = resumable;
        self
    }

    /// How long a resumable conn waits for a new connection before it fails with
    /// `ConnectionReset`; of two hosts' times the smaller one counts. The end that was
    /// dialled waits longer, by default 25 s: the other may notice the loss so much
    /// later. Default 30 s; from 10 ms to a day.
    pub fn resume_timeout(mut self, time: Duration) -> HostBuilder {
        self.resume = time;
        self
    }

    /// How many bytes a resumable conn may keep at most that the peer has not
    /// confirmed: while so many are under way its writes wait. It starts with 1 MiB, or
    /// this if it is less, and grows where the network needs it and the host's
    /// [`memory`](HostBuilder::memory) allows it. Default 16 MiB; from 256 KiB to 1 GiB.
    pub fn replay_buffer(mut self, bytes: usize) -> HostBuilder {
        self.replay = bytes;
        self
    }

    /// How long a blocked thread looks at its socket before it sleeps, where that has
    /// paid of late: it saves the time that a sleeping core takes to wake, and costs
    /// that core's time. In a handshake it looks for 200 µs more, in which the peer
    /// computes. Never on a single core. Default 50 µs; zero: never; at most
    /// 1 ms.
    pub fn spin(mut self, time: Duration) -> HostBuilder {
        self.spin = time;
        self
    }

    /// How many threads drive the connections that no blocked call drives; the
    /// connections are dealt out to them in turn. A thread that waits for its peer reads
    /// the socket itself, so that one is enough for most; more help where many
    /// connections with slow readers share the host. Default 1; at most 256.
    pub fn reactors(mut self, count: usize) -> HostBuilder {
        self.reactors = count;
        self
    }

    /// Binds the sockets and starts the host.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: an option out of its range, a listen address that is not of
    /// TCP, a key file without a key. `AddrInUse`, `AddrNotAvailable`,
    /// `PermissionDenied`: as from [`std::net::TcpListener::bind`]. Others: the system
    /// has no descriptors or threads left.
    pub fn build(self) -> io::Result<Host> {
        self.check()?;
        let keypair = self.keypair?.unwrap_or_else(Keypair::generate_ed25519);
        let capabilities = self.capabilities.resume(self.resumable);
        let identity = Arc::new(Identity::with_capabilities(keypair, capabilities)?);
        let mut listeners = Vec::new();
        for found in self.listen {
            listeners.push(bind(&found?)?);
        }
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>();
        let addrs = addrs.map_err(Error::from)?;
        let limits = Limits {
            link: LinkLimits {
                idle: self.idle,
                keepalive: self.keepalive,
                silence: self.silence,
                orphan: ORPHAN,
                negotiation: self.negotiation,
                spin: self.spin,
            },
            dial: self.dial,
            linger: self.linger,
            capabilities,
            session: SessionLimits {
                timeout: self.resume,
                replay: self.replay,
                linger: self.linger,
                answer: self.negotiation,
                detection: self.keepalive + self.silence,
            },
            reactors: self.reactors,
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let resources = Resources::new(|limit| match limit {
            Limit::HandshakeTime => millis(self.handshake),
            Limit::DialTime => millis(self.dial),
            Limit::NegotiationTime => millis(self.negotiation),
            Limit::Silence => millis(self.silence),
            Limit::Linger => millis(self.linger),
            _ => self.chosen.most(limit),
        });
        let (rate, penalty) = (self.chosen.rate(), self.chosen.penalty);
        let gate = Gate::new(self.allow, rate, penalty, resources.clone());
        let core = Core::new(identity.clone(), limits, resources, gate, addrs)?;
        // From here on a failure ends what was started.
        let host = Host { handle: Arc::new(Handle { core: core.clone() }) };
        if !listeners.is_empty() {
            let name = "pointsub-accept".into();
            let (patience, spin) = (self.handshake, self.spin);
            core.set_door(Door::open(name, listeners, identity, patience, spin, core.clone())?);
        }
        Ok(host)
    }

    fn check(&self) -> Result<()> {
        self.chosen.check()?;
        let times = [
            ("keepalive", self.keepalive, Duration::from_millis(10)),
            ("keepalive_timeout", self.silence, Duration::from_millis(10)),
            ("dial_timeout", self.dial, Duration::from_millis(1)),
            ("handshake_timeout", self.handshake, Duration::from_millis(1)),
            ("negotiation_timeout", self.negotiation, Duration::from_millis(1)),
        ];
        for (name, time, least) in times {
            if time < least || time > LONGEST {
                let what =
                    format!("{name} is {time:?}: it has to be from {least:?} to {LONGEST:?}");
                return Err(Error::new(ErrorCode::InvalidInput, what));
            }
        }
        if self.spin > Duration::from_millis(1) {
            let what = format!("spin is {:?}: it has to be 1 ms at most", self.spin);
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        if !(1..=MOST_REACTORS).contains(&self.reactors) {
            let what = format!("reactors is {}: it has to be from 1 to 256", self.reactors);
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        let day = Duration::from_secs(24 * 3600);
        if self.resume < Duration::from_millis(10) || self.resume > day {
            let what =
                format!("resume_timeout is {:?}: it has to be from 10 ms to a day", self.resume);
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        if !(256 << 10..=1 << 30).contains(&self.replay) {
            let what =
                format!("replay_buffer is {}: it has to be from 256 KiB to 1 GiB", self.replay);
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        if self.idle > LONGEST || self.linger > LONGEST {
            let what = format!("idle_timeout and linger are {LONGEST:?} at most");
            return Err(Error::new(ErrorCode::InvalidInput, what));
        }
        Ok(())
    }
}

/// Binds the first of these that can be bound.
fn bind(found: &[SocketAddr]) -> Result<TcpListener> {
    TcpListener::bind(found).map_err(|e| {
        let at: Vec<_> = found.iter().map(SocketAddr::to_string).collect();
        let what = format!("cannot listen on {}: {e}", at.join(", "));
        let advice = match e.kind() {
            io::ErrorKind::AddrNotAvailable => {
                "give an address of this machine, or 0.0.0.0 or [::] for all that it has"
            }
            io::ErrorKind::AddrInUse => {
                "end what listens there, or give another port; 0 takes a free one"
            }
            io::ErrorKind::PermissionDenied => {
                "give a port from 1024 on; those below are for privileged users"
            }
            _ => return Error::from(e).describe(what),
        };
        Error::from(e).describe(what).advise(advice)
    })
}

fn unresolved(e: io::Error) -> Error {
    let what = format!("cannot listen there: {e}");
    if e.kind() == io::ErrorKind::InvalidInput {
        let advice = "give an address and a port, such as 127.0.0.1:4001";
        return Error::from(e).describe(what).advise(advice);
    }
    Error::with_source(ErrorCode::NameResolution, what, e)
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A stream that was dropped here and not finished by the peer is reset after this.
const ORPHAN: Duration = Duration::from_secs(30);
/// Threads that drive connections.
const MOST_REACTORS: usize = 256;
/// No time is longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
