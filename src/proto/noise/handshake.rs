//! Noise XX, message by message:
//!
//! ```text
//! 1  initiator -> e
//! 2            <- e, ee, s, es   responder's payload
//! 3            -> s, se          initiator's payload
//! ```
//!
//! Each state is named for what it awaits, and the next one comes only out of a
//! message that has been verified. After an error there is no state any more.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use libp2p_identity::PeerId;
use snow::HandshakeState;
use zeroize::Zeroizing;

use super::capabilities::Capabilities;
use super::cipher::{Cipher, Opener, Sealer, TAG};
use super::identity::Identity;
use super::payload::{MAX_PAYLOAD, Payload};
use super::resolver::{AwsLc, DH_LEN};
use super::schedule::{Secret, Split};
use crate::error::{Error, ErrorCode, Result};
use crate::proto::buf::RecvBuf;

/// One side of the handshake, without I/O.
pub(crate) struct Handshake(State);

enum State {
    Begin(Begin),
    ExpectMessage1(ExpectMessage1),
    ExpectMessage2(ExpectMessage2),
    ExpectMessage3(ExpectMessage3),
}

/// How far a step came.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
pub(crate) enum Progress {
    /// The peer's next message is not here yet.
    More(Handshake),
    /// It is over. What follows in the input are transport frames.
    Done(Secured),
}

/// A public key of X25519.
pub(crate) type StaticKey = [u8; 32];

/// A connection whose peer is known, and the keys for both directions.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) peer: PeerId,
    /// The peer's static key. A host makes one for itself, and has it as long as it is there.
    pub(crate) peer_static: StaticKey,
    /// The multiplexer that both sides offered in their payloads.
    pub(crate) early_muxer: Option<String>,
    /// What the peer said it can do beyond libp2p. None: it is another node.
    pub(crate) peer_capabilities: Option<Capabilities>,
    /// How the frames are sealed.
    pub(crate) cipher: Cipher,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

impl Handshake {
    /// The side that dialled. With `expected`, nobody else is told who we are.
    pub(crate) fn initiator(identity: Arc<Identity>, expected: Option<PeerId>) -> Handshake {
        Handshake(State::Begin(Begin { identity, expected }))
    }

    /// The side that was dialled.
    pub(crate) fn responder(identity: Arc<Identity>) -> Handshake {
        Handshake(State::ExpectMessage1(ExpectMessage1 { identity }))
    }

    /// Consumes the whole messages in `input` and appends to `out` what is to be
    /// sent. The first call of an initiator needs no input.
    ///
    /// # Errors
    ///
    /// `WrongPeer`: another key than `expected` answered; nothing was appended.
    /// `InvalidInput`: the peer is, or would be, ourselves.
    /// `HandshakeFailed`: everything else that is not as it must be.
    pub(crate) fn advance(self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Progress> {
        match self.0 {
            State::Begin(state) => state.advance(input, out),
            State::ExpectMessage1(state) => state.advance(input, out),
            State::ExpectMessage2(state) => state.advance(input, out),
            State::ExpectMessage3(state) => state.advance(input),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Begin(_) => "Handshake(Begin)",
            State::ExpectMessage1(_) => "Handshake(ExpectMessage1)",
            State::ExpectMessage2(_) => "Handshake(ExpectMessage2)",
            State::ExpectMessage3(_) => "Handshake(ExpectMessage3)",
        })
    }
}

/// The initiator, who has not said anything.
struct Begin {
    identity: Arc<Identity>,
    expected: Option<PeerId>,
}

impl Begin {
    fn advance(self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Progress> {
        let Begin { identity, expected } = self;
        if expected == Some(identity.peer_id()) {
            return Err(ourselves());
        }
        let mut noise = builder(&identity)?.build_initiator().map_err(failed)?;
        write_message(&mut noise, &[], out)?;
        ExpectMessage2 { identity, expected, noise: Box::new(noise) }.advance(input, out)
    }
}

/// The responder, before anything was heard: it costs nothing yet.
struct ExpectMessage1 {
    identity: Arc<Identity>,
}

impl ExpectMessage1 {
    fn advance(self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Progress> {
        let Some(message) = take_message(input, MESSAGE_1)? else {
            return Ok(Progress::More(Handshake(State::ExpectMessage1(self))));
        };
        let identity = self.identity;
        let mut noise = builder(&identity)?.build_responder().map_err(failed)?;
        read_message(&mut noise, &message)?;
        write_message(&mut noise, identity.payload(), out)?;
        ExpectMessage3 { identity, noise: Box::new(noise) }.advance(input)
    }
}

/// The initiator, who has sent nothing but an ephemeral key.
struct ExpectMessage2 {
    identity: Arc<Identity>,
    expected: Option<PeerId>,
    noise: Box<HandshakeState>,
}

impl ExpectMessage2 {
    fn advance(mut self, input: &mut RecvBuf, out: &mut Vec<u8>) -> Result<Progress> {
        let Some(message) = take_message(input, MESSAGE_2)? else {
            return Ok(Progress::More(Handshake(State::ExpectMessage2(self))));
        };
        let peer = read_peer(&mut self.noise, &message, &self.identity)?;
        // Message 3 says who we are: it is for nobody but the peer that was meant.
        if let Some(expected) = self.expected.filter(|expected| *expected != peer.id) {
            let what = format!("{} answered where {expected} was dialled", peer.id);
            return Err(Error::new(ErrorCode::WrongPeer, what));
        }
        if peer.id == self.identity.peer_id() {
            return Err(ourselves());
        }
        write_message(&mut self.noise, self.identity.payload(), out)?;
        Ok(Progress::Done(secure(&mut self.noise, &self.identity, peer)))
    }
}

/// The responder, who has answered and does not know whom.
struct ExpectMessage3 {
    identity: Arc<Identity>,
    noise: Box<HandshakeState>,
}

impl ExpectMessage3 {
    fn advance(mut self, input: &mut RecvBuf) -> Result<Progress> {
        let Some(message) = take_message(input, MESSAGE_3)? else {
            return Ok(Progress::More(Handshake(State::ExpectMessage3(self))));
        };
        let peer = read_peer(&mut self.noise, &message, &self.identity)?;
        if peer.id == self.identity.peer_id() {
            return Err(ourselves());
        }
        Ok(Progress::Done(secure(&mut self.noise, &self.identity, peer)))
    }
}

/// What a verified payload says about its sender.
struct Peer {
    id: PeerId,
    noise_static: StaticKey,
    early_muxer: Option<String>,
    capabilities: Option<Capabilities>,
}

fn builder(identity: &Identity) -> Result<snow::Builder<'_>> {
    let params = PROTOCOL.parse().expect("snow knows this protocol");
    snow::Builder::with_resolver(params, Box::new(AwsLc(identity.noise().clone())))
        .local_private_key(identity.noise().private())
        .map_err(failed)
}

/// The next message without its length, once it is whole. A length that cannot
/// be that of this message is refused before a byte of it is waited for.
fn take_message(input: &mut RecvBuf, lengths: RangeInclusive<usize>) -> Result<Option<Vec<u8>>> {
    let Some((&prefix, rest)) = input.readable().split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(prefix));
    if !lengths.contains(&len) {
        let what = format!("a Noise message of {len} bytes where {lengths:?} are possible");
        return Err(Error::new(ErrorCode::HandshakeFailed, what));
    }
    let message = rest.get(..len).map(<[u8]>::to_vec);
    if message.is_some() {
        input.consume(PREFIX + len);
    }
    Ok(message)
}

fn read_message(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>> {
    let mut payload = vec![0; message.len()];
    let len = noise.read_message(message, &mut payload).map_err(failed)?;
    payload.truncate(len);
    Ok(payload)
}

/// Reads a message that carries a static key and says whose that is.
fn read_peer(noise: &mut HandshakeState, message: &[u8], ours: &Identity) -> Result<Peer> {
    let bytes = read_message(noise, message)?;
    let payload = Payload::decode_bounded(&bytes)?;
    let noise_static = noise.get_remote_static().expect("this message brought the static key");
    Ok(Peer {
        id: ours.recognize(&payload, noise_static)?,
        noise_static: noise_static.try_into().expect("a key of X25519"),
        early_muxer: payload.early_muxer(),
        capabilities: Capabilities::find(&bytes),
    })
}

fn write_message(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut message = vec![0; MAX_OVERHEAD + payload.len()];
    let len = noise.write_message(payload, &mut message).map_err(failed)?;
    let prefix = u16::try_from(len).expect("Noise messages are no longer than that");
    out.extend_from_slice(&prefix.to_be_bytes());
    out.extend_from_slice(&message[..len]);
    Ok(())
}

/// The end of the handshake: its keys become the frames' keys, and are wiped.
fn secure(noise: &mut HandshakeState, identity: &Identity, peer: Peer) -> Secured {
    let cipher = identity.capabilities().cipher(peer.capabilities);
    let raw = Zeroizing::new(noise.dangerously_get_raw_split());
    let split = Split { initiator: Secret::new(raw.0), responder: Secret::new(raw.1) };
    let split = match cipher {
        Cipher::ChaCha20Poly1305 => split,
        Cipher::Aes256Gcm => split.derive(noise.get_handshake_hash()),
    };
    let Split { initiator, responder } = split;
    let (ours, theirs) =
        if noise.is_initiator() { (initiator, responder) } else { (responder, initiator) };
    Secured {
        peer: peer.id,
        peer_static: peer.noise_static,
        early_muxer: peer.early_muxer,
        peer_capabilities: peer.capabilities,
        cipher,
        sealer: Sealer::new(cipher, ours),
        opener: Opener::new(cipher, theirs),
    }
}

fn ourselves() -> Error {
    Error::new(ErrorCode::InvalidInput, "the peer has our own key")
}

fn failed(e: snow::Error) -> Error {
    Error::with_source(ErrorCode::HandshakeFailed, format!("the Noise handshake failed: {e}"), e)
}

const PROTOCOL: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// The length in front of every message.
const PREFIX: usize = 2;

/// How long each message may be: its keys, their tags, and the payload's tag.
/// The first one has no payload, for nothing would keep it secret.
const MESSAGE_1: RangeInclusive<usize> = DH_LEN..=DH_LEN;
const MESSAGE_2: RangeInclusive<usize> = MAX_OVERHEAD..=MAX_OVERHEAD + MAX_PAYLOAD;
const MESSAGE_3: RangeInclusive<usize> = OVERHEAD_3..=OVERHEAD_3 + MAX_PAYLOAD;
const MAX_OVERHEAD: usize = DH_LEN + OVERHEAD_3;
const OVERHEAD_3: usize = DH_LEN + TAG + TAG;
