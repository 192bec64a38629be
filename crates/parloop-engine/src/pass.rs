//! One pass of rows over the weights.

use crate::model::Layer;
use crate::{Engine, Sequence};
use parloop_kernels::ops::{Rotation, rms_norm_safe, sigmoid, swiglu_safe};
use parloop_kernels::{Attend, Branch, Effect, Norm, Op, Product, Projector, Weights, attend};
use parloop_model::{FeedForward, Gate, KvMode, Linear};
use std::ops::Range;

/// Where a row belongs, and how far it goes. Rows of a pass are ordered by loop, and within a loop by sequence and
/// position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Index into the sequences of the pass.
    pub sequence: usize,
    /// Loop, counted from 0.
    pub r: usize,
    /// Position in the sequence; the rotary embedding uses it in every loop.
    pub position: usize,
    /// Layers that the row goes through. In the next one, if there is one, it only gives keys and values.
    pub depth: usize,
}

/// Buffers that live from pass to pass.
#[derive(Default)]
pub(crate) struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    y: Vec<f32>,
    gates: Vec<f32>,
    inner: Vec<f32>,
    /// Results that cannot go where they belong at once: because of a bias, or of a norm on the way out.
    spare: Vec<f32>,
    rotations: Vec<Rotation>,
}

/// Consecutive rows of one (sequence, loop) at consecutive positions.
struct Run {
    sequence: usize,
    r: usize,
    rows: Range<usize>,
    first: usize,
}

fn runs(rows: &[Row]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match runs.last_mut() {
            Some(run)
                if (run.sequence, run.r) == (row.sequence, row.r) && run.first + run.rows.len() == row.position =>
            {
                run.rows.end += 1;
            }
            _ => runs.push(Run { sequence: row.sequence, r: row.r, rows: i..i + 1, first: row.position }),
        }
    }
    runs
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Engine {
    /// Pushes `self.rows` through the layers; `self.x` holds their inputs `[rows][d]`. Rows that are not needed any
    /// more are left out layer by layer; in the end `self.rows` are those that went through all layers, and `self.x` their
    /// outputs. Room for keys and values must have been made ([`Sequence::reserve`]).
    pub(crate) fn pass(&mut self, sequences: &mut [&mut Sequence]) {
        let model = self.model.clone();
        self.scratch.rotations.resize(self.rows.len(), Rotation::default());
        for (i, row) in self.rows.iter().enumerate() {
            if i > 0 && self.rows[i - 1].position == row.position {
                self.scratch.rotations[i] = self.scratch.rotations[i - 1].clone();
            } else {
                model.rope.at(row.position, &mut self.scratch.rotations[i]);
            }
        }
        for (n, layer) in model.layers.iter().enumerate() {
            if self.rows.is_empty() {
                break;
            }
            self.layer_rows += self.rows.len() as u64;
            self.layer(layer, n, sequences);
        }
    }

    /// Leaves out the rows whose depth is `n`.
    fn compact(&mut self, n: usize) {
        let d = self.model.config().hidden_size;
        let mut kept = 0;
        for i in 0..self.rows.len() {
            if self.rows[i].depth > n {
                self.rows[kept] = self.rows[i];
                self.x.copy_within(i * d..(i + 1) * d, kept * d);
                self.scratch.rotations.swap(kept, i);
                kept += 1;
            }
        }
        self.rows.truncate(kept);
    }

    fn layer(&mut self, layer: &Layer, n: usize, sequences: &mut [&mut Sequence]) {
        let model = self.model.clone();
        let c = model.config();
        let (d, width, heads) = (c.hidden_size, c.query_width(), c.num_attention_heads);
        let (recipe, eps) = (&c.recipe, c.rms_norm_eps);
        let written = self.store(layer, n, sequences);
        if self.rows.is_empty() {
            return written.iter().for_each(|run| sequences[run.sequence].kv[run.r][n].shrink(&mut self.spares));
        }
        let (rows, live) = (&self.rows, self.rows.len());
        let Scratch { q, y, gates, inner, spare, .. } = &mut self.scratch;
        let x = &mut self.x[..live * d];
        let q = &q[..live * width];

        let windowed = recipe.kv == KvMode::Shared && recipe.local.is_some();
        let later = rows.partition_point(|row| row.r == 0);
        let gates = sized(gates, (live - later) * heads);
        if let (true, Some(gate)) = (windowed && later < live, &layer.gate) {
            match gate {
                Gate::Hidden { weight, norm, .. } => {
                    let norm = Some(Norm { weight: norm, eps });
                    let product = Product { weights: weight, rows: 0..live - later, effect: Effect::Store, out: gates };
                    self.on.project(Op::Gate, &x[later * d..], d, norm, &mut [product]);
                }
                Gate::Query { weight, .. } => query_gate(weight, &q[later * width..], gates, heads),
            }
            for row in gates.chunks_exact_mut(heads) {
                row.iter_mut().zip(gate.bias()).for_each(|(g, b)| *g = sigmoid(*g + b));
            }
        }

        let y = sized(y, live * width);
        let attends: Vec<Attend<'_>> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let kv = &sequences[row.sequence].kv;
                let cache = if recipe.kv == KvMode::Shared { 0 } else { row.r };
                let global = Branch { kv: &kv[cache][n], first: 0, last: row.position };
                let local = recipe.local.filter(|_| windowed && row.r > 0).map(|local| {
                    let ring = &kv[row.r][n];
                    let first = row.position.saturating_sub(local.left).max(ring.range().start);
                    (Branch { kv: ring, first, last: row.position }, &gates[(i - later) * heads..][..heads])
                });
                Attend { global, local }
            })
            .collect();
        attend(&mut self.on, heads, q, &attends, y);
        written.iter().for_each(|run| sequences[run.sequence].kv[run.r][n].shrink(&mut self.spares));

        let out_norm = layer.attention_out_norm.as_ref().map(|weight| Norm { weight, eps });
        join(&mut self.on, Op::Output, y, &layer.o, out_norm, spare, x);

        let inner = sized(inner, live * c.intermediate_size);
        let norm = Some(Norm { weight: &layer.post_norm, eps });
        let FeedForward::Dense { gate_proj, up_proj, down_proj } = &layer.feed_forward;
        let (gate, up, rows) = (&gate_proj.weight, &up_proj.weight, 0..live);
        // One product for both, unless something stands between them.
        if gate_proj.bias.is_some() || up_proj.bias.is_some() || gate.kind() != up.kind() {
            let spare = sized(spare, inner.len());
            let mut products = [
                Product { weights: gate, rows: rows.clone(), effect: Effect::Store, out: inner },
                Product { weights: up, rows, effect: Effect::Store, out: spare },
            ];
            self.on.project(Op::FeedForwardIn, x, d, norm, &mut products);
            add_bias(inner, &gate_proj.bias);
            add_bias(spare, &up_proj.bias);
            swiglu_safe(&self.on, inner, spare);
        } else {
            let mut products = [Product { weights: gate, rows, effect: Effect::SwiGlu(up), out: inner }];
            self.on.project(Op::FeedForwardIn, x, d, norm, &mut products);
        }
        let out_norm = layer.feed_forward_out_norm.as_ref().map(|weight| Norm { weight, eps });
        join(&mut self.on, Op::FeedForwardOut, inner, down_proj, out_norm, spare, x);
    }

    /// Queries, keys and values of a layer's rows: keys and values go to their caches and rings, queries to the scratch
    /// space. Then rows that go no further are left out. Returns whose keys and values were written.
    fn store(&mut self, layer: &Layer, n: usize, sequences: &mut [&mut Sequence]) -> Vec<Run> {
        let model = self.model.clone();
        let c = model.config();
        let (d, width, kv_width) = (c.hidden_size, c.query_width(), c.kv_width());
        let norm = Some(Norm { weight: &layer.input_norm, eps: c.rms_norm_eps });
        let count = self.rows.len();
        // Rows are ordered by loop, so those with keys of their own come first.
        let own = self.rows.partition_point(|row| c.recipe.has_own_kv(row.r));
        let live = self.rows.iter().filter(|row| row.depth > n).count();
        let Scratch { q, k, v, .. } = &mut self.scratch;
        let (q, k, v) = (sized(q, live * width), sized(k, own * kv_width), sized(v, own * kv_width));
        let query = Product { weights: &layer.q.weight, rows: 0..live, effect: Effect::Store, out: q };
        let keys = Product { weights: &layer.k.weight, rows: 0..own, effect: Effect::Store, out: k };
        let values = Product { weights: &layer.v.weight, rows: 0..own, effect: Effect::Store, out: v };
        if live == count {
            self.on.project(Op::Qkv, &self.x[..count * d], d, norm, &mut [query, keys, values]);
        } else {
            self.on.project(Op::Qkv, &self.x[..count * d], d, norm, &mut [keys, values]);
        }
        let began = self.on.profile.start();
        let Scratch { k, v, rotations, spare, .. } = &mut self.scratch;
        let (k, v) = (&mut k[..own * kv_width], &mut v[..own * kv_width]);
        add_bias(k, &layer.k.bias);
        add_bias(v, &layer.v.bias);
        norm_heads(&self.on, k, &layer.k_norm, c.rms_norm_eps, spare);
        k.chunks_exact_mut(kv_width).zip(&*rotations).for_each(|(k, turn)| turn.apply(k));
        self.on.profile.add(Op::Rope, began, 0);

        let began = self.on.profile.start();
        let written = runs(&self.rows[..own]);
        for run in &written {
            let kv = &mut sequences[run.sequence].kv[run.r][n];
            kv.reserve(run.first, run.rows.len(), &mut self.spares).expect("room was made before the pass");
            for (t, i) in (run.first..).zip(run.rows.clone()) {
                kv.write(t, &k[i * kv_width..][..kv_width], &v[i * kv_width..][..kv_width]);
            }
        }
        self.on.profile.add(Op::Store, began, 0);
        if live < count {
            self.compact(n);
            let q = &mut self.scratch.q[..live * width];
            let query = Product { weights: &layer.q.weight, rows: 0..live, effect: Effect::Store, out: q };
            self.on.project(Op::Qkv, &self.x[..live * d], d, norm, &mut [query]);
        }
        let began = self.on.profile.start();
        let Scratch { q, rotations, spare, .. } = &mut self.scratch;
        let q = &mut q[..live * width];
        add_bias(q, &layer.q.bias);
        norm_heads(&self.on, q, &layer.q_norm, c.rms_norm_eps, spare);
        q.chunks_exact_mut(width).zip(&*rotations).for_each(|(q, turn)| turn.apply(q));
        self.on.profile.add(Op::Rope, began, 0);
        written
    }

    /// Logits of rows of `self.x`: `Head(FinalNorm(x))`, into `self.logits`.
    pub(crate) fn head(&mut self, rows: Range<usize>) {
        let c = self.model.config();
        let d = c.hidden_size;
        let out = sized(&mut self.logits, rows.len() * c.vocab_size);
        let norm = Some(Norm { weight: &self.model.final_norm, eps: c.rms_norm_eps });
        let count = rows.len();
        self.on.project(
            Op::Head,
            &self.x[rows.start * d..rows.end * d],
            d,
            norm,
            &mut [Product { weights: &self.model.head, rows: 0..count, effect: Effect::Store, out }],
        );
    }

    /// The final norm of a row of `self.x`.
    pub(crate) fn normed(&self, row: usize, out: &mut [f32]) {
        let c = self.model.config();
        let x = &self.x[row * c.hidden_size..][..c.hidden_size];
        rms_norm_safe(&self.on, x, &self.model.final_norm, c.rms_norm_eps, out);
    }

    /// H of a row of `self.x`: what the recipe hands to the next loop.
    pub(crate) fn handed_on(&self, row: usize, out: &mut [f32]) {
        if self.model.config().recipe.norm {
            self.normed(row, out);
        } else {
            out.copy_from_slice(&self.x[row * out.len()..][..out.len()]);
        }
    }

    /// Turns a row of `self.x` that holds the token's embedding into the input of a loop r >= 2:
    /// `embedding_scale * E_t + hidden_scale * H`.
    pub(crate) fn loop_input(&mut self, row: usize, h: &[f32]) {
        let recipe = &self.model.config().recipe;
        let (e, s) = (recipe.embedding_scale.unwrap_or(0.0), recipe.hidden_scale);
        let x = &mut self.x[row * h.len()..][..h.len()];
        match recipe.embedding_scale {
            Some(_) => x.iter_mut().zip(h).for_each(|(x, h)| *x = e * *x + s * h),
            None => x.iter_mut().zip(h).for_each(|(x, h)| *x = s * h),
        }
    }
}

/// Adds a bias, if there is one, to each row.
fn add_bias(rows: &mut [f32], bias: &Option<Vec<f32>>) {
    if let Some(bias) = bias {
        rows.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b));
    }
}

/// Norms each head of each row, if the model does so.
fn norm_heads(on: &Projector, rows: &mut [f32], norm: &Option<Vec<f32>>, eps: f32, spare: &mut Vec<f32>) {
    let Some(weight) = norm else { return };
    let normed = sized(spare, weight.len());
    for head in rows.chunks_exact_mut(weight.len()) {
        rms_norm_safe(on, head, weight, eps, normed);
        head.copy_from_slice(normed);
    }
}

/// The last product of a branch, whose result joins the residual stream: `x += W y + b`, or `x += Norm(W y + b)`.
fn join(
    on: &mut Projector,
    op: Op,
    y: &[f32],
    linear: &Linear<Weights, Vec<f32>>,
    norm: Option<Norm<'_>>,
    spare: &mut Vec<f32>,
    x: &mut [f32],
) {
    let (weights, bias) = (&linear.weight, &linear.bias);
    let (d, width) = (weights.outputs(), weights.inputs());
    let rows = 0..x.len() / d;
    let Some(norm) = norm else {
        on.project(op, y, width, None, &mut [Product { weights, rows, effect: Effect::Add, out: x }]);
        return add_bias(x, bias);
    };
    let (out, normed) = sized(spare, x.len() + d).split_at_mut(x.len());
    on.project(op, y, width, None, &mut [Product { weights, rows, effect: Effect::Store, out }]);
    add_bias(out, bias);
    for (x, out) in x.chunks_exact_mut(d).zip(out.chunks_exact(d)) {
        rms_norm_safe(on, out, norm.weight, norm.eps, normed);
        x.iter_mut().zip(&*normed).for_each(|(x, y)| *x += y);
    }
}

/// g before bias and sigmoid: `<w_head, q_head>`.
fn query_gate(weight: &[f32], q: &[f32], gates: &mut [f32], heads: usize) {
    let dim = weight.len() / heads;
    for (i, g) in gates.iter_mut().enumerate() {
        let w = &weight[i % heads * dim..][..dim];
        *g = q[i * dim..][..dim].iter().zip(w).map(|(q, w)| q * w).sum();
    }
}
