//! Matrices behind an opaque type.
//!
//! Dense types are used where they lie, row by row (`[out, in]`, as in the checkpoint), so a memory-mapped file needs
//! no copy and no packing. Elements may be unaligned.

use crate::simd::bf16_to_f32;
use std::sync::Arc;

/// Bytes that several owners may read: a mapped file, a part of the program, or memory.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight: the upper half of an f32.
    Bf16,
}

impl WeightType {
    /// The name as flags and tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a row of `inputs` weights.
    pub fn row_bytes(self, inputs: usize) -> usize {
        match self {
            Self::F32 => 4 * inputs,
            Self::Bf16 => 2 * inputs,
        }
    }
}

/// Why bytes cannot serve as a matrix.
#[derive(Debug, thiserror::Error)]
#[error("a {kind} matrix of {outputs} x {inputs} needs {expected} bytes, found {found}")]
pub struct SizeMismatch {
    kind: &'static str,
    outputs: usize,
    inputs: usize,
    expected: usize,
    found: usize,
}

/// A matrix `[outputs, inputs]` that rows are multiplied with.
#[derive(Clone)]
pub struct Weights {
    kind: WeightType,
    outputs: usize,
    inputs: usize,
    owner: SharedBytes,
    start: usize,
    /// Kept beside the owner so that a task needs no virtual call to find its bytes.
    bytes: usize,
}

impl Weights {
    /// A matrix that lies in `owner` at `range`, row-major and little-endian. Nothing is copied.
    ///
    /// # Errors
    /// The range does not hold exactly `outputs * inputs` elements.
    pub fn in_place(
        kind: WeightType,
        outputs: usize,
        inputs: usize,
        owner: SharedBytes,
        range: std::ops::Range<usize>,
    ) -> Result<Self, SizeMismatch> {
        let expected = outputs.saturating_mul(kind.row_bytes(inputs));
        let found = (*owner).as_ref().get(range.clone()).map_or(0, <[u8]>::len);
        if expected != found {
            return Err(SizeMismatch { kind: kind.name(), outputs, inputs, expected, found });
        }
        Ok(Self { kind, outputs, inputs, owner, start: range.start, bytes: found })
    }

    /// A matrix of f32 values in memory.
    ///
    /// # Errors
    /// `values` does not hold exactly `outputs * inputs` elements.
    pub fn from_f32(outputs: usize, inputs: usize, values: &[f32]) -> Result<Self, SizeMismatch> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self::in_place(WeightType::F32, outputs, inputs, Arc::new(bytes), range)
    }

    /// How the matrix is stored.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Rows of the matrix: the length of a result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix: the length of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes that one pass over the matrix reads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn data(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.bytes]
    }

    /// Writes row `i` as f32 to `out`: the lookup of an embedding.
    ///
    /// # Panics
    /// If `i` is not below [`Weights::outputs`] or `out` is not [`Weights::inputs`] long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.inputs, "length of an embedding row");
        let size = self.kind.row_bytes(self.inputs);
        let bytes = &self.data()[i * size..(i + 1) * size];
        match self.kind {
            WeightType::F32 => out
                .iter_mut()
                .zip(bytes.chunks_exact(4))
                .for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            WeightType::Bf16 => out
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(o, b)| *o = bf16_to_f32(u16::from_le_bytes([b[0], b[1]]))),
        }
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({} [{}, {}])", self.kind.name(), self.outputs, self.inputs)
    }
}
