//! The file that says how much of another is there: `NAME.part.check`.
//!
//! The format is described in the [module docs](crate::transfer#the-disk).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::blocks::{BlockSize, Value};
use crate::transfer::dir::{Dir, Seen, try_lock};
use crate::transfer::names::Name;
use crate::transfer::tenure::{self, AtWork, Tenure};
use crate::transfer::wire::Meta;

/// A checkpoint that is open and locked: no other process works on its part.
pub(crate) struct Checkpoint {
    file: File,
    header: Header,
    /// How many blocks it claims.
    claimed: usize,
    is_new: bool,
    /// Given back once the file is no longer locked.
    _at_work: AtWork,
}

/// Whose part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    directory: bool,
    block_log2: u8,
    size: u64,
    identity: [u8; 32],
}

impl Header {
    pub(crate) fn of_file(meta: &Meta, blocks: BlockSize) -> Header {
        Header {
            directory: false,
            block_log2: blocks.log2() as u8,
            size: meta.size,
            identity: fixed(&meta.identity),
        }
    }

    pub(crate) fn of_directory() -> Header {
        Header { directory: true, block_log2: 0, size: 0, identity: [0; 32] }
    }

    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = u8::from(self.directory);
        bytes[9] = self.block_log2;
        bytes[12..20].copy_from_slice(&self.size.to_be_bytes());
        bytes[20..52].copy_from_slice(&self.identity);
        let check = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER]) -> Option<Header> {
        let check = crc32fast::hash(&bytes[..HEADER - 4]).to_be_bytes();
        let sound = bytes.starts_with(MAGIC) && bytes[HEADER - 4..] == check && bytes[8] <= 1;
        sound.then(|| Header {
            directory: bytes[8] == 1,
            block_log2: bytes[9],
            size: u64::from_be_bytes(array(&bytes[12..20])),
            identity: array(&bytes[20..52]),
        })
    }
}

impl Checkpoint {
    /// Opens or makes the one of `name`, and locks it. What it claims about
    /// another source is forgotten.
    pub(crate) fn open(
        dir: &Dir,
        name: &Name,
        header: Header,
        tenure: &Arc<Tenure>,
    ) -> Result<(Checkpoint, Vec<Value>)> {
        for _ in 0..MOST_REOPENED {
            if let Some(opened) = Checkpoint::open_once(dir, name, header, tenure)? {
                return Ok(opened);
            }
        }
        Err(busy(name))
    }

    /// The same; nothing if whoever had it has removed it meanwhile.
    fn open_once(
        dir: &Dir,
        name: &Name,
        header: Header,
        tenure: &Arc<Tenure>,
    ) -> Result<Option<(Checkpoint, Vec<Value>)>> {
        let check = name.check();
        let (file, is_new) = match dir.open_file_to_write(&check) {
            Ok(file) => (file, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match dir.create_file(&check) {
                Ok(file) => (file, true),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                Err(e) => return Err(e.into()),
            },
            Err(e) => return Err(in_the_way(&check, e)),
        };
        let place = Seen::of(&file)?.place();
        if !tenure::lock(place, tenure, || try_lock(&file))? {
            return Err(busy(name));
        }
        // A lock on what has lost its name keeps nobody out.
        if dir.look_at(&check)?.map(|seen| seen.place()) != Some(place) {
            return Ok(None);
        }
        let _at_work = AtWork::new(place, tenure);
        let mut checkpoint = Checkpoint { file, header, claimed: 0, is_new, _at_work };
        if !is_new && checkpoint.is_foreign()? {
            return Err(in_the_way(&check, io::Error::other("it is no checkpoint of ours")));
        }
        if !is_new && let Some(values) = checkpoint.load()? {
            return Ok(Some((checkpoint, values)));
        }
        // Before there is a part, and before one is written over for another source:
        // what a power cut leaves must be ours, and claim nothing.
        checkpoint.forget()?;
        dir.sync()?;
        Ok(Some((checkpoint, Vec::new())))
    }

    /// Whether there was none before.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Claims that the first blocks are on the disk, with these values. The
    /// caller has seen to it that they are.
    pub(crate) fn claim(&mut self, values: &[Value]) -> io::Result<()> {
        let Some(fresh) = values.get(self.claimed..) else { return Ok(()) };
        let mut records = Vec::with_capacity(fresh.len() * RECORD);
        for (i, value) in fresh.iter().enumerate() {
            records.extend_from_slice(value);
            let check = self.check_of(self.claimed + i, value);
            records.extend_from_slice(&check.to_be_bytes());
        }
        self.file.seek(SeekFrom::Start(self.end_of(self.claimed)))?;
        self.file.write_all(&records)?;
        self.claimed = values.len();
        Ok(())
    }

    /// Claims no more than the first blocks, before what is behind them is
    /// written over.
    pub(crate) fn unclaim(&mut self, from: usize) -> io::Result<()> {
        if from < self.claimed {
            self.file.set_len(self.end_of(from))?;
            // Or a power cut would bring the claims back, but not what they were about.
            self.file.sync_all()?;
            self.claimed = from;
        }
        Ok(())
    }

    /// Claims nothing, for the source that it is about now.
    fn forget(&mut self) -> io::Result<()> {
        self.claimed = 0;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.header.encode())?;
        self.file.sync_all()
    }

    /// Whether it is something else. After a power cut one of ours may be empty,
    /// or zeros.
    fn is_foreign(&mut self) -> io::Result<bool> {
        let mut beginning = Vec::new();
        (&self.file).take(MAGIC.len() as u64).read_to_end(&mut beginning)?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(!MAGIC.starts_with(&beginning) && beginning.iter().any(|&b| b != 0))
    }

    /// What it claims, if it is about this source.
    fn load(&mut self) -> io::Result<Option<Vec<Value>>> {
        let mut header = [0; HEADER];
        match self.file.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        if Header::decode(&header) != Some(self.header) {
            return Ok(None);
        }
        let most = MOST_RECORDS * RECORD as u64;
        let mut records = Vec::new();
        (&self.file).take(most).read_to_end(&mut records)?;
        let mut values = Vec::new();
        for (i, record) in records.chunks_exact(RECORD).enumerate() {
            let (value, check) = record.split_at(32);
            let value = array(value);
            if self.check_of(i, &value).to_be_bytes() != check {
                break;
            }
            values.push(value);
        }
        // Or they would count again once the hole before them is filled.
        self.claimed = records.len().div_ceil(RECORD);
        self.unclaim(values.len())?;
        Ok(Some(values))
    }

    /// A record is good at its place in this checkpoint only.
    fn check_of(&self, index: usize, value: &Value) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.header.identity);
        crc.update(&(index as u64).to_be_bytes());
        crc.update(value);
        crc.finalize()
    }

    fn end_of(&self, claimed: usize) -> u64 {
        (HEADER + claimed * RECORD) as u64
    }
}

fn busy(name: &Name) -> Error {
    Error::new(ErrorCode::Busy, format!("another transfer is receiving {name}"))
}

/// Something that is no file of ours has the name of one.
pub(crate) fn in_the_way(name: &Name, e: io::Error) -> Error {
    let what = format!("{name} is in the way: {e}");
    let code = match e.kind() {
        io::ErrorKind::PermissionDenied => ErrorCode::Rejected,
        _ => ErrorCode::FileExists,
    };
    Error::with_source(code, what, e).advise("move it away, and try again")
}

/// As many bytes of an identity as are kept.
fn fixed(identity: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let len = identity.len().min(32);
    bytes[..len].copy_from_slice(&identity[..len]);
    bytes
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller cut as many")
}

const MAGIC: &[u8; 8] = b"psubchk\x01";
const HEADER: usize = 56;
/// A value and a checksum.
const RECORD: usize = 36;
const MOST_RECORDS: u64 = 65_536;

/// How often one is opened that others complete meanwhile.
const MOST_REOPENED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_header_is_no_header() {
        let header = Header { directory: false, block_log2: 20, size: 7, identity: [9; 32] };
        let good = header.encode();
        assert_eq!(Header::decode(&good), Some(header));
        for bit in 0..HEADER * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
    }

    /// A directory of its own; dropped, it is gone.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let name = format!("pointsub-checkpoint-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_locked_has_the_name_also_if_another_was_waited_for() {
        let scratch = Scratch::new("lock");
        let dir = Dir::open(&scratch.0).unwrap();
        let name = Name::from_peer(b"file").unwrap();
        let header = Header { directory: false, block_log2: 20, size: 7, identity: [9; 32] };
        let tenure = || Tenure::new(Some("peer".to_owned()));
        let old = tenure();
        let (first, _) = Checkpoint::open(&dir, &name, header, &old).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Checkpoint::open(&dir, &name, header, &tenure()));
            while !old.yields() {
                old.is_cut_off();
                std::thread::yield_now();
            }
            // The next waits; and now the first completes its file all the same.
            dir.remove_file(&name.check()).unwrap();
            drop(first);
            let (next, _) = next.join().unwrap().unwrap();
            let named = dir.look_at(&name.check()).unwrap().expect("it has a name");
            assert_eq!(named.place(), Seen::of(&next.file).unwrap().place());
        });
    }

    #[test]
    fn what_is_behind_a_damaged_record_is_claimed_no_more() {
        let scratch = Scratch::new("stale");
        let dir = Dir::open(&scratch.0).unwrap();
        let name = Name::from_peer(b"file").unwrap();
        let header = Header { directory: false, block_log2: 16, size: 1 << 20, identity: [9; 32] };
        let open = || Checkpoint::open(&dir, &name, header, &Tenure::new(None)).unwrap();
        let values: Vec<Value> = (0..10).map(|i| [i; 32]).collect();
        open().0.claim(&values).unwrap();
        let path = scratch.0.join("file.part.check");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER + 3 * RECORD] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (mut checkpoint, claimed) = open();
        assert_eq!(claimed, values[..3]);
        // One block more is on the disk, and fills the hole.
        checkpoint.claim(&values[..4]).unwrap();
        drop(checkpoint);
        assert_eq!(open().1, values[..4]);
    }
}
