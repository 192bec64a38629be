//! What can be wrong with a request to the engine.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint or the tokens are at fault.
    #[error(transparent)]
    Model(#[from] parloop_model::Error),
    /// A tensor's bytes cannot serve as weights.
    #[error("tensor {name}: {source}")]
    Weights {
        /// The checkpoint's name of the tensor.
        name: String,
        /// What is wrong with it.
        source: parloop_kernels::weights::WeightsError,
    },
    /// The budget of keys and values is spent.
    #[error(transparent)]
    Spent(#[from] parloop_kernels::kv::Spent),
    /// The recipe cannot decode all loops in one pass.
    #[error("one-pass decode is not possible: {0}")]
    OnePass(&'static str),
    /// An environment variable asks for what this machine does not have.
    #[error("{0}")]
    Machine(String),
    /// The request itself is at fault.
    #[error("{0}")]
    Input(String),
}
