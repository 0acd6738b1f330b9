//! Blocks and their checksums: the values that BLAKE3 gives to the subtrees of
//! its own tree. So those of all blocks together are the hash of the file, and
//! nothing is hashed twice.

use std::io::{self, Read};

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::error::{Error, ErrorCode, Result};

/// The value of a block: 32 bytes.
pub(crate) type Value = [u8; 32];

/// The size of all blocks of a file but the last: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSize {
    log2: u32,
}

impl BlockSize {
    /// The smallest that is at least `least` and cuts `size` bytes into no
    /// more blocks than there may be.
    pub(crate) fn for_file(size: u64, least: u64) -> Result<BlockSize> {
        let least = least.next_power_of_two().trailing_zeros().max(SMALLEST);
        (least..=LARGEST)
            .map(|log2| BlockSize { log2 })
            .find(|blocks| blocks.count(size) <= PREFERRED)
            .ok_or_else(|| Error::new(ErrorCode::InvalidInput, "a file of more than 16 TiB"))
    }

    /// One that a peer announced for a file of `size` bytes.
    pub(crate) fn announced(log2: u32, size: u64) -> Result<BlockSize> {
        let blocks = BlockSize { log2 };
        if !(SMALLEST..=LARGEST).contains(&log2) || blocks.count(size) > MOST {
            let what = format!("blocks of 2^{log2} bytes for a file of {size}");
            return Err(Error::new(ErrorCode::ProtocolViolation, what));
        }
        Ok(blocks)
    }

    pub(crate) fn log2(self) -> u32 {
        self.log2
    }

    pub(crate) fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// How many blocks a file of `size` bytes has.
    pub(crate) fn count(self, size: u64) -> u64 {
        size.div_ceil(self.bytes())
    }

    /// Where a block of a file of `size` bytes begins.
    pub(crate) fn start_of(self, block: usize, size: u64) -> u64 {
        (block as u64).saturating_mul(self.bytes()).min(size)
    }
}

/// Hashes content that comes in order, block by block.
pub(crate) struct Blocks {
    size: BlockSize,
    values: Vec<Value>,
    /// What the first block hashes to if it is the whole file.
    alone: Option<Value>,
    /// The block that has begun.
    hasher: Hasher,
    begun: u64,
}

impl Blocks {
    pub(crate) fn new(size: BlockSize) -> Blocks {
        Blocks { size, values: Vec::new(), alone: None, hasher: Hasher::new(), begun: 0 }
    }

    /// Takes the word of somebody else for the first blocks: two at least, or
    /// none.
    pub(crate) fn trusting(size: BlockSize, values: Vec<Value>) -> Blocks {
        let mut blocks = Blocks::new(size);
        if values.len() > 1 {
            blocks.values = values;
            blocks.restart();
        }
        blocks
    }

    /// The values of the blocks that are complete.
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(crate) fn update(&mut self, mut content: &[u8]) {
        while !content.is_empty() {
            let room = (self.size.bytes() - self.begun).try_into().unwrap_or(usize::MAX);
            let (now, later) = content.split_at(content.len().min(room));
            self.hasher.update(now);
            self.begun += now.len() as u64;
            if self.begun == self.size.bytes() {
                self.seal();
            }
            content = later;
        }
    }

    /// Ends the last block, which may be shorter.
    pub(crate) fn seal(&mut self) {
        if self.begun == 0 {
            return;
        }
        if self.values.is_empty() {
            self.alone = Some(*self.hasher.finalize().as_bytes());
        }
        self.values.push(self.hasher.finalize_non_root());
        self.restart();
    }

    /// Forgets all but the first blocks.
    pub(crate) fn truncate(&mut self, blocks: usize) {
        self.values.truncate(blocks);
        if blocks == 0 {
            self.alone = None;
        }
        self.restart();
    }

    /// Reads the next block, of `len` bytes; nothing if there are not as many.
    pub(crate) fn read_block(
        &mut self,
        from: &mut dyn Read,
        len: u64,
        buffer: &mut [u8],
    ) -> io::Result<Option<Value>> {
        let mut left = len;
        while left > 0 {
            let room = buffer.len().min(left.try_into().unwrap_or(usize::MAX));
            match from.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.restart();
                    return Ok(None);
                }
                Ok(n) => {
                    self.update(&buffer[..n]);
                    left -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.seal();
        Ok(self.values.last().copied())
    }

    /// The hash of the whole.
    pub(crate) fn finish(&mut self) -> Value {
        self.seal();
        match &self.values[..] {
            [] => *blake3::hash(b"").as_bytes(),
            [one] => self.alone.unwrap_or(*one),
            many => {
                let (left, right) = many.split_at(left_part(many.len()));
                let (left, right) = (merge(left), merge(right));
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            }
        }
    }

    fn restart(&mut self) {
        self.hasher = Hasher::new();
        self.hasher.set_input_offset(self.values.len() as u64 * self.size.bytes());
        self.begun = 0;
    }
}

fn merge(values: &[Value]) -> Value {
    match values {
        [one] => *one,
        many => {
            let (left, right) = many.split_at(left_part(many.len()));
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The largest power of two below `n`, which is two at least.
fn left_part(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// 64 KiB.
const SMALLEST: u32 = 16;
/// 1 GiB.
const LARGEST: u32 = 30;
/// Blocks of a file, if its sender may choose, and at all.
const PREFERRED: u64 = 16_384;
const MOST: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * i) >> 7) as u8).collect()
    }

    #[test]
    fn the_values_of_all_blocks_make_the_hash_of_the_file() {
        let size = BlockSize { log2: SMALLEST };
        let block = size.bytes() as usize;
        for len in [0, 1, block - 1, block, block + 1, 2 * block, 5 * block + 77, 8 * block] {
            let content = content(len);
            let mut blocks = Blocks::new(size);
            for piece in content.chunks(10_007) {
                blocks.update(piece);
            }
            assert_eq!(blocks.finish(), *blake3::hash(&content).as_bytes(), "{len}");
            assert_eq!(blocks.values().len() as u64, size.count(len as u64));
        }
    }

    #[test]
    fn hashing_goes_on_from_any_block() {
        let size = BlockSize { log2: SMALLEST };
        let content = content(5 * size.bytes() as usize + 77);
        let mut all = Blocks::new(size);
        all.update(&content);
        let whole = all.finish();
        for block in 0..6 {
            let start = size.start_of(block, content.len() as u64) as usize;
            let mut trusting = Blocks::trusting(size, all.values()[..block].to_vec());
            let from = if block == 1 { 0 } else { start };
            trusting.update(&content[from..]);
            assert_eq!(trusting.finish(), whole);
            all.truncate(block);
            all.update(&content[start..]);
            assert_eq!(all.finish(), whole);
        }
    }

    #[test]
    fn a_file_of_any_size_has_a_bounded_number_of_blocks() {
        let of = |size| BlockSize::for_file(size, 1 << 20).map(BlockSize::log2);
        assert_eq!(of(0).unwrap(), 20);
        assert_eq!(of(16 << 30).unwrap(), 20);
        assert_eq!(of((16 << 30) + 1).unwrap(), 21);
        assert!(of(u64::MAX).is_err());
        assert!(BlockSize::announced(64, 1).is_err());
        assert!(BlockSize::announced(16, u64::MAX).is_err());
        assert!(BlockSize::announced(30, u64::MAX).is_err());
    }
}
