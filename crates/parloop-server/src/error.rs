//! Errors in the shape that clients of OpenAI's interface read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A host that other machines reach, and no key.
    #[error("{0} is reached by other machines, and no key is set: set one, or say that none is wanted")]
    Open(String),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] parloop_engine::Error),
    /// The system refused.
    #[error("the server cannot go on: {0}")]
    System(#[from] std::io::Error),
}

/// An answer that is an error: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A field that holds what it must not.
    pub fn field(name: &str, message: impl std::fmt::Display) -> Self {
        Self { param: Some(name.into()), ..Self::new(StatusCode::BAD_REQUEST, format!("{name}: {message}")) }
    }

    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body of the error, also for streams that have begun.
    pub fn body(&self) -> serde_json::Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl From<parloop_engine::Error> for ApiError {
    fn from(error: parloop_engine::Error) -> Self {
        match error {
            parloop_engine::Error::Spent(spent) => Self::new(StatusCode::SERVICE_UNAVAILABLE, spent.to_string()),
            error => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl From<parloop_model::Error> for ApiError {
    fn from(error: parloop_model::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
