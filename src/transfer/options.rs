//! Options of both sides.

use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, ErrorCode, Result};
use crate::message::MessageTransporter;
use crate::transfer::progress::TransferHandle;
use crate::transfer::report::Report;
use crate::transfer::{receive, send, tree};

/// How files are sent; in the manner of [`std::fs::OpenOptions`].
///
/// Compression, a rate limit and the like are options of the
/// [transporter](MessageTransporter::builder).
#[derive(Clone, Debug)]
pub struct SendOptions {
    pub(crate) block_size: u64,
    pub(crate) verify: bool,
    handle: Option<TransferHandle>,
}

impl SendOptions {
    /// The defaults.
    pub fn new() -> SendOptions {
        SendOptions { block_size: 1 << 20, verify: true, handle: None }
    }

    /// How large the blocks are from which an interrupted transfer goes on: a
    /// power of two (any other number is rounded up) from 64 KiB to 1 GiB.
    /// Default: 1 MiB. Files above 16,384 such blocks have larger ones.
    #[must_use]
    pub fn block_size(mut self, bytes: u64) -> SendOptions {
        self.block_size = bytes.clamp(1 << 16, 1 << 30);
        self
    }

    /// Whether a file that goes on is read from its beginning and compared with
    /// what the receiver has. Default: yes. Without it, and only where the
    /// receiver does without as well, its checkpoint is believed as long as the
    /// file's size, times and place on the disk are the same as then: huge
    /// files go on at once, and what damaged the part in between goes unnoticed.
    /// Of a directory everything is compared.
    #[must_use]
    pub fn verify(mut self, on: bool) -> SendOptions {
        self.verify = on;
        self
    }

    /// Who watches and steers the transfer: one handle for each. Default: nobody
    /// on this side. The other side can steer as well if both transporters have
    /// [`control`](crate::message::MessageTransporterBuilder::control).
    #[must_use]
    pub fn handle(mut self, handle: &TransferHandle) -> SendOptions {
        self.handle = Some(handle.clone());
        self
    }

    /// Sends a file; see [`send_file`](crate::transfer::send_file).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_file<C: Read + Write>(
        &self,
        to: &mut MessageTransporter<C>,
        path: impl AsRef<Path>,
    ) -> Result<Report> {
        send::file(to, path.as_ref(), self).map_err(|e| e.at("send_file"))
    }

    /// Sends a directory; see [`send_dir`](crate::transfer::send_dir).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_dir<C: Read + Write>(
        &self,
        to: &mut MessageTransporter<C>,
        path: impl AsRef<Path>,
    ) -> Result<Report> {
        tree::send(to, path.as_ref(), self).map_err(|e| e.at("send_dir"))
    }

    /// The handle that was given, or one that nobody has.
    pub(crate) fn steered_by(&self) -> TransferHandle {
        self.handle.clone().unwrap_or_default()
    }

    /// Whether somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.handle.is_some()
    }
}

impl Default for SendOptions {
    fn default() -> SendOptions {
        SendOptions::new()
    }
}

/// How files are received; in the manner of [`std::fs::OpenOptions`].
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    pub(crate) overwrite: bool,
    pub(crate) verify: bool,
    pub(crate) max_size: u64,
    pub(crate) outside_links: bool,
    pub(crate) discard_cancelled: bool,
    handle: Option<TransferHandle>,
}

impl ReceiveOptions {
    /// The defaults.
    pub fn new() -> ReceiveOptions {
        ReceiveOptions {
            overwrite: false,
            verify: true,
            max_size: u64::MAX,
            outside_links: false,
            discard_cancelled: false,
            handle: None,
        }
    }

    /// Whether files that are there already are replaced, in one step and only
    /// once the new ones are complete. Default: no. A file that is the same
    /// already needs no permission; a directory, a device and the like are
    /// never replaced by a file. Directories that are there already are joined by
    /// what comes; they get the sender's permissions and times only with this.
    #[must_use]
    pub fn overwrite(mut self, on: bool) -> ReceiveOptions {
        self.overwrite = on;
        self
    }

    /// Whether what an earlier attempt left behind is read and checked before
    /// the transfer goes on. Default: yes. Without it, and only where the sender
    /// does without as well, the checkpoint is believed, and what damaged the part
    /// in between goes unnoticed; what is not claimed is read all the same. Of a
    /// directory everything is read.
    #[must_use]
    pub fn verify(mut self, on: bool) -> ReceiveOptions {
        self.verify = on;
        self
    }

    /// The largest file, or the largest sum of all files of a directory, that
    /// is received. Default: no limit.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> ReceiveOptions {
        self.max_size = bytes;
        self
    }

    /// Whether what has arrived is removed if either side cancels the transfer.
    /// Default: no; it can be gone on with.
    #[must_use]
    pub fn discard_cancelled(mut self, on: bool) -> ReceiveOptions {
        self.discard_cancelled = on;
        self
    }

    /// Who watches and steers the transfer: one handle for each. Default: nobody
    /// on this side. The other side can steer as well if both transporters have
    /// [`control`](crate::message::MessageTransporterBuilder::control).
    #[must_use]
    pub fn handle(mut self, handle: &TransferHandle) -> ReceiveOptions {
        self.handle = Some(handle.clone());
        self
    }

    /// Whether symbolic links are made that may lead out of the directory that is
    /// received. Default: no, such a directory is refused. Nothing here follows
    /// a link, but what reads the directory later may. Links may lead up as far
    /// as its root; a `..` behind a name is refused, as it can lead anywhere.
    #[must_use]
    pub fn outside_links(mut self, on: bool) -> ReceiveOptions {
        self.outside_links = on;
        self
    }

    /// Receives a file to this very path; see
    /// [`receive_file`](crate::transfer::receive_file).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive_file<C: Read + Write>(
        &self,
        from: &mut MessageTransporter<C>,
        path: impl AsRef<Path>,
    ) -> Result<Report> {
        receive::to_path(from, path.as_ref(), self).map_err(|e| e.at("receive_file"))
    }

    /// Receives a file or a directory under the name that the sender gives it;
    /// see [`receive_into_dir`](crate::transfer::receive_into_dir).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive_into_dir<C: Read + Write>(
        &self,
        from: &mut MessageTransporter<C>,
        dir: impl AsRef<Path>,
    ) -> Result<Report> {
        receive::into_dir(from, dir.as_ref(), self).map_err(|e| e.at("receive_into_dir"))
    }

    /// Whether what has arrived is removed after this error.
    pub(crate) fn discards_after(&self, e: &Error) -> bool {
        self.discard_cancelled && e.code() == ErrorCode::Cancelled
    }

    /// The handle that was given, or one that nobody has.
    pub(crate) fn steered_by(&self) -> TransferHandle {
        self.handle.clone().unwrap_or_default()
    }
}

impl Default for ReceiveOptions {
    fn default() -> ReceiveOptions {
        ReceiveOptions::new()
    }
}
