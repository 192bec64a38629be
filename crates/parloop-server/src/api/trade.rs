//! What stands around completions: health, models, tokens.

use super::chat::talk;
use super::fields::{Fields, short};
use super::object;
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

pub(crate) async fn props(State(app): State<Arc<App>>) -> Json<Value> {
    let config = app.model.config();
    Json(json!({
        "model": app.name,
        "n_ctx": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "recipe": config.recipe.describe(),
        "weights": app.model.weight_type().name(),
        "chat": app.template.is_some(),
        "total_slots": app.most,
    }))
}

fn entry(app: &App) -> Value {
    let config = app.model.config();
    json!({
        "id": app.name,
        "object": "model",
        "created": app.created,
        "owned_by": "parloop",
        "max_model_len": config.max_position_embeddings,
        "meta": { "n_ctx_train": config.max_position_embeddings, "n_vocab": config.vocab_size, "loops": config.recipe.count },
    })
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [entry(&app)], "models": [{ "name": app.name, "model": app.name }] }))
}

pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    if id != app.name {
        let message = format!("the model \"{id}\" is not served here, \"{}\" is", app.name);
        return Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found"));
    }
    Ok(Json(entry(&app)))
}

/// The text of a request under either of the names that clients use.
fn text<'a>(fields: &Fields<'a>) -> Result<&'a str, ApiError> {
    let Some(value) = fields.get("content").or_else(|| fields.get("prompt")) else {
        return Err(ApiError::field("content", "it is missing"));
    };
    value.as_str().ok_or_else(|| ApiError::field("content", format!("{} is no string", short(value))))
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    let tokenizer = app.model.tokenizer().ok_or_else(|| ApiError::field("content", "the model has no tokenizer"))?;
    let special = fields.get("add_special").or_else(|| fields.get("add_special_tokens"));
    let ids = match special.and_then(Value::as_bool) {
        Some(false) => tokenizer.encode_bare(text(&fields)?)?,
        _ => tokenizer.encode(text(&fields)?)?,
    };
    let context = app.model.config().max_position_embeddings;
    Ok(Json(json!({ "count": ids.len(), "max_model_len": context, "tokens": ids })))
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let Some(Value::Array(ids)) = Fields(&body).get("tokens") else {
        return Err(ApiError::field("tokens", "it is missing, or no list of ids"));
    };
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
    let ids = ids.ok_or_else(|| ApiError::field("tokens", "not all of them are ids"))?;
    if !ids.is_empty() {
        app.model.config().check_tokens(&ids).map_err(|e| ApiError::field("tokens", e))?;
    }
    let tokenizer = app.model.tokenizer().ok_or_else(|| ApiError::field("tokens", "the model has no tokenizer"))?;
    let text = tokenizer.decode(&ids)?;
    Ok(Json(json!({ "content": text, "prompt": text })))
}

pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let written = talk(&Fields(&body))?.write(&app)?;
    Ok(Json(json!({ "prompt": written.text, "tokens": written.ids })))
}

/// How many tokens a conversation has; nothing is computed.
pub(crate) async fn input_tokens(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let count = talk(&Fields(&body))?.write(&app)?.ids.len();
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": count })))
}

/// What clients want to know of a tokenizer that they do not have.
pub(crate) async fn tokenizer_info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::new(StatusCode::NOT_FOUND, "the model has no tokenizer");
    let tokenizer = app.model.tokenizer().ok_or_else(missing)?;
    let (before, _) = tokenizer.around()?;
    let text = |id: Option<&u32>| id.and_then(|id| tokenizer.token(*id));
    let end = text(app.model.stops().ids().first());
    let size = tokenizer.vocab_size();
    let mut info = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_size": size,
        "model_max_length": app.model.config().max_position_embeddings,
        "bos_token": text(before.first()),
        "eos_token": end,
        "pad_token": end,
        "add_bos_token": !before.is_empty(),
    });
    if let (Some(template), Value::Object(info)) = (&app.template, &mut info) {
        info.extend(template.tokens().clone());
        info.insert("chat_template".into(), template.source().into());
    }
    Ok(Json(info))
}
