//! One dial per peer at a time, however many threads want the connection.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::driver::{Canceller, Link, Outcome, Place, Race};
use crate::error::{Error, ErrorCode, Result};

/// A dial that is under way, shared by those who wait for it.
pub(crate) struct Dial {
    pub(crate) places: Vec<Place>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<Arc<Link>>>,
    /// Threads that wait, without the one that runs the race.
    waiting: usize,
    canceller: Option<Canceller>,
    cancelled: Option<Error>,
}

impl Dial {
    pub(crate) fn new(places: Vec<Place>) -> Dial {
        Dial { places, state: Mutex::default(), done: Condvar::new() }
    }

    /// Runs the race on this thread. When `deadline` comes first it goes on
    /// elsewhere if others wait, and ends if nobody does. `complete` makes the link
    /// of the outcome and takes the dial off the list; it is called exactly once.
    pub(crate) fn run(
        self: &Arc<Dial>,
        race: Race,
        deadline: Option<Instant>,
        complete: impl FnOnce(Outcome) -> Result<Arc<Link>> + Send + 'static,
    ) -> Result<Arc<Link>> {
        {
            let mut state = self.state.lock();
            if let Some(why) = state.cancelled.clone() {
                drop(state);
                return self.finish(complete(Outcome::Lost(why)));
            }
            state.canceller = Some(race.canceller());
        }
        let outcome = race.run(deadline);
        let Outcome::Unfinished(race) = outcome else {
            return self.finish(complete(outcome));
        };
        if self.state.lock().waiting == 0 {
            drop(race);
            return self.finish(complete(Outcome::Lost(too_late())));
        }
        let dial = self.clone();
        let thread = std::thread::Builder::new().name("pointsub-dial".into());
        let spawned = thread.spawn(move || {
            let outcome = race.run(None);
            let _ = dial.finish(complete(outcome));
        });
        match spawned {
            Ok(_) => Err(too_late()),
            Err(e) => self.finish(Err(e.into())),
        }
    }

    /// Has it fail, soon, wherever it runs.
    pub(crate) fn cancel(&self, why: Error) {
        let mut state = self.state.lock();
        if let Some(canceller) = &state.canceller {
            canceller.cancel(why.clone());
        }
        state.cancelled = Some(why);
    }

    fn finish(&self, result: Result<Arc<Link>>) -> Result<Arc<Link>> {
        self.state.lock().result = Some(result.clone());
        self.done.notify_all();
        result
    }

    /// Waits for the one who runs it.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<Arc<Link>> {
        let mut state = self.state.lock();
        state.waiting += 1;
        while state.result.is_none() {
            let late = match deadline {
                None => {
                    self.done.wait(&mut state);
                    false
                }
                Some(at) => self.done.wait_until(&mut state, at).timed_out(),
            };
            if late {
                state.waiting -= 1;
                return Err(too_late());
            }
        }
        state.waiting -= 1;
        state.result.clone().expect("the loop ends when there is a result")
    }
}

fn too_late() -> Error {
    Error::new(ErrorCode::Timeout, "the peer could not be reached in time")
}
