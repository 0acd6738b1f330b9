//! Floor 5: the face, shaped like `std::net`.

mod conn;
mod listener;
mod stats;
mod target;

pub use conn::Conn;
pub use listener::{Incoming, IntoIncoming, Listener};
pub use stats::{ConnStats, ListenerStats};
pub use target::ToPeerAddrs;
