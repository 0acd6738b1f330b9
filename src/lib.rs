//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod error;
mod proto;

pub use error::{Error, ErrorCode, Result};
