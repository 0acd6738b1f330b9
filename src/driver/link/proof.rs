//! Knowing that the peer has what was said last.
//!
//! A session that has finished ends at last when the peer has its last receipt: until
//! then it has to come back if the link is lost. Two things prove it: the peer has answered
//! a stream that was opened later, or a ping. The first costs nothing, and where streams
//! come and go one after the other it is all there is; the ping is for what nothing follows,
//! once for all who wait, and not more often than every second. Nobody is in a hurry: who
//! waits is told by the next one, or with the others by the reactor, and holds nothing of
//! the link: its stream may be gone.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Link;
use crate::driver::carrier::Watcher;

/// Who waits for it.
#[derive(Default)]
pub(super) struct Proofs {
    /// How many have waited so far, and the last of them whose receipt is through.
    asked: AtomicU64,
    proven: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// With their numbers, in order.
    waiting: VecDeque<Waiting>,
    /// When the reactor is to look at them.
    due: Option<Instant>,
    /// The ping under way: its value, and the last that it is for.
    ping: Option<(u32, u64)>,
    /// When the last one was sent.
    pinged: Option<Instant>,
}

struct Waiting {
    number: u64,
    since: Instant,
    who: Weak<dyn Watcher>,
}

impl Link {
    /// Has `who` look some time after the peer has what was said so far, or once the link
    /// has ended; those look now that waited so far and need not any more. Called without a
    /// lock. Returns what to ask [`Link::has_proven`] for. `None`: too many wait.
    pub(crate) fn prove(self: &Arc<Link>, who: Weak<dyn Watcher>) -> Option<u64> {
        let (number, through, looks) = {
            let mut queue = self.proofs.queue.lock();
            let through = self.take_proven(&mut queue);
            let number = (queue.waiting.len() < MOST).then(|| {
                let number = self.proofs.asked.fetch_add(1, SeqCst) + 1;
                queue.waiting.push_back(Waiting { number, since: Instant::now(), who });
                number
            });
            (number, through, queue.arm())
        };
        // One or two, where streams come and go.
        through.iter().filter_map(|one| one.who.upgrade()).for_each(|who| who.look());
        if self.death().is_some() {
            // Whoever ended it may not have seen this one.
            self.end_proofs();
        } else if looks {
            self.reactor.ack_soon(self);
        }
        number
    }

    /// Whether the peer has what was said before that number was given out; also if
    /// there is no use in waiting for that any longer.
    pub(crate) fn has_proven(&self, number: u64) -> bool {
        self.proofs.proven.load(Acquire) >= number
    }

    /// What the answer to a stream proves whose first bytes are sealed next. Called under
    /// the `tx` lock.
    pub(super) fn proof_of_answer(&self) -> u64 {
        let asked = self.proofs.asked.load(SeqCst);
        // Their receipts went to the queue before, and are through it if it is empty.
        if self.control.lock().is_empty() { asked } else { 0 }
    }

    /// The peer has what those up to this one wait for.
    pub(super) fn note_proof(&self, number: u64) {
        self.proofs.proven.fetch_max(number, AcqRel);
    }

    /// The peer has answered a ping.
    pub(super) fn on_proof(self: &Arc<Link>, pong: u32) {
        let mut queue = self.proofs.queue.lock();
        let Some((_, last)) = queue.ping.take_if(|(value, _)| pong >= *value) else { return };
        self.note_proof(last);
        let through = self.take_proven(&mut queue);
        let looks = queue.arm();
        drop(queue);
        stir(through);
        if looks {
            self.reactor.ack_soon(self);
        }
    }

    /// The reactor's look: who is through is told, and who waits for long has a ping sent.
    pub(super) fn look_at_proofs(self: &Arc<Link>, now: Instant) {
        let mut queue = self.proofs.queue.lock();
        if queue.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        let through = self.take_proven(&mut queue);
        let over = |since: Instant, time| now.saturating_duration_since(since) >= time;
        let waits = queue.waiting.front().is_some_and(|first| over(first.since, PATIENCE));
        if waits && queue.pinged.is_none_or(|at| over(at, BETWEEN)) {
            let last = self.proofs.asked.load(SeqCst);
            queue.ping = self.ping().map(|value| (value, last));
            queue.pinged = Some(now);
        }
        let looks = queue.arm();
        drop(queue);
        stir(through);
        if looks {
            self.reactor.ack_soon(self);
        }
    }

    /// A peer that leaves the ping unanswered for so long is waited for no longer.
    pub(super) fn expire_proofs(self: &Arc<Link>, time: Duration, now: Instant) {
        let value = {
            let queue = self.proofs.queue.lock();
            let late = queue.pinged.is_some_and(|at| now.saturating_duration_since(at) >= time);
            queue.ping.filter(|_| late).map(|(value, _)| value)
        };
        if let Some(value) = value {
            self.on_proof(value);
        }
    }

    /// The link has ended.
    pub(super) fn end_proofs(&self) {
        let waiting = std::mem::take(&mut self.proofs.queue.lock().waiting);
        stir(waiting);
    }

    /// Those that are through.
    fn take_proven(&self, queue: &mut Queue) -> VecDeque<Waiting> {
        let proven = self.proofs.proven.load(Acquire);
        let n = queue.waiting.partition_point(|one| one.number <= proven);
        let rest = queue.waiting.split_off(n);
        std::mem::replace(&mut queue.waiting, rest)
    }
}

impl Queue {
    /// Whether the reactor is to be asked for a look that it does not know of.
    fn arm(&mut self) -> bool {
        let looks = !self.waiting.is_empty() && self.due.is_none() && self.ping.is_none();
        if looks {
            // The reactor's next look for receipts, which comes no earlier; others are not ours.
            self.due = Some(Instant::now() + PATIENCE);
        }
        looks
    }
}

/// They look, elsewhere.
fn stir(waiting: VecDeque<Waiting>) {
    waiting.iter().filter_map(|one| one.who.upgrade()).for_each(|who| who.stirred());
}

/// So long somebody waits before a ping is sent for it, at least; and between two of them.
const PATIENCE: Duration = Duration::from_millis(100);
const BETWEEN: Duration = Duration::from_secs(1);
/// So many wait on one link; what finishes beyond is not waited for.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::testing::eventually;
    use crate::{Conn, Host, Listener};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Watcher for Counting {
        fn stirred(&self) {
            self.0.fetch_add(1, SeqCst);
        }

        fn look(&self) {
            self.stirred();
        }
    }

    /// A link of two hosts, which nothing uses, and who is to wait on it.
    fn link() -> (Host, Host, Listener, Arc<Link>, Arc<Counting>) {
        let server = Host::builder().listen_on("127.0.0.1:0").build().unwrap();
        let client = Host::new().unwrap();
        let listener = Listener::bind(&server, "/x").unwrap();
        client.add_address(server.peer_id(), server.listen_addrs().remove(0));
        client.ping(&server.peer_id()).unwrap();
        let link = client.handle.core.links().remove(0);
        (server, client, listener, link, Arc::default())
    }

    fn watcher(who: &Arc<Counting>) -> Weak<dyn Watcher> {
        Arc::downgrade(&(who.clone() as Arc<dyn Watcher>))
    }

    #[test]
    fn those_that_nothing_follows_share_a_ping() {
        let (_server, _client, _listener, link, who) = link();
        let start = Instant::now();
        let numbers: Vec<u64> =
            (0..10).map(|_| link.prove(watcher(&who)).expect("few wait")).collect();
        assert!(!link.has_proven(numbers[0]));
        eventually("an answer", || numbers.iter().all(|number| link.has_proven(*number)));
        assert!(start.elapsed() >= PATIENCE);
        eventually("the news", || who.0.load(SeqCst) == 10);
        let (pings, next) = (link.notices.lock().pings, link.prove(watcher(&who)));
        eventually("another answer", || link.has_proven(next.expect("nobody waits")));
        assert!(start.elapsed() >= BETWEEN, "{:?}", start.elapsed());
        assert_eq!(link.notices.lock().pings, pings + 1);
    }

    #[test]
    fn an_answer_to_a_later_stream_is_as_good() {
        let (server, client, listener, link, who) = link();
        let (pings, start) = (link.notices.lock().pings, Instant::now());
        let proven = (0..200).filter(|_| {
            let before = link.prove(watcher(&who)).expect("few wait");
            let _near = Conn::connect(&client, server.peer_id(), "/x").unwrap();
            let _far = listener.accept().unwrap();
            link.has_proven(before)
        });
        // An answer proves nothing if something was still to be said as its stream was opened.
        assert!(proven.count() >= 100);
        let most = start.elapsed().div_duration_f64(BETWEEN).ceil() as u32;
        assert!(link.notices.lock().pings <= pings + most);
        assert!(who.0.load(SeqCst) >= 100, "they are told by the next one");
    }

    #[test]
    fn so_many_wait_and_all_hear_of_the_end() {
        let (_server, _client, _listener, link, who) = link();
        let stalled = link.tx.lock();
        for _ in 0..MOST {
            assert!(link.prove(watcher(&who)).is_some());
        }
        assert_eq!(link.prove(watcher(&who)), None);
        drop(stalled);
        link.die(crate::error::Error::new(crate::error::ErrorCode::ConnectionReset, "cut"));
        assert_eq!(who.0.load(SeqCst), MOST);
        assert!(link.prove(watcher(&who)).is_some_and(|number| !link.has_proven(number)));
        assert_eq!(who.0.load(SeqCst), MOST + 1);
    }

    #[test]
    fn a_ping_without_an_answer_is_not_waited_for_for_ever() {
        let (_server, _client, _listener, link, who) = link();
        let number = link.prove(watcher(&who)).expect("nobody waits");
        // Nothing goes out, so that nothing is answered.
        let stalled = link.tx.lock();
        eventually("the ping", || link.proofs.queue.lock().ping.is_some());
        link.expire_proofs(Duration::from_secs(10), Instant::now());
        assert!(!link.has_proven(number));
        link.expire_proofs(Duration::from_secs(10), Instant::now() + Duration::from_secs(11));
        assert!(link.has_proven(number) && who.0.load(SeqCst) == 1);
        drop(stalled);
    }
}
