//! The server as a whole: what it holds, its paths, its beginning and end.

use crate::dialect::Dialect;
use crate::error::{ApiError, ServeError};
use crate::grammar::Vocabulary;
use crate::guard::Bodies;
use crate::listen::Bounds;
use crate::metrics::MetricsNames;
use crate::worker::Worker;
use crate::{api, guard, listen, metrics, page, slots};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use parloop_engine::{Engine, Limits, Model};
use parloop_model::{ChatTemplate, GenerationDefaults};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// The name under which the model is known.
    pub name: String,
    /// What requests must send; nothing lets everybody in.
    pub key: Option<String>,
    /// Serve other machines without a key.
    pub no_key: bool,
    /// Limits of the scheduler.
    pub limits: Limits,
    /// Requests that are open at a time; more are told to try again.
    pub most: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Names of the figures at `/metrics`.
    pub metrics_names: MetricsNames,
    /// The folder in which `/slots` keeps states; without one there is no such path.
    pub slots: Option<PathBuf>,
    /// How long a client may be silent in the middle of a request, or take nothing of an answer.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            name: "parloop".into(),
            key: None,
            no_key: false,
            limits: Limits::default(),
            most: 256,
            body: 16 << 20,
            metrics_names: MetricsNames::Own,
            slots: None,
            patience: Duration::from_secs(60),
        }
    }
}

/// What every request sees.
pub(crate) struct App {
    pub name: String,
    pub created: u64,
    pub model: Arc<Model>,
    pub template: Option<ChatTemplate>,
    /// What the template says about reasoning and calls.
    pub dialect: Arc<Dialect>,
    /// Made for the first request that needs it.
    vocabulary: OnceLock<Option<Arc<Vocabulary>>>,
    pub defaults: GenerationDefaults,
    pub worker: Worker,
    pub key: Option<String>,
    pub loopback: bool,
    pub most: usize,
    pub bodies: Bodies,
    pub metrics_names: MetricsNames,
    /// Bytes that keys and values may take.
    pub kv_budget: usize,
    pub slots: Option<PathBuf>,
}

impl App {
    /// The vocabulary of grammars.
    pub fn vocabulary(&self) -> Result<Arc<Vocabulary>, ApiError> {
        let made =
            self.vocabulary.get_or_init(|| Vocabulary::new(self.model.tokenizer()?, self.model.stops()).map(Arc::new));
        let missing = || ApiError::new(StatusCode::BAD_REQUEST, "the model has no tokenizer that grammars can use");
        made.clone().ok_or_else(missing)
    }
}

/// A model that is ready to be served.
pub struct Server {
    app: Arc<App>,
    listener: std::net::TcpListener,
    bounds: Bounds,
}

impl Server {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// The address cannot be listened on, other machines would reach it without a key, or the limits are out of range.
    pub fn new(
        engine: Engine,
        template: Option<ChatTemplate>,
        defaults: GenerationDefaults,
        options: Options,
    ) -> Result<Self, ServeError> {
        let loopback = guard::is_local(&options.host);
        if !loopback && options.key.is_none() && !options.no_key {
            return Err(ServeError::Open(options.host));
        }
        let address = format!("{}:{}", options.host, options.port);
        let listen = |source| ServeError::Listen { address: address.clone(), source };
        let listener = std::net::TcpListener::bind((options.host.as_str(), options.port)).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let (model, kv_budget) = (engine.model().clone(), engine.kv_pool().budget());
        let worker = Worker::start(engine, model.clone(), options.limits, options.most)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let Options { name, key, most, body, metrics_names, patience, slots, .. } = options;
        let bodies = Bodies::new(body, patience);
        let dialect = template.as_ref().zip(model.tokenizer());
        let dialect = dialect.map(|(template, tokenizer)| Dialect::of(template, tokenizer));
        let (dialect, vocabulary) = (Arc::new(dialect.unwrap_or_default()), OnceLock::new());
        let app = App {
            name,
            created,
            model,
            template,
            dialect,
            vocabulary,
            defaults,
            worker,
            key,
            loopback,
            most,
            bodies,
            metrics_names,
            kv_budget,
            slots,
        };
        // Besides those that are computed, some that ask for figures, and some that are only there.
        let bounds = Bounds { connections: 2 * most + 64, patience };
        Ok(Self { app: Arc::new(app), listener, bounds })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until it is told to stop (Ctrl-C, SIGTERM, or `stop`), and then until every open request has ended; a second
    /// signal ends it at once.
    ///
    /// # Errors
    /// The system refuses.
    pub fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Self { app, listener, bounds } = self;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let served = app.clone();
        let result: std::io::Result<()> = runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            let told = async move {
                tokio::select! { () = signal() => (), () = stop => () }
                tokio::spawn(async {
                    signal().await;
                    std::process::exit(130);
                });
            };
            let worker = served.clone();
            listen::serve(listener, router(served), bounds, told, move || worker.worker.is_idle()).await;
            Ok(())
        });
        app.worker.stop();
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(result?)
    }
}

/// Ctrl-C, or SIGTERM where there is one.
async fn signal() {
    let interrupt = async { _ = tokio::signal::ctrl_c().await };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! { () = interrupt => (), () = terminate => () }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/rows", get(page::rows))
        .route("/health", get(api::trade::health))
        .route("/v1/health", get(api::trade::health))
        .route("/version", get(api::trade::version))
        .route("/props", get(api::trade::props))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(api::openapi::openapi))
        .route("/tokenize", post(api::trade::tokenize))
        .route("/detokenize", post(api::trade::detokenize))
        .route("/apply-template", post(api::trade::apply_template))
        .route("/slots/{id}", post(slots::slot))
        .route("/v1/models", get(api::trade::models))
        .route("/v1/models/{id}", get(api::trade::model))
        .route("/v1/completions", post(api::completions::completions))
        .route("/v1/chat/completions", post(api::chat::chat))
        .route("/v1/messages", post(api::messages::messages))
        .route("/v1/messages/count_tokens", post(api::messages::count_tokens))
        .route("/v1/responses", post(api::responses::responses))
        .route("/v1/fim/completions", post(api::fim::fim))
        .route("/infill", post(api::fim::infill))
        .route("/v1/embeddings", post(api::embeddings::embeddings))
        .route("/v1/chat/completions/input_tokens", post(api::trade::input_tokens))
        .route("/tokenizer_info", get(api::trade::tokenizer_info))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), guard::whole))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(middleware::from_fn(shaped))
        .with_state(app)
}

async fn unknown(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {} here", request.uri().path()))
}

async fn wrong_method(State(_): State<Arc<App>>, request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

/// Gives refusals the shape of the interface that they belong to.
async fn shaped(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    match response.extensions().get::<ApiError>() {
        Some(error) => error.response_for(&path),
        None => response,
    }
}
