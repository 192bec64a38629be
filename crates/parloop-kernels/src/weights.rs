//! Matrices behind an opaque type.
//!
//! Dense types are used where they lie, row by row (`[out, in]`, as in the checkpoint), so a memory-mapped file needs
//! no copy and no packing. Elements may be unaligned. Quantised types are packed once ([`crate::quant`]).

use crate::SharedMut;
use crate::memory::Memory;
use crate::pool::Pool;
use crate::quant::{self, Bits, OUTPUTS, Quants};
use crate::simd::{bf16_to_f32, f32_to_bf16};
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
    /// 8.5 bits a weight: blocks of 32 with a scale.
    Q8,
    /// 5 bits a weight: blocks of 32 with a scale and a minimum.
    Q4Min,
    /// 4.5 bits a weight: blocks of 32 with a scale.
    Q4,
}

impl WeightType {
    /// The name as flags and tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4Min => "q4_1",
            Self::Q4 => "q4",
        }
    }

    /// Every type, the largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::Q8, Self::Q4Min, Self::Q4];

    /// The bits of a quantised type.
    pub fn bits(self) -> Option<Bits> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::Q8 => Some(Bits::Eight),
            Self::Q4Min => Some(Bits::FourMin),
            Self::Q4 => Some(Bits::Four),
        }
    }

    /// Bytes of a row of `inputs` dense weights, or of a sixteenth of a packed tile.
    pub(crate) fn row_bytes(self, inputs: usize) -> usize {
        match self {
            Self::F32 => 4 * inputs,
            Self::Bf16 => 2 * inputs,
            Self::Q8 | Self::Q4Min | Self::Q4 => self.bytes(OUTPUTS, inputs) / OUTPUTS,
        }
    }

    /// Bytes of a matrix.
    pub fn bytes(self, outputs: usize, inputs: usize) -> usize {
        match self.bits() {
            None => outputs.saturating_mul(self.row_bytes(inputs)),
            Some(bits) => bits.packed_bytes(outputs, inputs),
        }
    }
}

impl std::str::FromStr for WeightType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|t| t.name() == text)
            .ok_or_else(|| format!("\"{text}\" is not a weight type; expected f32, bf16, q8, q4_1 or q4"))
    }
}

/// Why bytes cannot serve as a matrix.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are too few or too many.
    #[error("a {kind} matrix of {outputs} x {inputs} needs {expected} bytes, found {found}")]
    Size {
        /// Name of the type.
        kind: &'static str,
        /// Rows of the matrix.
        outputs: usize,
        /// Columns of the matrix.
        inputs: usize,
        /// Bytes needed.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// Blocks of 32 do not fit the width.
    #[error("rows of {inputs} weights cannot be stored as {kind}: expected a multiple of 32; use bf16 or f32")]
    Blocks {
        /// Name of the type.
        kind: &'static str,
        /// Columns of the matrix.
        inputs: usize,
    },
    /// There is no memory for the converted weights.
    #[error("there is not enough memory for the converted weights: {0}")]
    Memory(std::io::Error),
    /// A weight is infinite or not a number.
    #[error("weight {index} of row {row} is {value}, expected a finite number; the checkpoint is broken")]
    NotFinite {
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        index: usize,
        /// The value found.
        value: f32,
    },
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
    /// A matrix that lies in `owner` at `range`: row-major and little-endian if dense, otherwise packed as
    /// [`crate::quant`] says. Nothing is copied.
    ///
    /// # Errors
    /// The range does not hold exactly `outputs * inputs` elements.
    pub fn in_place(
        kind: WeightType,
        outputs: usize,
        inputs: usize,
        owner: SharedBytes,
        range: std::ops::Range<usize>,
    ) -> Result<Self, WeightsError> {
        let expected = kind.bytes(outputs, inputs);
        let found = (*owner).as_ref().get(range.clone()).map_or(0, <[u8]>::len);
        if expected != found {
            return Err(WeightsError::Size { kind: kind.name(), outputs, inputs, expected, found });
        }
        Ok(Self { kind, outputs, inputs, owner, start: range.start, bytes: found })
    }

    /// A matrix of f32 values in memory.
    ///
    /// # Errors
    /// `values` does not hold exactly `outputs * inputs` elements.
    pub fn from_f32(outputs: usize, inputs: usize, values: &[f32]) -> Result<Self, WeightsError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self::in_place(WeightType::F32, outputs, inputs, Arc::new(bytes), range)
    }

    /// The same matrix in another type, converted by all threads of the pool.
    ///
    /// # Errors
    /// The width is not a multiple of 32 though the type needs it, or a weight is not a finite number.
    pub fn convert(&self, kind: WeightType, pool: &mut Pool) -> Result<Self, WeightsError> {
        match kind == self.kind {
            true => Ok(self.clone()),
            false => Self::from_rows(kind, self.outputs, self.inputs, pool, |i, out| self.row(i, out)),
        }
    }

    /// A matrix whose row `i` is what `row(i, out)` writes, converted by all threads of the pool.
    ///
    /// # Errors
    /// As [`Weights::convert`].
    pub fn from_rows(
        kind: WeightType,
        outputs: usize,
        inputs: usize,
        pool: &mut Pool,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self, WeightsError> {
        let isa = pool.isa();
        Self::from_tiles(kind, outputs, inputs, pool, |tile, out| {
            let mut rows = vec![vec![0.0; inputs]; tile.len()];
            for (values, i) in rows.iter_mut().zip(tile) {
                row(i, values);
                if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                    return Err(WeightsError::NotFinite { row: i, index, value: values[index] });
                }
            }
            let elements = rows.iter().flatten();
            match kind.bits() {
                Some(bits) => {
                    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                    // SAFETY: a pool's instruction set is available.
                    unsafe { quant::pack(isa, bits, &rows, inputs, out) };
                }
                None if kind == WeightType::F32 => {
                    out.chunks_exact_mut(4).zip(elements).for_each(|(o, v)| o.copy_from_slice(&v.to_le_bytes()));
                }
                None => {
                    let halves = elements.map(|v| f32_to_bf16(*v));
                    out.chunks_exact_mut(2).zip(halves).for_each(|(o, v)| o.copy_from_slice(&v.to_le_bytes()));
                }
            }
            Ok(())
        })
    }

    /// A matrix of blocks that are already quantised: `block(i, b)` gives block `b` of row `i`. Nothing is rounded.
    ///
    /// # Errors
    /// As [`Weights::convert`]; scale and minimum stand for all weights of their block.
    pub fn from_blocks(
        bits: Bits,
        outputs: usize,
        inputs: usize,
        pool: &mut Pool,
        block: impl Fn(usize, usize) -> Quants + Sync,
    ) -> Result<Self, WeightsError> {
        let kind = match bits {
            Bits::Eight => WeightType::Q8,
            Bits::Four => WeightType::Q4,
            Bits::FourMin => WeightType::Q4Min,
        };
        let isa = pool.isa();
        Self::from_tiles(kind, outputs, inputs, pool, |tile, out| {
            let bad = std::cell::Cell::new(None);
            let checked = |o: usize, b: usize| {
                let quants = block(tile.start + o, b);
                for part in [quants.scale, quants.min] {
                    if !part.is_finite() {
                        bad.set(Some((tile.start + o, b * quant::BLOCK, part.to_f32())));
                    }
                }
                quants
            };
            // SAFETY: a pool's instruction set is available.
            unsafe { quant::pack_blocks(isa, bits, tile.len(), inputs, out, checked) };
            match bad.into_inner() {
                Some((row, index, value)) => Err(WeightsError::NotFinite { row, index, value }),
                None => Ok(()),
            }
        })
    }

    /// A matrix made tile by tile, each of 16 rows and by one thread: `fill(rows, out)` writes a tile.
    fn from_tiles(
        kind: WeightType,
        outputs: usize,
        inputs: usize,
        pool: &mut Pool,
        fill: impl Fn(std::ops::Range<usize>, &mut [u8]) -> Result<(), WeightsError> + Sync,
    ) -> Result<Self, WeightsError> {
        if kind.bits().is_some() && !inputs.is_multiple_of(quant::BLOCK) {
            return Err(WeightsError::Blocks { kind: kind.name(), inputs });
        }
        let total = kind.bytes(outputs, inputs);
        let mut out = Memory::new(total).map_err(WeightsError::Memory)?;
        let tile_bytes = OUTPUTS * kind.row_bytes(inputs);
        let failed = std::sync::Mutex::new(None);
        {
            let shared = SharedMut::new(out.bytes_mut());
            pool.run(outputs.div_ceil(OUTPUTS), |tile| {
                let rows = tile * OUTPUTS..((tile + 1) * OUTPUTS).min(outputs);
                let start = tile * tile_bytes;
                // SAFETY: each tile has its own part of the result.
                let part = unsafe { shared.slice(start, tile_bytes.min(total - start)) };
                if let Err(e) = fill(rows, part) {
                    *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
                }
            });
        }
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Self::in_place(kind, outputs, inputs, Arc::new(out), 0..total),
        }
    }

    /// Looks through every weight of a dense matrix with all threads, at about the speed of reading it.
    ///
    /// # Errors
    /// A weight is infinite or not a number; the first of some row is named.
    pub fn check_finite(&self, pool: &mut Pool) -> Result<(), WeightsError> {
        /// Rows of a task.
        const ROWS: usize = 64;
        let bad = std::sync::atomic::AtomicUsize::new(usize::MAX);
        let (size, data) = (self.kind.row_bytes(self.inputs), self.data());
        if self.kind.bits().is_some() {
            return Ok(());
        }
        pool.run(self.outputs.div_ceil(ROWS), |task| {
            let end = ((task + 1) * ROWS).min(self.outputs);
            let part = &data[task * ROWS * size..end * size];
            // An exponent of all ones is an infinity or no number. Folding keeps the loop free of branches.
            let found = match self.kind {
                WeightType::F32 => part.chunks_exact(4).fold(false, |bad, b| {
                    bad | (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7F80_0000 == 0x7F80_0000)
                }),
                _ => part
                    .chunks_exact(2)
                    .fold(false, |bad, b| bad | (u16::from_le_bytes([b[0], b[1]]) & 0x7F80 == 0x7F80)),
            };
            if found {
                bad.fetch_min(task * ROWS, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let first = bad.into_inner();
        let mut values = vec![0.0; self.inputs];
        for row in first..self.outputs {
            self.row(row, &mut values);
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                return Err(WeightsError::NotFinite { row, index, value: values[index] });
            }
        }
        Ok(())
    }

    /// A matrix of pseudo-random weights of about the size trained ones have, made quickly: for measurements only.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn random(kind: WeightType, outputs: usize, inputs: usize, seed: u64) -> std::io::Result<Self> {
        let bytes = kind.bytes(outputs, inputs);
        let mut out = Memory::new(bytes)?;
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let small = |n: u64| (n as f32 / (1u64 << 30) as f32 - 1.0) / (inputs as f32).sqrt();
        // A stretch of random weights, repeated: the values do not matter, reading them does.
        let pattern: Vec<u8> = match kind.bits() {
            None if kind == WeightType::F32 => (0..1 << 15).flat_map(|_| small(next()).to_le_bytes()).collect(),
            None => (0..1 << 15).flat_map(|_| f32_to_bf16(small(next())).to_le_bytes()).collect(),
            Some(bits) => {
                let scale =
                    half::f16::from_f32(1.0 / (inputs as f32).sqrt() / if bits == Bits::Eight { 127.0 } else { 8.0 });
                let one = |next: &mut dyn FnMut() -> u64| {
                    let scales = std::iter::repeat_n(scale.to_le_bytes(), bits.header() / 2).flatten();
                    // Bytes of 0 would be -128, which the 8-bit type does not use.
                    let values = (0..2 * bits.block_bytes()).map(|_| (next() as u8).max(1)).collect::<Vec<_>>();
                    scales.chain(values).collect::<Vec<u8>>()
                };
                (0..64).flat_map(|_| one(&mut next)).collect()
            }
        };
        out.bytes_mut().chunks_mut(pattern.len()).for_each(|c| c.copy_from_slice(&pattern[..c.len()]));
        Ok(Self { kind, outputs, inputs, owner: Arc::new(out), start: 0, bytes })
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

    /// The matrix as it is stored: row-major and little-endian if dense, otherwise packed as [`crate::quant`] says.
    pub fn data(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.bytes]
    }

    /// Writes row `i` as f32 to `out`: the lookup of an embedding.
    ///
    /// # Panics
    /// If `i` is not below [`Weights::outputs`] or `out` is not [`Weights::inputs`] long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.inputs, "length of an embedding row");
        assert!(i < self.outputs, "an embedding row out of range");
        let size = self.kind.row_bytes(self.inputs);
        if let Some(bits) = self.kind.bits() {
            let tile = &self.data()[i / OUTPUTS * OUTPUTS * size..][..OUTPUTS * size];
            return quant::unpack(bits, tile, i % OUTPUTS, out);
        }
        let bytes = &self.data()[i * size..(i + 1) * size];
        match self.kind {
            WeightType::F32 => out
                .iter_mut()
                .zip(bytes.chunks_exact(4))
                .for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            _ => out
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
