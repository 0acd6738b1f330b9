//! The strategy table changes what happens: writes, bytes at once, chunks.

mod support;

use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsub::message::{
    MessageObserver, MessageSizer, Network, Pressure, SizeClass, Strategy, Switch, SwitchReason,
    Transfer,
};
use pointsub::{MessageTransporter, send_message};
use support::Counting;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The sizes of the chunks on a wire, read as the module docs describe it.
fn chunks(wire: &[u8]) -> Vec<usize> {
    let (mut wire, mut chunks) = (Cursor::new(wire), Vec::new());
    let mut head = [0; 4];
    while wire.read_exact(&mut head).is_ok() {
        let mut len = u64::from(u16::from_be_bytes([head[1], head[2]]));
        if head[0] & 0b100 != 0 {
            let mut extension = [0; 12];
            wire.read_exact(&mut extension).unwrap();
            len |= extension[2..8].iter().fold(0, |n, &b| n << 8 | u64::from(b)) << 16;
        }
        let kind = head[0] >> 3 & 0b111;
        if kind == 0 || kind == 3 {
            chunks.push(len as usize);
            wire.set_position(wire.position() + len);
        }
        let no_trailer = head[0] & 0b010 != 0 || kind == 1 || kind == 2 || (kind == 0 && len == 0);
        if !no_trailer {
            wire.set_position(wire.position() + 4);
        }
    }
    chunks
}

/// (size, chunk, bytes in flight)
const CLASSES: [(usize, usize, usize); 9] = [
    (1023, 1023, 1023),
    (1024, 1024, 1024),
    (65_535, 65_535, 65_535),
    (65_536, 64 * KIB, 256 * KIB),
    (MIB - 1, 64 * KIB, 256 * KIB),
    (MIB, 256 * KIB, MIB),
    (10 * MIB, 256 * KIB, MIB),
    (100 * MIB - 1, 256 * KIB, MIB),
    (100 * MIB, MIB, 4 * MIB),
];

#[test]
fn chunks_and_bytes_in_flight_are_those_of_the_table() {
    for (size, chunk, in_flight) in CLASSES {
        let mut wire = Counting::new(Vec::new());
        send_message(&mut wire, &vec![0; size]).unwrap();
        assert_eq!(chunks(&wire.inner).iter().max(), Some(&size.min(chunk)), "{size}");
        assert_eq!(chunks(&wire.inner).iter().sum::<usize>(), size, "{size}");
        assert_eq!(wire.writes.len(), size.div_ceil(in_flight), "writes for {size}");
        let most = *wire.writes.iter().max().unwrap();
        assert!(most >= size.min(in_flight) && most < size.min(in_flight) + 400, "{size}: {most}");
    }
}

#[test]
fn distance_and_memory_change_the_bytes_in_flight() {
    let most = |round_trip: f64, pressure| {
        let round_trip = Some(Duration::from_secs_f64(round_trip / 1000.0));
        let mut here = MessageTransporter::builder(Counting::new(Vec::new()))
            .network(move || Network { round_trip, pressure })
            .build();
        here.send(&vec![0; 20 * MIB]).unwrap();
        here.get_ref().writes.iter().max().unwrap() / KIB
    };
    assert_eq!(most(0.1, None), 512);
    assert_eq!(most(10.0, None), 1024);
    assert_eq!(most(150.0, None), 2048);
    assert_eq!(most(150.0, Some(Pressure::Low)), 3072);
    assert_eq!(most(10.0, Some(Pressure::High)), 512);
}

#[test]
fn a_sizer_of_the_users_own_is_asked() {
    struct Modest;
    impl MessageSizer for Modest {
        fn strategy(&self, size: u64) -> Strategy {
            SizeClass::of(size).min(SizeClass::Medium).strategy()
        }
    }
    let mut here = MessageTransporter::builder(Vec::new()).sizer(Modest).build();
    here.send(&vec![0; 5 * MIB]).unwrap();
    assert_eq!(chunks(here.get_ref()), [64 * KIB; 80]);
}

/// Gives as much as fits for a while, then little at a time.
struct Changing {
    full: usize,
    scant: usize,
}

impl Read for Changing {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.full > 0 {
            self.full -= 1;
            return Ok(out.len());
        }
        if self.scant > 0 {
            self.scant -= 1;
            return Ok(out.len().min(100));
        }
        Ok(0)
    }
}

#[derive(Default)]
struct Heard {
    switches: Mutex<Vec<Switch>>,
    sent: Mutex<Vec<Transfer>>,
}

impl MessageObserver for Heard {
    fn switched(&self, switch: &Switch) {
        self.switches.lock().unwrap().push(*switch);
    }

    fn sent(&self, transfer: &Transfer) {
        self.sent.lock().unwrap().push(*transfer);
    }
}

/// A link on which a large write costs as much as a small one, so that large
/// chunks pay off on any machine.
struct Costly(Vec<u8>);

impl Write for Costly {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > 10_000 {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_moves_up_and_down_and_tells_why() {
    let heard = Arc::new(Heard::default());
    let mut here = MessageTransporter::builder(Costly(Vec::new())).observer(heard.clone()).build();
    let bytes = here.send_stream(&mut Changing { full: 20, scant: 60 }).unwrap();

    let history: Vec<Switch> = here.predictor().switch_history().copied().collect();
    assert_eq!(*heard.switches.lock().unwrap(), history);
    let reasons: Vec<SwitchReason> = history.iter().map(|s| s.reason).collect();
    assert_eq!(history[0].reason, SwitchReason::Estimate);
    assert!(reasons.contains(&SwitchReason::FullChunks), "{history:?}");
    assert!(reasons.contains(&SwitchReason::ScantChunks), "{history:?}");
    assert!(history.iter().any(|s| s.to == SizeClass::Huge), "{history:?}");
    assert_eq!(here.predictor().class(), SizeClass::Tiny);
    assert!(here.predictor().rate(SizeClass::Huge) > here.predictor().rate(SizeClass::Medium));
    assert!(here.predictor().accuracy() > 0.5);

    let wire = here.get_ref().0.clone();
    let chunks = chunks(&wire);
    assert_eq!(chunks[0], 64 * KIB);
    assert!(chunks.contains(&(256 * KIB)) && chunks.contains(&MIB), "{chunks:?}");
    assert_eq!(chunks.iter().sum::<usize>() as u64, bytes);

    let sent = heard.sent.lock().unwrap();
    assert!(sent.len() == 1 && sent[0].stream && sent[0].bytes == bytes, "{sent:?}");
    assert_eq!(here.stats().sent(SizeClass::of(bytes)).messages, 1);
}

#[test]
fn a_batch_of_short_messages_goes_out_together() {
    let messages: Vec<Vec<u8>> = (0..1000).map(|i| vec![i as u8; i % 100]).collect();
    let mut here = MessageTransporter::new(Counting::new(Vec::new()));
    here.send_batch(&messages).unwrap();
    let Counting { inner: wire, writes, .. } = here.into_inner();
    assert_eq!(writes.len(), wire.len().div_ceil(64 * KIB));
    let mut there = MessageTransporter::new(&wire[..]);
    for message in &messages {
        assert_eq!(there.receive().unwrap(), *message);
    }
}
