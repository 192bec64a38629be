//! `parloop bench`: how fast, and how close to what the machine can do.
//!
//! Timings drift by tens of percent from minute to minute, so an absolute figure proves little. Whatever is compared
//! runs interleaved (A B C, A B C, ...), the machine's read bandwidth is measured in the same rounds, and what is
//! reported are medians of ratios within a round.

mod report;
mod rounds;
mod shapes;

use crate::args::{Machine, decode_passes};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use parloop_engine::{Engine, Model, Passes, Sequence};
use parloop_kernels::{KvType, Projector, WeightType, measure, memory};
use parloop_model::{Checkpoint, ModelConfig, Recipe, tensors};
use report::{Format, Report, Row};
use rounds::{Side, Work};
use std::path::PathBuf;
use std::sync::Arc;

/// Measure decode, prefill or both, and the machine's limits in the same run
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop bench decode                                        the built-in model
  parloop bench decode --shape loopcoder-v2 --layers 2 --loops 1,2,3,4 --weights bf16,q8,q4
  parloop bench decode --shape loopcoder-v2 --layers 2 --loops 1,2,3 --passes one,sequential --weights q4
  parloop bench decode --shape llama-1b --batch 1,2,4,8 --depth 512,4096 --format markdown
  parloop bench prefill --shape loopcoder-v2 --layers 1 --tokens 128,512 --json
  parloop bench mixed out/plt2 --tokens 512 --steps 128

Shapes have random weights, so nobody needs a large file; --layers cuts them to what fits in memory.
Things compared run interleaved; figures are medians, ratios are medians of the ratios within a round.
Columns: tests are tgN @ dD (N tokens decoded after D in the cache) and ppN (a prompt of N); 'of read' is the share of the
read bandwidth measured beside it, 'of peak' of the inner instruction's peak; 'x one loop' is time against R = 1, 'predicted'
the same for a prompt by the rows it takes; 'sequential/this' is the time of loop by loop against one pass.")]
pub struct Bench {
    /// What to measure
    #[arg(value_enum)]
    test: Test,
    /// Folder of a model; without it and without --shape, the built-in model
    model: Option<PathBuf>,
    /// A known shape with random weights: loopcoder-v2, loopcoder-v2-quarter, llama-8b, llama-1b, smollm2-135m, tiny
    #[arg(long, conflicts_with = "model")]
    shape: Option<String>,
    /// Physical layers, instead of the shape's own
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    layers: Option<u16>,
    /// Numbers of loops; the same weights run with each
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=64))]
    loops: Vec<u8>,
    /// How the loops of a token run: one (pass for all of them) or sequential
    #[arg(long, alias = "modes", value_delimiter = ',', default_value = "one", value_name = "PASSES", value_parser = decode_passes)]
    passes: Vec<Passes>,
    /// Weight types: f32, bf16, q8, q4_1, q4; bf16 for shapes and the file's own for models if left out
    #[arg(long, value_delimiter = ',')]
    weights: Vec<WeightType>,
    /// Type of keys and values: f32, bf16 or q8
    #[arg(long, default_value = "f32")]
    kv: KvType,
    /// Sequences decoded together
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Tokens already in the cache when decoding
    #[arg(long, value_delimiter = ',', default_value = "0")]
    depth: Vec<u32>,
    /// Tokens of a prompt (prefill and mixed); 512 if left out
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Vec<u32>,
    /// Tokens decoded in a measurement; 1 for decode, 128 for mixed if left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Run all loops over the whole prompt instead of leaving out what its last logits do not need
    #[arg(long)]
    no_truncate: bool,
    /// Prompt tokens processed at a time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    /// Rounds: how often each thing is measured
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Form of the table
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print everything as one JSON object in the last line of standard output
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

/// The weights to be measured.
enum Source {
    Shape(Box<ModelConfig>),
    Checkpoint(Box<Checkpoint>),
}

pub fn bench(args: &Bench) -> Result<()> {
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
    check_memory(args, config, &loops, &kinds)?;
    let mut report = Report::default();
    for kind in kinds {
        let rows = one_type(args, &name, &source, kind, &loops, &mut report)?;
        report.rows.extend(rows);
    }
    report.print(args.format, args.json)
}

fn source(args: &Bench) -> Result<(String, Source)> {
    if let Some(shape) = &args.shape {
        let layers = args.layers.map(usize::from);
        return Ok((shape.clone(), Source::Shape(Box::new(shapes::named(shape, layers)?))));
    }
    ensure!(args.layers.is_none(), "--layers changes a --shape; a model has the layers it has");
    let checkpoint = super::checkpoint(&crate::args::Model { model: args.model.clone() })?;
    let name = checkpoint.path().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    Ok((name.unwrap_or_else(|| "built-in".into()), Source::Checkpoint(Box::new(checkpoint))))
}

/// Refuses what does not fit before anything is allocated.
fn check_memory(args: &Bench, config: &ModelConfig, loops: &[usize], kinds: &[Option<WeightType>]) -> Result<()> {
    let most = loops.iter().copied().max().unwrap_or(1);
    let largest = kinds.iter().map(|k| k.unwrap_or(WeightType::F32)).map(|kind| weight_bytes(config, kind)).max();
    let tokens =
        args.depth.iter().chain(&args.tokens).copied().max().unwrap_or(0) as usize + args.rounds as usize + 256;
    let recipe = recipe(config, most);
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

/// The model's recipe with another number of loops.
fn recipe(config: &ModelConfig, count: usize) -> Recipe {
    Recipe { count, ..config.recipe.clone() }
}

/// Measures everything asked for with one weight type.
fn one_type(
    args: &Bench,
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
    let mut engine = Engine::over(Arc::new(base.with_recipe(recipe(base.config(), 1))?), on);
    engine.set_kv_type(args.kv);
    let peak = measure::peak(engine.projector(), kind);
    report.machine(&engine);

    let mut sides = Vec::new();
    for &count in loops {
        let model = Arc::new(base.with_recipe(recipe(base.config(), count))?);
        let ways: &[Passes] = if count == 1 { &[Passes::One] } else { &args.passes };
        for &passes in ways {
            super::in_one_pass(passes, &model.config().recipe)?;
            for work in works(args)? {
                sides.push(Side::new(model.clone(), passes, args.kv, work)?);
            }
        }
    }
    let bytes = base.bytes_per_pass();
    eprintln!(
        "{name} {}: {} a pass, {} things in {} rounds",
        kind.name(),
        super::bytes(bytes),
        sides.len(),
        args.rounds
    );
    let reads = rounds::run(&mut engine, &mut sides, bytes, args.rounds as usize)?;
    report.read(&reads);
    if let Some(profile) = engine.profile() {
        eprintln!("{profile}");
    }
    let about = report::About { name, kind, peak, reads: &reads };
    Ok(sides.iter().map(|side| report::row(side, &sides, &about)).collect())
}

/// The work of each measurement.
fn works(args: &Bench) -> Result<Vec<Work>> {
    let mut works = Vec::new();
    let prefill = parloop_engine::Prefill {
        chunk: args.chunk as usize,
        truncate: !args.no_truncate,
        ..parloop_engine::Prefill::default()
    };
    let steps = |default| args.steps.unwrap_or(default) as usize;
    match args.test {
        Test::Decode => {
            ensure!(args.tokens.is_empty(), "--tokens belongs to `bench prefill` and `bench mixed`");
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
            let steps = if args.test == Test::Prefill { 0 } else { steps(128) };
            let tokens = if args.tokens.is_empty() { &[512][..] } else { &args.tokens };
            works.extend(tokens.iter().map(|t| Work { batch: 1, depth: 0, prompt: *t as usize, steps, prefill }));
        }
    }
    (!works.is_empty()).then_some(works).context("nothing to measure")
}
