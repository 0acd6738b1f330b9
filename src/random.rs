//! Random numbers, from the operating system.
//!
//! Not from aws-lc: before its generator gives the first one it gathers entropy of its own
//! from the jitter of the processor's clock, which takes a program tens of milliseconds.

use crate::error::{Error, ErrorCode, Result};

/// Fills `bytes`; good for keys.
///
/// # Errors
///
/// `Io`: the system has none.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::new(ErrorCode::Io, format!("the system has no random numbers: {e}")))
}
