//! A node of the libp2p crate: TCP, Noise and yamux on tokio, raw streams of
//! libp2p-stream, ping and identify. Its streams are used from plain threads.

use crate::node::{Duplex, Handler, Node, WriteEnd};
use futures::executor::block_on;
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identify, multiaddr, noise,
    ping, tcp, yamux,
};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

/// A running node. It ends when this is dropped.
pub struct Libp2pNode {
    runtime: Runtime,
    peer_id: PeerId,
    listen: Multiaddr,
    control: libp2p_stream::Control,
    commands: mpsc::UnboundedSender<Command>,
    seen: Arc<Log>,
}

/// What the node's own services reported.
#[derive(Clone, Debug)]
pub enum Seen {
    Ping { peer: PeerId, round_trip: Result<Duration, String> },
    Identified { peer: PeerId, info: Box<identify::Info> },
    IdentifyFailed { peer: PeerId, why: String },
    Closed { peer: PeerId },
}

impl Libp2pNode {
    /// A node with a fresh key that listens on a port of its own.
    pub fn new() -> Libp2pNode {
        let runtime = Runtime::new().expect("a runtime");
        let (swarm, listen) = runtime.block_on(listening_swarm());
        let peer_id = *swarm.local_peer_id();
        let control = swarm.behaviour().streams.new_control();
        let (commands, inbox) = mpsc::unbounded_channel();
        let seen = Arc::<Log>::default();
        runtime.spawn(run(swarm, inbox, seen.clone()));
        Libp2pNode { runtime, peer_id, listen, control, commands, seen }
    }

    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Connects to `address`; the error is the swarm's own.
    pub fn dial(&self, address: &str) -> Result<PeerId, DialError> {
        let mut address: Multiaddr = address.parse().expect("an address");
        let Some(multiaddr::Protocol::P2p(peer)) = address.pop() else {
            panic!("{address} does not end in a peer id");
        };
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Dial(address, peer, answer)).expect("the swarm runs");
        block_on(answered).expect("the swarm runs").map(|()| peer)
    }

    /// Opens a stream to a connected peer; the error is libp2p-stream's own.
    pub fn open_stream(
        &self,
        peer: PeerId,
        protocol: &'static str,
    ) -> Result<Duplex, libp2p_stream::OpenStreamError> {
        let protocol = StreamProtocol::new(protocol);
        block_on(self.control.clone().open_stream(peer, protocol)).map(halves)
    }

    /// The first report that `wanted` takes, now or when it comes.
    pub fn wait<T>(&self, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.entries.lock().expect("no panic under this lock");
        loop {
            if let Some(found) = seen.iter().find_map(&mut wanted) {
                return found;
            }
            seen = self.seen.grew.wait(seen).expect("no panic under this lock");
        }
    }
}

impl Default for Libp2pNode {
    fn default() -> Libp2pNode {
        Libp2pNode::new()
    }
}

impl Node for Libp2pNode {
    fn address(&self) -> String {
        format!("{}/p2p/{}", self.listen, self.peer_id)
    }

    fn serve(&self, protocol: &'static str, handler: Handler) {
        let protocol = StreamProtocol::new(protocol);
        let mut incoming = self.control.clone().accept(protocol).expect("served once");
        // A task that does nothing else: the queue behind `incoming` holds one.
        self.runtime.spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                let handler = handler.clone();
                thread::spawn(move || handler(halves(stream)));
            }
        });
    }

    fn open(&self, address: &str, protocol: &'static str) -> io::Result<Duplex> {
        let peer = self.dial(address).map_err(io::Error::other)?;
        self.open_stream(peer, protocol).map_err(io::Error::other)
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: libp2p_stream::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

enum Command {
    Dial(Multiaddr, PeerId, oneshot::Sender<Result<(), DialError>>),
}

#[derive(Default)]
struct Log {
    entries: Mutex<Vec<Seen>>,
    grew: Condvar,
}

async fn listening_swarm() -> (Swarm<Behaviour>, Multiaddr) {
    let mut swarm = swarm();
    let any_port = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    let listener = swarm.listen_on(any_port).expect("listen");
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } if listener_id == listener => {
                return (swarm, address);
            }
            _ => {}
        }
    }
}

fn swarm() -> Swarm<Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("a transport")
        .with_behaviour(|key| Behaviour {
            streams: libp2p_stream::Behaviour::new(),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_millis(200)),
            ),
            identify: identify::Behaviour::new(identify::Config::new(
                "/interop/1.0.0".into(),
                key.public(),
            )),
        })
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

/// The node's event loop.
async fn run(
    mut swarm: Swarm<Behaviour>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    seen: Arc<Log>,
) {
    let mut dialling = HashMap::new();
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Dial(address, peer, answer)) => {
                    dial(&mut swarm, &mut dialling, address, peer, answer);
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    if let Some(answer) = dialling.remove(&connection_id) {
                        let _ = answer.send(Ok(()));
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(answer) = dialling.remove(&connection_id) {
                        let _ = answer.send(Err(error));
                    }
                }
                SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                    seen.push(Seen::Closed { peer: peer_id });
                }
                SwarmEvent::Behaviour(event) => report(&seen, event),
                _ => {}
            },
        }
    }
}

type Dialling = HashMap<ConnectionId, oneshot::Sender<Result<(), DialError>>>;

fn dial(
    swarm: &mut Swarm<Behaviour>,
    dialling: &mut Dialling,
    address: Multiaddr,
    peer: PeerId,
    answer: oneshot::Sender<Result<(), DialError>>,
) {
    if swarm.is_connected(&peer) {
        let _ = answer.send(Ok(()));
        return;
    }
    let options =
        DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build();
    let id = options.connection_id();
    match swarm.dial(options) {
        Ok(()) => {
            dialling.insert(id, answer);
        }
        Err(error) => {
            let _ = answer.send(Err(error));
        }
    }
}

fn report(seen: &Log, event: BehaviourEvent) {
    match event {
        BehaviourEvent::Ping(ping::Event { peer, result, .. }) => {
            seen.push(Seen::Ping { peer, round_trip: result.map_err(|e| e.to_string()) });
        }
        BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
            seen.push(Seen::Identified { peer: peer_id, info: Box::new(info) });
        }
        BehaviourEvent::Identify(identify::Event::Error { peer_id, error, .. }) => {
            seen.push(Seen::IdentifyFailed { peer: peer_id, why: error.to_string() });
        }
        _ => {}
    }
}

impl Log {
    fn push(&self, seen: Seen) {
        self.entries.lock().expect("no panic under this lock").push(seen);
        self.grew.notify_all();
    }
}

/// A libp2p stream for plain threads: each call waits for its future.
fn halves(stream: Stream) -> Duplex {
    let (reader, writer) = stream.split();
    Duplex { reader: Box::new(Reader(reader)), writer: Box::new(Writer(writer)) }
}

struct Reader(ReadHalf<Stream>);
struct Writer(WriteHalf<Stream>);

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        block_on(self.0.read(buf))
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        block_on(self.0.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        block_on(self.0.flush())
    }
}

impl WriteEnd for Writer {
    fn finish(&mut self) -> io::Result<()> {
        block_on(self.0.close())
    }
}
