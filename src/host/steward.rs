//! Who looks after the memory of a host: on its event loop, without a lock, when a
//! level has changed and as long as it is not back to the lowest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::core::Core;
use crate::driver::{Link, Priority, Stream};
use crate::resources::budget::{Budget, Pressure};
use crate::resources::events::Event;
use crate::resources::limits::Limit;
use crate::resources::{buffers, machine};
use crate::session::Session;

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
        self.act(level, &links, memory, now);
        let mut busy = level > Pressure::Low;
        for link in links.iter().filter(|link| link.budget().is_over()) {
            busy = true;
            let held = unread(std::slice::from_ref(link), now);
            let own = Limit::ReceiveMemoryPerConnection;
            self.reset_while(held, || link.budget().is_over(), own, core);
        }
        if level == Pressure::Emergency {
            let target = memory.limit() / 100 * 90;
            core.sessions.relieve(|| memory.used() < target);
            let mut holders = unread(&links, now);
            holders.extend(unconfirmed(core, now));
            self.reset_while(holders, || memory.used() >= target, Limit::ReceiveMemory, core);
        }
        let again = if busy || is_large { now.checked_add(A_WHILE) } else { None };
        [log, again].into_iter().flatten().min()
    }

    fn act(&self, level: Pressure, links: &[Arc<Link>], memory: &Budget, now: Instant) {
        if level >= Pressure::Medium {
            links.iter().for_each(|link| link.shrink());
            buffers::trim(if level == Pressure::Emergency { 0 } else { buffers::KEPT / 8 });
        }
        if level >= Pressure::High {
            let idle = links.iter().filter(|link| link.streams() == 0);
            idle.for_each(|link| link.close_soon(now));
        }
        log::trace!(level:? = level, used = memory.used(); "memory looked after");
    }

    /// Resets those that have stalled and hold most, those of low priority first, while
    /// there is more than this limit allows.
    fn reset_while(
        &self,
        mut holders: Vec<Holder>,
        still: impl Fn() -> bool,
        limit: Limit,
        core: &Core,
    ) {
        holders.sort_by_key(|h| (h.priority, std::cmp::Reverse(h.held)));
        for holder in holders {
            if !still() {
                return;
            }
            core.resources.reject(limit);
            holder.reset();
        }
    }
}

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

/// Something that holds memory and does not move.
struct Holder {
    priority: Priority,
    held: usize,
    what: What,
}

enum What {
    /// What nobody reads.
    Unread(Arc<Link>, Arc<Stream>),
    /// What the peer does not confirm.
    Unconfirmed(Arc<Session>),
}

impl Holder {
    fn reset(self) {
        let held = self.held;
        match self.what {
            What::Unread(link, stream) => {
                log::info!(link = link.id, peer:% = link.peer, stream = stream.id, held;
                    "a stream is reset for what it holds");
                link.reset_for_memory(&stream);
            }
            What::Unconfirmed(session) => {
                log::info!(peer:% = session.peer, protocol:% = session.protocol, held;
                    "a conn is reset for what its peer does not confirm");
                session.reset_for_memory();
            }
        }
    }
}

/// The streams that hold something that nobody has read for a while.
fn unread(links: &[Arc<Link>], now: Instant) -> Vec<Holder> {
    let of_link = |link: &Arc<Link>| {
        let link = link.clone();
        link.table().into_iter().filter_map(move |stream| {
            let held = stream.state.lock().stalled(now, STALLED)?;
            let priority = stream.priority();
            Some(Holder { priority, held, what: What::Unread(link.clone(), stream) })
        })
    };
    links.iter().flat_map(of_link).collect()
}

/// The conns that keep something that their peers have not confirmed for a while.
fn unconfirmed(core: &Core, now: Instant) -> Vec<Holder> {
    let holder = |(session, held): (Arc<Session>, usize)| {
        let priority = session.priority();
        Holder { priority, held, what: What::Unconfirmed(session) }
    };
    core.sessions.unconfirmed(now, STALLED).into_iter().map(holder).collect()
}

/// A host that holds less is not what a machine is short of memory for.
const LARGE: u64 = 64 << 20;
/// How often to look while something is wrong, and at the machine at most.
const A_WHILE: Duration = Duration::from_secs(1);
/// A reader that has taken nothing for so long.
const STALLED: Duration = Duration::from_secs(1);

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
