//! The lines that multistream-select is made of.

use super::{quoted, violation};
use crate::error::Result;
use crate::varint;

/// Appends `text` as a line. The caller has checked its length.
pub(super) fn write(text: &str, out: &mut Vec<u8>) {
    varint::encode(text.len() as u64 + 1, out);
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Reads the first line, which can only be one thing: so what is not
/// multistream-select (HTTP, SSH) is found out at its first byte.
#[derive(Default)]
pub(super) struct HeaderReader {
    arrived: usize,
}

impl HeaderReader {
    /// Takes what belongs to the header from `input`: how many bytes that were, and
    /// whether the header is whole.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, bool)> {
        let expected = &HEADER[self.arrived..];
        let n = expected.len().min(input.len());
        if input[..n] != expected[..n] {
            let got = String::from_utf8_lossy(input);
            return Err(violation(format!("{} is not multistream-select 1.0", quoted(&got))));
        }
        self.arrived += n;
        Ok((n, self.arrived == HEADER.len()))
    }
}

/// Puts lines together from pieces of any size.
#[derive(Default)]
pub(super) struct LineReader {
    /// The length and the text of the current line as far as they have arrived.
    line: Vec<u8>,
    whole: bool,
}

impl LineReader {
    /// Takes what belongs to the current line from `input`: how many bytes that
    /// were, and the line without its newline once it is whole.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` as soon as it is certain that this is no line.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<&str>)> {
        if std::mem::take(&mut self.whole) {
            self.line.clear();
        }
        let mut taken = 0;
        loop {
            if let Some((len, prefix)) = varint::decode(&self.line, PREFIX)? {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if len == 0 || len > MAX_LINE {
                    return Err(violation(format!("a multistream line of {len} bytes")));
                }
                let missing = prefix + len - self.line.len();
                let arrived = &input[taken..];
                let part = &arrived[..missing.min(arrived.len())];
                self.line.extend_from_slice(part);
                taken += part.len();
                if part.len() < missing {
                    return Ok((taken, None));
                }
                self.whole = true;
                return Ok((taken, Some(text(&self.line[prefix..])?)));
            }
            let Some(&byte) = input.get(taken) else { return Ok((taken, None)) };
            self.line.push(byte);
            taken += 1;
        }
    }
}

/// A line without its newline.
fn text(line: &[u8]) -> Result<&str> {
    match line {
        [text @ .., b'\n'] if !text.contains(&b'\n') => {
            str::from_utf8(text).map_err(|_| violation("a multistream line is not UTF-8"))
        }
        _ => Err(violation("a multistream line does not end where its length says")),
    }
}

/// The first line each way, with its length.
pub(super) const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";
/// The longest line with its newline.
const MAX_LINE: usize = 1024;
/// The bytes that the length of such a line takes.
const PREFIX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    fn refused(input: &[u8]) {
        let error = LineReader::default().read(input).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProtocolViolation, "{input:?}");
    }

    #[test]
    fn a_line_that_cannot_be_one_is_refused_at_once() {
        refused(b"\x00");
        refused(b"\x81\x08"); // 1,025 bytes
        refused(b"\xff\xff");
        refused(b"\x80\x00");
        refused(b"\x02ab");
        refused(b"\x04a\nb\n");
        refused(b"\x03\xc3\n\n");
        refused(b"\x02\xff\n");
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for wire in [&b"G"[..], b"SSH-2.0-x\r\n", b"\x07/noise\n", b"\x13/multistream/2"] {
            let error = HeaderReader::default().read(wire).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ProtocolViolation);
        }
        let mut reader = HeaderReader::default();
        for (i, byte) in HEADER.iter().enumerate() {
            assert_eq!(reader.read(&[*byte]).unwrap(), (1, i + 1 == HEADER.len()));
        }
    }

    #[test]
    fn the_longest_line_is_read_and_an_announced_one_costs_nothing() {
        let mut wire = Vec::new();
        write(&"x".repeat(MAX_LINE - 1), &mut wire);
        let mut reader = LineReader::default();
        assert_eq!(reader.read(&wire[..3]).unwrap(), (3, None));
        assert!(reader.line.capacity() < 64);
        let (taken, line) = reader.read(&wire[3..]).unwrap();
        assert_eq!((taken, line.unwrap().len()), (wire.len() - 3, MAX_LINE - 1));
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_lines_in_any_pieces(
            input in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                lines(),
                (lines(), any::<prop::sample::Index>(), 0..8u32).prop_map(|(mut wire, at, bit)| {
                    if !wire.is_empty() {
                        let at = at.index(wire.len());
                        wire[at] ^= 1 << bit;
                    }
                    wire
                }),
            ],
            piece in 1usize..40,
        ) {
            let whole = read_all(&input, input.len().max(1));
            prop_assert_eq!(&read_all(&input, piece), &whole);
            prop_assert_eq!(&read_all(&input, 1), &whole);
        }
    }

    /// The lines in `input`, and whether it ended in an error.
    fn read_all(input: &[u8], piece: usize) -> (Vec<String>, bool) {
        let (mut reader, mut lines) = (LineReader::default(), Vec::new());
        for part in input.chunks(piece) {
            let mut part = part;
            while !part.is_empty() {
                match reader.read(part) {
                    Err(_) => return (lines, true),
                    Ok((taken, line)) => {
                        assert!(taken > 0, "a reader that takes nothing loops for ever");
                        lines.extend(line.map(str::to_owned));
                        part = &part[taken..];
                    }
                }
                assert!(reader.line.capacity() <= 4 * (PREFIX + MAX_LINE));
            }
        }
        (lines, false)
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec("[a-z/.]{0,300}", 0..4).prop_map(|lines| {
            let mut wire = Vec::new();
            lines.iter().for_each(|line| write(line, &mut wire));
            wire
        })
    }
}
