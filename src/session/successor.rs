//! A peer that comes back as another host: its process was killed, most likely, and has a
//! successor. Or it has two at once: a new process beside the old one that goes on for a
//! while.
//!
//! That proves nothing. A key may be used by two processes, and the one may be back any
//! moment whose connection was lost. So what waits to be delivered goes on waiting; but where
//! all of it has arrived and only the end was not said, which a dead process does not miss,
//! the session does not keep its own host from closing.

use std::time::{Duration, Instant};

use super::{Outage, Phase, Session};
use crate::driver::Link;
use crate::proto::noise::StaticKey;

/// Which hosts of a peer are asked for a conn that was lost.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Where it was.
    host: StaticKey,
    since: Instant,
    /// Another that was there then does not know it.
    elsewhere: bool,
}

impl Wanted {
    /// Any, as long as there seems to be one. Of two only the one that had it, or one that
    /// came when it was lost.
    pub(super) fn suits(&self, link: &Link) -> bool {
        !self.elsewhere || self.may_know(link)
    }

    fn may_know(&self, link: &Link) -> bool {
        link.peer_static == self.host || link.opened > self.since
    }
}

impl Outage {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { host: self.host, since: self.since, elsewhere: self.elsewhere }
    }
}

impl Session {
    /// Who is looked for, while it is lost.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.outage(Outage::wanted)
    }

    /// The host behind this link does not know the conn. Whether another of the peer may: then
    /// that is looked for, where it can be dialled.
    pub(super) fn is_elsewhere(&self, link: &Link) -> bool {
        let mut state = self.state.lock();
        let Phase::Lost(outage) = &mut state.phase else { return false };
        let is = outage.dials && !outage.wanted().may_know(link);
        outage.elsewhere |= is;
        is
    }

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

    /// One that came when the other was lost, which was not heard of since. It may be gone
    /// again before anybody needs to know.
    fn note_successor(&self) {
        let Some(lines) = self.sessions.lines.upgrade() else { return };
        let Some((host, lost)) = self.outage(|outage| (outage.host, outage.since)) else { return };
        let is_back = lines.line(&self.peer, &|link| link.peer_static == host).is_some();
        let came = lines.line(&self.peer, &|link| link.opened > lost);
        let mut state = self.state.lock();
        let Phase::Lost(outage) = &mut state.phase else { return };
        outage.succeeded = match came {
            _ if is_back => None,
            Some(link) => outage.succeeded.or(Some(link.opened)),
            None => outage.succeeded,
        };
    }

    fn outage<R>(&self, of: impl FnOnce(&Outage) -> R) -> Option<R> {
        match &self.state.lock().phase {
            Phase::Lost(outage) => Some(of(outage)),
            _ => None,
        }
    }
}

/// One that is alive has tried to come back a few times by then.
const RETURNS_WITHIN: Duration = Duration::from_secs(1);
