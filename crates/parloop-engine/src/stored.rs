//! From a checkpoint's tensors to the kernels' weights.

use half::f16;
use parloop_kernels::quant::{self, Bits, Quants};
use parloop_kernels::weights::WeightsError;
use parloop_kernels::{Pool, WeightType, Weights};
use parloop_model::{DType, Tensor};

/// The type in which a matrix runs unless another is asked for: what it is stored in where the kernels have that,
/// otherwise the nearest type that is no coarser (f16 has three bits of fraction more than bf16, so it becomes f32).
pub(crate) fn nearest(stored: DType) -> WeightType {
    match stored {
        DType::F32 | DType::F16 => WeightType::F32,
        DType::BF16 => WeightType::Bf16,
        DType::Q4_0 => WeightType::Q4,
        // Sub-blocks of Q4_K have a scale and a minimum each, of 6 bits where ours are f16: little is lost.
        DType::Q4_1 | DType::Q4K => WeightType::Q4Min,
        DType::Q8_0 | DType::Q5_0 | DType::Q5_1 | DType::Q5K | DType::Q6K => WeightType::Q8,
    }
}

/// Whether a matrix stays where the checkpoint has it.
pub(crate) fn in_place(stored: DType, kind: WeightType) -> bool {
    matches!((stored, kind), (DType::F32, WeightType::F32) | (DType::BF16, WeightType::Bf16))
}

/// By how many rows each of so many matrices is told from others without reading all of it: 16, and fewer of the many small
/// matrices of experts.
pub(crate) fn telling(matrices: usize) -> usize {
    const ALL: usize = 1 << 13;
    (ALL / matrices.max(1)).clamp(2, 16)
}

/// At most so many rows (2 or more) from the first to the last.
pub(crate) fn telling_rows(rows: usize, most: usize) -> impl Iterator<Item = usize> {
    (0..most.min(rows)).map(move |i| i * (rows - 1) / (most - 1).min(rows - 1).max(1))
}

/// A tensor as a matrix of `kind`: in place, repacked block by block, or converted row by row, by all threads.
///
/// # Errors
/// It cannot be stored as `kind`, or holds a number that is not finite.
pub(crate) fn matrix(tensor: &Tensor, kind: WeightType, pool: &mut Pool) -> Result<Weights, WeightsError> {
    let (outputs, inputs) = (tensor.rows(), tensor.width());
    let part = |i: usize, b: usize| {
        let size = tensor.dtype.block().1;
        &tensor.row_bytes(i)[b * size..][..size]
    };
    match (tensor.dtype, kind) {
        (stored, kind) if in_place(stored, kind) => {
            let (owner, range) = tensor.shared();
            let weights = Weights::in_place(kind, outputs, inputs, owner, range)?;
            // Converting looks at every weight; what stays as it is must be looked through here.
            weights.check_finite(pool).map(|()| weights)
        }
        (DType::Q8_0, WeightType::Q8) => {
            Weights::from_blocks(Bits::Eight, outputs, inputs, pool, |i, b| eight(part(i, b)))
        }
        (DType::Q4_0, WeightType::Q4) => {
            Weights::from_blocks(Bits::Four, outputs, inputs, pool, |i, b| four(part(i, b)))
        }
        (DType::Q4_1, WeightType::Q4Min) => {
            Weights::from_blocks(Bits::FourMin, outputs, inputs, pool, |i, b| four_min(part(i, b)))
        }
        (DType::Q4K, WeightType::Q4Min) => {
            Weights::from_blocks(Bits::FourMin, outputs, inputs, pool, |i, b| four_k(part(i, b / 8), b % 8))
        }
        _ => Weights::from_rows(kind, outputs, inputs, pool, |i, out| tensor.row(i, out)),
    }
}

fn half(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// A Q8_0 block. The kernels have no -128, which writers of Q8_0 do not use either; a block that has one is quantised
/// again.
fn eight(block: &[u8]) -> Quants {
    let quants = Quants { scale: half(block, 0), min: f16::ZERO, values: std::array::from_fn(|i| block[2 + i] as i8) };
    if quants.values.contains(&i8::MIN) {
        return quant::quantize(Bits::Eight, &quants.weights());
    }
    quants
}

/// Element `i` of 32 nibbles: 0 to 15 in the lower halves of the bytes, 16 to 31 in the upper ones.
fn nibble(bytes: &[u8], i: usize) -> i8 {
    (bytes[i % 16] >> (4 * (i / 16)) & 15) as i8
}

/// A Q4_0 block: a scale, and values plus 8.
fn four(block: &[u8]) -> Quants {
    let values = std::array::from_fn(|i| nibble(&block[2..], i) - 8);
    Quants { scale: half(block, 0), min: f16::ZERO, values }
}

/// A Q4_1 block: a scale, a minimum, and values.
fn four_min(block: &[u8]) -> Quants {
    let values = std::array::from_fn(|i| nibble(&block[4..], i));
    Quants { scale: half(block, 0), min: half(block, 2), values }
}

/// Sub-block `j` of 8 of a Q4_K block: f16 units of scales and minima, 12 bytes with 6 bits of each for every sub-block,
/// and nibbles of two sub-blocks in 32 bytes. The products `unit * 6 bits` are rounded to f16.
fn four_k(block: &[u8], j: usize) -> Quants {
    let packed = &block[4..16];
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    let product = |unit: f16, n: u8| f16::from_f32(unit.to_f32() * f32::from(n));
    let values = std::array::from_fn(|i| (block[16 + j / 2 * 32 + i] >> (j % 2 * 4) & 15) as i8);
    Quants { scale: product(half(block, 0), scale), min: product(-half(block, 2), min), values }
}

/// Where embeddings are looked up.
#[derive(Clone)]
pub(crate) enum Embedding {
    /// Rows of the checkpoint, in whatever type it has them.
    Stored(Tensor),
    /// Rows of a model without a checkpoint.
    Random(Weights),
}

impl Embedding {
    /// Tokens and width.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Stored(tensor) => [tensor.rows(), tensor.width()],
            Self::Random(weights) => [weights.outputs(), weights.inputs()],
        }
    }

    /// The name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Stored(tensor) => tensor.dtype.name(),
            Self::Random(weights) => weights.kind().name(),
        }
    }

    /// Writes the embedding of a token to `out`.
    pub fn row(&self, token: usize, out: &mut [f32]) {
        match self {
            Self::Stored(tensor) => tensor.row(token, out),
            Self::Random(weights) => weights.row(token, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parloop_model::dtype::codec;
    use std::sync::Arc;

    /// A tensor of 21 rows of pseudo-random values, stored as `kind`.
    fn tensor(kind: DType, width: usize) -> Tensor {
        let mut state = 7u32;
        let values: Vec<f32> = (0..21 * width)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        let mut bytes = vec![0; 21 * kind.row_bytes(width).unwrap()];
        codec::encode(kind, &values, &mut bytes);
        let range = 0..bytes.len();
        Tensor::new(kind, vec![21, width], Arc::new(bytes), range).unwrap()
    }

    fn rows(weights: &Weights) -> Vec<f32> {
        let mut out = vec![0.0; weights.outputs() * weights.inputs()];
        out.chunks_exact_mut(weights.inputs()).enumerate().for_each(|(i, row)| weights.row(i, row));
        out
    }

    #[test]
    fn what_the_kernels_have_too_is_taken_over_exactly() {
        let mut pool = Pool::new(2);
        for (kind, width) in [
            (DType::F32, 7),
            (DType::F16, 7),
            (DType::BF16, 7),
            (DType::Q8_0, 96),
            (DType::Q4_0, 96),
            (DType::Q4_1, 96),
        ] {
            let tensor = tensor(kind, width);
            assert_eq!(rows(&matrix(&tensor, nearest(kind), &mut pool).unwrap()), tensor.to_f32(), "{}", kind.name());
        }
        for kind in DType::ALL {
            let tensor = tensor(kind, 256);
            assert_eq!(rows(&matrix(&tensor, WeightType::F32, &mut pool).unwrap()), tensor.to_f32());
        }
    }

    #[test]
    fn other_block_types_lose_little() {
        let mut pool = Pool::new(2);
        for kind in DType::ALL {
            let tensor = tensor(kind, 256);
            let (found, expected) = (rows(&matrix(&tensor, nearest(kind), &mut pool).unwrap()), tensor.to_f32());
            let error: f32 = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = expected.iter().map(|v| v * v).sum();
            assert!((error / size).sqrt() < 0.006, "{}: {}", kind.name(), (error / size).sqrt());
        }
    }

    #[test]
    fn odd_blocks_are_handled() {
        let mut pool = Pool::new(1);
        let mut block = vec![0u8; 34];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[5] = i8::MIN as u8;
        let odd = |bytes: Vec<u8>| Tensor::new(DType::Q8_0, vec![1, 32], Arc::new(bytes), 0..34).unwrap();
        let found = rows(&matrix(&odd(block.clone()), WeightType::Q8, &mut pool).unwrap());
        assert!((found[3] + 64.0).abs() < 0.1 && found[4] == 0.0, "{found:?}");
        block[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        block[5] = 1;
        for kind in [WeightType::Q8, WeightType::F32, WeightType::Q4] {
            let error = matrix(&odd(block.clone()), kind, &mut pool).unwrap_err();
            assert!(matches!(error, WeightsError::NotFinite { row: 0, .. }), "{error}");
        }
    }
}
