//! A peer that knows resumable streams, and keeps none of their rules that it is not
//! held to.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use pointsub::Keypair;
use prost::Message;
use snow::TransportState;

use super::{ACK, Phase, RST, SYN, answer_secure, connect, header, line};
use super::{read_noise_frame, seal, secure};

/// A connection to a victim, one frame at a time.
pub(crate) struct Hostile {
    pub(crate) socket: TcpStream,
    noise: TransportState,
    /// What was opened and not taken yet.
    plain: VecDeque<u8>,
    next: u32,
}

/// A yamux frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) stream: u32,
    pub(crate) length: u32,
    pub(crate) body: Vec<u8>,
}

/// The opener's head.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    #[prost(bool, tag = "3")]
    pub(crate) opening: bool,
    #[prost(uint64, tag = "4")]
    pub(crate) received: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) window: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) timeout_ms: u32,
    #[prost(string, tag = "7")]
    pub(crate) protocol: String,
}

/// The responder's: it goes on with the session unless `gone` says why not.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(uint32, tag = "1")]
    pub(crate) gone: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) received: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) window: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) timeout_ms: u32,
}

pub(crate) const UNKNOWN: u32 = 1;
pub(crate) const INVALID: u32 = 3;

/// What became of a Hello.
#[derive(Debug, PartialEq)]
pub(crate) enum Fate {
    Answered(Answer),
    Reset,
    /// The victim has closed the connection.
    Closed,
}

impl Fate {
    pub(crate) fn gone(&self) -> Option<u32> {
        match self {
            Fate::Answered(answer) => Some(answer.gone),
            _ => None,
        }
    }

    /// The victim goes on with the session from there.
    #[track_caller]
    pub(crate) fn welcome(self) -> Answer {
        match self {
            Fate::Answered(answer) if answer.gone == 0 => answer,
            other => panic!("no welcome: {other:?}"),
        }
    }
}

impl Hello {
    /// The first of a new session.
    pub(crate) fn opening(id: [u8; 16], protocol: &str) -> Hello {
        Hello {
            id: id.to_vec(),
            epoch: 1,
            opening: true,
            received: 0,
            window: 256 << 10,
            timeout_ms: 30_000,
            protocol: protocol.into(),
        }
    }

    pub(crate) fn again(&self, epoch: u64, received: u64) -> Hello {
        Hello { epoch, received, opening: false, ..self.clone() }
    }
}

impl Hostile {
    pub(crate) fn dial(victim: SocketAddr, key: &Keypair) -> io::Result<Hostile> {
        let socket = connect(victim)?;
        let noise = secure(&socket, key, &capabilities(), Phase::AskedForYamux)?;
        let mut hostile = Hostile::new(socket, noise.expect("all phases"), 1);
        hostile.send(&[line(MULTISTREAM), line("/yamux/1.0.0")].concat())?;
        hostile.skip_yamux_lines()?;
        Ok(hostile)
    }

    /// Is dialled by a victim.
    pub(crate) fn accept(listener: &TcpListener, key: &Keypair) -> io::Result<Hostile> {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let noise = answer_secure(&socket, key, &capabilities())?;
        let mut hostile = Hostile::new(socket, noise, 2);
        hostile.skip_yamux_lines()?;
        hostile.send(&[line(MULTISTREAM), line("/yamux/1.0.0")].concat())?;
        Ok(hostile)
    }

    fn new(socket: TcpStream, noise: TransportState, next: u32) -> Hostile {
        Hostile { socket, noise, plain: VecDeque::new(), next }
    }

    fn skip_yamux_lines(&mut self) -> io::Result<()> {
        self.take(line(MULTISTREAM).len() + line("/yamux/1.0.0").len()).map(drop)
    }

    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        for piece in frames.chunks(65_000) {
            let sealed = seal(&mut self.noise, piece);
            self.socket.write_all(&sealed)?;
        }
        Ok(())
    }

    /// Opens a stream and says Hello on it.
    pub(crate) fn hello(&mut self, hello: &Hello) -> io::Result<u32> {
        self.open(&framed(hello))
    }

    /// Opens a stream for a session and says these bytes there.
    pub(crate) fn open(&mut self, head: &[u8]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let first = [&line(MULTISTREAM), &line(RESUME), head].concat();
        self.data(stream, SYN, &first)?;
        Ok(stream)
    }

    pub(crate) fn data(&mut self, stream: u32, flags: u16, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("a short frame");
        self.send(&[&header(0, flags, stream, length)[..], bytes].concat())
    }

    /// Confirms so much.
    pub(crate) fn received(&mut self, stream: u32, received: u32) -> io::Result<()> {
        self.send(&header(0x50, 0, stream, received))
    }

    /// Says Hello on a stream of its own and hears what becomes of it.
    pub(crate) fn ask(&mut self, hello: &Hello) -> Fate {
        match self.hello(hello) {
            Ok(stream) => self.fate(stream),
            Err(_) => Fate::Closed,
        }
    }

    /// The answer to a Hello.
    pub(crate) fn fate(&mut self, stream: u32) -> Fate {
        let lines = line(MULTISTREAM).len() + line(RESUME).len();
        let mut said = Vec::new();
        loop {
            let Ok(frame) = self.frame() else { return Fate::Closed };
            if frame.stream != stream || frame.kind == 0x50 {
                continue;
            }
            said.extend(frame.body);
            let Some(head) = said.get(lines..).filter(|head| !head.is_empty()) else {
                if frame.flags & RST != 0 {
                    return Fate::Reset;
                }
                continue;
            };
            if head[0] < 128 && head.len() > usize::from(head[0]) {
                let head = &head[1..=usize::from(head[0])];
                return Fate::Answered(Answer::decode(head).expect("an answer"));
            }
            if frame.flags & RST != 0 {
                return Fate::Reset;
            }
        }
    }

    /// Waits for a stream of the victim's and its Hello.
    pub(crate) fn await_hello(&mut self) -> io::Result<(u32, Hello)> {
        let lines = line(MULTISTREAM).len() + line(RESUME).len();
        let mut streams = std::collections::HashMap::<u32, Vec<u8>>::new();
        loop {
            let frame = self.frame()?;
            let said = streams.entry(frame.stream).or_default();
            said.extend(frame.body);
            if !said.starts_with(&[line(MULTISTREAM), line(RESUME)].concat()) {
                continue;
            }
            let Some(head) = said.get(lines..).filter(|head| !head.is_empty()) else { continue };
            if head[0] < 128 && head.len() > usize::from(head[0]) {
                let hello = Hello::decode(&head[1..=usize::from(head[0])]).expect("a Hello");
                return Ok((frame.stream, hello));
            }
        }
    }

    /// Agrees to the victim's protocol and says this behind it.
    pub(crate) fn answer(&mut self, stream: u32, head: &[u8]) -> io::Result<()> {
        let lines = [line(MULTISTREAM), line(RESUME)].concat();
        self.data(stream, ACK, &[&lines[..], head].concat())
    }

    /// Reads payload of the stream, `len` bytes of it.
    pub(crate) fn payload(&mut self, stream: u32, len: usize) -> io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        while payload.len() < len {
            let frame = self.frame()?;
            if frame.stream == stream && frame.kind == 0 {
                payload.extend(frame.body);
            }
        }
        Ok(payload)
    }

    /// The next frame; pings are answered and passed over.
    pub(crate) fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let head = self.take(12)?;
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("4"));
            let (kind, flags) = (head[1], u16::from_be_bytes([head[2], head[3]]));
            let (stream, length) = (number(4), number(8));
            if kind == 2 {
                if flags & SYN != 0 {
                    self.send(&header(2, ACK, 0, length))?;
                }
                continue;
            }
            let body = if kind == 0 { self.take(length as usize)? } else { Vec::new() };
            return Ok(Frame { kind, flags, stream, length, body });
        }
    }

    /// Nothing but the end comes any more.
    pub(crate) fn is_closed(&mut self) -> bool {
        loop {
            match self.frame() {
                Ok(_) => {}
                Err(e) => {
                    use io::ErrorKind::{TimedOut, WouldBlock};
                    return !matches!(e.kind(), TimedOut | WouldBlock);
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.plain.len() < len {
            let frame = read_noise_frame(&self.socket)?;
            let mut plain = vec![0; frame.len()];
            let n = self.noise.read_message(&frame, &mut plain).map_err(io::Error::other)?;
            self.plain.extend(&plain[..n]);
        }
        Ok(self.plain.drain(..len).collect())
    }
}

/// With its length in front.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// ChaCha20-Poly1305, resumable streams: as the library's hosts say it of themselves.
fn capabilities() -> Vec<u8> {
    let said = [b"psub\x01", &1_u32.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
    let mut field = Vec::new();
    prost::encoding::bytes::encode(20_531, &said, &mut field);
    field
}

const MULTISTREAM: &str = "/multistream/1.0.0";
const RESUME: &str = "/pointsub/resume/1.0.0";
