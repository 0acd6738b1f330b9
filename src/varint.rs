//! Unsigned varints as the multiformats specification has them: seven bits a
//! byte, least significant first, the shortest form only.
//!
//! The shortest form is demanded because two spellings of one number are two
//! spellings of one message. `unsigned-varint`, which is in the dependency tree,
//! drops the upper bits of a tenth byte silently, so it is not used here.

use crate::error::{Error, ErrorCode, Result};

/// The most bytes that a `u64` takes.
pub(crate) const MAX_LEN: usize = 10;

/// Appends `n` to `out`.
pub(crate) fn encode(mut n: u64, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The number at the front of `input` and the bytes that it takes, or `None` if
/// more have to arrive. It may take `max` bytes, and never more than [`MAX_LEN`].
///
/// # Errors
///
/// [`ErrorCode::ProtocolViolation`], as soon as it is certain: the number is longer
/// than allowed, does not fit 64 bits, or is not in its shortest form.
pub(crate) fn decode(input: &[u8], max: usize) -> Result<Option<(u64, usize)>> {
    let max = max.min(MAX_LEN);
    let mut n = 0;
    for (i, &byte) in input.iter().take(max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_LEN - 1 && bits > 1 {
            return Err(violation("a varint does not fit 64 bits"));
        }
        n |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return match byte {
                0 if i > 0 => Err(violation("a varint is not in its shortest form")),
                _ => Ok(Some((n, i + 1))),
            };
        }
    }
    if input.len() >= max {
        return Err(violation("a varint is longer than allowed"));
    }
    Ok(None)
}

fn violation(what: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{damaged, fuzz};
    use proptest::prelude::*;

    #[test]
    fn the_borders_take_the_bytes_they_should() {
        for (n, bytes) in [
            (0, &[0x00][..]),
            (0x7f, &[0x7f]),
            (0x80, &[0x80, 0x01]),
            (0x3fff, &[0xff, 0x7f]),
            (0x4000, &[0x80, 0x80, 0x01]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            let mut out = Vec::new();
            encode(n, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(bytes, MAX_LEN).unwrap(), Some((n, bytes.len())));
        }
    }

    #[test]
    fn what_is_long_or_overflows_is_refused_at_once() {
        let refused = |bytes: &[u8], max| decode(bytes, max).unwrap_err().code();
        let ff = [0xff; 9];
        assert_eq!(refused(&[0x80, 0x00], MAX_LEN), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[0xff, 0xff], 2), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[0x80], 1), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[&ff[..], &[0x02]].concat(), MAX_LEN), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[&ff[..], &[0x81]].concat(), MAX_LEN), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[0xff; 32], usize::MAX), ErrorCode::ProtocolViolation);
        assert_eq!(decode(&ff, MAX_LEN).unwrap(), None);
        assert_eq!(decode(&[], 2).unwrap(), None);
    }

    proptest! {
        #[test]
        fn every_number_comes_back_and_never_early(n: u64, tail: Vec<u8>) {
            let mut bytes = Vec::new();
            encode(n, &mut bytes);
            let len = bytes.len();
            for cut in 0..len {
                prop_assert_eq!(decode(&bytes[..cut], MAX_LEN).unwrap(), None);
            }
            bytes.extend(tail);
            prop_assert_eq!(decode(&bytes, MAX_LEN).unwrap(), Some((n, len)));
        }

        #[test]
        fn any_bytes_decode_to_their_only_spelling_or_not_at_all(
            input in prop::collection::vec(any::<u8>(), 0..16), max in 0usize..12,
        ) {
            if let Ok(Some((n, len))) = decode(&input, max) {
                let mut again = Vec::new();
                encode(n, &mut again);
                prop_assert_eq!(&again[..], &input[..len]);
                prop_assert!(len <= max);
            }
        }
    }
    #[test]
    fn fuzz_varint() {
        let wire = any::<u64>().prop_map(|n| {
            let mut bytes = Vec::new();
            encode(n, &mut bytes);
            bytes
        });
        fuzz((damaged(wire), 0usize..12), |(input, max)| {
            let got = decode(&input, max);
            // What was refused stays refused, and what was read is read again,
            // whatever comes behind it.
            let more = decode(&[&input[..], &[0x81, 0x00]].concat(), max);
            match got {
                Ok(Some((n, len))) => {
                    let mut again = Vec::new();
                    encode(n, &mut again);
                    prop_assert_eq!(&again[..], &input[..len]);
                    prop_assert_eq!(more.unwrap(), Some((n, len)));
                }
                Ok(None) => prop_assert!(input.len() < max.min(MAX_LEN)),
                Err(_) => prop_assert!(more.is_err()),
            }
            Ok(())
        });
    }
}
