//! Nodes that we did not write, as far as an upgrade sees them: scripts that say what
//! go, js, rust and py say, in their order and portions. Their Noise is snow with its
//! own cryptography and its own transport frames.

use libp2p_identity::{Keypair, PeerId, PublicKey};
use prost::Message;
use snow::{HandshakeState, TransportState};

use super::{Step, Upgrade, Upgraded};
use crate::error::{Error, Result};
use crate::proto::buf::RecvBuf;

/// Our side of a connection, the bytes that wait there, and those that it sent.
pub(super) struct Link {
    working: Option<Upgrade>,
    end: Option<Result<Box<Upgraded>>>,
    pub(super) input: RecvBuf,
    pub(super) sent: Vec<u8>,
    /// How many bytes arrive at a time, over and over.
    portions: Vec<usize>,
    delivered: usize,
}

impl Link {
    /// Starts the upgrade; a dialer says its first words.
    pub(super) fn new(upgrade: Upgrade, portions: &[usize]) -> Link {
        let mut link = Link {
            working: Some(upgrade),
            end: None,
            input: RecvBuf::default(),
            sent: Vec::new(),
            portions: portions.to_vec(),
            delivered: 0,
        };
        link.advance();
        link
    }

    /// `bytes` arrive, in portions, each of which is seen before the next one comes.
    pub(super) fn deliver(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let portion = self.portions[self.delivered % self.portions.len()];
            let (now, later) = bytes.split_at(portion.min(bytes.len()));
            self.input.extend(now);
            self.advance();
            self.delivered += 1;
            bytes = later;
        }
    }

    fn advance(&mut self) {
        let Some(upgrade) = self.working.take() else { return };
        match upgrade.advance(&mut self.input, &mut self.sent) {
            Ok(Step::More(upgrade)) => self.working = Some(upgrade),
            Ok(Step::Done(upgraded)) => self.end = Some(Ok(upgraded)),
            Err(error) => self.end = Some(Err(error)),
        }
    }

    /// What was sent and not taken yet.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
    }

    /// Takes `n` bytes of what was sent: all of them must be there.
    pub(super) fn take(&mut self, n: usize) -> Vec<u8> {
        assert!(self.sent.len() >= n, "we said {:?} and {n} bytes are due", self.sent);
        self.sent.drain(..n).collect()
    }

    pub(super) fn expect_line(&mut self, text: &str) {
        let expected = line(text);
        assert_eq!(
            self.take(expected.len()).escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    /// Takes a Noise message or frame, without its length.
    pub(super) fn take_frame(&mut self) -> Vec<u8> {
        let prefix = self.take(2);
        self.take(usize::from(u16::from_be_bytes([prefix[0], prefix[1]])))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn ended_well(&self) -> bool {
        matches!(self.end, Some(Ok(_)))
    }

    pub(super) fn upgraded(&mut self) -> Upgraded {
        *self.end.take().expect("the upgrade is over").expect("and went well")
    }

    pub(super) fn error(&mut self) -> Error {
        self.end.take().expect("the upgrade is over").expect_err("and failed")
    }
}

/// Whose habits a script follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Go,
    /// go-libp2p 0.24, which begins with a proposal that wants `na`.
    GoSimultaneous,
    Js,
    Rust,
    Py,
}

impl Style {
    pub(super) const ALL: [Style; 5] =
        [Style::Go, Style::GoSimultaneous, Style::Js, Style::Rust, Style::Py];

    /// Whether it offers yamux inside the handshake.
    pub(super) fn is_early(self) -> bool {
        !matches!(self, Style::Rust | Style::Py)
    }

    fn muxers(self) -> &'static [&'static str] {
        if self.is_early() { &["/mplex/6.7.0", YAMUX] } else { &[] }
    }
}

/// Dials us and upgrades. Returns its end of the secured connection.
pub(super) fn dial(link: &mut Link, style: Style) -> TransportState {
    let mut noise = dial_noise(link, style);
    if style.is_early() {
        return noise;
    }
    if style == Style::Py {
        let header = frame(&mut noise, &line(HEADER));
        link.deliver(&header);
        assert_eq!(unframe(&mut noise, link), line(HEADER));
        let proposal = frame(&mut noise, &line(YAMUX));
        link.deliver(&proposal);
        assert_eq!(unframe(&mut noise, link), line(YAMUX));
    } else {
        let lines = [line(HEADER), line(YAMUX)].concat();
        let proposal = frame(&mut noise, &lines);
        link.deliver(&proposal);
        let mut answer = unframe(&mut noise, link);
        if answer.len() < lines.len() {
            answer.extend(unframe(&mut noise, link));
        }
        assert_eq!(answer, lines);
    }
    noise
}

/// Dials us as far as Noise goes.
pub(super) fn dial_noise(link: &mut Link, style: Style) -> TransportState {
    let keys = builder().generate_keypair().unwrap();
    let mut noise = builder().local_private_key(&keys.private).unwrap().build_initiator().unwrap();
    let first = message(&mut noise, &[]);
    let (header, proposal) = (line(HEADER), line(NOISE));
    match style {
        Style::Go => link.deliver(&[header, proposal].concat()),
        Style::GoSimultaneous => {
            link.deliver(&[header, line("/libp2p/simultaneous-connect"), proposal].concat());
        }
        Style::Js => {
            link.deliver(&header[..1]);
            link.deliver(&[&header[1..], &proposal].concat());
        }
        Style::Rust => link.deliver(&[header, proposal, first.clone()].concat()),
        Style::Py => {
            link.deliver(&header);
            link.expect_line(HEADER);
            link.deliver(&proposal);
        }
    }
    if style != Style::Py {
        link.expect_line(HEADER);
    }
    if style == Style::GoSimultaneous {
        link.expect_line("na");
    }
    link.expect_line(NOISE);
    if style != Style::Rust {
        link.deliver(&first);
    }
    assert_offers_yamux(&read_message(&mut noise, &link.take_frame()));
    let last = message(&mut noise, &payload(&keys.public, style));
    link.deliver(&last);
    noise.into_transport_mode().unwrap()
}

/// Accepts our dial and upgrades. Returns its end of the secured connection.
pub(super) fn accept(link: &mut Link, style: Style) -> TransportState {
    let mut noise = accept_noise(link, style);
    if style.is_early() {
        return noise;
    }
    let lines = [line(HEADER), line(YAMUX)].concat();
    assert_eq!(unframe(&mut noise, link), lines, "header and proposal come at once");
    let portions = if style == Style::Py { vec![line(HEADER), line(YAMUX)] } else { vec![lines] };
    for portion in portions {
        let answer = frame(&mut noise, &portion);
        link.deliver(&answer);
    }
    noise
}

/// Accepts our dial as far as Noise goes.
pub(super) fn accept_noise(link: &mut Link, style: Style) -> TransportState {
    let keys = builder().generate_keypair().unwrap();
    let mut noise = builder().local_private_key(&keys.private).unwrap().build_responder().unwrap();
    link.expect_line(HEADER);
    link.expect_line(NOISE);
    assert!(read_message(&mut noise, &link.take_frame()).is_empty());
    let second = message(&mut noise, &payload(&keys.public, style));
    match style {
        Style::Py => {
            link.deliver(&line(HEADER));
            link.deliver(&line(NOISE));
            link.deliver(&second);
        }
        Style::Js => {
            let answer = [line(HEADER), line(NOISE)].concat();
            link.deliver(&answer[..1]);
            link.deliver(&answer[1..]);
            link.deliver(&second);
        }
        _ => link.deliver(&[line(HEADER), line(NOISE), second].concat()),
    }
    assert_offers_yamux(&read_message(&mut noise, &link.take_frame()));
    noise.into_transport_mode().unwrap()
}

/// The identity of every script.
pub(super) fn peer_id() -> PeerId {
    keypair().public().to_peer_id()
}

/// A multistream line.
pub(super) fn line(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len() + 1).expect("the lines here are short");
    [&[len], text.as_bytes(), b"\n"].concat()
}

/// A Noise frame with its length.
pub(super) fn frame(noise: &mut TransportState, plain: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; plain.len() + 16];
    let len = noise.write_message(plain, &mut sealed).unwrap();
    [&u16::try_from(len).unwrap().to_be_bytes()[..], &sealed].concat()
}

/// The contents of the next Noise frame that we sent.
pub(super) fn unframe(noise: &mut TransportState, link: &mut Link) -> Vec<u8> {
    let sealed = link.take_frame();
    let mut plain = vec![0; sealed.len()];
    let len = noise.read_message(&sealed, &mut plain).unwrap();
    plain.truncate(len);
    plain
}

fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([77; 32]).unwrap()
}

fn builder() -> snow::Builder<'static> {
    snow::Builder::new("Noise_XX_25519_ChaChaPoly_SHA256".parse().unwrap())
}

fn message(noise: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; payload.len() + 200];
    let len = noise.write_message(payload, &mut message).unwrap();
    [&u16::try_from(len).unwrap().to_be_bytes()[..], &message[..len]].concat()
}

fn read_message(noise: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; message.len()];
    let len = noise.read_message(message, &mut payload).unwrap();
    payload.truncate(len);
    payload
}

fn payload(noise_static: &[u8], style: Style) -> Vec<u8> {
    let signed = [b"noise-libp2p-static-key:", noise_static].concat();
    let muxers = style.muxers().iter().map(|muxer| (*muxer).to_owned()).collect();
    Payload {
        identity_key: keypair().public().encode_protobuf(),
        identity_sig: keypair().sign(&signed).unwrap(),
        extensions: style.is_early().then_some(Extensions { muxers }),
    }
    .encode_to_vec()
}

fn assert_offers_yamux(payload: &[u8]) {
    let payload = Payload::decode(payload).unwrap();
    PublicKey::try_decode_protobuf(&payload.identity_key).unwrap();
    assert_eq!(payload.extensions.unwrap().muxers, [YAMUX]);
}

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    extensions: Option<Extensions>,
}

#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(string, repeated, tag = "2")]
    muxers: Vec<String>,
}

pub(super) const HEADER: &str = "/multistream/1.0.0";
pub(super) const NOISE: &str = "/noise";
pub(super) const YAMUX: &str = "/yamux/1.0.0";
