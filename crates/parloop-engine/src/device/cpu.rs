//! The processor: all threads on one layer after another.

mod experts;

use super::{Device, Pass, Written};
use crate::Model;
use crate::model::Layer;
use parloop_kernels::ops::{Rotation, rms_norm_safe, sigmoid, swiglu_safe};
use parloop_kernels::{Attend, Bias, Effect, Norm, Op, Product, Projector, Weights, attend};
use parloop_model::{FeedForward, Gate, KvMode, Linear, ModelConfig};

/// The host's own kernels, and buffers that live from pass to pass.
#[derive(Default)]
pub struct Cpu {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    y: Vec<f32>,
    gates: Vec<f32>,
    inner: Vec<f32>,
    /// Results that cannot go where they belong at once.
    spare: Vec<f32>,
    rotations: Vec<Rotation>,
    routes: experts::Routes,
}

impl Device for Cpu {
    fn pass(&mut self, host: &mut Projector, mut pass: Pass<'_, '_>) {
        let model = pass.model;
        self.rotations.resize(pass.rows.len(), Rotation::default());
        for (i, row) in pass.rows.iter().enumerate() {
            if i > 0 && pass.rows[i - 1].position == row.position {
                self.rotations[i] = self.rotations[i - 1].clone();
            } else {
                model.rope().at(row.position, &mut self.rotations[i]);
            }
        }
        for (n, layer) in model.layers().iter().enumerate() {
            if pass.rows.is_empty() {
                break;
            }
            let written = self.store(host, &mut pass, layer, n);
            if !pass.rows.is_empty() {
                self.attend(host, &mut pass, layer, n);
            }
            pass.shrink(n, &written);
            if !pass.rows.is_empty() {
                self.feed_forward(host, &mut pass, layer, n);
            }
        }
    }

    fn head(&mut self, host: &mut Projector, model: &Model, x: &[f32], logits: &mut [f32]) {
        let c = model.config();
        let norm = Some(Norm { weight: model.final_norm(), eps: c.rms_norm_eps });
        let rows = 0..x.len() / c.hidden_size;
        let product = Product { weights: model.head(), rows, effect: Effect::Store, out: logits };
        host.project(Op::Head, x, c.hidden_size, norm, &mut [product]);
        if let Some(m) = c.extras.multipliers {
            logits.iter_mut().for_each(|l| *l /= m.logits);
        }
    }
}

impl Cpu {
    /// Queries, keys and values of a layer's rows: keys and values go to their caches and rings, queries stay here.
    /// Then rows that go no further are left out.
    fn store(&mut self, host: &mut Projector, pass: &mut Pass<'_, '_>, layer: &Layer, n: usize) -> Vec<Written> {
        let c = pass.model.config();
        let (d, width, kv_width) = (c.hidden_size, c.query_width(), c.kv_width());
        let norm = Some(Norm { weight: &layer.input_norm, eps: c.rms_norm_eps });
        let (count, own, live) = (pass.rows.len(), pass.own(), pass.through(n));
        let Self { q, k, v, rotations, spare, .. } = self;
        let (q, k, v) = (sized(q, live * width), sized(k, own * kv_width), sized(v, own * kv_width));
        let keys_and_values = [stored(&layer.k, own, k), stored(&layer.v, own, v)];
        if live == count {
            let [keys, values] = keys_and_values;
            host.project(Op::Qkv, &pass.x[..count * d], d, norm, &mut [stored(&layer.q, live, q), keys, values]);
        } else {
            host.project(Op::Qkv, &pass.x[..count * d], d, norm, &mut { keys_and_values });
        }
        let began = host.profile.start();
        norm_heads(host, k, &layer.k_norm, c.rms_norm_eps, spare);
        k.chunks_exact_mut(kv_width).zip(&*rotations).for_each(|(k, turn)| turn.apply(k));
        host.profile.add(Op::Rope, began, 0);

        let began = host.profile.start();
        let written = pass.store(n, k, v);
        host.profile.add(Op::Store, began, 0);
        if live < count {
            pass.leave_out(n, |to, from| rotations.swap(to, from));
            host.project(Op::Qkv, &pass.x[..live * d], d, norm, &mut [stored(&layer.q, live, q)]);
        }
        let began = host.profile.start();
        norm_heads(host, q, &layer.q_norm, c.rms_norm_eps, spare);
        q.chunks_exact_mut(width).zip(&*rotations).for_each(|(q, turn)| turn.apply(q));
        if let Some(m) = c.extras.multipliers {
            // In the place of the 1 / sqrt(D) that attention multiplies with.
            let factor = m.attention * (c.head_dim as f32).sqrt();
            q.iter_mut().for_each(|q| *q *= factor);
        }
        host.profile.add(Op::Rope, began, 0);
        written
    }

    /// Attention and its product, added to the residual stream.
    fn attend(&mut self, host: &mut Projector, pass: &mut Pass<'_, '_>, layer: &Layer, n: usize) {
        let c = pass.model.config();
        let (d, width, heads, live) = (c.hidden_size, c.query_width(), c.num_attention_heads, pass.rows.len());
        let Self { q, y, gates, spare, .. } = self;
        let q = &q[..live * width];
        let windowed = c.recipe.kv == KvMode::Shared && c.recipe.local.is_some();
        let later = pass.rows.partition_point(|row| row.r == 0);
        let gates = sized(gates, (live - later) * heads);
        if let (true, Some(gate)) = (windowed && later < live, &layer.gate) {
            match gate {
                Gate::Hidden { weight, bias, norm } => {
                    let norm = Some(Norm { weight: norm, eps: c.rms_norm_eps });
                    let (rows, effect) = (0..live - later, Effect::StoreBiased(bias));
                    let product = Product { weights: weight, rows, effect, out: gates };
                    host.project(Op::Gate, &pass.x[later * d..live * d], d, norm, &mut [product]);
                }
                Gate::Query { weight, bias } => query_gate(weight, bias, &q[later * width..], gates),
            }
            gates.iter_mut().for_each(|g| *g = sigmoid(*g));
        }
        let y = sized(y, live * width);
        let seen = (0..live).map(|i| {
            let sight = pass.sight(i, n);
            let local = sight.local.map(|local| (local, &gates[(i - later) * heads..][..heads]));
            Attend { global: sight.global, local }
        });
        attend(host, heads, q, &seen.collect::<Vec<_>>(), y);
        let way = Way::of(c, &layer.attention_out_norm);
        join(host, Op::Output, y, &layer.o, way, spare, &mut pass.x[..live * d]);
    }

    /// The feed-forward, added to the residual stream.
    fn feed_forward(&mut self, host: &mut Projector, pass: &mut Pass<'_, '_>, layer: &Layer, n: usize) {
        let c = pass.model.config();
        let (d, live) = (c.hidden_size, pass.rows.len());
        let Self { inner, spare, routes, .. } = self;
        let (gate_proj, up_proj, down_proj) = match &layer.feed_forward {
            FeedForward::Dense { gate_proj, up_proj, down_proj } => (gate_proj, up_proj, down_proj),
            FeedForward::Experts(parts) => {
                let norm = Norm { weight: &layer.post_norm, eps: c.rms_norm_eps };
                let y = routes.results(host, pass, parts, norm, n);
                let way = Way::of(c, &layer.feed_forward_out_norm);
                return add(host, y, way, sized(spare, d), &mut pass.x[..live * d]);
            }
        };
        let x = &mut pass.x[..live * d];
        let inner = sized(inner, live * c.intermediate_size);
        let norm = Some(Norm { weight: &layer.post_norm, eps: c.rms_norm_eps });
        let (weights, up) = (&gate_proj.weight, &up_proj.weight);
        if weights.kind() == up.kind() {
            let effect = Effect::SwiGluBiased { up, bias: bias(gate_proj), up_bias: bias(up_proj) };
            let product = Product { weights, rows: 0..live, effect, out: inner };
            host.project(Op::FeedForwardIn, x, d, norm, &mut [product]);
        } else {
            let second = sized(spare, inner.len());
            let mut products = [stored(gate_proj, live, inner), stored(up_proj, live, second)];
            host.project(Op::FeedForwardIn, x, d, norm, &mut products);
            swiglu_safe(host, inner, second);
        }
        let way = Way::of(c, &layer.feed_forward_out_norm);
        join(host, Op::FeedForwardOut, inner, down_proj, way, spare, x);
    }
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn bias(linear: &Linear<Weights, Vec<f32>>) -> Bias<'_> {
    linear.bias.as_deref().unwrap_or_default()
}

/// `out = W x + b` for the first `rows` rows.
fn stored<'a>(linear: &'a Linear<Weights, Vec<f32>>, rows: usize, out: &'a mut [f32]) -> Product<'a> {
    Product { weights: &linear.weight, rows: 0..rows, effect: Effect::StoreBiased(bias(linear)), out }
}

/// Norms each head of each row, if the model does so.
fn norm_heads(host: &Projector, rows: &mut [f32], norm: &Option<Vec<f32>>, eps: f32, spare: &mut Vec<f32>) {
    let Some(weight) = norm else { return };
    let normed = sized(spare, weight.len());
    for head in rows.chunks_exact_mut(weight.len()) {
        rms_norm_safe(host, head, weight, eps, normed);
        head.copy_from_slice(normed);
    }
}

/// How a branch's result joins the residual stream: `x += y`, `x += Norm(y)`, or either times a factor.
#[derive(Clone, Copy)]
struct Way<'a> {
    norm: Option<Norm<'a>>,
    factor: Option<f32>,
}

impl<'a> Way<'a> {
    fn of(config: &ModelConfig, norm: &'a Option<Vec<f32>>) -> Self {
        let norm = norm.as_ref().map(|weight| Norm { weight, eps: config.rms_norm_eps });
        Self { norm, factor: config.extras.multipliers.map(|m| m.residual) }
    }

    /// Whether it is just added.
    fn is_plain(self) -> bool {
        self.norm.is_none() && self.factor.is_none()
    }
}

/// The last product of a branch, whose result joins the residual stream.
fn join(
    host: &mut Projector,
    op: Op,
    y: &[f32],
    linear: &Linear<Weights, Vec<f32>>,
    way: Way<'_>,
    spare: &mut Vec<f32>,
    x: &mut [f32],
) {
    let weights = &linear.weight;
    let (d, width) = (weights.outputs(), weights.inputs());
    let rows = 0..x.len() / d;
    if way.is_plain() {
        let effect = Effect::AddBiased(bias(linear));
        return host.project(op, y, width, None, &mut [Product { weights, rows, effect, out: x }]);
    }
    let (out, normed) = sized(spare, x.len() + d).split_at_mut(x.len());
    host.project(op, y, width, None, &mut [stored(linear, rows.end, out)]);
    add(host, out, way, normed, x);
}

/// A branch's results `[rows][d]` join the residual stream. `normed` is space for a row.
fn add(host: &Projector, y: &[f32], way: Way<'_>, normed: &mut [f32], x: &mut [f32]) {
    let d = normed.len();
    for (x, y) in x.chunks_exact_mut(d).zip(y.chunks_exact(d)) {
        let y = match way.norm {
            None => y,
            Some(norm) => {
                rms_norm_safe(host, y, norm.weight, norm.eps, normed);
                &*normed
            }
        };
        match way.factor {
            None => x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
            Some(factor) => x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y),
        }
    }
}

/// g before the sigmoid, for each head: `<w_head, q_head> + b`.
fn query_gate(weight: &[f32], bias: &[f32], q: &[f32], gates: &mut [f32]) {
    let heads = bias.len();
    let dim = weight.len() / heads;
    for (i, g) in gates.iter_mut().enumerate() {
        let w = &weight[i % heads * dim..][..dim];
        *g = q[i * dim..][..dim].iter().zip(w).map(|(q, w)| q * w).sum::<f32>() + bias[i % heads];
    }
}
