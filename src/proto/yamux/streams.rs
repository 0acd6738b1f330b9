//! The table of a connection's streams.

use std::collections::HashMap;

use slab::Slab;

use super::frame::StreamId;

/// What is known of each stream, by its id.
///
/// The ids are the peer's to choose, so they are hashed with a secret. But a frame
/// asks for its stream several times, and the next frame is often of the same one:
/// the stream that was asked for last is found without hashing.
pub(super) struct Streams<T> {
    slots: Slab<T>,
    by_id: HashMap<StreamId, usize>,
    last: Option<(StreamId, usize)>,
}

impl<T> Streams<T> {
    pub(super) fn new() -> Streams<T> {
        Streams { slots: Slab::new(), by_id: HashMap::new(), last: None }
    }

    /// Adds a stream, in the place of the one that had its id, if any had.
    pub(super) fn insert(&mut self, id: StreamId, stream: T) {
        self.remove(id);
        self.by_id.insert(id, self.slots.insert(stream));
    }

    pub(super) fn remove(&mut self, id: StreamId) -> Option<T> {
        let slot = self.by_id.remove(&id)?;
        // The slot may be another stream's soon.
        self.last = None;
        Some(self.slots.remove(slot))
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&T> {
        self.slots.get(self.slot(id)?)
    }

    /// The same, and remembers where it was.
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut T> {
        let slot = self.slot(id)?;
        self.last = Some((id, slot));
        self.slots.get_mut(slot)
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        self.slot(id).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &T)> {
        self.by_id.iter().map(|(id, slot)| (*id, &self.slots[*slot]))
    }

    fn slot(&self, id: StreamId) -> Option<usize> {
        match self.last {
            Some((last, slot)) if last == id => Some(slot),
            _ => self.by_id.get(&id).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whatever_is_asked_in_between(
            steps in prop::collection::vec((0..4u8, 1..6u32, any::<u16>()), 0..200),
        ) {
            let (mut streams, mut model) = (Streams::new(), BTreeMap::new());
            for (what, id, value) in steps {
                match what {
                    0 => {
                        streams.insert(id, value);
                        model.insert(id, value);
                    }
                    1 => prop_assert_eq!(streams.remove(id), model.remove(&id)),
                    2 => prop_assert_eq!(streams.get_mut(id), model.get_mut(&id)),
                    _ => prop_assert_eq!(streams.get(id), model.get(&id)),
                }
                prop_assert_eq!(streams.contains(id), model.contains_key(&id));
                prop_assert_eq!(streams.len(), model.len());
            }
            let mut all: Vec<_> = streams.iter().map(|(id, value)| (id, *value)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
