//! `POST /v1/embeddings`: the state behind the last token of a text, of length one.

use super::completions::prompts;
use super::fields::{Fields, short};
use super::job::{Job, Usage};
use super::object;
use super::reading::Reading;
use super::sampling::{Asked, request};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    let size = app.model.config().hidden_size as u64;
    if fields.whole("dimensions", 1, 1 << 20)?.is_some_and(|n| n != size) {
        return Err(ApiError::field("dimensions", format!("this model's vectors have {size}, and are not cut")));
    }
    let base64 = match fields.get("encoding_format").map(|v| (v, v.as_str())) {
        None | Some((_, Some("float"))) => false,
        Some((_, Some("base64"))) => true,
        Some((other, _)) => {
            return Err(ApiError::field("encoding_format", format!("{} is neither float nor base64", short(other))));
        }
    };
    let asked = Asked { tokens: Some(0), ..Asked::default() };
    // How texts are continued does not matter here, whatever else a client sends.
    let none = Map::new();
    let requests = prompts(&app, &fields, "input")?.into_iter().map(|prompt| {
        let mut request = request(&app, &Fields(&none), &asked, prompt)?;
        request.state = true;
        Ok(request)
    });
    let requests = requests.collect::<Result<_, ApiError>>()?;
    let (answers, Usage { prompt, .. }) = Job { requests, reading: Reading::default() }.start(&app)?.whole().await?;
    let data = answers.into_iter().enumerate().map(|(i, one)| {
        let vector = unit(one.answer.state);
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Value::from(BASE64_STANDARD.encode(bytes))
        } else {
            json!(vector)
        };
        json!({ "object": "embedding", "index": i, "embedding": embedding })
    });
    Ok(Json(json!({
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": app.name,
        "usage": { "prompt_tokens": prompt, "total_tokens": prompt },
    })))
}

/// A vector of length one in the same direction.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}
