//! Short writes that follow each other closely.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::driver::stream::{Priority, Stream};
use crate::proto::yamux::StreamId;

/// The last short writes, as long as they are of one stream and nothing came in between:
/// whoever answers what it reads is not in a run, nor is whoever flushes or writes now and
/// then. So nothing waits on an idle link.
#[derive(Default)]
pub(super) struct Run {
    stream: Option<StreamId>,
    /// What had come on the stream.
    received: u64,
    /// When the last one began, and how many did before, close together.
    last: Option<Instant>,
    count: u32,
}

impl Run {
    /// A write of `size` bytes begins. Whether it goes out together with others.
    pub(super) fn joins(&mut self, stream: &Stream, size: usize) -> bool {
        let received = stream.counters.bytes_received.load(Relaxed);
        if size > SHORT || stream.priority() == Priority::High {
            self.stream = None;
            return false;
        }
        if self.stream != Some(stream.id) || self.received != received {
            *self = Run { stream: Some(stream.id), received, last: None, count: 0 };
            return false;
        }
        let now = Instant::now();
        let close = self.last.is_some_and(|last| now.duration_since(last) < CLOSE);
        self.last = Some(now);
        self.count = if close { self.count.saturating_add(1) } else { 0 };
        self.count >= FIRST
    }
}

/// Longer ones are worth a call of their own.
const SHORT: usize = 4 * 1024;

/// A write on its own takes a good part of this.
const CLOSE: Duration = Duration::from_micros(20);

/// So many go out on their own first.
const FIRST: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::stream::User;
    use crate::proto::yamux::Flow;
    use crate::resources::budget::Budget;

    fn stream(id: StreamId) -> std::sync::Arc<Stream> {
        let budget = Budget::new(1 << 20, |_| ());
        Stream::new(id, Flow::new(), User::Conn, &budget, Instant::now())
    }

    /// Whether the last of many writes joins others; between any two, `then` happens.
    fn joins(stream: &Stream, run: &mut Run, size: usize, then: impl Fn()) -> bool {
        // A machine that does something else breaks a run.
        (0..10_000).any(|_| {
            let joined = run.joins(stream, size);
            then();
            joined
        })
    }

    #[test]
    fn short_writes_close_to_each_other_join() {
        let (stream, mut run) = (stream(1), Run::default());
        assert!((0..FIRST).all(|_| !run.joins(&stream, 100)), "not the first");
        assert!(joins(&stream, &mut run, SHORT, || ()));
    }

    #[test]
    fn long_ones_answers_urgent_ones_and_rare_ones_go_alone() {
        let (one, other) = (stream(1), stream(3));
        let mut run = Run::default();
        assert!(!joins(&one, &mut run, SHORT + 1, || ()));
        assert!(!joins(&one, &mut run, 100, || one.counters.received(1)), "something was read");
        let late = || std::thread::sleep(CLOSE);
        assert!(!(0..100).any(|_| {
            late();
            run.joins(&one, 100)
        }));
        assert!(!(0..1000).any(|_| run.joins(&one, 100) || run.joins(&other, 100)));
        one.set_priority(Priority::High);
        assert!(!joins(&one, &mut run, 100, || ()));
    }
}
