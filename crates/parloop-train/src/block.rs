//! One physical layer: a pre-norm Llama block whose weights every loop shares.

use crate::ops::{self, Pass};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use parloop_model::{KvMode, Recipe};

/// The gate of G-SWA: one scalar per head and token between the global and the local branch.
#[derive(Module, Debug)]
pub(crate) struct Gate {
    /// Gate "hidden": `[d, H]`, the checkpoint's `[H, d]` transposed. Gate "query": `[H, D]`.
    pub weight: Param<Tensor<2>>,
    /// `[H]`
    pub bias: Param<Tensor<1>>,
    /// `[d]`, gate "hidden" only.
    pub norm: Option<Param<Tensor<1>>>,
}

impl Gate {
    /// `[rows, H]`: sigmoid(W . RMSNorm(x) + b), or sigmoid(<w_head, q_head> + b) for the query after RoPE.
    ///
    /// `x` is the residual stream *before* `input_layernorm`, `[rows, d]`; `rows` holds queries before RoPE first.
    fn open(&self, x: &Tensor<2>, rows: &Tensor<2>, pass: &Pass, eps: f32) -> Tensor<2> {
        let heads = pass.heads;
        let logits = match &self.norm {
            Some(norm) => ops::norm_linear(x.clone(), norm.val(), self.weight.val(), eps),
            None => {
                let q = rows.clone().narrow(1, 0, heads.query_width());
                let q = ops::rope(q, pass).reshape([pass.rows(), heads.query, heads.size]);
                (q * self.weight.val().unsqueeze::<3>()).sum_dim(2).reshape([pass.rows(), heads.query])
            }
        };
        sigmoid(logits + self.bias.val().unsqueeze::<2>())
    }
}

/// Weights of one layer. Matrices are `[in, out]` (the checkpoint's transposed), so that the gradient of a product
/// comes out in the layout of its weight; q/k/v and gate/up are one matrix each.
#[derive(Module, Debug)]
pub(crate) struct Block {
    /// `[d]`
    pub input_layernorm: Param<Tensor<1>>,
    /// `[d, (H + 2 G) x D]`: q_proj, k_proj, v_proj side by side.
    pub qkv: Param<Tensor<2>>,
    /// `[H x D, d]`
    pub output: Param<Tensor<2>>,
    /// Present exactly when the recipe has a local window.
    pub gate: Option<Gate>,
    /// `[d]`
    pub post_attention_layernorm: Param<Tensor<1>>,
    /// `[d, 2 ff]`: gate_proj and up_proj side by side.
    pub gate_up: Param<Tensor<2>>,
    /// `[ff, d]`
    pub down: Param<Tensor<2>>,
}

impl Block {
    /// One pass of loop `r` (0-based) through the layer: `[rows, d]` to `[rows, d]`.
    ///
    /// `first` keeps loop 1's rows of queries, keys and values for the later loops of a recipe with shared K/V.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        r: usize,
        first: &mut Option<Tensor<2>>,
        recipe: &Recipe,
        pass: &Pass,
        eps: f32,
    ) -> Tensor<2> {
        let qkv = self.qkv.val();
        let qkv = if recipe.has_own_kv(r) { qkv } else { qkv.narrow(1, 0, pass.heads.query_width()) };
        let rows = ops::norm_linear(x.clone(), self.input_layernorm.val(), qkv, eps);
        let y = match (&*first, recipe.kv) {
            (Some(first), KvMode::Shared) => {
                let gate = self.gate.as_ref().map(|gate| gate.open(&x, &rows, pass, eps));
                ops::shared_attention(rows, first.clone(), gate, pass)
            }
            _ => {
                if recipe.kv == KvMode::Shared && recipe.count > 1 {
                    *first = Some(rows.clone());
                }
                ops::attention(rows, pass)
            }
        };
        let x = ops::residual(x, y, self.output.val());
        ops::feed_forward(x, self.post_attention_layernorm.val(), self.gate_up.val(), self.down.val(), eps)
    }
}
