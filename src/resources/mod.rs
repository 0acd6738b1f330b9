//! Floor 0: what is lent and given back, what is counted and bounded.

pub(crate) mod addresses;
pub(crate) mod buffers;
pub(crate) mod limits;
pub(crate) mod rate;

use std::sync::{Arc, OnceLock};

use limits::{Limit, Meters};

/// What the parts of one host share of all this.
pub(crate) struct Resources {
    pub(crate) meters: Meters,
    steward: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Resources {
    pub(crate) fn new(most: impl Fn(Limit) -> u64) -> Arc<Resources> {
        Arc::new(Resources { meters: Meters::new(most), steward: OnceLock::new() })
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
        if self.meters.reject(limit)
            && let Some(call) = self.steward.get()
        {
            call();
        }
    }
}
