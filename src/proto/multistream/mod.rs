//! multistream-select 1.0: how two peers agree on the protocol of a byte stream,
//! be it a whole connection or one stream in it.
//!
//! Each side sends lines, `varint length, text, \n`, and the header
//! `/multistream/1.0.0` is the first one. Then the [`Dialer`] proposes protocols by
//! name; the [`Listener`] repeats the name to agree, or says `na`. What follows an
//! agreement belongs to the protocol, even in the same segment.
//!
//! Our dialer makes one proposal and sends it together with its header, so that
//! nothing but the answer has to be waited for. Our listener reads by bytes: some
//! nodes send the first byte alone, others a header and wait, others everything at
//! once with the protocol's first message behind it.
//!
//! | limit | value | above it |
//! |---|---|---|
//! | a line with its newline | 1 KiB | `ProtocolViolation` |
//! | a protocol's name | 1,000 bytes | the same (our own: `InvalidInput`) |
//! | proposals that a listener answers, `ls` among them | 16 | the same |
//!
//! Both hold at most one incomplete line, and only as much of it as has arrived.
//!
//! `ls` asks for a list of what a listener serves. It is deprecated and gets `na`.
//! So does `/libp2p/simultaneous-connect`, after which go proposes what it wants; and so
//! does any other name without the `/` that ours start with, which is a convention only.
//!
//! Specification: <https://github.com/multiformats/multistream-select> and
//! <https://github.com/libp2p/specs/blob/master/connections/README.md>.

mod dialer;
mod line;
mod listener;

pub(crate) use dialer::{Answer, Dialer};
pub(crate) use listener::Listener;

use crate::error::{Error, ErrorCode, Result};

/// The longest name of a protocol, in bytes.
pub(crate) const MAX_NAME: usize = 1000;

/// Whether this may be the name of a protocol of our own.
///
/// # Errors
///
/// [`ErrorCode::InvalidInput`] if it does not start with `/`, has a newline, or is
/// longer than [`MAX_NAME`].
pub(crate) fn check_name(protocol: &str) -> Result<()> {
    let start = (!starts_as_ours(protocol)).then_some("does not start with '/'");
    match start.or_else(|| fault(protocol)) {
        None => Ok(()),
        Some(fault) => Err(Error::new(
            ErrorCode::InvalidInput,
            format!("the protocol name {} {fault}", quoted(protocol)),
        )),
    }
}

/// Whether it starts as the names of our own do.
fn starts_as_ours(protocol: &str) -> bool {
    protocol.starts_with('/')
}

/// What is wrong with the name of a protocol, be it ours or a peer's.
fn fault(protocol: &str) -> Option<&'static str> {
    if protocol.contains('\n') {
        Some("has a newline")
    } else if protocol.len() > MAX_NAME {
        Some("is longer than 1000 bytes")
    } else {
        None
    }
}

/// What a peer said, escaped and short enough for an error.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

fn violation(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

const NOT_AVAILABLE: &str = "na";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{damaged, fuzz};
    use proptest::prelude::*;

    /// What a dialer for `protocol` and a listener for `served` make of each
    /// other when everything arrives in pieces of `piece` bytes.
    fn negotiate(protocol: &str, served: &str, piece: usize) -> (Answer, Option<String>) {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::new(protocol, &mut there).unwrap();
        let mut listener = Listener::new();
        let mut agreed = None;
        there.extend_from_slice(b"data");
        let mut rest = &there[..];
        while !rest.is_empty() && agreed.is_none() {
            let part = &rest[..piece.min(rest.len())];
            let (n, got) = listener.read(part, &mut back, &mut |p| p == served).unwrap();
            // The bytes behind a refused proposal are read as a line: four of them
            // never make a whole one here.
            (rest, agreed) = (&rest[n..], got);
        }
        if agreed.is_some() {
            assert_eq!(rest, b"data", "what follows the agreement is not consumed");
        }
        back.extend_from_slice(b"more");
        let mut rest = &back[..];
        loop {
            let part = &rest[..piece.min(rest.len())];
            let (n, answer) = dialer.read(part).unwrap();
            rest = &rest[n..];
            if let Some(answer) = answer {
                assert_eq!(rest, b"more", "what follows the answer is not consumed");
                return (answer, agreed);
            }
        }
    }

    #[test]
    fn a_dialer_and_a_listener_agree_whatever_the_pieces() {
        let long = format!("/{}", "x".repeat(MAX_NAME - 1));
        for protocol in ["/noise", "/", "/ä/1", &long] {
            for piece in [1, 2, 3, 7, 19, 20, 21, 4096] {
                let (answer, agreed) = negotiate(protocol, protocol, piece);
                assert_eq!((answer, agreed.as_deref()), (Answer::Agreed, Some(protocol)));
                assert_eq!(negotiate(protocol, "/other", piece), (Answer::Refused, None));
            }
        }
    }

    #[test]
    fn our_own_bad_names_are_invalid_input() {
        for name in ["", "noise", "na", "/a\nb", &format!("/{}", "x".repeat(MAX_NAME))] {
            assert_eq!(check_name(name).unwrap_err().code(), ErrorCode::InvalidInput);
            let mut out = Vec::new();
            assert_eq!(Dialer::new(name, &mut out).err().unwrap().code(), ErrorCode::InvalidInput);
            assert!(out.is_empty());
        }
    }
    /// What a dialer, or a listener that refuses twice, may say.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(
            &[NOT_AVAILABLE, "/noise", "ls", "/x", "", "/multistream/1.0.0"][..],
        );
        let line = prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,1100}"];
        (any::<bool>(), prop::collection::vec(line, 0..20)).prop_map(|(greets, lines)| {
            let mut wire = if greets { line::HEADER.to_vec() } else { Vec::new() };
            lines.iter().for_each(|line| line::write(line, &mut wire));
            wire
        })
    }

    #[test]
    fn fuzz_multistream_listener() {
        fuzz((damaged(lines()), 1usize..100), |(wire, piece)| {
            let read = |piece: usize| {
                let (mut listener, mut out) = (Listener::new(), Vec::new());
                let mut at = 0;
                while at < wire.len() {
                    let part = &wire[at..wire.len().min(at + piece)];
                    match listener.read(part, &mut out, &mut |p| p == "/noise") {
                        Ok((n, None)) => {
                            assert!(n > 0 && n <= part.len());
                            at += n;
                        }
                        Ok((n, Some(agreed))) => return Ok((at + n, Some(agreed), out)),
                        Err(e) => return Err(e.code()),
                    }
                }
                Ok((at, None, out))
            };
            let whole = read(wire.len().max(1));
            prop_assert_eq!(&read(piece), &whole);
            prop_assert_eq!(&read(1), &whole);
            if let Ok((_, agreed, out)) = whole {
                prop_assert!(agreed.is_none_or(|p| p == "/noise"));
                prop_assert!(out.len() <= line::HEADER.len() + 16 * 4 + 8);
            }
            Ok(())
        });
    }

    #[test]
    fn fuzz_multistream_dialer() {
        fuzz((damaged(lines()), 1usize..100), |(wire, piece)| {
            let read = |piece: usize| {
                let mut dialer = Dialer::new("/noise", &mut Vec::new()).unwrap();
                let mut at = 0;
                while at < wire.len() {
                    let part = &wire[at..wire.len().min(at + piece)];
                    match dialer.read(part) {
                        Ok((n, None)) => {
                            assert!(n > 0 && n <= part.len());
                            at += n;
                        }
                        Ok((n, Some(answer))) => return Ok((at + n, Some(answer))),
                        Err(e) => return Err(e.code()),
                    }
                }
                Ok((at, None))
            };
            let whole = read(wire.len().max(1));
            prop_assert_eq!(&read(piece), &whole);
            prop_assert_eq!(&read(1), &whole);
            Ok(())
        });
    }
}
