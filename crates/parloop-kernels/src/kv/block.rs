//! Some tiles in one piece of memory, which forks of a sequence share until one of them writes to it.

use super::KvType;
use crate::simd::{Simd, f32_to_bf16};
use std::sync::Arc;

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

/// Some tiles in one piece of memory. A clone shares it; whoever writes takes a copy first if it is shared.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    F32(Arc<[f32]>),
    Bf16(Arc<[u16]>),
    /// Numbers, and scales: `[heads][tiles of the block][keys, values][16]`.
    Q8(Arc<[i8]>, Arc<[f32]>),
}

/// A block that nobody else reads.
pub(super) enum BlockMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
    Q8(&'a mut [i8], &'a mut [f32]),
}

impl Block {
    pub(super) fn new(kind: KvType, len: usize, scales: usize) -> Self {
        match kind {
            KvType::Q8 => Self::Q8(zeroed(len), zeroed(scales)),
            KvType::F32 => Self::F32(zeroed(len)),
            KvType::Bf16 => Self::Bf16(zeroed(len)),
        }
    }

    /// The block for writing, copied first if others share it.
    pub(super) fn unshared(&mut self) -> BlockMut<'_> {
        match self {
            Self::F32(values) => BlockMut::F32(Arc::make_mut(values)),
            Self::Bf16(values) => BlockMut::Bf16(Arc::make_mut(values)),
            Self::Q8(values, scales) => BlockMut::Q8(Arc::make_mut(values), Arc::make_mut(scales)),
        }
    }

    /// Appends the little-endian bytes of `count` numbers at `first`, `first + step`, ... and of their scale.
    pub(super) fn bytes_of(&self, first: usize, step: usize, count: usize, scale: usize, out: &mut Vec<u8>) {
        let places = (first..).step_by(step).take(count);
        match self {
            Self::F32(values) => places.for_each(|i| out.extend(values[i].to_le_bytes())),
            Self::Bf16(values) => places.for_each(|i| out.extend(values[i].to_le_bytes())),
            Self::Q8(values, scales) => {
                places.for_each(|i| out.extend(values[i].to_le_bytes()));
                out.extend(scales[scale].to_le_bytes());
            }
        }
    }

    pub(super) fn scales(&self) -> &[f32] {
        match self {
            Self::Q8(_, scales) => scales,
            _ => &[],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => 4 * values.len(),
            Self::Bf16(values) => 2 * values.len(),
            Self::Q8(values, scales) => values.len() + 4 * scales.len(),
        }
    }

    /// The same for blocks that share their memory, and for no others.
    pub(super) fn address(&self) -> usize {
        match self {
            Self::F32(values) => values.as_ptr().addr(),
            Self::Bf16(values) => values.as_ptr().addr(),
            Self::Q8(values, _) => values.as_ptr().addr(),
        }
    }
}

fn zeroed<T: Copy + Default>(len: usize) -> Arc<[T]> {
    std::iter::repeat_n(T::default(), len).collect()
}

impl BlockMut<'_> {
    /// Stores the numbers of one head of one position at `first`, `first + step`, ...; `scale` is where their scale
    /// goes.
    pub(super) fn store(&mut self, values: &[f32], first: usize, step: usize, scale: usize) {
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

    /// Stores what [`Block::bytes_of`] gave.
    pub(super) fn store_bytes(&mut self, bytes: &[u8], first: usize, step: usize, scale: usize) {
        let places = (first..).step_by(step);
        match self {
            Self::F32(block) => {
                places.zip(bytes.chunks_exact(4)).for_each(|(i, b)| block[i] = f32_of(b));
            }
            Self::Bf16(block) => {
                places.zip(bytes.chunks_exact(2)).for_each(|(i, b)| block[i] = u16::from_le_bytes([b[0], b[1]]));
            }
            Self::Q8(block, scales) => {
                let (numbers, last) = bytes.split_at(bytes.len() - 4);
                places.zip(numbers).for_each(|(i, b)| block[i] = *b as i8);
                scales[scale] = f32_of(last);
            }
        }
    }

    /// Copies `len` numbers as they are stored.
    pub(super) fn copy(&mut self, to: usize, other: &Block, from: usize, len: usize) {
        match (self, other) {
            (Self::F32(a), Block::F32(b)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            (Self::Bf16(a), Block::Bf16(b)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            (Self::Q8(a, _), Block::Q8(b, _)) => a[to..to + len].copy_from_slice(&b[from..from + len]),
            // Blocks of one ring are of one type.
            _ => {}
        }
    }

    /// Copies `len` scales.
    pub(super) fn copy_scales(&mut self, to: usize, other: &Block, from: usize, len: usize) {
        if let (Self::Q8(_, a), Block::Q8(_, b)) = (self, other) {
            a[to..to + len].copy_from_slice(&b[from..from + len]);
        }
    }

    /// Fills the block with numbers that are small but not zero.
    pub(super) fn pretend(&mut self) {
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

fn f32_of(b: &[u8]) -> f32 {
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}
