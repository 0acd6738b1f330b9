//! Receipts: what has come of a session is said to its peer, and what the peer has is heard.

use std::sync::Arc;

use super::Link;
use super::world::atomic::Ordering::Relaxed;
use super::world::{Stream, now};
use crate::driver::carrier::Carries;
use crate::error::Result;
use crate::proto::yamux::Control;
use crate::resources::limits::Limit;

impl Link {
    /// A body was kept for a session.
    pub(super) fn kept(self: &Arc<Link>, stream: &Arc<Stream>, n: usize) -> Result<()> {
        let Some(carries) = stream.carries.get() else { return Ok(()) };
        let (now, soon) = carries.keep(n);
        if now {
            return self.acknowledge(stream, carries);
        }
        if soon {
            let mut list = self.acks_due.lock();
            list.push(stream.clone());
            if list.len() == 1 {
                self.reactor.ack_soon(self);
            }
        }
        Ok(())
    }

    /// Tells the peer what has come of a session, if it does not know.
    pub(super) fn acknowledge(&self, stream: &Stream, carries: &Carries) -> Result<()> {
        self.push_ack(stream, || carries.tell())
    }

    /// Takes the number under the queue's lock: what is said never goes back.
    fn push_ack(&self, stream: &Stream, received: impl FnOnce() -> Option<u32>) -> Result<()> {
        self.queue_ack(stream, received, || self.mark_control())
    }

    fn queue_ack(
        &self,
        stream: &Stream,
        received: impl FnOnce() -> Option<u32>,
        mark: impl FnOnce(),
    ) -> Result<()> {
        let mut queue = self.control.lock();
        let Some(received) = received() else { return Ok(()) };
        queue.push(Control::Received { id: stream.id, received })?;
        mark();
        Ok(())
    }

    /// What goes with bytes of the stream, so that whoever has our answer knows that we have
    /// what it answers. It is said next: called under the `tx` lock.
    pub(super) fn receipt_beside(&self, stream: &Stream) -> Option<u32> {
        let carries = stream.carries.get().filter(|carries| carries.has_news())?;
        let mut queue = self.control.lock();
        let received = carries.tell()?;
        queue.withdraw_receipt(stream.id);
        Some(received)
    }

    /// The peer has finished its direction of a session's stream: that counts as one
    /// byte, and is confirmed with what is said next.
    pub(super) fn kept_end(&self, stream: &Stream) -> Result<()> {
        let Some(carries) = stream.carries.get() else { return Ok(()) };
        carries.finish();
        self.queue_ack(stream, || carries.tell(), || self.rest.frames.begin())?;
        self.tell(carries);
        Ok(())
    }

    /// Our own end is to be said next: what has come goes out before it, so that a peer that
    /// hears nothing more of us knows of all that we took.
    pub(super) fn confirm_before_end(&self, stream: &Stream) -> Result<()> {
        let Some(carries) = stream.carries.get() else { return Ok(()) };
        self.queue_ack(stream, || carries.tell(), || self.rest.frames.begin())
    }

    /// Whether the receipt for the peer's end goes out before what is said next: it went to
    /// the queue with the end, and a FIN does not overtake it there.
    pub(crate) fn has_confirmed_end(&self, stream: &Stream) -> bool {
        stream.state.lock().finished()
    }

    /// The reactor's timer for what was kept and not confirmed, and for those who wait to
    /// know that the peer has what was.
    pub(in crate::driver) fn send_acks(self: &Arc<Link>) {
        let due = std::mem::take(&mut *self.acks_due.lock());
        for stream in due {
            let Some(carries) = stream.carries.get() else { continue };
            carries.unlist();
            if let Err(e) = self.acknowledge(&stream, carries) {
                return self.die(e);
            }
        }
        self.look_at_proofs(now());
        self.flush_control();
    }

    /// The peer says how much of a session it has. It may say so because it waits to
    /// hear the same from us.
    pub(super) fn on_received(&self, stream: &Stream, received: u32) -> Result<()> {
        let Some(carries) = stream.carries.get() else {
            return self.flood(Limit::EmptyFrames, 1);
        };
        let counters = &stream.counters;
        let (sent, came) = (&counters.bytes_sent, &counters.bytes_received);
        if !carries.note_ack(received, sent.load(Relaxed), came.load(Relaxed)) {
            self.flood(Limit::EmptyFrames, 1)?;
        }
        stream.state.lock().writers.wake();
        self.tell(carries);
        if carries.owes() { self.acknowledge(stream, carries) } else { Ok(()) }
    }

    /// Has the peer say how much it has of what was sent: by saying the same of ours.
    pub(crate) fn ask_for_ack(self: &Arc<Link>, stream: &Stream) {
        let Some(carries) = stream.carries.get() else { return };
        if !carries.asks(stream.counters.bytes_sent.load(Relaxed)) {
            return;
        }
        match self.push_ack(stream, || Some(carries.tell_again())) {
            Ok(()) => self.flush_control(),
            Err(e) => self.die(e),
        }
    }
}
