//! The path of every byte, without a socket: `Tx::data`, `Rx::poll`,
//! `Body::take_into`.
//!
//! The modules are compiled into the bench itself, because what it measures is
//! no part of the public interface.

#![allow(dead_code, unreachable_pub, unused_imports, missing_docs)]

#[path = "../src/backoff.rs"]
mod backoff;
#[path = "../src/resources/buffers.rs"]
mod buffers;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/fields.rs"]
mod fields;
#[cfg(test)]
#[path = "../src/fuzz.rs"]
mod fuzz;
#[path = "../src/resources/proofs.rs"]
mod proofs;
#[path = "../src/proto/mod.rs"]
mod proto;
#[path = "../src/random.rs"]
mod random;
mod resources {
    pub(crate) use super::{buffers, proofs};
}
#[cfg(test)]
#[path = "../src/testing.rs"]
mod testing;
#[path = "../src/varint.rs"]
mod varint;

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use libp2p_identity::Keypair;

use proto::buf::RecvBuf;
use proto::connection::{Step, Upgrade, Upgraded};
use proto::noise::Identity;
use proto::yamux::{Event, Flow, Role, Rx, StreamId, Tx};

const ID: StreamId = 1;

/// A stream that is open, from its sender to its receiver.
struct Path {
    tx: Tx,
    sends: Arc<Flow>,
    rx: Rx<()>,
    receives: Arc<Flow>,
    buf: RecvBuf,
    space: Vec<u8>,
}

impl Path {
    fn new() -> Path {
        let (dialer, listener) = upgraded();
        let (sends, receives) = (Flow::new(), Flow::new());
        let mut rx = Rx::new(listener.opener, Role::Listener, listener.leftover);
        rx.insert(ID, receives.clone(), ());
        let tx = Tx::new(dialer.sealer, Role::Dialer);
        let buf = RecvBuf::new(vec![0; 264 * 1024]);
        Path { tx, sends, rx, receives, buf, space: vec![0; 128 * 1024] }
    }

    /// What a write and a read of `data` cost without the kernel; what the
    /// kernel copies is copied here too.
    fn carry(&mut self, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            self.tx.lend(buffers::take(buffers::LARGE_BATCH));
            at += self.tx.data(ID, false, &self.sends, &[IoSlice::new(&data[at..])]).unwrap();
            let batch = self.tx.take().unwrap();
            let n = batch.pending().len();
            self.buf.space()[..n].copy_from_slice(batch.pending());
            self.buf.filled(n);
            drop(batch);
            self.receive();
        }
    }

    fn receive(&mut self) {
        while let Some(event) = self.rx.poll(&mut self.buf).unwrap() {
            let Event::Data { body, .. } = event else { panic!("only data was sent") };
            let n = body.len();
            body.take_into(&mut self.space[..n]).unwrap();
            black_box(&self.space[..n]);
            self.receives.grant(n as u32);
            self.sends.add_credit(n as u32).unwrap();
        }
    }
}

fn upgraded() -> (Upgraded, Upgraded) {
    let new = || Arc::new(Identity::new(Keypair::generate_ed25519()).unwrap());
    let mut upgrades = [Upgrade::dialer(new(), None), Upgrade::listener(new())].map(Some);
    let mut bufs = [RecvBuf::default(), RecvBuf::default()];
    let mut ends = [None, None];
    let mut i = 0;
    while ends.iter().any(Option::is_none) {
        let mut out = Vec::new();
        if let Some(upgrade) = upgrades[i].take() {
            match upgrade.advance(&mut bufs[i], &mut out).unwrap() {
                Step::More(upgrade) => upgrades[i] = Some(upgrade),
                Step::Done(upgraded) => ends[i] = Some(*upgraded),
            }
        }
        i = 1 - i;
        bufs[i].extend(&out);
    }
    let [dialer, listener] = ends.map(|end| end.expect("the loop ends with both"));
    (dialer, listener)
}

fn carry(c: &mut Criterion) {
    let mut group = c.benchmark_group("yamux");
    for (name, n) in [("64 B", 64), ("4 KiB", 4096), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let (mut path, data) = (Path::new(), vec![0x5a; n]);
        group.throughput(Throughput::Bytes(n as u64));
        group.bench_function(name, |b| b.iter(|| path.carry(&data)));
    }
    group.finish();
}

criterion_group!(benches, carry);
criterion_main!(benches);
