//! Dialling a peer again whose connection was lost: one thread for all its sessions.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use super::Sessions;
use crate::backoff::Backoff;
use crate::driver::Link;
use crate::driver::reactor::Task;
use crate::error::{Error, ErrorCode};

impl Sessions {
    /// Dials the peer again until there is a link or nobody needs one, if its sessions
    /// lost one that this host had dialled.
    pub(super) fn redial(self: &Arc<Sessions>, peer: PeerId) {
        {
            let mut table = self.table.lock();
            if !table.lost.wants(&peer) || table.redialled.contains_key(&peer) {
                return;
            }
            table.redialled.insert(peer, 0);
        }
        self.start_to_redial(peer);
    }

    /// On a thread, as soon as one can be started.
    fn start_to_redial(self: &Arc<Sessions>, peer: PeerId) {
        let sessions = self.clone();
        let thread = std::thread::Builder::new().name("pointsub-redial".into());
        if let Err(e) = thread.spawn(move || sessions.redial_until_there(peer)) {
            let first = {
                let mut table = self.table.lock();
                table.unstarted.push(peer);
                table.unstarted.len() == 1
            };
            if first {
                log::warn!("no thread can be started yet to dial {peer} again: {e}");
                let me: Weak<dyn Task> = Arc::downgrade(self) as Weak<dyn Task>;
                self.reactor.run_at(Instant::now() + NO_THREAD, me);
            }
        }
    }

    /// It is there: if it is lost again, the delays begin anew.
    pub(super) fn forget_attempts(&self, peer: &PeerId) {
        if let Some(attempts) = self.table.lock().redialled.get_mut(peer) {
            *attempts = 0;
        }
    }

    fn redial_until_there(&self, peer: PeerId) {
        let mut refused_since = None;
        while let Some(attempt) = self.wait_for_turn(&peer, refused_since) {
            let Some(lines) = self.lines.upgrade() else { break };
            let wanted: Vec<_> =
                self.lost_of(&peer).iter().filter_map(|session| session.wanted()).collect();
            let suits = |link: &Link| wanted.iter().all(|wanted| wanted.suits(link));
            match lines.dial(peer, &suits, Instant::now() + A_DIAL) {
                Ok(link) => {
                    // It may have been there: then nobody else tells them.
                    self.link_up(&link);
                    refused_since = None;
                }
                Err(e) => {
                    log::debug!(peer:% = peer, attempt = attempt; "dialling again failed: {e}");
                    if e.code() != ErrorCode::ConnectionRefused {
                        refused_since = None;
                        continue;
                    }
                    self.let_go_of(&peer, &e);
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= REFUSED {
                        self.give_up_on(&peer, &e);
                    }
                }
            }
        }
    }

    /// Every address refuses for so long that nobody is there any more.
    fn give_up_on(&self, peer: &PeerId, e: &Error) {
        for session in self.lost_of(peer) {
            let what = format!(
                "the connection was lost, and for {REFUSED:?} every dial failed: {}",
                e.description()
            );
            session.give_up_lost(Error::with_source(ErrorCode::ConnectionReset, what, e.clone()));
        }
    }

    /// Every address refuses: those of which only the end has not arrived do not keep
    /// their host from closing.
    fn let_go_of(&self, peer: &PeerId, e: &Error) {
        for session in self.lost_of(peer).iter().filter(|session| session.only_lacks_end()) {
            session.give_up_lost(e.clone());
        }
    }

    /// Waits until the next attempt is due, and returns its number. `None`: nobody needs
    /// the peer any more.
    fn wait_for_turn(&self, peer: &PeerId, refused_since: Option<Instant>) -> Option<u32> {
        let mut table = self.table.lock();
        let attempts = table.redialled.get(peer).copied().unwrap_or_default();
        let due = Instant::now() + BACKOFF.delay(attempts);
        // A refusal costs little, and only many of them say that nobody is there; the last
        // one comes when their time is over.
        let soon = |since| due.min(Instant::now() + AFTER_REFUSAL).min(since + REFUSED);
        let until = refused_since.map_or(due, soon);
        loop {
            if table.over || !table.lost.wants(peer) {
                // Under this lock: one that is lost next finds no thread.
                table.redialled.remove(peer);
                return None;
            }
            if Instant::now() >= until {
                let attempts = table.redialled.entry(*peer).or_default();
                *attempts += 1;
                return Some(*attempts);
            }
            self.changed.wait_until(&mut table, until);
        }
    }
}

impl Task for Sessions {
    /// Threads that could not be started are due again.
    fn run(self: Arc<Sessions>, _: Instant) {
        let peers = std::mem::take(&mut self.table.lock().unstarted);
        peers.into_iter().for_each(|peer| self.start_to_redial(peer));
    }
}

/// As in the documentation of the host.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// One attempt takes at most so long.
const A_DIAL: Duration = Duration::from_secs(10);
/// It is tried again after at most so long if it was refused.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// Where no thread can be started, one may be then.
const NO_THREAD: Duration = Duration::from_millis(500);
/// After so long of nothing but refusals the peer is not there any more.
const REFUSED: Duration = Duration::from_secs(5);
