//! Who looks after the memory of a host: on its event loop, without a lock, when a
//! level has changed and as long as it is not back to the lowest.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use parking_lot::Mutex;

use super::core::Core;
use crate::driver::{Holding, Link, Priority};
use crate::resources::budget::Pressure;
use crate::resources::events::Event;
use crate::resources::limits::Limit;
use crate::resources::{buffers, machine};

#[derive(Default)]
pub(crate) struct Steward {
    last: Mutex<Pressure>,
    machine: Mutex<Machine>,
}

impl Steward {
    /// Does what the present level asks for. Returns when to look again.
    pub(crate) fn look(&self, core: &Core, now: Instant) -> Option<Instant> {
        let resources = &core.resources;
        let log = resources.meters.say(now);
        let memory = &resources.memory;
        let is_large = memory.used() >= LARGE;
        memory.set_outside(if is_large { self.machine.lock().look(now) } else { Pressure::Low });
        let level = memory.level();
        let before = std::mem::replace(&mut *self.last.lock(), level);
        let links = core.links();
        if level != before {
            resources.feed.tell(|| Event::PressureChanged { from: before, to: level });
            log::info!(from:? = before, to:? = level, used = memory.used();
                "the host is {} short of memory", if level > before { "more" } else { "less" });
        }
        if level < Pressure::Emergency {
            // Even if none was seen here: it may have been over before this look.
            links.iter().for_each(|link| link.resume_paused());
        }
        self.act(level, &links, core, now);
        let mut busy = level > Pressure::Low;
        for link in links.iter().filter(|link| link.budget().is_over()) {
            busy = true;
            let own = Limit::ReceiveMemoryPerConnection;
            take_back(link.unread(now), || link.budget().is_over(), own, core);
        }
        if level == Pressure::Emergency {
            let target = memory.limit() / 100 * 90;
            let all = still(core, links, now);
            take_back(all, || memory.used() >= target, Limit::ReceiveMemory, core);
        }
        let again = if busy || is_large { now.checked_add(A_WHILE) } else { None };
        [log, again].into_iter().flatten().min()
    }

    fn act(&self, level: Pressure, links: &[Arc<Link>], core: &Core, now: Instant) {
        if level >= Pressure::Medium {
            links.iter().for_each(|link| link.shrink());
            buffers::trim(if level == Pressure::Emergency { 0 } else { buffers::KEPT / 8 });
        }
        if level >= Pressure::High {
            let idle = links.iter().filter(|link| link.streams() == 0);
            idle.for_each(|link| link.close_soon(now));
            core.sessions.shrink();
        }
        log::trace!(level:? = level, used = core.resources.memory.used(); "memory looked after");
    }
}

/// All that is held and does not move.
fn still(core: &Core, links: Vec<Arc<Link>>, now: Instant) -> Vec<Holding> {
    let mut all = core.sessions.holdings(now);
    for link in links.into_iter().chain(core.outlived_links()) {
        all.extend(link.unread(now));
        all.extend(link.stuck(now));
    }
    all
}

/// Takes back what does not move while there is more than this limit allows: of low
/// priority first, then of the peer for which most is held, so that whoever has little
/// does not pay for it; of one peer the largest, and of those the oldest.
fn take_back(all: Vec<Holding>, is_over: impl Fn() -> bool, limit: Limit, core: &Core) {
    let mut of_peers: HashMap<(Priority, PeerId), Vec<Holding>> = HashMap::new();
    for holding in all {
        of_peers.entry((holding.priority, holding.peer)).or_default().push(holding);
    }
    let mut turns: BinaryHeap<Turn> = of_peers.into_values().map(Turn::new).collect();
    while is_over()
        && let Some(mut turn) = turns.pop()
    {
        let Some(holding) = turn.holdings.pop() else { continue };
        core.resources.reject(limit);
        turn.bytes -= holding.bytes;
        (holding.give_back)();
        turns.push(turn);
    }
}

/// What is held for one peer, of one priority; the greatest goes first.
struct Turn {
    priority: Priority,
    bytes: usize,
    since: Instant,
    /// The first to go is the last.
    holdings: Vec<Holding>,
}

impl Turn {
    /// Of one holding at least.
    fn new(mut holdings: Vec<Holding>) -> Turn {
        holdings.sort_by_key(|holding| (holding.bytes, Reverse(holding.since)));
        let first = &holdings[0];
        let (priority, mut since, mut bytes) = (first.priority, first.since, 0);
        for holding in &holdings {
            since = since.min(holding.since);
            bytes += holding.bytes;
        }
        Turn { priority, bytes, since, holdings }
    }

    fn rank(&self) -> impl Ord {
        (Reverse(self.priority), self.bytes, Reverse(self.since))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Turn) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// What the machine, or a group that this process is in, had come to. Looks follow
/// one another as fast as levels and limits change: it takes system calls and some
/// parsing to know, so it is not asked at each of them.
#[derive(Default)]
struct Machine {
    seen: Option<(Instant, Pressure)>,
}

impl Machine {
    fn look(&mut self, now: Instant) -> Pressure {
        self.look_with(now, machine::pressure)
    }

    fn look_with(&mut self, now: Instant, read: impl FnOnce(Pressure) -> Pressure) -> Pressure {
        match self.seen {
            Some((at, level)) if now.saturating_duration_since(at) < A_WHILE => level,
            before => {
                let before = before.map_or(Pressure::Low, |(_, level)| level);
                self.seen.insert((now, read(before))).1
            }
        }
    }
}

/// A host that holds less is not what a machine is short of memory for.
const LARGE: u64 = 64 << 20;
/// How often to look while something is wrong, and at the machine at most.
const A_WHILE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_at_most_once_a_second() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let mut reads = 0;
        for millis in 0..2500 {
            machine.look_with(start + Duration::from_millis(millis), |before| {
                assert_eq!(before, if reads == 0 { Pressure::Low } else { Pressure::High });
                reads += 1;
                Pressure::High
            });
        }
        assert_eq!(reads, 3);
        let later = start + Duration::from_millis(2999);
        assert_eq!(machine.look_with(later, |_| Pressure::Low), Pressure::High);
        let later = start + Duration::from_millis(3000);
        assert_eq!(machine.look_with(later, |_| Pressure::Low), Pressure::Low);
    }
}
