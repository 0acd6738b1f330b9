//! A time limit for tests that block.

use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Runs `test`. If it is still running after `seconds`, the process ends with a
/// message: a thread that blocks cannot be stopped from outside.
pub fn within<T>(seconds: u64, test: impl FnOnce() -> T) -> T {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, running) = mpsc::channel::<()>();
    thread::spawn(move || {
        if running.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name}: not done after {seconds} s, giving up");
            process::abort();
        }
    });
    let result = test();
    drop(done);
    result
}
