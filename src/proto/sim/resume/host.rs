//! One host: its ends of connections, its ends of sessions, and what is said to them.

use std::time::{Duration, Instant};

use super::link::{Answer, LinkEnd, Told, Use};
use super::session::{App, Carrier, Session, echoes};
use crate::error::Result;
use crate::proto::multistream::Dialer;
use crate::proto::resume::{
    Code, End, Fate, Gone, HeadReader, Hello, Lifecycle, PROTOCOL, Role, State,
};
use crate::proto::sim::wire::Rng;
use crate::proto::yamux::{Control, Role as LinkRole, StreamId};

#[derive(Default)]
pub(super) struct Host {
    pub(super) links: Vec<LinkEnd>,
    pub(super) sessions: Vec<Session>,
    /// Links that this end has given up, which the network is to hear of.
    pub(super) killed: Vec<usize>,
    pub(super) seen: Seen,
}

/// What happened, so that it can be seen that it did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) lost: usize,
    pub(super) resumed: usize,
    pub(super) again: u64,
    pub(super) fenced: usize,
    pub(super) refused: usize,
    pub(super) expired: usize,
}

impl Host {
    /// A connection to the other host is there.
    pub(super) fn connected(&mut self, role: LinkRole) {
        self.links.push(LinkEnd::new(role));
    }

    /// Opens a session, whose Hello is said later.
    pub(super) fn open(&mut self, number: u32, wants: usize) {
        let id = u128::from(number).to_be_bytes();
        let life = Lifecycle::open(id, &format!("/{number}"), TIMEOUT);
        self.sessions.push(Session::new(life, app(number, false, wants)));
    }

    /// Says Hello for each session that is to have a carrier, on the newest link or,
    /// for once, on another; whether there was any.
    pub(super) fn hello(&mut self, any: Option<&mut Rng>) -> Result<bool> {
        let alive: Vec<usize> =
            (0..self.links.len()).filter(|&i| self.links[i].has_room()).collect();
        let link = any.map_or(alive.last().copied(), |rng| rng.pick(&alive));
        let Some(link) = link else { return Ok(false) };
        let mut any = false;
        for (i, session) in self.sessions.iter_mut().enumerate() {
            let Some(hello) = session.life.hello(&mut session.incoming) else { continue };
            self.links[link].hello(&hello, Some(i))?;
            any = true;
        }
        Ok(any)
    }

    /// Says Hello as nobody may: for a session that is not there, with an epoch that
    /// has been, or with a position that cannot be.
    pub(super) fn forge(&mut self, rng: &mut Rng) -> Result<()> {
        let openers = |s: &&Session| s.life.role() == Role::Opener;
        let mine: Vec<_> = self.sessions.iter().filter(openers).collect();
        let Some(session) = rng.pick(&mine) else { return Ok(()) };
        let mut hello = Hello {
            id: session.life.id(),
            epoch: u64::MAX,
            opening: rng.one_in(2),
            received: 0,
            window: rng.below(1 << 20) as u32,
            timeout: TIMEOUT,
            protocol: session.life.protocol().to_owned(),
        };
        match rng.below(4) {
            0 => (hello.id, hello.opening) = ([rng.below(256) as u8 | 1; 16], false),
            1 => (hello.epoch, hello.opening) = (rng.below(2) as u64, false),
            2 => hello.received = 1 << (33 + rng.below(30)),
            _ => hello.protocol.push('?'),
        }
        // What is not there cannot be harmed: it would only be made.
        hello.opening &= hello.received != 0;
        let alive: Vec<usize> =
            (0..self.links.len()).filter(|&i| self.links[i].has_room()).collect();
        match rng.pick(&alive) {
            Some(link) => self.links[link].hello(&hello, None),
            None => Ok(()),
        }
    }

    /// This end finds out that a link is lost.
    pub(super) fn lose(&mut self, link: usize, now: Instant) {
        if !std::mem::replace(&mut self.links[link].is_alive, false) {
            return;
        }
        for session in &mut self.sessions {
            if session.carrier.as_ref().is_some_and(|carrier| carrier.link == link) {
                // The last receipt counts.
                session.trim().expect("no receipt is out of range");
                session.carrier = None;
                session.life.lost(now, grace(session.life.role()));
                self.seen.lost += 1;
            }
        }
        for stream in self.links[link].streams.values() {
            if let Use::Answering { session: Some(i), .. } = stream.use_ {
                self.sessions[i].life.lost(now, grace(Role::Opener));
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for session in &mut self.sessions {
            self.seen.expired += usize::from(session.life.expire(now));
        }
    }

    /// Tells the peer what it does not know; whether there was anything.
    pub(super) fn tick(&mut self) -> bool {
        let mut any = false;
        for (i, session) in self.sessions.iter_mut().enumerate() {
            let Some(link) = session.carrier.as_ref().map(|carrier| carrier.link) else { continue };
            let due = session.incoming.due();
            any |= due.is_some();
            session.tell(due, &mut self.links[link]);
            any |= session.ask(i as u32, &mut self.links);
        }
        any
    }

    /// Hears all that has arrived on a link.
    pub(super) fn hear(&mut self, link: usize, now: Instant) -> Result<()> {
        while let Some(told) = self.links[link].next()? {
            match told {
                Told::Opened(id) => self.links[link].say(Control::Ack { id }),
                Told::Data(id, bytes) => self.data(link, id, &bytes, now)?,
                Told::Fin(id) => {
                    if let Some(session) = carried(&mut self.sessions, link, id) {
                        let due = session.incoming.fin();
                        session.tell(due, &mut self.links[link]);
                        session.trim()?;
                    }
                }
                Told::Reset(id) => {
                    if let Some(session) = carried(&mut self.sessions, link, id) {
                        session.carrier = None;
                        session.life.ended(End::Reset);
                    }
                }
                Told::Received(id, low) => {
                    if let Some(session) = carried(&mut self.sessions, link, id)
                        && let Some(carrier) = &session.carrier
                    {
                        carrier.acks.store(low);
                        session.trim()?;
                    }
                }
                Told::Ping(value) => self.links[link].say(Control::Pong(value)),
                Told::Pong(value) => self.sessions[value as usize].answered(link),
                Told::Other => {}
            }
        }
        Ok(())
    }

    fn data(&mut self, link: usize, id: StreamId, bytes: &[u8], now: Instant) -> Result<()> {
        let stream = self.links[link].streams.get_mut(&id).expect("streams are never forgotten");
        match &mut stream.use_ {
            // Nothing counts that comes on a carrier of before.
            Use::Session => {
                if let Some(session) = carried(&mut self.sessions, link, id) {
                    session.store(bytes, &mut self.links[link])?;
                }
                Ok(())
            }
            Use::Done => Ok(()),
            Use::Greeting { listener, reader, reply } => {
                let mut used = 0;
                if let Some(agreeing) = listener {
                    let (n, agreed) = agreeing.read(bytes, reply, &mut |name| name == PROTOCOL)?;
                    used = n;
                    if agreed.is_some() {
                        *listener = None;
                    }
                }
                let Some((n, hello)) = read_behind(listener, reader, &bytes[used..])? else {
                    stream.head += used;
                    return Ok(());
                };
                stream.head += used + n;
                assert_eq!(used + n, bytes.len(), "bytes before an answer");
                hello.map_or(Ok(()), |hello| self.greeted(link, id, &hello, now))
            }
            Use::Answering { dialer, reader, session } => {
                let mut used = 0;
                if let Some(agreeing) = dialer {
                    let (n, agreed) = agreeing.read(bytes)?;
                    used = n;
                    if agreed.is_some() {
                        *dialer = None;
                    }
                }
                let session = *session;
                let Some((n, answer)) = read_behind(dialer, reader, &bytes[used..])? else {
                    stream.head += used;
                    return Ok(());
                };
                stream.head += used + n;
                let Some(answer) = answer else { return Ok(()) };
                self.answered(link, id, session, answer, now)?;
                self.data(link, id, &bytes[used + n..], now)
            }
        }
    }

    /// The responder's part.
    fn greeted(&mut self, link: usize, id: StreamId, hello: &Hello, now: Instant) -> Result<()> {
        let mine = |s: &Session| s.life.role() == Role::Responder && s.life.id() == hello.id;
        let i = match self.sessions.iter().position(mine) {
            Some(i) => i,
            None => match Lifecycle::accept(hello, TIMEOUT) {
                Ok(life) => {
                    let number = u128::from_be_bytes(hello.id) as u32;
                    let wants = number as usize * 7_919 % LARGE;
                    let wants = if number < SMALL { wants % 3_000 } else { wants };
                    self.sessions.push(Session::new(life, app(number, echoes(number), wants)));
                    self.sessions.len() - 1
                }
                Err(gone) => return self.send_away(link, id, gone),
            },
        };
        let session = &self.sessions[i];
        let here = session.carrier.as_ref().is_some_and(|carrier| carrier.link == link);
        let may = session.life.may_resume(hello, &session.out, &session.incoming);
        if here || may.is_err() {
            let invalid = Gone { code: Code::Invalid, received: 0 };
            return self.send_away(link, id, may.err().unwrap_or(invalid));
        }
        if let Some(old) = session.carrier.as_ref().map(|carrier| carrier.link) {
            self.seen.fenced += 1;
            self.lose(old, now);
            self.killed.push(old);
        }
        let session = &mut self.sessions[i];
        let welcome = session.life.welcome(hello, &mut session.out, &mut session.incoming);
        let (welcome, again) =
            welcome.expect("`may_resume` said so, and nothing has arrived since");
        self.seen.resumed += usize::from(hello.epoch > 1);
        self.seen.again += again;
        let stream = self.links[link].streams.get_mut(&id).expect("it was greeted");
        let use_ = std::mem::replace(&mut stream.use_, Use::Session);
        let Use::Greeting { mut reply, .. } = use_ else { unreachable!("it was greeted") };
        reply.extend(welcome.encode());
        stream.flow.begin_behind(stream.head, welcome.window)?;
        stream.flow.set_credit(hello.window, reply.len());
        let carrier = Carrier::new(link, id, stream.flow.clone());
        self.links[link].reply(id, reply);
        session.attach(carrier, &mut self.links, now);
        Ok(())
    }

    fn send_away(&mut self, link: usize, id: StreamId, gone: Gone) -> Result<()> {
        self.seen.refused += 1;
        let stream = self.links[link].streams.get_mut(&id).expect("it was greeted");
        if let Use::Greeting { mut reply, .. } = std::mem::replace(&mut stream.use_, Use::Done) {
            reply.extend(gone.encode());
            self.links[link].reply(id, reply);
            self.links[link].say(Control::Fin { id });
        }
        Ok(())
    }

    /// The opener's part.
    fn answered(
        &mut self,
        link: usize,
        id: StreamId,
        session: Option<usize>,
        answer: Answer,
        now: Instant,
    ) -> Result<()> {
        let stream = self.links[link].streams.get_mut(&id).expect("it was answered");
        stream.use_ = Use::Done;
        let Some(i) = session else {
            let gone = answer.expect_err("a forged Hello is welcome");
            assert!(matches!(gone.code, Code::Unknown | Code::Invalid | Code::Ended));
            self.links[link].say(Control::Fin { id });
            return Ok(());
        };
        let session = &mut self.sessions[i];
        if session.life.end().is_some() {
            // It was given up meanwhile: the peer is to know.
            self.links[link].say(Control::Reset { id });
            return Ok(());
        }
        assert!(matches!(session.life.state(), State::Awaiting(_)), "answered twice");
        match answer {
            Ok(welcome) => {
                self.seen.again += session.life.welcomed(&welcome, &mut session.out)?;
                if session.incoming.is_finished() {
                    session.life.confirmed();
                    session.life.complete(&session.out, &session.incoming);
                }
                stream.use_ = Use::Session;
                let window = session.incoming.announced();
                stream.flow.begin_behind(stream.head, window)?;
                stream.flow.set_credit(welcome.window, 0);
                let carrier = Carrier::new(link, id, stream.flow.clone());
                session.attach(carrier, &mut self.links, now);
            }
            Err(gone) => {
                let fate = session.life.gone(gone, &mut session.out, &session.incoming);
                assert!(matches!(fate, Fate::Ended(End::Complete | End::Gone(_))));
                self.links[link].say(Control::Fin { id });
            }
        }
        Ok(())
    }
}

impl LinkEnd {
    /// Opens a stream with what a Hello says.
    fn hello(&mut self, hello: &Hello, session: Option<usize>) -> Result<()> {
        let mut first = Vec::new();
        let dialer = Some(Dialer::new(PROTOCOL, &mut first)?);
        first.extend(hello.encode());
        let use_ = Use::Answering { dialer, reader: HeadReader::new(), session };
        self.open(&first, use_).map(drop)
    }
}

/// Reads a head, once the protocol is agreed on.
fn read_behind<N, H: crate::proto::resume::Head>(
    negotiation: &Option<N>,
    reader: &mut HeadReader<H>,
    bytes: &[u8],
) -> Result<Option<(usize, Option<H>)>> {
    if negotiation.is_some() { Ok(None) } else { reader.read(bytes).map(Some) }
}

/// The session whose current carrier this is.
fn carried(sessions: &mut [Session], link: usize, id: StreamId) -> Option<&mut Session> {
    sessions.iter_mut().find(|s| s.carrier.as_ref().is_some_and(|carrier| carrier.is(link, id)))
}

fn app(number: u32, echoes: bool, wants: usize) -> App {
    App { number, echoes, wants, reads: true, wrote: 0, read: 0, saw_end: false }
}

/// The end that waits gives the other time to notice.
fn grace(role: Role) -> Duration {
    if role == Role::Responder { Duration::from_secs(10) } else { Duration::ZERO }
}

/// How long a session is kept.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// What the others send at most: more than a window and a replay buffer hold.
pub(super) const LARGE: usize = 500_000;

/// Sessions below this number are short at either end.
pub(super) const SMALL: u32 = 300;
