//! Operations on single rows: norms, rotary embedding, SwiGLU's activation.

use crate::isa::kernel;
use crate::simd::Simd;

/// `1 / sqrt(mean(x^2) + eps)`: the factor of RMSNorm.
#[inline(always)]
pub(crate) unsafe fn rms_scale<S: Simd>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: the instruction set is the caller's promise; loads stay inside `x`.
    unsafe {
        let mut acc = [S::zero(); 4];
        let step = 4 * S::LANES;
        let whole = x.len() - x.len() % step;
        let mut i = 0;
        while i < whole {
            for j in 0..4 {
                let v = S::load(x.as_ptr().add(i + j * S::LANES));
                acc[j] = S::fma(v, v, acc[j]);
            }
            i += step;
        }
        let mut sum = S::reduce_add(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])));
        for v in &x[whole..] {
            sum += v * v;
        }
        1.0 / (sum / x.len() as f32 + eps).sqrt()
    }
}

#[inline(always)]
unsafe fn rms_norm_generic<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    let scale = unsafe { rms_scale::<S>(x, eps) };
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

kernel! {
    /// RMSNorm of one row: `out = x / sqrt(mean(x^2) + eps) * weight`.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_generic
}

/// `silu(g) * u`
#[inline(always)]
unsafe fn silu_mul<S: Simd>(g: S::V, u: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { S::mul(S::div(g, S::add(S::splat(1.0), S::exp(S::sub(S::zero(), g)))), u) }
}

#[inline(always)]
unsafe fn swiglu_generic<S: Simd>(gate: &mut [f32], up: &[f32]) {
    let n = gate.len().min(up.len());
    let whole = n - n % S::LANES;
    // SAFETY: the instruction set is the caller's promise; the tail goes through padded buffers.
    unsafe {
        let mut i = 0;
        while i < whole {
            let v = silu_mul::<S>(S::load(gate.as_ptr().add(i)), S::load(up.as_ptr().add(i)));
            S::store(gate.as_mut_ptr().add(i), v);
            i += S::LANES;
        }
        if whole < n {
            let (mut g, mut u) = ([0.0; 16], [0.0; 16]);
            g[..n - whole].copy_from_slice(&gate[whole..n]);
            u[..n - whole].copy_from_slice(&up[whole..n]);
            let v = silu_mul::<S>(S::load(g.as_ptr()), S::load(u.as_ptr()));
            S::store(g.as_mut_ptr(), v);
            gate[whole..n].copy_from_slice(&g[..n - whole]);
        }
    }
}

/// `gate = silu(gate) * up`, elementwise, inside a kernel.
#[inline(always)]
pub(crate) unsafe fn swiglu_inline<S: Simd>(gate: &mut [f32], up: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { swiglu_generic::<S>(gate, up) }
}

kernel! {
    /// SwiGLU's elementwise part: `gate = silu(gate) * up`.
    pub fn swiglu(gate: &mut [f32], up: &[f32]) = swiglu_generic
}

/// The rotation of one position: `cos` and `sin` of each pair's angle, times the factor of its [`Rope`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// D
    head: usize,
}

/// Rotary embedding, half-split: pairs (i, i + D/2) turn by `t * frequencies[i]` at position t. With fewer frequencies than
/// D/2, n of them, pairs (i, i + n) of the first 2 n dimensions turn.
#[derive(Clone, Debug)]
pub struct Rope {
    frequencies: Vec<f64>,
    factor: f32,
    head: usize,
}

impl Rope {
    /// For heads of `head` dimensions; what is rotated is multiplied by `factor` (1, or YaRN's).
    ///
    /// # Panics
    /// If there are more frequencies than pairs in a head.
    pub fn new(frequencies: Vec<f64>, factor: f32, head: usize) -> Self {
        assert!(2 * frequencies.len() <= head, "frequencies of a head");
        Self { frequencies, factor, head }
    }

    /// Computes the rotation of position `t` into `out`, in double precision: at position 100 000 single precision
    /// would be off by whole degrees.
    pub fn at(&self, t: usize, out: &mut Rotation) {
        out.head = self.head;
        out.cos.clear();
        out.sin.clear();
        for f in &self.frequencies {
            let (sin, cos) = (t as f64 * f).sin_cos();
            out.cos.push(cos as f32 * self.factor);
            out.sin.push(sin as f32 * self.factor);
        }
    }
}

impl Rotation {
    /// Turns every head of a row `[heads * D]`.
    pub fn apply(&self, row: &mut [f32]) {
        let half = self.cos.len();
        for head in row.chunks_exact_mut(self.head) {
            let (a, b) = head[..2 * half].split_at_mut(half);
            for i in 0..half {
                let (x, y) = (a[i], b[i]);
                a[i] = x * self.cos[i] - y * self.sin[i];
                b[i] = y * self.cos[i] + x * self.sin[i];
            }
        }
    }
}

/// Logistic function.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// SwiGLU's elementwise part, `gate = silu(gate) * up`, on a projector's instruction set: for products that cannot
/// have it as their effect.
///
/// # Panics
/// If the lengths differ.
pub fn swiglu_safe(on: &crate::Projector, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "lengths of SwiGLU");
    // SAFETY: a projector's instruction set is available.
    unsafe { swiglu(on.isa(), gate, up) }
}

/// RMSNorm of one row on a projector's instruction set.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm_safe(on: &crate::Projector, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths of a norm");
    // SAFETY: a projector's instruction set is available.
    unsafe { rms_norm(on.isa(), x, weight, eps, out) }
}
