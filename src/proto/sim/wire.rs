//! The network of a simulation, and its chance.

/// A source of chance that is the same for the same seed (splitmix64).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From 0 to `n - 1`; 0 if there is no such number.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// From 1 to `n`; 0 if there is no such number.
    pub(super) fn up_to(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { 1 + self.below(n) }
    }

    /// Once in `n` times.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }
}

/// One direction of a TCP connection: bytes in order, as many at a time as it
/// likes, until it is cut.
#[derive(Default)]
pub(super) struct Wire {
    bytes: Vec<u8>,
    /// How many of them were delivered.
    at: usize,
    is_cut: bool,
}

impl Wire {
    /// How many bytes it takes now, as a socket with a full buffer takes none.
    pub(super) fn room(&self) -> usize {
        SOCKET_BUFFER.saturating_sub(self.len())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        if !self.is_cut {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// How many bytes are on their way.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Fills `space` with what arrives next; returns how much that is.
    pub(super) fn deliver(&mut self, space: &mut [u8]) -> usize {
        let n = space.len().min(self.len());
        space[..n].copy_from_slice(&self.bytes[self.at..][..n]);
        self.at += n;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        n
    }

    /// Flips one bit of what is on its way, if anything is.
    pub(super) fn flip(&mut self, rng: &mut Rng) -> bool {
        let at = self.at + rng.below(self.len());
        let Some(byte) = self.bytes.get_mut(at) else { return false };
        *byte ^= 1 << rng.below(8);
        true
    }

    /// Nothing that is on its way, or sent later, arrives.
    pub(super) fn cut(&mut self) {
        self.bytes.clear();
        (self.at, self.is_cut) = (0, true);
    }
}

const SOCKET_BUFFER: usize = 100_000;
