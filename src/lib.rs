//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod error;
mod proto;
mod varint;

pub use error::{Error, ErrorCode, Result};
