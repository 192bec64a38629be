//! The list of training options: each stands here once, with its value in every preset, what it may be, whether a
//! resumed run may change it, and the help that a command line shows.
//!
//! From a row follow the field of [`TrainOptions`], the values of [`TrainOptions::preset`], the key in a TOML file, the
//! check of its range, and what a program needs to offer it as a flag ([`OPTIONS`]).

use super::values::{Allowed, of};
use super::{DeviceChoice, OptimizerChoice, Preset, RecipeChoice, ScalesChoice, ScheduleChoice, TuneChoice};
use serde::{Deserialize, Serialize};

/// An option as others need to see it: to offer it, to set it, to name it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TrainOption {
    /// Its name: a field of [`TrainOptions`], a key of a TOML file.
    pub name: &'static str,
    /// What it is about: options of one heading stand together.
    pub heading: &'static str,
    /// A sentence or two.
    pub help: &'static str,
    /// What it may be.
    pub allowed: Allowed,
    /// Whether it shapes the model or its text, so that a run that goes on from a checkpoint must keep it.
    pub fixed: bool,
    pub(super) get: fn(&TrainOptions) -> toml::Value,
}

impl TrainOption {
    /// The option of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.name == name)
    }

    /// Its value in these options, as a TOML file would write it.
    pub fn get(&self, options: &TrainOptions) -> toml::Value {
        (self.get)(options)
    }
}

/// The value for a preset: one for all of them, or one for each.
fn pick<T, const N: usize>(values: [T; N], preset: Preset) -> T {
    const { assert!(N == 1 || N == Preset::ALL.len()) };
    let at = if N == 1 { 0 } else { preset as usize };
    let mut values = values.into_iter();
    // `at` is below N: the assertion above, and there are as many presets as `ALL` has.
    values.nth(at).unwrap_or_else(|| unreachable!())
}

macro_rules! fixed {
    () => {
        false
    };
    (fixed) => {
        true
    };
}

macro_rules! options {
    ($($heading:literal { $(
        $(#[doc = $help:literal])+
        $name:ident: $type:ty = $presets:expr, $allowed:expr $(, $fixed:ident)?;
    )* })*) => {
        /// Everything that decides the course of a run, apart from its text.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct TrainOptions { $($(
            $(#[doc = $help])+
            pub $name: $type,
        )*)* }

        impl TrainOptions {
            /// The options of a preset: PLT-2 with LoopCoder-V2's scales, and a byte-level BPE trained on the text.
            pub fn preset(preset: Preset) -> Self {
                Self { $($($name: pick($presets, preset),)*)* }
            }
        }

        /// Every option, in the order in which help shows them.
        pub const OPTIONS: &[TrainOption] = &[$($(TrainOption {
            name: stringify!($name),
            heading: $heading,
            help: concat!($($help),+),
            allowed: $allowed,
            fixed: fixed!($($fixed)?),
            get: |options| of(&options.$name),
        },)*)*];
    };
}

/// Above this a size is a mistake, not a wish; products of three such sizes still fit in 64 bits.
const LARGEST: u64 = 1 << 20;
const SIZE: Allowed = Allowed::Whole(1, LARGEST);
/// Steps, or steps between two of something.
const STEPS: Allowed = Allowed::Whole(0, u32::MAX as u64);

// In order: its value in every preset, or in `tiny`, `small` and `medium`; what it may be; and `fixed` if a resumed run
// must keep it.
options! {
    "Run" {
        /// Named set of options: tiny (0.8M parameters), small (2.8M), medium (32M)
        preset: Preset = Preset::ALL, Allowed::OneOf(&Preset::NAMES);
        /// Where to compute: cpu, or cuda, wgpu, metal in builds with that feature
        device: DeviceChoice = [DeviceChoice::Cpu], Allowed::OneOf(&DeviceChoice::NAMES);
        /// Seed of the weights, the order of the data and the samples
        seed: u64 = [1], Allowed::Whole(0, i64::MAX as u64);
    }
    "Model" {
        /// Loop recipe: vanilla, loop2, plt2, plt3, ..., or in a TOML file a table with every field
        recipe: RecipeChoice = [RecipeChoice::Name("plt2".into())], Allowed::Recipe, fixed;
        /// Width of the residual stream
        hidden_size: usize = [128, 192, 512], SIZE, fixed;
        /// Width of the SwiGLU feed-forward
        intermediate_size: usize = [352, 512, 1408], SIZE, fixed;
        /// Physical layers
        layers: usize = [4, 6, 8], SIZE, fixed;
        /// Query heads
        heads: usize = [4, 6, 8], SIZE, fixed;
        /// Key/value heads; divides `heads`
        kv_heads: usize = [2, 2, 4], SIZE, fixed;
        /// Size of a head; even
        head_dim: usize = [32, 32, 64], SIZE, fixed;
        /// Use the embedding matrix as the output head
        tie_embeddings: bool = [false], Allowed::Switch, fixed;
        /// Base of the rotary frequencies
        rope_theta: f32 = [10_000.0], Allowed::Number { low: 1.0, high: 1e12 }, fixed;
        /// Added to the mean square in norms
        rms_norm_eps: f64 = [1e-5], Allowed::Above(0.0, 1.0), fixed;
        /// Standard deviation of new matrices and the embedding; narrow models learn sooner from more than 0.02
        init_std: f64 = [0.02], Allowed::Above(0.0, 10.0);
        /// Context that the model is written with; 0 takes `context`
        max_position: usize = [0], Allowed::Whole(0, LARGEST);
    }
    "Start" {
        /// Checkpoint whose weights, sizes and tokenizer the run starts from: a folder, a run or a GGUF file; the recipe is
        /// the run's own
        init: String = [String::new()], Allowed::Text;
        /// Layers of `init` to take, such as 0-11 or 0,2,4; means of layers, such as 0-14+15-29; all of them if empty
        init_layers: String = [String::new()], Allowed::Text;
        /// Key of the config.json of `init` that is not known here, to be treated as absent; only if it changes nothing that is
        /// computed; several with commas between them
        ignore_config_key: String = [String::new()], Allowed::Text;
        /// Share of the global branch in gates that are new; 1 begins as if there were no window
        initial_gate: f64 = [0.5], Allowed::Number { low: 0.0, high: 1.0 };
        /// Steps over which the input of later loops goes from the token's embedding alone to the recipe's scales
        scale_warmup: usize = [0], STEPS, fixed;
        /// What is trained: all, new (gates and learned scales alone), or lora (small matrices beside those of the
        /// layers, and what is new)
        tune: TuneChoice = [TuneChoice::All], Allowed::OneOf(&TuneChoice::NAMES), fixed;
        /// Rank of lora's matrices
        lora_rank: usize = [8], Allowed::Whole(1, 4096), fixed;
        /// Lora's change is multiplied by this / rank
        lora_alpha: f64 = [16.0], Allowed::Above(0.0, 1e6), fixed;
        /// Matrices that lora changes, such as q_proj,v_proj; all of the layers if empty
        lora_targets: String = [String::new()], Allowed::Text, fixed;
    }
    "Loops" {
        /// Loops by step, such as 1:0,2:2000: one loop from the start, two from step 2000; the last is the recipe's own
        /// number; the recipe throughout if empty
        loops_schedule: String = [String::new()], Allowed::Text, fixed;
        /// Loops drawn anew for each step, such as 1-4; for recipes without shift; the recipe's number if empty
        random_loops: String = [String::new()], Allowed::Text;
        /// embedding_scale and hidden_scale: fixed, learned, or cold (learned, from 1 and 0)
        scales: ScalesChoice = [ScalesChoice::Fixed], Allowed::OneOf(&ScalesChoice::NAMES), fixed;
        /// Learning rate of learned scales, as a multiple of `lr`: two numbers may move faster than matrices
        scales_lr: f64 = [1.0], Allowed::Above(0.0, 1e6);
        /// Weight of the mean loss of the earlier loops' outputs beside that of the last
        loop_loss: f64 = [0.0], Allowed::Number { low: 0.0, high: 1e3 };
    }
    "Text" {
        /// bytes, bpe (trained on the text, `vocab_size` ids), init (that of `init`), or the path of a tokenizer.json
        tokenizer: String = ["bpe".into()], Allowed::Text;
        /// Ids of a tokenizer to be trained; other tokenizers bring their own number
        vocab_size: usize = [512, 1024, 8192], SIZE, fixed;
        /// Tokens of a training sequence
        context: usize = [256, 256, 512], SIZE;
        /// Share of the text, at its end, that is kept for validation; 0 for none
        val_fraction: f64 = [0.05], Allowed::Number { low: 0.0, high: 0.9 }, fixed;
    }
    "Optimisation" {
        /// Optimiser steps of the whole run
        steps: usize = [1000, 3000, 20_000], Allowed::Whole(1, u32::MAX as u64);
        /// Sequences computed at once
        batch: usize = [16], SIZE;
        /// Batches whose gradients are added up before a step
        accumulate: usize = [1, 1, 4], SIZE;
        /// Tokens of a step, in place of `accumulate`: a multiple of batch x context; 0 takes `accumulate`
        step_tokens: usize = [0], Allowed::Whole(0, 1 << 40);
        /// Train on the first step's batches again and again: a check that the model can learn
        overfit_one_batch: bool = [false], Allowed::Switch;
        /// What turns gradients into changes: adamw, or muon for the matrices of the layers (adamw for the rest)
        optimizer: OptimizerChoice = [OptimizerChoice::AdamW], Allowed::OneOf(&OptimizerChoice::NAMES), fixed;
        /// Share of the last step's direction that muon keeps
        momentum: f64 = [0.95], Allowed::Below(0.0, 1.0);
        /// Highest learning rate
        lr: f64 = [3e-3, 2e-3, 1e-3], Allowed::Above(0.0, 1e3);
        /// Steps of linear warm-up; a shorter run ends before it does
        warmup: usize = [50, 100, 500], STEPS;
        /// How the learning rate falls after warm-up: cosine, linear, or wsd (stable, then a line at the end)
        schedule: ScheduleChoice = [ScheduleChoice::Cosine], Allowed::OneOf(&ScheduleChoice::NAMES);
        /// Share of the steps in which the schedule wsd falls
        decay: f64 = [0.2], Allowed::Number { low: 0.0, high: 1.0 };
        /// Last learning rate as a fraction of the highest
        floor: f64 = [0.1], Allowed::Number { low: 0.0, high: 1.0 };
        /// Decoupled weight decay of matrices
        weight_decay: f64 = [0.1], Allowed::Number { low: 0.0, high: 1e3 };
        /// Decay of AdamW's first moment
        beta1: f64 = [0.9], Allowed::Below(0.0, 1.0);
        /// Decay of AdamW's second moment
        beta2: f64 = [0.95], Allowed::Below(0.0, 1.0);
        /// Added to the root of AdamW's second moment
        epsilon: f64 = [1e-8], Allowed::Above(0.0, 1.0);
        /// Largest global gradient norm; 0 does not clip
        clip: f64 = [1.0], Allowed::Number { low: 0.0, high: 1e9 };
        /// A step is skipped whose gradient norm is this many times the running mean, or no number; 0 skips only the latter
        spike: f64 = [10.0], Allowed::Number { low: 0.0, high: 1e9 };
        /// Skipped steps in a row that end the run
        skips: usize = [10], SIZE;
    }
    "Reports" {
        /// Steps between validations; 0 for only the last
        eval_every: usize = [100, 250, 500], STEPS;
        /// Batches of a validation
        eval_batches: usize = [8, 8, 16], SIZE;
        /// Steps between lines of progress
        log_every: usize = [10], SIZE;
        /// Steps between checkpoints; 0 for only the last
        save_every: usize = [500, 500, 1000], STEPS;
        /// Checkpoints kept; older ones are removed after a newer one is whole
        keep: usize = [2], SIZE;
        /// Checkpoints of steps that this divides stay; 0 for none
        keep_every: usize = [0], STEPS;
        /// Write what is logged as TensorBoard's events, too
        tensorboard: bool = [false], Allowed::Switch;
        /// Steps between text samples; 0 for none
        sample_every: usize = [0], STEPS;
        /// Tokens of a sample
        sample_tokens: usize = [128], SIZE;
        /// Text that a sample continues; the start of the validation text if empty
        sample_prompt: String = [String::new()], Allowed::Text;
        /// Temperature of samples; 0 takes the most likely token
        sample_temperature: f64 = [0.8], Allowed::Number { low: 0.0, high: 100.0 };
    }
}
