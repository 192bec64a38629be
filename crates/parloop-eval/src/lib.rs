//! What looped models can do, measured: tasks, scores, statistics, reports.
//!
//! | module | idea |
//! |---|---|
//! | [`items`] | the task format: JSON lines that ask something |
//! | [`tasks`] | generators of reasoning tasks, with splits and controls |
//! | [`score`] | how many items a model gets right |
//! | [`perplexity`] | how well it predicts a text, by itself or against another model |
//! | [`diagnose`] | what each loop does to the state |
//! | [`stats`] | means, spreads, bootstrap intervals of paired differences |
//! | [`report`] | a study as a page and as tables |
//! | [`results`] | what a study writes down for each run |
//! | [`rng`] | the generator that everything is drawn from |
#![forbid(unsafe_code)]

pub mod diagnose;
mod error;
pub mod items;
pub mod perplexity;
pub mod report;
pub mod results;
pub mod rng;
pub mod score;
pub mod stats;
pub mod tasks;
mod windows;

pub use error::{Error, Result, json_error};
pub use items::{Answer, Choices, Item, Labelled};
pub use rng::Rng;
pub use tasks::{Split, Task};
pub use windows::{Window, windows};
