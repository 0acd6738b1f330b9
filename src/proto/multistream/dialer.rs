//! The side that proposes.

use super::line::{self, HeaderReader, LineReader};
use super::{NOT_AVAILABLE, check_name, quoted, violation};
use crate::error::Result;

/// Proposes one protocol and waits for the answer.
pub(crate) struct Dialer {
    protocol: String,
    expects: Expects,
}

/// What the listener said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The next byte each way belongs to the protocol.
    Agreed,
    /// The listener does not serve it.
    Refused,
}

enum Expects {
    Header(HeaderReader),
    Answer(LineReader),
}

impl Dialer {
    /// Appends the header and the proposal to `out`. What the protocol sends first
    /// may follow at once.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if this cannot be the name of a protocol.
    pub(crate) fn new(protocol: &str, out: &mut Vec<u8>) -> Result<Dialer> {
        check_name(protocol)?;
        out.extend_from_slice(line::HEADER);
        line::write(protocol, out);
        let expects = Expects::Header(HeaderReader::default());
        Ok(Dialer { protocol: protocol.to_owned(), expects })
    }

    /// Takes bytes from `input`: all of them, unless the answer is among them; then
    /// those behind it are left. Not to be called again after the answer.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` if this is not multistream-select, or the answer to
    /// something else.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>)> {
        match &mut self.expects {
            Expects::Header(header) => {
                let (taken, whole) = header.read(input)?;
                if !whole {
                    return Ok((taken, None));
                }
                self.expects = Expects::Answer(LineReader::default());
                let (n, answer) = self.read(&input[taken..])?;
                Ok((taken + n, answer))
            }
            Expects::Answer(lines) => {
                let (taken, line) = lines.read(input)?;
                Ok((taken, line.map(|line| answer(line, &self.protocol)).transpose()?))
            }
        }
    }
}

/// What `line` says about the proposal.
fn answer(line: &str, protocol: &str) -> Result<Answer> {
    match line {
        NOT_AVAILABLE => Ok(Answer::Refused),
        _ if line == protocol => Ok(Answer::Agreed),
        _ => Err(violation(format!("{} in answer to {}", quoted(line), quoted(protocol)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    fn dialer() -> Dialer {
        Dialer::new("/noise", &mut Vec::new()).unwrap()
    }

    #[test]
    fn header_and_proposal_are_written_at_once() {
        let mut out = Vec::new();
        Dialer::new("/noise", &mut out).unwrap();
        assert_eq!(out, b"\x13/multistream/1.0.0\n\x07/noise\n");
    }

    #[test]
    fn another_header_or_answer_is_a_violation() {
        for wire in [
            &b"\x07/noise\n"[..],
            b"\x13/multistream/2.0.0\n",
            b"\x03na\n",
            b"\x13/multistream/1.0.0\n\x05/tls\n",
            b"\x13/multistream/1.0.0\n\x13/multistream/1.0.0\n",
            b"\x13/multistream/1.0.0\n\x01\n",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            let error = dialer().read(wire).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ProtocolViolation);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer_an_error_or_a_wait(
            random in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>(),
        ) {
            let _ = dialer().read(&random);
            let mut wire = b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec();
            let cut = cut.index(wire.len());
            prop_assert_eq!(dialer().read(&wire[..cut]).unwrap(), (cut, None));
            wire[at.index(27)] ^= 1 << bit;
            prop_assert!(!matches!(dialer().read(&wire), Ok((_, Some(_)))));
        }
    }
}
