//! Keys and values of one layer in one loop of one sequence, in tiles of 16 positions.
//!
//! A tile holds, per head, the keys transposed (`[D][16]`) and the values as they come (`[16][Dp]`, Dp = D rounded up
//! to 16), so that attention works on whole vectors: sixteen scores at a time, and D outputs at a time. Tiles start at
//! positions that are multiples of 16, in caches and rings alike, so that a row reduces over the same tiles in the
//! same order wherever its keys are kept.
//!
//! A clone shares its blocks of tiles with the original; a block is copied when one of the two writes to it. So a fork
//! of a sequence costs pointers, and the blocks in which the forks differ. Blocks are drawn from a [`KvPool`], a budget of
//! bytes; a budget that is spent is an error value.

mod block;
mod bytes;
mod pool;

pub(crate) use block::Element;

pub use pool::{KvPool, Spares, Spent};

use block::{Block, BlockMut};
use std::ops::Range;

/// Element type of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes a number.
    #[default]
    F32,
    /// 2 bytes a number: half the memory and half the reading of long contexts.
    Bf16,
    /// 1 byte a number, and a scale for each head of each position.
    Q8,
}

impl KvType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Q8 => 1,
        }
    }

    /// Bytes of the scale of one head of one position's key (or value).
    pub fn scale_size(self) -> usize {
        if self == Self::Q8 { 4 } else { 0 }
    }

    /// The name as flags and tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
        }
    }
}

impl std::str::FromStr for KvType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "q8" => Ok(Self::Q8),
            _ => Err(format!("\"{text}\" is not a type of keys and values; expected f32, bf16 or q8")),
        }
    }
}

/// Positions of a tile.
pub const TILE: usize = 16;
/// Tiles by which a cache grows, as a power of two: memory is added in blocks and never moved.
const CACHE_SHIFT: u32 = 2;
/// Positions of a block of a cache: what forks and indexes of prefixes share.
pub const BLOCK_POSITIONS: usize = TILE << CACHE_SHIFT;

/// How the tiles of a block lie: `[heads][tiles][D][16]` keys, then `[heads][tiles][16][Dp]` values.
#[derive(Clone, Copy, Debug)]
struct Layout {
    heads: usize,
    dim: usize,
    /// Tiles of a block, as a power of two: a cache grows by several, a ring by one at a time.
    shift: u32,
}

impl Layout {
    #[inline(always)]
    fn tiles(self) -> usize {
        1 << self.shift
    }

    /// Positions of a block.
    #[inline(always)]
    fn positions(self) -> usize {
        TILE << self.shift
    }

    /// D rounded up to whole vectors.
    #[inline(always)]
    fn padded(self) -> usize {
        self.dim.next_multiple_of(TILE)
    }

    #[inline(always)]
    fn key(self, slot: usize, h: usize) -> usize {
        (h * self.tiles() + slot) * self.dim * TILE
    }

    #[inline(always)]
    fn value(self, slot: usize, h: usize) -> usize {
        self.heads * self.tiles() * self.dim * TILE + (h * self.tiles() + slot) * self.padded() * TILE
    }

    /// Scales are `[heads][tiles][keys, values][16]`.
    #[inline(always)]
    fn scale(self, slot: usize, h: usize) -> usize {
        (h * self.tiles() + slot) * 2 * TILE
    }

    /// Where one head of the position at `lane` of a tile lies.
    #[inline(always)]
    fn position(self, slot: usize, h: usize, lane: usize) -> Place {
        let value = self.value(slot, h) + lane * self.padded();
        Place { key: self.key(slot, h) + lane, value, scale: self.scale(slot, h) + lane }
    }

    /// Elements and scales of a block.
    fn sizes(self) -> (usize, usize) {
        let positions = self.heads * self.positions();
        (positions * (self.dim + self.padded()), positions * 2)
    }

    /// Bytes of a block.
    fn bytes(self, kind: KvType) -> usize {
        let (elements, scales) = self.sizes();
        elements * kind.size() + scales * kind.scale_size()
    }
}

/// Where one head of a position lies in its block: a key's numbers are TILE apart, a value's side by side; the
/// value's scale is TILE after the key's.
struct Place {
    key: usize,
    value: usize,
    scale: usize,
}

/// A block of a cache's positions ([`BLOCK_POSITIONS`] of them), as forks and indexes of prefixes share it.
#[derive(Clone, Debug)]
pub struct KvBlock(Block);

impl KvBlock {
    /// Bytes of the block.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Keys and values: a growing cache of all positions, or a ring of the last few.
#[derive(Clone, Debug)]
pub struct KvTiles {
    kind: KvType,
    layout: Layout,
    blocks: Vec<Block>,
    /// Number of the first block: those before it have left the ring.
    base: usize,
    /// For a ring: positions to the left that must stay readable.
    left: Option<usize>,
    /// Positions `start .. end` are held.
    start: usize,
    end: usize,
}

impl KvTiles {
    /// An empty cache for all positions of `heads` heads of size `dim`.
    pub fn cache(kind: KvType, heads: usize, dim: usize) -> Self {
        Self::empty(kind, Layout { heads, dim, shift: CACHE_SHIFT }, None)
    }

    /// An empty ring for the last `left` positions and the current one.
    pub fn ring(kind: KvType, heads: usize, dim: usize, left: usize) -> Self {
        Self::empty(kind, Layout { heads, dim, shift: 0 }, Some(left))
    }

    fn empty(kind: KvType, layout: Layout, left: Option<usize>) -> Self {
        Self { kind, layout, blocks: Vec::new(), base: 0, left, start: 0, end: 0 }
    }

    /// D rounded up to whole vectors.
    pub fn padded(&self) -> usize {
        self.layout.padded()
    }

    /// Element type.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Heads and the size of a head.
    pub fn shape(&self) -> (usize, usize) {
        (self.layout.heads, self.layout.dim)
    }

    /// The positions held.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// For a ring, the positions to the left that stay readable.
    pub fn window(&self) -> Option<usize> {
        self.left
    }

    /// Bytes allocated, whether shared or not.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum()
    }

    /// Bytes that are allocated once `positions` positions are held, however many there are now.
    pub fn bytes_at(&self, positions: usize) -> usize {
        let all = positions.div_ceil(self.layout.positions());
        // Wherever a window lies, it touches no more tiles than this.
        let blocks = self.left.map_or(all, |left| all.min(left.div_ceil(TILE) + 1));
        blocks * self.layout.bytes(self.kind)
    }

    /// Each piece of memory in use: an address that only clones share, and its bytes.
    pub fn memory(&self) -> impl Iterator<Item = (usize, usize)> {
        self.blocks.iter().map(|block| (block.address(), block.bytes()))
    }

    /// Makes room for `count` positions from `first` on, with blocks that nobody else holds. Positions must come in
    /// order; a first position past the end is allowed only for an empty ring or one whose content is no longer wanted
    /// (a truncated loop starts late). A ring lets go of what lies left of the window of `first`.
    ///
    /// # Errors
    /// The budget of `spares` does not hold it. What was held before is held still.
    pub fn reserve(&mut self, first: usize, count: usize, spares: &mut Spares) -> Result<(), Spent> {
        assert!(first <= self.end || self.left.is_some(), "positions of a cache come in order");
        self.advance(first, spares);
        for number in self.written(first, count) {
            let mut fresh = || spares.take(self.kind, self.layout);
            match self.blocks.get_mut(number - self.base) {
                None => {
                    let block = fresh()?;
                    self.blocks.push(block);
                }
                Some(block) if block.is_shared() => {
                    let mut copy = fresh()?;
                    if let Some(mut to) = copy.alone() {
                        to.copy(block);
                    }
                    *block = copy;
                }
                Some(_) => (),
            }
        }
        Ok(())
    }

    /// Blocks that [`KvTiles::reserve`] takes beyond those it puts aside, and those that the [`KvTiles::shrink`] after the
    /// writing puts aside.
    pub fn demand(&self, first: usize, count: usize) -> (isize, isize) {
        let (size, jump) = (self.layout.positions(), first > self.end);
        let base = if jump { first / size } else { self.base + self.leaving(first) };
        let held = if jump { base..base } else { base..self.base + self.blocks.len() };
        let alone = |number: usize| !self.blocks[number - self.base].is_shared();
        let gone = if jump { self.blocks.len() } else { base - self.base };
        let put = (self.base..self.base + gone).filter(|n| alone(*n)).count();
        let written = self.written(first, count);
        let taken = written.clone().filter(|n| !held.contains(n) || !alone(*n)).count();
        let last = self.left.map_or(0, |left| self.end.max(first + count).saturating_sub(left) / size);
        let later = (base..last).filter(|n| written.contains(n) || held.contains(n) && alone(*n)).count();
        (taken as isize - put as isize, later as isize)
    }

    /// Numbers of the blocks that are written when `count` positions from `first` on are. What a cache holds already
    /// is not written again.
    fn written(&self, first: usize, count: usize) -> Range<usize> {
        let (size, end) = (self.layout.positions(), first + count);
        let first = if self.left.is_none() { first.max(self.end) } else { first };
        if first >= end { 0..0 } else { first / size..(end - 1) / size + 1 }
    }

    /// How many blocks lie left of the window of a position, which is not past the end.
    fn leaving(&self, position: usize) -> usize {
        let first = self.left.map_or(0, |left| position.saturating_sub(left) / self.layout.positions());
        first.saturating_sub(self.base).min(self.blocks.len())
    }

    /// Lets go of what lies left of the window of a position; of everything, if it is past the end.
    fn advance(&mut self, position: usize, spares: &mut Spares) {
        let Some(left) = self.left else { return };
        if position > self.end {
            self.blocks.drain(..).for_each(|block| spares.put(block));
            (self.start, self.end) = (position, position);
            self.base = position / self.layout.positions();
            return;
        }
        let gone = self.leaving(position);
        self.blocks.drain(..gone).for_each(|block| spares.put(block));
        self.base += gone;
        self.start = self.start.max(position.saturating_sub(left));
    }

    /// Gives back what lies left of the next position's window, such as a long chunk needed.
    pub fn shrink(&mut self, spares: &mut Spares) {
        self.advance(self.end, spares);
    }

    /// Forgets the positions from `len` on. A ring has lost what they displaced, so it forgets everything.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.end {
            return;
        }
        match self.left {
            None => {
                self.end = len;
                self.trim();
            }
            Some(_) => self.clear(),
        }
    }

    /// The block `i` of a cache, shared: positions from `i * BLOCK_POSITIONS` on.
    pub fn block(&self, i: usize) -> Option<KvBlock> {
        self.blocks.get(i).filter(|_| self.left.is_none()).cloned().map(KvBlock)
    }

    /// Appends a block of another cache of the same model, of which `count` positions are taken.
    ///
    /// # Panics
    /// If the block is of another kind, or the positions do not follow those held.
    pub fn append(&mut self, block: KvBlock, count: usize) {
        let size = self.layout.positions();
        assert!(block.0.fits(self.kind, self.layout) && self.left.is_none(), "a block of such a cache");
        assert!(count <= size && self.end == self.blocks.len() * size, "blocks come in order");
        self.blocks.push(block.0);
        self.end += count;
    }

    /// Gives back blocks of a cache that hold no position: those that were reserved and not written.
    pub fn trim(&mut self) {
        if self.left.is_none() {
            self.blocks.truncate(self.end.div_ceil(self.layout.positions()));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::empty(self.kind, self.layout, self.left);
    }

    /// Writes the key and value (`[heads * D]` each) of position `t`, for which [`KvTiles::reserve`] made room.
    ///
    /// A position that a cache holds already stays as it is: its key and value are a function of the tokens so far,
    /// so they are the same to the last bit, and a block shared with a fork need not be copied.
    pub fn write(&mut self, t: usize, key: &[f32], value: &[f32]) {
        let (heads, dim) = self.shape();
        assert!(key.len() == heads * dim && value.len() == heads * dim, "length of a key or value");
        self.fill(t, |block, h, place| {
            let own = h * dim..(h + 1) * dim;
            block.store(&key[own.clone()], place.key, TILE, place.scale);
            block.store(&value[own], place.value, 1, place.scale + TILE);
        });
    }

    /// Has position `t` written, head by head, and counts it as held.
    fn fill(&mut self, t: usize, write: impl Fn(&mut BlockMut<'_>, usize, Place)) {
        assert!(t >= self.start && t <= self.end, "positions come in order");
        if self.left.is_none() && t < self.end {
            return;
        }
        let (layout, tile) = (self.layout, t / TILE);
        let (block, slot) = self.place(tile);
        let mut block = self.blocks[block].alone().expect("room was made by `reserve`");
        for h in 0..layout.heads {
            write(&mut block, h, layout.position(slot, h, t % TILE));
        }
        self.end = self.end.max(t + 1);
    }

    /// Pretends to hold `count` positions, with keys and values that are small but not zero: for measurements.
    ///
    /// # Errors
    /// The budget does not hold them.
    pub fn pretend(&mut self, count: usize, spares: &mut Spares) -> Result<(), Spent> {
        let first = self.left.map_or(0, |left| count.saturating_sub(left));
        self.reserve(first, count - first, spares)?;
        self.blocks.iter_mut().filter_map(Block::alone).for_each(|mut block| block.pretend());
        (self.start, self.end) = (first, count);
        Ok(())
    }

    /// The keys of head `h` in the tile with the given number (position / 16): `[D][16]`.
    #[inline(always)]
    pub(crate) fn keys<E: Element>(&self, tile: usize, h: usize) -> &[E] {
        let (block, slot) = self.place(tile);
        &E::of(&self.blocks[block])[self.layout.key(slot, h)..][..self.layout.dim * TILE]
    }

    /// The values of head `h` in a tile: `[16][Dp]`.
    #[inline(always)]
    pub(crate) fn values<E: Element>(&self, tile: usize, h: usize) -> &[E] {
        let (block, slot) = self.place(tile);
        &E::of(&self.blocks[block])[self.layout.value(slot, h)..][..self.layout.padded() * TILE]
    }

    /// The scales of head `h` in a tile, `[keys, values][16]`; nothing for types without scales.
    #[inline(always)]
    pub(crate) fn scales(&self, tile: usize, h: usize) -> &[f32] {
        let (block, slot) = self.place(tile);
        self.blocks[block].scales().get(self.layout.scale(slot, h)..).unwrap_or(&[])
    }

    /// Block and slot of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize) {
        ((tile >> self.layout.shift) - self.base, tile & (self.layout.tiles() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(t: usize, h: usize, i: usize) -> f32 {
        (t * 100 + h * 10 + i) as f32
    }

    fn row(t: usize, heads: usize, dim: usize) -> Vec<f32> {
        (0..heads).flat_map(|h| (0..dim).map(move |i| value(t, h, i))).collect()
    }

    fn holds(kv: &KvTiles, t: usize) {
        let (heads, dim) = kv.shape();
        for h in 0..heads {
            for i in 0..dim {
                assert_eq!(kv.keys::<f32>(t / TILE, h)[i * TILE + t % TILE], value(t, h, i), "key {t}");
                assert_eq!(kv.values::<f32>(t / TILE, h)[t % TILE * kv.padded() + i], -value(t, h, i), "value {t}");
            }
        }
    }

    fn spares() -> Spares {
        Spares::new(&KvPool::unlimited())
    }

    fn write(kv: &mut KvTiles, t: usize) {
        let (heads, dim) = kv.shape();
        let key = row(t, heads, dim);
        let values: Vec<f32> = key.iter().map(|k| -k).collect();
        kv.write(t, &key, &values);
    }

    #[test]
    fn a_cache_holds_everything_and_grows_in_blocks() {
        let mut kv = KvTiles::cache(KvType::F32, 2, 6);
        for t in 0..200 {
            kv.reserve(t, 1, &mut spares()).unwrap();
            write(&mut kv, t);
        }
        (0..200).for_each(|t| holds(&kv, t));
        assert_eq!(kv.bytes(), 4 * 256 * 2 * (6 + 16));
        assert_eq!(KvTiles::cache(KvType::F32, 2, 6).bytes_at(200), kv.bytes());
    }

    #[test]
    fn a_ring_holds_the_window_through_any_sequence_of_chunks() {
        for left in [0, 1, 9, 15, 16, 17, 64] {
            let mut kv = KvTiles::ring(KvType::F32, 1, 4, left);
            let size = kv.bytes_at(1000);
            let mut t = 0;
            for chunk in [1, 1, 5, 1, 40, 1, 1, 100, 3, 16, 1, 1, 1] {
                kv.reserve(t, chunk, &mut spares()).unwrap();
                (t..t + chunk).for_each(|t| write(&mut kv, t));
                t += chunk;
                ((t - chunk).saturating_sub(left)..t).for_each(|t| holds(&kv, t));
                kv.shrink(&mut spares());
                assert!(kv.bytes() <= size);
                (t.saturating_sub(left)..t).for_each(|t| holds(&kv, t));
            }
        }
    }

    #[test]
    fn forks_share_blocks_until_one_of_them_writes() {
        let mut kv = KvTiles::cache(KvType::F32, 2, 6);
        kv.reserve(0, 100, &mut spares()).unwrap();
        (0..100).for_each(|t| write(&mut kv, t));
        let mut fork = kv.clone();
        let shared = |a: &KvTiles, b: &KvTiles| a.memory().zip(b.memory()).filter(|(a, b)| a == b).count();
        assert_eq!(shared(&kv, &fork), 2);
        // What is held already is not written again.
        write(&mut fork, 70);
        assert_eq!(shared(&kv, &fork), 2);
        fork.truncate(90);
        fork.reserve(90, 1, &mut spares()).unwrap();
        fork.write(90, &[7.0; 12], &[7.0; 12]);
        assert_eq!(shared(&kv, &fork), 1);
        assert_eq!((fork.range(), kv.range()), (0..91, 0..100));
        assert_eq!(fork.keys::<f32>(90 / TILE, 1)[90 % TILE], 7.0);
        (0..100).for_each(|t| holds(&kv, t));
        (0..90).for_each(|t| holds(&fork, t));
    }

    #[test]
    fn a_cache_cut_short_gives_back_whole_blocks_and_goes_on() {
        let mut kv = KvTiles::cache(KvType::F32, 1, 16);
        kv.reserve(0, 200, &mut spares()).unwrap();
        (0..200).for_each(|t| write(&mut kv, t));
        kv.truncate(500);
        assert_eq!(kv.range(), 0..200);
        for (len, blocks) in [(130, 3), (128, 2), (65, 2), (64, 1), (0, 0)] {
            kv.truncate(len);
            assert_eq!((kv.range(), kv.memory().count()), (0..len, blocks));
            (0..len).for_each(|t| holds(&kv, t));
        }
        kv.reserve(0, 70, &mut spares()).unwrap();
        (0..70).for_each(|t| write(&mut kv, t));
        (0..70).for_each(|t| holds(&kv, t));
    }

    #[test]
    fn a_ring_cut_short_is_empty_and_may_start_anywhere() {
        let mut kv = KvTiles::ring(KvType::F32, 1, 4, 20);
        kv.reserve(0, 60, &mut spares()).unwrap();
        (0..60).for_each(|t| write(&mut kv, t));
        kv.truncate(60);
        assert_eq!(kv.range().end, 60);
        kv.truncate(59);
        assert!(kv.range().is_empty());
        kv.reserve(39, 21, &mut spares()).unwrap();
        (39..60).for_each(|t| write(&mut kv, t));
        assert_eq!(kv.range(), 39..60);
        (39..60).for_each(|t| holds(&kv, t));
    }

    #[test]
    fn positions_survive_as_bytes_in_every_type() {
        for kind in [KvType::F32, KvType::Bf16, KvType::Q8] {
            for ring in [false, true] {
                let new = || if ring { KvTiles::ring(kind, 2, 6, 9) } else { KvTiles::cache(kind, 2, 6) };
                let (mut kv, mut other) = (new(), new());
                for t in 0..75 {
                    kv.reserve(t, 1, &mut spares()).unwrap();
                    write(&mut kv, t);
                }
                kv.shrink(&mut spares());
                let held = kv.range();
                other.reserve(held.start, 1, &mut spares()).unwrap();
                for t in held.clone() {
                    let mut bytes = Vec::new();
                    kv.bytes_of(t, &mut bytes);
                    assert_eq!(bytes.len(), kv.position_bytes());
                    other.reserve(t, 1, &mut spares()).unwrap();
                    other.write_bytes(t, &bytes);
                    let mut again = Vec::new();
                    other.bytes_of(t, &mut again);
                    assert_eq!(again, bytes, "{kind:?} {t}");
                }
                assert_eq!(other.range(), held);
                assert!(kv.bytes() <= new().bytes_at(75), "{kind:?}");
                if kind == KvType::F32 {
                    held.for_each(|t| holds(&other, t));
                }
            }
        }
    }

    #[test]
    fn a_ring_may_start_late() {
        let mut kv = KvTiles::ring(KvType::F32, 1, 2, 3);
        kv.reserve(1000, 2, &mut spares()).unwrap();
        (1000..1002).for_each(|t| write(&mut kv, t));
        assert_eq!(kv.range(), 1000..1002);
        (1000..1002).for_each(|t| holds(&kv, t));
    }

    /// Any order of chunks, forks and jumps: the prediction of `demand` is what happens, and what is dropped is given
    /// back.
    #[test]
    fn demand_says_what_a_chunk_takes_and_everything_is_given_back() {
        let mut state = 1u64;
        let mut below = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n) as usize
        };
        for left in [None, Some(0), Some(1), Some(15), Some(16), Some(40)] {
            let pool = KvPool::new(1 << 24);
            let new = |left: Option<usize>| match left {
                None => KvTiles::cache(KvType::Q8, 1, 4),
                Some(left) => KvTiles::ring(KvType::Q8, 1, 4, left),
            };
            let (mut kv, mut forks) = (new(left), Vec::new());
            for _ in 0..400 {
                let jump = if left.is_some() && below(20) == 0 { below(50) } else { 0 };
                let (first, count) = (kv.range().end + jump, 1 + below(70));
                let mut spares = Spares::new(&pool);
                spares.add(&kv, 100).unwrap();
                let (taken, later) = kv.demand(first, count);
                kv.reserve(first, count, &mut spares).unwrap();
                assert_eq!(spares.len() as isize, 100 - taken, "{left:?} {first} {count}");
                (first..first + count).for_each(|t| kv.write(t, &[t as f32; 4], &[1.0; 4]));
                kv.shrink(&mut spares);
                assert_eq!(spares.len() as isize, 100 - taken + later, "{left:?} {first} {count}");
                match below(6) {
                    0 => forks.push(kv.clone()),
                    1 if !forks.is_empty() => _ = forks.swap_remove(below(forks.len() as u64)),
                    2 if !forks.is_empty() => kv = forks[below(forks.len() as u64)].clone(),
                    3 => kv.truncate(kv.range().end.saturating_sub(below(90))),
                    _ => (),
                }
                if left.is_none() && kv.range().end > 2000 {
                    kv = new(left);
                }
            }
            drop((kv, forks));
            assert_eq!(pool.used(), 0);
        }
    }

    #[test]
    fn a_budget_that_is_spent_is_an_error_and_changes_nothing() {
        let mut kv = KvTiles::cache(KvType::F32, 1, 16);
        let pool = KvPool::new(2 * kv.bytes_at(1));
        let mut spares = Spares::new(&pool);
        kv.reserve(0, 100, &mut spares).unwrap();
        (0..100).for_each(|t| write(&mut kv, t));
        let spent = kv.reserve(100, 100, &mut spares).unwrap_err();
        assert_eq!((spent.used, spent.budget), (pool.budget(), pool.budget()));
        assert!(spares.add(&kv, 1).is_err() && spares.is_empty());
        (0..100).for_each(|t| holds(&kv, t));
        // A fork's copy is drawn from the budget too.
        let mut fork = kv.clone();
        assert!(fork.reserve(100, 1, &mut spares).is_err());
        drop(kv);
        fork.reserve(100, 1, &mut spares).unwrap();
        drop(fork);
        assert_eq!(pool.used(), 0);
    }
}
