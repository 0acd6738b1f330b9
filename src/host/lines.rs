//! What a host does for the sessions on it: links to their peers, queues for those
//! that come in.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use libp2p_identity::PeerId;

use super::backlog::Backlog;
use super::core::Core;
use crate::driver::{Greeted, Link, Stream};
use crate::error::Result;
use crate::proto::resume::Hello;
use crate::resources::events::Event;
use crate::session::{Channel, Lines, Session};

impl Lines for Core {
    fn line(&self, peer: &PeerId, suits: &dyn Fn(&Link) -> bool) -> Option<Arc<Link>> {
        self.resumable_link(peer, suits)
    }

    fn dial(
        &self,
        peer: PeerId,
        suits: &dyn Fn(&Link) -> bool,
        deadline: Instant,
    ) -> Result<Arc<Link>> {
        self.link_or_dial(peer, &[], suits, Some(deadline))
    }
}

/// A stream of the peer's is to carry a session, of a protocol with this queue.
pub(super) fn greet(
    core: &Core,
    backlog: Option<&Backlog>,
    link: &Arc<Link>,
    stream: &Arc<Stream>,
    hello: Hello,
) -> Greeted {
    let offer = |session: &Arc<Session>| {
        let channel = Channel::Resumable(session.clone());
        backlog.is_some_and(|backlog| queue(core, backlog, channel, link, stream))
    };
    core.sessions.greet(link, stream, hello, |_| backlog.is_some(), offer)
}

/// Has the channel wait to be accepted. `false`: there is no room.
///
/// Called under the stream's lock, which comes behind a session's: so it is not asked for
/// its carrier here.
pub(super) fn queue(
    core: &Core,
    backlog: &Backlog,
    channel: Channel,
    link: &Arc<Link>,
    stream: &Arc<Stream>,
) -> bool {
    if !backlog.push(channel, link, &core.resources) {
        core.counters.queue_refused.fetch_add(1, Relaxed);
        return false;
    }
    core.resources.feed.tell(|| Event::StreamOpened {
        connection: link.id,
        peer: link.peer,
        stream: stream.id,
        protocol: backlog.protocol.clone(),
        dialled: false,
    });
    true
}
