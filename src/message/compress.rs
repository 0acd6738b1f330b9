//! Compression of single frames.
//!
//! A compressed payload begins with four bytes: which algorithm, and the
//! length that comes out, in three bytes. Nothing is allocated above it, and
//! it is at most [`MAX_CHUNK`].

use crate::error::{Error, ErrorCode, Result};
use crate::message::header::MAX_CHUNK;

/// What a compressed payload will be as long as.
pub(crate) fn unpacked_len(payload: &[u8]) -> Result<usize> {
    let Some(([_, a, b, c], _)) = payload.split_first_chunk() else {
        return Err(damaged("it is too short"));
    };
    let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if len > MAX_CHUNK {
        return Err(damaged("it would grow above 4 MiB"));
    }
    Ok(len)
}

/// Appends what was compressed to `out`.
pub(crate) fn unpack(payload: &[u8], _out: &mut Vec<u8>) -> Result<()> {
    unpacked_len(payload)?;
    let name = match payload[0] {
        LZ4 => "lz4",
        ZSTD => "zstd",
        other => {
            let what = format!("a frame came compressed with the unknown algorithm {other}");
            return Err(Error::new(ErrorCode::Unsupported, what));
        }
    };
    let what = format!("a frame came compressed with {name}, which this build lacks");
    Err(Error::new(ErrorCode::Unsupported, what)
        .advise(format!("build pointsub with the feature {name}")))
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, format!("a compressed frame is refused: {why}"))
}

/// The length of what precedes the compressed bytes.
pub(crate) const PREFIX: usize = 4;

const LZ4: u8 = 1;
const ZSTD: u8 = 2;
