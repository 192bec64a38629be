//! What the engine does around a pass of rows: the device computes it.

use crate::device::Pass;
use crate::{Engine, Sequence};
use parloop_kernels::ops::rms_norm_safe;
use std::ops::Range;

impl Engine {
    /// Pushes `self.rows` through the layers; `self.x` holds their inputs `[rows][d]`. In the end `self.rows` are those
    /// that went through all layers, and `self.x` their outputs. Room for keys and values must have been made
    /// ([`Sequence::reserve`]).
    pub(crate) fn pass(&mut self, sequences: &mut [&mut Sequence]) {
        // In the layer after its last, a row still gives keys and values.
        let layers = self.model.config().num_hidden_layers;
        self.layer_rows += self.rows.iter().map(|row| layers.min(row.depth + 1) as u64).sum::<u64>();
        let Self { model, device, on, rows, x, spares, experts_read, made_up, .. } = self;
        let made_up = *made_up;
        device.pass(on, Pass { model, rows, x, sequences, spares, made_up, experts_read });
    }

    /// Logits of rows of `self.x`, into `self.logits`.
    pub(crate) fn head(&mut self, rows: Range<usize>) {
        let (d, vocabulary) = (self.model.config().hidden_size, self.model.config().vocab_size);
        let len = rows.len() * vocabulary;
        if self.logits.len() < len {
            self.logits.resize(len, 0.0);
        }
        let Self { model, device, on, x, logits, .. } = self;
        device.head(on, model, &x[rows.start * d..rows.end * d], &mut logits[..len]);
    }

    /// The logits `[V]` of a loop's output `[d]`: what it would say if it were the last.
    pub(crate) fn logits_of(&mut self, output: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; self.model.config().vocab_size];
        let Self { model, device, on, .. } = self;
        device.head(on, model, output, &mut logits);
        logits
    }

    /// The normed state `[d]` of the last loop after the last token of a sequence; nothing where it has to be computed
    /// again.
    pub(crate) fn last_state(&self, sequence: &Sequence) -> Vec<f32> {
        let c = self.model.config();
        let mut out = vec![0.0; sequence.last.len()];
        if !out.is_empty() {
            rms_norm_safe(&self.on, &sequence.last, self.model.final_norm(), c.rms_norm_eps, &mut out);
        }
        out
    }

    /// The final norm of a row of `self.x`.
    pub(crate) fn normed(&self, row: usize, out: &mut [f32]) {
        let c = self.model.config();
        let x = &self.x[row * c.hidden_size..][..c.hidden_size];
        rms_norm_safe(&self.on, x, self.model.final_norm(), c.rms_norm_eps, out);
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
