//! Keys and values of one layer in one loop of one sequence, in tiles of 16 positions.
//!
//! A tile holds, per head, the keys transposed (`[D][16]`) and the values as they come (`[16][Dp]`, Dp = D rounded up
//! to 16), so that attention works on whole vectors: sixteen scores at a time, and D outputs at a time. Tiles start at
//! positions that are multiples of 16, in caches and rings alike, so that a row reduces over the same tiles in the
//! same order wherever its keys are kept.

use crate::simd::{Simd, f32_to_bf16};

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

/// An element as it is stored.
pub(crate) trait Element: Copy + Default + 'static {
    /// Whether elements must be multiplied by their position's scale.
    const SCALED: bool = false;
    /// The elements of a block of this type.
    fn of(block: &Block) -> &[Self];
    /// Loads as many elements as a vector has lanes, as f32.
    ///
    /// # Safety
    /// The instruction set must be available and `p` valid for that many elements.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn of(block: &Block) -> &[Self] {
        match block {
            Block::F32(values) => values,
            _ => &[],
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

impl Element for u16 {
    #[inline(always)]
    fn of(block: &Block) -> &[Self] {
        match block {
            Block::Bf16(values) => values,
            _ => &[],
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16_as_f32(p) }
    }
}

impl Element for i8 {
    const SCALED: bool = true;
    #[inline(always)]
    fn of(block: &Block) -> &[Self] {
        match block {
            Block::Q8(values, _) => values,
            _ => &[],
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_i8_as_f32(p) }
    }
}

/// Some tiles in one piece of memory.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    F32(Box<[f32]>),
    Bf16(Box<[u16]>),
    /// Numbers, and scales: `[heads][tiles of the block][keys, values][16]`.
    Q8(Box<[i8]>, Box<[f32]>),
}

impl Block {
    fn new(kind: KvType, len: usize, scales: usize) -> Self {
        match kind {
            KvType::Q8 => Self::Q8(vec![0; len].into(), vec![0.0; scales].into()),
            KvType::F32 => Self::F32(vec![0.0; len].into()),
            KvType::Bf16 => Self::Bf16(vec![0; len].into()),
        }
    }

    /// Stores the numbers of one head of one position at `first`, `first + step`, ...; `scale` is where their scale
    /// goes.
    fn store(&mut self, values: &[f32], first: usize, step: usize, scale: usize) {
        let places = (first..).step_by(step);
        match self {
            Self::F32(block) => values.iter().zip(places).for_each(|(v, i)| block[i] = *v),
            Self::Bf16(block) => values.iter().zip(places).for_each(|(v, i)| block[i] = f32_to_bf16(*v)),
            Self::Q8(block, scales) => {
                let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
                values.iter().zip(places).for_each(|(v, i)| block[i] = (v * inverse).round_ties_even() as i8);
                scales[scale] = most / 127.0;
            }
        }
    }

    /// Copies `len` numbers as they are stored.
    fn copy(&mut self, to: usize, other: &Self, from: usize, len: usize) {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            (Self::Bf16(a), Self::Bf16(b)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            (Self::Q8(a, _), Self::Q8(b, _)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            // Blocks of one ring are of one type.
            _ => {}
        }
    }

    fn scales(&self) -> &[f32] {
        match self {
            Self::Q8(_, scales) => scales,
            _ => &[],
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => 4 * values.len(),
            Self::Bf16(values) => 2 * values.len(),
            Self::Q8(values, scales) => values.len() + 4 * scales.len(),
        }
    }

    /// Fills the block with numbers that are small but not zero.
    fn pretend(&mut self) {
        match self {
            Self::F32(values) => values.fill(1e-3),
            Self::Bf16(values) => values.fill(f32_to_bf16(1e-3)),
            Self::Q8(values, scales) => {
                values.fill(1);
                scales.fill(1e-3);
            }
        }
    }
}

/// Positions of a tile.
pub const TILE: usize = 16;
/// Tiles by which a cache grows: memory is added in blocks and never copied.
const BLOCK: usize = 4;

/// Keys and values: a growing cache of all positions, or a ring of the last few.
#[derive(Clone, Debug)]
pub struct KvTiles {
    kind: KvType,
    heads: usize,
    dim: usize,
    /// `[heads][tiles of the block][D][16]` keys, then `[heads][tiles of the block][16][Dp]` values.
    blocks: Vec<Block>,
    /// Tiles of a block; a ring is a single block.
    tiles: usize,
    /// For a ring: positions to the left that must stay readable.
    left: Option<usize>,
    /// Positions `start .. end` are held.
    start: usize,
    end: usize,
}

impl KvTiles {
    /// An empty cache for all positions of `heads` heads of size `dim`.
    pub fn cache(kind: KvType, heads: usize, dim: usize) -> Self {
        Self { kind, heads, dim, blocks: Vec::new(), tiles: BLOCK, left: None, start: 0, end: 0 }
    }

    /// An empty ring for the last `left` positions and the current one.
    pub fn ring(kind: KvType, heads: usize, dim: usize, left: usize) -> Self {
        let mut ring = Self { kind, heads, dim, blocks: Vec::new(), tiles: 0, left: Some(left), start: 0, end: 0 };
        ring.resize(ring_tiles(left + 1));
        ring
    }

    /// Elements of a tile: keys and values of all heads.
    fn tile_elements(&self) -> usize {
        self.heads * TILE * (self.dim + self.padded())
    }

    /// D rounded up to whole vectors.
    pub fn padded(&self) -> usize {
        self.dim.next_multiple_of(TILE)
    }

    /// Element type.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Heads and the size of a head.
    pub fn shape(&self) -> (usize, usize) {
        (self.heads, self.dim)
    }

    /// The positions held.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum()
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
                let needed = (first + count).div_ceil(TILE * BLOCK);
                let elements = BLOCK * self.tile_elements();
                while self.blocks.len() < needed {
                    self.blocks.push(Block::new(self.kind, elements, self.heads * BLOCK * 2 * TILE));
                }
            }
            Some(left) => {
                let needed = ring_tiles(left + count);
                if needed > self.tiles {
                    self.resize(needed);
                }
            }
        }
    }

    /// Gives back what a long chunk needed beyond the ring's own size.
    pub fn shrink(&mut self) {
        if let Some(left) = self.left {
            self.start = self.start.max(self.end.saturating_sub(left));
            if self.tiles > ring_tiles(left + 1) {
                self.resize(ring_tiles(left + 1));
            }
        }
    }

    /// Writes the key and value (`[heads * D]` each) of position `t`, for which [`KvTiles::reserve`] made room.
    pub fn write(&mut self, t: usize, key: &[f32], value: &[f32]) {
        let (heads, dim, padded) = (self.heads, self.dim, self.padded());
        assert!(key.len() == heads * dim && value.len() == heads * dim, "length of a key or value");
        assert!(t >= self.start && t <= self.end, "positions come in order");
        let (tile, lane) = (t / TILE, t % TILE);
        let (block, _) = self.place(tile);
        for h in 0..heads {
            let (k, v) = (self.key_offset(tile, h), self.value_offset(tile, h));
            let scale = self.scale_offset(tile, h);
            let block = &mut self.blocks[block];
            block.store(&key[h * dim..(h + 1) * dim], k + lane, TILE, scale + lane);
            block.store(&value[h * dim..(h + 1) * dim], v + lane * padded, 1, scale + TILE + lane);
        }
        self.end = self.end.max(t + 1);
        if self.left.is_some() {
            // The tile that this one replaced in the ring is gone.
            self.start = self.start.max((tile + 1).saturating_sub(self.tiles) * TILE);
        }
    }

    /// Pretends to hold `count` positions, with keys and values that are small but not zero: for measurements.
    pub fn pretend(&mut self, count: usize) {
        if count > 0 {
            self.reserve(0, if self.left.is_some() { 1 } else { count });
            self.blocks.iter_mut().for_each(Block::pretend);
            self.end = count;
            self.start = if self.left.is_some() { count.saturating_sub(self.tiles * TILE - TILE + 1) } else { 0 };
        }
    }

    /// The keys of head `h` in the tile with the given number (position / 16): `[D][16]`.
    #[inline(always)]
    pub(crate) fn keys<E: Element>(&self, tile: usize, h: usize) -> &[E] {
        &E::of(&self.blocks[self.place(tile).0])[self.key_offset(tile, h)..][..self.dim * TILE]
    }

    /// The values of head `h` in a tile: `[16][Dp]`.
    #[inline(always)]
    pub(crate) fn values<E: Element>(&self, tile: usize, h: usize) -> &[E] {
        &E::of(&self.blocks[self.place(tile).0])[self.value_offset(tile, h)..][..self.padded() * TILE]
    }

    /// The scales of head `h` in a tile, `[keys, values][16]`; nothing for types without scales.
    #[inline(always)]
    pub(crate) fn scales(&self, tile: usize, h: usize) -> &[f32] {
        self.blocks[self.place(tile).0].scales().get(self.scale_offset(tile, h)..).unwrap_or(&[])
    }

    /// Block and slot of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize) {
        if self.left.is_some() { (0, tile % self.tiles) } else { (tile / BLOCK, tile % BLOCK) }
    }

    #[inline(always)]
    fn key_offset(&self, tile: usize, h: usize) -> usize {
        (h * self.tiles + self.place(tile).1) * self.dim * TILE
    }

    #[inline(always)]
    fn value_offset(&self, tile: usize, h: usize) -> usize {
        self.heads * self.tiles * self.dim * TILE + (h * self.tiles + self.place(tile).1) * self.padded() * TILE
    }

    #[inline(always)]
    fn scale_offset(&self, tile: usize, h: usize) -> usize {
        (h * self.tiles + self.place(tile).1) * 2 * TILE
    }

    /// Moves a ring's content into a ring of another size.
    fn resize(&mut self, tiles: usize) {
        let mut other = Self {
            blocks: vec![Block::new(self.kind, tiles * self.tile_elements(), self.heads * tiles * 2 * TILE)],
            tiles,
            ..Self { blocks: Vec::new(), ..*self }
        };
        if self.end > self.start && self.tiles > 0 {
            let last = (self.end - 1) / TILE;
            let first = (self.start / TILE).max((last + 1).saturating_sub(tiles));
            other.start = self.start.max(first * TILE);
            for tile in first..=last {
                for h in 0..self.heads {
                    let (k, v) = (other.key_offset(tile, h), other.value_offset(tile, h));
                    let (from_k, from_v) = (self.key_offset(tile, h), self.value_offset(tile, h));
                    let (from_s, to_s) = (self.scale_offset(tile, h), other.scale_offset(tile, h));
                    let (old, new) = (&self.blocks[0], &mut other.blocks[0]);
                    new.copy(k, old, from_k, self.dim * TILE);
                    new.copy(v, old, from_v, self.padded() * TILE);
                    if let (Block::Q8(_, new), Block::Q8(_, old)) = (new, old) {
                        new[to_s..to_s + 2 * TILE].copy_from_slice(&old[from_s..from_s + 2 * TILE]);
                    }
                }
            }
        }
        *self = other;
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
    fn a_ring_may_start_late() {
        let mut kv = KvTiles::ring(KvType::F32, 1, 2, 3);
        kv.reserve(1000, 2);
        (1000..1002).for_each(|t| write(&mut kv, t));
        assert_eq!(kv.range(), 1000..1002);
        (1000..1002).for_each(|t| holds(&kv, t));
    }
}
