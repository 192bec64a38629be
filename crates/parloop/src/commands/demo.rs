//! `parloop demo`: the idea at work.

mod grid;
mod lanes;
mod show;

use super::{bench, bytes};
use crate::args::machine::Machine;
use crate::args::numbers::{from_to, seed};
use crate::terminal::Terminal;
use crate::terminal::wrap::{flowing, padded};
use anyhow::{Result, ensure};
use clap::Args;
use lanes::Recording;
use parloop::builtin;
use parloop_engine::{Engine, Model, Sequence};
use parloop_kernels::{WeightType, memory};
use parloop_model::{ModelConfig, Recipe, tensors};
use std::io::{BufRead, Write};
use std::sync::Arc;

/// See the idea at work: one loop, two loops in one pass and two loops in turn write side by side
///
/// The built-in model continues a text three times: with one loop, as a PLT with all its loops in one pass over the
/// weights, and with its loops one after the other. What they write is shown at a common pace, so that one sees who
/// keeps up; then which pass computed which loop of which token, the times, and whether both ways of looping gave the
/// same bits. At the end it offers the measurement where it matters: on layers of LoopCoder-V2's shape, which no cache
/// holds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop demo
  parloop demo --prompt 'JULIET:' -n 120 --seed 7
  parloop demo --measure                       two layers of LoopCoder-V2's shape at once, without being asked")]
pub struct Demo {
    /// Text to continue
    #[arg(short, long, default_value = "ROMEO:\n", hide_default_value = true)]
    prompt: String,
    /// Tokens to write
    #[arg(short = 'n', long, value_name = "N", default_value = "120", value_parser = from_to::<u32, 2, 480>, allow_negative_numbers = true)]
    tokens: u32,
    /// Seed of the sampling; the same seed writes the same text
    #[arg(long, value_name = "N", default_value = "12", value_parser = seed, allow_negative_numbers = true)]
    seed: u64,
    /// Text and figures only, nothing redrawn
    #[arg(long)]
    plain: bool,
    /// Measure two layers of LoopCoder-V2's shape too, without asking
    #[arg(long)]
    measure: bool,
    #[command(flatten)]
    machine: Machine,
}

pub fn demo(args: &Demo) -> Result<()> {
    let checkpoint = builtin::checkpoint()?;
    let model = Arc::new(Model::new(&checkpoint)?);
    let mut engine = Engine::new(model.clone(), Some(args.machine.threads()?))?;
    let tokenizer = super::tokenizer(&checkpoint)?;
    let c = checkpoint.config();
    let prompt = tokenizer.encode(&args.prompt)?;
    ensure!(!prompt.is_empty(), "the prompt is empty: give a text with --prompt");
    let tokens = args.tokens as usize;
    let room = c.max_position_embeddings.saturating_sub(tokens);
    ensure!(
        prompt.len() <= room,
        "the prompt has {} tokens, {room} fit in the context beside the {tokens} to be written: shorten it",
        prompt.len()
    );
    let terminal = Terminal::of_output(args.plain);
    let mut out = std::io::stdout().lock();
    let title = format!(
        "A Parallel Loop Transformer of {:.1} million parameters, trained on Shakespeare, writes: with one loop, which is \
         less than it was trained for, with {} loops in one pass over the weights, and with {} loops in turn.",
        tensors::parameters(c) as f64 / 1e6,
        c.recipe.count,
        c.recipe.count
    );
    flow(&title, &terminal, &mut out)?;
    writeln!(out)?;
    let recording = lanes::record(&mut engine, &prompt, tokens, args.seed)?;
    show::show(&recording, tokenizer, &args.prompt, &terminal, &mut out)?;
    // It may have been resized meanwhile.
    let terminal = Terminal::of_output(args.plain);
    grid::draw(&recording, tokenizer, &terminal, &mut out)?;
    figures(&engine, &recording, &terminal, &mut out)?;
    super::print_profile(&engine);
    drop(engine);
    offer(args, &terminal, &mut out)
}

/// The times, the state and whether the bits are the same.
fn figures(engine: &Engine, recording: &Recording, terminal: &Terminal, out: &mut impl Write) -> Result<()> {
    let config = engine.model().config();
    let [one, plt, turn] = &recording.lanes;
    let tokens = plt.sequence.len();
    let base = one.median();
    let threads = super::plural(engine.threads(), "thread", "threads");
    flow(&terminal.bold(&format!("Time and state ({threads}, {})", engine.isa().name())), terminal, out)?;
    for lane in [one, plt, turn] {
        let time = lane.median();
        let line = format!(
            "  {} {:>5.0} us a token, {:>3.0} %; {}",
            terminal.paint(lane.colour, &aligned(lane.name, 18, terminal)),
            time * 1e6,
            100.0 * time / base,
            bytes(Sequence::bytes_at(lane.config(), engine.kv_type(), tokens))
        );
        flow(&line, terminal, out)?;
    }
    let own = ModelConfig { recipe: Recipe::vanilla_loop(config.recipe.count), ..config.clone() };
    let own = bytes(Sequence::bytes_at(&own, engine.kv_type(), tokens));
    let said = format!(
        "State is what {tokens} tokens need to be kept; loops that keep keys and values of their own, as most looped models \
         do, would take {own}."
    );
    let same = match recording.same_bits {
        true => format!("One pass and loop by loop gave the same bits in all {} steps.", recording.steps),
        false => "One pass and loop by loop did NOT give the same bits.".to_owned(),
    };
    for text in [said, same] {
        flow(&format!("  {text}"), terminal, out)?;
    }
    ensure!(recording.same_bits, "one pass and loop by loop disagree: this is a defect of this program");
    Ok(())
}

/// The measurement where decoding is bound by reading weights: asked for on a terminal, named elsewhere.
fn offer(args: &Demo, terminal: &Terminal, out: &mut impl Write) -> Result<()> {
    let why = "This model is so small that a cache holds it, so arithmetic counts. Large models are bound by reading \
               their weights, and there loops in one pass cost next to nothing.";
    writeln!(out)?;
    flow(why, terminal, out)?;
    let Some((kind, needed)) = [WeightType::Bf16, WeightType::Q8, WeightType::Q4]
        .into_iter()
        .map(|kind| (kind, bench::shape_bytes("loopcoder-v2", LAYERS, kind).unwrap_or(usize::MAX)))
        .find(|(_, needed)| memory::available().is_none_or(|available| needed.saturating_mul(5) / 4 <= available))
    else {
        return flow("There is too little memory here to measure that.", terminal, out);
    };
    if !args.measure {
        let offer = format!("on {LAYERS} layers of LoopCoder-V2's shape ({} in {})", bytes(needed), kind.name());
        if !(terminal.live && terminal.asks) {
            return flow(&format!("Measure it {offer}: parloop demo --measure"), terminal, out);
        }
        let question = format!("Measure it now {offer}, in about half a minute? [Enter, or n]");
        let lines = flowing(&question, terminal.width.saturating_sub(1), 0).join("\n");
        write!(out, "{lines} ")?;
        out.flush()?;
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer)?;
        if read == 0 || !matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes") {
            return Ok(());
        }
    }
    let times = bench::loops_of_shape("loopcoder-v2", LAYERS, kind, &args.machine)?;
    let head = format!("{LAYERS} layers of LoopCoder-V2's shape, {}, this machine", kind.name());
    flow(&terminal.bold(&head), terminal, out)?;
    let names = ["one loop", "two loops in one pass", "two loops in turn"];
    for (name, time) in names.into_iter().zip(&times.ratios) {
        let (ratio, name) = (100.0 * time, aligned(name, 24, terminal));
        flow(&format!("  {name} {:>7.1} ms a token, {ratio:>3.0} %", times.one_loop * time * 1e3), terminal, out)?;
    }
    let share = bench::report::share(times.share);
    let read = format!("  read bandwidth {:.1} GB/s, of which one loop used {share} %", times.read_gb_s);
    [read].iter().chain(&times.notes).try_for_each(|text| flow(text, terminal, out))
}

/// Prints a text in lines that break between words; what goes on in another line stands two columns to the right where
/// the first does.
fn flow(text: &str, terminal: &Terminal, out: &mut impl Write) -> Result<()> {
    let indent = if text.starts_with(' ') { 2 } else { 0 };
    Ok(flowing(text, terminal.width, indent).iter().try_for_each(|line| writeln!(out, "{line}"))?)
}

/// A name filled up to a column, where there is room for columns.
fn aligned(name: &str, column: usize, terminal: &Terminal) -> String {
    if terminal.width < 55 { name.to_owned() } else { padded(name, column) }
}

/// Layers of the large shape.
const LAYERS: usize = 2;
