//! The events of a host: each connection's in their order, and an end.

mod common;

use std::thread;

use common::{dialling, within};

#[test]
fn they_end_with_their_host_whenever_they_were_subscribed_to() {
    within(60, || {
        for _ in 0..100 {
            let host = dialling();
            let early = host.subscribe();
            thread::scope(|scope| {
                scope.spawn(|| host.shutdown());
                host.subscribe().for_each(drop);
            });
            early.for_each(drop);
            assert_eq!(host.subscribe().count(), 0);
        }
    });
}
