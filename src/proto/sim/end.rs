//! One end of a simulated connection, from its first byte on.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libp2p_identity::Keypair;

use super::Profile;
use super::mux::{Keys, Mux};
use super::wire::{Rng, Wire};
use crate::error::Result;
use crate::proto::buf::RecvBuf;
use crate::proto::connection::{Step, Upgrade};
use crate::proto::noise::Identity;
use crate::proto::yamux::{MIN_RECV_BUF, Role};

pub(super) struct End {
    role: Role,
    profile: Profile,
    upgrade: Option<Upgrade>,
    /// What the upgrade said and the network has not taken.
    hello: Vec<u8>,
    /// Once the upgrade is over.
    pub(super) mux: Option<Mux>,
    buf: RecvBuf,
    pub(super) is_dead: bool,
}

impl End {
    /// An end that begins with the upgrade.
    pub(super) fn new(role: Role, profile: Profile) -> End {
        let [dialer, listener] = &*IDENTITIES;
        let upgrade = match role {
            Role::Dialer => Upgrade::dialer(dialer.clone(), Some(listener.peer_id())),
            Role::Listener => Upgrade::listener(listener.clone()),
        };
        let mut end = End::with(role, profile, None);
        end.upgrade = Some(upgrade);
        end.go_up().expect("nothing was heard yet");
        end
    }

    /// An end that has its keys already.
    pub(super) fn upgraded(role: Role, profile: Profile, keys: Keys) -> End {
        End::with(role, profile, Some(Mux::new(role, profile, keys)))
    }

    fn with(role: Role, profile: Profile, mux: Option<Mux>) -> End {
        let buf = RecvBuf::new(vec![0; MIN_RECV_BUF]);
        End { role, profile, upgrade: None, hello: Vec::new(), mux, buf, is_dead: false }
    }

    /// The multiplexer, while there is one.
    pub(super) fn live(&mut self) -> Option<&mut Mux> {
        self.mux.as_mut().filter(|_| !self.is_dead)
    }

    /// Writes to the network up to `n` bytes of what waits; returns how much.
    pub(super) fn flush(&mut self, n: usize, wire: &mut Wire) -> Result<usize> {
        if self.is_dead {
            return Ok(0);
        }
        let said = self.hello.len().min(n).min(wire.room());
        wire.write(&self.hello[..said]);
        self.hello.drain(..said);
        match &mut self.mux {
            Some(mux) if self.hello.is_empty() => Ok(said + mux.flush(n - said, wire)?),
            _ => Ok(said),
        }
    }

    /// Up to `n` bytes arrive, and all that they say is heard; returns how many.
    pub(super) fn deliver(
        &mut self,
        n: usize,
        wire: &mut Wire,
        rng: &mut Rng,
        now: Instant,
    ) -> Result<usize> {
        if self.is_dead {
            return Ok(0);
        }
        let space = self.buf.space();
        assert!(!space.is_empty(), "a whole frame waits unread");
        let n = n.min(space.len());
        let n = wire.deliver(&mut space[..n]);
        self.buf.filled(n);
        self.go_up()?;
        if let Some(mux) = &mut self.mux {
            while mux.hear(&mut self.buf, rng, now)? {}
        }
        Ok(n)
    }

    /// Takes the upgrade as far as what has arrived allows.
    fn go_up(&mut self) -> Result<()> {
        let Some(upgrade) = self.upgrade.take() else { return Ok(()) };
        match upgrade.advance(&mut self.buf, &mut self.hello)? {
            Step::More(upgrade) => self.upgrade = Some(upgrade),
            Step::Done(up) => {
                assert_eq!(up.is_dialer, self.role == Role::Dialer);
                let keys = Keys { sealer: up.sealer, opener: up.opener, leftover: up.leftover };
                self.mux = Some(Mux::new(self.role, self.profile, keys));
            }
        }
        Ok(())
    }

    /// What is held at this end stays within its bounds.
    pub(super) fn check_memory(&self) {
        assert!(self.buf.capacity() <= 2 * MIN_RECV_BUF);
        assert!(self.hello.len() < 4_096);
        if let Some(mux) = &self.mux {
            mux.check_memory();
        }
    }

    /// Nothing that could be said is unsaid, nothing that was heard is undone.
    pub(super) fn check_quiet(&self) {
        assert!(self.buf.is_empty(), "a part of a frame is left");
        self.mux.as_ref().expect("without a fault every upgrade succeeds").check_quiet();
    }
}

static IDENTITIES: LazyLock<[Arc<Identity>; 2]> = LazyLock::new(|| {
    [1, 2].map(|n| {
        let key = Keypair::ed25519_from_bytes([n; 32]).expect("any 32 bytes are a key");
        Arc::new(Identity::new(key).expect("an ed25519 key signs"))
    })
});
