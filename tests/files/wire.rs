//! What the two sides say about files, as the wire has it: for ends that never read
//! our rules.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    #[prost(message, optional, tag = "1")]
    pub offer: Option<Offer>,
    #[prost(message, optional, tag = "2")]
    pub answer: Option<Answer>,
    #[prost(message, optional, tag = "6")]
    pub failure: Option<Failure>,
    #[prost(message, optional, tag = "7")]
    pub batch: Option<Batch>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Offer {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(bool, tag = "2")]
    pub directory: bool,
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub meta: Option<Meta>,
    #[prost(uint32, tag = "5")]
    pub block_log2: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    #[prost(uint64, tag = "1")]
    pub size: u64,
    #[prost(uint32, optional, tag = "4")]
    pub mode: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    #[prost(bytes = "vec", tag = "1")]
    pub blocks: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Failure {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    #[prost(bool, tag = "2")]
    pub last: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(uint32, tag = "1")]
    pub up: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub meta: Option<Meta>,
    #[prost(int32, tag = "4")]
    pub kind: i32,
}

/// The offer of a file.
pub fn offer(name: &[u8], size: u64, block_log2: u32) -> Vec<u8> {
    let meta = Some(Meta { size, mode: None });
    let offer = Offer { version: 1, directory: false, name: name.to_vec(), meta, block_log2 };
    Frame { offer: Some(offer), ..Frame::default() }.encode_to_vec()
}

/// The offer of a directory, called `tree`.
pub fn offer_directory() -> Vec<u8> {
    let (name, meta) = (b"tree".to_vec(), Some(Meta { size: 0, mode: Some(0o755) }));
    let offer = Offer { version: 1, directory: true, name, meta, block_log2: 20 };
    Frame { offer: Some(offer), ..Frame::default() }.encode_to_vec()
}

pub fn batch(entries: Vec<Entry>, last: bool) -> Vec<u8> {
    Frame { batch: Some(Batch { entries, last }), ..Frame::default() }.encode_to_vec()
}

pub fn failure(code: pointsub::ErrorCode) -> Vec<u8> {
    let failure = Failure { code: code.number().into(), reason: "for a test".to_owned() };
    Frame { failure: Some(failure), ..Frame::default() }.encode_to_vec()
}

/// The failure that a message says, if it says one.
pub fn failure_in(message: &[u8]) -> Option<Failure> {
    Frame::decode(message).expect("a message about files").failure
}

/// A directory, which is entered.
pub fn directory(up: u32, name: impl Into<Vec<u8>>, mode: u32) -> Entry {
    let meta = Some(Meta { size: 0, mode: Some(mode) });
    Entry { up, name: name.into(), meta, kind: 1 }
}

/// A small file.
pub fn small(name: impl Into<Vec<u8>>, size: u64) -> Entry {
    let meta = Some(Meta { size, mode: Some(0o644) });
    Entry { up: 0, name: name.into(), meta, kind: 2 }
}

/// A small file in the stream of a run.
pub fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&[1][..], &length, &[0; 12], blake3::hash(content).as_bytes(), content].concat()
}
