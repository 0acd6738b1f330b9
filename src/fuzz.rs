//! Fuzzing on stable Rust: proptest's strategies and its shrinking, against the clock
//! instead of a number of cases.
//!
//! A target is a test whose name begins with `fuzz_`. `POINTSUB_FUZZ_SECONDS` says how
//! long each runs (1 by default), and `POINTSUB_FUZZ_SEED` where it starts: a failure
//! prints its smallest input, and the seed to start at.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

/// Gives `target` one value after the other until the time is over.
pub(crate) fn fuzz<S: Strategy>(input: S, target: impl Fn(S::Value) -> TestCaseResult) {
    let (first, start) = (setting("POINTSUB_FUZZ_SEED").unwrap_or(1), Instant::now());
    let mut seed = first;
    while start.elapsed() < time() {
        let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        if let Err(e) = TestRunner::new_with_rng(config, rng).run(&input, &target) {
            panic!("POINTSUB_FUZZ_SEED={seed}: {e}");
        }
        seed = seed.wrapping_add(1);
    }
    report(seed.wrapping_sub(first) * u64::from(ROUND), start);
}

/// The same for a target that makes everything of a seed.
pub(crate) fn fuzz_seeds(mut target: impl FnMut(u64)) {
    let (first, start) = (setting("POINTSUB_FUZZ_SEED").unwrap_or(1), Instant::now());
    let mut seed = first;
    while start.elapsed() < time() {
        let shown = Seed(seed);
        target(seed);
        std::mem::forget(shown);
        seed = seed.wrapping_add(1);
    }
    report(seed.wrapping_sub(first), start);
}

/// What `wire` makes, with nothing to a few things wrong with it; or mere chance.
pub(crate) fn damaged(wire: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damaged = (wire, vec(damage(), 0..6)).prop_map(|(mut wire, damages)| {
        damages.iter().for_each(|damage| damage.apply(&mut wire));
        wire
    });
    prop_oneof![8 => damaged, 1 => vec(any::<u8>(), 0..400)]
}

/// Something that goes wrong with bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    // Where lengths and varints have their borders.
    let border = prop::sample::select(&[0x00, 0x01, 0x7f, 0x80, 0x81, 0xfe, 0xff, b'\n'][..]);
    prop_oneof![
        3 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        3 => (at(), prop_oneof![any::<u8>(), border]).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (at(), 1..40usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (at(), 1..40usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
        1 => at().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn apply(&self, wire: &mut Vec<u8>) {
        let len = wire.len();
        let piece = |at: &Index, n: usize| at.index(len)..len.min(at.index(len) + n);
        match self {
            Damage::Insert(at, bytes) => {
                let at = at.index(len + 1);
                wire.splice(at..at, bytes.iter().copied());
            }
            _ if len == 0 => {}
            Damage::Flip(at, bit) => wire[at.index(len)] ^= 1 << bit,
            Damage::Set(at, byte) => wire[at.index(len)] = *byte,
            Damage::Remove(at, n) => drop(wire.drain(piece(at, *n))),
            Damage::Repeat(at, n) => {
                let again = wire[piece(at, *n)].to_vec();
                wire.splice(at.index(len)..at.index(len), again);
            }
            Damage::Cut(at) => wire.truncate(at.index(len)),
        }
    }
}

/// Dropped by a panic, it says where to start again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("failed with POINTSUB_FUZZ_SEED={}", self.0);
    }
}

fn time() -> Duration {
    Duration::from_secs(setting("POINTSUB_FUZZ_SECONDS").unwrap_or(1))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn report(cases: u64, start: Instant) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a target");
    eprintln!("{name}: {cases} cases in {:.0} s", start.elapsed().as_secs_f64());
}

/// Cases between two looks at the clock.
const ROUND: u32 = 64;
