//! Which kernel serves which weights on which machine.

use super::dense::{Bf16, Dense, F32};
use super::kernel::Kernel;
use super::packed::{EIGHT, FOUR, FOUR_MIN, Packed};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx2::bytes, panels, panels::Panels};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx2Vnni, Avx512, Avx512Bf16, Avx512Vnni};
use crate::simd::{Portable, Widened};
use crate::weights::WeightType;
use WeightType::{Bf16 as BF16, F32 as FLOAT, Q4, Q4Min, Q8};

/// A row: weights, the instructions needed, the least rows of a product, and the kernel.
type Entry = (WeightType, Isa, usize, &'static dyn Kernel);

/// For each type the best first. All kernels of a type that one machine may use give the same bits.
const TABLE: &[Entry] = &[
    #[cfg(target_arch = "x86_64")]
    (FLOAT, Isa::AVX512, panels::LEAST, &Panels::<F32<Avx512>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (FLOAT, Isa::AVX512, 0, &Dense::<F32<Avx512>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (FLOAT, Isa::AVX2, panels::LEAST, &Panels::<F32<Avx2>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (FLOAT, Isa::AVX2, 0, &Dense::<F32<Avx2>>::NEW),
    (FLOAT, Isa::PORTABLE, 0, &Dense::<F32<Portable>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AMX, amx::FEW + 1, &amx::Many),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AMX, 0, &amx::Few),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AVX512_BF16, 0, &Dense::<Bf16<Avx512Bf16>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AVX512, panels::LEAST, &Panels::<Bf16<Widened<Avx512>>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AVX512, 0, &Dense::<Bf16<Widened<Avx512>>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AVX2, panels::LEAST, &Panels::<avx2::halves::Few>::NEW),
    #[cfg(target_arch = "x86_64")]
    (BF16, Isa::AVX2, 0, &avx2::halves::Few),
    (BF16, Isa::PORTABLE, 0, &Dense::<Bf16<Widened<Portable>>>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AMX, amx::integer::LEAST, &amx::integer::Integer),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX512_VNNI, 0, &Packed::<Avx512Vnni, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX512, 0, &Packed::<Avx512, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX2_VNNI, bytes::LEAST, &bytes::Many::<Avx2Vnni, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX2_VNNI, 0, &bytes::Few::<Avx2Vnni, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX2, bytes::LEAST, &bytes::Many::<Avx2, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q8, Isa::AVX2, 0, &bytes::Few::<Avx2, EIGHT>::NEW),
    (Q8, Isa::PORTABLE, 0, &Packed::<Portable, EIGHT>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AMX, amx::integer::LEAST, &amx::integer::Integer),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX512_VNNI, 0, &Packed::<Avx512Vnni, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX512, 0, &Packed::<Avx512, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX2_VNNI, bytes::LEAST, &bytes::Many::<Avx2Vnni, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX2_VNNI, 0, &bytes::Few::<Avx2Vnni, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX2, bytes::LEAST, &bytes::Many::<Avx2, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4, Isa::AVX2, 0, &bytes::Few::<Avx2, FOUR>::NEW),
    (Q4, Isa::PORTABLE, 0, &Packed::<Portable, FOUR>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AMX, amx::integer::LEAST, &amx::integer::Integer),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX512_VNNI, 0, &Packed::<Avx512Vnni, FOUR_MIN>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX512, 0, &Packed::<Avx512, FOUR_MIN>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX2_VNNI, bytes::LEAST, &bytes::Many::<Avx2Vnni, FOUR_MIN>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX2_VNNI, 0, &bytes::Few::<Avx2Vnni, FOUR_MIN>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX2, bytes::LEAST, &bytes::Many::<Avx2, FOUR_MIN>::NEW),
    #[cfg(target_arch = "x86_64")]
    (Q4Min, Isa::AVX2, 0, &bytes::Few::<Avx2, FOUR_MIN>::NEW),
    (Q4Min, Isa::PORTABLE, 0, &Packed::<Portable, FOUR_MIN>::NEW),
];

/// The kernel for weights of a type in a call of so many rows, of which a product takes some.
///
/// # Panics
/// If a type has no row that every machine can use (a test sees to that).
pub(super) fn kernel(kind: WeightType, isa: Isa, all: usize, rows: usize) -> &'static dyn Kernel {
    let fits = |(of, needs, least, kernel): &&Entry| {
        let rows = if kernel.laid_out_by_call() { all } else { rows };
        *of == kind && isa.has(*needs) && rows >= *least
    };
    match TABLE.iter().find(fits) {
        Some((.., kernel)) => *kernel,
        None => unreachable!("no kernel for {} weights", kind.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_kernel_on_every_machine() {
        for kind in WeightType::ALL {
            assert!(!kernel(kind, Isa::PORTABLE, 1, 1).name().is_empty());
        }
    }
}
