//! What goes through one stream, in every pairing of the two libraries on the wire that
//! they share: `cargo bench --manifest-path tests/interop/Cargo.toml [-- SECONDS]`.
//!
//! Both ends are in this process, the writer writes 64 KiB at a time. Rounds take turns,
//! and medians are printed, beside what libp2p reaches with itself.

use pointsub::{Cipher, Host};
use pointsub_interop::{Libp2pNode, Node, PointsubNode};
use std::io::{Read, Write};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const PROTOCOL: &str = "/sink/1.0.0";

/// Makes a node.
type Make = fn() -> Box<dyn Node>;

fn main() {
    // What cargo passes is not for us.
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1.0);
    let pairs: [(&str, Make, Make); 4] = [
        ("libp2p to libp2p", libp2p, libp2p),
        ("pointsub to libp2p", pointsub, libp2p),
        ("libp2p to pointsub", libp2p, pointsub),
        ("pointsub to pointsub", pointsub, pointsub),
    ];
    let mut rates = pairs.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, client, server), rates) in pairs.iter().zip(&mut rates) {
            rates.push(rate(&*server(), &*client(), Duration::from_secs_f64(seconds)));
        }
    }
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    for ((name, ..), median) in pairs.iter().zip(medians) {
        println!("{name:22}{median:6.2} GiB/s {:5.2} x libp2p", median / medians[0]);
    }
}

fn libp2p() -> Box<dyn Node> {
    Box::new(Libp2pNode::new())
}

/// As it is towards a stranger: ChaChaPoly, and no sessions.
fn pointsub() -> Box<dyn Node> {
    let listen = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    let host = Host::builder().listen(listen).ciphers(&[Cipher::ChaCha20Poly1305]).resumable(false);
    Box::new(PointsubNode { host: host.build().expect("a host") })
}

/// GiB a second.
fn rate(server: &dyn Node, client: &dyn Node, time: Duration) -> f64 {
    let (report, reported) = mpsc::channel();
    let sink = move |mut stream: pointsub_interop::Duplex| {
        let (mut buf, mut all) = (vec![0; 256 * 1024], 0);
        loop {
            match stream.reader.read(&mut buf)? {
                0 => break,
                n => all += n,
            }
        }
        report.send((all, Instant::now())).expect("it waits");
        Ok(())
    };
    server.serve(PROTOCOL, Arc::new(sink));
    let mut stream = client.open(&server.address(), PROTOCOL).expect("open");
    let content = vec![0x5A; 64 * 1024];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.writer.write_all(&content).expect("write");
    }
    stream.writer.finish().expect("finish");
    let (all, end) = reported.recv().expect("a report");
    all as f64 / (1u64 << 30) as f64 / end.duration_since(start).as_secs_f64()
}
