//! Authenticated peers that send any frames whatsoever, and strangers that send any
//! bytes at any phase, harm nobody but themselves.
//!
//! `POINTSUB_FUZZ_SECONDS` says how long each runs (2 by default), and
//! `POINTSUB_FUZZ_SEED` where it starts; a failure prints the seed to start at.

mod attacker;
mod common;
mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use attacker::{PHASES, Raw, connect, header, line, opening, secure};
use common::{PROTOCOL, Pair, assert_carries, builder, dialling, socket_address, within};
use pointsub::Keypair;
use support::Content;

#[test]
fn any_frames_harm_only_their_sender() {
    for_a_while(|random, pair| {
        let key = Keypair::generate_ed25519();
        let Ok(mut raw) = Raw::dial(socket_address(&pair.server), &key) else { return };
        for _ in 0..random.below(40) {
            let frames: Vec<u8> = (0..random.below(20)).flat_map(|_| frame(random)).collect();
            if raw.send(&frames).is_err() {
                return;
            }
        }
    });
}

#[test]
fn any_bytes_at_any_phase_harm_only_their_sender() {
    for_a_while(|random, pair| {
        let key = Keypair::generate_ed25519();
        let phase = PHASES[random.below(PHASES.len())];
        let Ok(mut socket) = connect(socket_address(&pair.server)) else { return };
        let Ok(_) = secure(&socket, &key, &[], phase) else { return };
        let mut bytes = vec![0; random.below(70_000)];
        random.fill(&mut bytes);
        if random.below(2) == 0 && bytes.len() >= 2 {
            // A Noise frame by its length.
            let length = u16::try_from(bytes.len() - 2).unwrap_or(u16::MAX);
            bytes[..2].copy_from_slice(&length.to_be_bytes());
        }
        let _ = socket.write_all(&bytes);
    });
}

/// Mostly frames that make sense, so that they get far.
fn frame(random: &mut Content) -> Vec<u8> {
    let id = [0, 1, 3, 5, 7, 2, 4, random.next() as u32][random.below(8)];
    let flags = [0, 1, 2, 4, 8, 5, 9, random.next() as u16][random.below(8)];
    let body = match random.below(6) {
        0 => opening(PROTOCOL),
        1 => opening("/ipfs/ping/1.0.0"),
        2 => line("ls"),
        3 => opening("/ipfs/id/1.0.0"),
        _ => {
            let mut body = vec![0; random.below(200)];
            random.fill(&mut body);
            body
        }
    };
    let length = u32::try_from(body.len()).expect("short");
    match random.below(10) {
        0..6 => [&header(0, flags, id, length)[..], &body].concat(),
        6 => header(1, flags, id, random.next() as u32).to_vec(),
        7 => header(1, flags, id, random.below(1 << 18) as u32).to_vec(),
        8 => header(2, flags, 0, random.next() as u32).to_vec(),
        _ => match random.below(20) {
            0 => body,
            1 => header(random.below(6) as u8, flags, id, length).to_vec(),
            _ => header(0, flags, id, 0).to_vec(),
        },
    }
}

/// Attacks from one seed after the other, while an honest conn goes on.
fn for_a_while(mut attack: impl FnMut(&mut Content, &Pair)) {
    let setting = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seconds = setting("POINTSUB_FUZZ_SECONDS").unwrap_or(2);
    let first = setting("POINTSUB_FUZZ_SEED").unwrap_or(1);
    within(seconds + 60, || {
        let pair = Pair::of(builder().build().expect("a host"), dialling());
        let (mut near, mut far) = pair.connect();
        let start = Instant::now();
        let mut seed = first;
        while start.elapsed() < Duration::from_secs(seconds) {
            let shown = Seed(seed);
            attack(&mut Content::new(seed), &pair);
            assert_carries(&mut near, &mut far, &seed.to_le_bytes());
            std::mem::forget(shown);
            seed += 1;
            // Conns that the attacker opened are for nobody.
            pair.listener.set_nonblocking(true).expect("set");
            while pair.listener.accept().is_ok() {}
        }
        pair.listener.set_nonblocking(false).expect("set");
        eprintln!("{} seeds from {first}", seed - first);
    });
}

/// Dropped by a panic, it says where to start again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("failed with POINTSUB_FUZZ_SEED={}", self.0);
    }
}
