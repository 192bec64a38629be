//! `parloop demo`: the idea at work.

use super::bytes;
use crate::args::Demo;
use anyhow::{Result, ensure};
use parloop::builtin;
use parloop_engine::{Engine, Generation, Model, Passes, Prefill, SampleOptions, Sequence, generate};
use parloop_model::{Checkpoint, ModelConfig, Recipe, tensors};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn demo(args: &Demo) -> Result<()> {
    let checkpoint = builtin::checkpoint()?;
    let model = Arc::new(Model::new(&checkpoint)?);
    let mut engine = Engine::new(model.clone(), Some(args.machine.threads()?))?;
    let mut out = std::io::stdout().lock();
    let c = checkpoint.config();
    writeln!(
        out,
        "A Parallel Loop Transformer of {:.1} million parameters, trained on Shakespeare, writes\n\
         (every token went {} times through the same {} layers):\n",
        tensors::parameters(c) as f64 / 1e6,
        c.recipe.count,
        c.num_hidden_layers
    )?;
    let (prompt, text) = write_text(args, &checkpoint, &mut engine, &mut out)?;
    draw(&c.recipe, &mut out)?;
    compare(&mut engine, &prompt, &text, &mut out)?;
    super::print_profile(&engine);
    Ok(())
}

/// Streams a text; returns the prompt's ids and the ids written.
fn write_text(
    args: &Demo,
    checkpoint: &Checkpoint,
    engine: &mut Engine,
    out: &mut impl Write,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let tokenizer = super::tokenizer(checkpoint)?;
    let prompt = tokenizer.encode(&args.prompt)?;
    ensure!(!prompt.is_empty(), "the prompt is empty: give a text with --prompt");
    let options = Generation {
        tokens: args.tokens as usize,
        sampling: SampleOptions { seed: args.seed, ..SampleOptions::default() },
        prefill: Prefill::default(),
        passes: Passes::Auto,
        ignore_end: true,
    };
    write!(out, "{}", indented(&args.prompt, true))?;
    let mut stream = tokenizer.stream();
    let mut ids = Vec::new();
    let mut failed = None;
    generate(engine, &prompt, &options, |token| {
        ids.push(token);
        let piece = stream.push(token).unwrap_or_default();
        failed = write!(out, "{}", indented(&piece, false)).and_then(|()| out.flush()).err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    writeln!(out, "{}\n", stream.finish()?)?;
    Ok((prompt, ids))
}

/// Text set off by a margin.
fn indented(text: &str, first: bool) -> String {
    format!("{}{}", if first { "    " } else { "" }, text.replace('\n', "\n    "))
}

/// Which pass computed which (token, loop) pair.
fn draw(recipe: &Recipe, out: &mut impl Write) -> Result<()> {
    const TOKENS: usize = 6;
    let loops = recipe.count;
    let table = |out: &mut dyn Write, pass: &dyn Fn(usize, usize) -> usize| -> std::io::Result<()> {
        write!(out, "      token ")?;
        (1..=TOKENS).try_for_each(|t| write!(out, "{t:>4}"))?;
        writeln!(out)?;
        for r in 0..loops {
            write!(out, "      loop {} ", r + 1)?;
            (0..TOKENS).try_for_each(|t| write!(out, "{:>4}", pass(t, r)))?;
            writeln!(out)?;
        }
        Ok(())
    };
    writeln!(out, "Which pass over the weights computes which (token, loop) pair:\n")?;
    writeln!(out, "  all loops in one pass: {TOKENS} passes for {TOKENS} tokens")?;
    table(out, &|t, _| t + 1)?;
    writeln!(out, "\n  loop by loop: {} passes for {TOKENS} tokens", TOKENS * loops)?;
    table(out, &|t, r| t * loops + r + 1)?;
    writeln!(
        out,
        "\n  One pass is possible because loop r at a token reads loop r-1 of the token BEFORE it, which the\n  \
         last step has computed.\n"
    )?;
    Ok(())
}

/// Decodes the same text in both ways, step by step in turn, and compares times and choices.
fn compare(engine: &mut Engine, prompt: &[u32], text: &[u32], out: &mut impl Write) -> Result<()> {
    /// Steps that only warm caches and threads up.
    const WARM: usize = 8;
    let model = engine.model().clone();
    let config = model.config();
    // Repeat the text until the medians rest on enough steps.
    let room = config.max_position_embeddings.saturating_sub(prompt.len());
    let steps: Vec<u32> = text.iter().copied().cycle().take(room.min(text.len().max(400))).collect();
    let mut sides: Vec<Side> = [Passes::One, Passes::Sequential].map(|passes| Side::new(engine, passes)).into();
    for side in &mut sides {
        engine.prefill(&mut side.sequence, prompt, &Prefill::default())?;
    }
    for token in &steps {
        for side in &mut sides {
            side.step(engine, *token)?;
        }
    }
    let ratio = median(sides[0].times.iter().zip(&sides[1].times).skip(WARM).map(|(a, b)| b / a).collect());
    let [one, sequential] = [0, 1].map(|i| median(sides[i].times.iter().skip(WARM).copied().collect()));
    let same = sides[0].choices == sides[1].choices;
    let tokens = sides[0].sequence.len();
    let per_loop = ModelConfig { recipe: Recipe::vanilla_loop(config.recipe.count), ..config.clone() };
    let plain = ModelConfig { recipe: Recipe::vanilla(), ..config.clone() };
    let kind = engine.kv_type();
    let kv = |c: &ModelConfig| bytes(Sequence::bytes_at(c, kind, tokens));
    writeln!(
        out,
        "The same {} tokens decoded both ways, step by step in turn ({} threads, {}):\n",
        steps.len(),
        engine.threads(),
        engine.isa().name()
    )?;
    writeln!(out, "                        a token       state at {tokens} tokens")?;
    writeln!(out, "  all loops in one pass {:>7.0} us    {}", one * 1e6, kv(config))?;
    writeln!(
        out,
        "  loop by loop          {:>7.0} us    {} (with K/V of its own for each loop: {})",
        sequential * 1e6,
        kv(config),
        kv(&per_loop)
    )?;
    writeln!(out, "  (plain model, 1 loop                {})\n", kv(&plain))?;
    writeln!(out, "  loop by loop : one pass = {ratio:.2} (median of the steps' ratios)")?;
    let verdict = if same { "the same in every step, to the last bit of every logit" } else { "NOT the same" };
    writeln!(out, "  most likely next tokens: {verdict}")?;
    ensure!(same, "one pass and loop by loop disagree: this is a defect of this program");
    Ok(())
}

/// One way of decoding.
struct Side {
    passes: Passes,
    sequence: Sequence,
    times: Vec<f64>,
    /// For each step the most likely next token and the bits of its logits, folded.
    choices: Vec<(usize, u64)>,
}

impl Side {
    fn new(engine: &Engine, passes: Passes) -> Self {
        Self { passes, sequence: engine.sequence(), times: Vec::new(), choices: Vec::new() }
    }

    fn step(&mut self, engine: &mut Engine, token: u32) -> Result<()> {
        let start = Instant::now();
        let logits = engine.step(&mut [&mut self.sequence], &[token], self.passes)?;
        self.times.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
        let fold = |h: u64, l: &f32| (h ^ u64::from(l.to_bits())).wrapping_mul(0x0000_0100_0000_01B3);
        self.choices.push((best, logits.iter().fold(0xCBF2_9CE4_8422_2325, fold)));
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
