//! Which instructions the kernels use: groups of features, not steps of one ladder, because processors have them in
//! many combinations (AVX2 with VNNI, AVX-512 without BF16, ...). Each kernel says what it needs
//! (`project::table`), and the first whose needs are met is taken.

use std::fmt;
use std::sync::OnceLock;

/// A set of groups of instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(u8);

/// Groups: one bit each.
const FMA: u8 = 1;
const VNNI_256: u8 = 2;
const WIDE: u8 = 4;
const VNNI_512: u8 = 8;
const BF16_512: u8 = 16;
const TILES: u8 = 32;

/// The sets that have a name, the best last. A name stands for the same kernels, and so for the same bits, on every
/// machine that has its instructions.
const NAMED: [(&str, Isa, &str); 7] = [
    ("portable", Isa::PORTABLE, "plain code, vectorised for the target's baseline"),
    ("avx2", Isa::AVX2, "AVX2, FMA, F16C"),
    ("avx2vnni", Isa::AVX2_VNNI, "avx2 and AVX-VNNI: dot products of bytes"),
    ("avx512base", Isa::AVX512, "avx2 and AVX-512 F, BW, DQ, VL"),
    ("avx512vnni", Isa::AVX512_VNNI, "avx512base and AVX-512 VNNI"),
    ("avx512", Isa(FMA | WIDE | VNNI_512 | BF16_512), "avx512vnni and AVX-512 BF16"),
    ("amx", Isa::AMX, "avx512 and matrix tiles (AMX) for bf16 and bytes"),
];

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "PARLOOP_ISA";

impl Isa {
    /// Plain Rust; the compiler vectorises for the target's baseline.
    pub const PORTABLE: Self = Self(0);
    /// AVX2, FMA and conversions of half-precision numbers.
    pub const AVX2: Self = Self(FMA);
    /// AVX2 and dot products of bytes in 256 bits (AVX-VNNI).
    pub const AVX2_VNNI: Self = Self(FMA | VNNI_256);
    /// AVX-512: F, BW, DQ, VL.
    pub const AVX512: Self = Self(FMA | WIDE);
    /// AVX-512 and dot products of bytes.
    pub const AVX512_VNNI: Self = Self(FMA | WIDE | VNNI_512);
    /// AVX-512 and dot products of bf16 numbers.
    pub const AVX512_BF16: Self = Self(FMA | WIDE | BF16_512);
    /// AVX-512 with both, and matrix tiles.
    pub const AMX: Self = Self(FMA | WIDE | VNNI_512 | BF16_512 | TILES);

    /// Whether all groups of `needed` are in this set.
    pub const fn has(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// The name as `PARLOOP_ISA` takes it; sets without a name go by the best named one that they hold.
    pub fn name(self) -> &'static str {
        NAMED.iter().rev().find(|(_, set, _)| self.has(*set)).map_or("portable", |(name, ..)| name)
    }

    /// What the set holds, in words.
    pub fn describe(self) -> &'static str {
        NAMED.iter().rev().find(|(_, set, _)| self.has(*set)).map_or("", |(.., words)| words)
    }

    /// Everything this machine has, and lets this process use.
    pub fn found() -> Self {
        #[cfg(not(target_arch = "x86_64"))]
        return Self::PORTABLE;
        #[cfg(target_arch = "x86_64")]
        {
            static FOUND: OnceLock<Isa> = OnceLock::new();
            *FOUND.get_or_init(detect)
        }
    }

    /// Every named set that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        NAMED.iter().map(|(_, set, _)| *set).filter(|set| Self::found().has(*set)).collect()
    }

    /// The best instruction set of this machine, or the one that `PARLOOP_ISA` names.
    ///
    /// # Errors
    /// `PARLOOP_ISA` names an instruction set that does not exist or that this machine lacks.
    pub fn chosen() -> Result<Self, String> {
        match std::env::var(VARIABLE).unwrap_or_default().as_str() {
            "" => Ok(Self::best()),
            name => Self::named(&name.to_lowercase()),
        }
    }

    /// The best instruction set of this machine: all it has, but dot products of bf16 only where they are fast. Without
    /// them inputs are not rounded to bf16 either.
    pub fn best() -> Self {
        Self::best_of(Self::available(), slow_halves())
    }

    fn best_of(mut available: Vec<Self>, slow_halves: bool) -> Self {
        let slow = |isa: &Self| slow_halves && isa.has(Self::AVX512_BF16) && !isa.has(Self::AMX);
        available.retain(|isa| !slow(isa));
        available.pop().unwrap_or(Self::PORTABLE)
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

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the processor has and the system saves when it switches threads; the library asks both.
#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let mut found = 0;
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        found |= FMA;
        if is_x86_feature_detected!("avxvnni") {
            found |= VNNI_256;
        }
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if wide {
            found |= WIDE;
            if is_x86_feature_detected!("avx512vnni") {
                found |= VNNI_512;
            }
            if is_x86_feature_detected!("avx512bf16") {
                found |= BF16_512;
            }
            if found & VNNI_512 != 0 && found & BF16_512 != 0 && tiles_permitted() {
                found |= TILES;
            }
        }
    }
    Isa(found)
}

/// Whether dot products of bf16 do less than multiply-adds of f32: Intel's processors begin one in about three cycles (82
/// GFLOP/s a core on Sapphire Rapids, where widened weights reach 119 with many rows and 104 with four), AMD's two in a
/// cycle.
fn slow_halves() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor has matrix tiles for bf16 and bytes, and the system lets this process use them. Linux wants
/// to be asked first, because tiles make a thread's saved state larger.
#[cfg(target_arch = "x86_64")]
fn tiles_permitted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
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
}

/// Defines a function that runs a generic kernel compiled for the widest vectors of an instruction set.
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
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
                #[cfg(target_arch = "x86_64")]
                if isa.has($crate::isa::Isa::AVX512) {
                    return avx512($($arg),*);
                } else if isa.has($crate::isa::Isa::AVX2) {
                    return avx2($($arg),*);
                }
                let _ = isa;
                $generic::<$crate::simd::Portable>($($arg),*)
            }
        }
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_its_own_and_stands_for_its_set() {
        for (i, (name, set, _)) in NAMED.iter().enumerate() {
            assert_eq!(set.name(), *name);
            assert!(NAMED[..i].iter().all(|(other, held, _)| other != name && !held.has(*set)));
        }
        // What has no name goes by the best named set in it: the kernels are those of that set.
        assert_eq!(Isa(FMA | VNNI_256 | WIDE).name(), "avx512base");
        assert_eq!(Isa::AVX512_BF16.name(), "avx512base");
    }

    #[test]
    fn slow_dot_products_are_left_out_but_not_tiles() {
        let all: Vec<Isa> = NAMED.iter().map(|(_, set, _)| *set).collect();
        let without_tiles = all[..all.len() - 1].to_vec();
        assert_eq!(Isa::best_of(all.clone(), true).name(), "amx");
        assert_eq!(Isa::best_of(without_tiles.clone(), true).name(), "avx512vnni");
        assert_eq!(Isa::best_of(without_tiles, false).name(), "avx512");
        assert!(Isa::available().contains(&Isa::best()));
    }

    #[test]
    fn only_what_the_machine_has_is_available() {
        for (name, set, _) in NAMED {
            assert_eq!(Isa::named(name).is_ok(), Isa::found().has(set), "{name}");
        }
        let refused = Isa::named("avx9").unwrap_err();
        assert!(refused.contains("PARLOOP_ISA=avx9") && refused.contains("portable"), "{refused}");
    }
}
