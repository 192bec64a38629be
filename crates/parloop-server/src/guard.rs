//! Who may ask: the key, where a request says it goes and comes from, and how much it may say in which time.

use crate::app::App;
use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Paths that need no key: whether the server is there is no secret.
const OPEN: [&str; 2] = ["/health", "/v1/health"];

/// Lets a request through, or answers it.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match refusal(&app, request.uri().path(), request.headers()) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

/// Bodies of requests, and the memory that all of them together may take.
pub(crate) struct Bodies {
    /// Bytes of one.
    most: usize,
    /// How long a client may be silent before the end of one.
    patience: Duration,
    memory: Arc<Semaphore>,
}

/// As many bodies of the largest size are in memory at a time.
const LARGEST: usize = 8;

impl Bodies {
    pub fn new(most: usize, patience: Duration) -> Self {
        let memory = most.saturating_mul(LARGEST).min(Semaphore::MAX_PERMITS);
        Self { most, patience, memory: Arc::new(Semaphore::new(memory)) }
    }

    /// A whole body, and its place in memory.
    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
        let (mut stream, mut held) = (body.into_data_stream(), Vec::new());
        let mut place: Option<OwnedSemaphorePermit> = None;
        loop {
            let Ok(next) = timeout(self.patience, stream.next()).await else {
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the end of the request did not come in time"));
            };
            let Some(piece) = next else { return Ok((held.into(), place)) };
            let Ok(piece) = piece else {
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "the request breaks off"));
            };
            if held.len() + piece.len() > self.most {
                return Err(self.too_large());
            }
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let Ok(more) = self.memory.clone().try_acquire_many_owned(count) else {
                let message = "other requests take the memory for bodies: try again";
                return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded"));
            };
            match &mut place {
                Some(place) => place.merge(more),
                None => place = Some(more),
            }
            held.extend_from_slice(&piece);
        }
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body is larger than this server takes, which is {} bytes", self.most);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

/// Reads the body before the request goes on.
pub(crate) async fn whole(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > app.bodies.most) {
        return app.bodies.too_large().into_response();
    }
    match app.bodies.read(body).await {
        Ok((body, place)) => {
            let response = next.run(Request::from_parts(parts, body.into())).await;
            drop(place);
            response
        }
        Err(error) => error.into_response(),
    }
}

fn refusal(app: &App, path: &str, headers: &HeaderMap) -> Option<ApiError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    // A page of another site, or a name that was made to point here, must not reach a server that trusts its machine.
    if app.loopback {
        if let Some(host) = text(header::HOST).filter(|host| !is_local(host)) {
            return Some(ApiError::new(
                StatusCode::FORBIDDEN,
                format!("the request is for the host {host}, this server answers for this machine only"),
            ));
        }
        if let Some(origin) = text(header::ORIGIN)
            && !origin.split_once("://").is_some_and(|(_, host)| is_local(host))
        {
            return Some(ApiError::new(StatusCode::FORBIDDEN, format!("the request comes from the page of {origin}")));
        }
    }
    if let (Some(key), false) = (&app.key, OPEN.contains(&path) || crate::page::FILES.contains(&path)) {
        let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        let given = bearer.or_else(|| headers.get("x-api-key").and_then(|v| v.to_str().ok()));
        if !given.is_some_and(|given| same(given.as_bytes(), key.as_bytes())) {
            let message = "the key is missing or wrong: send it as \"Authorization: Bearer KEY\"";
            return Some(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"));
        }
    }
    None
}

/// Whether a host, with or without its port, is this machine.
pub(crate) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Equality that takes the same time wherever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "[::1]:8080", "[::1]", "::1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "", "10.0.0.1", "[::2]:1"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn keys_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
