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
    /// AVX-512 and the matrix tiles (AMX) for bf16 and bytes.
    Amx,
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
            Self::Amx => "amx",
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
                    if tiles_permitted() {
                        found.push(Self::Amx);
                    }
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
            .get_or_init(|| match std::env::var(VARIABLE).unwrap_or_default().as_str() {
                "" => Ok(Self::available().pop().unwrap_or(Self::Portable)),
                name => Self::named(&name.to_lowercase()),
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

/// Whether the processor has matrix tiles for bf16 and bytes, and the system lets this process use them. Linux wants to be asked
/// first, because tiles make a thread's saved state larger.
#[cfg(target_arch = "x86_64")]
fn tiles_permitted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        // AMX-TILE, AMX-BF16, AMX-INT8.
        const TILES: u32 = 1 << 24 | 1 << 22 | 1 << 25;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILES != TILES || !cfg!(target_os = "linux") {
            return false;
        }
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) gives 0 if the process may use tiles; threads started
        // later inherit it.
        let (call, request, feature) = (158usize, 0x1023usize, 18usize);
        let result: isize;
        // SAFETY: a system call without pointers; it changes nothing but this permission.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") call => result, in("rdi") request, in("rsi") feature,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result == 0
    })
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
                    $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx2 => avx2($($arg),*),
                    _ => $generic::<$crate::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use kernel;
