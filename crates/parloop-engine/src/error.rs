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
    /// A file of packed weights cannot be used; it can be packed again.
    #[error("{}: {fault}", path.display())]
    Packed {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        fault: PackedFault,
    },
    /// Every matrix is used where the checkpoint has it, so that there is nothing to pack in the types that it has.
    #[error("the matrices are used where the checkpoint has them, there is nothing to pack")]
    NothingToPack,
    /// A saved state cannot go on in this engine.
    #[error("{}: {mismatch}", path.display())]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// What does not fit.
        mismatch: StateMismatch,
    },
    /// An environment variable asks for what this machine does not have.
    #[error("{0}")]
    Machine(String),
    /// The request itself is at fault.
    #[error("{0}")]
    Input(String),
}

/// What is wrong with a file of packed weights.
#[derive(Debug, thiserror::Error)]
pub enum PackedFault {
    /// It is not whole.
    #[error("is cut or holds no packed weights")]
    Cut,
    /// Its index is none.
    #[error("has an index that cannot be read: {0}")]
    Index(serde_json::Error),
    /// It is another model's.
    #[error("was packed from other weights")]
    OtherWeights,
    /// Its index names a place that it does not have.
    #[error("has no room for {matrix}")]
    NoRoom {
        /// The matrix.
        matrix: String,
    },
    /// It was changed.
    #[error("is damaged: a checksum does not fit")]
    Damaged,
    /// A matrix is not what is asked for.
    #[error("holds {matrix} as {found}, expected {expected}")]
    OtherShape {
        /// The matrix.
        matrix: String,
        /// Type and shape in the file.
        found: String,
        /// Type and shape that this run needs.
        expected: String,
    },
}

/// Why a saved state cannot go on in an engine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateMismatch {
    /// The matrices have another type.
    #[error("was made with {was} weights, this run has {is}")]
    Weights {
        /// The state's.
        was: String,
        /// The engine's.
        is: String,
    },
    /// The model has another recipe.
    #[error("was made by another model ({was}), this one is: {is}; give the model that made it, or another file")]
    Recipe {
        /// The state's, in words.
        was: String,
        /// The engine's, in words.
        is: String,
    },
    /// The model has other weights or sizes.
    #[error("was made by another model ({was}), this one is {is}; give the model that made it, or another file")]
    Model {
        /// The state's fingerprint.
        was: String,
        /// The engine's.
        is: String,
    },
    /// Keys and values are kept in another type.
    #[error("holds keys and values as {was}, this run keeps them as {is}")]
    Kv {
        /// The state's.
        was: String,
        /// The engine's.
        is: String,
    },
    /// It was computed with another instruction set.
    #[error(
        "was computed with the instruction set {was}, this run uses {is}, which rounds differently; make the state anew"
    )]
    Instructions {
        /// The state's.
        was: String,
        /// The engine's.
        is: String,
    },
    /// It has more tokens than the model's context.
    #[error("claims {tokens} tokens, the model's context holds {context}; make the state anew")]
    TooLong {
        /// Tokens of the state.
        tokens: usize,
        /// Tokens that the model may see.
        context: usize,
    },
}
