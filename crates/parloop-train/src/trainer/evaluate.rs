//! Loss on text that the model does not train on.

use crate::Result;
use crate::data::Feed;
use crate::host::host;
use crate::model::LoopModel;
use serde::Serialize;

/// Loss over validation windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Validation {
    /// Mean cross-entropy of what was asked: every next token of a text, answers of examples.
    pub nats_per_token: f64,
    /// The same by bytes of text: nats per token x tokens of the validation text / its bytes / ln 2. It does not
    /// depend on the tokenizer, so models with different ones can be compared. None for examples.
    pub bits_per_byte: Option<f64>,
}

/// Evaluates up to `batches` batches spread over the validation text; `None` if there is no such text.
pub(super) fn validate(model: &LoopModel, feed: &Feed, batches: usize) -> Result<Option<Validation>> {
    let (mut sum, mut count) = (0.0, 0.0);
    for batch in feed.validation(batches) {
        let ids = model.ids(&batch.ids, batch.batch, batch.time)?;
        let targets = model.targets(&batch.targets, batch.batch, batch.time)?;
        let tokens = batch.asked() as f64;
        sum += tokens * f64::from(host(model.loss(ids, targets))[0]);
        count += tokens;
    }
    if count == 0.0 {
        return Ok(None);
    }
    let nats_per_token = sum / count;
    let bits_per_byte = feed.tokens_per_byte().map(|tokens| nats_per_token * tokens / std::f64::consts::LN_2);
    Ok(Some(Validation { nats_per_token, bits_per_byte }))
}
