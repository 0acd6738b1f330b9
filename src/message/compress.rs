//! Compression of single frames.
//!
//! A compressed payload begins with four bytes: the number of the algorithm,
//! and in three bytes the length that comes out. It is at most [`MAX_CHUNK`],
//! and nothing is allocated above it.

use crate::error::{Error, ErrorCode, Result};
use crate::message::header::MAX_CHUNK;
use crate::resources::buffers::{self, Buffer};

/// Whether and how a sender compresses. A receiver of a build with the
/// features understands all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    Off,
    /// The lz4 block format: fast.
    #[cfg(feature = "lz4")]
    Lz4,
    /// zstd at its level 3: smaller.
    #[cfg(feature = "zstd")]
    Zstd,
}

/// Compresses payloads, where that saves a tenth of them.
#[derive(Default)]
pub(crate) enum Packer {
    #[default]
    Off,
    #[cfg(feature = "lz4")]
    Lz4,
    #[cfg(feature = "zstd")]
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// A compressed payload in a buffer of the pool.
pub(crate) struct Packed {
    buffer: Buffer,
    len: usize,
}

impl Packer {
    pub(crate) fn new(compression: Compression) -> Packer {
        match compression {
            Compression::Off => Packer::Off,
            #[cfg(feature = "lz4")]
            Compression::Lz4 => Packer::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd => match zstd::bulk::Compressor::new(ZSTD_LEVEL) {
                Ok(compressor) => Packer::Zstd(Box::new(compressor)),
                // No memory for its tables: nothing is compressed.
                Err(_) => Packer::Off,
            },
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self, Packer::Off)
    }

    /// The compressed payload, if it is worth it.
    pub(crate) fn pack(&mut self, content: &[u8]) -> Option<Packed> {
        if self.is_off() || content.len() < WORTHWHILE {
            return None;
        }
        let most = content.len() - content.len() / 10;
        let mut buffer = buffers::take(PREFIX + self.room(content.len()));
        let (algorithm, len) = self.compress(content, &mut buffer[PREFIX..])?;
        if PREFIX + len > most {
            return None;
        }
        let prefix = (u32::from(algorithm) << 24 | content.len() as u32).to_be_bytes();
        buffer[..PREFIX].copy_from_slice(&prefix);
        Some(Packed { buffer, len: PREFIX + len })
    }

    /// The number of the algorithm, and how long it became.
    fn compress(&mut self, content: &[u8], out: &mut [u8]) -> Option<(u8, usize)> {
        match self {
            Packer::Off => {
                // In a build without features nobody else uses them.
                let _ = (content, out);
                None
            }
            #[cfg(feature = "lz4")]
            Packer::Lz4 => Some((LZ4, lz4_flex::block::compress_into(content, out).ok()?)),
            #[cfg(feature = "zstd")]
            Packer::Zstd(zstd) => Some((ZSTD, zstd.compress_to_buffer(content, out).ok()?)),
        }
    }

    /// The space that compressing so many bytes asks for.
    fn room(&self, len: usize) -> usize {
        match self {
            #[cfg(feature = "lz4")]
            Packer::Lz4 => lz4_flex::block::get_maximum_output_size(len),
            // It stops when it is full: then it was not worth it.
            _ => len,
        }
    }
}

impl Packed {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// What a compressed payload will be as long as.
pub(crate) fn unpacked_len(payload: &[u8]) -> Result<usize> {
    let Some(([_, a, b, c], _)) = payload.split_first_chunk() else {
        return Err(refused("it is too short"));
    };
    match u32::from_be_bytes([0, *a, *b, *c]) as usize {
        0 => Err(refused("it holds nothing")),
        len if len > MAX_CHUNK => Err(refused("it would grow above 4 MiB")),
        len => Ok(len),
    }
}

/// Appends what was compressed to `out`: exactly as much as was announced.
pub(crate) fn unpack(payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let len = unpacked_len(payload)?;
    let start = out.len();
    out.reserve_exact(len);
    out.resize(start + len, 0);
    let opened = open(payload[0], &payload[PREFIX..], &mut out[start..]);
    if matches!(opened, Ok(Some(n)) if n == len) {
        return Ok(());
    }
    out.truncate(start);
    Err(opened.err().unwrap_or_else(|| refused("it does not hold what it announces")))
}

/// Decompresses into a slice; how long it became, `None` if it is damaged.
fn open(algorithm: u8, from: &[u8], to: &mut [u8]) -> Result<Option<usize>> {
    match algorithm {
        LZ4 => open_lz4(from, to),
        ZSTD => open_zstd(from, to),
        other => {
            let what = format!("a frame came compressed with the unknown algorithm {other}");
            Err(Error::new(ErrorCode::Unsupported, what))
        }
    }
}

#[cfg(feature = "lz4")]
fn open_lz4(from: &[u8], to: &mut [u8]) -> Result<Option<usize>> {
    Ok(lz4_flex::block::decompress_into(from, to).ok())
}

#[cfg(not(feature = "lz4"))]
fn open_lz4(_from: &[u8], _to: &mut [u8]) -> Result<Option<usize>> {
    Err(lacks("lz4"))
}

#[cfg(feature = "zstd")]
fn open_zstd(from: &[u8], to: &mut [u8]) -> Result<Option<usize>> {
    Ok(zstd::bulk::decompress_to_buffer(from, to).ok())
}

#[cfg(not(feature = "zstd"))]
fn open_zstd(_from: &[u8], _to: &mut [u8]) -> Result<Option<usize>> {
    Err(lacks("zstd"))
}

#[cfg(not(all(feature = "lz4", feature = "zstd")))]
fn lacks(name: &str) -> Error {
    let what = format!("a frame came compressed with {name}, which this build lacks");
    let hint = format!("build pointsub with its feature {name}");
    Error::new(ErrorCode::Unsupported, what).advise(hint)
}

fn refused(why: &str) -> Error {
    Error::new(ErrorCode::ProtocolViolation, format!("a compressed frame is refused: {why}"))
}

/// The length of what precedes the compressed bytes.
pub(crate) const PREFIX: usize = 4;

const LZ4: u8 = 1;
const ZSTD: u8 = 2;

#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;

/// Shorter payloads are never compressed.
const WORTHWHILE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn packers() -> Vec<Packer> {
        vec![
            #[cfg(feature = "lz4")]
            Packer::new(Compression::Lz4),
            #[cfg(feature = "zstd")]
            Packer::new(Compression::Zstd),
        ]
    }

    #[test]
    fn what_shrinks_comes_out_as_it_went_in_and_the_rest_is_left_alone() {
        for mut packer in packers() {
            for len in [64, 1000, 65_535, MAX_CHUNK] {
                let content = b"again and ".repeat(len.div_ceil(10))[..len].to_vec();
                let packed = packer.pack(&content).unwrap();
                assert!(packed.as_slice().len() <= len - len / 10);
                let mut out = b"before".to_vec();
                unpack(packed.as_slice(), &mut out).unwrap();
                assert!(out[6..] == content);
            }
            let mut state = 1u64;
            let noise = std::array::from_fn::<u8, 10_000, _>(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            });
            assert!(packer.pack(&noise).is_none());
            assert!(packer.pack(b"short").is_none());
        }
    }

    #[test]
    fn a_bomb_is_refused_before_anything_is_allocated_for_it() {
        let e = unpack(&[LZ4, 0xFF, 0xFF, 0xFF, 0], &mut Vec::new()).unwrap_err();
        assert_eq!(e.code(), ErrorCode::ProtocolViolation);
        for mut packer in packers() {
            let packed = packer.pack(&[0; 1 << 20]).unwrap();
            for announced in [1u32, 1000, (1 << 20) - 1, (1 << 20) + 1] {
                let mut lie = packed.as_slice().to_vec();
                lie[1..4].copy_from_slice(&announced.to_be_bytes()[1..]);
                let mut out = Vec::new();
                let e = unpack(&lie, &mut out).unwrap_err();
                assert_eq!(e.code(), ErrorCode::ProtocolViolation);
                assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn what_this_build_lacks_is_refused_by_name() {
        let known: &[u8] = &[
            #[cfg(feature = "lz4")]
            LZ4,
            #[cfg(feature = "zstd")]
            ZSTD,
        ];
        for (algorithm, name) in [(LZ4, "lz4"), (ZSTD, "zstd"), (9, "algorithm 9")] {
            if known.contains(&algorithm) {
                continue;
            }
            let e = unpack(&[algorithm, 0, 0, 1, 0], &mut Vec::new()).unwrap_err();
            assert_eq!(e.code(), ErrorCode::Unsupported);
            assert!(e.to_string().contains(name), "{e}");
        }
    }
}
