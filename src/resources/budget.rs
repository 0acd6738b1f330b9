//! The memory of a host, counted in bytes that are held: one budget, of which each
//! connection has a part.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

/// How short of memory a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Pressure {
    /// All as usual.
    #[default]
    Low,
    /// Above 60 % of the budget: buffers of idle connections shrink and pools are
    /// trimmed.
    Medium,
    /// Above 80 %: windows grow no more, what conns may keep until it is confirmed shrinks
    /// to what they do keep, or 1 MiB, and idle connections are closed.
    High,
    /// Above 95 %: new connections and streams are refused, conns of low priority
    /// pause, others keep 64 KiB at most of what they write from then on, and pools are
    /// emptied. What stands still is taken back, first from the peers for which most is
    /// held: conns that nobody reads, that their peers do not confirm, or that have lost
    /// their connection, and connections whose peer does not take the output, or does not
    /// finish a frame. What waits for a peer moves as long as half of it is going in 30 s.
    Emergency,
}

/// Bytes that may be held. What is reserved or charged stays so until it is released.
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    call: Call,
    kind: Kind,
}

/// What a budget tells its owner, perhaps under locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The level changed, or a part passed its limit: somebody has to look.
    Look,
    /// A window was to grow.
    Growth { granted: bool },
}

type Call = Box<dyn Fn(News) + Send + Sync>;

enum Kind {
    /// Of a host, with its level as it was seen last.
    Host { level: AtomicU8, outside: AtomicU8 },
    /// Of a connection, of which `each` is what one account may promise. Told: it has
    /// passed its limit, and that was said.
    Part { whole: Arc<Budget>, each: u64, told: AtomicBool },
}

impl Budget {
    /// A host's.
    pub(crate) fn new(limit: u64, call: impl Fn(News) + Send + Sync + 'static) -> Arc<Budget> {
        let kind = Kind::Host { level: AtomicU8::new(0), outside: AtomicU8::new(0) };
        Arc::new(Budget::of_kind(limit, Box::new(call), kind))
    }

    /// A part with a limit of its own, of which one account may promise `each`; what
    /// it uses counts for the whole too.
    pub(crate) fn part(self: &Arc<Budget>, limit: u64, each: u64) -> Arc<Budget> {
        let whole = self.clone();
        let call = Box::new(move |news| (whole.call)(news));
        let kind = Kind::Part { whole: self.clone(), each, told: AtomicBool::new(false) };
        Arc::new(Budget::of_kind(limit, call, kind))
    }

    fn of_kind(limit: u64, call: Call, kind: Kind) -> Budget {
        Budget { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0), call, kind }
    }

    /// Takes so much, unless that is more than there is. What is reserved is a promise
    /// that cannot be taken back, so of a host's memory it is at most what a high level
    /// begins with: to leave an emergency it is then enough to reset those that hold
    /// something.
    pub(crate) fn reserve(&self, n: u64) -> bool {
        let most = match &self.kind {
            Kind::Host { .. } if self.level() >= Pressure::High => return false,
            Kind::Host { .. } => (u128::from(self.limit) * PROMISED / 100) as u64,
            Kind::Part { whole, .. } if !whole.reserve(n) => return false,
            Kind::Part { .. } => self.limit,
        };
        let fits = |used: u64| used.checked_add(n).filter(|sum| *sum <= most);
        let reserved = self.used.fetch_update(SeqCst, Relaxed, fits);
        match (&self.kind, reserved) {
            (_, Ok(before)) => self.grown(before + n),
            (Kind::Part { whole, .. }, Err(_)) => whole.release(n),
            (Kind::Host { .. }, Err(_)) => {}
        }
        reserved.is_ok()
    }

    /// Takes what is there already and cannot be refused.
    pub(crate) fn charge(&self, n: u64) {
        if n == 0 {
            return;
        }
        if let Kind::Part { whole, .. } = &self.kind {
            whole.charge(n);
        }
        self.grown(self.used.fetch_add(n, SeqCst) + n);
    }

    pub(crate) fn release(&self, n: u64) {
        if n == 0 {
            return;
        }
        let left = self.used.fetch_sub(n, SeqCst) - n;
        match &self.kind {
            Kind::Host { .. } => self.look(),
            Kind::Part { whole, told, .. } => {
                if left <= self.limit && told.load(Relaxed) {
                    told.store(false, SeqCst);
                    // Whoever passed it again meanwhile found it told.
                    self.tell_if_over(self.used.load(SeqCst));
                }
                whole.release(n);
            }
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Whether nothing new is to be taken on.
    pub(crate) fn is_full(&self) -> bool {
        let own = self.used() >= self.limit;
        match &self.kind {
            Kind::Host { .. } => own || self.level() == Pressure::Emergency,
            Kind::Part { whole, .. } => own || whole.is_full(),
        }
    }

    /// Whether it holds more than it may.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// The host's level: its own use, or the machine's if that is worse.
    pub(crate) fn level(&self) -> Pressure {
        match &self.kind {
            Kind::Host { level, outside } => {
                Pressure::from(level.load(SeqCst).max(outside.load(SeqCst)))
            }
            Kind::Part { whole, .. } => whole.level(),
        }
    }

    /// What the machine, or the group that this process is in, has come to.
    pub(crate) fn set_outside(&self, level: Pressure) {
        if let Kind::Host { outside, .. } = &self.kind {
            outside.store(level as u8, SeqCst);
        }
    }

    fn grown(&self, used: u64) {
        if self.peak.load(Relaxed) < used {
            self.peak.fetch_max(used, Relaxed);
        }
        self.tell_if_over(used);
        self.look();
    }

    /// Says once that a part has passed its limit.
    fn tell_if_over(&self, used: u64) {
        if let Kind::Part { told, .. } = &self.kind
            && used > self.limit
            && !told.swap(true, SeqCst)
        {
            (self.call)(News::Look);
        }
    }

    /// Notes the level that the present use comes to. Whoever has changed it looks once
    /// more: what others took or gave back meanwhile they judged by the old level.
    fn look(&self) {
        let Kind::Host { level, .. } = &self.kind else { return };
        loop {
            let before = level.load(SeqCst);
            let used = self.used.load(SeqCst);
            let now = Pressure::of(used, self.limit, before.into()) as u8;
            if now == before {
                return;
            }
            if level.compare_exchange(before, now, SeqCst, SeqCst).is_ok() {
                (self.call)(News::Look);
            }
        }
    }
}

impl Pressure {
    /// The level of `used` bytes of `limit`. It goes down only 5 % below where it
    /// went up, so that it does not flutter.
    pub(crate) fn of(used: u64, limit: u64, before: Pressure) -> Pressure {
        let percent = used.saturating_mul(100) / limit.max(1);
        let reached = |slack: u64| match percent.saturating_add(slack) {
            0..60 => Pressure::Low,
            60..80 => Pressure::Medium,
            80..95 => Pressure::High,
            _ => Pressure::Emergency,
        };
        before.clamp(reached(0), reached(SLACK))
    }
}

impl From<u8> for Pressure {
    fn from(n: u8) -> Pressure {
        match n {
            0 => Pressure::Low,
            1 => Pressure::Medium,
            2 => Pressure::High,
            _ => Pressure::Emergency,
        }
    }
}

/// What one stream takes of its connection's budget: what it holds, or what its
/// grown window promises, whichever is more. Dropped, it gives everything back.
pub(crate) struct Account {
    budget: Arc<Budget>,
    promised: u64,
    held: u64,
}

impl Account {
    pub(crate) fn new(budget: Arc<Budget>) -> Account {
        Account { budget, promised: 0, held: 0 }
    }

    /// Promises so much more, if the budget has it.
    pub(crate) fn promise(&mut self, extra: u32) -> bool {
        let before = self.taken();
        let promised = self.promised + u64::from(extra);
        if let Kind::Part { each, .. } = self.budget.kind
            && promised > each
        {
            return false;
        }
        let taken = promised.max(self.held);
        let granted = taken == before || self.budget.reserve(taken - before);
        (self.budget.call)(News::Growth { granted });
        if granted {
            self.promised = promised;
        }
        granted
    }

    /// Promises no more than this from now on.
    pub(crate) fn promise_only(&mut self, n: usize) {
        let before = self.taken();
        self.promised = self.promised.min(n as u64);
        self.budget.release(before - self.taken());
    }

    /// Nothing more comes: what was promised is free, what is held is not.
    pub(crate) fn end(&mut self) {
        self.promise_only(0);
    }

    /// It holds so much now.
    pub(crate) fn hold(&mut self, held: usize) {
        let before = self.taken();
        self.held = held as u64;
        let now = self.taken();
        if now > before {
            self.budget.charge(now - before);
        } else {
            self.budget.release(before - now);
        }
    }

    pub(crate) fn taken(&self) -> u64 {
        self.promised.max(self.held)
    }

    /// How short of memory the host is.
    pub(crate) fn level(&self) -> Pressure {
        self.budget.level()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.release(self.taken());
    }
}

/// Per cent.
const SLACK: u64 = 5;
const PROMISED: u128 = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn host(limit: u64) -> (Arc<Budget>, Arc<AtomicUsize>) {
        let called = Arc::new(AtomicUsize::new(0));
        let calls = called.clone();
        let call = move |news| {
            calls.fetch_add(usize::from(news == News::Look), Relaxed);
        };
        (Budget::new(limit, call), called)
    }

    #[test]
    fn levels_rise_at_60_80_and_95_per_cent_and_fall_5_below() {
        use Pressure::{Emergency, High, Low, Medium};
        let mut level = Low;
        let up = [(59, Low), (60, Medium), (79, Medium), (80, High), (94, High), (95, Emergency)];
        let down = [(91, Emergency), (90, Emergency), (89, High), (76, High), (74, Medium)];
        let rest = [(55, Medium), (54, Low), (100, Emergency), (0, Low)];
        for (percent, expected) in up.into_iter().chain(down).chain(rest) {
            level = Pressure::of(percent, 100, level);
            assert_eq!(level, expected, "{percent} %");
        }
    }

    #[test]
    fn reservations_never_pass_the_limit_and_all_come_back() {
        let (whole, _) = host(1_000_000);
        let parts: Vec<_> = (0..4).map(|_| whole.part(400_000, u64::MAX)).collect();
        std::thread::scope(|scope| {
            for part in &parts {
                scope.spawn(|| {
                    for n in 0..2000u32 {
                        let mut account = Account::new(part.clone());
                        account.promise(n * 300 % 300_000);
                        account.hold(n as usize * 7 % 1000);
                        assert!(part.used() <= 401_000);
                        account.end();
                    }
                });
            }
        });
        assert!(whole.peak() <= 1_010_000, "{}", whole.peak());
        assert!(parts.iter().all(|p| p.used() == 0) && whole.used() == 0);
    }

    #[test]
    fn a_stream_takes_what_it_holds_or_promised_whichever_is_more() {
        let (whole, _) = host(1000);
        let part = whole.part(500, 350);
        let mut account = Account::new(part.clone());
        account.hold(100);
        assert!(!account.promise(351), "more than a stream may have");
        assert!(account.promise(300));
        assert_eq!(part.used(), 300);
        account.hold(400);
        assert_eq!((part.used(), whole.used()), (400, 400));
        assert!(!account.promise(300), "more than the connection may have");
        account.end();
        assert_eq!(part.used(), 400);
        account.hold(0);
        assert_eq!(part.used(), 0);
    }

    #[test]
    fn growth_stops_at_high_pressure_and_what_is_there_is_counted_beyond() {
        let (whole, called) = host(1000);
        let part = whole.part(10_000, u64::MAX);
        assert!(part.reserve(799) && called.load(Relaxed) == 1);
        assert!(part.reserve(1) && whole.level() == Pressure::High);
        assert!(!part.reserve(1));
        part.charge(400);
        assert!(whole.is_over() && part.is_full() && !part.is_over());
        assert_eq!(called.load(Relaxed), 3, "one call for each change of level");
        part.release(1200);
        assert_eq!((whole.level(), called.load(Relaxed)), (Pressure::Low, 4));
        whole.set_outside(Pressure::High);
        assert_eq!(part.level(), Pressure::High);
        assert!(!part.reserve(1));
    }

    #[test]
    fn promises_leave_room_for_what_is_held() {
        let (whole, _) = host(1000);
        let part = whole.part(10_000, u64::MAX);
        assert!(part.reserve(700) && !part.reserve(101) && part.used() == 700);
        assert!(!whole.reserve(101) && part.reserve(100));
        assert_eq!((whole.level(), whole.reserve(1)), (Pressure::High, false));
    }

    #[test]
    fn a_level_that_two_changed_at_once_is_the_one_of_what_is_left() {
        let (whole, _) = host(100);
        for _ in 0..2000 {
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        both.wait();
                        for _ in 0..20 {
                            whole.charge(48);
                            whole.release(48);
                        }
                    });
                }
            });
            assert_eq!((whole.used(), whole.level()), (0, Pressure::Low));
        }
    }

    #[test]
    fn a_part_says_once_that_it_passed_its_limit() {
        let (whole, called) = host(1_000_000);
        let part = whole.part(100, u64::MAX);
        part.charge(90);
        part.charge(20);
        part.charge(20);
        assert!(part.is_over() && called.load(Relaxed) == 1);
        part.release(100);
        part.charge(100);
        assert_eq!(called.load(Relaxed), 2);
    }
}
