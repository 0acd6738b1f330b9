//! An identity that outlives the process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use libp2p_identity::Keypair;

use crate::error::{Error, ErrorCode, Result};

/// Reads the key in `path`, or makes one and keeps it there, readable by nobody else.
pub(crate) fn load_or_create(path: &Path) -> Result<Keypair> {
    match File::open(path) {
        Ok(file) => load(file, path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(path),
        Err(e) => Err(about(path, "cannot be opened", e)),
    }
}

fn load(file: File, path: &Path) -> Result<Keypair> {
    check_private(&file, path)?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(|e| about(path, "cannot be read", e))?;
    Keypair::from_protobuf_encoding(&bytes).map_err(|e| {
        let what = format!("the key file {} holds no libp2p private key", path.display());
        Error::with_source(ErrorCode::InvalidInput, what, e)
    })
}

fn create(path: &Path) -> Result<Keypair> {
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair
        .to_protobuf_encoding()
        .map_err(|e| Error::with_source(ErrorCode::Io, "a fresh key cannot be encoded", e))?;
    // Written beside and linked into place: who reads it meanwhile finds it whole,
    // and of two that make it at once one wins and both use its key. Its name until then
    // is its own, like the key: what others left behind is not in the way.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", keypair.public().to_peer_id()));
    let fresh = path.with_file_name(name);
    let written = write_private(&fresh, &bytes).and_then(|()| std::fs::hard_link(&fresh, path));
    let _ = std::fs::remove_file(&fresh);
    match written {
        Ok(()) => Ok(keypair),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            load(File::open(path).map_err(|e| about(path, "cannot be opened", e))?, path)
        }
        Err(e) => Err(about(path, "cannot be written", e)
            .advise("see that its directory is there, and that this user may write to it")),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Refuses a key that others can read.
fn check_private(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().map_err(|e| about(path, "cannot be read", e))?;
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
    if mode & 0o077 != 0 {
        let what = format!("others can read the key file {} (mode {mode:o})", path.display());
        return Err(
            Error::new(ErrorCode::Rejected, what).advise("make it private with `chmod 600`")
        );
    }
    Ok(())
}

fn about(path: &Path, what: &str, e: std::io::Error) -> Error {
    let what = format!("the key file {} {what}: {e}", path.display());
    Error::from(e).describe(what)
}

/// The largest private key there is, RSA of 4,096 bits, takes less.
const MOST: u64 = 16 * 1024;
