//! `POST /slots/{id}?action=save|restore|erase`: states in files, by name.
//!
//! A request with the field `id_slot` is remembered in that slot when it is done. What was computed for its text can then
//! be saved, and restored later, also by another server of the same model: a text that goes on from it computes only what
//! is new.

use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use parloop_engine::Scheduler;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Characters of a file's name at most.
const NAME: usize = 128;

pub(crate) async fn slot(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let slot = id.parse::<u32>().ok().filter(|id| (*id as usize) < app.most);
    let slot = slot.ok_or_else(|| ApiError::field("id", format!("{id:?} is no slot from 0 to {}", app.most - 1)))?;
    let start = Instant::now();
    let milliseconds = || start.elapsed().as_secs_f64() * 1e3;
    match query.as_deref().and_then(|q| q.strip_prefix("action=")).unwrap_or_default() {
        "save" => {
            let (name, path) = file(&app, &body)?;
            let to = path.clone();
            let tokens = app.worker.between(move |s: &mut Scheduler<'_>| s.save_slot(slot, &to)).await?;
            let tokens = tokens.map_err(|e| hidden(e, &path, &name))?;
            let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
            Ok(Json(json!({
                "id_slot": slot, "filename": name, "n_saved": tokens, "n_written": bytes,
                "timings": { "save_ms": milliseconds() },
            })))
        }
        "restore" => {
            let (name, path) = file(&app, &body)?;
            if !path.is_file() {
                return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no saved state {name:?}")));
            }
            let from = path.clone();
            let tokens = app.worker.between(move |s: &mut Scheduler<'_>| s.restore_slot(slot, 0, &from)).await?;
            let tokens = tokens.map_err(|e| hidden(e, &path, &name))?;
            let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
            Ok(Json(json!({
                "id_slot": slot, "filename": name, "n_restored": tokens, "n_read": bytes,
                "timings": { "restore_ms": milliseconds() },
            })))
        }
        "erase" => {
            let tokens = app.worker.between(move |s: &mut Scheduler<'_>| s.erase_slot(slot)).await?;
            Ok(Json(json!({ "id_slot": slot, "n_erased": tokens })))
        }
        other => Err(ApiError::field("action", format!("{other:?} is none: expected save, restore or erase"))),
    }
}

/// The file that a body names, in the folder for them.
fn file(app: &App, body: &Bytes) -> Result<(String, PathBuf), ApiError> {
    let Some(folder) = &app.slots else {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "this server keeps no states: it was started without a folder for them (--slot-save-path)",
        ));
    };
    let body: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {e}")))?;
    let Some(name) = body["filename"].as_str() else {
        return Err(ApiError::field("filename", "it is missing, or no string"));
    };
    if !is_name(name) {
        let rule = format!("expected up to {NAME} letters, digits, '-', '_' and '.', and no '.' at the beginning");
        return Err(ApiError::field("filename", rule));
    }
    Ok((name.to_owned(), folder.join(name)))
}

/// Whether it names a file in a folder, and nothing else anywhere: no separators, no devices, nothing hidden.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // What Windows takes for a device, whatever follows the dot.
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let port = |prefix| stem.strip_prefix(prefix).is_some_and(|n: &str| n.len() == 1);
    let device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || port("COM") || port("LPT");
    (1..=NAME).contains(&name.len())
        && name.chars().all(fits)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !device
}

/// An error without the folder, which is nobody's business.
fn hidden(error: parloop_engine::Error, path: &std::path::Path, name: &str) -> ApiError {
    let mut error = ApiError::from(error);
    error.message = error.message.replace(&path.display().to_string(), name);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_file_in_the_folder() {
        for name in ["a", "chat-1.state", "A_b.c-9", "console", &"a".repeat(NAME)] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(NAME + 1);
        for name in
            ["", ".", "..", ".a", "a/b", "../a", "a\\b", "/a", "C:a", "a\0", "a b", "ä", "nul", "COM1.x", "a.", &long]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
