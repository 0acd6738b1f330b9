//! From a TCP connection to a secured and multiplexed one.
//!
//! [`Upgrade`] takes a fresh byte stream and agrees with the peer, in this order, on
//! Noise, on both identities, and on yamux. Bytes go in, bytes come out; the end is
//! an [`Upgraded`], from whose parts the two halves of the multiplexer are made.
//!
//! # The wire
//!
//! `<..>` is a multistream line, `[..]` a Noise message or frame with its length of
//! two bytes. What stands in one line is written at once.
//!
//! ```text
//! dialer                                       listener
//! </multistream/1.0.0> </noise> [1: e]   ->
//!                                        <-    </multistream/1.0.0> </noise> [2: e, s, payload]
//! [3: s, payload]                        ->
//! ```
//!
//! If both payloads offered yamux, this is the end: one round trip, and the dialer's
//! first streams may follow message 3 in the same write. Otherwise multistream-select
//! runs once more, inside Noise frames:
//!
//! ```text
//! [3: s, payload] [</multistream/1.0.0> </yamux/1.0.0>]   ->
//!                                        <-    [</multistream/1.0.0> </yamux/1.0.0>]
//! ```
//!
//! # The states
//!
//! | state | awaits | then says | and is next |
//! |---|---|---|---|
//! | `Begin` (dialer) | nothing | header, `/noise`, message 1 | `ExpectNoiseAnswer` |
//! | `ExpectNoiseAnswer` | header, `/noise` | nothing | `ExpectHandshake` |
//! | | `na` | nothing | `HandshakeFailed` |
//! | `ExpectNoiseProposal` (listener) | header | header | the same |
//! | | another proposal, `ls` | `na` | the same, 16 times |
//! | | `/noise` | `/noise` | `ExpectHandshake` |
//! | `ExpectHandshake` | Noise messages | Noise messages | if yamux was offered by both: the end |
//! | as dialer | | header, `/yamux/1.0.0` | `ExpectMuxerAnswer` |
//! | as listener | | nothing | `ExpectMuxerProposal` |
//! | `ExpectMuxerAnswer` | header, `/yamux/1.0.0` | nothing | the end |
//! | | `na` | nothing | `HandshakeFailed` |
//! | `ExpectMuxerProposal` | as `ExpectNoiseProposal`, for `/yamux/1.0.0` | | the end |
//!
//! An error is the end too: the connection is closed, and what was written before it
//! need not be sent.
//!
//! # What is left
//!
//! The peer may send its first yamux frames before we know that it agreed. Whole Noise
//! frames that follow stay in the input, as they came. Plaintext behind the last
//! multistream line in *its* Noise frame is [`Upgraded::leftover`]: it is read before
//! the input is.
//!
//! # Limits
//!
//! | limit | value | above it |
//! |---|---|---|
//! | what a peer says until the end | 128 KiB | `ProtocolViolation` |
//! | lines and proposals | as in [`multistream`](super::multistream) | the same |
//! | Noise messages | as in [`noise`](super::noise) | `HandshakeFailed` |
//!
//! What we say is bounded by what the peer says. Time is the driver's concern:
//! [`Upgrade::awaits`] tells it what a peer that ran out of time was to do.
//!
//! Specifications: libp2p/specs, connections, noise, and connections/inlined-muxer-negotiation.

mod upgrade;

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod tests;

pub(crate) use upgrade::{Step, Upgrade, Upgraded};
