//! What sender and receiver say to each other around the content.
//!
//! The messages and their order are described in the
//! [module docs](crate::transfer#the-wire).

use prost::Message as _;

use crate::error::{Error, ErrorCode, Result};
use crate::fields::fields;

impl Body {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        Frame { body: Some(self) }.encode_to_vec()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Body> {
        check_fields(bytes)?;
        let frame = Frame::decode(bytes)
            .map_err(|e| Error::with_source(ErrorCode::ProtocolViolation, NOT_OURS, e))?;
        frame.body.ok_or_else(|| Error::new(ErrorCode::Unsupported, NOT_OURS))
    }
}

/// Counts what is in batches, and in what is held of them, before anything is made of it.
fn check_fields(frame: &[u8]) -> Result<()> {
    let mut inside = 0;
    for field in fields(frame) {
        let (BATCH | HELD, content) = field? else { continue };
        for field in fields(content) {
            field?;
            inside += 1;
            if inside > MOST_FIELDS {
                let what = format!("a message about more than {MOST_FIELDS} files");
                return Err(Error::new(ErrorCode::ProtocolViolation, what));
            }
        }
    }
    Ok(())
}

/// Every message is one of these.
#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Body {
    /// The sender has a file or a directory.
    #[prost(message, tag = "1")]
    Offer(Offer),
    /// What the receiver has of it.
    #[prost(message, tag = "2")]
    Answer(Answer),
    /// Where the content begins that comes next.
    #[prost(message, tag = "3")]
    Start(Start),
    /// The content was complete.
    #[prost(message, tag = "4")]
    End(End),
    /// It is on the receiver's disk, under its name.
    #[prost(message, tag = "5")]
    Done(Done),
    /// One of the sides gave up.
    #[prost(message, tag = "6")]
    Failure(Failure),
    /// What is in a directory: a part of it.
    #[prost(message, tag = "7")]
    Batch(Batch),
    /// What the receiver has of a batch.
    #[prost(message, tag = "8")]
    Held(Held),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Offer {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bool, tag = "2")]
    pub(crate) directory: bool,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) name: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(crate) meta: Option<Meta>,
    #[prost(uint32, tag = "5")]
    pub(crate) block_log2: u32,
    /// The sender takes the word of checkpoints, and does not look for damage.
    #[prost(bool, tag = "6")]
    pub(crate) believes: bool,
}

/// What is known of a file or directory beside its name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Meta {
    #[prost(uint64, tag = "1")]
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970.
    #[prost(sint64, tag = "2")]
    pub(crate) mtime: i64,
    #[prost(uint32, tag = "3")]
    pub(crate) mtime_ns: u32,
    /// Permission bits; absent where the sender's system has none.
    #[prost(uint32, optional, tag = "4")]
    pub(crate) mode: Option<u32>,
    /// Equal for the same unchanged file only.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) identity: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {
    /// The values of the first blocks that are there, 32 bytes each.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) blocks: Vec<u8>,
    /// So many of them come from the checkpoint of this very source, unread.
    #[prost(uint32, tag = "2")]
    pub(crate) trusted: u32,
    /// They are those of a whole file of that name, not of a part.
    #[prost(bool, tag = "3")]
    pub(crate) whole: bool,
    /// If that file is another one, it may be replaced.
    #[prost(bool, tag = "4")]
    pub(crate) replace: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Start {
    /// The first block that comes.
    #[prost(uint32, tag = "1")]
    pub(crate) block: u32,
    /// The receiver has all of it; no content and no end follow.
    #[prost(bool, tag = "2")]
    pub(crate) same: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct End {
    /// The BLAKE3 of the whole file.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) hash: Vec<u8>,
    /// The file changed while it was read.
    #[prost(bool, tag = "2")]
    pub(crate) changed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Done {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Failure {
    /// The number of an [`ErrorCode`].
    #[prost(uint32, tag = "1")]
    pub(crate) code: u32,
    #[prost(string, tag = "2")]
    pub(crate) reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
    /// No other follows.
    #[prost(bool, tag = "2")]
    pub(crate) last: bool,
}

/// Something in a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// How many directories are left before it: it stands in the one that is
    /// open then. A directory is entered at once.
    #[prost(uint32, tag = "1")]
    pub(crate) up: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) name: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub(crate) meta: Option<Meta>,
    #[prost(enumeration = "Kind", tag = "4")]
    pub(crate) kind: i32,
    /// Where a symbolic link leads.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) target: Vec<u8>,
    /// The size of the blocks of a large file.
    #[prost(uint32, tag = "6")]
    pub(crate) block_log2: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Unknown = 0,
    Directory = 1,
    /// Up to one block: its content comes in the run of small files.
    Small = 2,
    /// Above one block: sent as a file by itself.
    Large = 3,
    Symlink = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Held {
    #[prost(message, repeated, tag = "1")]
    pub(crate) files: Vec<HeldFile>,
}

/// A file of a batch of which the receiver has something.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeldFile {
    /// Its place among the entries of the batch.
    #[prost(uint32, tag = "1")]
    pub(crate) index: u32,
    /// Of a small file: the BLAKE3 of what is there. Of a large one nothing:
    /// an answer of its own is sent when it is its turn.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) hash: Vec<u8>,
}

impl From<&Error> for Failure {
    fn from(e: &Error) -> Failure {
        let reason = shortened(e.description()).to_owned();
        Failure { code: e.code().number().into(), reason }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let known = ErrorCode::ALL.iter().find(|c| u32::from(c.number()) == failure.code);
        let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let reason: String = shortened(&failure.reason).chars().map(printable).collect();
        let code = known.copied().unwrap_or(ErrorCode::Aborted);
        let e = Error::new(code, format!("the other side gave up: {reason}"));
        let e = e.with_context("by", "peer");
        // Its source stayed there.
        if code == ErrorCode::Io { e.advise("see that it is put right there") } else { e }
    }
}

/// As much of a reason as is passed on.
fn shortened(reason: &str) -> &str {
    let most = reason.len().min(MAX_REASON);
    let end = (0..=most).rev().find(|&i| reason.is_char_boundary(i)).unwrap_or(0);
    &reason[..end]
}

/// What this release speaks.
pub(crate) const VERSION: u32 = 1;

/// The most that a message about files takes: the values of all blocks.
pub(crate) const MAX_MESSAGE: usize = (2 << 20) + (64 << 10);

pub(crate) const MAX_REASON: usize = 1024;

/// Entries of a batch, at most.
pub(crate) const MOST_ENTRIES: usize = 4096;

/// The fields of a batch, entries and others that a later release may add.
const MOST_FIELDS: usize = 2 * MOST_ENTRIES;

/// The numbers of the messages that have many.
const BATCH: u32 = 7;
const HELD: u32 = 8;

const NOT_OURS: &str = "a message that is none about files, or of a later version";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_message_is_counted_before_it_is_decoded() {
        let entries = |n| Batch { entries: vec![Entry::default(); n], last: true };
        let files = |n| Held { files: vec![HeldFile::default(); n] };
        let bytes = Body::Batch(entries(MOST_ENTRIES)).into_bytes();
        assert!(matches!(Body::from_bytes(&bytes), Ok(Body::Batch(_))));
        let half = Body::Held(files(MOST_FIELDS / 2 + 1)).into_bytes();
        assert!(matches!(Body::from_bytes(&half), Ok(Body::Held(_))));
        let too_many = [
            Body::Batch(entries(MOST_FIELDS)).into_bytes(),
            Body::Held(files(MOST_FIELDS + 1)).into_bytes(),
            // Who decodes puts them together.
            half.repeat(2),
        ];
        for bytes in too_many {
            let e = Body::from_bytes(&bytes).expect_err("too many");
            assert_eq!(e.code(), ErrorCode::ProtocolViolation);
        }
    }
}
