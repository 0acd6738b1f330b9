//! Floor 0: what is lent and given back, what is counted and bounded, what is told.

pub(crate) mod addresses;
pub(crate) mod budget;
pub(crate) mod buffers;
pub(crate) mod events;
pub(crate) mod limits;
pub(crate) mod machine;
pub(crate) mod penalties;
pub(crate) mod proofs;
pub(crate) mod rate;

use std::sync::{Arc, OnceLock, Weak};

use budget::{Budget, News, Pressure};
use events::{Event, Feed};
use limits::{Limit, LimitStats, Meters, Permit};

use crate::error::{Error, ErrorCode, Result};

/// What the parts of one host share of all this.
pub(crate) struct Resources {
    pub(crate) meters: Meters,
    pub(crate) memory: Arc<Budget>,
    pub(crate) feed: Feed,
    steward: Bell,
}

/// Calls the steward, once there is one.
type Bell = OnceLock<Box<dyn Fn() + Send + Sync>>;

impl Resources {
    pub(crate) fn new(most: impl Fn(Limit) -> u64) -> Arc<Resources> {
        Arc::new_cyclic(|me: &Weak<Resources>| {
            let me = me.clone();
            let hear = move |news| {
                if let Some(resources) = me.upgrade() {
                    resources.hear(news);
                }
            };
            Resources {
                memory: Budget::new(most(Limit::ReceiveMemory), hear),
                meters: Meters::new(most),
                feed: Feed::default(),
                steward: Bell::new(),
            }
        })
    }

    /// What the memory has to say.
    fn hear(&self, news: News) {
        match news {
            News::Look => ring(&self.steward),
            News::Growth { granted } => {
                self.meters.request(Limit::Window);
                if !granted {
                    self.reject(Limit::Window);
                }
            }
        }
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

    /// A transfer of so many bytes is to begin. Small ones are free.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`: not now.
    pub(crate) fn admit(self: &Arc<Resources>, bytes: u64) -> Result<Option<Permit>> {
        if bytes < LARGE {
            return Ok(None);
        }
        let (level, most) = (self.memory.level(), self.meters.most(Limit::Transfers));
        let most = match level {
            Pressure::Emergency => 0,
            Pressure::High if bytes >= HUGE => 0,
            Pressure::High => (most / 16).max(1),
            Pressure::Low | Pressure::Medium => most,
        };
        let permit = Permit::take_of(self, Limit::Transfers, most);
        permit.map(Some).ok_or_else(|| {
            let why = match level {
                Pressure::Low | Pressure::Medium => "too many large ones are under way",
                Pressure::High | Pressure::Emergency => "the host is short of memory",
            };
            let what = format!("a transfer of {bytes} bytes was not begun: {why}");
            Error::new(ErrorCode::OutOfMemory, what).with_context("size", bytes)
        })
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

/// A transfer that counts, and one that the memory at a high level has no room for.
const LARGE: u64 = 1 << 20;
const HUGE: u64 = 100 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_transfers_are_fewer_the_less_memory_there_is() {
        let resources = Resources::new(|limit| match limit {
            Limit::ReceiveMemory => 100,
            _ => 32,
        });
        let begin = |n: u64| -> Vec<Permit> {
            (0..100).filter_map(|_| resources.admit(n).ok().flatten()).collect()
        };
        assert!((0..100).all(|_| matches!(resources.admit(LARGE - 1), Ok(None))));
        let (all, at) = (begin(HUGE), |level: u64| resources.memory.charge(level));
        assert_eq!(all.len(), 32);
        drop(all);
        at(60);
        assert_eq!(begin(LARGE).len(), 32);
        at(20);
        assert_eq!((begin(LARGE).len(), begin(HUGE).len()), (2, 0));
        at(15);
        assert_eq!(begin(LARGE).len(), 0);
        let refused = resources.admit(LARGE).err().unwrap();
        assert_eq!(refused.code(), ErrorCode::OutOfMemory);
        assert!(refused.to_string().contains("short of memory"), "{refused}");
        resources.memory.release(95);
        assert_eq!(begin(HUGE).len(), 32);
        let stats = &resources.snapshot()[Limit::Transfers as usize];
        assert_eq!((stats.current, stats.peak), (0, 32));
        assert!(stats.rejections > 300);
    }
}
