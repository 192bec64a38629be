//! The command line: the verbs, each in a file of its own under `commands`, and the groups of arguments that several
//! of them take.

mod help;
pub mod machine;
pub mod model;
pub mod names;
pub mod numbers;
pub mod sampling;
pub mod state;
pub mod writing;

use crate::commands;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// The version, the commit that it was built from, and what was built in.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("PARLOOP_COMMIT"), env!("PARLOOP_FEATURES"));

/// Train, run and examine looped transformers.
///
/// A looped transformer runs the same layers R times per token. A Parallel Loop Transformer (PLT) shifts each loop by
/// one token, so that all R loops of a step run in one pass over the weights.
///
/// Start with `parloop demo`.
#[derive(Debug, Parser)]
#[command(name = "parloop", version = VERSION, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// What this process was started with; ends it where that cannot be understood, or asks for help.
    pub fn given() -> Self {
        let matches = help::laid_out(Self::command()).get_matches();
        Self::from_arg_matches(&matches)
            .unwrap_or_else(|error| error.format(&mut help::laid_out(Self::command())).exit())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(commands::demo::Demo),
    Run(Box<commands::run::Run>),
    Chat(Box<commands::chat::Chat>),
    Score(commands::score::Score),
    Eval(Box<commands::eval::Eval>),
    Diagnose(Box<commands::diagnose::Diagnose>),
    Task(commands::task::Task),
    #[cfg(feature = "train")]
    Study(commands::study::Study),
    #[cfg(feature = "serve")]
    Serve(Box<commands::serve::Serve>),
    #[cfg(feature = "train")]
    Data(commands::data::Data),
    #[cfg(feature = "train")]
    Tokenizer(commands::tokenizer::Tokenizer),
    #[cfg(feature = "train")]
    Train(Box<commands::train::Train>),
    #[cfg(feature = "train")]
    Plot(commands::plot::Plot),
    Bench(commands::bench::Bench),
    Inspect(commands::inspect::Inspect),
    Convert(commands::convert::Convert),
    Quantize(commands::quantize::Quantize),
    Pack(commands::pack::Pack),
    #[cfg(feature = "pull")]
    Pull(commands::pull::Pull),
    List(commands::list::List),
    Rm(commands::rm::Rm),
    Completions(commands::completions::Completions),
}
