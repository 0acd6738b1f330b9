//! A peer that comes back as another host: its process was killed, most likely, and has a
//! successor.
//!
//! That proves nothing. A key may be used by two processes, and the one may be back any
//! moment whose connection was lost. So what waits to be delivered goes on waiting; but where
//! all of it has arrived and only the end was not said, which a dead process does not miss,
//! the session does not keep its own host from closing.

use std::time::Duration;

use super::{Phase, Session};

impl Session {
    /// A lost session that its opener would resume, and that only has its end to say to a
    /// host that has a successor, is waited for no longer than one that is alive takes.
    pub(super) fn make_way_for_successor(&self) {
        if self.opener {
            return;
        }
        self.note_successor();
        if !self.only_lacks_end() {
            return;
        }
        let mut state = self.state.lock();
        if let Phase::Lost(outage) = &mut state.phase
            && let Some(since) = outage.succeeded
        {
            outage.deadline = outage.deadline.min(since + RETURNS_WITHIN);
        }
    }

    /// It may be gone again before anybody needs to know.
    fn note_successor(&self) {
        let Some(link) = self.sessions.lines.upgrade().and_then(|lines| lines.line(&self.peer))
        else {
            return;
        };
        let mut state = self.state.lock();
        if let Phase::Lost(outage) = &mut state.phase
            && outage.host != link.peer_static
        {
            outage.succeeded.get_or_insert(outage.since.max(link.opened));
        }
    }
}

/// One that is alive has tried to come back a few times by then.
const RETURNS_WITHIN: Duration = Duration::from_secs(1);
