//! The event loops of a host: each link belongs to one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::reactor::{self, Handle};
use crate::error::Result;

pub(crate) struct Reactors {
    handles: Vec<Arc<Handle>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
}

impl Reactors {
    /// Starts `count` of them, at least one.
    pub(crate) fn start(count: usize) -> Result<Reactors> {
        let mut reactors =
            Reactors { handles: Vec::new(), threads: Mutex::default(), next: AtomicUsize::new(0) };
        for i in 0..count.max(1) {
            let name = if i == 0 { "pointsub".into() } else { format!("pointsub-{i}") };
            // Dropped on failure, it ends those that run.
            let (handle, thread) = reactor::start(name)?;
            reactors.handles.push(handle);
            reactors.threads.get_mut().push(thread);
        }
        Ok(reactors)
    }

    /// The one that does the host's chores.
    pub(crate) fn first(&self) -> &Arc<Handle> {
        &self.handles[0]
    }

    /// The one for the next link: they take turns.
    pub(crate) fn next(&self) -> Arc<Handle> {
        let turn = self.next.fetch_add(1, Relaxed);
        self.handles[turn % self.handles.len()].clone()
    }

    /// Ends their threads and waits for them.
    pub(crate) fn stop(&self) {
        self.handles.iter().for_each(|handle| handle.stop());
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        // Those that were stopped take no more errands.
        self.handles.iter().for_each(|handle| handle.stop());
    }
}
