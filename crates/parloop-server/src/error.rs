//! Errors in the shapes that clients read: OpenAI's, or Anthropic's.

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
    /// Tokens of a prompt and of the context, where the one does not fit into the other.
    pub numbers: Option<(usize, usize)>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, numbers: None }
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
        let mut error = json!({ "message": self.message, "type": kind, "param": self.param, "code": self.code });
        if let Some((prompt, context)) = self.numbers {
            error["n_prompt_tokens"] = prompt.into();
            error["n_ctx"] = context.into();
        }
        json!({ "error": error })
    }

    /// The same in Anthropic's shape.
    pub fn anthropic(&self) -> serde_json::Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        // Agents of this interface look for these words when a context is full.
        let message = match self.numbers {
            Some((prompt, context)) => {
                format!("prompt is too long: {prompt} tokens > {context} maximum. {}", self.message)
            }
            None => self.message.clone(),
        };
        json!({ "type": "error", "error": { "type": kind, "message": message } })
    }

    /// The response with a body of one shape or the other.
    fn response(&self, body: serde_json::Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The response of the interface that a path belongs to.
    pub fn response_for(&self, path: &str) -> Response {
        self.response(if path.starts_with("/v1/messages") { self.anthropic() } else { self.body() })
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
    /// OpenAI's shape; the error goes along, for paths of another interface.
    fn into_response(self) -> Response {
        let mut response = self.response(self.body());
        response.extensions_mut().insert(self);
        response
    }
}
