//! Floor 0: what is lent and given back, what is counted and bounded, what is told.

pub(crate) mod addresses;
pub(crate) mod budget;
pub(crate) mod buffers;
pub(crate) mod events;
pub(crate) mod limits;
pub(crate) mod machine;
pub(crate) mod penalties;
pub(crate) mod quota;
pub(crate) mod rate;

use std::sync::{Arc, OnceLock};

use budget::Budget;
use events::{Event, Feed};
use limits::{Limit, LimitStats, Meters};

/// What the parts of one host share of all this.
pub(crate) struct Resources {
    pub(crate) meters: Meters,
    pub(crate) memory: Arc<Budget>,
    pub(crate) feed: Feed,
    steward: Arc<Bell>,
}

/// Calls the steward, once there is one.
type Bell = OnceLock<Box<dyn Fn() + Send + Sync>>;

impl Resources {
    pub(crate) fn new(most: impl Fn(Limit) -> u64) -> Arc<Resources> {
        let steward = Arc::new(Bell::new());
        let bell = steward.clone();
        let memory = Budget::new(most(Limit::ReceiveMemory), move || ring(&bell));
        let (meters, feed) = (Meters::new(most), Feed::default());
        Arc::new(Resources { meters, memory, feed, steward })
    }

    /// Who is called, perhaps under locks, when there is something to do that must
    /// not be done under them: it has to see to it elsewhere.
    pub(crate) fn set_steward(&self, call: impl Fn() + Send + Sync + 'static) {
        // Only the first one counts.
        let _ = self.steward.set(Box::new(call));
    }

    /// Whether there is room for one more where `now` are there already. If not,
    /// that is counted, and said in the log in due course.
    pub(crate) fn judge(&self, limit: Limit, now: usize) -> bool {
        let fits = self.meters.judge(limit, now);
        if !fits {
            self.reject(limit);
        }
        fits
    }

    /// Somebody was turned away because of a limit.
    pub(crate) fn reject(&self, limit: Limit) {
        if self.meters.reject(limit) {
            self.feed.tell(|| Event::LimitReached { limit });
            ring(&self.steward);
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<LimitStats> {
        let mut all = self.meters.snapshot();
        if let Some(memory) = all.iter_mut().find(|l| l.limit == Limit::ReceiveMemory) {
            (memory.current, memory.peak) = (self.memory.used(), self.memory.peak());
        }
        all
    }
}

fn ring(bell: &Bell) {
    if let Some(call) = bell.get() {
        call();
    }
}
