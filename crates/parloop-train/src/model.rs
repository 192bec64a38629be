//! The recipe as a Burn module: ids `[B, T]` to logits `[B, T, V]`.

use crate::block::Block;
use crate::data::IGNORED;
use crate::ops::{self, Pass};
use crate::{Error, Result};
use burn::module::{Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor, TensorData};
use parloop_model::ModelConfig;

/// A looped transformer whose weights can be trained.
#[derive(Module, Debug)]
pub struct LoopModel {
    /// `[V, d]`
    pub(crate) embedding: Param<Tensor<2>>,
    pub(crate) layers: Vec<Block>,
    /// `[d]`, applied to the last loop's output and, if the recipe says so, between loops.
    pub(crate) norm: Param<Tensor<1>>,
    /// `[d, V]`; absent when the head is the embedding.
    pub(crate) head: Option<Param<Tensor<2>>>,
    /// Learned `hidden_scale` and, if the recipe has it, `embedding_scale`, in place of the recipe's.
    pub(crate) scales: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) config: ModelConfig,
}

impl LoopModel {
    /// The configuration the weights belong to.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.norm.val().device()
    }

    /// Logits `[B, T, V]` of the last loop.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, time] = ids.dims();
        let (last, _) = self.loops(ids, false);
        self.logits(last).reshape([batch, time, self.config.vocab_size])
    }

    /// Logits `[B, T, V]` and the state after every loop under the final norm, R times `[B, T, d]`.
    pub fn forward_states(&self, ids: Tensor<2, Int>) -> (Tensor<3>, Vec<Tensor<3>>) {
        let [batch, time] = ids.dims();
        let (last, states) = self.loops(ids, true);
        let logits = self.logits(last).reshape([batch, time, self.config.vocab_size]);
        (logits, states.into_iter().map(|s| s.reshape([batch, time, self.config.hidden_size])).collect())
    }

    /// Mean cross-entropy of the last loop in nats, `[1]`. `targets[b, t]` is asked for after `ids[b, t]`; a negative one
    /// is not asked for and does not count ([`LoopModel::targets`]).
    pub fn loss(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        self.losses(ids, targets, 0.0).0
    }

    /// [`LoopModel::loss`], and what is to be minimised: that loss plus `earlier` times the mean over the loops before the
    /// last of theirs.
    pub fn losses(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>, earlier: f64) -> (Tensor<1>, Tensor<1>) {
        let [batch, time] = ids.dims();
        let before = self.config.recipe.count - 1;
        let (last, states) = self.loops(ids, earlier > 0.0 && before > 0);
        let targets = targets.reshape([batch * time]);
        let loss = |state| {
            let (head, tied) = match &self.head {
                Some(head) => (head.val(), false),
                None => (self.embedding.val(), true),
            };
            ops::head_loss(state, head, tied, targets.clone())
        };
        let last = loss(last);
        let sum = states.into_iter().take(before).map(loss).reduce(|sum, loss| sum + loss);
        match sum {
            Some(sum) => (last.clone(), last + sum.mul_scalar(earlier / before as f64)),
            None => (last.clone(), last),
        }
    }

    /// The loops: final-normed rows `[B x T, d]` of the last loop, and of every loop if `keep`.
    fn loops(&self, ids: Tensor<2, Int>, keep: bool) -> (Tensor<2>, Vec<Tensor<2>>) {
        let [batch, time] = ids.dims();
        let (recipe, d, eps) = (&self.config.recipe, self.config.hidden_size, self.config.rms_norm_eps);
        let pass = Pass::new(&self.config, batch, time, &ids.device());
        let embedded = embedding(self.embedding.val(), ids).reshape([batch * time, d]);
        let mut first = vec![None; self.layers.len()];
        let mut states = Vec::new();
        let mut x = embedded.clone();
        for r in 0..recipe.count {
            if r > 0 {
                x = self.loop_input(&embedded, x, &pass);
            }
            for (layer, first) in self.layers.iter().zip(&mut first) {
                x = layer.forward(x, r, first, recipe, &pass, eps);
            }
            // With `norm` the normed state is also what the next loop takes.
            let last = r + 1 == recipe.count;
            if last || keep || recipe.norm {
                let normed = ops::rms_norm(x.clone(), self.norm.val(), eps);
                if keep {
                    states.push(normed.clone());
                }
                if last || recipe.norm {
                    x = normed;
                }
            }
        }
        (x, states)
    }

    /// Input of loop r >= 2: `embedding_scale * E_t + hidden_scale * H_(t - shift)`, zeros before the first token.
    fn loop_input(&self, embedded: &Tensor<2>, state: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let recipe = &self.config.recipe;
        let d = self.config.hidden_size;
        let mut h = state;
        if recipe.shift {
            let mut shifted = vec![Tensor::zeros([pass.batch, 1, d], &h.device())];
            if pass.time > 1 {
                shifted.push(h.reshape([pass.batch, pass.time, d]).narrow(1, 0, pass.time - 1));
            }
            h = Tensor::cat(shifted, 1).reshape([pass.rows(), d]);
        }
        if let Some(scales) = &self.scales {
            let scale = |at: usize| scales.val().narrow(0, at, 1).reshape([1, 1]);
            let h = h * scale(0);
            return if recipe.embedding_scale.is_some() { h + embedded.clone() * scale(1) } else { h };
        }
        let h = h.mul_scalar(recipe.hidden_scale);
        match recipe.embedding_scale {
            Some(scale) => h + embedded.clone().mul_scalar(scale),
            None => h,
        }
    }

    /// `[rows, V]`
    fn logits(&self, normed: Tensor<2>) -> Tensor<2> {
        match &self.head {
            Some(head) => ops::linear(normed, head.val()),
            None => normed.matmul(self.embedding.val().transpose()),
        }
    }

    /// Targets as a tensor `[batch, time]` on the model's device: -1 where nothing is asked ([`IGNORED`]).
    ///
    /// # Errors
    /// As [`LoopModel::ids`].
    pub fn targets(&self, targets: &[u32], batch: usize, time: usize) -> Result<Tensor<2, Int>> {
        self.tensor(targets, batch, time, Some(IGNORED))
    }

    /// Ids as a tensor `[batch, time]` on the model's device.
    ///
    /// # Errors
    /// The number of ids is not batch x time, or an id is outside the vocabulary.
    pub fn ids(&self, ids: &[u32], batch: usize, time: usize) -> Result<Tensor<2, Int>> {
        self.tensor(ids, batch, time, None)
    }

    fn tensor(&self, ids: &[u32], batch: usize, time: usize, ignored: Option<u32>) -> Result<Tensor<2, Int>> {
        let is_wrong = |id: u32| id as usize >= self.config.vocab_size && Some(id) != ignored;
        if let Some(id) = ids.iter().find(|id| is_wrong(**id)) {
            return Err(Error::Model(parloop_model::Error::Input(format!(
                "token id {id} is outside the vocabulary: ids run from 0 to {}",
                self.config.vocab_size - 1
            ))));
        }
        if ids.len() != batch * time || ids.is_empty() {
            return Err(Error::Model(parloop_model::Error::Input(format!(
                "{} ids do not fill {batch} sequences of {time} tokens",
                ids.len()
            ))));
        }
        let ids: Vec<i64> = ids.iter().map(|id| if Some(*id) == ignored { -1 } else { i64::from(*id) }).collect();
        Ok(Tensor::from_data(TensorData::new(ids, [batch, time]), &self.device()))
    }
}
