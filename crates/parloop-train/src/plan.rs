//! What a run will take, before it is started.

use crate::host::host;
use crate::model::LoopModel;
use crate::optim::Gradients;
use crate::trainer::optimiser;
use crate::{Result, TrainOptions, TuneChoice};
use burn::tensor::Device;
use parloop_eval::Rng;
use parloop_model::{ModelConfig, tensors};
use std::time::Instant;

/// Batches that are timed, after one that is not.
const TIMED: usize = 2;

/// What a run takes. Bytes and operations are computed, times measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The model. With a tokenizer that is yet to be trained its vocabulary is the one asked for.
    pub config: ModelConfig,
    /// Parameters in all.
    pub parameters: u64,
    /// Of them those that are trained; with lora those of the factors.
    pub trained: u64,
    /// Floating-point operations to train on one token: three times those of its forward pass.
    pub flops_per_token: u64,
    /// Bytes of weights, gradients and the optimiser's state.
    pub state_bytes: u64,
    /// Bytes that one token of a batch keeps for the backward pass.
    pub bytes_per_token: u64,
    /// Bytes of a batch's activations.
    pub activation_bytes: u64,
    /// Tokens of a step, and of the whole run.
    pub tokens: (u64, u64),
    /// Seconds of a batch's forward and backward pass and of the optimiser's step; none if they were not measured.
    pub seconds: Option<(f64, f64)>,
    /// Seconds of a step.
    pub step_seconds: Option<f64>,
}

impl Plan {
    /// Bytes that the run holds at once, at least.
    pub fn bytes(&self) -> u64 {
        self.state_bytes + self.activation_bytes
    }
}

/// Plans a run; if `timed`, takes a few steps on random ids, of which nothing is written.
///
/// # Errors
/// The options contradict each other, or the model does not fit in memory.
pub fn plan(options: &TrainOptions, timed: bool) -> Result<Plan> {
    options.check()?;
    let vocabulary = if options.tokenizer == "bytes" { 256 } else { options.vocab_size };
    let config = options.model_config(vocabulary, None)?;
    let (parameters, trained) = (tensors::parameters(&config), trained(options, &config));
    let kept = kept(&config, options.loop_loss > 0.0) * 4;
    let mut plan = Plan {
        parameters,
        trained,
        flops_per_token: 3 * forward_flops(&config, options.context, options.loop_loss > 0.0),
        state_bytes: 4 * parameters + state(options, &config, trained),
        bytes_per_token: kept,
        activation_bytes: kept * (options.batch * options.context) as u64,
        tokens: (options.tokens_per_step() as u64, (options.tokens_per_step() * options.steps) as u64),
        seconds: None,
        step_seconds: None,
        config,
    };
    if timed {
        options.check_memory()?;
        let (batch, step) = measure(options, &plan.config, &options.device.open()?)?;
        plan.seconds = Some((batch, step));
        plan.step_seconds = Some(batch * options.batches_per_step() as f64 + step);
    }
    Ok(plan)
}

/// Seconds of a batch and of an optimiser's step: the least of those that were timed, since what else the machine does
/// only adds.
fn measure(options: &TrainOptions, config: &ModelConfig, device: &Device) -> Result<(f64, f64)> {
    let mut model = LoopModel::init(config, options.init_std, options.gate_logit(), options.seed, device)?;
    let mut optimiser = optimiser(options);
    let (batch, time) = (options.batch, options.context);
    let mut best = (f64::INFINITY, f64::INFINITY);
    for index in 0..=TIMED {
        let mut rng = Rng::new(options.seed, 0x71a2, index as u64);
        let ids: Vec<u32> = (0..batch * time).map(|_| rng.below(config.vocab_size) as u32).collect();
        let began = Instant::now();
        let (loss, aim) =
            model.losses(model.ids(&ids, batch, time)?, model.targets(&ids, batch, time)?, options.loop_loss);
        let grads = Gradients::of(&model, &aim);
        host(loss);
        let passed = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let grads = optimiser.wanted(&model, grads)?;
        grads.norm();
        model = optimiser.step(model, grads, options.lr);
        if index > 0 {
            best = (best.0.min(passed), best.1.min(began.elapsed().as_secs_f64()));
        }
    }
    Ok(best)
}

/// Parameters that are trained.
fn trained(options: &TrainOptions, config: &ModelConfig) -> u64 {
    let specs = tensors::expected(config);
    let new: u64 =
        specs.iter().filter(|spec| spec.name.contains(crate::weights::GATE)).map(|s| s.elements() as u64).sum();
    match options.tune {
        TuneChoice::All => specs.iter().map(|spec| spec.elements() as u64).sum(),
        TuneChoice::New => new,
        TuneChoice::Lora => {
            let targets: Vec<&str> = options.lora_targets.split(',').map(str::trim).filter(|t| !t.is_empty()).collect();
            let adapted = |name: &str| targets.is_empty() || targets.iter().any(|t| name.contains(&format!(".{t}.")));
            let matrices = specs.iter().filter(|s| s.role == tensors::Role::Matrix && adapted(&s.name));
            new + matrices.map(|s| (options.lora_rank * (s.shape[0] + s.shape[1])) as u64).sum::<u64>()
        }
    }
}

/// Bytes beside the weights: their gradients, the moments of what is trained, with lora also the matrices without change.
fn state(options: &TrainOptions, config: &ModelConfig, trained: u64) -> u64 {
    let parameters = tensors::parameters(config);
    match options.tune {
        TuneChoice::All => 4 * parameters + 8 * trained,
        TuneChoice::New => 4 * parameters + 8 * trained,
        TuneChoice::Lora => 8 * parameters + 16 * trained,
    }
}

/// Operations of the forward pass for one token of a sequence of `time`: two for each weight that it meets in each loop,
/// and two for each number of a key and a value that it attends.
fn forward_flops(config: &ModelConfig, time: usize, every_loop: bool) -> u64 {
    let (d, q, kv) = (config.hidden_size, config.query_width(), config.kv_width());
    let recipe = &config.recipe;
    let mean_keys = time.div_ceil(2);
    let layer = |r: usize| {
        let own = if recipe.has_own_kv(r) { 2 * d * kv } else { 0 };
        let window = recipe.local.filter(|_| r > 0).map_or(0, |local| (local.left + 1).min(mean_keys));
        let gate = if window > 0 { d * config.num_attention_heads } else { 0 };
        let products = 2 * d * q + own + 3 * d * config.intermediate_size + gate;
        2 * products + 4 * q * (mean_keys + window)
    };
    let layers: usize = (0..recipe.count).map(|r| config.num_hidden_layers * layer(r)).sum();
    let heads = if every_loop { recipe.count } else { 1 };
    (layers + heads * 2 * d * config.vocab_size) as u64
}

/// Numbers that one token keeps until the backward pass: of each layer and loop its inputs, queries, keys, values, the
/// result of attention and the inner part of the feed-forward; the logits.
fn kept(config: &ModelConfig, every_loop: bool) -> u64 {
    let (d, q, kv) = (config.hidden_size, config.query_width(), config.kv_width());
    let layer = |r: usize| {
        let branches = if r > 0 && config.recipe.local.is_some() { 3 } else { 1 };
        let own = if config.recipe.has_own_kv(r) { 2 * kv } else { 0 };
        2 * d + q + own + branches * q + 2 * config.intermediate_size
    };
    let layers: usize = (0..config.recipe.count).map(|r| config.num_hidden_layers * layer(r) + 3 * d).sum();
    let heads = if every_loop { config.recipe.count } else { 1 };
    (layers + heads * config.vocab_size) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preset, RecipeChoice};

    #[test]
    fn a_plan_counts_loops_and_what_is_trained() {
        let of = |change: fn(&mut TrainOptions)| {
            let mut options = TrainOptions::preset(Preset::Tiny);
            change(&mut options);
            plan(&options, false).unwrap()
        };
        let one = of(|o| o.recipe = RecipeChoice::Name("vanilla".into()));
        let two = of(|_| {});
        assert!(
            two.flops_per_token > one.flops_per_token * 19 / 10 && two.flops_per_token < one.flops_per_token * 21 / 10
        );
        assert_eq!((one.trained, one.parameters), (one.parameters, tensors::parameters(&one.config)));
        // 6 operations a weight, without the embedding, and attention on top.
        let matrices = one.parameters - (512 * 128) as u64;
        assert!(one.flops_per_token > 6 * matrices && one.flops_per_token < 8 * matrices);
        let lora = of(|o| (o.tune, o.lora_rank) = (TuneChoice::Lora, 4));
        assert!(lora.trained < two.parameters / 5 && lora.state_bytes < two.state_bytes);
        assert!(of(|o| o.tune = TuneChoice::New).trained < 10_000);
        let narrow = of(|o| (o.tune, o.lora_rank, o.lora_targets) = (TuneChoice::Lora, 4, "q_proj".into()));
        assert!(narrow.trained < lora.trained);
        assert_eq!(one.tokens, (4096, 4096 * 1000));
        assert!(two.bytes() > two.state_bytes && two.seconds.is_none());
    }

    #[test]
    fn a_timed_plan_writes_nothing_and_knows_a_step() {
        let mut options = TrainOptions::preset(Preset::Tiny);
        (options.batch, options.context, options.accumulate, options.layers) = (1, 16, 3, 1);
        let plan = plan(&options, true).unwrap();
        let (batch, step) = plan.seconds.unwrap();
        assert_eq!(plan.step_seconds, Some(3.0 * batch + step));
    }
}
