//! What was proven once need not be proven again: whose the Noise keys are that came
//! lately. To verify a signature takes as long as an agreement and a half, and the same
//! peers come again and again.

use std::collections::HashMap;
use std::mem;

use libp2p_identity::PeerId;
use parking_lot::Mutex;

/// A digest of all that was proven and of its proof.
pub(crate) type Proof = [u8; 32];

/// Proofs that held, and whom they name. What was not asked for in a long time is
/// forgotten, so that strangers without number take no memory without bound.
#[derive(Default)]
pub(crate) struct Proofs(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Proof, PeerId>,
    old: HashMap<Proof, PeerId>,
}

impl Proofs {
    /// Whom `proof` names, if it held before.
    pub(crate) fn recall(&self, proof: &Proof) -> Option<PeerId> {
        let mut known = self.0.lock();
        if let Some(peer) = known.young.get(proof) {
            return Some(*peer);
        }
        let peer = known.old.remove(proof)?;
        known.keep(*proof, peer);
        Some(peer)
    }

    /// `proof` holds, and names `peer`.
    pub(crate) fn keep(&self, proof: Proof, peer: PeerId) {
        self.0.lock().keep(proof, peer);
    }
}

impl Generations {
    fn keep(&mut self, proof: Proof, peer: PeerId) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(proof, peer);
    }
}

/// The most in one of the two generations: 110 KiB each.
const GENERATION: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(n: usize) -> Proof {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    #[test]
    fn what_held_is_recalled_and_nothing_else() {
        let (proofs, peer) = (Proofs::default(), PeerId::random());
        proofs.keep(proof(1), peer);
        assert_eq!(proofs.recall(&proof(1)), Some(peer));
        assert_eq!(proofs.recall(&proof(2)), None);
    }

    #[test]
    fn strangers_without_number_take_bounded_memory_and_do_not_displace_who_comes_again() {
        let (proofs, friend) = (Proofs::default(), PeerId::random());
        let stranger = PeerId::random();
        proofs.keep(proof(0), friend);
        for n in 1..10 * GENERATION {
            proofs.keep(proof(n), stranger);
            if n % (GENERATION / 2) == 0 {
                assert_eq!(proofs.recall(&proof(0)), Some(friend));
            }
        }
        assert_eq!(proofs.recall(&proof(1)), None);
        let known = proofs.0.lock();
        assert!(known.young.len() <= GENERATION && known.old.len() <= GENERATION);
    }
}
