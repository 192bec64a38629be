//! Requests to a hub: where they go, who may see the token, and what an answer other than the file means.

use super::retry::Failure;
use crate::cache::Repository;
use anyhow::{Context, Result, anyhow, bail, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;
use ureq::http::header::{self, HeaderValue};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

const REDIRECTS: usize = 8;
/// What stays as it is in a part of a path; the rest is percent-encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The time a connection may take, or be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// The hub that is meant where nobody names another.
const USUAL: &str = "https://huggingface.co";

/// A hub, as the environment names it.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<HeaderValue>,
}

/// Scheme, host and port: who hears what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        // A name or password before the host has no place in an address of ours.
        let host = uri.host().filter(|_| !uri.authority().is_some_and(|a| a.as_str().contains('@')))?;
        Some(Self { secure, host: host.to_ascii_lowercase(), port })
    }
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, or else the usual one, with the token of `HF_TOKEN` if there is one.
    pub fn from_environment() -> Result<Self> {
        let variable = |name| match std::env::var(name) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => bail!("{name} is not UTF-8 text"),
        };
        let address = variable("HF_ENDPOINT")?.unwrap_or_else(|| USUAL.into());
        let endpoint = address.trim_end_matches('/').to_owned();
        let parsed = endpoint.parse::<Uri>().ok().filter(|uri| uri.query().is_none() && !endpoint.contains('#'));
        let origin = parsed.as_ref().and_then(Origin::of).with_context(|| {
            format!("HF_ENDPOINT is {address:?}, expected an address such as https://HOST or http://HOST:PORT/PATH")
        })?;
        let token = variable("HF_TOKEN")?.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        let token = token.transpose().map_err(|_| anyhow!("HF_TOKEN holds characters that no token has"))?;
        let agent = Agent::config_builder()
            .user_agent(concat!("parloop/", env!("CARGO_PKG_VERSION")))
            // Sizes and ranges are those of the file, so it must come as it is.
            .accept_encoding("identity")
            .http_status_as_error(false)
            // Redirects are followed here, where the token is left behind.
            .max_redirects(0)
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, origin, token })
    }

    /// Where the list of a model's files is.
    pub fn list(&self, model: &Repository, revision: &str) -> String {
        format!("{}/api/models/{model}/revision/{}?blobs=true", self.endpoint, utf8_percent_encode(revision, ENCODED))
    }

    /// Where a file is.
    pub fn file(&self, model: &Repository, revision: &str, name: &str) -> String {
        let parts: Vec<String> = name.split('/').map(|p| utf8_percent_encode(p, ENCODED).to_string()).collect();
        format!("{}/{model}/resolve/{}/{}", self.endpoint, utf8_percent_encode(revision, ENCODED), parts.join("/"))
    }

    /// Asks for what is at an address of this hub, from byte `from` on. The answer's status is 200, 206 or 416.
    pub fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut uri: Uri = url.parse().map_err(|_| anyhow!("{url:?} is not an address"))?;
        // Once elsewhere, a request never gets the token back.
        let mut at_home = true;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&uri);
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header(header::AUTHORIZATION, token);
            }
            let response = request.call().map_err(|error| self.broken(error))?;
            if !response.status().is_redirection() {
                return self.accepted(response, at_home);
            }
            let to = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            uri = to.and_then(|to| resolve(&uri, to)).context("it is redirected to an address that cannot be read")?;
            let origin = Origin::of(&uri).context("it is redirected to an address that is not http or https")?;
            if self.origin.secure && !origin.secure {
                return Err(anyhow!("it is redirected from https to http, where anyone could change it").into());
            }
            at_home &= origin == self.origin;
        }
        Err(anyhow!("it is redirected more than {REDIRECTS} times").into())
    }

    /// What it means that there is no answer.
    fn broken(&self, error: ureq::Error) -> Failure {
        use std::io::ErrorKind::{InvalidData, InvalidInput};
        let (hub, or) = (format!("the hub {}", self.endpoint), "HF_ENDPOINT names another hub");
        match error {
            // A certificate that does not convince, for one.
            ureq::Error::Io(e) if matches!(e.kind(), InvalidData | InvalidInput) => {
                anyhow!("no safe connection to {hub} ({e}); {or}").into()
            }
            ureq::Error::Io(e) => Failure::Unreachable(format!("no connection to {hub} ({e}); {or}")),
            ureq::Error::HostNotFound => Failure::Unreachable(format!("no host is found for {hub}; {or}")),
            ureq::Error::ConnectionFailed => Failure::Unreachable(format!("no connection to {hub}; {or}")),
            ureq::Error::Timeout(_) => Failure::passing(format!("{hub} was silent for {} s; {or}", SILENCE.as_secs())),
            other => anyhow!("no answer from {hub} ({other}); {or}").into(),
        }
    }

    fn accepted(&self, response: Response<Body>, at_home: bool) -> Result<Response<Body>, Failure> {
        let status = response.status();
        let encoding = response.headers().get(header::CONTENT_ENCODING).filter(|v| *v != "identity");
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => match encoding {
                Some(encoding) => Err(anyhow!("the hub sends it encoded as {encoding:?}, which was not asked for").into()),
                None => Ok(response),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if at_home => Err(anyhow!(match &self.token {
                None => format!(
                    "the hub answers {status}: the model is private, gated or not there; set HF_TOKEN to a token that may read it"
                ),
                Some(_) => format!("the hub answers {status}: the token in HF_TOKEN is not valid or may not read it"),
            })
            .into()),
            StatusCode::NOT_FOUND => Err(anyhow!(
                "the hub answers {status}: check the name and --revision, and for a private model HF_TOKEN"
            )
            .into()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(busy(&response)),
            _ if status.is_server_error() => Err(busy(&response)),
            _ => Err(anyhow!("the hub answers {status}, expected 200 OK").into()),
        }
    }
}

fn busy(response: &Response<Body>) -> Failure {
    let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    Failure::Passing { cause: format!("the hub answers {}", response.status()), pause: after.map(Duration::from_secs) }
}

/// The address that `location` means in an answer from `base`.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let has_scheme = location.find([':', '/', '?', '#']).is_some_and(|at| location[at..].starts_with(':'));
    if has_scheme {
        location.parse().ok()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}").parse().ok()
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}").parse().ok()
    } else {
        let (folder, _) = base.path().rsplit_once('/')?;
        format!("{scheme}://{authority}{folder}/{location}").parse().ok()
    }
}

/// The part of a file that an answer with status 206 holds: its first byte, and the file's length if it is said.
pub fn content_range(response: &Response<Body>) -> Result<(u64, Option<u64>)> {
    let text = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let parsed = || {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        Some((range.split_once('-')?.0.parse().ok()?, total))
    };
    parsed().with_context(|| format!("the hub sends a part that it names {text:?}, expected bytes FIRST-LAST/LENGTH"))
}

/// The announced length of an answer's body, if it has one.
pub fn content_length(response: &Response<Body>) -> Result<Option<u64>> {
    let Some(value) = response.headers().get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|v| v.parse().ok());
    ensure!(length.is_some(), "the hub sends the length {value:?}, expected a number of bytes");
    Ok(length)
}
