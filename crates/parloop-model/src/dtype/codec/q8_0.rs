//! Q8_0: `x = d q`, q from -127 to 127 (`dequantize_row_q8_0` in ggml-quants.c).

use super::{half, put_half};

const BLOCK: usize = 32;
const BYTES: usize = 34;

pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(BYTES)) {
        let d = half(block);
        out.iter_mut().zip(&block[2..]).for_each(|(o, q)| *o = d * f32::from(*q as i8));
    }
}

/// The largest element becomes 127 or -127. At 8 bits a search for a better scale gains nothing worth its time.
pub fn encode(values: &[f32], out: &mut [u8]) {
    for (x, block) in values.chunks_exact(BLOCK).zip(out.chunks_exact_mut(BYTES)) {
        let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let d = put_half(block, most / 127.0);
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        for (q, x) in block[2..].iter_mut().zip(x) {
            *q = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
        }
    }
}
