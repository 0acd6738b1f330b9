//! Two hosts whose connections are cut, again and again, at any byte, and noticed by
//! either end at another time; and the sessions between them, which do not mind.

mod host;
mod link;
mod session;

use std::time::{Duration, Instant};

use host::{Host, LARGE, SMALL, TIMEOUT};
use session::Session;

use super::wire::{Rng, Wire};
use crate::proto::resume::{End, State};
use crate::proto::yamux::Role as LinkRole;

struct Sim {
    now: Instant,
    hosts: [Host; 2],
    links: Vec<Network>,
    /// Cuts that are still to be made: so many bytes of a link from that host on.
    cuts: Vec<Cut>,
    /// No session was given up, nor is to be.
    is_patient: bool,
}

/// The two directions of a connection, each from the host of the same index.
#[derive(Default)]
struct Network {
    wires: [Wire; 2],
    delivered: [usize; 2],
    cut: Option<Cut>,
    is_cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    from: usize,
    at: usize,
}

impl Sim {
    fn new(now: Instant) -> Sim {
        let hosts = [Host::default(), Host::default()];
        Sim { now, hosts, links: Vec::new(), cuts: Vec::new(), is_patient: true }
    }

    /// A connection, dialled by that host.
    fn connect(&mut self, dialler: usize) {
        self.hosts[dialler].connected(LinkRole::Dialer);
        self.hosts[1 - dialler].connected(LinkRole::Listener);
        let cut = if self.cuts.is_empty() { None } else { Some(self.cuts.remove(0)) };
        self.links.push(Network { cut, ..Network::default() });
    }

    /// A connection carries nothing any more, and nobody knows.
    fn cut(&mut self, link: usize) {
        let network = &mut self.links[link];
        network.wires.iter_mut().for_each(Wire::cut);
        network.is_cut = true;
    }

    /// A host finds out that a connection is cut.
    fn notice(&mut self, host: usize, link: usize) -> bool {
        let news = self.links[link].is_cut && self.hosts[host].links[link].is_alive;
        if news {
            self.hosts[host].lose(link, self.now);
        }
        news
    }

    fn flush(&mut self, host: usize, link: usize, n: usize) -> usize {
        let wire = &mut self.links[link].wires[host];
        self.hosts[host].links[link].flush(n, wire).expect("an honest peer")
    }

    /// Up to `n` bytes arrive at a host, and are heard.
    fn deliver(&mut self, host: usize, link: usize, n: usize) -> usize {
        let network = &mut self.links[link];
        let from = 1 - host;
        let left = match network.cut {
            Some(cut) if cut.from == from => cut.at - network.delivered[from],
            _ => usize::MAX,
        };
        let n = n.min(left);
        let n = self.hosts[host].links[link].deliver(n, &mut network.wires[from]);
        network.delivered[from] += n;
        self.hosts[host].hear(link, self.now).expect("an honest peer");
        if n == left {
            self.cut(link);
        }
        for link in std::mem::take(&mut self.hosts[host].killed) {
            self.cut(link);
        }
        n
    }

    /// Whether a session waits for a connection, at an end that says Hello.
    fn wants_link(&self) -> bool {
        let wants = |host: &Host| host.sessions.iter().any(|s| s.life.wants_carrier());
        self.hosts.iter().any(wants)
    }

    fn has_link(&self) -> bool {
        (0..self.links.len()).any(|link| self.hosts.iter().all(|host| host.links[link].is_alive))
    }

    /// Everything goes on until nothing moves. `order` says which end notices first.
    fn act_out(&mut self, order: usize) {
        for _ in 0..10_000 {
            let mut progress = self.move_all(order);
            if !progress {
                progress = self.hosts.iter_mut().fold(false, |any, host| host.tick() | any);
            }
            if !progress {
                progress = self.notice_next(order);
            }
            if !progress && self.wants_link() && !self.has_link() {
                self.connect(order % 2);
                progress = true;
            }
            self.check();
            if !progress {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn move_all(&mut self, order: usize) -> bool {
        let mut progress = false;
        for i in 0..2 {
            let i = (i + order) % 2;
            self.now += Duration::from_micros(100);
            progress |= self.hosts[i].hello(None).expect("a link that lives");
            let host = &mut self.hosts[i];
            for session in &mut host.sessions {
                progress |= session.read(usize::MAX, &mut host.links, self.now);
                progress |= session.write(usize::MAX, &mut host.links).expect("a link that lives");
            }
            for link in 0..self.links.len() {
                progress |= self.flush(i, link, usize::MAX) > 0;
                progress |= self.deliver(1 - i, link, usize::MAX) > 0;
            }
        }
        progress
    }

    /// One end learns of one cut: now the dialler, now the other, now only those who
    /// have something to say.
    fn notice_next(&mut self, order: usize) -> bool {
        let hosts = [order % 2, 1 - order % 2];
        (0..self.links.len()).any(|link| hosts.iter().any(|&host| self.notice(host, link)))
    }

    /// What holds after every step. That what is read is what was written, in its
    /// order, is checked as it is read.
    fn check(&self) {
        for (host, peer) in [(&self.hosts[0], &self.hosts[1]), (&self.hosts[1], &self.hosts[0])] {
            for session in &host.sessions {
                session.check_memory();
                let Some(other) = other_end(session, peer) else { continue };
                assert!(session.app.read <= other.app.wrote);
                assert!(session.incoming.received() >= other.out.delivered());
                assert!(!session.app.saw_end || session.app.read == other.app.wrote);
            }
        }
    }

    /// What holds once nothing moves any more, if no session was given up.
    fn check_quiet(&self) {
        for (host, peer) in [(&self.hosts[0], &self.hosts[1]), (&self.hosts[1], &self.hosts[0])] {
            for session in &host.sessions {
                let other = other_end(session, peer).expect("it has another end");
                let app = &session.app;
                let name = format!("session {}", app.number);
                if matches!(session.life.state(), State::Attached) {
                    assert_eq!(session.out.delivered(), other.incoming.bytes(), "{name}");
                }
                if app.reads && other.app.reads {
                    assert_eq!(app.read, other.app.wrote, "{name}");
                    assert!(app.saw_end && session.out.is_finished(), "{name}");
                    check_end(session);
                } else if !matches!(session.life.state(), State::Attached) {
                    check_end(session);
                }
            }
        }
    }
}

/// It knows that all has arrived at either end.
fn check_end(session: &Session) {
    match session.life.state() {
        State::Ended(End::Complete) => {}
        state => panic!("session {} is {state:?}", session.app.number),
    }
}

fn other_end<'a>(session: &Session, peer: &'a Host) -> Option<&'a Session> {
    let (id, role) = (session.life.id(), session.life.role());
    peer.sessions.iter().find(|other| other.life.id() == id && other.life.role() != role)
}

#[cfg(test)]
mod tests {
    use super::super::{Named, seeds};
    use super::host::Seen;
    use super::*;
    use crate::testing::some_moment;

    /// Open, 4 KiB there and back, half-close, close; with these cuts, one a link.
    fn exchange(now: Instant, cuts: &[Cut], order: usize) -> Sim {
        let mut sim = Sim::new(now);
        sim.cuts = cuts.to_vec();
        sim.hosts[0].open(0, 4096);
        sim.connect(0);
        sim.act_out(order);
        sim.check_quiet();
        let [opener, responder] = &sim.hosts;
        let [opener, responder] = [&opener.sessions[0].app, &responder.sessions[0].app];
        assert_eq!((opener.read, responder.read), (4096, 4096));
        assert!(opener.saw_end && responder.saw_end);
        sim
    }

    #[test]
    fn a_cut_at_every_byte_of_an_exchange_costs_nothing() {
        let now = some_moment();
        let whole = exchange(now, &[], 0).links[0].delivered;
        assert!(whole.iter().all(|&n| n > 4096), "{whole:?}");
        let mut lost = 0;
        for (from, &len) in whole.iter().enumerate() {
            for at in 0..=len {
                for order in 0..2 {
                    let sim = exchange(now, &[Cut { from, at }], order);
                    lost += sim.hosts[0].seen.lost;
                }
            }
        }
        eprintln!("{whole:?} bytes, {lost} losses");
        assert!(lost > 4096);
    }

    #[test]
    fn a_cut_at_every_byte_of_the_resumption_again_and_again_costs_nothing() {
        let now = some_moment();
        for first in [0, 60, 150, 1000, 4300] {
            for at in 0..300 {
                for from in 0..2 {
                    let again = Cut { from, at };
                    let other = Cut { from: 1 - from, at: 299 - at };
                    let first = Cut { from: 0, at: first };
                    exchange(now, &[first, again, again, other, again], at);
                }
            }
        }
    }

    #[test]
    fn whatever_is_cut_whenever_every_byte_arrives_once_and_in_its_place() {
        let now = some_moment();
        let mut seen = Seen::default();
        let seeds = seeds(2_500);
        for seed in seeds.clone() {
            let failing = Named(seed);
            for host in random(seed, now).hosts {
                seen.add(host.seen);
            }
            std::mem::forget(failing);
        }
        eprintln!("{seen:?}");
        if seeds.count() >= 1_000 {
            let Seen { lost, resumed, again, fenced, refused, expired } = seen;
            let counts = [lost, resumed, again as usize, fenced, refused, expired];
            assert!(counts.iter().all(|&n| n > 0));
        }
    }

    /// Anything happens, and then nothing goes wrong any more.
    fn random(seed: u64, now: Instant) -> Sim {
        let mut rng = Rng::new(seed);
        let mut sim = Sim::new(now);
        let large = rng.one_in(16);
        let grain = if large { 50_000 } else { 700 };
        sim.connect(0);
        for _ in 0..200 {
            sim.step(&mut rng, large, grain);
            sim.check();
        }
        if rng.one_in(2) {
            // Those who stood still go on.
            let sessions = sim.hosts.iter_mut().flat_map(|host| &mut host.sessions);
            sessions.for_each(|session| session.app.reads = true);
        }
        sim.act_out(rng.below(2));
        if sim.is_patient {
            sim.check_quiet();
        }
        sim
    }

    impl Sim {
        fn step(&mut self, rng: &mut Rng, large: bool, grain: usize) {
            self.now += Duration::from_micros(rng.below(50_000) as u64);
            let i = rng.below(2);
            let n = rng.up_to(grain);
            let links: Vec<usize> = (0..self.links.len()).rev().take(3).collect();
            let host = &mut self.hosts[i];
            let picked = rng.below(host.sessions.len());
            match rng.below(32) {
                0..=6 => {
                    if let Some(session) = host.sessions.get_mut(picked) {
                        session.write(n, &mut host.links).expect("a link that lives");
                    }
                }
                7..=10 => {
                    if let Some(session) = host.sessions.get_mut(picked) {
                        session.read(n, &mut host.links, self.now);
                    }
                }
                11..=15 => {
                    rng.pick(&links).map(|link| self.flush(i, link, n));
                }
                16..=22 => {
                    rng.pick(&links).map(|link| self.deliver(i, link, n));
                }
                23 => drop(host.tick()),
                24 => drop(host.hello(Some(rng)).expect("a link that lives")),
                25 => host.forge(rng).expect("a link that lives"),
                26 if host.sessions.len() < 3 => {
                    let number = (2 * rng.below(SMALL as usize / 4) + i) as u32;
                    let number = number + if large { SMALL } else { 0 };
                    if self.hosts.iter().all(|h| h.sessions.iter().all(|s| s.app.number != number))
                    {
                        let wants = rng.below(if large { LARGE } else { 3_000 });
                        self.hosts[i].open(number, wants);
                    }
                }
                27 if rng.one_in(4) => self.connect(i),
                28 => {
                    if let Some(link) = rng.pick(&links) {
                        self.cut(link);
                    }
                }
                29..=30 => {
                    rng.pick(&links).map(|link| self.notice(i, link));
                }
                _ if rng.one_in(40) => self.sleep(rng),
                _ if rng.one_in(2) => drop(self.move_all(i)),
                _ if rng.one_in(if large { 2 } else { 8 }) => {
                    if let Some(session) = host.sessions.get_mut(picked) {
                        session.app.reads = !session.app.reads;
                    }
                }
                _ => {}
            }
        }

        /// A long time, in which what was lost may be given up.
        fn sleep(&mut self, rng: &mut Rng) {
            self.now += TIMEOUT.mul_f64(rng.below(20) as f64 / 10.0);
            self.hosts.iter_mut().for_each(|host| host.expire(self.now));
            let expired = |s: &Session| matches!(s.life.end(), Some(End::Expired(_)));
            self.is_patient &= !self.hosts.iter().any(|h| h.sessions.iter().any(expired));
        }
    }

    impl Seen {
        fn add(&mut self, other: Seen) {
            self.lost += other.lost;
            self.resumed += other.resumed;
            self.again += other.again;
            self.fenced += other.fenced;
            self.refused += other.refused;
            self.expired += other.expired;
        }
    }
}
