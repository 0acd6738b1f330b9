//! Files and directories, over anything that carries messages: gone on with
//! after any interruption, checked to the last byte.
//!
//! [`send_file`] and [`send_dir`] on one side, [`receive_file`] or
//! [`receive_into_dir`] on the other, each with a
//! [`MessageTransporter`]; with options,
//! [`SendOptions`] and [`ReceiveOptions`]. How a transfer is watched, paused and
//! cancelled is told in [`progress`].
//!
//! # What can be relied on
//!
//! - A send returns `Ok` once everything is on the receiver's disk, under its
//!   name, with its hash compared.
//! - After an error, a lost connection or the death of either process at any
//!   moment, the same two calls go on. Of a file at most the block is sent again
//!   that was under way (1 MiB by default), and of a directory at most a small
//!   file or such a block. After a power cut so is what was not on the disk yet.
//! - A new attempt is not kept out by one whose conn is cut off and may yet come
//!   back: if it is the same peer's, and both have transporters with [`control`], the
//!   old one fails with `ConnectionReset`, and the new one has its part at once.
//!   Others hear [`Busy`](crate::ErrorCode::Busy) until the old conn is given up,
//!   with the defaults 55 seconds after its connection was lost.
//! - What an earlier attempt left is compared with the source, block by block.
//!   So it does not matter why it is there, what happened to it since, or
//!   whether the source has changed: the result is what the source is now.
//! - What a sender calls its files reaches nothing outside the receiver's
//!   directory, follows no link, and replaces nothing without
//!   [permission](ReceiveOptions::overwrite).
//! - Both ends need little memory, however large a file is: 32 bytes a block,
//!   some buffers, the names of one directory at a time, and what is known of some
//!   thousands of files.
//!
//! Whatever ends a transfer, both sides say so to each other, and the conn is
//! good for the next transfer, unless it was the conn itself that failed, or the
//! other side did not answer: it has 30 seconds without a byte, two minutes and
//! 1 GiB for that, and no longer than until the transfer is cancelled here. Then
//! the error has the context `unanswered`, and the conn is good for nothing more.
//! (Of a transporter without [`control`] and [`limits`] the silence is not
//! measured: let its conn have a read timeout.)
//!
//! [`control`]: crate::message::MessageTransporterBuilder::control
//! [`limits`]: crate::message::MessageTransporterBuilder::limits
//!
//! # Limits
//!
//! | what | limit |
//! |---|---|
//! | a file | 16 TiB |
//! | a name | 255 bytes; at the top not ending in `.part` or `.part.check`, in whatever case |
//! | directories in each other | 200 |
//! | directories that their owner may not change | 250,000 in a directory that is sent |
//! | a block | 64 KiB to 1 GiB, and 65,536 of them in a file |
//!
//! Owners, extended attributes, hard links and holes are not kept: files with
//! several names arrive as several files, and sparse ones as full ones. Of the
//! permissions the nine bits are kept that `chmod` sets for user, group and
//! others; nothing becomes set-user-id.
//!
//! # The wire
//!
//! This is version 1, complete. The sides exchange ordinary
//! [messages](crate::message#the-wire), each a protobuf message of one field:
//!
//! ```text
//! message Frame { oneof body {
//!   Offer offer = 1;  Answer answer = 2;  Start start = 3;  End end = 4;
//!   Done done = 5;  Failure failure = 6;  Batch batch = 7;  Held held = 8; } }
//!
//! message Offer { uint32 version = 1; bool directory = 2; bytes name = 3;
//!                 Meta meta = 4; uint32 block_log2 = 5; bool believes = 6; }
//! message Meta { uint64 size = 1; sint64 mtime = 2; uint32 mtime_ns = 3;
//!                optional uint32 mode = 4; bytes identity = 5; }
//! message Answer { bytes blocks = 1; uint32 trusted = 2; bool whole = 3;
//!                  bool replace = 4; }
//! message Start { uint32 block = 1; bool same = 2; }
//! message End { bytes hash = 1; bool changed = 2; }
//! message Done {}
//! message Failure { uint32 code = 1; string reason = 2; }
//! message Batch { repeated Entry entries = 1; bool last = 2; }
//! message Entry { uint32 up = 1; bytes name = 2; Meta meta = 3; Kind kind = 4;
//!                 bytes target = 5; uint32 block_log2 = 6; }
//! enum Kind { UNKNOWN = 0; DIRECTORY = 1; SMALL = 2; LARGE = 3; SYMLINK = 4; }
//! message Held { repeated HeldFile files = 1; }
//! message HeldFile { uint32 index = 1; bytes hash = 2; }
//! ```
//!
//! A message is 2 MiB + 64 KiB long at most, and a *Batch* or *Held* has at most 8,192
//! fields. Names are bytes of one component.
//! `mtime` counts seconds since 1970. `identity` is any 32 bytes that are the same
//! for the same unchanged file only.
//!
//! ## Files
//!
//! | sender | receiver |
//! |---|---|
//! | *Offer* | |
//! | | *Answer*: what is there |
//! | *Start*: the first block that comes | |
//! | a stream: the content from there on | |
//! | *End*: the hash of the whole file | |
//! | | *Done*, once it is on the disk |
//!
//! A file is cut into blocks of 2^`block_log2` bytes, the last shorter. The value
//! of a block is its BLAKE3 chaining value at its place in the file (as a subtree
//! of BLAKE3's own tree, not its root, even if it is the only one). So those of
//! all blocks make the hash of the file, and each byte is hashed once.
//!
//! *Answer* has the values of the first whole blocks that the receiver has. The
//! sender compares them with its own, and goes on from the first that differs or
//! is missing. `trusted` of them the receiver has not read, but taken from the
//! checkpoint of a source of the same identity: none, unless the sender `believes`
//! such, and does not look for what damaged the part since. `whole`: they are those
//! of a file that has the name already. If it is the same, *Start* says so (`same`)
//! and only *Done* follows. If it is not, the file comes from its beginning if
//! `replace` is set; else the sender gives up. `changed` in *End*: the file was
//! written to while it was sent; the receiver gives up.
//!
//! ## Directories
//!
//! | sender | receiver |
//! |---|---|
//! | *Offer*: `directory`; `size` is that of all files, or 0 | |
//! | | *Answer*, empty |
//! | *Batch*: up to 4,096 entries | |
//! | | *Held*: which files of the batch it has |
//! | what is missing | |
//! | and so on, to the batch that is `last` | |
//! | | *Done* |
//!
//! Entries come depth first: a directory is entered where it is named, and `up`
//! says how many are left before an entry. Small files have up to
//! 2^`block_log2` bytes (of the offer; 1 MiB at most). The content of each run of
//! small files between two large ones is one stream of records, one for each:
//!
//! ```text
//! 0                                                the file has gone meanwhile
//! 1  length: 4  mtime: 8  nanoseconds: 4  BLAKE3: 32  content
//! 2                                                the receiver has it
//! ```
//!
//! with integers big-endian. For a small file that it may have the receiver gives
//! the BLAKE3 of what it has. A large file is sent as a file by itself, without
//! *Offer* and *Done*. Only if *Held* names it, an *Answer* comes before its
//! *Start*; else nothing of it is there.
//!
//! ## Failures
//!
//! Whoever cannot go on sends *Failure*, with the number of an
//! [`ErrorCode`](crate::ErrorCode) and a reason. Then it reads on, and throws away
//! what it reads, until the other side has sent *Failure* as well; whoever hears
//! one answers so. A stream that the sender cannot complete is
//! [aborted](crate::message#messages-and-streams) before.
//!
//! # The disk
//!
//! A file `NAME` is put together in `NAME.part`, beside its checkpoint
//! `NAME.part.check`. (If these names would be longer than 255 bytes, `NAME` is cut
//! to 200 bytes, and `~` and 16 hexadecimal digits of its BLAKE3 are put behind.)
//! Integers are big-endian, checks are CRC-32:
//!
//! ```text
//! 0   8   "psubchk" 0x01
//! 8   1   1 for a directory
//! 9   1   block_log2
//! 10  2   0
//! 12  8   size
//! 20  32  identity
//! 52  4   check of bytes 0 to 51
//! 56  36  for each block: value 32, check 4 of identity, index (8 bytes), value
//! ```
//!
//! The receiver keeps it locked (`flock`) while it works. It appends records once
//! it has synced the part, every 64 MiB and every second; a record that is torn or
//! damaged ends the list. The checkpoint and its name are synced before the part
//! is made, and it is removed once the part's end is synced: so a power cut leaves
//! no part without one, which would be taken for somebody else's. In the order of
//! time:
//!
//! | the process ends | and the next attempt finds |
//! |---|---|
//! | before the checkpoint is made | nothing |
//! | before the part is made | a checkpoint, and begins |
//! | while it grows | the part, of which every whole block is used that compares |
//! | when it is complete, synced, and has its permissions and time | the same, and all of it is used |
//! | after the rename, before the checkpoint is removed | the file; it compares, and the rest is removed |
//! | before *Done* arrives | the file; it compares |
//!
//! A part without a checkpoint, and a checkpoint that begins otherwise (but for
//! zeros), are not ours, and never touched.
//!
//! A directory `NAME` is put together in a directory `NAME.part` with its files
//! under their own names; the checkpoint beside it says whose it is and has no
//! records. When it is complete, its file system is synced once (outside of Linux
//! each of its files), and it is renamed; or, if there is a `NAME` already, what is in
//! it is moved there, file by file, each in one step. Directories that are there keep
//! their permissions and times without
//! [permission](ReceiveOptions::overwrite) to replace. What compares there is not sent
//! at all.

mod blocks;
mod channel;
mod checkpoint;
mod claim;
mod dir;
mod farewell;
mod hashing;
mod meta;
mod names;
mod options;
mod part;
pub mod progress;
mod receive;
mod report;
mod send;
mod tenure;
mod tree;
mod wire;

use std::io::{Read, Write};
use std::path::Path;

use crate::error::Result;
use crate::message::MessageTransporter;

pub use options::{ReceiveOptions, SendOptions};
pub use report::Report;

/// Sends the file at `path`; returns once it is on the receiver's disk, under
/// its name.
///
/// If that fails, or either process ends, the next attempt goes on where this
/// one stopped.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use pointsub::MessageTransporter;
/// use pointsub::transfer::{receive_into_dir, send_file};
/// use std::os::unix::net::UnixStream;
///
/// # let dir = std::env::temp_dir().join(format!("pointsub-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(dir.join("there"))?;
/// let (here, there) = UnixStream::pair()?;
/// let into = dir.join("there");
/// let receiving = std::thread::spawn(move || {
///     receive_into_dir(&mut MessageTransporter::new(there), into)
/// });
/// std::fs::write(dir.join("letter"), "hello")?;
/// let sent = send_file(&mut MessageTransporter::new(here), dir.join("letter"))?;
/// assert_eq!(sent.moved, 5);
/// receiving.join().unwrap()?;
/// assert_eq!(std::fs::read(dir.join("there/letter"))?, b"hello");
/// # std::fs::remove_dir_all(dir)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// - [`FileExists`](crate::ErrorCode::FileExists): the receiver has something
///   else of that name, and may not replace it.
/// - [`InvalidName`](crate::ErrorCode::InvalidName),
///   [`InvalidInput`](crate::ErrorCode::InvalidInput): this cannot be sent. Files that the
///   system makes up as they are read, with another length than they say, are among it.
/// - [`SourceChanged`](crate::ErrorCode::SourceChanged): something wrote to the
///   file meanwhile. Try again.
/// - What the receiver met, a full disk for example
///   ([`StorageFull`](crate::ErrorCode::StorageFull)), with the same code.
/// - Those of the files and of the transporter.
pub fn send_file<C: Read + Write>(
    to: &mut MessageTransporter<C>,
    path: impl AsRef<Path>,
) -> Result<Report> {
    SendOptions::new().send_file(to, path)
}

/// Sends the directory at `path` with all that is in it: files, directories
/// also if they are empty, symbolic links; with permissions and times. Returns
/// once all of it is on the receiver's disk.
///
/// Nothing is waited for between small files, and what the receiver has of it
/// already, from an earlier attempt or otherwise, is not sent again. Links are
/// sent as links; files with several names arrive as several files; devices,
/// pipes and sockets are [left out](Report::left_out).
///
/// # Errors
///
/// As [`send_file`]; and a file or directory that cannot be read ends it.
pub fn send_dir<C: Read + Write>(
    to: &mut MessageTransporter<C>,
    path: impl AsRef<Path>,
) -> Result<Report> {
    SendOptions::new().send_dir(to, path)
}

/// Receives a file to `path`, whatever its sender calls it.
///
/// Until it is complete it is `NAME.part` beside it, with a checkpoint
/// `NAME.part.check`. They stay after an error, for the next attempt.
///
/// # Errors
///
/// - [`FileExists`](crate::ErrorCode::FileExists): something else is there, or
///   has the name of the part.
/// - [`Busy`](crate::ErrorCode::Busy): another transfer is receiving it. Try again:
///   [one that is cut off](self#what-can-be-relied-on) is in the way for a while.
/// - [`StorageFull`](crate::ErrorCode::StorageFull): make room and try again.
/// - [`SourceChanged`](crate::ErrorCode::SourceChanged),
///   [`Aborted`](crate::ErrorCode::Aborted): the sender could not go on.
/// - [`ChecksumMismatch`](crate::ErrorCode::ChecksumMismatch): the whole does
///   not have the hash that it should have. The next attempt finds out where.
/// - Those of the files and of the transporter.
pub fn receive_file<C: Read + Write>(
    from: &mut MessageTransporter<C>,
    path: impl AsRef<Path>,
) -> Result<Report> {
    ReceiveOptions::new().receive_file(from, path)
}

/// Receives a file, or a directory and all that is in it, into the directory
/// `dir`, under the name that the sender gives it.
///
/// # Errors
///
/// As [`receive_file`], and
/// [`InvalidName`](crate::ErrorCode::InvalidName) if the sender's name is none
/// for a file here, or one of a part.
///
/// A sender that has left between two files is
/// [`ConnectionClosed`](crate::ErrorCode::ConnectionClosed): with that a loop of calls ends.
pub fn receive_into_dir<C: Read + Write>(
    from: &mut MessageTransporter<C>,
    dir: impl AsRef<Path>,
) -> Result<Report> {
    ReceiveOptions::new().receive_into_dir(from, dir)
}
