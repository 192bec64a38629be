//! Loss on text that the model does not train on.

use crate::Result;
use crate::data::Windows;
use crate::host::host;
use crate::model::LoopModel;
use serde::Serialize;

/// Loss over validation windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Validation {
    /// Mean next-token cross-entropy.
    pub nats_per_token: f64,
    /// The same by bytes of text: nats per token x tokens of the validation text / its bytes / ln 2. It does not
    /// depend on the tokenizer, so models with different ones can be compared.
    pub bits_per_byte: f64,
}

/// Evaluates up to `batches` batches spread over the validation text; `None` if there is no such text.
pub(super) fn validate(model: &LoopModel, windows: &Windows, batches: usize) -> Result<Option<Validation>> {
    let (mut sum, mut count) = (0.0, 0.0);
    for batch in windows.validation(batches) {
        let ids = model.ids(&batch.ids, batch.batch, batch.time)?;
        let targets = model.ids(&batch.targets, batch.batch, batch.time)?;
        let tokens = (batch.batch * batch.time) as f64;
        sum += tokens * f64::from(host(model.loss(ids, targets))[0]);
        count += tokens;
    }
    if count == 0.0 {
        return Ok(None);
    }
    let nats_per_token = sum / count;
    let tokens_per_byte = windows.tokens().val() as f64 / windows.tokens().val_bytes().max(1) as f64;
    Ok(Some(Validation { nats_per_token, bits_per_byte: nats_per_token * tokens_per_byte / std::f64::consts::LN_2 }))
}
