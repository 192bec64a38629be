//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use parloop_engine::{Passes, SampleOptions};
use parloop_model::family::{self, Family};
use std::path::PathBuf;

/// Train, run and examine looped transformers.
///
/// A looped transformer runs the same layers R times per token. A Parallel Loop Transformer (PLT) shifts each loop by
/// one token, so that all R loops of a step run in one pass over the weights.
///
/// Start with `parloop demo`.
#[derive(Debug, Parser)]
#[command(name = "parloop", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(Demo),
    Run(Run),
    Chat(Chat),
    Score(Score),
    #[cfg(feature = "train")]
    Train(Box<crate::commands::train::Train>),
    Bench(crate::commands::bench::Bench),
    Inspect(Inspect),
    Convert(Convert),
    Quantize(Quantize),
    Pack(Pack),
    #[cfg(feature = "pull")]
    Pull(crate::commands::pull::Pull),
    Completions(Completions),
}

/// See the idea at work: the built-in model writes, then decodes in one pass and loop by loop
///
/// Streams a text from the built-in model, draws which (token, loop) pairs each pass computes, and then decodes the
/// same text in one pass and loop by loop, step by step in turn, to compare the times.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  parloop demo\n  parloop demo --prompt 'JULIET:' -n 300 --seed 7")]
pub struct Demo {
    /// Text to continue
    #[arg(short, long, default_value = "ROMEO:\n")]
    pub prompt: String,
    /// Tokens to write
    #[arg(short = 'n', long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub tokens: u32,
    /// Seed of the sampling; the same seed writes the same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub machine: Machine,
}

/// Write text from a prompt, streamed
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop run -p 'ROMEO:'                      the built-in model
  parloop run out/plt2 -p 'Once' -n 200        a model folder
  echo 'To be' | parloop run --temp 0          prompt from standard input, most likely tokens
  parloop run -p 'HAMLET:' --passes sequential loop by loop: the same text, more slowly
  parloop run --prompt-cache state < long.txt  the next run computes only what is new in the text

The text goes to standard output, a line of figures to standard error.")]
pub struct Run {
    #[command(flatten)]
    pub model: Model,
    /// Text to continue; without it, standard input is read
    #[arg(short, long)]
    pub prompt: Option<String>,
    /// Tokens to write at most; the model's own setting, or 100, if left out
    #[arg(short = 'n', long, allow_negative_numbers = true)]
    pub tokens: Option<usize>,
    /// Put the prompt through the model's chat template, as one turn of a conversation
    #[arg(long)]
    pub chat: bool,
    #[command(flatten)]
    pub template: ChatOptions,
    /// How the loops of a token run: auto, one (pass for all of them, where the recipe allows it) or sequential
    #[arg(long, alias = "mode", default_value = "auto", value_parser = decode_passes)]
    pub passes: Passes,
    /// Prompt tokens processed at a time
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: u32,
    /// Go on past the model's end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Do not print the prompt before its continuation
    #[arg(long)]
    pub no_echo: bool,
    /// Do not print the line of figures
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub weights: Weights,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// Talk with a model through its chat template
///
/// Each line is a message; the answer is streamed. What was said stays in memory, so only new text is processed.
/// Commands: /reset forgets the conversation, /help lists them, /exit or the end of input ends it.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop chat models/instruct --system 'Answer in one sentence.'
  printf 'Hello\\nWho are you?\\n' | parloop chat models/instruct --temp 0
  parloop chat out/plt2 --template chatml.jinja")]
pub struct Chat {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub template: ChatOptions,
    /// Tokens of an answer at most; the model's own setting, or 1000, if left out
    #[arg(short = 'n', long)]
    pub tokens: Option<usize>,
    /// Do not print the line of figures
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub weights: Weights,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// How a conversation is written.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Chat")]
pub struct ChatOptions {
    /// A system message, said before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A Jinja chat template, instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
}

/// Print log-probabilities, loss and logits of a given text as JSON
///
/// Prints one JSON object: `tokens`, `logprobs` (natural logarithm of the probability of each token but the first),
/// `loss` (their negated mean, in nats; null for a single token) and, with --logits, the matrix `logits` [tokens][vocabulary].
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop score out/plt2 --text 'To be, or not to be'
  parloop score tests/goldens/plt2 --tokens 5,3,9 --passes one --logits

Ways to pass (all but reference give the same numbers to the last bit):
  auto         in pieces of the usual size (the default)
  chunked:K    in pieces of K tokens
  one          token by token, all loops in one pass; refused for recipes that cannot
  sequential   token by token, loop by loop
  reference    the slow scalar forward in f32 that reads like the mathematics; takes no --weights")]
pub struct Score {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub source: ScoreSource,
    /// How the tokens go through the model: auto, chunked:K, one, sequential, reference
    #[arg(long, default_value = "auto")]
    pub passes: Forward,
    /// Print the logits of every position
    #[arg(long)]
    pub logits: bool,
    #[command(flatten)]
    pub weights: Weights,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct ScoreSource {
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "IDS", value_parser = token_id, allow_negative_numbers = true)]
    pub tokens: Option<Vec<u32>>,
    /// A text
    #[arg(long)]
    pub text: Option<String>,
    /// A UTF-8 text file
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
}

fn token_id(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "expected token ids: whole numbers separated by commas, such as 5,3,9".into())
}

/// Show a model's recipe, tensors, sizes and memory
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  parloop inspect\n  parloop inspect out/plt2 --context 8192\n  parloop inspect out/plt2 --json | jq .parameters\n  parloop inspect --machine"
)]
pub struct Inspect {
    #[command(flatten)]
    pub model: Model,
    /// Describe this machine instead: instructions, kernels, threads, caches, read bandwidth, and what is fast on it
    #[arg(long, conflicts_with_all = ["model", "context"])]
    pub machine: bool,
    #[command(flatten)]
    pub on: Machine,
    /// Tokens for which the memory of keys and values is worked out; the model's context if left out
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub context: Option<u32>,
    /// Type of keys and values: f32, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub kv: parloop_kernels::KvType,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Write a model in another element type or another family's form, whole or in shards
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop convert out/plt2 --type bf16 --out plt2-bf16
  parloop convert out/plt2 --type f32 --shard-mb 500 --out sharded
  parloop convert out/plt2 --to iquestpltcoder --out plt2-hf      LoopCoder-V2's keys and tensor names
  parloop convert LoopCoder-V2 --to parloop --out loopcoder       and back: the same numbers to the last bit")]
pub struct Convert {
    #[command(flatten)]
    pub model: Model,
    /// Folder to be written
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Element type of all tensors; if left out bf16, or with --to the type that each tensor has
    #[arg(long = "type", value_enum)]
    pub dtype: Option<DTypeArg>,
    /// Form of config.json: parloop (the default) or iquestpltcoder
    #[arg(long, value_name = "FAMILY", value_parser = writable_family)]
    pub to: Option<&'static Family>,
    /// Split the weights into files of about this many megabytes, with an index
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    pub shard_mb: Option<u64>,
    /// Replace the folder if it exists
    #[arg(long)]
    pub force: bool,
}

fn writable_family(text: &str) -> Result<&'static Family, String> {
    let writable: Vec<_> = family::FAMILIES.into_iter().filter(|f| f.is_writable()).collect();
    let names: Vec<_> = writable.iter().map(|f| f.model_type).collect();
    writable.iter().copied().find(|f| f.model_type == text).ok_or_else(|| format!("expected {}", names.join(" or ")))
}

/// Element type of a written checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    F32,
    F16,
    Bf16,
}

impl DTypeArg {
    pub fn dtype(self) -> parloop_model::DType {
        match self {
            Self::F32 => parloop_model::DType::F32,
            Self::F16 => parloop_model::DType::F16,
            Self::Bf16 => parloop_model::DType::BF16,
        }
    }
}

/// Write a model as one GGUF file, its matrices in a type of choice
///
/// A plain transformer becomes a file of architecture `llama`, which llama.cpp opens too; a looped model becomes one of
/// architecture `parloop`, which holds its recipe and which other engines refuse. Norms, gates and biases stay f32;
/// for types below 6 bits the output head is stored as q6_k. docs/gguf.md has the details.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop quantize out/plt2 plt2.gguf --type q8_0
  parloop quantize out/plt2 plt2-q4.gguf --type q4_k
  parloop quantize model.gguf smaller.gguf --type q4_0      from one GGUF file to another
  parloop run plt2.gguf -p 'Once'

Types, in bits a weight: f32, f16 and bf16 (16), q8_0 (8.5), q6_k (6.6), q5_1 (6), q5_k and q5_0 (5.5), q4_1 (5),
q4_k and q4_0 (4.5). Rows of a matrix that are no whole number of the type's blocks (256 weights for q4_k, q5_k and
q6_k, otherwise 32) are stored as q5_0, q5_1, q8_0 or f16 instead; the command says which.")]
pub struct Quantize {
    /// Folder or GGUF file of the model
    pub model: PathBuf,
    /// File to be written
    pub out: PathBuf,
    /// Type of the matrices
    #[arg(long = "type", value_name = "TYPE", value_parser = stored_type)]
    pub dtype: parloop_model::DType,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Keep converted weights in a file, so that the next load takes them from there in place
///
/// Weights of 8 and 4 bits are packed for the kernels whenever a model is loaded: 4 bits of a 7.6B model take minutes of
/// search. This does it once and writes the result beside the model: packed-TYPE.parloop in its folder, or
/// MODEL.gguf.packed.parloop beside a GGUF file. Every command that loads the model with the same --weights finds it,
/// checks it against the model and its checksums, and uses it in place. The model itself is still needed, and the file may
/// be deleted at any time.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  parloop pack models/loopcoder-v2 --weights q4
  parloop run models/loopcoder-v2 --weights q4 -p 'fn main'     loads at once
  parloop pack model-q4_0.gguf                                  the file's own types")]
pub struct Pack {
    /// Folder or GGUF file of the model
    pub model: PathBuf,
    /// Type of the matrices: q8 (8.5 bits a weight), q4_1 (5 bits), q4 (4.5 bits); the file's own if left out
    #[arg(long, value_name = "TYPE")]
    pub weights: Option<parloop_kernels::WeightType>,
    #[command(flatten)]
    pub machine: Machine,
}

/// A type by the name that `parloop quantize` gives it.
fn stored_type(text: &str) -> Result<parloop_model::DType, String> {
    let all = parloop_model::DType::ALL;
    all.into_iter().find(|kind| short_name(*kind) == text).ok_or_else(|| {
        let names: Vec<&str> = all.into_iter().map(short_name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// The name by which `parloop quantize` takes a type.
pub fn short_name(kind: parloop_model::DType) -> &'static str {
    match kind {
        parloop_model::DType::F32 => "f32",
        parloop_model::DType::F16 => "f16",
        parloop_model::DType::BF16 => "bf16",
        other => other.name(),
    }
}

/// Print a completion script for a shell
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  parloop completions bash > ~/.local/share/bash-completion/completions/parloop")]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Which model.
#[derive(Debug, ClapArgs)]
pub struct Model {
    /// Folder of a model or of a training run (its newest checkpoint), or a GGUF file; without it, the built-in model
    pub model: Option<PathBuf>,
}

/// In which type to run the weights.
#[derive(Debug, ClapArgs)]
pub struct Weights {
    /// Convert the matrices while loading: f32, bf16, q8 (8.5 bits a weight), q4_1 (5 bits), q4 (4.5 bits); the file's own type if left out
    #[arg(long, value_name = "TYPE")]
    pub weights: Option<parloop_kernels::WeightType>,
    /// Keep keys and values as f32, bf16 (half the memory) or q8 (a quarter)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub kv: parloop_kernels::KvType,
}

/// What to compute with.
#[derive(Debug, ClapArgs)]
pub struct Machine {
    /// Threads; PARLOOP_THREADS, or the physical cores, if left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl Machine {
    /// What to use of the machine, by these flags and the environment.
    pub fn chosen(&self) -> anyhow::Result<parloop_kernels::Machine> {
        parloop_kernels::Machine::chosen(self.threads.map(usize::from)).map_err(anyhow::Error::msg)
    }

    /// The number of threads to use.
    pub fn threads(&self) -> anyhow::Result<usize> {
        let default = || parloop_kernels::Pool::default_threads().map_err(anyhow::Error::msg);
        self.threads.map_or_else(default, |n| Ok(usize::from(n)))
    }
}

/// What is kept from one run to the next.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "State (what was computed for a text, kept in a file)")]
pub struct State {
    /// Use of this file what it has in common with the prompt, and keep the prompt's state in it for the next run
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
    /// Do not use or keep a prompt's state of more bytes than this (such as 500MB); without it, any
    #[arg(long, value_name = "BYTES", value_parser = byte_count, requires = "prompt_cache", allow_negative_numbers = true)]
    pub cache_bytes: Option<usize>,
    /// Go on from the text whose state --save-state kept; the prompt, which may be empty, follows it
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_cache")]
    pub load_state: Option<PathBuf>,
    /// Keep the state after the whole text, for --load-state
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Refuse to start if keys, values and working space may take more bytes than this (such as 2GB); without it, more
    /// than the memory available
    #[arg(long, value_name = "BYTES", value_parser = byte_count, allow_negative_numbers = true)]
    pub kv_budget: Option<usize>,
}

/// A number of bytes: 5000, 500MB, 1.5GB, 2GiB.
fn byte_count(text: &str) -> Result<usize, String> {
    let units = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1000), ("MB", 1_000_000)];
    let units = units.into_iter().chain([("GB", 1_000_000_000), ("B", 1), ("", 1)]);
    let (number, unit) = units
        .filter_map(|(name, size)| Some((text.trim().strip_suffix(name)?.trim_end(), size)))
        .find(|(number, _)| number.ends_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| wrong_bytes(text))?;
    let bytes = number.parse::<f64>().map_err(|_| wrong_bytes(text))? * unit as f64;
    if (0.0..1e18).contains(&bytes) { Ok(bytes as usize) } else { Err(wrong_bytes(text)) }
}

fn wrong_bytes(text: &str) -> String {
    format!("\"{text}\" is not a number of bytes; expected one such as 5000, 500MB, 1.5GB or 2GiB")
}

/// How the next token is chosen. A flag comes before the model's `generation_config.json`, and that before the default.
#[derive(Debug, ClapArgs)]
#[command(
    next_help_heading = "Sampling (in this order: penalty, top-k, top-p, min-p, temperature).\nWhat is left out comes from the model's generation_config.json, or else has the default named here"
)]
pub struct Sampling {
    /// Temperature; 0 always takes the most likely token [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability in sum; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this fraction as likely as the best; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Make recent tokens less likely by this factor; 1 does nothing [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Tokens that count as recent
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub repeat_last_n: usize,
    /// Seed; the same seed writes the same text
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
}

impl Sampling {
    /// The flags, completed by what the model asks for and our defaults.
    pub fn options(&self, model: &parloop_model::GenerationDefaults) -> SampleOptions {
        let ours = SampleOptions::default();
        SampleOptions {
            temperature: self.temp.or(model.temperature()).unwrap_or(ours.temperature),
            top_k: self.top_k.or(model.top_k).unwrap_or(ours.top_k),
            top_p: self.top_p.or(model.top_p).unwrap_or(ours.top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(ours.min_p),
            repetition_penalty: self.repeat_penalty.or(model.repetition_penalty).unwrap_or(ours.repetition_penalty),
            repetition_window: self.repeat_last_n,
            seed: self.seed,
        }
    }
}

/// How the loops of a token that is written run.
pub fn decode_passes(text: &str) -> Result<Passes, String> {
    let passes = text.parse().ok().filter(|p| !matches!(p, Passes::Chunked(_)));
    passes.ok_or_else(|| "expected auto, one or sequential".into())
}

/// What computes the score of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The scalar reference forward.
    Reference,
    /// The engine.
    Engine(Passes),
}

impl std::str::FromStr for Forward {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reference" => Ok(Self::Reference),
            _ => text
                .parse()
                .map(Self::Engine)
                .map_err(|_| "expected auto, one, sequential, chunked:K (K at least 1) or reference".into()),
        }
    }
}
