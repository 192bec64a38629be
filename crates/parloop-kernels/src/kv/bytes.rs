//! Keys and values position by position, as files keep them: independent of how tiles lie in memory.

use super::{KvTiles, TILE};

impl KvTiles {
    /// Bytes of one position: for each head the key's and then the value's numbers as they are stored, each followed
    /// by its scale if the type has one.
    pub fn position_bytes(&self) -> usize {
        let (heads, dim) = self.shape();
        2 * heads * (dim * self.kind.size() + self.kind.scale_size())
    }

    /// Appends the little-endian bytes of a position.
    ///
    /// # Panics
    /// If the position is not held.
    pub fn bytes_of(&self, t: usize, out: &mut Vec<u8>) {
        assert!(self.range().contains(&t), "a position that is held");
        let (block, slot) = self.place(t / TILE);
        let (heads, dim) = self.shape();
        for h in 0..heads {
            let place = self.layout.position(slot, h, t % TILE);
            self.blocks[block].bytes_of(place.key, TILE, dim, place.scale, out);
            self.blocks[block].bytes_of(place.value, 1, dim, place.scale + TILE, out);
        }
    }

    /// Writes a position from what [`KvTiles::bytes_of`] gave, as [`KvTiles::write`] does.
    ///
    /// # Panics
    /// If there are not exactly [`KvTiles::position_bytes`] of them, or the position is out of order.
    pub fn write_bytes(&mut self, t: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.position_bytes(), "bytes of a position");
        let half = bytes.len() / (2 * self.layout.heads);
        self.fill(t, |block, h, place| {
            let own = &bytes[2 * h * half..][..2 * half];
            block.store_bytes(&own[..half], place.key, TILE, place.scale);
            block.store_bytes(&own[half..], place.value, 1, place.scale + TILE);
        });
    }
}
