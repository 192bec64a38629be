//! `parloop bench`: how fast, and how close to what the machine can do.
//!
//! Timings drift by tens of percent from minute to minute, so an absolute figure proves little. Whatever is compared
//! runs interleaved (A B C, A B C, ...), the machine's read bandwidth is measured in the same rounds, and what is
//! reported are medians of ratios within a round.

pub mod report;
pub mod rounds;
#[cfg(feature = "client")]
mod serve;
mod shapes;

use crate::args::machine::Machine;
use crate::args::model::Model as ModelArg;
use crate::args::names::{KV, PASSES, ROUTING, WEIGHTS, named};
use crate::args::numbers::{at_least, from_to};
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use parloop_engine::device::MadeUp;
use parloop_engine::{Engine, Model, Passes, Sequence};
use parloop_kernels::{KvType, Projector, WeightType, measure, memory};
use parloop_model::{Checkpoint, ExpertMode, ModelConfig, Moe, Recipe, tensors};
use report::{Format, Report, Row};
use rounds::{Side, Work};
use std::sync::Arc;

/// Measure decode, prefill or both, and the machine's limits in the same run; or a server under load
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  parloop bench decode                                        the built-in model
  parloop bench decode --shape loopcoder-v2 --layers 2 --loops 1,2,3,4 --weights bf16,q8,q4
  parloop bench decode --shape loopcoder-v2 --layers 2 --loops 1,2,3 --passes one,sequential --weights q4
  parloop bench decode --shape llama-1b --batch 1,2,4,8 --depth 512,4096 --format markdown
  parloop bench decode --shape olmoe-7b --layers 4 --routing own --weights q4 --batch 1,4,16
  parloop bench prefill --shape loopcoder-v2 --layers 1 --prompt-tokens 128,512 --json
  parloop bench mixed out/plt2 --prompt-tokens 256 --steps 128
  parloop bench serve --help                                  a server under load

Shapes have random weights, so nobody needs a large file; --layers cuts them to what fits in memory.
Things compared run interleaved; figures are medians, ratios are medians of the ratios within a round.

Columns: tests are tgN @ dD (N tokens decoded after D in the cache, at most 16 more) and ppN (a prompt of N); '+-' is the
standard deviation over the rounds; 'read' is the share of the read bandwidth measured beside it, 'peak' of the inner
instruction's peak; 'x1 loop' is time against R = 1, 'predicted' the same for a prompt by the rows it takes; 'seq/this' is
the time of loop by loop against one pass; 'experts' is how many experts of a layer a pass read on average, 'formula' how many
it should be.")]
pub struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    measure: Measure,
}

/// Measurements of something else than a model in this process.
#[derive(Debug, Subcommand)]
enum Other {
    #[cfg(feature = "client")]
    Serve(Box<serve::Serve>),
}

/// What is measured of a model, and how.
#[derive(Debug, Args)]
struct Measure {
    /// What to measure
    // An option only because nothing is measured here where another subcommand is named.
    #[arg(value_enum, required = true)]
    test: Option<Test>,
    #[command(flatten)]
    model: ModelArg,
    /// A known shape with random weights
    #[arg(long, conflicts_with = "model", value_parser = shapes::NAMES)]
    shape: Option<String>,
    /// Physical layers, instead of the shape's own
    #[arg(long, value_name = "N", value_parser = from_to::<u16, 1, 4096>, allow_negative_numbers = true)]
    layers: Option<u16>,
    /// Numbers of loops; the same weights run with each
    #[arg(long, value_name = "R", value_delimiter = ',', value_parser = from_to::<u8, 1, 64>, allow_negative_numbers = true)]
    loops: Vec<u8>,
    /// A mixture of E experts, of which a row takes k, in the place of the shape's feed-forward: each a k-th as wide, so that
    /// a row meets as many weights
    #[arg(long, value_name = "E,K", requires = "shape", value_parser = mixture)]
    experts: Option<(usize, usize)>,
    /// Whose experts later loops take
    #[arg(long, value_name = "WHOSE", value_parser = named(ROUTING))]
    routing: Option<ExpertMode>,
    /// With --shape, the share of a later loop's experts that loop 1 took for the same token; 0.6 if left out
    #[arg(long, value_name = "SHARE", requires = "shape", value_parser = from_zero_to_one)]
    overlap: Option<f32>,
    /// How the loops of a token run
    #[arg(long, alias = "modes", value_name = "WAY", value_delimiter = ',', default_value = "one", value_parser = named(PASSES))]
    passes: Vec<Passes>,
    /// Weight types; bf16 for shapes and the file's own for models if left out
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = named(WEIGHTS))]
    weights: Vec<WeightType>,
    /// Type of keys and values
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = named(KV))]
    kv: KvType,
    /// Sequences decoded together
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = from_to::<u16, 1, 1024>, allow_negative_numbers = true)]
    batch: Vec<u16>,
    /// Tokens already in the cache when decoding
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = at_least::<u32, 0>, allow_negative_numbers = true)]
    depth: Vec<u32>,
    /// Tokens of a prompt (prefill and mixed); 512 if left out
    #[arg(long, alias = "tokens", value_name = "N", value_delimiter = ',', value_parser = at_least::<u32, 1>, allow_negative_numbers = true)]
    prompt_tokens: Vec<u32>,
    /// Tokens decoded in a measurement; 1 for decode, 128 for mixed if left out
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least::<u32, 1>, allow_negative_numbers = true)]
    steps: Option<u32>,
    /// Run all loops over the whole prompt instead of leaving out what its last logits do not need
    #[arg(long)]
    no_truncate: bool,
    /// Prompt tokens processed at a time
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least::<u32, 1>, allow_negative_numbers = true)]
    chunk: u32,
    /// Rounds: how often each thing is measured
    #[arg(long, value_name = "N", default_value = "15", value_parser = from_to::<u32, 1, 100_000>, allow_negative_numbers = true)]
    rounds: u32,
    /// Form of the table
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print everything as one JSON object, and the table to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Test {
    /// One token at a time
    Decode,
    /// A whole prompt
    Prefill,
    /// A prompt, then tokens
    Mixed,
}

/// The overlap of loops where none is given: about what was measured in little.
const OVERLAP: f32 = 0.6;

/// The weights to be measured.
enum Source {
    Shape(Box<ModelConfig>),
    Checkpoint(Box<Checkpoint>),
}

pub fn bench(args: &Bench) -> Result<()> {
    match &args.other {
        #[cfg(feature = "client")]
        Some(Other::Serve(args)) => serve::serve(args),
        _ => measure(&args.measure)?.print(args.measure.format, args.measure.json),
    }
}

fn measure(args: &Measure) -> Result<Report> {
    let (name, source) = source(args)?;
    let config = match &source {
        Source::Shape(config) => config,
        Source::Checkpoint(checkpoint) => checkpoint.config(),
    };
    let loops: Vec<usize> = match (&args.loops[..], &source) {
        ([], Source::Shape(_)) => vec![1, 2],
        ([], Source::Checkpoint(_)) if config.recipe.count == 1 => vec![1],
        ([], Source::Checkpoint(_)) => vec![1, config.recipe.count],
        (given, _) => given.iter().map(|r| usize::from(*r)).collect(),
    };
    let kinds: Vec<Option<WeightType>> = match (&args.weights[..], &source) {
        ([], Source::Shape(_)) => vec![Some(WeightType::Bf16)],
        ([], Source::Checkpoint(_)) => vec![None],
        (given, _) => given.iter().copied().map(Some).collect(),
    };
    check_context(args, config)?;
    check_memory(args, config, &loops, &kinds)?;
    let mut report = Report::default();
    for kind in kinds {
        let rows = one_type(args, &name, &source, kind, &loops, &mut report)?;
        report.take(rows);
    }
    Ok(report)
}

/// Bytes of memory in which layers of a shape are measured.
pub fn shape_bytes(shape: &str, layers: usize, kind: WeightType) -> Result<usize> {
    Ok(weight_bytes(&shapes::named(shape, Some(layers))?, kind) + rounds::READ_BYTES)
}

/// What one loop, two loops in one pass and two loops in turn take on layers of a shape.
pub struct Loops {
    /// Seconds of a token with one loop.
    pub one_loop: f64,
    /// Each of the three against one loop.
    pub ratios: [f64; 3],
    /// Read bandwidth, and the share of it that one loop reaches.
    pub read_gb_s: f64,
    pub share: f64,
    /// What is to be known before the figures are believed.
    pub notes: Vec<String>,
}

/// Measures them, in turn in each round.
pub fn loops_of_shape(shape: &str, layers: usize, kind: WeightType, machine: &Machine) -> Result<Loops> {
    let report = measure(&Measure {
        test: Some(Test::Decode),
        model: ModelArg::default(),
        shape: Some(shape.to_owned()),
        layers: Some(u16::try_from(layers)?),
        experts: None,
        routing: None,
        overlap: None,
        loops: vec![1, 2],
        passes: vec![Passes::One, Passes::Sequential],
        weights: vec![kind],
        kv: KvType::default(),
        batch: vec![1],
        depth: vec![0],
        prompt_tokens: vec![],
        steps: None,
        no_truncate: false,
        chunk: 512,
        rounds: 15,
        format: Format::Table,
        json: true,
        machine: machine.clone(),
    })?;
    report.loops().context("nothing was measured")
}

fn source(args: &Measure) -> Result<(String, Source)> {
    if let Some(shape) = &args.shape {
        let mut config = shapes::named(shape, args.layers.map(usize::from))?;
        if let Some((experts, top_k)) = args.experts {
            // Whole blocks of every weight type.
            let width = (config.intermediate_size / top_k.max(1)).next_multiple_of(32);
            config.moe = Some(Moe::new(experts, top_k, width));
            config.validate()?;
        }
        ensure!(
            config.moe.is_some() || args.routing.is_none() && args.overlap.is_none(),
            "--routing and --overlap are about experts, which --shape {shape} has none of: give --experts E,K"
        );
        return Ok((shape.clone(), Source::Shape(Box::new(config))));
    }
    ensure!(args.layers.is_none(), "--layers changes a --shape; a model has the layers it has");
    let checkpoint = args.model.open()?;
    let name = checkpoint.path().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    Ok((name.unwrap_or_else(|| "built-in".into()), Source::Checkpoint(Box::new(checkpoint))))
}

/// Refuses what the context does not hold.
fn check_context(args: &Measure, config: &ModelConfig) -> Result<()> {
    let works = works(args)?;
    let Some(most) = works.iter().map(|w| w.depth + w.prompt + w.steps).max() else { return Ok(()) };
    let context = config.max_position_embeddings;
    // One more for the step that warms up.
    ensure!(
        most < context,
        "{} tokens are to be in the context, which holds {context}: take fewer --prompt-tokens, --depth or --steps",
        most + 1
    );
    Ok(())
}

/// Refuses what does not fit before anything is allocated.
fn check_memory(args: &Measure, config: &ModelConfig, loops: &[usize], kinds: &[Option<WeightType>]) -> Result<()> {
    let most = loops.iter().copied().max().unwrap_or(1);
    let largest = kinds.iter().map(|k| k.unwrap_or(WeightType::F32)).map(|kind| weight_bytes(config, kind)).max();
    let tokens = args.depth.iter().chain(&args.prompt_tokens).copied().max().unwrap_or(0) as usize
        + args.steps.unwrap_or(128) as usize
        + 256;
    let recipe = recipe(config, most, args.routing);
    let sequence = Sequence::bytes_at(&ModelConfig { recipe, ..config.clone() }, args.kv, tokens);
    let batch: usize = args.batch.iter().map(|b| usize::from(*b)).sum::<usize>() * loops.len() * args.passes.len();
    let needed = largest.unwrap_or(0) + rounds::READ_BYTES + sequence.saturating_mul(batch);
    let Some(available) = memory::available() else { return Ok(()) };
    ensure!(
        needed <= available,
        "this needs {} of memory, and {} are available: take fewer --layers, a smaller --batch or --depth",
        super::bytes(needed),
        super::bytes(available)
    );
    Ok(())
}

/// Bytes of the matrices in a type, and of the embedding.
fn weight_bytes(config: &ModelConfig, kind: WeightType) -> usize {
    tensors::expected(config)
        .iter()
        .map(|s| match s.role {
            tensors::Role::Matrix | tensors::Role::Head => kind.bytes(s.shape[0], s.shape[1]),
            _ => 4 * s.elements(),
        })
        .sum()
}

/// The model's recipe with another number of loops, and another routing if one is given. A single loop has no other to share
/// with.
fn recipe(config: &ModelConfig, count: usize, routing: Option<ExpertMode>) -> Recipe {
    let experts = if count == 1 { ExpertMode::Own } else { routing.unwrap_or(config.recipe.experts) };
    Recipe { count, experts, ..config.recipe.clone() }
}

/// Two numbers: experts, and how many a row takes.
fn mixture(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once(',').and_then(|(e, k)| Some((e.trim().parse().ok()?, k.trim().parse().ok()?)));
    pair.filter(|(e, k): &(usize, usize)| *k >= 1 && k <= e && *e <= 4096)
        .ok_or_else(|| "expected two numbers, experts and how many of them a row takes, for example 64,8".into())
}

fn from_zero_to_one(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "expected a number from 0 to 1".into())
}

/// Measures everything asked for with one weight type.
fn one_type(
    args: &Measure,
    name: &str,
    source: &Source,
    kind: Option<WeightType>,
    loops: &[usize],
    report: &mut Report,
) -> Result<Vec<Row>> {
    let mut on = Projector::on(args.machine.chosen()?);
    let base = match source {
        Source::Shape(config) => Model::random(config.as_ref().clone(), kind.unwrap_or(WeightType::Bf16))?,
        Source::Checkpoint(checkpoint) => super::load(checkpoint, kind, &mut on.pool)?,
    };
    let kind = base.weight_type();
    let mut engine = Engine::over(Arc::new(base.with_recipe(recipe(base.config(), 1, None))?), on);
    engine.set_kv_type(args.kv);
    let peak = measure::peak(engine.projector(), kind);
    report.machine(&engine);

    let mut sides = Vec::new();
    for &count in loops {
        let model = Arc::new(base.with_recipe(recipe(base.config(), count, args.routing))?);
        let ways: &[Passes] = if count == 1 { &[Passes::One] } else { &args.passes };
        for &passes in ways {
            let passes =
                if super::in_one_pass(passes, &model.config().recipe)? { Passes::One } else { Passes::Sequential };
            for work in works(args)? {
                let made_up = match source {
                    Source::Shape(_) => Some(MadeUp { overlap: args.overlap.unwrap_or(OVERLAP) }),
                    Source::Checkpoint(_) => None,
                };
                sides.push(Side::new(model.clone(), passes, args.kv, work, made_up));
            }
        }
    }
    let bytes = base.bytes_per_pass();
    say!(
        "{name} {}: {} a pass, {} in {}",
        kind.name(),
        super::bytes(bytes),
        super::plural(sides.len(), "thing", "things"),
        super::plural(args.rounds as usize, "round", "rounds")
    );
    let reads = rounds::run(&mut engine, &mut sides, bytes, args.rounds as usize)?;
    report.read(&reads);
    if let Some(profile) = engine.profile() {
        say!("{profile}");
    }
    let about = report::About { name, kind, peak, reads: &reads };
    Ok(sides.iter().map(|side| report::row(side, &sides, &about)).collect())
}

/// The work of each measurement.
fn works(args: &Measure) -> Result<Vec<Work>> {
    let mut works = Vec::new();
    let prefill = parloop_engine::Prefill {
        chunk: args.chunk as usize,
        truncate: !args.no_truncate,
        ..parloop_engine::Prefill::default()
    };
    let steps = |default| args.steps.unwrap_or(default) as usize;
    let test = args.test.context("nothing to measure: name decode, prefill, mixed or serve")?;
    match test {
        Test::Decode => {
            ensure!(args.prompt_tokens.is_empty(), "--prompt-tokens belongs to `bench prefill` and `bench mixed`");
            for &batch in &args.batch {
                for &depth in &args.depth {
                    works.push(Work {
                        batch: batch.into(),
                        depth: depth as usize,
                        prompt: 0,
                        steps: steps(1),
                        prefill,
                    });
                }
            }
        }
        Test::Prefill | Test::Mixed => {
            ensure!(args.batch == [1] && args.depth == [0], "--batch and --depth belong to `bench decode`");
            let steps = if test == Test::Prefill { 0 } else { steps(128) };
            let tokens = if args.prompt_tokens.is_empty() { &[512][..] } else { &args.prompt_tokens };
            works.extend(tokens.iter().map(|t| Work { batch: 1, depth: 0, prompt: *t as usize, steps, prefill }));
        }
    }
    (!works.is_empty()).then_some(works).context("nothing to measure")
}
