//! SwiGLU's element-wise part, for chunks of rows `[gate | up]` of width `2 ff`.

use super::simd;

/// `silu(gate) * up`, width `ff`.
pub(super) fn swiglu(x: &[f32], ff: usize, y: &mut [f32]) {
    simd::fast(|| {
        for (y, x) in y.chunks_exact_mut(ff).zip(x.chunks_exact(2 * ff)) {
            let (gate, up) = x.split_at(ff);
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = g * simd::sigmoid(*g) * u;
            }
        }
    });
}

/// Turns `x` into its gradient, given the gradient of the output in `y`, and `y` into the output.
/// With s = sigmoid(gate): `d gate = grad * up * s (1 + gate (1 - s))`, `d up = grad * gate * s`.
pub(super) fn back(x: &mut [f32], ff: usize, y: &mut [f32]) {
    simd::fast(|| {
        for (y, x) in y.chunks_exact_mut(ff).zip(x.chunks_exact_mut(2 * ff)) {
            let (gate, up) = x.split_at_mut(ff);
            let (y, gate, up) = (&mut y[..ff], &mut gate[..ff], &mut up[..ff]);
            for i in 0..ff {
                let (grad, g, u) = (y[i], gate[i], up[i]);
                let s = simd::sigmoid(g);
                y[i] = g * s * u;
                gate[i] = grad * u * s * (1.0 + g * (1.0 - s));
                up[i] = grad * g * s;
            }
        }
    });
}
