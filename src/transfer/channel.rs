//! The transporter, seen as a conversation about files that is watched and
//! steered.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::message::{MessageTransporter, Pilot, Wish};
use crate::transfer::farewell::{Farewell, Leftovers, MOST_SILENCE};
use crate::transfer::progress::{TransferHandle, Watch};
use crate::transfer::tenure::Tenure;
use crate::transfer::wire::{Body, Failure, MAX_MESSAGE};

/// One side of the conversation about one transfer.
pub(crate) struct Channel<'a, C> {
    transporter: &'a mut MessageTransporter<C>,
    watch: Watch,
    tenure: Arc<Tenure>,
    /// Something was said, or has begun to come: the peer knows of the transfer.
    begun: bool,
    /// The conn, or what came over it, can be used no more.
    broken: bool,
    /// The peer said that it gave up.
    heard: bool,
}

impl<'a, C: Read + Write> Channel<'a, C> {
    pub(crate) fn new(
        transporter: &'a mut MessageTransporter<C>,
        handle: &TransferHandle,
        total: Option<u64>,
    ) -> Channel<'a, C> {
        let watch = Watch::begin(handle, total);
        let tenure = Tenure::new(transporter.remote());
        Channel { transporter, watch, tenure, begun: false, broken: false, heard: false }
    }

    /// Ends the transfer; if it failed, with the peer's knowledge.
    pub(crate) fn end<T>(mut self, outcome: Result<T>) -> Result<T> {
        let outcome = outcome.map_err(|e| self.give_up(e));
        self.watch.finish(outcome)
    }

    pub(crate) fn say(&mut self, body: Body) -> Result<()> {
        self.begun = true;
        let outcome = self.transporter.send(&body.into_bytes());
        self.note(outcome)
    }

    /// The next message. If the peer says why it gave up, that is the error.
    pub(crate) fn hear(&mut self) -> Result<Body> {
        let mut message = Bounded(Vec::new());
        let outcome = if self.tenure.is_at_work() || self.watch.is_steered() {
            let (watch, tenure) = (&self.watch, &*self.tenure);
            let mut listening = Listening { watch, tenure, begun: &mut self.begun };
            self.transporter.receive_stream_piloted(&mut listening, &mut message)
        } else {
            // Nobody could call it off: that costs nothing while nothing comes.
            self.begun = true;
            self.transporter.receive_stream(&mut message)
        };
        self.stay()?;
        self.note(outcome)?;
        match Body::from_bytes(&message.0)? {
            Body::Failure(failure) => {
                self.heard = true;
                Err(failure.into())
            }
            body => Ok(body),
        }
    }

    /// Sends content. If `reader` fails, the receiver is told.
    pub(crate) fn send_content(&mut self, reader: &mut dyn Read, tally: &Tally) -> Result<u64> {
        let mut reader = Watched { inner: reader, failed: None };
        let mut pilot = Counting { watch: &mut self.watch, tenure: &self.tenure, tally };
        let outcome = self.transporter.send_stream_piloted(&mut pilot, &mut reader);
        self.watch.passes(tally.passed.take());
        match (reader.failed, outcome) {
            (Some(e), _) => Err(e),
            // What it was is what the receiver says next.
            (None, Err(e)) if e.context("receiver_error").is_some() => self.hear().and(Err(e)),
            (None, outcome) => self.note(outcome),
        }
    }

    /// Receives content. If `writer` fails, what is left of it is read and
    /// thrown away by whatever is heard next.
    pub(crate) fn receive_content(&mut self, writer: &mut dyn Write, tally: &Tally) -> Result<u64> {
        let mut writer = Watched { inner: writer, failed: None };
        let mut pilot = Counting { watch: &mut self.watch, tenure: &self.tenure, tally };
        let outcome = self.transporter.receive_stream_piloted(&mut pilot, &mut writer);
        self.watch.passes(tally.passed.take());
        self.stay()?;
        match (writer.failed, outcome) {
            (Some(e), _) => Err(e),
            (None, outcome) => self.note(outcome),
        }
    }

    /// The right to work on a part that it may take.
    pub(crate) fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Goes on unless the next attempt has taken over.
    fn stay(&mut self) -> Result<()> {
        if !self.tenure.yields() {
            return Ok(());
        }
        self.broken = true;
        let what = "the connection was lost, and the peer has begun another attempt";
        Err(Error::new(ErrorCode::ConnectionReset, what))
    }

    /// So many bytes are where they should be without having moved.
    pub(crate) fn passes(&mut self, bytes: u64) {
        self.watch.passes(bytes);
    }

    /// How much there will be.
    pub(crate) fn expects(&mut self, total: u64) {
        self.watch.expects(total);
    }

    /// Waits while this end wants a pause.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.watch.check()
    }

    /// Ends the conversation before its time: says why, and reads on until the
    /// peer has said so as well. Then nothing of it is left on the conn. A peer
    /// that does not, in its time, is left to itself.
    fn give_up(&mut self, e: Error) -> Error {
        if self.broken || !self.begun {
            // Whoever cannot be told finds the conn closed; or has nothing to be told of.
            return e;
        }
        let mut farewell = Farewell::new(&self.watch);
        let failure = Body::Failure(Failure::from(&e)).into_bytes();
        let found = self.transporter.swap_read_limit(|found| {
            Some(found.map_or(MOST_SILENCE, |found: Duration| found.min(MOST_SILENCE)))
        });
        self.broken = self.transporter.send_piloted(&mut farewell, &failure).is_err();
        let mut leftovers = Leftovers::new();
        while !self.heard && !self.broken {
            leftovers.beginning.clear();
            let outcome = self.transporter.receive_stream_piloted(&mut farewell, &mut leftovers);
            self.broken = farewell.is_over() || leftovers.is_over();
            match outcome {
                Ok(_) => {
                    let body = Body::from_bytes(&leftovers.beginning);
                    self.heard = matches!(body, Ok(Body::Failure(_)));
                }
                Err(e) => self.broken |= !is_orderly(&e),
            }
        }
        if let Ok(found) = found {
            // A transport that cannot take it back will say so when it is used.
            let _ = self.transporter.swap_read_limit(|_| found);
        }
        if self.heard { e } else { e.with_context("unanswered", true) }
    }

    fn note<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.broken |= outcome.as_ref().is_err_and(|e| !is_orderly(e));
        outcome
    }
}

/// Whether the conn is good for another message after it.
fn is_orderly(e: &Error) -> bool {
    matches!(e.code(), ErrorCode::Aborted | ErrorCode::Cancelled)
}

/// How what moves differs from content: by what stands around it, and by what
/// is passed over because it is there.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) around: Cell<u64>,
    pub(crate) passed: Cell<u64>,
}

impl Tally {
    pub(crate) fn add(cell: &Cell<u64>, bytes: u64) {
        cell.set(cell.get().saturating_add(bytes));
    }
}

/// Steers as the handle says, and counts content only.
struct Counting<'a> {
    watch: &'a mut Watch,
    tenure: &'a Tenure,
    tally: &'a Tally,
}

impl Pilot for Counting<'_> {
    fn wish(&self) -> Wish {
        if self.tenure.yields() { Wish::Leave } else { self.watch.wish() }
    }

    fn rest(&self, most: Duration) {
        self.watch.rest(most);
    }

    fn goes(&mut self) {
        self.watch.goes();
    }

    fn moved(&mut self, bytes: u64) {
        let around = self.tally.around.get().min(bytes);
        self.tally.around.set(self.tally.around.get() - around);
        self.watch.moved(bytes - around);
    }

    fn pauses(&mut self) {
        self.watch.pauses();
    }

    fn resumes(&mut self) {
        self.watch.resumes();
    }

    fn is_cut_off(&mut self) {
        self.tenure.is_cut_off();
    }

    fn waits(&mut self, still: Duration) {
        self.watch.waits(still);
    }
}

/// Waits for a message, unless the transfer is called off here, or the next attempt takes
/// over meanwhile.
struct Listening<'a> {
    watch: &'a Watch,
    tenure: &'a Tenure,
    begun: &'a mut bool,
}

impl Pilot for Listening<'_> {
    fn wish(&self) -> Wish {
        match self.watch.wish() {
            // The conn is cut off: nobody is there to be told.
            _ if self.tenure.yields() => Wish::Leave,
            Wish::Cancel => Wish::Cancel,
            _ => Wish::Go,
        }
    }

    fn rest(&self, most: Duration) {
        self.watch.rest(most);
    }

    fn goes(&mut self) {
        *self.begun = true;
    }

    fn is_cut_off(&mut self) {
        self.tenure.is_cut_off();
    }
}

/// Gathers a message that must not be long.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_MESSAGE {
            let what = format!("a message about files above {MAX_MESSAGE} bytes");
            return Err(Error::new(ErrorCode::MessageTooLarge, what).into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the error of a reader or writer as it was.
struct Watched<T> {
    inner: T,
    failed: Option<Error>,
}

impl<T> Watched<T> {
    fn watch<V>(&mut self, outcome: io::Result<V>) -> io::Result<V> {
        outcome.inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(duplicate(e));
            }
        })
    }
}

impl Read for Watched<&mut dyn Read> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.inner.read(buffer);
        self.watch(outcome)
    }
}

impl Write for Watched<&mut dyn Write> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.inner.write(bytes);
        self.watch(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn duplicate(e: &io::Error) -> Error {
    match (e.get_ref().and_then(|e| e.downcast_ref::<Error>()), e.raw_os_error()) {
        (Some(ours), _) => ours.clone(),
        (None, Some(code)) => io::Error::from_raw_os_error(code).into(),
        (None, None) => io::Error::new(e.kind(), e.to_string()).into(),
    }
}
