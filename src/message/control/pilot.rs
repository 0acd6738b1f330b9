//! Who steers a message that is under way.

use std::time::Duration;

/// Steers a message or a stream while it moves, and hears how it goes. All
/// calls are made on the thread that moves it.
pub(crate) trait Pilot {
    /// What this end wants.
    fn wish(&self) -> Wish;

    /// Sleeps until this end wants something else, at most so long.
    fn rest(&self, most: Duration);

    /// The size of what comes, once it is known.
    fn expects(&mut self, _total: u64) {}

    /// A chunk, or the end, is about to move.
    fn goes(&mut self) {}

    /// So many more bytes of content have moved.
    fn moved(&mut self, _bytes: u64) {}

    /// It stands still, because one of the ends wants that.
    fn pauses(&mut self) {}

    /// It is about to go on.
    fn resumes(&mut self) {}

    /// The transport cannot move anything for the time being, and works on it: called
    /// again and again.
    fn is_cut_off(&mut self) {}

    /// It should move, and has not for so long: called again and again.
    fn waits(&mut self, _still: Duration) {}
}

/// What one end wants of a message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Go,
    Pause,
    Cancel,
    /// To give a message that comes up, and the conn with it: the sender is not told.
    Leave,
}
