//! The side that answers.

use super::line::{self, HeaderReader, LineReader};
use super::{NOT_AVAILABLE, fault, quoted, starts_as_ours, violation};
use crate::error::Result;

/// Answers proposals until one is served.
pub(crate) struct Listener(Expects);

enum Expects {
    Header(HeaderReader),
    Proposal { lines: LineReader, answered: usize },
}

impl Listener {
    pub(crate) fn new() -> Listener {
        Listener(Expects::Header(HeaderReader::default()))
    }

    /// Takes bytes from `input` and appends answers to `out`, until `serves` says
    /// yes to a protocol: its name is returned, and what follows it is left. Until
    /// then all of `input` is taken. Not to be called again after that.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` if this is not multistream-select, or too many proposals.
    pub(crate) fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        serves: &mut dyn FnMut(&str) -> bool,
    ) -> Result<(usize, Option<String>)> {
        match &mut self.0 {
            Expects::Header(header) => {
                let (taken, whole) = header.read(input)?;
                if !whole {
                    return Ok((taken, None));
                }
                out.extend_from_slice(line::HEADER);
                self.0 = Expects::Proposal { lines: LineReader::default(), answered: 0 };
                let (n, agreed) = self.read(&input[taken..], out, serves)?;
                Ok((taken + n, agreed))
            }
            Expects::Proposal { lines, answered } => {
                read_proposals(lines, answered, input, out, serves)
            }
        }
    }
}

fn read_proposals(
    lines: &mut LineReader,
    answered: &mut usize,
    input: &[u8],
    out: &mut Vec<u8>,
    serves: &mut dyn FnMut(&str) -> bool,
) -> Result<(usize, Option<String>)> {
    let mut taken = 0;
    loop {
        let (n, line) = lines.read(&input[taken..])?;
        taken += n;
        let Some(line) = line else { return Ok((taken, None)) };
        if *answered == MAX_PROPOSALS {
            return Err(violation(format!("more than {MAX_PROPOSALS} proposals")));
        }
        *answered += 1;
        if is_served(line, serves)? {
            line::write(line, out);
            return Ok((taken, Some(line.to_owned())));
        }
        line::write(NOT_AVAILABLE, out);
    }
}

fn is_served(line: &str, serves: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    match fault(line) {
        None => Ok(starts_as_ours(line) && serves(line)),
        Some(fault) => Err(violation(format!("the protocol name {} {fault}", quoted(line)))),
    }
}

/// The proposals that are answered before the peer is given up.
const MAX_PROPOSALS: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::MAX_NAME;
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    const GREETING: &[u8] = b"\x13/multistream/1.0.0\n";

    fn read(listener: &mut Listener, input: &[u8]) -> (usize, Option<String>, Vec<u8>) {
        let mut out = Vec::new();
        let (n, agreed) = listener.read(input, &mut out, &mut |p| p == "/noise").unwrap();
        (n, agreed, out)
    }

    #[test]
    fn a_simultaneous_connect_of_go_gets_na_and_then_noise_is_agreed() {
        let wire = b"\x13/multistream/1.0.0\n\x1d/libp2p/simultaneous-connect\n\x07/noise\nNOISE";
        let (n, agreed, out) = read(&mut Listener::new(), wire);
        assert_eq!((&wire[n..], agreed.as_deref()), (&b"NOISE"[..], Some("/noise")));
        assert_eq!(out, b"\x13/multistream/1.0.0\n\x03na\n\x07/noise\n");
    }

    #[test]
    fn a_header_alone_is_answered_so_that_a_peer_that_waits_for_it_goes_on() {
        let mut listener = Listener::new();
        let mut said = Vec::new();
        for byte in GREETING {
            let (n, agreed, out) = read(&mut listener, &[*byte]);
            assert_eq!((n, agreed), (1, None));
            said.extend(out);
        }
        assert_eq!(said, GREETING);
        let (_, agreed, out) = read(&mut listener, b"\x07/noise\n");
        assert_eq!((agreed.as_deref(), &out[..]), (Some("/noise"), &b"\x07/noise\n"[..]));
    }

    #[test]
    fn ls_is_not_available() {
        let wire = [GREETING, b"\x03ls\n\x03ls\n\x07/noise\n"].concat();
        let (_, agreed, out) = read(&mut Listener::new(), &wire);
        assert_eq!(agreed.as_deref(), Some("/noise"));
        assert_eq!(out, [GREETING, b"\x03na\n\x03na\n\x07/noise\n"].concat());
    }

    #[test]
    fn the_seventeenth_proposal_ends_the_negotiation() {
        let mut wire = GREETING.to_vec();
        (0..15).for_each(|_| line::write("/x", &mut wire));
        line::write("/noise", &mut wire);
        assert_eq!(read(&mut Listener::new(), &wire).1.as_deref(), Some("/noise"));

        let mut wire = GREETING.to_vec();
        (0..8).for_each(|_| line::write("/x", &mut wire));
        (0..8).for_each(|_| line::write("ls", &mut wire));
        line::write("/noise", &mut wire);
        let error = Listener::new().read(&wire, &mut Vec::new(), &mut |p| p == "/noise");
        assert_eq!(error.unwrap_err().code(), ErrorCode::ProtocolViolation);
    }

    #[test]
    fn a_name_without_a_slash_is_not_served_and_the_next_one_may_be() {
        let wire = [GREETING, b"\x07chat/2\n\x03na\n\x01\n\x07/noise\n"].concat();
        let mut out = Vec::new();
        let (n, agreed) = Listener::new().read(&wire, &mut out, &mut |p| p != "/").unwrap();
        assert_eq!((n, agreed.as_deref()), (wire.len(), Some("/noise")));
        assert_eq!(out, [GREETING, b"\x03na\n\x03na\n\x03na\n\x07/noise\n"].concat());
    }

    #[test]
    fn a_peers_bad_names_are_violations() {
        for name in ["/a\nb", &"x".repeat(MAX_NAME + 1), &format!("/{}", "x".repeat(MAX_NAME))] {
            let mut wire = GREETING.to_vec();
            line::write(name, &mut wire);
            let error = Listener::new().read(&wire, &mut Vec::new(), &mut |_| true);
            assert_eq!(error.unwrap_err().code(), ErrorCode::ProtocolViolation, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_bounds(
            random in prop::collection::vec(any::<u8>(), 0..100), greeted: bool,
        ) {
            let wire = if greeted { [GREETING, &random[..]].concat() } else { random };
            let mut out = Vec::new();
            let _ = Listener::new().read(&wire, &mut out, &mut |p| p.len() % 2 == 0);
            prop_assert!(out.len() <= GREETING.len() + 4 * MAX_PROPOSALS + MAX_NAME + 3);
        }

        #[test]
        fn a_flipped_bit_never_agrees_on_what_is_served(
            at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>(),
        ) {
            let mut wire = [GREETING, b"\x07/noise\n"].concat();
            let cut = cut.index(wire.len());
            let (n, agreed, _) = read(&mut Listener::new(), &wire[..cut]);
            prop_assert_eq!((n, agreed), (cut, None));
            let at = at.index(wire.len());
            wire[at] ^= 1 << bit;
            let got = Listener::new().read(&wire, &mut Vec::new(), &mut |p| p == "/noise");
            prop_assert!(!matches!(got, Ok((_, Some(_)))));
        }
    }
}
