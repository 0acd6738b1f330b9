//! The whole protocol as two values: no socket, a clock that is an argument, a
//! network with faults, and applications that do whatever comes to their minds.
//!
//! A seed decides everything. `POINTSUB_SEEDS` says how many are tried (10,000),
//! or, as `from..to`, which.

mod app;
mod end;
mod mux;
mod resume;
mod wire;

use std::ops::Range;
use std::time::{Duration, Instant};

use app::{App, Gone, Reads};
use end::End;
use mux::{Keys, Mux};
use wire::{Rng, Wire};

use crate::error::Error;
use crate::proto::noise::pair;
use crate::proto::yamux::Role;

/// How much a simulation moves, and in what portions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// A few bytes at a time, down to single ones.
    Crumbs,
    /// What programs mostly do.
    Usual,
    /// Enough to fill windows and to let them grow.
    Bulk,
}

impl Profile {
    /// The most that is sent on one direction of a stream.
    fn longest(self) -> usize {
        match self {
            Profile::Crumbs => 200,
            Profile::Usual => 20_000,
            Profile::Bulk => 900_000,
        }
    }

    /// The most that the network moves at a time.
    fn grain(self) -> usize {
        match self {
            Profile::Crumbs => 3,
            Profile::Usual => 5_000,
            Profile::Bulk => 70_000,
        }
    }

    /// The most streams that one end opens.
    fn streams(self) -> usize {
        match self {
            Profile::Crumbs | Profile::Usual => 6,
            Profile::Bulk => 2,
        }
    }
}

struct Sim {
    rng: Rng,
    now: Instant,
    profile: Profile,
    /// Steps until the network does something wrong, if it ever does.
    fault_in: Option<usize>,
    is_faulty: bool,
    ends: [End; 2],
    /// From the end of the same index to the other.
    wires: [Wire; 2],
}

impl Sim {
    fn new(seed: u64, now: Instant) -> Sim {
        let mut rng = Rng::new(seed);
        let profile = match rng.below(16) {
            0..=6 => Profile::Crumbs,
            7..=14 => Profile::Usual,
            _ => Profile::Bulk,
        };
        let fault_in = rng.one_in(4).then(|| rng.below(STEPS));
        let ends = if rng.one_in(UPGRADES) {
            [Role::Dialer, Role::Listener].map(|role| End::new(role, profile))
        } else {
            let (sealer, there) = pair(&[1; 32]);
            let (back, opener) = pair(&[2; 32]);
            let keys = |sealer, opener| Keys { sealer, opener, leftover: Vec::new() };
            [
                End::upgraded(Role::Dialer, profile, keys(sealer, opener)),
                End::upgraded(Role::Listener, profile, keys(back, there)),
            ]
        };
        Sim { rng, now, profile, fault_in, is_faulty: false, ends, wires: Default::default() }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        for _ in 0..10_000 {
            let progress = self.act_out();
            self.check();
            if !progress {
                return self.check_quiet();
            }
        }
        panic!("it never comes to rest");
    }

    /// One thing happens at one end, or between them.
    fn step(&mut self) {
        let i = self.rng.below(2);
        self.now += Duration::from_micros(self.rng.below(2_000) as u64);
        let n = self.rng.up_to(self.profile.grain());
        match self.rng.below(8) {
            0..=3 => {
                if let Some(mux) = self.ends[i].live() {
                    let result = mux.act(&mut self.rng, self.now);
                    self.fails(i, result);
                }
            }
            4..=5 => drop(self.flush(i, n)),
            _ => drop(self.deliver(i, n)),
        }
        self.fault_in = self.fault_in.and_then(|n| n.checked_sub(1));
        if self.fault_in == Some(0) {
            self.is_faulty |= match self.rng.below(3) {
                0 => {
                    self.wires[i].cut();
                    true
                }
                _ => self.wires[i].flip(&mut self.rng),
            };
            // There was nothing on its way to be damaged: later, then.
            self.fault_in = (!self.is_faulty).then_some(3);
        }
    }

    /// Both applications do what they mean to, and the network moves what it can.
    fn act_out(&mut self) -> bool {
        let mut progress = false;
        for i in 0..2 {
            self.now += Duration::from_micros(100);
            if let Some(mux) = self.ends[i].live() {
                match mux.act_out(&mut self.rng, self.now) {
                    Ok(acted) => progress |= acted,
                    Err(e) => self.fails(i, Err(e)),
                }
            }
            let grain = self.profile.grain() * 4;
            progress |= self.flush(i, grain) > 0;
            progress |= self.deliver(1 - i, grain) > 0;
        }
        progress
    }

    fn flush(&mut self, i: usize, n: usize) -> usize {
        let result = self.ends[i].flush(n, &mut self.wires[i]);
        self.count(i, result)
    }

    fn deliver(&mut self, i: usize, n: usize) -> usize {
        let wire = &mut self.wires[1 - i];
        let result = self.ends[i].deliver(n, wire, &mut self.rng, self.now);
        self.count(i, result)
    }

    fn count(&mut self, i: usize, result: Result<usize, Error>) -> usize {
        result.unwrap_or_else(|e| {
            self.fails(i, Err(e));
            0
        })
    }

    /// An end fails for a fault of the network only, and is then never heard again.
    fn fails(&mut self, i: usize, result: Result<(), Error>) {
        if let Err(e) = result {
            assert!(self.is_faulty, "an end failed without a fault: {e:?}");
            self.ends[i].is_dead = true;
        }
    }

    /// What holds after every step. That what arrived is a prefix of what was
    /// sent is checked as it arrives.
    fn check(&self) {
        self.ends.iter().for_each(End::check_memory);
        for (end, peer) in self.directions() {
            for (id, app) in &end.streams {
                let Some(sender) = peer.streams.get(id) else { continue };
                assert!(app.received <= sender.sent);
                app.check_window(sender, peer.queue.reply_bytes() > 0);
            }
        }
    }

    /// What holds once nothing moves any more.
    fn check_quiet(&self) {
        if self.is_faulty {
            return;
        }
        self.ends.iter().for_each(End::check_quiet);
        for (end, peer) in self.directions() {
            for (id, app) in &end.streams {
                match peer.streams.get(id) {
                    Some(sender) => check_delivered(sender, app),
                    None if peer.refused.contains(id) => assert!(!app.is_live()),
                    None => assert!(app.syn, "a stream that was opened is not there"),
                }
            }
        }
    }

    /// Each end with its peer, once both are upgraded.
    fn directions(&self) -> impl Iterator<Item = (&Mux, &Mux)> {
        let [a, b] = self.ends.each_ref().map(|end| end.mux.as_ref());
        a.zip(b).into_iter().flat_map(|(a, b)| [(a, b), (b, a)])
    }
}

/// One direction of a stream: all was delivered, or the window is shut because
/// nobody reads, or one of the ends gave up and the other knows.
fn check_delivered(sender: &App, reader: &App) {
    match sender.gone {
        Gone::Reset => assert!(reader.reset_heard || reader.gone != Gone::No),
        Gone::Dropped => assert!(reader.fin_heard || !reader.is_live()),
        Gone::No => {}
    }
    if reader.gone == Gone::Dropped && sender.sent > reader.received {
        assert!(sender.reset_heard || sender.gone != Gone::No, "a writer hangs");
    }
    if !sender.is_live() || !reader.is_live() {
        return;
    }
    assert_eq!(reader.received, sender.sent);
    assert_eq!(reader.fin_heard, sender.fin_said);
    assert_eq!(sender.flow.credit(), reader.flow.allowance(), "credit was lost");
    assert_eq!(sender.fin_said, sender.finishes && sender.sent == sender.wants);
    if sender.sent < sender.wants {
        assert_eq!(reader.reads, Reads::Nothing);
        assert_eq!(sender.flow.credit(), 0);
    }
    if reader.reads == Reads::All {
        assert_eq!(reader.consumed, sender.wants);
    }
}

/// Says which seed it was if the test fails before it is forgotten.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("seed {0}: run again with POINTSUB_SEEDS={0}..{1}", self.0, self.0 + 1);
    }
}

/// Those that are asked for, or so many.
fn seeds(most: u64) -> Range<u64> {
    let Ok(seeds) = std::env::var("POINTSUB_SEEDS") else { return 0..most };
    let number = |s: &str| s.parse().expect("POINTSUB_SEEDS is a number or from..to");
    match seeds.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&seeds),
    }
}

/// How long the applications do as they like before they come to an end.
const STEPS: usize = 150;

/// One simulation of so many begins with the upgrade, whose keys are by chance:
/// the others are the same again for the same seed, to the byte.
const UPGRADES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::some_moment;

    #[test]
    fn whatever_two_ends_do_every_byte_arrives_in_its_place_or_a_fault_is_known() {
        let started = some_moment();
        let mut seen = Seen::default();
        let seeds = seeds(10_000);
        for seed in seeds.clone() {
            let failing = Named(seed);
            let mut sim = Sim::new(seed, started);
            sim.run();
            seen.add(&sim);
            std::mem::forget(failing);
        }
        eprintln!("{seen:?}");
        // So that a simulation in which nothing happens does not pass for good.
        if seeds.count() >= 1_000 {
            let Seen { bytes, grown, stalled, reset, dropped, faulty, failed } = seen;
            assert!([bytes, grown, stalled, reset, dropped, faulty, failed].iter().all(|n| *n > 0));
        }
    }

    #[test]
    fn fuzz_two_connections() {
        let started = some_moment();
        // Others than those that every run tries.
        crate::fuzz::fuzz_seeds(|seed| Sim::new(seed.wrapping_add(1 << 32), started).run());
    }

    /// What the seeds led to, so that it can be seen that they led anywhere.
    #[derive(Debug, Default)]
    struct Seen {
        bytes: usize,
        grown: usize,
        stalled: usize,
        reset: usize,
        dropped: usize,
        faulty: usize,
        failed: usize,
    }

    impl Seen {
        fn add(&mut self, sim: &Sim) {
            self.faulty += usize::from(sim.is_faulty);
            for end in &sim.ends {
                self.failed += usize::from(end.is_dead);
                for app in end.mux.iter().flat_map(|mux| mux.streams.values()) {
                    self.bytes += app.consumed;
                    self.grown += usize::from(app.window.size() > 256 << 10);
                    self.stalled += usize::from(app.is_live() && app.sent < app.wants);
                    self.reset += usize::from(app.reset_heard);
                    self.dropped += usize::from(app.gone == Gone::Dropped);
                }
            }
        }
    }
}
