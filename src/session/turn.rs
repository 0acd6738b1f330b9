//! Whose turn it is on a new connection: the sessions that shared the old one come back
//! first, and then they say again what was lost.
//!
//! A head takes a few hundred bytes, and what one session says again may take a slow
//! connection seconds. So who is back makes way while others of its peer come back one after
//! the other, at both ends: what is written meanwhile is kept. That ends with the last of
//! them, or when none has come for a while: the peer may have given the others up. A little
//! goes out at once: who says little does not wait, and a wire that is cut again and again
//! carries something each time.

use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use super::outgoing::{FIRST_PIECE, Outgoing};
use super::{Session, Sessions};

/// A session makes way.
pub(super) struct Way {
    /// No longer than this.
    until: Instant,
    /// No others are waited for without a sign of them.
    quiet: Duration,
    /// When it looks again, whatever happens.
    looks: Option<Instant>,
}

impl Session {
    /// Whether what it has to say waits; then it is called when that is over.
    pub(super) fn makes_way(&self, out: &mut Outgoing) -> bool {
        if out.way.is_none() || out.said_since_loss() < AT_ONCE {
            return false;
        }
        if self.state.lock().closing.is_some() {
            // There is little time for what it has to say.
            out.way = None;
        }
        let Some(way) = &mut out.way else { return false };
        let now = Instant::now();
        let looks = self.sessions.wait_for_others(self, way, now);
        match looks {
            None => out.way = None,
            // However much is written meanwhile.
            Some(at) if way.looks.is_none_or(|looks| looks <= now) => {
                way.looks = Some(at);
                self.wake_at(at);
            }
            Some(_) => {}
        }
        looks.is_some()
    }
}

impl Sessions {
    /// For a session that is back on a link with this round trip, if others of its peer are
    /// not.
    pub(super) fn way(&self, peer: &PeerId, rtt: Option<Duration>) -> Option<Way> {
        let quiet = rtt.unwrap_or_default().saturating_mul(2).clamp(QUIET, MOST);
        let others = self.table.lock().lost.changed(peer).is_some();
        others.then(|| Way { until: Instant::now() + MOST, quiet, looks: None })
    }

    /// `None`: no others of its peer are coming. Else when that is to be looked at again.
    fn wait_for_others(&self, session: &Session, way: &Way, now: Instant) -> Option<Instant> {
        let mut table = self.table.lock();
        let quiet = table.lost.changed(&session.peer)? + way.quiet;
        if quiet <= now {
            // Nor by those who come back next.
            table.lost.await_no_more(&session.peer);
        }
        let at = way.until.min(quiet);
        if at <= now {
            return None;
        }
        if way.looks.is_none_or(|looks| looks <= now) {
            table.lost.wait(session);
        }
        Some(at)
    }
}

/// What goes out before: of a thousand sessions as much as a slow connection carries in a
/// few seconds.
const AT_ONCE: u64 = FIRST_PIECE as u64;
/// Where none of the others has come for so long, or two round trips if that is longer, they
/// are not waited for.
const QUIET: Duration = Duration::from_millis(500);
/// What many of them take on a connection that is barely alive.
const MOST: Duration = Duration::from_secs(5);
