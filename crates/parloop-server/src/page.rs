//! The page at `/`: a conversation, and the rows of the last passes.
//!
//! Plain files that are part of the program; the page asks nobody but this server.

use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// Where the files of the page are; they hold no secret, so they need no key.
pub(crate) const FILES: [&str; 3] = ["/", "/page.css", "/page.js"];

/// Nothing from elsewhere, nothing that is not in the files, and no other page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the program has other files.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

pub(crate) async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(crate) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

/// `GET /rows?after=N`: what the passes after that number were made of, as far as they are remembered. A span is
/// `[request, loop, first position, rows]`.
pub(crate) async fn rows(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let after = match query.as_deref().unwrap_or_default() {
        "" => 0,
        query => {
            let number = query.strip_prefix("after=").and_then(|n| n.parse().ok());
            number.ok_or_else(|| ApiError::field("after", "expected /rows?after=NUMBER"))?
        }
    };
    let passes = app.worker.counters.passes(after).into_iter().map(|pass| {
        let spans = pass.spans.iter().map(|s| json!([s.request.number(), s.r, s.first, s.rows]));
        json!({ "number": pass.number, "micros": pass.micros, "spans": spans.collect::<Vec<_>>() })
    });
    let passes: Vec<Value> = passes.collect();
    let load = app.worker.counters.load();
    Ok(Json(json!({
        "loops": app.model.config().recipe.count,
        "running": load.running,
        "waiting": load.waiting,
        "passes": passes,
    })))
}
