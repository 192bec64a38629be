//! Between rows `[q | k | v]` of all heads and the padded matrices of one unit.

use super::Heads;
use crate::ops::fused::pool::{self, Buffer};
use crate::ops::fused::simd;
use rayon::prelude::*;

/// Sizes and rotary tables of a pass.
#[derive(Debug)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub time: usize,
    pub heads: Heads,
    /// Columns of a head's matrices: D rounded up to a tile.
    pub padded: usize,
    /// `[time, D/2]`
    pub cos: Vec<f32>,
    /// `[time, D/2]`
    pub sin: Vec<f32>,
}

impl Geometry {
    pub(crate) fn new(batch: usize, time: usize, heads: Heads, cos: Vec<f32>, sin: Vec<f32>) -> Self {
        Self { batch, time, heads, padded: simd::padded(heads.size), cos, sin }
    }

    /// One unit for each sequence and key/value head.
    pub(super) fn units(&self) -> impl IndexedParallelIterator<Item = usize> {
        (0..self.batch * self.heads.kv).into_par_iter().with_max_len(1)
    }

    fn turn(&self, t: usize, from: &[f32], to: &mut [f32], sign: f32) {
        let half = self.heads.size / 2;
        let (cos, sin) = (&self.cos[t * half..(t + 1) * half], &self.sin[t * half..(t + 1) * half]);
        let (a, b) = from[..2 * half].split_at(half);
        let (x, y) = to[..2 * half].split_at_mut(half);
        for i in 0..half {
            x[i] = a[i] * cos[i] - sign * b[i] * sin[i];
            y[i] = b[i] * cos[i] + sign * a[i] * sin[i];
        }
    }

    /// First row of a unit's sequence, first query head and key/value head of the unit.
    fn place(&self, unit: usize) -> (usize, usize, usize) {
        let (sequence, kv) = (unit / self.heads.kv, unit % self.heads.kv);
        (sequence * self.time, kv * self.heads.group(), kv)
    }
}

/// Gradients of one unit, padded: queries `[group, time]`, keys and values `[time, rounded up]` rows.
pub(super) struct Unit {
    pub queries: Buffer,
    pub keys: Buffer,
    pub values: Buffer,
}

impl Unit {
    pub(super) fn new(g: &Geometry) -> Self {
        let rows = simd::padded(g.time) * g.padded;
        let queries = pool::zeroed(g.heads.group() * g.time * g.padded);
        Self { queries, keys: pool::zeroed(rows), values: pool::zeroed(rows) }
    }
}

/// From rows to a unit's matrices.
pub(super) mod gather {
    use super::*;

    /// Queries `[group, time, padded]`, turned and scaled by D^-1/2. Rows may hold more than queries.
    pub(in super::super) fn queries(g: &Geometry, unit: usize, rows: &[f32]) -> Buffer {
        let (width, size) = (rows.len() / (g.batch * g.time), g.heads.size);
        let (start, head, _) = g.place(unit);
        let scale = (size as f32).powf(-0.5);
        let mut q = pool::zeroed(g.heads.group() * g.time * g.padded);
        simd::fast(|| {
            for (i, to) in q.chunks_exact_mut(g.padded).enumerate() {
                let (h, t) = (head + i / g.time, i % g.time);
                g.turn(t, &rows[(start + t) * width + h * size..][..size], to, 1.0);
                to.iter_mut().for_each(|x| *x *= scale);
            }
        });
        q
    }

    /// Keys `[time rounded up, padded]`, turned.
    pub(in super::super) fn keys(g: &Geometry, unit: usize, rows: &[f32]) -> Buffer {
        let (width, size) = (g.heads.row_width(), g.heads.size);
        let (start, _, kv) = g.place(unit);
        let column = g.heads.query_width() + kv * size;
        let mut k = pool::zeroed(simd::padded(g.time) * g.padded);
        simd::fast(|| {
            for (t, to) in k.chunks_exact_mut(g.padded).take(g.time).enumerate() {
                g.turn(t, &rows[(start + t) * width + column..][..size], to, 1.0);
            }
        });
        k
    }

    /// Values `[time rounded up, padded]`.
    pub(in super::super) fn values(g: &Geometry, unit: usize, rows: &[f32]) -> Buffer {
        let (width, size) = (g.heads.row_width(), g.heads.size);
        let (start, _, kv) = g.place(unit);
        let column = g.heads.query_width() + g.heads.kv_width() + kv * size;
        let mut v = pool::zeroed(simd::padded(g.time) * g.padded);
        for (t, to) in v.chunks_exact_mut(g.padded).take(g.time).enumerate() {
            to[..size].copy_from_slice(&rows[(start + t) * width + column..][..size]);
        }
        v
    }

    /// The gradient of a unit's outputs, `[group, time, padded]`.
    pub(in super::super) fn outputs(g: &Geometry, unit: usize, grad: &[f32]) -> Buffer {
        let (width, size) = (g.heads.query_width(), g.heads.size);
        let (start, head, _) = g.place(unit);
        let mut dy = pool::zeroed(g.heads.group() * g.time * g.padded);
        for (i, to) in dy.chunks_exact_mut(g.padded).enumerate() {
            let (h, t) = (head + i / g.time, i % g.time);
            to[..size].copy_from_slice(&grad[(start + t) * width + h * size..][..size]);
        }
        dy
    }

    /// Gates `[group, time]`.
    pub(in super::super) fn gates(g: &Geometry, unit: usize, gate: &[f32]) -> Vec<f32> {
        let (start, head, _) = g.place(unit);
        let at = |i: usize| gate[(start + i % g.time) * g.heads.query + head + i / g.time];
        (0..g.heads.group() * g.time).map(at).collect()
    }
}

/// From the units' matrices to rows.
pub(super) mod scatter {
    use super::*;

    /// Rows `[H x D]` of the units' outputs `[group, time, padded]`.
    pub(in super::super) fn outputs<'a>(g: &Geometry, output: impl Fn(usize) -> &'a [f32] + Sync) -> Vec<f32> {
        let (heads, size) = (g.heads, g.heads.size);
        let mut y = vec![0.0; g.batch * g.time * heads.query_width()];
        y.par_chunks_exact_mut(g.time * heads.query_width()).enumerate().for_each(|(sequence, y)| {
            for kv in 0..heads.kv {
                let from = output(sequence * heads.kv + kv);
                for (i, from) in from.chunks_exact(g.padded).enumerate() {
                    let (h, t) = (kv * heads.group() + i / g.time, i % g.time);
                    y[(t * heads.query + h) * size..][..size].copy_from_slice(&from[..size]);
                }
            }
        });
        y
    }

    /// Rows of gradients of `width`: the query part if `queries`, the key and value parts if `kv`; zero elsewhere.
    pub(in super::super) fn gradients(g: &Geometry, width: usize, units: &[Unit], queries: bool, kv: bool) -> Vec<f32> {
        let (heads, size) = (g.heads, g.heads.size);
        let scale = (size as f32).powf(-0.5);
        let mut d = vec![0.0; g.batch * g.time * width];
        d.par_chunks_exact_mut(g.time * width).enumerate().for_each(|(sequence, d)| {
            simd::fast(|| {
                for head in 0..heads.kv {
                    let unit = &units[sequence * heads.kv + head];
                    if queries {
                        for (i, from) in unit.queries.chunks_exact(g.padded).enumerate() {
                            let (h, t) = (head * heads.group() + i / g.time, i % g.time);
                            let to = &mut d[t * width + h * size..][..size];
                            g.turn(t, from, to, -1.0);
                            to.iter_mut().for_each(|x| *x *= scale);
                        }
                    }
                    if kv {
                        let keys = heads.query_width() + head * size;
                        let both = unit.keys.chunks_exact(g.padded).zip(unit.values.chunks_exact(g.padded));
                        for (t, (key, value)) in both.take(g.time).enumerate() {
                            g.turn(t, key, &mut d[t * width + keys..][..size], -1.0);
                            d[t * width + keys + heads.kv_width()..][..size].copy_from_slice(&value[..size]);
                        }
                    }
                }
            });
        });
        d
    }

    /// Gradients of gates `[rows, H]`.
    pub(in super::super) fn gates(g: &Geometry, units: &[Vec<f32>]) -> Vec<f32> {
        let mut d = vec![0.0; g.batch * g.time * g.heads.query];
        for (unit, from) in units.iter().enumerate() {
            let (start, head, _) = g.place(unit);
            for (i, from) in from.iter().enumerate() {
                d[(start + i % g.time) * g.heads.query + head + i / g.time] = *from;
            }
        }
        d
    }
}
