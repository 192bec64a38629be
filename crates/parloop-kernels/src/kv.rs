//! Keys and values of one layer in one loop of one sequence, in tiles of 16 positions.
//!
//! A tile holds, per head, the keys transposed (`[D][16]`) and the values as they come (`[16][Dp]`, Dp = D rounded up
//! to 16), so that attention works on whole vectors: sixteen scores at a time, and D outputs at a time. Tiles start at
//! positions that are multiples of 16, in caches and rings alike, so that a row reduces over the same tiles in the
//! same order wherever its keys are kept.
//!
//! A clone shares its blocks of tiles with the original; a block is copied when one of the two writes to it. So a fork
//! of a sequence costs pointers, and the blocks in which the forks differ.

mod block;
mod bytes;

pub(crate) use block::Element;

use block::{Block, BlockMut};

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
/// Tiles by which a cache grows: memory is added in blocks and never copied.
const BLOCK: usize = 4;
/// Positions by which a cache grows.
const BLOCK_POSITIONS: usize = BLOCK * TILE;

/// How the tiles of a block lie: `[heads][tiles][D][16]` keys, then `[heads][tiles][16][Dp]` values.
#[derive(Clone, Copy, Debug)]
struct Layout {
    heads: usize,
    dim: usize,
    /// Tiles of a block; a ring is a single block.
    tiles: usize,
}

impl Layout {
    /// D rounded up to whole vectors.
    #[inline(always)]
    fn padded(self) -> usize {
        self.dim.next_multiple_of(TILE)
    }

    #[inline(always)]
    fn key(self, slot: usize, h: usize) -> usize {
        (h * self.tiles + slot) * self.dim * TILE
    }

    #[inline(always)]
    fn value(self, slot: usize, h: usize) -> usize {
        self.heads * self.tiles * self.dim * TILE + (h * self.tiles + slot) * self.padded() * TILE
    }

    /// Scales are `[heads][tiles][keys, values][16]`.
    #[inline(always)]
    fn scale(self, slot: usize, h: usize) -> usize {
        (h * self.tiles + slot) * 2 * TILE
    }

    /// Where one head of the position at `lane` of a tile lies.
    #[inline(always)]
    fn position(self, slot: usize, h: usize, lane: usize) -> Place {
        let value = self.value(slot, h) + lane * self.padded();
        Place { key: self.key(slot, h) + lane, value, scale: self.scale(slot, h) + lane }
    }

    /// Elements and scales of a block.
    fn sizes(self) -> (usize, usize) {
        let positions = self.heads * self.tiles * TILE;
        (positions * (self.dim + self.padded()), positions * 2)
    }

    fn block(self, kind: KvType) -> Block {
        let (elements, scales) = self.sizes();
        Block::new(kind, elements, scales)
    }
}

/// Where one head of a position lies in its block: a key's numbers are TILE apart, a value's side by side; the
/// value's scale is TILE after the key's.
struct Place {
    key: usize,
    value: usize,
    scale: usize,
}

/// Keys and values: a growing cache of all positions, or a ring of the last few.
#[derive(Clone, Debug)]
pub struct KvTiles {
    kind: KvType,
    layout: Layout,
    blocks: Vec<Block>,
    /// For a ring: positions to the left that must stay readable.
    left: Option<usize>,
    /// Positions `start .. end` are held.
    start: usize,
    end: usize,
}

impl KvTiles {
    /// An empty cache for all positions of `heads` heads of size `dim`.
    pub fn cache(kind: KvType, heads: usize, dim: usize) -> Self {
        Self { kind, layout: Layout { heads, dim, tiles: BLOCK }, blocks: Vec::new(), left: None, start: 0, end: 0 }
    }

    /// An empty ring for the last `left` positions and the current one.
    pub fn ring(kind: KvType, heads: usize, dim: usize, left: usize) -> Self {
        let layout = Layout { heads, dim, tiles: ring_tiles(left + 1) };
        Self { kind, layout, blocks: vec![layout.block(kind)], left: Some(left), start: 0, end: 0 }
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
    pub fn range(&self) -> std::ops::Range<usize> {
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
        let (elements, scales) = self.layout.sizes();
        let blocks = if self.left.is_some() { 1 } else { positions.div_ceil(BLOCK_POSITIONS) };
        blocks * (elements * self.kind.size() + scales * self.kind.scale_size())
    }

    /// Each piece of memory in use: an address that only clones share, and its bytes.
    pub fn memory(&self) -> impl Iterator<Item = (usize, usize)> {
        self.blocks.iter().map(|block| (block.address(), block.bytes()))
    }

    /// Makes room for `count` positions from `first` on. Positions must come in order; a first position past the end
    /// is allowed only for an empty ring or one whose content is no longer wanted (a truncated loop starts late).
    pub fn reserve(&mut self, first: usize, count: usize) {
        assert!(first <= self.end || self.left.is_some(), "positions of a cache come in order");
        if first > self.end {
            (self.start, self.end) = (first, first);
        }
        match self.left {
            None => {
                let needed = (first + count).div_ceil(BLOCK_POSITIONS);
                while self.blocks.len() < needed {
                    self.blocks.push(self.layout.block(self.kind));
                }
            }
            Some(left) => {
                let needed = ring_tiles(left + count);
                if needed > self.layout.tiles {
                    self.resize(needed);
                }
            }
        }
    }

    /// Gives back what a long chunk needed beyond the ring's own size.
    pub fn shrink(&mut self) {
        if let Some(left) = self.left {
            self.start = self.start.max(self.end.saturating_sub(left));
            if self.layout.tiles > ring_tiles(left + 1) {
                self.resize(ring_tiles(left + 1));
            }
        }
    }

    /// Forgets the positions from `len` on. A ring has lost what they displaced, so it forgets everything.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.end {
            return;
        }
        match self.left {
            None => {
                self.end = len;
                self.blocks.truncate(len.div_ceil(BLOCK_POSITIONS));
            }
            Some(_) => (self.start, self.end) = (0, 0),
        }
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
        let mut block = self.blocks[block].unshared();
        for h in 0..layout.heads {
            write(&mut block, h, layout.position(slot, h, t % TILE));
        }
        self.end = self.end.max(t + 1);
        if self.left.is_some() {
            // The tile that this one replaced in the ring is gone.
            self.start = self.start.max((tile + 1).saturating_sub(layout.tiles) * TILE);
        }
    }

    /// Pretends to hold `count` positions, with keys and values that are small but not zero: for measurements.
    pub fn pretend(&mut self, count: usize) {
        if count > 0 {
            self.reserve(0, if self.left.is_some() { 1 } else { count });
            self.blocks.iter_mut().for_each(|block| block.unshared().pretend());
            self.end = count;
            let held = self.layout.tiles * TILE - TILE + 1;
            self.start = if self.left.is_some() { count.saturating_sub(held) } else { 0 };
        }
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
        if self.left.is_some() { (0, tile % self.layout.tiles) } else { (tile / BLOCK, tile % BLOCK) }
    }

    /// Moves a ring's content into a ring of another size.
    fn resize(&mut self, tiles: usize) {
        let (old, layout) = (self.layout, Layout { tiles, ..self.layout });
        let mut block = layout.block(self.kind);
        if self.end > self.start {
            let last = (self.end - 1) / TILE;
            let first = (self.start / TILE).max((last + 1).saturating_sub(tiles));
            let (from, mut to) = (&self.blocks[0], block.unshared());
            for tile in first..=last {
                let (a, b) = (tile % old.tiles, tile % tiles);
                for h in 0..layout.heads {
                    to.copy(layout.key(b, h), from, old.key(a, h), layout.dim * TILE);
                    to.copy(layout.value(b, h), from, old.value(a, h), layout.padded() * TILE);
                    to.copy_scales(layout.scale(b, h), from, old.scale(a, h), 2 * TILE);
                }
            }
            self.start = self.start.max(first * TILE);
        }
        (self.blocks, self.layout) = (vec![block], layout);
    }
}

/// Tiles in which any `positions` consecutive positions find room whatever their alignment.
fn ring_tiles(positions: usize) -> usize {
    (positions + TILE - 1).div_ceil(TILE)
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
            kv.reserve(t, 1);
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
            let size = kv.bytes();
            let mut t = 0;
            for chunk in [1, 1, 5, 1, 40, 1, 1, 100, 3, 16, 1, 1, 1] {
                kv.reserve(t, chunk);
                (t..t + chunk).for_each(|t| write(&mut kv, t));
                t += chunk;
                ((t - chunk).saturating_sub(left)..t).for_each(|t| holds(&kv, t));
                kv.shrink();
                assert_eq!(kv.bytes(), size);
                (t.saturating_sub(left)..t).for_each(|t| holds(&kv, t));
            }
        }
    }

    #[test]
    fn forks_share_blocks_until_one_of_them_writes() {
        let mut kv = KvTiles::cache(KvType::F32, 2, 6);
        kv.reserve(0, 100);
        (0..100).for_each(|t| write(&mut kv, t));
        let mut fork = kv.clone();
        let shared = |a: &KvTiles, b: &KvTiles| a.memory().zip(b.memory()).filter(|(a, b)| a == b).count();
        assert_eq!(shared(&kv, &fork), 2);
        // What is held already is not written again.
        write(&mut fork, 70);
        assert_eq!(shared(&kv, &fork), 2);
        fork.truncate(90);
        fork.reserve(90, 1);
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
        kv.reserve(0, 200);
        (0..200).for_each(|t| write(&mut kv, t));
        kv.truncate(500);
        assert_eq!(kv.range(), 0..200);
        for (len, blocks) in [(130, 3), (128, 2), (65, 2), (64, 1), (0, 0)] {
            kv.truncate(len);
            assert_eq!((kv.range(), kv.memory().count()), (0..len, blocks));
            (0..len).for_each(|t| holds(&kv, t));
        }
        kv.reserve(0, 70);
        (0..70).for_each(|t| write(&mut kv, t));
        (0..70).for_each(|t| holds(&kv, t));
    }

    #[test]
    fn a_ring_cut_short_is_empty_and_may_start_anywhere() {
        let mut kv = KvTiles::ring(KvType::F32, 1, 4, 20);
        kv.reserve(0, 60);
        (0..60).for_each(|t| write(&mut kv, t));
        kv.truncate(60);
        assert_eq!(kv.range().end, 60);
        kv.truncate(59);
        assert!(kv.range().is_empty());
        kv.reserve(39, 21);
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
                    kv.reserve(t, 1);
                    write(&mut kv, t);
                }
                kv.shrink();
                let held = kv.range();
                other.reserve(held.start, 1);
                for t in held.clone() {
                    let mut bytes = Vec::new();
                    kv.bytes_of(t, &mut bytes);
                    assert_eq!(bytes.len(), kv.position_bytes());
                    other.reserve(t, 1);
                    other.write_bytes(t, &bytes);
                    let mut again = Vec::new();
                    other.bytes_of(t, &mut again);
                    assert_eq!(again, bytes, "{kind:?} {t}");
                }
                assert_eq!(other.range(), held);
                assert_eq!(new().bytes_at(75), kv.bytes(), "{kind:?}");
                if kind == KvType::F32 {
                    held.for_each(|t| holds(&other, t));
                }
            }
        }
    }

    #[test]
    fn a_ring_may_start_late() {
        let mut kv = KvTiles::ring(KvType::F32, 1, 2, 3);
        kv.reserve(1000, 2);
        (1000..1002).for_each(|t| write(&mut kv, t));
        assert_eq!(kv.range(), 1000..1002);
        (1000..1002).for_each(|t| holds(&kv, t));
    }
}
