//! Who is at work on a part, among the transfers of this process: one whose conn is
//! cut off makes room for the next attempt of the same peer.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::transfer::dir::Place;

/// The right of one transfer to work on a part.
pub(crate) struct Tenure {
    /// Who is at the other end, if that is known.
    peer: Option<String>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It works on nothing yet, or on nothing any more.
    Idle,
    AtWork,
    /// The same peer has begun another attempt.
    Wanted,
    /// It has been given up for that one.
    Yields,
}

impl Tenure {
    pub(crate) fn new(peer: Option<String>) -> Arc<Tenure> {
        Arc::new(Tenure { peer, state: Mutex::new(State::Idle) })
    }

    /// Whether somebody could want what it works on.
    pub(crate) fn is_at_work(&self) -> bool {
        *self.state.lock() != State::Idle
    }

    /// Its conn is cut off: that it may come back is no reason to keep out who is here.
    pub(crate) fn is_cut_off(&self) {
        let mut state = self.state.lock();
        if *state == State::Wanted {
            *state = State::Yields;
        }
    }

    /// Whether it has been given up.
    pub(crate) fn yields(&self) -> bool {
        *self.state.lock() == State::Yields
    }

    /// Asks for what another is at work on; whether that one gives it up.
    fn ask(&self, other: &Tenure) -> bool {
        if self.peer.is_none() || self.peer != other.peer {
            return false;
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            {
                let mut state = other.state.lock();
                match *state {
                    State::Idle | State::Yields => return true,
                    State::AtWork => *state = State::Wanted,
                    State::Wanted => {}
                }
            }
            thread::sleep(PAUSE);
        }
        let mut state = other.state.lock();
        if *state == State::Wanted {
            *state = State::AtWork;
        }
        *state != State::AtWork
    }
}

/// A transfer at work on a part. Dropped, it is no longer.
pub(crate) struct AtWork(Arc<Tenure>);

impl AtWork {
    pub(crate) fn new(place: Place, tenure: &Arc<Tenure>) -> AtWork {
        *tenure.state.lock() = State::AtWork;
        ALL.lock().push((place, Arc::clone(tenure)));
        AtWork(Arc::clone(tenure))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        ALL.lock().retain(|(_, tenure)| !Arc::ptr_eq(tenure, &self.0));
        let mut state = self.0.state.lock();
        if *state != State::Yields {
            *state = State::Idle;
        }
    }
}

/// Tries to lock what is at `place`, again and again while whoever has it is about to
/// give it up.
pub(crate) fn lock<E>(
    place: Place,
    tenure: &Tenure,
    mut try_lock: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let mut until = None;
    loop {
        if try_lock()? {
            return Ok(true);
        }
        if until.is_none() {
            let found = ALL.lock().iter().find(|(other, _)| *other == place).cloned();
            if !found.is_some_and(|(_, other)| tenure.ask(&other)) {
                // It may have ended just now.
                return try_lock();
            }
        }
        if Instant::now() > *until.get_or_insert_with(|| Instant::now() + PUTTING_AWAY) {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

/// All transfers of this process that are at work on a part.
static ALL: Mutex<Vec<(Place, Arc<Tenure>)>> = Mutex::new(Vec::new());

/// How long it may take until a conn is seen to be cut off that is looked at all the
/// time.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a transfer that is given up may sync what it has.
const PUTTING_AWAY: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_peer_takes_over_and_only_from_one_that_is_cut_off() {
        let of = |peer: &str| Tenure::new(Some(peer.to_owned()));
        let old = of("a");
        let _at_work = AtWork::new(Place::default(), &old);
        let locks = |tenure: &Tenure| {
            lock(Place::default(), tenure, || Ok::<_, ()>(old.yields())).expect("no error")
        };
        assert!(!locks(&of("b")) && !locks(&Tenure::new(None)));
        assert!(!locks(&of("a")), "it is not cut off");
        old.is_cut_off();
        assert!(!old.yields(), "nobody waits any more");
        thread::scope(|scope| {
            let next = scope.spawn(|| locks(&of("a")));
            while !old.yields() {
                old.is_cut_off();
                thread::sleep(PAUSE);
            }
            assert!(next.join().expect("it ends"));
        });
    }
}
