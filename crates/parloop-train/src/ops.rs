//! The operations of a block, each in one obvious place.
//!
//! [`composed`] builds them from Burn operations and runs on every device; it is the definition. [`fused`] computes
//! the same on the CPU with a backward pass of its own, in one sweep over memory each, and is used where it applies:
//! f32 tensors on Burn's flex backend. The tests hold the two together.

pub(crate) mod composed;
mod fused;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use parloop_model::ModelConfig;
use std::cell::OnceCell;
use std::sync::Arc;

/// Sizes of the attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// H, query heads.
    pub query: usize,
    /// G, key/value heads.
    pub kv: usize,
    /// D, size of a head.
    pub size: usize,
}

impl Heads {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { query: config.num_attention_heads, kv: config.num_key_value_heads, size: config.head_dim }
    }
    /// Query heads that share one key/value head.
    pub(crate) fn group(self) -> usize {
        self.query / self.kv
    }
    /// H x D.
    pub(crate) fn query_width(self) -> usize {
        self.query * self.size
    }
    /// G x D.
    pub(crate) fn kv_width(self) -> usize {
        self.kv * self.size
    }
    /// (H + 2 G) x D, the width of a row of queries, keys and values.
    pub(crate) fn row_width(self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }
}

/// What every layer of a forward pass over `[batch, time]` ids shares: computed once per pass, not per layer.
pub(crate) struct Pass {
    pub batch: usize,
    pub time: usize,
    pub heads: Heads,
    /// Keys to the left of a query in the sliding window, if the recipe has one.
    pub left: Option<usize>,
    /// Sizes and rotary tables for the fused operations.
    geometry: Arc<fused::attention::Geometry>,
    device: Device,
    tables: OnceCell<Tables>,
}

/// Rotary tables and masks as tensors, for the composed operations.
pub(crate) struct Tables {
    /// `[time, D/2]`: cosine of position x frequency.
    pub cos: Tensor<2>,
    /// `[time, D/2]`: sine of position x frequency.
    pub sin: Tensor<2>,
    /// Keys a query of the full causal branch must not see, `[time, time]`, true = hidden.
    pub causal: Tensor<2, Bool>,
    /// The same for the sliding window, if there is one.
    pub window: Option<Tensor<2, Bool>>,
}

impl Pass {
    pub(crate) fn new(config: &ModelConfig, batch: usize, time: usize, device: &Device) -> Self {
        let heads = Heads::of(config);
        let half = heads.size / 2;
        let theta = f64::from(config.rope_theta);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let frequency = |i: usize| theta.powf(-(i as f64) / half as f64);
            (0..time * half).map(|i| f((i / half) as f64 * frequency(i % half)) as f32).collect()
        };
        let geometry = fused::attention::Geometry::new(batch, time, heads, table(f64::cos), table(f64::sin));
        Self {
            batch,
            time,
            heads,
            left: config.recipe.local.map(|local| local.left),
            geometry: Arc::new(geometry),
            device: device.clone(),
            tables: OnceCell::new(),
        }
    }

    /// The tensors that the composed operations need, made on first use.
    pub(crate) fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| {
            let (time, half) = (self.time, self.heads.size / 2);
            let table = |x: &Vec<f32>| Tensor::from_data(TensorData::new(x.clone(), [time, half]), &self.device);
            let mask = |left: usize| {
                let positions = (0..time * time).map(|i| (i / time, i % time));
                let hidden: Vec<bool> = positions.map(|(t, j)| j > t || j + left < t).collect();
                Tensor::from_data(TensorData::new(hidden, [time, time]), &self.device)
            };
            Tables {
                cos: table(&self.geometry.cos),
                sin: table(&self.geometry.sin),
                causal: mask(time),
                window: self.left.map(mask),
            }
        })
    }

    /// Number of rows, batch x time.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.time
    }
}

/// The tensors as inputs of a fused operation, if all of them can be.
macro_rules! inputs {
    ($($tensor:ident),+) => {
        (|| Some([$(fused::input(&$tensor)?),+]))()
    };
}

/// RMSNorm over the last dimension: `x / sqrt(mean(x^2) + eps) * weight`. `x` is `[rows, d]`.
pub(crate) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    let shape = x.dims();
    let op = fused::norm::RmsNorm { width: shape[1], eps };
    let y = inputs!(x, weight).and_then(|inputs| fused::apply(op, inputs, shape));
    y.unwrap_or_else(|| composed::rms_norm(x, weight, eps))
}

/// `x W` for rows `[rows, k]` and a weight `[k, n]`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let ([rows, k], [_, n]) = (x.dims(), weight.dims());
    let op = fused::matmul::Linear { k, n };
    let y = inputs!(x, weight).and_then(|inputs| fused::apply(op, inputs, [rows, n]));
    y.unwrap_or_else(|| composed::linear(x, weight))
}

/// `RMSNorm(x) W` for `x` `[rows, d]` and a weight `[d, n]`.
pub(crate) fn norm_linear(x: Tensor<2>, norm: Tensor<1>, weight: Tensor<2>, eps: f32) -> Tensor<2> {
    let ([rows, d], [_, n]) = (x.dims(), weight.dims());
    let op = fused::project::NormLinear { d, n, eps };
    let y = inputs!(x, norm, weight).and_then(|inputs| fused::apply(op, inputs, [rows, n]));
    y.unwrap_or_else(|| composed::linear(composed::rms_norm(x, norm, eps), weight))
}

/// `x + y W` for `x` `[rows, d]`, `y` `[rows, k]` and a weight `[k, d]`.
pub(crate) fn residual(x: Tensor<2>, y: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let ([rows, d], [_, k]) = (x.dims(), y.dims());
    let op = fused::project::Residual { k, d };
    let sum = inputs!(x, y, weight).and_then(|inputs| fused::apply(op, inputs, [rows, d]));
    sum.unwrap_or_else(|| x + composed::linear(y, weight))
}

/// `x + (silu(gate) * up) W_down` with `[gate | up] = RMSNorm(x) W`, W `[d, 2 ff]`: the feed-forward and its residual.
pub(crate) fn feed_forward(x: Tensor<2>, norm: Tensor<1>, gate_up: Tensor<2>, down: Tensor<2>, eps: f32) -> Tensor<2> {
    let ([rows, d], [ff, _]) = (x.dims(), down.dims());
    let op = fused::project::FeedForward { d, ff, eps };
    let y = inputs!(x, norm, gate_up, down).and_then(|inputs| fused::apply(op, inputs, [rows, d]));
    y.unwrap_or_else(|| {
        let inner = composed::linear(composed::rms_norm(x.clone(), norm, eps), gate_up);
        x + composed::linear(composed::swiglu(inner), down)
    })
}

/// Rotary embedding of rows of queries `[rows, H x D]` by the row's position.
pub(crate) fn rope(queries: Tensor<2>, pass: &Pass) -> Tensor<2> {
    composed::rope(queries, pass)
}

/// Causal attention of rows `[q | k | v]` among themselves, with RoPE: `[rows, H x D]`.
pub(crate) fn attention(rows: Tensor<2>, pass: &Pass) -> Tensor<2> {
    let op = fused::attention::Attention(pass.geometry.clone());
    let shape = [pass.rows(), pass.heads.query_width()];
    let y = inputs!(rows).and_then(|inputs| fused::apply(op, inputs, shape));
    y.unwrap_or_else(|| composed::attention(rows, pass))
}

/// Attention of a later loop to loop 1's keys and values of the same layer, with RoPE.
///
/// Without a gate: `rows` holds queries only, and the result is the global branch. With a gate `[rows, H]` in
/// `(0, 1)`: `gate * global + (1 - gate) * local`, local being the window over the rows' own keys and values.
pub(crate) fn shared_attention(rows: Tensor<2>, first: Tensor<2>, gate: Option<Tensor<2>>, pass: &Pass) -> Tensor<2> {
    let (shape, geometry) = ([pass.rows(), pass.heads.query_width()], pass.geometry.clone());
    let y = match (&gate, pass.left) {
        (Some(gate), Some(left)) => inputs!(rows, first, gate)
            .and_then(|inputs| fused::apply(fused::attention::GatedAttention(geometry, left), inputs, shape)),
        _ => inputs!(rows, first)
            .and_then(|inputs| fused::apply(fused::attention::SharedAttention(geometry), inputs, shape)),
    };
    y.unwrap_or_else(|| composed::shared_attention(rows, first, gate, pass))
}

/// Mean over the rows of `-log softmax(x W)[target]`, computed from shifted logits; `[1]`, in nats. The head W is
/// `[d, V]`, or (tied) the embedding `[V, d]`. Rows with a negative target count neither in the sum nor in the mean.
pub(crate) fn head_loss(x: Tensor<2>, head: Tensor<2>, tied: bool, targets: Tensor<1, Int>) -> Tensor<1> {
    let [a, b] = head.dims();
    let (d, vocabulary) = if tied { (b, a) } else { (a, b) };
    if let Some(inputs) = inputs!(x, head) {
        let asked = |t: i64| usize::try_from(t).ok();
        let targets = Arc::new(targets.clone().into_data().iter::<i64>().map(asked).collect());
        let op = fused::loss::HeadLoss { d, vocabulary, tied, targets };
        if let Some(loss) = fused::apply(op, inputs, [1]) {
            return loss;
        }
    }
    let head = if tied { head.transpose() } else { head };
    composed::cross_entropy(composed::linear(x, head), targets)
}

/// The constants of one update; see `optim::AdamW::step` for the formula.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    /// Multiplies the gradient first (clipping, averaging).
    pub factor: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// 1 - learning rate x decay.
    pub keep: f32,
    /// Learning rate / (1 - beta1^t).
    pub rate: f32,
    /// 1 / (1 - beta2^t).
    pub correction: f32,
}

/// The step for one flat parameter: value, first and second moment.
pub(crate) fn adam(step: AdamStep, grad: Tensor<1>, tensors: [Tensor<1>; 3]) -> [Tensor<1>; 3] {
    fused::adam::adam(step, &grad, tensors, |tensors| composed::adam(step, grad.clone(), tensors))
}

/// The sum of squares of a flat tensor, in an order that does not depend on the number of threads. `rows` divides its
/// length.
pub(crate) fn squares(x: &Tensor<1>, rows: usize) -> f64 {
    fused::adam::squares(x).unwrap_or_else(|| composed::squares(x, rows))
}
