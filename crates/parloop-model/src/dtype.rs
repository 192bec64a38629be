//! Element types of a checkpoint's tensors.

pub mod codec;

/// How the elements of a tensor are stored, always little-endian.
///
/// The first three stand in safetensors and GGUF files. The others stand in GGUF files only: they store the elements of
/// a row in blocks of [`DType::block`] elements that share a scale ([`codec`] has the layouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    BF16,
    /// 8 bits and a scale for 32 elements: 8.5 bits.
    Q8_0,
    /// 4 bits and a scale for 32 elements: 4.5 bits.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 elements: 5 bits.
    Q4_1,
    /// 5 bits and a scale for 32 elements: 5.5 bits.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 elements: 6 bits.
    Q5_1,
    /// 4 bits in 8 groups of 32 elements, whose scales and minima have 6 bits: 4.5 bits.
    Q4K,
    /// 5 bits in 8 groups of 32 elements, whose scales and minima have 6 bits: 5.5 bits.
    Q5K,
    /// 6 bits in 16 groups of 16 elements, whose scales have 8 bits: 6.5625 bits.
    Q6K,
}

impl DType {
    /// Every type, the plain ones first.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements and bytes of a block; a row holds a whole number of blocks. Plain types have blocks of one element.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Whether elements share scales.
    pub fn is_block(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of a row of `width` elements; `None` if the width is no whole number of blocks, or absurd.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        width.is_multiple_of(elements).then(|| (width / elements).checked_mul(bytes)).flatten()
    }

    /// Bits of an element, its share of the scales included.
    pub fn bits(self) -> f64 {
        let (elements, bytes) = self.block();
        (8 * bytes) as f64 / elements as f64
    }

    /// The name as `parloop inspect` and `torch_dtype` show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DType;

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(DType::F32.row_bytes(3), Some(12));
        assert_eq!(DType::Q4_0.row_bytes(64), Some(36));
        assert_eq!(DType::Q6K.row_bytes(512), Some(420));
        assert_eq!(DType::F16.row_bytes(usize::MAX), None);
        for kind in DType::ALL {
            assert_eq!(kind.row_bytes(257).is_none(), kind.is_block());
        }
    }
}
