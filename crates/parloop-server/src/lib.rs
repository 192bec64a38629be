//! A looped transformer over HTTP.
//!
//! One thread owns the engine and turns (`worker`); requests reach it through a channel and their events come back through
//! another. Everything in between is translation (`api`): every interface turns a request into one kind of job, and writes what
//! comes of it in its own shape. How a model marks reasoning and calls of tools is read off its chat template (`dialect`);
//! schemas and calls hold by filters over its logits (`grammar`). What a request gets
//! does not depend on the others that are served with it, to the last bit: see [`parloop_engine::Scheduler`].
#![forbid(unsafe_code)]

mod api;
mod app;
mod dialect;
mod error;
mod grammar;
mod guard;
mod listen;
mod metrics;
mod page;
mod slots;
mod worker;

pub use app::{Options, Server};
pub use error::ServeError;
pub use metrics::MetricsNames;
