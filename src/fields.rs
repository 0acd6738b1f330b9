//! The fields of protobuf messages, before anything is made of them: an empty one takes
//! two bytes on the wire and dozens of times that in memory, so whoever decodes what a
//! peer sent counts them first.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::error::{Error, ErrorCode, Result};

/// Goes through the fields of a message, up to the first that is damaged: the number of
/// each, and its content if it has a length. Groups, which would nest, are refused.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u32, &[u8])>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let field = (!rest.is_empty()).then(|| next(&mut rest))?;
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8])> {
    let damaged = |e| Error::with_source(ErrorCode::ProtocolViolation, DAMAGED, e);
    let (number, wire_type) = decode_key(rest).map_err(damaged)?;
    let content = match wire_type {
        WireType::StartGroup | WireType::EndGroup => {
            return Err(Error::new(ErrorCode::ProtocolViolation, "a message with a group"));
        }
        WireType::LengthDelimited => {
            let len = decode_varint(rest).map_err(damaged)?;
            let parts = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
            let short = || Error::new(ErrorCode::ProtocolViolation, DAMAGED);
            let (content, behind) = parts.ok_or_else(short)?;
            *rest = behind;
            content
        }
        WireType::Varint | WireType::ThirtyTwoBit | WireType::SixtyFourBit => {
            skip_field(wire_type, number, rest, DecodeContext::default()).map_err(damaged)?;
            &[]
        }
    };
    Ok((number, content))
}

const DAMAGED: &str = "a damaged protobuf message";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_seen_and_the_first_damaged_one_is_the_last() {
        let number = [1 << 3, 0x96, 0x01];
        let fixed = [2 << 3 | 5, 1, 2, 3, 4, 3 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8];
        let content = [4 << 3 | 2, 2, b'h', b'i'];
        let good = [&number[..], &fixed, &content].concat();
        let seen: Result<Vec<_>> = fields(&good).collect();
        assert_eq!(seen.unwrap(), [(1, &b""[..]), (2, b""), (3, b""), (4, b"hi")]);
        for len in 1..good.len() {
            let seen: Vec<_> = fields(&good[..len]).collect();
            let whole = [3, 8, 17].contains(&len);
            assert_eq!(seen.last().unwrap().is_ok(), whole, "{len}");
            assert!(seen.len() <= 4);
        }
        for group in [3, 4] {
            let message = [1 << 3 | group, 0, 0];
            let seen: Vec<_> = fields(&message).collect();
            assert!(seen.len() == 1 && seen[0].is_err());
        }
    }
}
