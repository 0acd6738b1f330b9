//! Dials of a peer: however many threads want the connection, no place is dialled twice
//! for nothing, and none of them waits for places that are not its own.

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
    /// Threads that wait or are about to, without the one that runs the race.
    waiting: usize,
    /// It was given up while nobody waited.
    given_up: bool,
    canceller: Option<Canceller>,
    cancelled: Option<Error>,
    /// What another dial has come to.
    reached: Option<Arc<Link>>,
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
        {
            let mut state = self.state.lock();
            if state.waiting == 0 {
                state.given_up = true;
                drop(state);
                drop(race);
                return self.finish(complete(Outcome::Lost(too_late())));
            }
        }
        // In a place of its own, from which it is taken back if no thread starts.
        let rest = Arc::new(Mutex::new(Some((race, complete))));
        let (dial, theirs) = (self.clone(), rest.clone());
        let thread = std::thread::Builder::new().name("pointsub-dial".into());
        let spawned = thread.spawn(move || {
            let job = theirs.lock().take();
            if let Some((race, complete)) = job {
                let _ = dial.finish(complete(race.run(None)));
            }
        });
        let Err(e) = spawned else { return Err(too_late()) };
        match rest.lock().take() {
            Some((_, complete)) => self.finish(complete(Outcome::Lost(Error::no_thread(e)))),
            None => Err(too_late()),
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

    /// Another one has reached the peer, which is as good.
    pub(crate) fn reach(&self, link: &Arc<Link>) {
        self.state.lock().reached = Some(link.clone());
        self.cancel(Error::new(ErrorCode::ConnectionAborted, "another dial has reached the peer"));
    }

    pub(crate) fn reached(&self) -> Option<Arc<Link>> {
        self.state.lock().reached.clone()
    }

    fn finish(&self, result: Result<Arc<Link>>) -> Result<Arc<Link>> {
        self.state.lock().result = Some(result.clone());
        self.done.notify_all();
        result
    }

    /// Announces a `wait`. Called under the lock of the list that the dial is on.
    pub(crate) fn join(&self) {
        self.state.lock().waiting += 1;
    }

    /// Waits for the one who runs it; `None`: that one gave up because its own time
    /// was over, before it knew of this thread.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<Option<Arc<Link>>> {
        let mut state = self.state.lock();
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
        if state.given_up {
            return Ok(None);
        }
        state.result.clone().expect("the loop ends when there is a result").map(Some)
    }
}

fn too_late() -> Error {
    Error::new(ErrorCode::Timeout, "the peer could not be reached in time")
}
