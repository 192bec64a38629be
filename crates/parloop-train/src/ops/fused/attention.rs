//! Causal attention with grouped heads: full, to loop 1's keys and values, and gated with a sliding window.
//!
//! A unit of work is one sequence and one key/value head with the query heads that share it. It copies the head's
//! rows into small matrices (turning queries and keys by RoPE on the way) and walks over blocks of queries; only
//! keys that a block may see are touched. Nothing of size T x T is kept: the backward pass computes the probabilities
//! again from the stored log-sums, as FlashAttention does (Dao et al., 2022).

mod head;
mod rows;

use super::HostOp;
use super::pool::Buffer;
use crate::ops::Heads;
use head::{Branch, Keys, Scratch, backward, forward};
use rayon::prelude::*;
pub(crate) use rows::Geometry;
use rows::{Unit, gather, scatter};
use std::sync::Arc;

/// Attention of rows `[q | k | v]` among themselves.
#[derive(Clone, Debug)]
pub(crate) struct Attention(pub Arc<Geometry>);

/// Attention of queries `[q]` to the keys and values of other rows `[q | k | v]`.
#[derive(Clone, Debug)]
pub(crate) struct SharedAttention(pub Arc<Geometry>);

/// `gate * global + (1 - gate) * local` for rows `[q | k | v]`, loop 1's rows and a gate `[rows, H]`; local sees
/// `left` keys before its own.
#[derive(Clone, Debug)]
pub(crate) struct GatedAttention(pub Arc<Geometry>, pub usize);

impl HostOp<1> for Attention {
    type Saved = Arc<Vec<Branch>>;

    fn forward(&self, [rows]: [&[f32]; 1]) -> (Vec<f32>, Self::Saved) {
        let g = &*self.0;
        let branches: Vec<Branch> = g
            .units()
            .map(|unit| forward(&gather::queries(g, unit, rows), &Keys::new(g, unit, rows), g.time, None))
            .collect();
        (scatter::outputs(g, |unit| &branches[unit].output[..]), Arc::new(branches))
    }

    fn backward(&self, [rows]: [&[f32]; 1], saved: Self::Saved, grad: &[f32]) -> [Vec<f32>; 1] {
        let g = &*self.0;
        let units: Vec<Unit> = g
            .units()
            .map(|unit| {
                let mut found = Unit::new(g);
                let (q, dy) = (gather::queries(g, unit, rows), gather::outputs(g, unit, grad));
                backward(
                    &q,
                    &Keys::new(g, unit, rows),
                    &saved[unit],
                    &dy,
                    g.time,
                    None,
                    &mut found,
                    &mut Scratch::default(),
                );
                found
            })
            .collect();
        [scatter::gradients(g, g.heads.row_width(), &units, true, true)]
    }
}

impl HostOp<2> for SharedAttention {
    type Saved = Arc<Vec<Branch>>;

    fn forward(&self, [rows, first]: [&[f32]; 2]) -> (Vec<f32>, Self::Saved) {
        let g = &*self.0;
        let branches: Vec<Branch> = g
            .units()
            .map(|unit| forward(&gather::queries(g, unit, rows), &Keys::new(g, unit, first), g.time, None))
            .collect();
        (scatter::outputs(g, |unit| &branches[unit].output[..]), Arc::new(branches))
    }

    fn backward(&self, [rows, first]: [&[f32]; 2], saved: Self::Saved, grad: &[f32]) -> [Vec<f32>; 2] {
        let g = &*self.0;
        let units: Vec<Unit> = g
            .units()
            .map(|unit| {
                let mut found = Unit::new(g);
                let (q, dy) = (gather::queries(g, unit, rows), gather::outputs(g, unit, grad));
                backward(
                    &q,
                    &Keys::new(g, unit, first),
                    &saved[unit],
                    &dy,
                    g.time,
                    None,
                    &mut found,
                    &mut Scratch::default(),
                );
                found
            })
            .collect();
        [
            scatter::gradients(g, g.heads.query_width(), &units, true, false),
            scatter::gradients(g, g.heads.row_width(), &units, false, true),
        ]
    }
}

impl HostOp<3> for GatedAttention {
    /// The global and the local branch of each unit.
    type Saved = Arc<Vec<(Branch, Branch)>>;

    fn forward(&self, [rows, first, gate]: [&[f32]; 3]) -> (Vec<f32>, Self::Saved) {
        let g = &*self.0;
        let (branches, mixed): (Vec<(Branch, Branch)>, Vec<Buffer>) = g
            .units()
            .map(|unit| {
                let q = gather::queries(g, unit, rows);
                let global = forward(&q, &Keys::new(g, unit, first), g.time, None);
                let local = forward(&q, &Keys::new(g, unit, rows), g.time, Some(self.1));
                let gates = gather::gates(g, unit, gate);
                let mut mixed = local.output.clone();
                let heads = mixed.chunks_exact_mut(g.padded).zip(global.output.chunks_exact(g.padded));
                for ((y, global), gate) in heads.zip(&gates) {
                    y.iter_mut().zip(global).for_each(|(y, global)| *y += gate * (global - *y));
                }
                ((global, local), mixed)
            })
            .unzip();
        (scatter::outputs(g, |unit| &mixed[unit][..]), Arc::new(branches))
    }

    fn backward(&self, [rows, first, gate]: [&[f32]; 3], saved: Self::Saved, grad: &[f32]) -> [Vec<f32>; 3] {
        let g = &*self.0;
        let units: Vec<(Unit, Unit, Vec<f32>)> = g
            .units()
            .map(|unit| {
                let (mut of_first, mut own) = (Unit::new(g), Unit::new(g));
                let mut scratch = Scratch::default();
                let (q, dy) = (gather::queries(g, unit, rows), gather::outputs(g, unit, grad));
                let gates = gather::gates(g, unit, gate);
                let (global, local) = &saved[unit];
                let (mut dglobal, mut dlocal) = (dy.clone(), dy);
                let mut dgate = vec![0.0; gates.len()];
                for (i, gate) in gates.iter().enumerate() {
                    let at = i * g.padded..(i + 1) * g.padded;
                    for j in at {
                        dgate[i] += dglobal[j] * (global.output[j] - local.output[j]);
                        dglobal[j] *= gate;
                        dlocal[j] *= 1.0 - gate;
                    }
                }
                backward(&q, &Keys::new(g, unit, first), global, &dglobal, g.time, None, &mut of_first, &mut scratch);
                // The query's gradient is the sum of both branches'.
                own.queries = std::mem::take(&mut of_first.queries);
                backward(&q, &Keys::new(g, unit, rows), local, &dlocal, g.time, Some(self.1), &mut own, &mut scratch);
                (own, of_first, dgate)
            })
            .collect();
        let (mut own, mut of_first, mut dgates) = (Vec::new(), Vec::new(), Vec::new());
        for (a, b, c) in units {
            own.push(a);
            of_first.push(b);
            dgates.push(c);
        }
        let width = g.heads.row_width();
        [
            scatter::gradients(g, width, &own, true, true),
            scatter::gradients(g, width, &of_first, false, true),
            scatter::gates(g, &dgates),
        ]
    }
}
