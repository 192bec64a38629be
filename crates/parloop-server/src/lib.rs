//! A looped transformer over HTTP.
//!
//! One thread owns the engine and turns (`worker`); requests reach it through a channel and their events come back through
//! another. Everything in between is translation: OpenAI's shapes in, OpenAI's shapes out (`api`). What a request gets
//! does not depend on the others that are served with it, to the last bit: see [`parloop_engine::Scheduler`].
#![forbid(unsafe_code)]

mod api;
mod app;
mod error;
mod guard;
mod listen;
mod page;
mod slots;
mod worker;

pub use app::{Options, Server};
pub use error::ServeError;
