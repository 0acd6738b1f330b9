//! The inbound half of a connection.

use std::sync::Arc;

use super::flow::Flow;
use super::frame::{Flags, Header, Kind, Role, SESSION, StreamId, unknown, violation};
use super::records::{Body, Records};
use super::streams::Streams;
use super::window::MAX_WINDOW;
use crate::error::{Error, Result};
use crate::proto::buf::RecvBuf;
use crate::proto::noise::Opener;

/// Turns the bytes that a peer sends into events, for streams that carry
/// whatever their owner attaches to them.
pub(crate) struct Rx<S> {
    records: Records,
    role: Role,
    streams: Streams<Entry<S>>,
    frame: Frame,
    unwanted: Recent,
    /// The highest id that was there, of either side.
    newest: [StreamId; 2],
    /// Frames without effect that may still come for those that went.
    late: u32,
    /// Bytes that they were allowed to send and had not sent as they went.
    on_the_way: u64,
    /// The peer may tell how much of a stream it has received.
    receipts: bool,
    frames: u64,
    /// Those of them that carried nothing and changed nothing.
    idle: u64,
    /// Why there will be no more events.
    failed: Option<Error>,
}

/// One thing that the peer did.
pub(crate) enum Event<'a, S> {
    /// It opened a stream. The owner inserts it before the next poll, or leaves
    /// it out and answers with a reset; what else its first frame said is then
    /// discarded.
    Opened { id: StreamId, flow: Arc<Flow> },
    /// It acknowledged a stream of ours. Told once.
    Acked { stream: &'a S },
    /// The next bytes of a stream.
    Data { stream: &'a S, body: Body<'a> },
    /// It will send no more. Told once.
    Fin { stream: &'a S },
    /// It gave the stream up, with a code that is 0 where it gave no reason.
    /// Told once; what comes behind it is as for a stream that is not there.
    Reset { stream: &'a S, code: u32 },
    /// It lets us send more.
    Credit { stream: &'a S },
    /// So much of a resumable stream has reached it, as the low 32 bits of the count.
    Received { stream: &'a S, received: u32 },
    /// It waits for a pong of this value.
    Ping(u32),
    /// It answered a ping of this value.
    Pong(u32),
    /// It ends the connection, for this reason.
    GoAway(u32),
    /// It sends to a stream that is not there. What it sends is discarded; the
    /// owner answers with a reset. Told once per frame at most, and not again
    /// for a stream that was among the last few told.
    Unwanted {
        id: StreamId,
        /// It was there once: what was on its way as it went.
        was_there: bool,
    },
}

impl<S> Rx<S> {
    /// Reads what `opener` opens. `leftover` is plaintext that came before it:
    /// what stood behind the upgrade's last line in the same Noise frame.
    pub(crate) fn new(opener: Opener, role: Role, leftover: Vec<u8>) -> Rx<S> {
        Rx {
            records: Records::new(opener, leftover),
            role,
            streams: Streams::new(),
            frame: Frame::default(),
            unwanted: Recent::default(),
            newest: [0; 2],
            late: 0,
            on_the_way: 0,
            receipts: false,
            frames: 0,
            idle: 0,
            failed: None,
        }
    }

    /// Both ends resume streams: the frames that tell what was received are taken
    /// from now on. Before, they end the connection as any unknown type does.
    pub(crate) fn take_receipts(&mut self) {
        self.receipts = true;
    }

    /// The next event in `buf`, which holds Noise frames as they came, in the
    /// same buffer at every call; None: more bytes are needed. What an event
    /// lends is consumed by the next poll.
    ///
    /// # Errors
    ///
    /// `ProtocolViolation` and `DecryptFailed` end the connection: the same
    /// error is returned by every later poll.
    pub(crate) fn poll<'a>(&'a mut self, buf: &'a mut RecvBuf) -> Result<Option<Event<'a, S>>> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        match self.step(buf) {
            Ok(Some(step)) => Ok(Some(self.event(step, buf))),
            Ok(None) => Ok(None),
            Err(e) => {
                self.failed = Some(e.clone());
                Err(e)
            }
        }
    }

    /// Adds a stream: of ours before its SYN is written, of the peer's when it
    /// was opened.
    pub(crate) fn insert(&mut self, id: StreamId, flow: Arc<Flow>, stream: S) {
        self.unwanted.forget(id);
        let newest = &mut self.newest[(id & 1) as usize];
        *newest = id.max(*newest);
        self.streams.insert(id, Entry { flow, stream, acked: false, fin: false, reset: false });
    }

    /// Takes a stream out. What still comes for it is discarded.
    pub(crate) fn remove(&mut self, id: StreamId) -> Option<S> {
        let entry = self.streams.remove(id)?;
        self.late = self.late.saturating_add(2);
        self.on_the_way = self.on_the_way.saturating_add(entry.flow.allowance());
        Some(entry.stream)
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&S> {
        self.streams.get(id).map(|entry| &entry.stream)
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (StreamId, &S)> {
        self.streams.iter().map(|(id, entry)| (id, &entry.stream))
    }

    /// How many frames have come, those that led to no event included.
    #[cfg(test)]
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// How many of them carried nothing and changed nothing: they cost the peer
    /// twelve bytes each. Bytes for a stream that is gone are not among them.
    pub(crate) fn idle_frames(&self) -> u64 {
        self.idle
    }

    fn step(&mut self, buf: &mut RecvBuf) -> Result<Option<Step>> {
        self.records.settle(buf)?;
        loop {
            if self.frame.is_open() {
                match self.rest(buf)? {
                    Rest::Step(step) => {
                        self.frame.idle = false;
                        return Ok(Some(step));
                    }
                    Rest::Starved => return Ok(None),
                    Rest::Done => {
                        let idle = self.frame.idle && !self.comes_late();
                        self.idle += u64::from(idle);
                        self.frame = Frame::default();
                    }
                }
            }
            let Some(header) = self.records.header(buf)? else { return Ok(None) };
            self.frames += 1;
            if let Some(step) = self.begin(Header::decode(&header)?)? {
                return Ok(Some(step));
            }
            self.idle += u64::from(!self.frame.is_open());
        }
    }

    /// Validates a frame by its header, before any of it takes effect. What it
    /// says of a stream is left to `rest`.
    fn begin(&mut self, header: Header) -> Result<Option<Step>> {
        let of_session = matches!(header.kind, Kind::Ping | Kind::GoAway);
        if of_session != (header.id == SESSION) {
            return Err(violation("a frame for the connection on a stream, or the reverse"));
        }
        match header.kind {
            Kind::Ping => match (header.flags.has(Flags::SYN), header.flags.has(Flags::ACK)) {
                (true, false) => Ok(Some(Step::Ping(header.length))),
                (false, true) => Ok(Some(Step::Pong(header.length))),
                _ => Err(violation("a ping that is neither asked nor answered")),
            },
            Kind::GoAway => Ok(Some(Step::GoAway(header.length))),
            Kind::Data if header.length > MAX_WINDOW => {
                Err(violation("DATA longer than any window"))
            }
            Kind::Received if !self.receipts => Err(unknown(header.kind as u8)),
            Kind::Received => Ok(self.received(header)),
            Kind::Data | Kind::WindowUpdate if header.flags.has(Flags::SYN) => self.open(header),
            Kind::Data | Kind::WindowUpdate => self.go_on(header).map(|()| None),
        }
    }

    /// Whether the frame at hand is for a stream that went while it was on its way: of each,
    /// its end and a window update may be.
    fn comes_late(&mut self) -> bool {
        let id = self.frame.id;
        let late =
            self.late > 0 && id <= self.newest[(id & 1) as usize] && !self.streams.contains(id);
        self.late -= u32::from(late);
        late
    }

    /// A frame that opens a stream.
    fn open(&mut self, header: Header) -> Result<Option<Step>> {
        let Header { id, length, .. } = header;
        if !self.role.peer().opens(id) {
            return Err(violation("a SYN with an id that is not the peer's to open"));
        }
        if self.streams.contains(id) {
            return Err(violation("a SYN for a stream that is open"));
        }
        let flow = Flow::new();
        if header.kind == Kind::Data {
            // More than 256 KiB is more than a stream starts with.
            flow.announce(length)?;
        } else if !header.flags.has(Flags::RST) {
            flow.add_credit(length)?;
        }
        self.frame = Frame::new(header);
        self.frame.take_credit();
        self.frame.due.take(Flags::ACK);
        Ok(Some(Step::Opened { id, flow }))
    }

    /// A receipt. One for a stream that is not there comes too late and says nothing.
    fn received(&self, header: Header) -> Option<Step> {
        let entry = self.streams.get(header.id)?;
        (!entry.reset).then_some(Step::Received(header.id, header.length))
    }

    /// A frame of a stream that is open already, or that is not there.
    fn go_on(&mut self, header: Header) -> Result<()> {
        self.frame = Frame::new(header);
        let Some(entry) = self.streams.get_mut(header.id).filter(|entry| !entry.reset) else {
            return Ok(());
        };
        match header.kind {
            Kind::Data if header.length > 0 => {
                if entry.fin {
                    return Err(violation("DATA behind a FIN"));
                }
                entry.flow.announce(header.length)
            }
            Kind::WindowUpdate if !header.flags.has(Flags::RST) => {
                entry.flow.add_credit(header.length)
            }
            _ => Ok(()),
        }
    }

    /// The next that the frame at hand says: what opens first, then its body,
    /// then what ends.
    fn rest(&mut self, buf: &mut RecvBuf) -> Result<Rest> {
        let frame = &mut self.frame;
        let id = frame.id;
        let Some(entry) = self.streams.get_mut(id).filter(|entry| !entry.reset) else {
            return self.discard(buf);
        };
        frame.tell_unwanted = true;
        let ours = self.role.opens(id);
        if frame.due.take(Flags::ACK) && ours && !std::mem::replace(&mut entry.acked, true) {
            return Ok(Rest::Step(Step::Acked(id)));
        }
        if frame.take_credit() {
            return Ok(Rest::Step(Step::Credit(id)));
        }
        if frame.body > 0 {
            let Some(n) = self.records.piece(buf, frame.body)? else { return Ok(Rest::Starved) };
            frame.take_body(n);
            return Ok(Rest::Step(Step::Data(id)));
        }
        if frame.due.take(Flags::FIN) && !std::mem::replace(&mut entry.fin, true) {
            return Ok(Rest::Step(Step::Fin(id)));
        }
        if frame.due.take(Flags::RST) {
            entry.reset = true;
            return Ok(Rest::Step(Step::Reset(id, frame.code)));
        }
        Ok(Rest::Done)
    }

    /// The same for a stream that is not there.
    fn discard(&mut self, buf: &mut RecvBuf) -> Result<Rest> {
        let frame = &mut self.frame;
        frame.due = Flags::NONE;
        frame.take_credit();
        let tell = frame.body > 0 && std::mem::replace(&mut frame.tell_unwanted, false);
        if tell && self.unwanted.insert(frame.id) {
            let (id, body) = (frame.id, u64::from(frame.body));
            // More than they were allowed to send was not on its way.
            let was_there = id <= self.newest[(id & 1) as usize] && body <= self.on_the_way;
            self.on_the_way -= if was_there { body } else { 0 };
            return Ok(Rest::Step(Step::Unwanted { id, was_there }));
        }
        while frame.body > 0 {
            let Some(n) = self.records.piece(buf, frame.body)? else { return Ok(Rest::Starved) };
            frame.take_body(n);
            self.records.settle(buf)?;
        }
        Ok(Rest::Done)
    }

    /// Lends the event what it borrows.
    fn event<'a>(&'a mut self, step: Step, buf: &'a mut RecvBuf) -> Event<'a, S> {
        let streams = &self.streams;
        let stream = |id| &streams.get(id).expect("rest has just found this stream").stream;
        match step {
            Step::Opened { id, flow } => Event::Opened { id, flow },
            Step::Acked(id) => Event::Acked { stream: stream(id) },
            Step::Data(id) => Event::Data { stream: stream(id), body: self.records.body(buf) },
            Step::Fin(id) => Event::Fin { stream: stream(id) },
            Step::Reset(id, code) => Event::Reset { stream: stream(id), code },
            Step::Credit(id) => Event::Credit { stream: stream(id) },
            Step::Received(id, received) => Event::Received { stream: stream(id), received },
            Step::Ping(value) => Event::Ping(value),
            Step::Pong(value) => Event::Pong(value),
            Step::GoAway(code) => Event::GoAway(code),
            Step::Unwanted { id, was_there } => Event::Unwanted { id, was_there },
        }
    }
}

struct Entry<S> {
    flow: Arc<Flow>,
    stream: S,
    acked: bool,
    fin: bool,
    reset: bool,
}

/// An event without what it borrows.
enum Step {
    Opened { id: StreamId, flow: Arc<Flow> },
    Acked(StreamId),
    Data(StreamId),
    Fin(StreamId),
    Reset(StreamId, u32),
    Credit(StreamId),
    Received(StreamId, u32),
    Ping(u32),
    Pong(u32),
    GoAway(u32),
    Unwanted { id: StreamId, was_there: bool },
}

/// What became of the frame at hand.
enum Rest {
    Step(Step),
    /// More of its body must arrive.
    Starved,
    Done,
}

/// The frame at hand: what of it was not told yet.
#[derive(Default)]
struct Frame {
    id: StreamId,
    due: Flags,
    credit: bool,
    code: u32,
    body: u32,
    /// Whether its stream's absence is to be told. Not of a stream that this frame
    /// opens and that is then refused: that is answered already.
    tell_unwanted: bool,
    /// It has led to no event and brought no byte so far.
    idle: bool,
}

impl Frame {
    fn new(header: Header) -> Frame {
        let is_data = header.kind == Kind::Data;
        let is_reset = header.flags.has(Flags::RST);
        let mut due = header.flags;
        let opens = due.take(Flags::SYN);
        Frame {
            id: header.id,
            due,
            credit: !is_data && !is_reset && header.length > 0,
            code: if !is_data && is_reset { header.length } else { 0 },
            body: if is_data { header.length } else { 0 },
            tell_unwanted: !opens,
            idle: !(opens || is_data && header.length > 0),
        }
    }

    fn is_open(&self) -> bool {
        self.body > 0 || self.credit || !self.due.is_empty()
    }

    fn take_credit(&mut self) -> bool {
        std::mem::replace(&mut self.credit, false)
    }

    fn take_body(&mut self, n: usize) {
        let n =
            u32::try_from(n).expect("a piece is no longer than the body, whose length is a u32");
        self.body -= n;
    }
}

/// The last few streams that were told unwanted: what was on its way when the
/// peer was told is no reason to tell it again.
#[derive(Default)]
struct Recent {
    ids: [StreamId; 16],
    next: usize,
}

impl Recent {
    /// False if it was there already.
    fn insert(&mut self, id: StreamId) -> bool {
        if self.ids.contains(&id) {
            return false;
        }
        self.ids[self.next] = id;
        self.next = (self.next + 1) % self.ids.len();
        true
    }

    fn forget(&mut self, id: StreamId) {
        for slot in &mut self.ids {
            if *slot == id {
                *slot = SESSION;
            }
        }
    }
}
