//! Which instruction set the kernels use.

use std::sync::OnceLock;

/// An instruction set for which every kernel exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; the compiler vectorises for the target's baseline.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL) with BF16 and VNNI.
    Avx512,
}

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "PARLOOP_ISA";

impl Isa {
    /// The name as `PARLOOP_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Every instruction set that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                found.push(Self::Avx2);
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni");
                if wide {
                    found.push(Self::Avx512);
                }
            }
        }
        found
    }

    /// The best instruction set of this machine, or the one that `PARLOOP_ISA` names. Decided once per process.
    ///
    /// # Errors
    /// `PARLOOP_ISA` names an instruction set that does not exist or that this machine lacks.
    pub fn chosen() -> Result<Self, String> {
        static CHOSEN: OnceLock<Result<Isa, String>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var(VARIABLE) {
                Err(_) => Ok(Self::available().pop().unwrap_or(Self::Portable)),
                Ok(name) => Self::named(&name),
            })
            .clone()
    }

    /// The instruction set of the given name, if this machine has it.
    ///
    /// # Errors
    /// There is none of that name here.
    pub fn named(name: &str) -> Result<Self, String> {
        let available = Self::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|i| i.name()).collect();
            format!("{VARIABLE}={name} is not available; this machine has {}", names.join(", "))
        })
    }
}

/// Defines a function that runs a generic kernel compiled for the chosen instruction set.
///
/// `kernel!(fn name(args) = generic)` needs `generic::<S: Simd>(args)`, marked `#[inline(always)]` so that it takes
/// on the caller's instruction set.
macro_rules! kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $generic:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `isa` must be available on this machine; pointers as the generic kernel demands.
        $vis unsafe fn $name(isa: $crate::isa::Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: the instruction set is enabled here; the rest is the caller's promise.
                unsafe { $generic::<$crate::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { $generic::<$crate::simd::Avx2>($($arg),*) }
            }
            // SAFETY: the caller promises that `isa` is available.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx2 => avx2($($arg),*),
                    _ => $generic::<$crate::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use kernel;
