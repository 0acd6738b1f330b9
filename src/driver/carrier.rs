//! What a stream keeps that carries a session: how far each side is, and whom to tell.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::stream::Place;
use crate::proto::multistream;
use crate::proto::resume::{ACK_EVERY, Gone, HeadReader, Hello, Welcome};

/// Who uses a stream and wants to know when something happens to it.
pub(crate) trait Watcher: Send + Sync {
    /// Something has: it is to look, elsewhere. Called under the link's locks.
    fn stirred(&self);

    /// It looks whether it is over, here and now. Called without a lock.
    fn look(&self);
}

/// Whether credit and receipts are news to who uses a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Curious {
    No,
    /// All was said: only the receipt for it is missing.
    Calmly,
    Yes,
}

/// Beside a stream: the session's part in it.
pub(crate) struct Carries {
    session: Weak<dyn Watcher>,
    /// What of the session came before this stream.
    base: u64,
    /// What this stream has brought and was kept, the peer's end as one byte more.
    /// Written under the stream's lock.
    received: AtomicU64,
    /// The peer's end is counted already.
    finished: AtomicBool,
    /// How much that was when the peer was last told.
    told: AtomicU64,
    /// It is on the link's list of those whose peer is to be told.
    listed: AtomicBool,
    /// The low half of what the peer has, as it last said; `NOTHING` until then.
    acked: AtomicU64,
    /// How far that has moved since it was said first.
    moved: AtomicU64,
    /// What had come on the stream when the peer last said so.
    heard_at: AtomicU64,
    /// What had gone out on it when the peer was last asked to say so.
    asked_at: AtomicU64,
    /// Whether the session waits for credit or for an ack.
    curious: AtomicU8,
    /// What the peer's answer proves that it has of other sessions.
    proof: u64,
}

impl Carries {
    /// For a stream of `session`, which has `base` bytes already, the peer's end among
    /// them if it is `finished`.
    pub(crate) fn new(session: Weak<dyn Watcher>, base: u64, finished: bool) -> Box<Carries> {
        Box::new(Carries {
            session,
            base,
            received: AtomicU64::new(0),
            finished: AtomicBool::new(finished),
            told: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            acked: AtomicU64::new(NOTHING),
            moved: AtomicU64::new(0),
            heard_at: AtomicU64::new(NOTHING),
            asked_at: AtomicU64::new(NOTHING),
            curious: AtomicU8::new(Curious::No as u8),
            proof: 0,
        })
    }

    /// Has the session look.
    pub(super) fn stir(&self) {
        if let Some(session) = self.session.upgrade() {
            session.stirred();
        }
    }

    /// The same if it wanted to know. Returns who is to look when there is time for that.
    pub(super) fn stir_if_curious(&self) -> Option<Weak<dyn Watcher>> {
        let curious = self.curious.load(Ordering::SeqCst);
        if curious == Curious::Yes as u8 {
            self.stir();
        }
        (curious == Curious::Calmly as u8).then(|| self.session.clone())
    }

    /// Whether credit and acks are told too.
    pub(crate) fn set_curious(&self, curious: Curious) {
        self.curious.store(curious as u8, Ordering::SeqCst);
    }

    /// It was opened behind what that number stands for.
    pub(super) fn set_proof(&mut self, proof: u64) {
        self.proof = proof;
    }

    /// What an answer on it proves.
    pub(super) fn proof(&self) -> u64 {
        self.proof
    }

    /// How much of the session this end has, the peer's end as one byte more.
    pub(crate) fn received(&self) -> u64 {
        self.base + self.received.load(Ordering::Acquire)
    }

    /// `n` bytes more were kept. Returns whether the peer is to be told now, and whether it
    /// is to be told soon and nobody was asked to do that yet.
    pub(super) fn keep(&self, n: usize) -> (bool, bool) {
        let received = self.received.load(Ordering::Relaxed) + n as u64;
        self.received.store(received, Ordering::Release);
        let now = received - self.told.load(Ordering::Relaxed) >= ACK_EVERY;
        (
            now,
            n > 0
                && !now
                && !self.listed.load(Ordering::Relaxed)
                && !self.listed.swap(true, Ordering::AcqRel),
        )
    }

    /// The peer's end has come.
    pub(super) fn finish(&self) {
        if !self.finished.swap(true, Ordering::Relaxed) {
            let received = self.received.load(Ordering::Relaxed) + 1;
            self.received.store(received, Ordering::Release);
        }
    }

    /// What to tell the peer, if there is news. Its low half is what is said.
    pub(super) fn tell(&self) -> Option<u32> {
        let received = self.received.load(Ordering::Acquire);
        let told = self.told.swap(received, Ordering::AcqRel);
        (told != received).then_some((self.base + received) as u32)
    }

    /// Whether there is something to tell.
    pub(super) fn has_news(&self) -> bool {
        self.told.load(Ordering::Relaxed) != self.received.load(Ordering::Relaxed)
    }

    /// What this end has, whether the peer knows it or not.
    pub(super) fn tell_again(&self) -> u32 {
        let received = self.received.load(Ordering::Acquire);
        self.told.store(received, Ordering::Release);
        (self.base + received) as u32
    }

    /// Whether the peer, which may be waiting for it, lacks much of what came.
    pub(super) fn owes(&self) -> bool {
        let told = self.told.load(Ordering::Acquire);
        self.received.load(Ordering::Acquire).saturating_sub(told) >= u64::from(OWED)
    }

    /// It is on no list any more.
    pub(super) fn unlist(&self) {
        self.listed.store(false, Ordering::Release);
    }

    /// The peer says how much it has, where so much has gone to it and come from it on
    /// the stream. Returns whether it had a reason to: it has more than it said before,
    /// or has sent something and so may ask what we have of it. Called under the link's
    /// `rx` lock.
    pub(super) fn note_ack(&self, received: u32, sent: u64, came: u64) -> bool {
        let before = self.acked.swap(received.into(), Ordering::AcqRel);
        let asks = self.heard_at.swap(came, Ordering::Relaxed) != came;
        let ahead = match before {
            NOTHING => return true,
            before => u64::from(received.wrapping_sub(before as u32)),
        };
        let moved = self.moved.load(Ordering::Relaxed).saturating_add(ahead);
        // Its end is a byte too.
        let is_news = ahead > 0 && moved <= sent + 1;
        if is_news {
            self.moved.store(moved, Ordering::Relaxed);
        }
        is_news || asks
    }

    /// Whether the peer is to be asked how much it has, now that so much has gone to it
    /// on the stream: once for the same, it cannot come to have more of that later
    /// without saying so.
    pub(super) fn asks(&self, sent: u64) -> bool {
        self.asked_at.swap(sent, Ordering::Relaxed) != sent
    }

    /// What it said last, if it has said anything.
    pub(crate) fn acked(&self) -> Option<u32> {
        u32::try_from(self.acked.load(Ordering::Acquire)).ok()
    }
}

/// A stream of the peer's that opens or resumes a session: its head is awaited.
pub(crate) struct Greeting {
    pub(super) reader: HeadReader<Hello>,
    /// What multistream has to say, which goes out with the answer.
    pub(super) reply: Vec<u8>,
    #[expect(dead_code, reason = "held until the stream is something else")]
    pub(super) place: Place,
    /// The head was passed on: nothing may come before it is answered.
    pub(super) passed: bool,
}

impl Greeting {
    pub(super) fn new(reply: Vec<u8>, place: Place) -> Greeting {
        Greeting { reader: HeadReader::new(), reply, place, passed: false }
    }
}

/// A stream of ours that does: the peer's answer is awaited.
pub(crate) struct Answering {
    /// Until multistream is through.
    pub(super) dialer: Option<multistream::Dialer>,
    pub(super) reader: HeadReader<Answer>,
    /// How much of the session the peer may send at once.
    pub(super) window: u32,
    /// How much the peer may say in its head.
    pub(super) used: usize,
}

/// A responder's head.
pub(crate) type Answer = std::result::Result<Welcome, Gone>;

/// What the peer answered.
pub(crate) enum Answered {
    /// Its head; from here on the stream carries the session, if it says so.
    Head(Answer),
    /// It does not speak the protocol.
    NoProtocol,
    /// It broke the rules.
    Violation(crate::error::Error),
}

/// What becomes of a session's stream that the peer has opened.
pub(crate) enum Greeted {
    /// It carries the session: answer with this head, let the peer send so much.
    Welcome(Vec<u8>, u32),
    /// The session answers later, by [`Link::welcome`](super::Link::welcome).
    Later,
    /// It does not: answer with this head, and end.
    Gone(Vec<u8>),
    /// There is no room: reset.
    Refused,
}

/// No number of 32 bits.
const NOTHING: u64 = u64::MAX;

/// A peer that asks is told at once if it does not know of so much: it may keep little
/// more than that.
const OWED: u32 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watcher for Nobody {
        fn stirred(&self) {}

        fn look(&self) {}
    }

    fn carries() -> Box<Carries> {
        let nobody = std::sync::Arc::new(Nobody) as std::sync::Arc<dyn Watcher>;
        Carries::new(std::sync::Arc::downgrade(&nobody), 0, false)
    }

    #[test]
    fn a_receipt_has_a_reason_if_it_says_more_or_asks() {
        let carries = carries();
        assert!(carries.note_ack(u32::MAX - 9, 0, 0), "the first is where it begins");
        assert!(!carries.note_ack(u32::MAX - 9, 100, 0), "the same again");
        assert!(carries.note_ack(0, 100, 0), "ten more, past the largest number");
        assert!(carries.note_ack(0, 100, 1), "it has sent something, and asks");
        assert!(!carries.note_ack(0, 100, 1), "it has asked that");
        assert!(!carries.note_ack(u32::MAX, 100, 1), "backward");
        assert!(!carries.note_ack(0, 0, 1), "more than was sent");
        assert_eq!(carries.acked(), Some(0));
    }

    #[test]
    fn all_that_receipts_say_is_news_for_as_much_as_was_sent() {
        let carries = carries();
        let news = (0..1000).filter(|n| carries.note_ack(*n, 100, 7)).count();
        assert_eq!(news, 1 + 100 + 1, "the first, one for each byte, one for the end");
    }

    #[test]
    fn the_peer_is_asked_once_for_the_same() {
        let carries = carries();
        assert!(carries.asks(0) && !carries.asks(0) && carries.asks(1) && !carries.asks(1));
    }
}
