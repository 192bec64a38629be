//! The operations as compositions of Burn operations: differentiable everywhere, and short.

use super::{AdamStep, Pass};
use crate::host::host;
use burn::tensor::activation::{log_softmax, sigmoid, softmax};
use burn::tensor::{Bool, Int, Tensor};

pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    burn::tensor::module::linear(x, weight, None)
}

pub(crate) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    let scale = x.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip();
    x * scale * weight.unsqueeze::<2>()
}

pub(crate) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let ff = gate_up.dims()[1] / 2;
    let (gate, up) = (gate_up.clone().narrow(1, 0, ff), gate_up.narrow(1, ff, ff));
    gate.clone() * sigmoid(gate) * up
}

/// Turns the query and key part of rows `[q | k | v]`; a row may also hold queries only.
pub(crate) fn rope(rows: Tensor<2>, pass: &Pass) -> Tensor<2> {
    let (heads, size) = (pass.heads, pass.heads.size);
    let [count, width] = rows.dims();
    let turned = width.min(heads.query_width() + heads.kv_width());
    let pairs = rows.clone().narrow(1, 0, turned).reshape([pass.batch, pass.time, turned / size, 2, size / 2]);
    let (a, b) = (pairs.clone().narrow(3, 0, 1), pairs.narrow(3, 1, 1));
    let table = |t: &Tensor<2>| t.clone().reshape([1, pass.time, 1, 1, size / 2]);
    let (cos, sin) = (table(&pass.tables().cos), table(&pass.tables().sin));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    let pairs = Tensor::cat(vec![first, second], 3).reshape([count, turned]);
    if turned == width {
        return pairs;
    }
    Tensor::cat(vec![pairs, rows.narrow(1, turned, width - turned)], 1)
}

/// `[B, G, H/G, T, D]`
fn queries(rows: &Tensor<2>, pass: &Pass) -> Tensor<5> {
    let h = pass.heads;
    rows.clone()
        .narrow(1, 0, h.query_width())
        .reshape([pass.batch, pass.time, h.kv, h.group(), h.size])
        .permute([0, 2, 3, 1, 4])
}

/// Keys (`part` 0) or values (1): `[B, G, 1, T, D]`
fn keys_or_values(rows: &Tensor<2>, part: usize, pass: &Pass) -> Tensor<5> {
    let h = pass.heads;
    rows.clone()
        .narrow(1, h.query_width() + part * h.kv_width(), h.kv_width())
        .reshape([pass.batch, pass.time, h.kv, 1, h.size])
        .permute([0, 2, 3, 1, 4])
}

/// `softmax(q k^T / sqrt(D)) v` with hidden keys masked out; `[B, G, H/G, T, D]`.
fn attend(q: Tensor<5>, rows: &Tensor<2>, hidden: &Tensor<2, Bool>, pass: &Pass) -> Tensor<5> {
    let (k, v) = (keys_or_values(rows, 0, pass), keys_or_values(rows, 1, pass));
    let scores = (q * (pass.heads.size as f64).powf(-0.5)).matmul(k.transpose());
    let hidden = hidden.clone().reshape([1, 1, 1, pass.time, pass.time]).expand(scores.shape());
    softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 4).matmul(v)
}

/// `[B, G, H/G, T, D]` to rows of `[H x D]`.
fn merge(y: Tensor<5>, pass: &Pass) -> Tensor<2> {
    y.permute([0, 3, 1, 2, 4]).reshape([pass.rows(), pass.heads.query_width()])
}

pub(crate) fn attention(rows: Tensor<2>, pass: &Pass) -> Tensor<2> {
    let rows = rope(rows, pass);
    merge(attend(queries(&rows, pass), &rows, &pass.tables().causal, pass), pass)
}

pub(crate) fn shared_attention(rows: Tensor<2>, first: Tensor<2>, gate: Option<Tensor<2>>, pass: &Pass) -> Tensor<2> {
    let (rows, first) = (rope(rows, pass), rope(first, pass));
    let q = queries(&rows, pass);
    let global = attend(q.clone(), &first, &pass.tables().causal, pass);
    let (Some(gate), Some(window)) = (gate, &pass.tables().window) else {
        return merge(global, pass);
    };
    let h = pass.heads;
    let gate = gate.reshape([pass.batch, pass.time, h.kv, h.group(), 1]).permute([0, 2, 3, 1, 4]);
    let local = attend(q, &rows, window, pass);
    // g * global + (1 - g) * local with one product fewer
    merge(gate * (global - local.clone()) + local, pass)
}

pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let rows = targets.dims()[0];
    let asked = targets.clone().into_data().iter::<i64>().filter(|t| *t >= 0).count().max(1);
    let targets = targets.reshape([rows, 1]);
    let nothing = targets.clone().lower_elem(0);
    let picked = log_softmax(logits, 1).gather(1, targets.mask_fill(nothing.clone(), 0)).mask_fill(nothing, 0.0);
    // `sum_dim` adds in a fixed order; `mean` of a long tensor need not.
    picked.reshape([1, rows]).sum_dim(1).reshape([1]).div_scalar(-(asked as f64))
}

pub(crate) fn adam(step: AdamStep, grad: Tensor<1>, [value, first, second]: [Tensor<1>; 3]) -> [Tensor<1>; 3] {
    let grad = grad.mul_scalar(step.factor);
    let first = first.mul_scalar(step.beta1) + grad.clone().mul_scalar(1.0 - step.beta1);
    let second = second.mul_scalar(step.beta2) + grad.square().mul_scalar(1.0 - step.beta2);
    let root = second.clone().mul_scalar(step.correction).sqrt().add_scalar(step.epsilon);
    let value = value.mul_scalar(step.keep) - first.clone().mul_scalar(step.rate).div(root);
    [value, first, second]
}

pub(crate) fn squares(x: &Tensor<1>, rows: usize) -> f64 {
    let columns = x.dims()[0] / rows;
    let sums = x.clone().square().reshape([rows, columns]).sum_dim(1);
    host(sums).into_iter().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn the_optimisers_sweep_equals_the_composition() {
        let device = Device::flex();
        let tensor = |seed: usize| {
            let values: Vec<f32> = (0..20_000).map(|i| ((i * seed + 7) % 1009) as f32 / 1009.0).collect();
            Tensor::<1>::from_data(TensorData::new(values, [20_000]), &device)
        };
        let (beta1, beta2, epsilon) = (0.9, 0.95, 1e-8);
        let step = AdamStep { factor: 0.3, beta1, beta2, epsilon, keep: 0.99, rate: 0.02, correction: 1.7 };
        let state = || [tensor(3), tensor(5), tensor(11)];
        let expected = adam(step, tensor(13), state());
        let found = crate::ops::adam(step, tensor(13), state());
        for (found, expected) in found.into_iter().zip(expected) {
            let worst = host(found - expected).into_iter().fold(0f32, |a, b| a.max(b.abs()));
            assert!(worst < 1e-6, "{worst}");
        }
        let (a, b) = (crate::ops::squares(&tensor(3), 4), squares(&tensor(3), 4));
        assert!((a - b).abs() < 1e-5 * b);
    }
}
