//! Properties: whatever is sent, in whatever pieces it travels, arrives.

mod support;

use std::io::Read;

use pointsub::{MessageTransporter, receive_message, receive_stream, send_message, send_stream};
use proptest::prelude::*;
use support::{Unkind, bytes};

#[derive(Clone, Debug)]
enum Act {
    Message(usize),
    Stream { size: usize, most: usize },
    Batch(Vec<usize>),
    Parts(Vec<usize>),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0usize..3000,
        2 => 60_000usize..70_000,
        1 => 100_000usize..2_500_000,
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        size().prop_map(Act::Message),
        (size(), 1usize..100_000).prop_map(|(size, most)| Act::Stream { size, most }),
        proptest::collection::vec(size(), 0..8).prop_map(Act::Batch),
        proptest::collection::vec(size(), 0..5).prop_map(Act::Parts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_arrives_as_sent(
        acts in proptest::collection::vec(act(), 1..8),
        seed: u64,
        writes in 100usize..100_000,
        reads in 100usize..100_000,
        bare: bool,
    ) {
        let mut expected = Vec::new();
        let unkind = Unkind::new(Vec::new(), seed, writes);
        let mut here = MessageTransporter::builder(unkind).checksum(!bare).build();
        for (i, act) in acts.iter().enumerate() {
            let content = |size: usize| bytes(seed ^ i as u64, size);
            match act {
                Act::Message(size) => {
                    // The free functions mix with a transporter.
                    if i % 2 == 0 {
                        here.send(&content(*size)).unwrap();
                    } else {
                        send_message(here.get_mut(), &content(*size)).unwrap();
                    }
                    expected.push(content(*size));
                }
                Act::Stream { size, most } => {
                    let content = content(*size);
                    let most = (*most).max(size / 500);
                    let mut source = Unkind::new(&content[..], seed, most);
                    if i % 2 == 0 {
                        here.send_stream(&mut source).unwrap();
                    } else {
                        send_stream(here.get_mut(), &mut source).unwrap();
                    }
                    expected.push(content);
                }
                Act::Batch(sizes) => {
                    let batch: Vec<Vec<u8>> = sizes.iter().map(|&size| content(size)).collect();
                    here.send_batch(&batch).unwrap();
                    expected.extend(batch);
                }
                Act::Parts(sizes) => {
                    let parts: Vec<Vec<u8>> = sizes.iter().map(|&size| content(size)).collect();
                    let slices: Vec<_> = parts.iter().map(|p| std::io::IoSlice::new(p)).collect();
                    here.send_vectored(&slices).unwrap();
                    expected.push(parts.concat());
                }
            }
        }
        let wire = here.into_inner().inner;
        let mut there = MessageTransporter::new(Unkind::new(&wire[..], seed, reads));
        for (i, message) in expected.iter().enumerate() {
            let mut got = Vec::new();
            match (seed as usize + i) % 4 {
                0 => got = there.receive().unwrap(),
                1 => got = receive_message(there.get_mut()).unwrap(),
                2 => prop_assert_eq!(there.receive_stream(&mut got).unwrap(), message.len() as u64),
                _ => {
                    let n = receive_stream(there.get_mut(), &mut got).unwrap();
                    prop_assert_eq!(n, message.len() as u64);
                }
            }
            prop_assert!(got == *message, "message {} of {}", i, message.len());
        }
        let mut rest = Vec::new();
        there.into_inner().read_to_end(&mut rest).unwrap();
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn no_bytes_panic_and_none_pass_for_a_message_with_a_checksum(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        // A whole message without content or checksum has only its header's
        // check, of eight bits: noise may look like one.
        if let Ok(message) = receive_message(&mut &noise[..]) {
            prop_assert!(message.is_empty() || noise[0] & 0b010 != 0);
        }
        let _ = receive_stream(&mut &noise[..], &mut Vec::new());
    }
}
