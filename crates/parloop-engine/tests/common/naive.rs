//! The plainest device: one row after another, sums in double precision, nothing fused, no threads. It shares with the
//! processor's only what every device is given: the rows, the weights as numbers, and where keys and values are kept.

use parloop_engine::Model;
use parloop_engine::device::{Device, Pass, Routed};
use parloop_kernels::{Branch, KvTiles, KvType, Projector, Weights};
use parloop_model::{Expert, Experts, FeedForward, Gate, Linear};

pub struct Naive;

/// A row, or a part of it.
type Numbers = Vec<f64>;

impl Device for Naive {
    fn pass(&mut self, _host: &mut Projector, mut pass: Pass<'_, '_>) {
        let (model, c) = (pass.model, pass.model.config());
        let (d, heads, eps) = (c.hidden_size, c.num_attention_heads, f64::from(c.rms_norm_eps));
        let multipliers = c.extras.multipliers;
        let residual = multipliers.map_or(1.0, |m| f64::from(m.residual));
        for (n, layer) in model.layers().iter().enumerate() {
            let input = |pass: &Pass<'_, '_>, i: usize| norm(&pass.x[i * d..][..d], &layer.input_norm, eps);
            let (mut keys, mut values) = (vec![], vec![]);
            for i in 0..pass.own() {
                let x = input(&pass, i);
                let key = normed_heads(linear(&layer.k, &x), layer.k_norm.as_deref(), eps);
                keys.extend(turned(key, pass.rows[i].position, model).iter().map(|k| *k as f32));
                values.extend(linear(&layer.v, &x).iter().map(|v| *v as f32));
            }
            let written = pass.store(n, &keys, &values);
            pass.leave_out(n, |_, _| ());
            let mut outputs = Vec::new();
            for i in 0..pass.rows.len() {
                let query = normed_heads(linear(&layer.q, &input(&pass, i)), layer.q_norm.as_deref(), eps);
                let mut query = turned(query, pass.rows[i].position, model);
                let factor = multipliers.map_or(1.0, |m| f64::from(m.attention) * (c.head_dim as f64).sqrt());
                query.iter_mut().for_each(|q| *q *= factor);
                let sight = pass.sight(i, n);
                let mut y = attended(&query, heads, sight.global);
                if let (Some(local), Some(gate)) = (sight.local, &layer.gate) {
                    let local = attended(&query, heads, local);
                    let gates = match gate {
                        Gate::Hidden { weight, norm: w, .. } => product(weight, &norm(&pass.x[i * d..][..d], w, eps)),
                        Gate::Query { weight, .. } => {
                            let pairs = query.iter().zip(weight).map(|(q, w)| q * f64::from(*w));
                            pairs.collect::<Numbers>().chunks_exact(c.head_dim).map(|p| p.iter().sum()).collect()
                        }
                    };
                    for (j, y) in y.iter_mut().enumerate() {
                        let h = j / c.head_dim;
                        let g = 1.0 / (1.0 + (-(gates[h] + f64::from(gate.bias()[h]))).exp());
                        *y = g * *y + (1.0 - g) * local[j];
                    }
                }
                outputs.push(y);
            }
            pass.shrink(n, &written);
            for (i, y) in outputs.into_iter().enumerate() {
                let x = &mut pass.x[i * d..][..d];
                join(x, linear(&layer.o, &y), layer.attention_out_norm.as_deref(), eps, residual);
                let inner = norm(x, &layer.post_norm, eps);
                let y = match &layer.feed_forward {
                    FeedForward::Dense { gate_proj, up_proj, down_proj } => {
                        linear(down_proj, &swiglu(linear(gate_proj, &inner), linear(up_proj, &inner)))
                    }
                    FeedForward::Experts(parts) => mixed(&mut pass, i, n, parts, &inner),
                };
                join(&mut pass.x[i * d..][..d], y, layer.feed_forward_out_norm.as_deref(), eps, residual);
            }
        }
    }

    fn head(&mut self, _host: &mut Projector, model: &Model, x: &[f32], logits: &mut [f32]) {
        let c = model.config();
        for (x, logits) in x.chunks_exact(c.hidden_size).zip(logits.chunks_exact_mut(c.vocab_size)) {
            let row = product(model.head(), &norm(x, model.final_norm(), f64::from(c.rms_norm_eps)));
            let divisor = c.extras.multipliers.map_or(1.0, |m| f64::from(m.logits));
            logits.iter_mut().zip(row).for_each(|(l, v)| *l = (v / divisor) as f32);
        }
    }
}

fn swiglu(gate: Numbers, up: Numbers) -> Numbers {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

fn expert(expert: &Expert<Weights>, x: &[f64]) -> Numbers {
    product(&expert.down_proj, &swiglu(product(&expert.gate_proj, x), product(&expert.up_proj, x)))
}

/// One expert of row `i` after another.
fn mixed(pass: &mut Pass<'_, '_>, i: usize, n: usize, parts: &Experts<Weights, Vec<f32>>, x: &[f64]) -> Numbers {
    let k = pass.model.config().moe.as_ref().unwrap().top_k;
    let (mut experts, mut weights) = (vec![0; k], vec![0.0; k]);
    let logits: Vec<f32> = product(&parts.router, x).iter().map(|x| *x as f32).collect();
    let mut to = Routed { experts: &mut experts, weights: &mut weights, space: &mut Default::default() };
    pass.route(i, n, &logits, parts.choice_bias.as_deref(), &mut to);
    let mut y = vec![0.0; x.len()];
    for (e, weight) in experts.iter().zip(&weights) {
        let one = expert(&parts.experts[usize::from(*e)], x);
        y.iter_mut().zip(one).for_each(|(y, one)| *y += f64::from(*weight) * one);
    }
    if let Some(shared) = &parts.shared {
        let gate = parts.shared_gate.as_ref().map_or(1.0, |gate| 1.0 / (1.0 + (-product(gate, x)[0]).exp()));
        y.iter_mut().zip(expert(shared, x)).for_each(|(y, one)| *y += gate * one);
    }
    y
}

fn norm(x: &[f32], weight: &[f32], eps: f64) -> Numbers {
    let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = 1.0 / (square / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect()
}

fn product(weights: &Weights, x: &[f64]) -> Numbers {
    let mut row = vec![0.0; weights.inputs()];
    let output = |i| {
        weights.row(i, &mut row);
        row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
    };
    (0..weights.outputs()).map(output).collect()
}

fn linear(linear: &Linear<Weights, Vec<f32>>, x: &[f64]) -> Numbers {
    let mut out = product(&linear.weight, x);
    if let Some(bias) = &linear.bias {
        out.iter_mut().zip(bias).for_each(|(o, b)| *o += f64::from(*b));
    }
    out
}

fn join(x: &mut [f32], y: Numbers, weight: Option<&[f32]>, eps: f64, factor: f64) {
    let y = match weight {
        Some(weight) => norm(&y.iter().map(|y| *y as f32).collect::<Vec<_>>(), weight, eps),
        None => y,
    };
    x.iter_mut().zip(y).for_each(|(x, y)| *x = (f64::from(*x) + factor * y) as f32);
}

fn normed_heads(row: Numbers, weight: Option<&[f32]>, eps: f64) -> Numbers {
    let Some(weight) = weight else { return row };
    let row: Vec<f32> = row.iter().map(|x| *x as f32).collect();
    row.chunks_exact(weight.len()).flat_map(|head| norm(head, weight, eps)).collect()
}

fn turned(mut row: Numbers, position: usize, model: &Model) -> Numbers {
    let (frequencies, factor) = model.config().frequencies();
    let half = frequencies.len();
    for head in row.chunks_exact_mut(model.config().head_dim) {
        for (i, f) in frequencies.iter().enumerate() {
            let (sin, cos) = (position as f64 * f).sin_cos();
            let (a, b, factor) = (head[i], head[i + half], f64::from(factor));
            (head[i], head[i + half]) = (factor * (a * cos - b * sin), factor * (b * cos + a * sin));
        }
    }
    row
}

/// `softmax(q . K / sqrt(D)) V` of every head over the positions of a branch.
fn attended(query: &[f64], heads: usize, branch: Branch<'_>) -> Numbers {
    let (groups, dim) = branch.kv.shape();
    let held: Vec<_> = (branch.first..=branch.last).map(|t| position(branch.kv, t)).collect();
    let mut out = Vec::new();
    for h in 0..heads {
        let own = h / (heads / groups) * dim..(h / (heads / groups) + 1) * dim;
        let query = &query[h * dim..][..dim];
        let dot = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt();
        let scores: Numbers = held.iter().map(|(key, _)| dot(&key[own.clone()])).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Numbers = scores.iter().map(|s| (s - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = |i| weights.iter().zip(&held).map(|(w, (_, v))| w * v[own.start + i]).sum::<f64>() / sum;
        out.extend((0..dim).map(value));
    }
    out
}

/// Key and value of a position, from the bytes that a file would hold.
fn position(kv: &KvTiles, t: usize) -> (Numbers, Numbers) {
    let (heads, dim) = kv.shape();
    let mut bytes = Vec::new();
    kv.bytes_of(t, &mut bytes);
    let float = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut halves = bytes.chunks_exact(bytes.len() / (2 * heads)).map(|half| -> Numbers {
        match kv.kind() {
            KvType::F32 => half.chunks_exact(4).map(float).collect(),
            KvType::Bf16 => half.chunks_exact(2).map(|b| float(&[0, 0, b[0], b[1]])).collect(),
            KvType::Q8 => half[..dim].iter().map(|b| f64::from(*b as i8) * float(&half[dim..])).collect(),
        }
    });
    let (mut key, mut value) = (vec![], vec![]);
    while let (Some(k), Some(v)) = (halves.next(), halves.next()) {
        key.extend(k);
        value.extend(v);
    }
    (key, value)
}
