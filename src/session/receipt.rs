//! The last receipt: what a session waits for that has nothing more to do for itself.
//!
//! Who has finished and has read the peer's end has confirmed that end last of all. If this
//! receipt is lost with its connection, the peer has sent everything and does not know that
//! it has arrived. It learns it over the next carrier, if there is one: so a session that is
//! *complete* goes on being there until the peer has the receipt, and comes back for it.
//! No call waits for that; nothing is kept but the session itself, its stream's place on
//! the link is free.
//!
//! Not every end has to: of a session that a tombstone can answer for, and that the peer
//! dials for, nothing is left to do.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::carriers::Carrier;
use super::outgoing::Outgoing;
use super::{Phase, Session, State};
use crate::driver::{Link, Watcher};

/// What is known of it.
#[derive(Default)]
pub(super) struct LastReceipt {
    /// It went out before our own end did: who confirms that has it.
    precedes_end: bool,
    /// The number of the question that was put to the present link.
    asked: Option<u64>,
    /// The peer has it.
    arrived: bool,
}

impl Session {
    /// Queues the end on this carrier if it is its turn. `false`: the carrier is broken.
    pub(super) fn say_end(&self, out: &mut Outgoing, carrier: &Carrier) -> bool {
        let news = !out.is_delivered();
        if !out.take_fin() {
            return true;
        }
        if news {
            let confirmed = carrier.link.has_confirmed_end(&carrier.stream);
            let mut state = self.state.lock();
            // What came on carriers before was said in the head of this one.
            state.last_receipt.precedes_end = confirmed || state.carriers.finished;
        }
        let said = carrier.link.finish(&carrier.stream);
        // An end that nobody says would be waited for.
        said.map_err(|e| carrier.link.die_quietly(e)).is_ok()
    }

    /// The peer has answered a head that said how much has arrived.
    pub(super) fn head_was_heard(&self) {
        let mut state = self.state.lock();
        state.last_receipt.arrived |= state.carriers.finished;
    }

    /// Whether all has arrived at both ends, as far as was heard of it.
    pub(super) fn is_complete(&self, state: &State) -> bool {
        // What was settled and has not ended was delivered.
        self.settled.load(SeqCst) && state.carriers.is_finished()
    }

    /// Of a session whose own direction is delivered: whether the peer may come to need
    /// it still for the receipt of its end. Has itself called when that may be different.
    pub(super) fn owes_receipt(&self) -> bool {
        let link = {
            let mut state = self.state.lock();
            if !state.carriers.is_finished() || state.closing.is_some() {
                return false;
            }
            match &state.phase {
                Phase::Opening | Phase::Ended(_) => return false,
                Phase::Lost(outage) => {
                    let receipt = &state.last_receipt;
                    let arrived = receipt.arrived || receipt.precedes_end;
                    return !arrived && self.has_to_come_back(outage.dials);
                }
                Phase::Attached => {}
            }
            let Some(current) = state.carriers.current.clone() else { return false };
            if !self.is_needed(&mut state, &current.link) {
                return false;
            }
            if state.last_receipt.asked.is_some() {
                return true;
            }
            current.link.clone()
        };
        let watcher: Weak<dyn Watcher> = self.me.clone();
        let asked = link.prove(watcher);
        self.note_question(&link, asked);
        asked.is_some()
    }

    /// The same of one that is complete, with its carrier on this link.
    pub(super) fn is_needed(&self, state: &mut State, link: &Link) -> bool {
        let receipt = &mut state.last_receipt;
        let proven = receipt.asked.is_some_and(|number| link.has_proven(number));
        receipt.arrived |= receipt.precedes_end || proven;
        !receipt.arrived && state.closing.is_none() && self.has_to_come_back(link.dialled)
    }

    fn note_question(&self, link: &Arc<Link>, asked: Option<u64>) {
        let mut state = self.state.lock();
        if state.carriers.current.as_ref().is_some_and(|now| Arc::ptr_eq(&now.link, link)) {
            state.last_receipt.asked = asked;
        }
    }

    /// Whether nobody else can bring the peer to the receipt: only the opener says Hello,
    /// and only who had dialled dials again.
    fn has_to_come_back(&self, dials: bool) -> bool {
        self.opener || dials
    }

    /// A lost session that is complete, and that the peer would resume, has done its part
    /// once there is a link: a peer that needs it asks soon, and later a tombstone answers.
    pub(super) fn wait_to_be_asked(&self, now: Instant) {
        if self.opener || !self.settled.load(SeqCst) {
            return;
        }
        let Some(lines) = self.sessions.lines.upgrade() else { return };
        if lines.line(&self.peer, &|_| true).is_none() {
            return;
        }
        let mut state = self.state.lock();
        let complete = self.is_complete(&state);
        if let Phase::Lost(outage) = &mut state.phase
            && complete
        {
            outage.deadline = outage.deadline.min(now + ASKED_WITHIN);
        }
    }
}

impl LastReceipt {
    /// The carrier is lost, with what was under way.
    pub(super) fn lose(&mut self) {
        self.asked = None;
    }
}

/// A peer that has a link again says by then what it wants over it.
const ASKED_WITHIN: Duration = Duration::from_secs(1);
