//! A server that speaks OpenAI's interface, as a client sees it.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;
use ureq::http::header::{self, HeaderValue};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// Bytes of an answer, or of a line of a stream, at most.
const MOST: u64 = 64 << 20;
/// Characters of what a server says that are repeated.
const SAID: usize = 300;

/// A server; each request has a connection of its own.
#[derive(Clone)]
pub struct Server {
    agent: Agent,
    base: String,
    key: Option<HeaderValue>,
}

impl Server {
    /// The server at an address, with or without `/v1` at its end. It may be silent for `patience`.
    ///
    /// # Errors
    /// The address or the key is none.
    pub fn new(url: &str, key: Option<&str>, patience: Duration) -> Result<Self> {
        let base = url.trim().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/').to_owned();
        let uri: Option<Uri> = base.parse().ok().filter(|_| !base.contains(['?', '#']));
        let host = uri.as_ref().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https"))).and_then(Uri::host);
        let host = host.with_context(|| format!("{url:?} is no address of a server, such as http://localhost:8080"))?;
        let mut config = Agent::config_builder()
            .user_agent(concat!("parloop/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            // A connection that was idle may be closed by the server while the next request is on its way.
            .max_idle_connections(0)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience));
        // A proxy cannot know what is on this machine.
        let name = host.trim_matches(['[', ']']);
        if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            config = config.proxy(None);
        }
        let key = key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        let key = key.transpose().map_err(|_| anyhow!("the key holds characters that no key has"))?;
        Ok(Self { agent: config.build().new_agent(), base, key })
    }

    /// The address, as it is shown.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// The first model that the server lists.
    ///
    /// # Errors
    /// It does not answer, or lists none.
    pub fn model(&self) -> Result<String> {
        let list = self.get("/v1/models")?;
        let name = list["data"][0]["id"].as_str().map(str::to_owned);
        name.with_context(|| format!("{} lists no model at /v1/models: name one with --model", self.base))
    }

    /// What is at a path.
    ///
    /// # Errors
    /// The server is not there, refuses, or does not answer in JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        self.json(path, request.call().map_err(|e| self.broken(path, &e))?)
    }

    /// The answer to a body of JSON.
    ///
    /// # Errors
    /// As of [`Server::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(path, self.send(path, body)?)
    }

    /// Hands over the events of a streamed answer as they come, until there are no more or the caller has enough: then the
    /// connection is closed, which ends the request.
    ///
    /// # Errors
    /// As of [`Server::get`]; an error in the stream is one too.
    pub fn stream(
        &self,
        path: &str,
        body: &Value,
        mut each: impl FnMut(Value) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let response = self.send(path, body)?;
        if !response.status().is_success() {
            return self.json(path, response).map(drop);
        }
        let mut reader = BufReader::new(response.into_body().into_reader());
        let (mut line, mut done) = (Vec::new(), false);
        loop {
            line.clear();
            let read = reader.by_ref().take(MOST).read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("{}{path}: the stream breaks off", self.base))?;
            if read == 0 {
                ensure!(done, "{}{path}: the stream ends without [DONE]", self.base);
                return Ok(());
            }
            ensure!((read as u64) < MOST, "{}{path}: a line of the stream is longer than {MOST} bytes", self.base);
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data.starts_with(b"[DONE]") {
                done = true;
                continue;
            }
            let event: Value = serde_json::from_slice(data)
                .with_context(|| format!("{}{path}: an event of the stream is no JSON", self.base))?;
            if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
                bail!("{}{path}: {}", self.base, said(error));
            }
            if each(event)?.is_break() {
                return Ok(());
            }
        }
    }

    fn send(&self, path: &str, body: &Value) -> Result<Response<Body>> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).content_type("application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        request.send(body.to_string()).map_err(|e| self.broken(path, &e))
    }

    fn json(&self, path: &str, response: Response<Body>) -> Result<Value> {
        let status = response.status();
        let mut text = Vec::new();
        let read = response.into_body().into_reader().take(MOST).read_to_end(&mut text);
        read.with_context(|| format!("{}{path}: the answer breaks off", self.base))?;
        let value: Option<Value> = serde_json::from_slice(&text).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            Some(value) => bail!("{}{path} answers {status}: {}", self.base, said(&value["error"])),
            None if status.is_success() => bail!("{}{path} does not answer in JSON", self.base),
            None => bail!("{}{path} answers {status}", self.base),
        }
    }

    fn broken(&self, path: &str, error: &ureq::Error) -> anyhow::Error {
        match error {
            ureq::Error::Timeout(_) => anyhow!("{}{path}: no answer in time", self.base),
            ureq::Error::Io(e) => anyhow!("{}: {e}: is a server running there?", self.base),
            other => anyhow!("{}{path}: {other}", self.base),
        }
    }
}

/// What an error says, on a line.
fn said(error: &Value) -> String {
    let text = error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_end_in_the_version_of_the_interface() {
        let base = |url: &str| Server::new(url, None, Duration::from_secs(1)).map(|s| s.address().to_owned());
        for url in [
            "http://localhost:8080",
            "http://localhost:8080/",
            "http://localhost:8080/v1",
            " http://localhost:8080/v1/",
        ] {
            assert_eq!(base(url).unwrap(), "http://localhost:8080");
        }
        assert_eq!(base("https://example.com/api/v1").unwrap(), "https://example.com/api");
        for wrong in ["localhost:8080", "", "ftp://a", "http://", "http://a/?b", "file:///etc"] {
            assert!(base(wrong).unwrap_err().to_string().contains("no address"), "{wrong}");
        }
        assert!(Server::new("http://a", Some("a\nb"), Duration::from_secs(1)).is_err());
    }
}
