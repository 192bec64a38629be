//! Checkpoints of a run: a Hugging Face folder plus what the optimiser needs to go on.

use super::guard::Skips;
use super::{Event, Hooks, Run, Validation};
use crate::host::host;
use crate::options::{TrainOptions, TuneChoice};
use crate::weights::{NamedTensor, SCALES};
use crate::{Error, Result};
use parloop_model::checkpoint::{CheckpointWriter, DType, TensorData};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) const OPTIMISER: &str = "optimizer.safetensors";
pub(super) const STATE: &str = "trainer.json";

/// `trainer.json`. All randomness is drawn from the seed (in `options`) and the step, so there is no generator state.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub format: u32,
    /// Steps taken.
    pub step: usize,
    pub tokens: u64,
    /// Hash of the token file's ids, in hexadecimal.
    pub data: String,
    /// Hash of the tokenizer's files, in hexadecimal.
    pub tokenizer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Steps that were skipped, and the running mean that judges the next.
    #[serde(default)]
    pub skips: Skips,
    pub options: TrainOptions,
}

impl State {
    pub(super) const FORMAT: u32 = 1;

    pub(super) fn read(checkpoint: &Path) -> Result<Self> {
        let path = checkpoint.join(STATE);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let state: Self = serde_json::from_str(&text)
            .map_err(|e| Error::resume(checkpoint, format!("{STATE} is not the state of a run: {e}")))?;
        if state.format != Self::FORMAT {
            let message = format!("{STATE} has format {}, this version knows {}", state.format, Self::FORMAT);
            return Err(Error::resume(checkpoint, message));
        }
        Ok(state)
    }
}

fn data(tensors: &[NamedTensor]) -> Vec<TensorData<'_>> {
    let data = |t: &'_ NamedTensor| (t.name.clone(), t.shape.clone());
    tensors
        .iter()
        .map(|t| {
            let (name, shape) = data(t);
            TensorData { name, shape, dtype: DType::F32, values: Cow::Borrowed(&t.values) }
        })
        .collect()
}

impl Run<'_> {
    /// Writes `checkpoint-NNNNNN`, whole or not at all.
    pub(super) fn save(&mut self, validation: Option<Validation>, hooks: &mut Hooks<'_>) -> Result<PathBuf> {
        let folder = self.out.join(format!("checkpoint-{:06}", self.step));
        if let Some((_, path)) = self.saved.as_ref().filter(|(step, _)| *step == self.step) {
            return Ok(path.clone());
        }
        let weights = self.model.to_tensors();
        if !weights.iter().all(|tensor| tensor.values.iter().all(|x| x.is_finite())) {
            return Err(Error::Weights { step: self.step, good: self.good.clone() });
        }
        self.write(&folder, &weights, validation)
            .map_err(|source| Error::Save { path: folder.clone(), source: Box::new(source) })?;
        self.saved = Some((self.step, folder.clone()));
        hooks.tell(&Event::Saved { step: self.step, checkpoint: &folder });
        Ok(folder)
    }

    fn write(&self, folder: &Path, weights: &[NamedTensor], validation: Option<Validation>) -> Result<()> {
        let state = State {
            format: State::FORMAT,
            step: self.step,
            tokens: self.tokens(),
            data: format!("{:016x}", self.feed.content()),
            tokenizer: format!("{:016x}", crate::data::tokenizer_hash(&self.tokenizer)),
            val_loss: validation.map(|v| v.nats_per_token),
            skips: self.guard.skips.clone(),
            options: self.options.clone(),
        };
        let state =
            serde_json::to_string_pretty(&state).map_err(|e| Error::io("write", &folder.join(STATE), e.into()))?;
        let writer = CheckpointWriter::create(folder)?;
        writer.model(self.model.config(), None)?;
        for (name, bytes) in self.settings.files(Some(&self.tokenizer)) {
            writer.file(name, &bytes)?;
        }
        writer.weights(&data(weights), None)?;
        let mut state_tensors = self.optimiser.to_tensors(&self.model);
        if let Some(scales) = &self.model.scales {
            // The configuration has them as decimal fractions.
            let values = host(scales.val());
            state_tensors.push(NamedTensor { name: SCALES.into(), shape: vec![values.len()], values });
        }
        writer.tensors(OPTIMISER, &data(&state_tensors))?;
        self.write_adapter(&writer)?;
        writer.file(STATE, state.as_bytes())?;
        Ok(writer.finish()?)
    }

    /// With lora: the adapter alone in PEFT's layout, and with it what is new and trained whole.
    fn write_adapter(&self, writer: &CheckpointWriter) -> Result<()> {
        if self.options.tune != TuneChoice::Lora {
            return Ok(());
        }
        let name = |of: &str, factor: &str| {
            format!("base_model.model.{}{factor}.weight", of.strip_suffix(".weight").unwrap_or(of))
        };
        let mut modules = Vec::new();
        let mut tensors = Vec::new();
        for factor in self.optimiser.factors() {
            let Some((which, of)) = factor.name.split_once('.') else { continue };
            modules.extend(of.trim_end_matches(".weight").rsplit('.').next().map(str::to_owned));
            tensors.push(NamedTensor { name: name(of, &format!(".{which}")), ..factor });
        }
        modules.sort();
        modules.dedup();
        let config = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": true,
            "base_model_name_or_path": self.options.init, "target_modules": modules,
            "r": self.options.lora_rank, "lora_alpha": self.options.lora_alpha, "lora_dropout": 0.0,
            "fan_in_fan_out": false, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
        });
        writer.tensors("adapter/adapter_model.safetensors", &data(&tensors))?;
        Ok(writer.file("adapter/adapter_config.json", format!("{config:#}\n").as_bytes())?)
    }

    /// Removes checkpoints before the last `keep`, but those of steps that `keep_every` divides. A folder that cannot be
    /// removed is left: the run matters more.
    pub(super) fn prune(&self) {
        let mut steps = checkpoints(&self.out);
        steps.retain(|(step, _)| *step <= self.step);
        let surplus = steps.len().saturating_sub(self.options.keep);
        let every = self.options.keep_every;
        let stays = |step: usize| every > 0 && step.is_multiple_of(every);
        for (_, path) in steps.into_iter().take(surplus).filter(|(step, _)| !stays(*step)) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Whole checkpoint folders of a run, oldest first.
pub(super) fn checkpoints(out: &Path) -> Vec<(usize, PathBuf)> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<usize>().ok();
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let whole = entries.map(|e| e.path()).filter(|p| p.join(STATE).exists());
    let mut found: Vec<_> = whole.filter_map(|p| Some((step(&p)?, p))).collect();
    found.sort();
    found
}
