//! Checkpoints of a run: a Hugging Face folder plus what the optimiser needs to go on.

use super::{Event, Hooks, Run, Validation};
use crate::options::TrainOptions;
use crate::weights::NamedTensor;
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
    /// Writes `checkpoint-NNNNNN`, whole or not at all, then removes all but the last few.
    pub(super) fn save(&mut self, validation: Option<Validation>, hooks: &mut Hooks<'_>) -> Result<PathBuf> {
        let folder = self.out.join(format!("checkpoint-{:06}", self.step));
        if let Some((_, path)) = self.saved.as_ref().filter(|(step, _)| *step == self.step) {
            return Ok(path.clone());
        }
        self.write(&folder, validation)
            .map_err(|source| Error::Save { path: folder.clone(), source: Box::new(source) })?;
        self.saved = Some((self.step, folder.clone()));
        hooks.tell(&Event::Saved { step: self.step, checkpoint: &folder });
        self.prune();
        Ok(folder)
    }

    fn write(&self, folder: &Path, validation: Option<Validation>) -> Result<()> {
        let state = State {
            format: State::FORMAT,
            step: self.step,
            tokens: self.tokens(),
            data: format!("{:016x}", self.feed.content()),
            tokenizer: format!("{:016x}", crate::data::tokenizer_hash(&self.tokenizer)),
            val_loss: validation.map(|v| v.nats_per_token),
            options: self.options.clone(),
        };
        let state =
            serde_json::to_string_pretty(&state).map_err(|e| Error::io("write", &folder.join(STATE), e.into()))?;
        let writer = CheckpointWriter::create(folder)?;
        writer.model(self.model.config(), Some(&self.tokenizer))?;
        writer.weights(&data(&self.model.to_tensors()), None)?;
        writer.tensors(OPTIMISER, &data(&self.optimiser.to_tensors(&self.model)))?;
        writer.file(STATE, state.as_bytes())?;
        Ok(writer.finish()?)
    }

    /// Removes checkpoints before the last `keep`. A folder that cannot be removed is left: the run matters more.
    fn prune(&self) {
        let mut steps = checkpoints(&self.out);
        steps.retain(|(step, _)| *step <= self.step);
        let surplus = steps.len().saturating_sub(self.options.keep);
        for (_, path) in steps.into_iter().take(surplus) {
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
