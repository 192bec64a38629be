//! What each arm costs to run: decode in one pass and loop by loop, a prompt, memory; all arms in turn in each round.

use super::Place;
use super::file::{Run, Study};
use crate::args::machine::Machine;
use crate::commands::bench::rounds::{self, Side, Work};
use crate::commands::{output, plural};
use anyhow::Result;
use parloop_engine::{Engine, Model, Passes, Prefill, Sequence};
use parloop_eval::results::costs::{COSTS, Costs};
use parloop_kernels::{KvType, Projector, WeightType};
use std::sync::Arc;

/// Tokens decoded in a measurement: models this small take microseconds a token.
const STEPS: usize = 16;

pub fn measure(
    study: &Study,
    place: &Place,
    replace: output::Replace,
    rounds: usize,
    kind: WeightType,
    machine: &Machine,
) -> Result<()> {
    let path = place.out.join(COSTS);
    replace.file(&path, &[])?;
    let chosen = machine.chosen()?;
    let mut lines = String::new();
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    // One run of each arm; seeds cost the same.
    let first_seed = study.runs[0].seed;
    for run in study.runs.iter().filter(|run| run.seed == first_seed) {
        match groups.iter_mut().find(|group| group[0].task == run.task && group[0].size == run.size) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    for group in groups {
        let (arms, times) = (plural(group.len(), "arm", "arms"), plural(rounds, "round", "rounds"));
        say!("{} {}: {arms}, {times}", group[0].task, group[0].size);
        for costs in one(study, &group, rounds, kind, chosen)? {
            lines += &(serde_json::to_string(&costs)? + "\n");
        }
    }
    output::write(&path, lines.as_bytes())?;
    say!("wrote {}", path.display());
    Ok(())
}

fn one(
    study: &Study,
    group: &[&Run],
    rounds: usize,
    kind: WeightType,
    chosen: parloop_kernels::Machine,
) -> Result<Vec<Costs>> {
    // Weights do not change times, so random ones will do.
    let configs: Vec<_> = group.iter().map(|run| run.options.model_config(256, None)).collect::<Result<_, _>>()?;
    let models: Vec<Arc<Model>> =
        configs.iter().map(|config| Ok(Arc::new(Model::random(config.clone(), kind)?))).collect::<Result<_>>()?;
    let depth = configs.iter().map(|c| c.max_position_embeddings).min().unwrap_or(2) / 2;
    let steps = STEPS.min(depth / 2).max(1);
    let decode = Work { batch: 1, depth: depth.saturating_sub(steps), prompt: 0, steps, prefill: Prefill::default() };
    let prompt = Work { batch: 1, depth: 0, prompt: depth.max(1), steps: 0, prefill: Prefill::default() };
    // For each arm: one pass (where it can), loop by loop, a prompt.
    let mut sides = Vec::new();
    for model in &models {
        let one = if model.config().recipe.one_pass() { Passes::One } else { Passes::Sequential };
        for (passes, work) in [(one, decode), (Passes::Sequential, decode), (one, prompt)] {
            sides.push(Side::new(model.clone(), passes, KvType::default(), work, None));
        }
    }
    let mut engine = Engine::over(models[0].clone(), Projector::on(chosen));
    let bytes = models.iter().map(|m| m.bytes_per_pass()).max().unwrap_or(0);
    rounds::run(&mut engine, &mut sides, bytes, rounds)?;
    let fastest = |arm: usize, round: usize| sides[3 * arm].times[round].min(sides[3 * arm + 1].times[round]);
    let ratio = |of: &dyn Fn(usize) -> f64| median((0..rounds).map(of).collect());
    let mut all = Vec::new();
    for (i, run) in group.iter().enumerate() {
        let time = |side: usize| median(sides[3 * i + side].times.clone());
        all.push(Costs {
            study: study.name.clone(),
            task: run.task.clone(),
            size: run.size.clone(),
            arm: run.arm.clone(),
            weight_bytes: models[i].bytes_per_pass() as u64,
            depth,
            one_pass: configs[i].recipe.one_pass().then(|| time(0) / steps as f64),
            sequential: time(1) / steps as f64,
            against_first: ratio(&|round| fastest(i, round) / fastest(0, round)),
            prefill: time(2),
            prefill_against_first: ratio(&|round| sides[3 * i + 2].times[round] / sides[2].times[round]),
            state_bytes: Sequence::bytes_at(&configs[i], KvType::default(), depth) as u64,
            rounds,
            version: crate::args::VERSION.to_owned(),
            machine: format!(
                "{}, {}, {} weights",
                super::arm::machine(),
                plural(engine.threads(), "thread", "threads"),
                kind.name()
            ),
        });
    }
    Ok(all)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}
