//! `/ipfs/ping/1.0.0`: whoever opens the stream sends 32 bytes and gets them back,
//! as often as it likes.
//!
//! Specification: <https://github.com/libp2p/specs/blob/master/ping/ping.md>.

use crate::error::{Error, ErrorCode, Result};

/// The name of the protocol.
pub(crate) const PROTOCOL: &str = "/ipfs/ping/1.0.0";

/// The bytes of one ping.
pub(crate) const SIZE: usize = 32;

/// Echoes the pings of one stream. At the stream's end it has nothing to add:
/// what was not a whole ping is not answered.
#[derive(Default)]
pub(crate) struct Responder {
    ping: [u8; SIZE],
    arrived: usize,
}

impl Responder {
    pub(crate) fn new() -> Responder {
        Responder::default()
    }

    /// Takes bytes from `input`, appends whole pings to `out` and returns how many
    /// bytes were taken. All of them, unless [`MAX_UNSENT`] bytes wait in `out`: who
    /// does not read our answers has his pings left unread.
    pub(crate) fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < input.len() && out.len() + SIZE <= MAX_UNSENT {
            let n = (SIZE - self.arrived).min(input.len() - taken);
            self.ping[self.arrived..self.arrived + n].copy_from_slice(&input[taken..taken + n]);
            taken += n;
            self.arrived += n;
            if self.arrived == SIZE {
                out.extend_from_slice(&self.ping);
                self.arrived = 0;
            }
        }
        taken
    }
}

/// Waits for the answer to one ping.
pub(crate) struct Requester {
    payload: [u8; SIZE],
    arrived: usize,
}

impl Requester {
    /// Appends a ping to `out`. The payload should be random: it is how an answer
    /// is told from a guess.
    pub(crate) fn new(payload: [u8; SIZE], out: &mut Vec<u8>) -> Requester {
        out.extend_from_slice(&payload);
        Requester { payload, arrived: 0 }
    }

    /// Takes what belongs to the answer from `input`: how many bytes that were, and
    /// whether the answer is whole.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` at the first byte that differs from the ping.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(usize, bool)> {
        let expected = &self.payload[self.arrived..];
        let n = expected.len().min(input.len());
        if input[..n] != expected[..n] {
            return Err(Error::new(
                ErrorCode::ProtocolViolation,
                "the peer answered a ping with other bytes",
            ));
        }
        self.arrived += n;
        Ok((n, self.arrived == SIZE))
    }
}

/// The answers that may wait to be sent on one stream, in bytes.
pub(crate) const MAX_UNSENT: usize = 32 * SIZE;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{damaged, fuzz};
    use proptest::prelude::*;

    #[test]
    fn a_ping_is_echoed_when_it_is_whole() {
        let (mut ping, mut pong) = (Vec::new(), Vec::new());
        let mut requester = Requester::new([7; SIZE], &mut ping);
        let mut responder = Responder::new();
        for (i, byte) in ping.iter().enumerate() {
            assert!(pong.is_empty(), "echoed at byte {i}");
            assert_eq!(responder.read(&[*byte], &mut pong), 1);
        }
        pong.push(1);
        assert_eq!(requester.read(&pong[..31]).unwrap(), (31, false));
        assert_eq!(requester.read(&pong[31..]).unwrap(), (1, true));
    }

    #[test]
    fn a_wrong_answer_is_a_violation_at_its_first_wrong_byte() {
        let mut requester = Requester::new([7; SIZE], &mut Vec::new());
        requester.read(&[7; 5]).unwrap();
        assert_eq!(requester.read(&[8]).unwrap_err().code(), ErrorCode::ProtocolViolation);
    }

    #[test]
    fn who_does_not_read_the_answers_is_not_read_either() {
        let (mut responder, mut out) = (Responder::new(), Vec::new());
        let flood = vec![9; 10 * MAX_UNSENT];
        assert_eq!(responder.read(&flood, &mut out), MAX_UNSENT);
        assert_eq!(responder.read(&flood, &mut out), 0);
        assert_eq!(out.len(), MAX_UNSENT);
        out.drain(..SIZE);
        assert_eq!(responder.read(&flood, &mut out), SIZE);
    }

    proptest! {
        #[test]
        fn whole_pings_come_back_in_any_pieces(
            pings in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..80,
        ) {
            let (mut responder, mut out) = (Responder::new(), Vec::new());
            for part in pings.chunks(piece) {
                prop_assert_eq!(responder.read(part, &mut out), part.len());
            }
            prop_assert_eq!(&out[..], &pings[..pings.len() / SIZE * SIZE]);
        }
    }

    #[test]
    fn fuzz_ping() {
        let payload = any::<[u8; SIZE]>();
        fuzz((payload, damaged(payload.prop_map(Vec::from)), 1usize..80), |(sent, wire, piece)| {
            let mut ping = Vec::new();
            let mut requester = Requester::new(sent, &mut ping);
            let mut at = 0;
            for part in wire.chunks(piece) {
                match requester.read(part) {
                    Ok((n, whole)) => {
                        prop_assert!(n == part.len() || whole);
                        at += n;
                        prop_assert_eq!(whole, at == SIZE);
                        prop_assert_eq!(&wire[..at], &sent[..at]);
                        if whole {
                            break;
                        }
                    }
                    Err(_) => {
                        let n = wire.len().min(SIZE);
                        prop_assert!(wire[..n] != sent[..n]);
                        break;
                    }
                }
            }
            Ok(())
        });
    }
}
