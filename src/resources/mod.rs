//! Floor 0: what is lent and given back.

pub(crate) mod buffers;
pub(crate) mod rate;
