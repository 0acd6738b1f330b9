//! Directories with all that is in them.
//!
//! What the two sides say is described in the
//! [module docs](crate::transfer#directories).

mod commit;
mod cursor;
mod receive;
mod records;
mod send;
mod stage;
mod walk;

pub(crate) use receive::receive;
pub(crate) use send::send;

use crate::transfer::wire::Entry;

fn size_of(entry: &Entry) -> u64 {
    entry.meta.as_ref().map_or(0, |meta| meta.size)
}

/// The bytes of the entries of a batch, at most. Each batch costs a round trip.
const MOST_BYTES: usize = 1 << 20;

/// How far directories may be nested: each that is on the way is held open.
const DEEPEST: usize = 200;
