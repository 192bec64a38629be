//! Keys and values of one layer in one loop of one sequence, in tiles of 16 positions.
//!
//! A tile holds, per head, the keys transposed (`[D][16]`) and the values as they come (`[16][Dp]`, Dp = D rounded up
//! to 16), so that attention works on whole vectors: sixteen scores at a time, and D outputs at a time. Tiles start at
//! positions that are multiples of 16, in caches and rings alike, so that a row reduces over the same tiles in the
//! same order wherever its keys are kept.

/// Positions of a tile.
pub const TILE: usize = 16;
/// Tiles by which a cache grows: memory is added in blocks and never copied.
const BLOCK: usize = 4;

/// Keys and values: a growing cache of all positions, or a ring of the last few.
#[derive(Clone, Debug)]
pub struct KvTiles {
    heads: usize,
    dim: usize,
    /// `[heads][tiles of the block][D][16]` keys, then `[heads][tiles of the block][16][Dp]` values.
    blocks: Vec<Box<[f32]>>,
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
    pub fn cache(heads: usize, dim: usize) -> Self {
        Self { heads, dim, blocks: Vec::new(), tiles: BLOCK, left: None, start: 0, end: 0 }
    }

    /// An empty ring for the last `left` positions and the current one.
    pub fn ring(heads: usize, dim: usize, left: usize) -> Self {
        let mut ring = Self { heads, dim, blocks: Vec::new(), tiles: 0, left: Some(left), start: 0, end: 0 };
        ring.resize(ring_tiles(left + 1));
        ring
    }

    /// Floats of a tile: keys and values of all heads.
    fn tile_floats(&self) -> usize {
        self.heads * TILE * (self.dim + self.padded())
    }

    /// D rounded up to whole vectors.
    pub fn padded(&self) -> usize {
        self.dim.next_multiple_of(TILE)
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
        self.blocks.iter().map(|b| 4 * b.len()).sum()
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
                let floats = BLOCK * self.tile_floats();
                while self.blocks.len() < needed {
                    self.blocks.push(vec![0.0; floats].into_boxed_slice());
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
            let block = &mut self.blocks[block];
            for (i, x) in key[h * dim..(h + 1) * dim].iter().enumerate() {
                block[k + i * TILE + lane] = *x;
            }
            block[v + lane * padded..][..dim].copy_from_slice(&value[h * dim..(h + 1) * dim]);
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
            self.blocks.iter_mut().for_each(|b| b.fill(1e-3));
            self.end = count;
            self.start = if self.left.is_some() { count.saturating_sub(self.tiles * TILE - TILE + 1) } else { 0 };
        }
    }

    /// The keys of head `h` in the tile with the given number (position / 16): `[D][16]`.
    #[inline(always)]
    pub(crate) fn keys(&self, tile: usize, h: usize) -> &[f32] {
        &self.blocks[self.place(tile).0][self.key_offset(tile, h)..][..self.dim * TILE]
    }

    /// The values of head `h` in a tile: `[16][Dp]`.
    #[inline(always)]
    pub(crate) fn values(&self, tile: usize, h: usize) -> &[f32] {
        &self.blocks[self.place(tile).0][self.value_offset(tile, h)..][..self.padded() * TILE]
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

    /// Moves a ring's content into a ring of another size.
    fn resize(&mut self, tiles: usize) {
        let mut other = Self {
            blocks: vec![vec![0.0; tiles * self.tile_floats()].into_boxed_slice()],
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
                    let (keys, values) = (self.keys(tile, h), self.values(tile, h));
                    other.blocks[0][k..k + keys.len()].copy_from_slice(keys);
                    other.blocks[0][v..v + values.len()].copy_from_slice(values);
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
                assert_eq!(kv.keys(t / TILE, h)[i * TILE + t % TILE], value(t, h, i), "key {t}");
                assert_eq!(kv.values(t / TILE, h)[t % TILE * kv.padded() + i], -value(t, h, i), "value {t}");
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
        let mut kv = KvTiles::cache(2, 6);
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
            let mut kv = KvTiles::ring(1, 4, left);
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
        let mut kv = KvTiles::ring(1, 2, 3);
        kv.reserve(1000, 2);
        (1000..1002).for_each(|t| write(&mut kv, t));
        assert_eq!(kv.range(), 1000..1002);
        (1000..1002).for_each(|t| holds(&kv, t));
    }
}
