//! The states of an upgrade. Each is named for what it awaits and consumes itself.

use std::fmt;
use std::sync::Arc;

use libp2p_identity::PeerId;

use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::multistream::{Answer, Dialer, Listener};
use crate::proto::noise::{
    Capabilities, Cipher, Handshake, Identity, Opener, Progress, Sealer, Secured, StaticKey, TAG,
};

/// A connection on its way from plain TCP to yamux inside Noise.
pub(crate) struct Upgrade {
    state: State,
    /// What the peer has said so far, in bytes.
    received: usize,
}

/// How far an upgrade came.
pub(crate) enum Step {
    /// What the peer says next is not here yet.
    More(Upgrade),
    /// Everything is agreed. What is left in the input are transport frames.
    Done(Box<Upgraded>),
}

/// A connection that is secured, and on which both sides speak yamux.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) peer: PeerId,
    /// The peer's Noise key: another one is another host, of whatever peer.
    pub(crate) peer_static: StaticKey,
    /// What the peer said it can do beyond libp2p. None: it is another node.
    pub(crate) peer_capabilities: Option<Capabilities>,
    /// How the frames are sealed.
    pub(crate) cipher: Cipher,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    /// Whether we dialled, which decides whose stream ids are odd.
    pub(crate) is_dialer: bool,
    /// What yamux said in the frame in which it was agreed: to be read before what
    /// is left in the input. Mostly empty.
    pub(crate) leftover: Vec<u8>,
}

impl Upgrade {
    /// The side that dialled. With `expected`, nobody else is told who we are.
    pub(crate) fn dialer(identity: Arc<Identity>, expected: Option<PeerId>) -> Upgrade {
        Upgrade::new(State::Begin(Begin { identity, expected }))
    }

    /// The side that was dialled.
    pub(crate) fn listener(identity: Arc<Identity>) -> Upgrade {
        let select = Listener::new();
        Upgrade::new(State::ExpectNoiseProposal(ExpectNoiseProposal { select, identity }))
    }

    fn new(state: State) -> Upgrade {
        Upgrade { state, received: 0 }
    }

    /// Consumes what it understands of `input` and appends to `out` what is to be
    /// sent. A dialer's first call needs no input. `input` must have room for a whole
    /// Noise frame.
    ///
    /// # Errors
    ///
    /// `HandshakeFailed`: the peer does not agree to Noise or yamux, or the handshake
    /// is not as it must be. `WrongPeer`: another key than `expected` answered.
    /// `ProtocolViolation`: this is not a libp2p node, or it talks without end.
    /// `DecryptFailed`: a frame was damaged. `InvalidInput`: the peer is ourselves.
    pub(crate) fn advance(mut self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Step> {
        loop {
            let before = input.readable().len();
            let turn = self.state.advance(input, out)?;
            self.received += before - input.readable().len();
            if self.received > MAX_RECEIVED {
                return Err(Error::new(
                    ErrorCode::ProtocolViolation,
                    format!("the peer said more than {MAX_RECEIVED} bytes and agreed to nothing"),
                ));
            }
            match turn {
                Turn::Wait(state) => {
                    return Ok(Step::More(Upgrade { state, received: self.received }));
                }
                Turn::Next(state) => self.state = state,
                Turn::Done(upgraded) => return Ok(Step::Done(upgraded)),
            }
        }
    }

    /// What the peer has to say next, for the error of one that does not.
    pub(crate) fn awaits(&self) -> &'static str {
        match self.state {
            State::Begin(_) => "nothing",
            State::ExpectNoiseAnswer(_) => "the answer to /noise",
            State::ExpectNoiseProposal(_) => "a proposal of /noise",
            State::ExpectHandshake(_) => "a Noise message",
            State::ExpectMuxerAnswer(_) => "the answer to /yamux/1.0.0",
            State::ExpectMuxerProposal(_) => "a proposal of /yamux/1.0.0",
        }
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade")
            .field("awaits", &self.awaits())
            .field("received", &self.received)
            .finish()
    }
}

enum State {
    Begin(Begin),
    ExpectNoiseAnswer(ExpectNoiseAnswer),
    ExpectNoiseProposal(ExpectNoiseProposal),
    ExpectHandshake(ExpectHandshake),
    ExpectMuxerAnswer(ExpectMuxerAnswer),
    ExpectMuxerProposal(ExpectMuxerProposal),
}

/// What one state made of the input.
enum Turn {
    /// Not enough of it is here.
    Wait(State),
    /// Something was understood, and there may be more.
    Next(State),
    Done(Box<Upgraded>),
}

impl State {
    fn advance(self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Turn> {
        match self {
            State::Begin(state) => state.advance(out),
            State::ExpectNoiseAnswer(state) => state.advance(input),
            State::ExpectNoiseProposal(state) => state.advance(input, out),
            State::ExpectHandshake(state) => state.advance(input, out),
            State::ExpectMuxerAnswer(state) => state.advance(input),
            State::ExpectMuxerProposal(state) => state.advance(input, out),
        }
    }
}

/// The dialer, who has not said anything.
struct Begin {
    identity: Arc<Identity>,
    expected: Option<PeerId>,
}

impl Begin {
    fn advance(self, out: &mut Vec<u8>) -> Result<Turn> {
        let select = Dialer::new(NOISE, out)?;
        // Message 1 does not wait for the answer: it says nothing about us.
        let noise = Handshake::initiator(self.identity, self.expected);
        match noise.advance(&mut RecvBuf::default(), out)? {
            Progress::More(noise) => {
                Ok(Turn::Next(State::ExpectNoiseAnswer(ExpectNoiseAnswer { select, noise })))
            }
            Progress::Done(_) => unreachable!("a handshake needs to hear the peer"),
        }
    }
}

/// The dialer, who has proposed Noise and sent its first message.
struct ExpectNoiseAnswer {
    select: Dialer,
    noise: Handshake,
}

impl ExpectNoiseAnswer {
    fn advance(mut self, input: &mut RecvBuf) -> Result<Turn> {
        let (taken, answer) = self.select.read(input.readable())?;
        input.consume(taken);
        match answer {
            None => Ok(Turn::Wait(State::ExpectNoiseAnswer(self))),
            Some(Answer::Refused) => Err(refused(NOISE)),
            Some(Answer::Agreed) => {
                let noise = self.noise;
                Ok(Turn::Next(State::ExpectHandshake(ExpectHandshake { noise, is_dialer: true })))
            }
        }
    }
}

/// The listener, to whom Noise was not proposed yet.
struct ExpectNoiseProposal {
    select: Listener,
    identity: Arc<Identity>,
}

impl ExpectNoiseProposal {
    fn advance(mut self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Turn> {
        let (taken, agreed) = self.select.read(input.readable(), out, &mut |p| p == NOISE)?;
        input.consume(taken);
        if agreed.is_none() {
            return Ok(Turn::Wait(State::ExpectNoiseProposal(self)));
        }
        let noise = Handshake::responder(self.identity);
        Ok(Turn::Next(State::ExpectHandshake(ExpectHandshake { noise, is_dialer: false })))
    }
}

/// Either side, in the midst of the Noise handshake.
struct ExpectHandshake {
    noise: Handshake,
    is_dialer: bool,
}

impl ExpectHandshake {
    fn advance(self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Turn> {
        let ExpectHandshake { noise, is_dialer } = self;
        let mut secured = match noise.advance(input, out)? {
            Progress::Done(secured) => secured,
            Progress::More(noise) => {
                return Ok(Turn::Wait(State::ExpectHandshake(ExpectHandshake {
                    noise,
                    is_dialer,
                })));
            }
        };
        if secured.early_muxer.as_deref() == Some(YAMUX) {
            return Ok(done(secured, is_dialer, &[]));
        }
        if !is_dialer {
            let select = Listener::new();
            let state = ExpectMuxerProposal { select, secured: Box::new(secured) };
            return Ok(Turn::Next(State::ExpectMuxerProposal(state)));
        }
        let mut lines = Vec::new();
        let select = Dialer::new(YAMUX, &mut lines)?;
        seal(&mut secured.sealer, &lines, out)?;
        let state = ExpectMuxerAnswer { select, secured: Box::new(secured) };
        Ok(Turn::Next(State::ExpectMuxerAnswer(state)))
    }
}

/// The dialer, who has proposed yamux inside Noise.
struct ExpectMuxerAnswer {
    select: Dialer,
    secured: Box<Secured>,
}

impl ExpectMuxerAnswer {
    fn advance(mut self, input: &mut RecvBuf) -> Result<Turn> {
        let Some(plain) = open(&mut self.secured.opener, input)? else {
            return Ok(Turn::Wait(State::ExpectMuxerAnswer(self)));
        };
        let (taken, answer) = self.select.read(&plain)?;
        match answer {
            None => Ok(Turn::Next(State::ExpectMuxerAnswer(self))),
            Some(Answer::Refused) => Err(refused(YAMUX)),
            Some(Answer::Agreed) => Ok(done(*self.secured, true, &plain[taken..])),
        }
    }
}

/// The listener, to whom yamux was not proposed yet.
struct ExpectMuxerProposal {
    select: Listener,
    secured: Box<Secured>,
}

impl ExpectMuxerProposal {
    fn advance(mut self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Turn> {
        let Some(plain) = open(&mut self.secured.opener, input)? else {
            return Ok(Turn::Wait(State::ExpectMuxerProposal(self)));
        };
        let mut lines = Vec::new();
        let (taken, agreed) = self.select.read(&plain, &mut lines, &mut |p| p == YAMUX)?;
        if !lines.is_empty() {
            seal(&mut self.secured.sealer, &lines, out)?;
        }
        match agreed {
            None => Ok(Turn::Next(State::ExpectMuxerProposal(self))),
            Some(_) => Ok(done(*self.secured, false, &plain[taken..])),
        }
    }
}

fn done(secured: Secured, is_dialer: bool, leftover: &[u8]) -> Turn {
    Turn::Done(Box::new(Upgraded {
        peer: secured.peer,
        peer_static: secured.peer_static,
        peer_capabilities: secured.peer_capabilities,
        cipher: secured.cipher,
        sealer: secured.sealer,
        opener: secured.opener,
        is_dialer,
        leftover: leftover.to_vec(),
    }))
}

/// Appends `plain` as one Noise frame.
fn seal(sealer: &mut Sealer, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let len = u16::try_from(plain.len() + TAG).expect("answers to one frame fit another");
    out.extend_from_slice(&len.to_be_bytes());
    let start = out.len();
    out.resize(start + usize::from(len), 0);
    sealer.seal_into(plain, &mut out[start..])
}

/// The contents of the next Noise frame, once it is whole.
fn open(opener: &mut Opener, input: &mut RecvBuf) -> Result<Option<Vec<u8>>> {
    let Some((&prefix, rest)) = input.readable().split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(prefix));
    let Some(plain_len) = len.checked_sub(TAG) else {
        let what = format!("a Noise frame of {len} bytes");
        return Err(Error::new(ErrorCode::ProtocolViolation, what));
    };
    let Some(frame) = rest.get(..len) else { return Ok(None) };
    let mut plain = vec![0; plain_len];
    opener.open_into(frame, &mut plain)?;
    input.consume(PREFIX + len);
    Ok(Some(plain))
}

fn refused(protocol: &str) -> Error {
    let what = format!("the peer does not speak {protocol}, and we speak nothing else");
    Error::new(ErrorCode::HandshakeFailed, what)
}

/// How a connection is secured.
const NOISE: &str = "/noise";
/// How it is multiplexed.
const YAMUX: &str = "/yamux/1.0.0";
/// The length in front of a Noise frame.
const PREFIX: usize = 2;
/// The most that a peer may say during the upgrade, in bytes. Twice sixteen lines,
/// two Noise messages and one long last frame come to about 105 KiB.
const MAX_RECEIVED: usize = 128 * 1024;
