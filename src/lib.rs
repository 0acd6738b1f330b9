//! Blocking, encrypted, multiplexed streams and messages between two keys.

mod backoff;
mod error;
pub mod message;
mod proto;
mod resources;

pub use error::{Error, ErrorCode, Result, Severity};
pub use message::{
    MessageTransporter, receive_message, receive_message_max, receive_stream, send_message,
    send_stream,
};
