//! Some tiles in one piece of memory, which forks of a sequence share until one of them writes to it.

use super::pool::{KvPool, Lease, Spent};
use super::{KvType, Layout};
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
        match &block.0.numbers {
            Numbers::F32(values) => values,
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
        match &block.0.numbers {
            Numbers::Bf16(values) => values,
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
        match &block.0.numbers {
            Numbers::Q8(values, _) => values,
            _ => &[],
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_i8_as_f32(p) }
    }
}

/// Some tiles in one piece of memory. A clone shares it; whoever writes must hold it alone.
#[derive(Clone, Debug)]
pub(crate) struct Block(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    numbers: Numbers,
    /// Given back to the budget with the block.
    lease: Lease,
}

#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    /// Numbers, and scales: `[heads][tiles of the block][keys, values][16]`.
    Q8(Vec<i8>, Vec<f32>),
}

/// A block that nobody else reads.
pub(super) enum BlockMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
    Q8(&'a mut [i8], &'a mut [f32]),
}

impl Block {
    /// A block of zeros.
    pub(super) fn new(kind: KvType, layout: Layout, pool: &KvPool) -> Result<Self, Spent> {
        let lease = pool.take(layout.bytes(kind))?;
        let (len, scales) = layout.sizes();
        let numbers = match kind {
            KvType::F32 => zeroed(len).map(Numbers::F32),
            KvType::Bf16 => zeroed(len).map(Numbers::Bf16),
            KvType::Q8 => zeroed(len).and_then(|numbers| Some(Numbers::Q8(numbers, zeroed(scales)?))),
        };
        match numbers {
            Some(numbers) => Ok(Self(Arc::new(Owned { numbers, lease }))),
            None => Err(pool.spent(layout.bytes(kind))),
        }
    }

    /// Whether a block of this type and layout would be of the same size.
    pub(super) fn fits(&self, kind: KvType, layout: Layout) -> bool {
        let (len, scales) = layout.sizes();
        match &self.0.numbers {
            Numbers::F32(numbers) => kind == KvType::F32 && numbers.len() == len,
            Numbers::Bf16(numbers) => kind == KvType::Bf16 && numbers.len() == len,
            Numbers::Q8(numbers, own) => kind == KvType::Q8 && numbers.len() == len && own.len() == scales,
        }
    }

    /// Whether others hold it too.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The block for writing; nothing if others hold it too.
    pub(super) fn alone(&mut self) -> Option<BlockMut<'_>> {
        Some(match &mut Arc::get_mut(&mut self.0)?.numbers {
            Numbers::F32(numbers) => BlockMut::F32(numbers),
            Numbers::Bf16(numbers) => BlockMut::Bf16(numbers),
            Numbers::Q8(numbers, scales) => BlockMut::Q8(numbers, scales),
        })
    }

    /// Appends the little-endian bytes of `count` numbers at `first`, `first + step`, ... and of their scale.
    pub(super) fn bytes_of(&self, first: usize, step: usize, count: usize, scale: usize, out: &mut Vec<u8>) {
        let places = (first..).step_by(step).take(count);
        match &self.0.numbers {
            Numbers::F32(values) => places.for_each(|i| out.extend(values[i].to_le_bytes())),
            Numbers::Bf16(values) => places.for_each(|i| out.extend(values[i].to_le_bytes())),
            Numbers::Q8(values, scales) => {
                places.for_each(|i| out.extend(values[i].to_le_bytes()));
                out.extend(scales[scale].to_le_bytes());
            }
        }
    }

    pub(super) fn scales(&self) -> &[f32] {
        match &self.0.numbers {
            Numbers::Q8(_, scales) => scales,
            _ => &[],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.lease.bytes()
    }

    /// The same for blocks that share their memory, and for no others.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// Zeros, or nothing where the system has no memory for them.
fn zeroed<T: Copy + Default>(len: usize) -> Option<Vec<T>> {
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(len).ok()?;
    numbers.resize(len, T::default());
    Some(numbers)
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

    /// Takes over what a block of the same type and size holds.
    pub(super) fn copy(&mut self, other: &Block) {
        match (self, &other.0.numbers) {
            (Self::F32(a), Numbers::F32(b)) => a.copy_from_slice(b),
            (Self::Bf16(a), Numbers::Bf16(b)) => a.copy_from_slice(b),
            (Self::Q8(a, scales), Numbers::Q8(b, others)) => {
                a.copy_from_slice(b);
                scales.copy_from_slice(others);
            }
            // Blocks of one cache or ring are of one type.
            _ => {}
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
