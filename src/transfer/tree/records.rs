//! Small files one behind the other: what is in their stream.
//!
//! ```text
//! 0                                      the file has gone
//! 2                                      the receiver has it
//! 1  length 4  mtime 8 + 4  BLAKE3 32  content
//! ```

use std::io::{self, Write};

use crate::error::{Error, ErrorCode, Result};

/// What is said of a small file.
pub(crate) enum Record<'a> {
    Gone,
    Same,
    Content { mtime: i64, mtime_ns: u32, content: &'a [u8] },
}

impl Record<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Gone => out.push(GONE),
            Record::Same => out.push(SAME),
            Record::Content { mtime, mtime_ns, content } => {
                out.push(CONTENT);
                out.extend_from_slice(&(content.len() as u32).to_be_bytes());
                out.extend_from_slice(&mtime.to_be_bytes());
                out.extend_from_slice(&mtime_ns.to_be_bytes());
                out.extend_from_slice(blake3::hash(content).as_bytes());
                out.extend_from_slice(content);
            }
        }
    }
}

impl Record<'_> {
    /// How many bytes of it are no content.
    pub(crate) fn around(&self) -> u64 {
        match self {
            Record::Gone | Record::Same => 1,
            Record::Content { .. } => HEAD as u64,
        }
    }
}

/// Takes a stream of records apart, and hands on each that is whole and good.
pub(crate) struct Records<F> {
    /// What has arrived of a record that is not whole.
    begun: Vec<u8>,
    /// The longest content.
    most: u64,
    hand_on: F,
}

impl<F: FnMut(Record<'_>) -> Result<()>> Records<F> {
    pub(crate) fn new(most: u64, hand_on: F) -> Records<F> {
        Records { begun: Vec::new(), most, hand_on }
    }

    /// Whether the last record was whole.
    pub(crate) fn is_complete(&self) -> bool {
        self.begun.is_empty()
    }

    /// Hands on the record that `bytes` begin with; its length, or nothing if
    /// it is not whole.
    fn take_one(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(length) = length(bytes, self.most)? else { return Ok(None) };
        let Some(record) = bytes.get(..length) else { return Ok(None) };
        let record = match record[0] {
            GONE => Record::Gone,
            SAME => Record::Same,
            _ => {
                let (head, content) = record.split_at(HEAD);
                if *blake3::hash(content).as_bytes() != head[17..] {
                    let what = "a small file does not have the hash that its sender gave";
                    return Err(Error::new(ErrorCode::ChecksumMismatch, what));
                }
                Record::Content {
                    mtime: i64::from_be_bytes(head[5..13].try_into().expect("eight bytes")),
                    mtime_ns: u32::from_be_bytes(head[13..17].try_into().expect("four bytes")),
                    content,
                }
            }
        };
        (self.hand_on)(record)?;
        Ok(Some(length))
    }
}

impl<F: FnMut(Record<'_>) -> Result<()>> Write for Records<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.begun.is_empty() {
                // Straight from where it lies, if all of it is there.
                match self.take_one(rest)? {
                    Some(length) => rest = &rest[length..],
                    None => {
                        self.begun.extend_from_slice(rest);
                        rest = &[];
                    }
                }
                continue;
            }
            let wanted = length(&self.begun, self.most)?.unwrap_or(HEAD);
            let missing = wanted.saturating_sub(self.begun.len()).min(rest.len());
            self.begun.extend_from_slice(&rest[..missing]);
            rest = &rest[missing..];
            let begun = std::mem::take(&mut self.begun);
            if self.take_one(&begun)?.is_none() {
                self.begun = begun;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long the record is that begins with these bytes, once that can be told.
fn length(bytes: &[u8], most: u64) -> Result<Option<usize>> {
    let what = match bytes {
        [] => return Ok(None),
        [GONE | SAME, ..] => return Ok(Some(1)),
        [CONTENT, a, b, c, d, ..] => {
            let len = u32::from_be_bytes([*a, *b, *c, *d]);
            if u64::from(len) <= most {
                return Ok(Some(HEAD + len as usize));
            }
            "a small file that is none"
        }
        [CONTENT, ..] => return Ok(None),
        _ => "a record of an unknown kind",
    };
    Err(Error::new(ErrorCode::ProtocolViolation, format!("the sender sent {what}")))
}

const GONE: u8 = 0;
const CONTENT: u8 = 1;
const SAME: u8 = 2;
/// Kind, length, time, hash.
const HEAD: usize = 1 + 4 + 12 + 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_arrive_as_they_were_however_they_are_cut() {
        let contents: [&[u8]; 4] = [b"", b"x", &[7; 5000], b"end"];
        let mut stream = Vec::new();
        for content in contents {
            Record::Gone.encode(&mut stream);
            Record::Content { mtime: -5, mtime_ns: 6, content }.encode(&mut stream);
            Record::Same.encode(&mut stream);
        }
        for step in [1, 2, 3, 48, 49, 50, 51, 1000, stream.len()] {
            let mut seen = Vec::new();
            let mut records = Records::new(5000, |record| {
                seen.push(match record {
                    Record::Gone => None,
                    Record::Same => Some(b"same".to_vec()),
                    Record::Content { mtime, mtime_ns, content } => {
                        assert_eq!((mtime, mtime_ns), (-5, 6));
                        Some(content.to_vec())
                    }
                });
                Ok(())
            });
            stream.chunks(step).for_each(|piece| records.write_all(piece).unwrap());
            assert!(records.is_complete());
            let expected: Vec<_> = contents
                .iter()
                .flat_map(|content| [None, Some(content.to_vec()), Some(b"same".to_vec())])
                .collect();
            assert_eq!(seen, expected, "{step}");
        }
    }

    #[test]
    fn damage_and_lies_are_refused() {
        let mut good = Vec::new();
        Record::Content { mtime: 0, mtime_ns: 0, content: b"content" }.encode(&mut good);
        let refused = |bytes: &[u8]| {
            let e = Records::new(7, |_| Ok(())).write_all(bytes).unwrap_err();
            Error::from(e).code()
        };
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&bad), ErrorCode::ChecksumMismatch);
        assert_eq!(refused(&[9]), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[CONTENT, 0, 0, 0, 8]), ErrorCode::ProtocolViolation);
        assert_eq!(refused(&[CONTENT, 255, 255, 255, 255]), ErrorCode::ProtocolViolation);
    }
}
