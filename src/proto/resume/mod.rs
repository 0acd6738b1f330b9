//! Streams that outlive their connection: the protocol `/pointsub/resume/1.0.0`.
//!
//! A *session* is a stream between two hosts that lives on one *carrier* after the
//! other. A carrier is an ordinary stream of yamux, which begins with a head of either
//! end and then carries the session's bytes as they are. What is lost with one carrier
//! is sent again on the next.
//!
//! This is what another implementation has to know. Two hosts do it if both have said
//! so in the handshake (bit 0 of the features, `proto/noise/capabilities`); to all
//! others a stream is a plain one.
//!
//! # The heads
//!
//! The *opener*, who wants the stream, opens a stream of yamux and sends in one write the
//! header and the name of the protocol, as multistream-select has it, and a Hello. The
//! *responder* answers in one write with its two lines of multistream-select and a
//! Welcome or a Gone. So opening and resuming take one round trip each. Before the
//! answer the opener sends nothing else.
//!
//! A head is its length, a varint of at most two bytes, and a message of protobuf of at most
//! 2,048 bytes. Fields that are not known are skipped, those that are absent are zero.
//!
//! ```text
//! Hello     1  bytes   id        16 bytes by chance, the same for the whole session
//!           2  uint64  epoch     from 1, and higher with every Hello of the session
//!           3  bool    opening   no Welcome has come yet: make the session if need be
//!           4  uint64  received  what the opener has
//!           5  uint32  window    what the responder may send before it is granted more
//!           6  uint32  timeout   how long the opener keeps a lost session, milliseconds
//!           7  string  protocol  what is spoken in the session
//!
//! answer    1  uint32  gone      0: Welcome. 1 unknown, 2 ended, 3 invalid, 4 not served,
//!                                5 busy; others are read as 3
//!           2  uint64  received  what the responder has; of an ended session, had
//!           3  uint32  window    as above, for the opener
//!           4  uint32  timeout   as above, of the responder
//! ```
//!
//! Behind a Gone comes a FIN, and the stream is over. A reset instead of an answer means
//! that there is no room: the opener says Hello again a little later.
//!
//! # Positions
//!
//! Either direction counts its bytes from the session's beginning, and its FIN as one
//! byte behind the last. `received` counts what is *stored in order*, opened and
//! authenticated, be it read by the application or not; what is thrown away because nobody
//! will read it counts too. In each direction
//!
//! ```text
//! acknowledged <= received <= sent
//! ```
//!
//! holds for every `received` that the other end is told; `sent` is the highest position
//! that was ever sealed on a carrier. What is outside is refused.
//!
//! The sender goes on from the other end's `received`, bytes in order, and behind the last
//! one FIN, on every carrier on which it comes so far: also where the other end has the FIN
//! already, which counts it once. A FIN is never said before the last byte.
//!
//! # Windows
//!
//! Heads and the lines of multistream-select are outside of the window. Behind its head
//! each end may send what the other's head says is its `window`, and then what window
//! updates grant. It is 256 KiB less what lies unread from carriers before, or nothing:
//! otherwise memory would grow by a window with every loss. What is read of that later
//! is granted on the new carrier, but for what was more than one window.
//!
//! # Receipts
//!
//! A frame of yamux of the private type `0x50`: the carrier's stream id, no flags, and in
//! place of a length the low 32 bits of `received`. It has no body and needs no credit, so that
//! it gets through where the window is shut. It is due for 256 KiB, for the FIN, and 100 ms
//! after the first byte that was not told; a newer one replaces one that waits. It goes before
//! the next bytes of the other direction, if there are some: whoever has read an answer knows
//! that what it answers has arrived, though its sender be gone a moment later.
//! The sender keeps what is not acknowledged. A receipt out of range is a violation that
//! ends the connection; one for a stream that is not there is ignored. Without the
//! capability the type is as unknown as any other.
//!
//! A stream of yamux that carries a session is forgotten only with the session: the receipt
//! for our FIN comes behind the peer's FIN.
//!
//! # Lost, and what is not
//!
//! A carrier is lost with its connection: by a reset, by an end without a goodbye, by
//! silence, by a frame that fails authentication. A goodbye, a violation, and a reset of
//! the carrier behind its Welcome end the session instead. So whoever has no use for a
//! carrier any more, but for the session, ends its *connection*: an opener that waits in
//! vain for an answer, and a responder whose old carrier is replaced. An opener resets
//! a carrier only where it gives the session up.
//!
//! | state | event | what follows |
//! |---|---|---|
//! | awaiting (opener) | Welcome in range | attached: what is missing is sent again |
//! | | Welcome out of range | ended, the carrier is reset |
//! | | Gone busy, reset | lost; when opening, ended |
//! | | Gone | ended; complete if all is acknowledged and the peer's FIN is there |
//! | | the link is lost | lost |
//! | | no answer for long | the link is ended, and so lost |
//! | attached | the link is lost | lost |
//! | | a reset; a goodbye before the end | ended |
//! | | own FIN acknowledged, peer's FIN there | complete; ended, once the peer needs it no more |
//! | | Hello (responder) | as for lost, once the old carrier is fenced |
//! | lost | a link (opener) | Hello with the next epoch: awaiting |
//! | | Hello (responder) that may be | Welcome, attached |
//! | | the smaller timeout is over | ended |
//! | ended | Hello | Gone ended, with what had arrived |
//!
//! # The last receipt
//!
//! An end is complete when its own FIN is acknowledged and the peer's is there. It has
//! confirmed the peer's FIN then; but if that receipt is lost with the connection, the
//! peer has sent everything and does not know that it has arrived. It learns it over the
//! next carrier: from the Welcome or the Gone ended of a responder, from the Hello of an
//! opener. So an end that is complete goes on being there, attached or lost, if nobody else
//! can bring that about: an opener, because only it says Hello; a responder that had dialled
//! the connection, because only it dials again. Another responder has ended, and its
//! tombstone answers. It ends too when the peer is known to have the receipt:
//!
//! * the receipt went out before its own FIN did, on the same carrier or in the head of that,
//!   and the FIN is acknowledged: so it is for whoever ends last;
//! * a Hello that said so was answered with Welcome;
//! * the head of a stream that was opened behind the receipt on the same connection was
//!   answered: so it is where sessions come and go one after the other, and it costs nothing;
//! * a ping of yamux behind the receipt was answered. It is sent 100 ms after the receipt at
//!   the earliest, for all that wait then, one at a time and at most one a second.
//!
//! No call waits for that: flushes return, a handle is dropped, the stream of yamux may be
//! forgotten, and nothing is kept of what was sent. And it is bounded: such a session ends
//! when a peer that lives has not answered the ping for 30 s, or twice as long as a silent one
//! is waited for, when 1,024 others of its connection wait for that, when its host ends or
//! disconnects from the peer, and without a carrier when the time of a lost session is over,
//! which is `linger` if the handle was dropped. A responder waits one second for a
//! Hello once there is a link again. Where too many are lost, the complete ones go first.
//! However it ends, it has ended well.
//!
//! So the other end waits in vain for its timeout only if the process ends that had
//! everything, or disconnects, at the moment at which the connection is lost. Its reads have
//! found the end by then; a flush fails.
//!
//! # Resuming
//!
//! A responder takes a Hello only from the peer that opened the session, of a higher epoch,
//! for the same protocol, with `received` in range, and on another connection than that of
//! the present carrier. Else it answers Gone and nothing has changed. If it takes it, it
//! *fences* first: nothing that still comes on the old carrier is stored. Then it counts what it
//! has received, answers, and ends the old connection. Sessions that a host has opened
//! itself are never looked at for a Hello, whatever its id.
//!
//! A Hello that opens and names an id that is not known makes the session, whatever its epoch;
//! one that is known it resumes: so an opener whose first answer was lost repeats it without harm.
//!
//! The responder keeps a lost session for the smaller timeout and as long again as the
//! opener may take to notice. Of a session that ended it remembers `received` for
//! the timeout.
//!
//! # Limits
//!
//! | limit | value | above it |
//! |---|---|---|
//! | a head | 2,048 bytes | `ProtocolViolation`, as soon as its length is there |
//! | a head that is being read | what of it has arrived | |
//! | receipts that wait | one a stream | the newer one counts |
//! | what waits to be acknowledged | the writer's `cap` | [`Outgoing::room`] is 0 |
//! | unread bytes | a window, over all carriers | what comes beyond is a violation |
//! | complete sessions that wait for a pong | 1,024 a connection | they end without |
//! | ended sessions remembered | 1,024 of a peer, 8,192 of a host | the oldest is forgotten |
//!
//! # The parts
//!
//! The heads are read and written by `head`, [`Outgoing`] counts what is sent, [`verdict`]
//! judges a Hello: these are what the sessions of `session/` use. `Incoming` and
//! `Lifecycle` count what is received and have the table above, as the model that the
//! simulation in `proto/sim/resume` runs, with the former, over links that are cut at every
//! byte; the sessions have theirs where their locks are. None of them does any I/O.

mod head;
#[cfg(test)]
mod incoming;
#[cfg(test)]
mod lifecycle;
mod outgoing;
pub(crate) mod verdict;

pub(crate) use head::{Code, Gone, HeadReader, Hello, MAX_HEAD, PROTOCOL, SessionId, Welcome};
pub(crate) use outgoing::{Next, Outgoing};
#[cfg(test)]
pub(crate) use {
    head::Head,
    incoming::Incoming,
    lifecycle::{End, Fate, Lifecycle, Role, State},
    outgoing::AckCell,
};

/// The peer is told of so many bytes at once, and of less after a while: seldom enough to
/// leave it alone, and soon enough that what it keeps stays in its caches.
pub(crate) const ACK_EVERY: u64 = 256 * 1024;
