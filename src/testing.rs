//! What unit tests of several floors need.

use std::time::{Duration, Instant};

/// A moment to begin at, for machines whose time is an argument.
pub(crate) fn some_moment() -> Instant {
    Instant::now()
}

/// Waits until `reached`, which other threads bring about.
#[track_caller]
pub(crate) fn eventually(what: &str, reached: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
