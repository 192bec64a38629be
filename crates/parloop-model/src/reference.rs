//! The forward pass as the mathematics has it (`docs/model.md`): scalar f32, whole sequence, no caches.
//!
//! Written to be read and to be right, not to be fast. The engine and the training module are held to it.

use crate::experts::{Moe, Space};
use crate::layer::{Expert, Experts, FeedForward, Gate, LayerParts, Linear};
use crate::{Checkpoint, Exit, ExpertMode, KvMode, ModelConfig, Result, Tensor, tensors};

/// What the reference computes for one sequence of T tokens.
pub struct Output {
    /// `[T][V]`, of the last loop, or of the one that the exit gate chooses.
    pub logits: Vec<Vec<f32>>,
    /// `[R][T][d]`, the output of each loop after the final norm.
    pub states: Vec<Vec<Vec<f32>>>,
    /// How near any row was to other experts ([`Moe::margin`]); infinite without experts.
    pub margin: f32,
    /// `[R][N][T][k]`, the experts of every row; empty in layers without.
    pub experts: Vec<Vec<Vec<Vec<u16>>>>,
}

/// What one head does at one position of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Loop, 0-based.
    pub r: usize,
    /// Layer.
    pub layer: usize,
    /// Query head.
    pub head: usize,
    /// Position.
    pub t: usize,
    /// Weights of the (global) softmax over positions `0..=t`.
    pub weights: &'a [f32],
    /// The gate that multiplies the global branch, where there is one.
    pub gate: Option<f32>,
}

/// A `[out, in]` matrix in f32.
struct Matrix {
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(tensor: &Tensor) -> Self {
        Self { width: tensor.width(), values: tensor.to_f32() }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    fn times(&self, x: &[f32]) -> Vec<f32> {
        self.values.chunks_exact(self.width).map(|row| dot(row, x)).collect()
    }
}

impl Linear<Matrix, Vec<f32>> {
    fn of(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.weight.times(x);
        if let Some(bias) = &self.bias {
            add(&mut y, bias);
        }
        y
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

/// Half-split rotation of one head at position `t`, or of its first dimensions, and YaRN's factor.
fn rotate(x: &mut [f32], t: usize, (frequencies, factor): &(Vec<f64>, f32)) {
    let half = frequencies.len();
    for (i, frequency) in frequencies.iter().enumerate() {
        let angle = t as f64 * frequency;
        let (sin, cos) = (angle.sin() as f32 * factor, angle.cos() as f32 * factor);
        let (a, b) = (x[i], x[i + half]);
        x[i] = a * cos - b * sin;
        x[i + half] = b * cos + a * sin;
    }
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// `softmax(q . K[first..=t]) V[first..=t]` for one head, and the weights of the softmax; `keys[j]` and `values[j]` belong
/// to position j.
fn attend(
    q: &[f32],
    keys: &[Vec<f32>],
    values: &[Vec<f32>],
    head: usize,
    first: usize,
    t: usize,
) -> (Vec<f32>, Vec<f32>) {
    let d = q.len();
    let of = |row: &Vec<f32>| row[head * d..(head + 1) * d].to_vec();
    let mut scores: Vec<f32> = (first..=t).map(|j| dot(q, &of(&keys[j])) / (d as f32).sqrt()).collect();
    softmax(&mut scores);
    let mut y = vec![0.0; d];
    for (p, j) in scores.iter().zip(first..) {
        y.iter_mut().zip(of(&values[j])).for_each(|(y, v)| *y += p * v);
    }
    (y, scores)
}

impl Expert<Matrix> {
    /// SwiGLU.
    fn of(&self, x: &[f32]) -> Vec<f32> {
        self.down_proj.times(&swiglu(&self.gate_proj.times(x), &self.up_proj.times(x)))
    }
}

fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    gate.iter().zip(up).map(|(g, up)| g * sigmoid(*g) * up).collect()
}

/// The experts of a mixture for one row: those it chooses, or those `given`. Gives its result, its experts, and how near it
/// was to others.
fn mixed(moe: &Moe, parts: &Experts<Matrix, Vec<f32>>, given: Option<&[u16]>, x: &[f32]) -> (Vec<f32>, Vec<u16>, f32) {
    let (logits, bias) = (parts.router.times(x), parts.choice_bias.as_deref());
    let mut chosen = given.map_or_else(|| vec![0; moe.top_k], <[u16]>::to_vec);
    let mut weights = vec![0.0; moe.top_k];
    moe.route(&logits, bias, given.is_some(), &mut Space::default(), &mut chosen, &mut weights);
    let mut y = vec![0.0; x.len()];
    for (e, weight) in chosen.iter().zip(&weights) {
        let one = parts.experts[usize::from(*e)].of(x);
        y.iter_mut().zip(one).for_each(|(y, one)| *y += weight * one);
    }
    if let Some(shared) = &parts.shared {
        let gate = parts.shared_gate.as_ref().map_or(1.0, |gate| sigmoid(dot(gate.row(0), x)));
        y.iter_mut().zip(shared.of(x)).for_each(|(y, one)| *y += gate * one);
    }
    let margin = if given.is_some() { f32::INFINITY } else { moe.margin(&logits, bias) };
    (y, chosen, margin)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The tensors of a layer in f32.
type Layer = LayerParts<Matrix, Vec<f32>>;

/// A checkpoint's weights in f32, ready for the reference forward.
pub struct Reference {
    config: ModelConfig,
    rope: (Vec<f64>, f32),
    embedding: Matrix,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Option<Matrix>,
    exit_gate: Option<Linear<Matrix, Vec<f32>>>,
}

impl Reference {
    /// Copies a checkpoint's weights to f32.
    ///
    /// # Errors
    /// The checkpoint lacks a tensor.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config().clone();
        let vector = |name: &str| Ok(checkpoint.tensor(name)?.to_f32());
        let matrix = |name: &str| Ok(Matrix::new(checkpoint.tensor(name)?));
        let layer = |n: usize| {
            LayerParts::of(&config, n).specs(n).try_map(|spec| matrix(&spec.name), |spec| vector(&spec.name))
        };
        Ok(Self {
            embedding: matrix(tensors::EMBEDDING)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            final_norm: vector(tensors::FINAL_NORM)?,
            head: if config.tie_word_embeddings { None } else { Some(matrix(tensors::HEAD)?) },
            exit_gate: match config.recipe.exit {
                None => None,
                Some(_) => {
                    Some(Linear { weight: matrix(tensors::EXIT_GATE)?, bias: Some(vector(tensors::EXIT_BIAS)?) })
                }
            },
            rope: config.frequencies(),
            config,
        })
    }

    /// Logits, and the normed state after every loop.
    ///
    /// # Errors
    /// There are no ids, too many, or one outside the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<Output> {
        self.forward_watched(ids, &mut |_| {})
    }

    /// [`Reference::forward`], with every head told to `watch`.
    ///
    /// # Errors
    /// As [`Reference::forward`].
    pub fn forward_watched(&self, ids: &[u32], watch: &mut dyn FnMut(Attended<'_>)) -> Result<Output> {
        self.config.check_tokens(ids)?;
        let (recipe, eps) = (&self.config.recipe, self.config.rms_norm_eps);
        let multipliers = self.config.extras.multipliers;
        let scale = multipliers.map_or(1.0, |m| m.embedding);
        let scaled = |id: &u32| self.embedding.row(*id as usize).iter().map(|e| scale * e).collect();
        let embedding: Vec<Vec<f32>> = ids.iter().map(scaled).collect();
        let mut states: Vec<Vec<Vec<f32>>> = Vec::new();
        let mut shared: Vec<Cache> = self.layers.iter().map(|_| Cache::default()).collect();
        let mut x: Vec<Vec<f32>> = embedding.clone();
        let (mut experts, mut margin) = (vec![vec![Vec::new(); self.layers.len()]; recipe.count], f32::INFINITY);
        for r in 0..recipe.count {
            if r > 0 {
                let before = if recipe.norm { &states[r - 1] } else { &x };
                x = (0..ids.len()).map(|t| self.loop_input(&embedding[t], before, t)).collect();
            }
            for (n, cache) in shared.iter_mut().enumerate() {
                self.attention(n, cache, &mut x, r, watch);
                margin = margin.min(self.feed_forward(n, &mut x, r, &mut experts));
            }
            states.push(x.iter().map(|x| rms_norm(x, &self.final_norm, eps)).collect());
        }
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let divisor = multipliers.map_or(1.0, |m| m.logits);
        let logits =
            |t: usize| head.times(&states[self.exit_loop(&states, t)][t]).iter().map(|l| l / divisor).collect();
        let logits = (0..ids.len()).map(logits).collect();
        Ok(Output { logits, states, margin, experts })
    }

    /// The loop (0-based) whose state at position t gives the logits: the last, or the first at which the
    /// probability of having ended reaches the exit gate's threshold.
    fn exit_loop(&self, states: &[Vec<Vec<f32>>], t: usize) -> usize {
        let last = states.len() - 1;
        let (Some(gate), Some(Exit { threshold })) = (&self.exit_gate, self.config.recipe.exit) else { return last };
        let (mut remaining, mut ended) = (1.0, 0.0);
        for (r, states) in states.iter().enumerate().take_while(|_| threshold < 1.0) {
            let lambda = sigmoid(gate.of(&states[t])[0]);
            ended += lambda * remaining;
            remaining *= 1.0 - lambda;
            if ended >= threshold {
                return r;
            }
        }
        last
    }

    /// Input of a loop r >= 2 at position t: `embedding_scale * E_t + hidden_scale * H_{t - shift}`.
    fn loop_input(&self, embedding: &[f32], before: &[Vec<f32>], t: usize) -> Vec<f32> {
        let recipe = &self.config.recipe;
        let source = if recipe.shift { t.checked_sub(1) } else { Some(t) };
        let mut x = vec![0.0; embedding.len()];
        if let Some(source) = source {
            x.iter_mut().zip(&before[source]).for_each(|(x, h)| *x = recipe.hidden_scale * h);
        }
        if let Some(scale) = recipe.embedding_scale {
            x.iter_mut().zip(embedding).for_each(|(x, e)| *x += scale * e);
        }
        x
    }

    /// The attention of layer `n` over all positions, in loop `r` (0-based).
    fn attention(
        &self,
        n: usize,
        shared: &mut Cache,
        x: &mut [Vec<f32>],
        r: usize,
        watch: &mut dyn FnMut(Attended<'_>),
    ) {
        let (c, layer) = (&self.config, &self.layers[n]);
        let (eps, head_dim) = (c.rms_norm_eps, c.head_dim);
        let group = c.num_attention_heads / c.num_key_value_heads;
        let turned = |m: &Linear<Matrix, Vec<f32>>, norm: &Option<Vec<f32>>, u: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let mut rows: Vec<Vec<f32>> = u.iter().map(|u| m.of(u)).collect();
            for (t, row) in rows.iter_mut().enumerate() {
                // One head at a time, or all together.
                if let Some(norm) = norm {
                    row.chunks_exact_mut(norm.len()).for_each(|x| x.copy_from_slice(&rms_norm(x, norm, eps)));
                }
                row.chunks_exact_mut(head_dim).for_each(|head| rotate(head, t, &self.rope));
            }
            rows
        };
        let u: Vec<Vec<f32>> = x.iter().map(|x| rms_norm(x, &layer.input_norm, eps)).collect();
        let mut q = turned(&layer.q, &layer.q_norm, &u);
        if let Some(m) = c.extras.multipliers {
            // In the place of the 1 / sqrt(D) that follows.
            let factor = m.attention * (head_dim as f32).sqrt();
            q.iter_mut().flatten().for_each(|q| *q *= factor);
        }
        let own = Cache { k: turned(&layer.k, &layer.k_norm, &u), v: u.iter().map(|u| layer.v.of(u)).collect() };
        let later_shared = r > 0 && c.recipe.kv == KvMode::Shared;
        if r == 0 {
            *shared = own.clone();
        }
        for t in 0..x.len() {
            let global = if later_shared { &*shared } else { &own };
            let mut y = Vec::with_capacity(c.query_width());
            for h in 0..c.num_attention_heads {
                let q = &q[t][h * head_dim..(h + 1) * head_dim];
                let mut opened = None;
                let (mut head, weights) = attend(q, &global.k, &global.v, h / group, 0, t);
                if let (true, Some(local), Some(gate)) = (later_shared, c.recipe.local, &layer.gate) {
                    let score = match gate {
                        Gate::Hidden { weight, norm, .. } => dot(weight.row(h), &rms_norm(&x[t], norm, eps)),
                        Gate::Query { weight, .. } => dot(&weight[h * head_dim..(h + 1) * head_dim], q),
                    };
                    let g = sigmoid(score + gate.bias()[h]);
                    opened = Some(g);
                    let (near, _) = attend(q, &own.k, &own.v, h / group, t.saturating_sub(local.left), t);
                    head.iter_mut().zip(near).for_each(|(y, near)| *y = g * *y + (1.0 - g) * near);
                }
                watch(Attended { r, layer: n, head: h, t, weights: &weights, gate: opened });
                y.extend(head);
            }
            add(&mut x[t], &self.joined(&layer.attention_out_norm, layer.o.of(&y)));
        }
    }

    /// The feed-forward of layer `n` over all positions, in loop `r`: one for all rows, or the experts of each, which
    /// are put down in `experts`. Gives the least margin of the rows.
    fn feed_forward(&self, n: usize, x: &mut [Vec<f32>], r: usize, experts: &mut [Vec<Vec<Vec<u16>>>]) -> f32 {
        let (layer, recipe) = (&self.layers[n], &self.config.recipe);
        let mut least = f32::INFINITY;
        for (t, x) in x.iter_mut().enumerate() {
            let u = rms_norm(x, &layer.post_norm, self.config.rms_norm_eps);
            let y = match (&layer.feed_forward, &self.config.moe) {
                (FeedForward::Dense { gate_proj, up_proj, down_proj }, _) => {
                    down_proj.of(&swiglu(&gate_proj.of(&u), &up_proj.of(&u)))
                }
                (FeedForward::Experts(parts), Some(moe)) => {
                    // The same token in the same layer of loop 1.
                    let shared = r > 0 && recipe.experts == ExpertMode::Shared;
                    let given = shared.then(|| experts[0][n][t].clone());
                    let (y, chosen, margin) = mixed(moe, parts, given.as_deref(), &u);
                    experts[r][n].push(chosen);
                    least = least.min(margin);
                    y
                }
                (FeedForward::Experts(_), None) => unreachable!("only a mixture has experts"),
            };
            add(x, &self.joined(&layer.feed_forward_out_norm, y));
        }
        least
    }

    /// A branch's result as it joins the residual stream.
    fn joined(&self, norm: &Option<Vec<f32>>, y: Vec<f32>) -> Vec<f32> {
        let y = match norm {
            Some(norm) => rms_norm(&y, norm, self.config.rms_norm_eps),
            None => y,
        };
        match self.config.extras.multipliers {
            Some(m) => y.iter().map(|y| m.residual * y).collect(),
            None => y,
        }
    }
}

/// Keys (after RoPE) and values of one layer: `[T][G * D]`.
#[derive(Clone, Default)]
struct Cache {
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}
