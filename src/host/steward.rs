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

#[derive(Default)]
pub(crate) struct Steward {
    last: Mutex<Pressure>,
}

impl Steward {
    /// Does what the present level asks for. Returns when to look again.
    pub(crate) fn look(&self, core: &Core, now: Instant) -> Option<Instant> {
        let resources = &core.resources;
        let log = resources.meters.say(now);
        let memory = &resources.memory;
        let is_large = memory.used() >= LARGE;
        memory.set_outside(if is_large { machine::pressure() } else { Pressure::Low });
        let level = memory.level();
        let before = std::mem::replace(&mut *self.last.lock(), level);
        let links = core.links();
        if level != before {
            resources.feed.tell(|| Event::PressureChanged { from: before, to: level });
            log::info!(from:? = before, to:? = level, used = memory.used();
                "the host is {} short of memory", if level > before { "more" } else { "less" });
        }
        if before == Pressure::Emergency && level < Pressure::Emergency {
            links.iter().for_each(|link| link.resume_paused());
        }
        self.act(level, &links, memory, now);
        let mut busy = level > Pressure::Low;
        for link in links.iter().filter(|link| link.budget().is_over()) {
            busy = true;
            let held = holders(std::slice::from_ref(link), now);
            self.reset_while(held, || link.budget().is_over(), core);
        }
        if level == Pressure::Emergency {
            let target = memory.limit() / 100 * 90;
            self.reset_while(holders(&links, now), || memory.used() >= target, core);
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

    /// Resets the stalled streams that hold most, those of low priority first.
    fn reset_while(&self, mut holders: Vec<Holder>, still: impl Fn() -> bool, core: &Core) {
        holders.sort_by_key(|h| (h.priority, std::cmp::Reverse(h.held)));
        for Holder { link, stream, .. } in holders {
            if !still() {
                return;
            }
            core.resources.reject(Limit::ReceiveMemory);
            link.reset_for_memory(&stream);
        }
    }
}

struct Holder {
    priority: Priority,
    held: usize,
    link: Arc<Link>,
    stream: Arc<Stream>,
}

/// The streams that hold something that nobody has read for a while.
fn holders(links: &[Arc<Link>], now: Instant) -> Vec<Holder> {
    let of_link = |link: &Arc<Link>| {
        let link = link.clone();
        link.table().into_iter().filter_map(move |stream| {
            let held = stream.state.lock().stalled(now, STALLED)?;
            Some(Holder { priority: stream.priority(), held, link: link.clone(), stream })
        })
    };
    links.iter().flat_map(of_link).collect()
}

/// A host that holds less is not what a machine is short of memory for.
const LARGE: u64 = 64 << 20;
/// While something is wrong, and so that the machine is looked at at most so often.
const A_WHILE: Duration = Duration::from_secs(1);
/// A reader that has taken nothing for so long.
const STALLED: Duration = Duration::from_secs(1);
