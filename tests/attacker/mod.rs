//! A peer with wire code of its own, which keeps no rule that it is not held to.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use pointsub::{Host, Keypair};
use snow::TransportState;

pub(crate) mod resume;

/// A secured connection to a victim. What the victim says is drained by a thread.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    noise: TransportState,
    next: u32,
}

/// Of a key that the victim has not seen.
pub(crate) fn raw(victim: &Host) -> Raw {
    let key = Keypair::generate_ed25519();
    Raw::dial(crate::common::socket_address(victim), &key).expect("dial")
}

/// Whether the other side closes it, soon. Whoever else reads it may read its end.
pub(crate) fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut bytes = [0; 64];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// How far a connection gets before it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connected,
    AskedForNoise,
    SentEphemeral,
    Secured,
    AskedForYamux,
}

pub(crate) const PHASES: [Phase; 5] = [
    Phase::Connected,
    Phase::AskedForNoise,
    Phase::SentEphemeral,
    Phase::Secured,
    Phase::AskedForYamux,
];

impl Raw {
    pub(crate) fn dial(victim: SocketAddr, key: &Keypair) -> io::Result<Raw> {
        let raw = Raw::quiet(victim, key)?;
        // The answers to the muxer's negotiation, and all that follows.
        let mut drain = raw.socket.try_clone()?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while drain.read(&mut bytes).is_ok_and(|n| n > 0) {}
        });
        Ok(raw)
    }

    /// Without the thread: what the victim says stays in the kernel.
    pub(crate) fn quiet(victim: SocketAddr, key: &Keypair) -> io::Result<Raw> {
        let socket = connect(victim)?;
        let mut noise = secure(&socket, key, &[], Phase::AskedForYamux)?.expect("all phases");
        let lines = [line("/multistream/1.0.0"), line("/yamux/1.0.0")].concat();
        (&socket).write_all(&seal(&mut noise, &lines))?;
        Ok(Raw { socket, noise, next: 1 })
    }

    /// Sends yamux frames. An error: the victim has closed.
    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        for piece in frames.chunks(65_000) {
            let sealed = seal(&mut self.noise, piece);
            self.socket.write_all(&sealed)?;
        }
        Ok(())
    }

    /// What the victim says next; only where no thread drains it.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<u8>> {
        let frame = read_noise_frame(&self.socket)?;
        let mut plain = vec![0; frame.len()];
        let n = self.noise.read_message(&frame, &mut plain).map_err(io::Error::other)?;
        plain.truncate(n);
        Ok(plain)
    }

    /// Seals without sending.
    pub(crate) fn seal(&mut self, frames: &[u8]) -> Vec<u8> {
        seal(&mut self.noise, frames)
    }

    /// An id for a new stream.
    pub(crate) fn id(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The thread that drains has the socket too.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

pub(crate) fn connect(victim: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&victim, Duration::from_secs(20))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(socket)
}

/// Goes through the handshake up to a phase, with these Noise extensions.
pub(crate) fn secure(
    mut socket: &TcpStream,
    key: &Keypair,
    extensions: &[u8],
    until: Phase,
) -> io::Result<Option<TransportState>> {
    if until < Phase::AskedForNoise {
        return Ok(None);
    }
    let lines = [line("/multistream/1.0.0"), line("/noise")].concat();
    socket.write_all(&lines)?;
    if until < Phase::SentEphemeral {
        return Ok(None);
    }
    let builder = snow::Builder::new("Noise_XX_25519_ChaChaPoly_SHA256".parse().expect("known"));
    let fixed = builder.generate_keypair().expect("random numbers");
    let mut noise = builder
        .local_private_key(&fixed.private)
        .and_then(snow::Builder::build_initiator)
        .expect("an initiator");
    let mut message = vec![0; 65_535];
    let n = noise.write_message(&[], &mut message).expect("message 1");
    socket.write_all(&frame(&message[..n]))?;
    if until < Phase::Secured {
        return Ok(None);
    }
    skip_noise_lines(socket)?;
    noise.read_message(&read_noise_frame(socket)?, &mut message).map_err(io::Error::other)?;
    let said = payload(key, &fixed.public, extensions);
    let n = noise.write_message(&said, &mut message).expect("message 3");
    socket.write_all(&frame(&message[..n]))?;
    Ok(Some(noise.into_transport_mode().expect("the handshake is complete")))
}

/// The other side of the handshake, where a victim dials.
pub(crate) fn answer_secure(
    mut socket: &TcpStream,
    key: &Keypair,
    extensions: &[u8],
) -> io::Result<TransportState> {
    skip_noise_lines(socket)?;
    socket.write_all(&[line("/multistream/1.0.0"), line("/noise")].concat())?;
    let builder = snow::Builder::new("Noise_XX_25519_ChaChaPoly_SHA256".parse().expect("known"));
    let fixed = builder.generate_keypair().expect("random numbers");
    let mut noise = builder
        .local_private_key(&fixed.private)
        .and_then(snow::Builder::build_responder)
        .expect("a responder");
    let mut message = vec![0; 65_535];
    noise.read_message(&read_noise_frame(socket)?, &mut message).map_err(io::Error::other)?;
    let said = payload(key, &fixed.public, extensions);
    let n = noise.write_message(&said, &mut message).expect("message 2");
    socket.write_all(&frame(&message[..n]))?;
    noise.read_message(&read_noise_frame(socket)?, &mut message).map_err(io::Error::other)?;
    Ok(noise.into_transport_mode().expect("the handshake is complete"))
}

fn skip_noise_lines(mut socket: &TcpStream) -> io::Result<()> {
    for expected in ["/multistream/1.0.0", "/noise"] {
        let mut answer = vec![0; line(expected).len()];
        socket.read_exact(&mut answer)?;
    }
    Ok(())
}

fn read_noise_frame(mut socket: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    socket.read_exact(&mut length)?;
    let mut frame = vec![0; u16::from_be_bytes(length).into()];
    socket.read_exact(&mut frame)?;
    Ok(frame)
}

/// A yamux header: 0 data, 1 window update, 2 ping, 3 go away.
pub(crate) fn header(kind: u8, flags: u16, id: u32, length: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[1] = kind;
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..8].copy_from_slice(&id.to_be_bytes());
    header[8..].copy_from_slice(&length.to_be_bytes());
    header
}

pub(crate) const SYN: u16 = 1;
pub(crate) const ACK: u16 = 2;
pub(crate) const FIN: u16 = 4;
pub(crate) const RST: u16 = 8;

/// The first bytes of a stream: the protocol it wants.
pub(crate) fn opening(protocol: &str) -> Vec<u8> {
    [line("/multistream/1.0.0"), line(protocol)].concat()
}

/// A line of multistream-select.
pub(crate) fn line(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("a short line");
    assert!(length < 128);
    [&[length], text.as_bytes(), b"\n"].concat()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a Noise message");
    [&length.to_be_bytes(), message].concat()
}

fn seal(noise: &mut TransportState, plain: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; plain.len() + 16];
    noise.write_message(plain, &mut sealed).expect("sealed");
    frame(&sealed)
}

/// The signed key and the extensions, in protobuf.
fn payload(key: &Keypair, noise_key: &[u8], extensions: &[u8]) -> Vec<u8> {
    let signed = [b"noise-libp2p-static-key:", noise_key].concat();
    let signature = key.sign(&signed).expect("a signature");
    let mut payload = Vec::new();
    let fields =
        [(0x0a, key.public().encode_protobuf()), (0x12, signature), (0x22, extensions.to_vec())];
    for (field, bytes) in fields.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        payload.push(field);
        payload.push(u8::try_from(bytes.len()).expect("a short field"));
        payload.extend(bytes);
    }
    payload
}
