//! Random small models: any recipe, odd sizes, seeded.

use parloop_model::rope::RopeScaling;
use parloop_model::{
    Checkpoint, Exit, ExpertMode, Extras, GateKind, Groups, KvMode, Local, ModelConfig, Moe, Multipliers, QkNorms,
    Recipe, Score, SharedExpert, Sizes, tensors,
};

/// A small seeded generator (SplitMix64), so that a failing case can be repeated from its seed.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }

    /// True half of the time.
    pub fn flip(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    }
}

/// A random configuration: R 1..4, left 0..9, grouped heads, odd sizes, both gates, tied or not; every other one
/// with things that not all models have: biases, sandwich norms, RoPE scaling, an exit gate.
pub fn config(rng: &mut Rng) -> ModelConfig {
    let kv = if rng.flip() { KvMode::Shared } else { KvMode::PerLoop };
    let gate = if rng.flip() { GateKind::Hidden } else { GateKind::Query };
    let local = (kv == KvMode::Shared && rng.range(0, 3) > 0).then(|| Local { left: rng.range(0, 9), gate });
    let recipe = Recipe {
        count: rng.range(1, 4),
        shift: rng.flip(),
        embedding_scale: rng.flip().then(|| 0.5 + rng.unit()),
        hidden_scale: 0.05 + rng.unit(),
        norm: rng.flip(),
        kv,
        local,
        exit: None,
        experts: ExpertMode::Own,
    };
    let mut config = config_with(rng, recipe);
    if rng.flip() {
        config.recipe.exit = rng.flip().then(|| Exit { threshold: rng.unit() });
        let attention_bias = rng.flip();
        config.extras = Extras {
            attention_bias,
            attention_output_bias: attention_bias,
            mlp_bias: rng.flip(),
            sandwich_norms: rng.flip(),
            rope_scaling: rope_scaling(rng),
            ..Extras::default()
        };
    }
    config
}

/// [`config`], every third with a mixture of experts. What is drawn after it does not depend on that.
pub fn any_config(rng: &mut Rng) -> ModelConfig {
    let mut config = config(rng);
    let other = &mut Rng(rng.0 ^ 0x4D6F_4500);
    if other.range(0, 2) == 0 {
        experts(&mut config, other);
    }
    config
}

/// Makes a mixture's widths whole blocks of 32, which every weight type can hold.
pub fn whole_blocks(config: &mut ModelConfig) {
    if let Some(moe) = &mut config.moe {
        moe.width = moe.width.next_multiple_of(32);
        moe.shared.iter_mut().for_each(|shared| shared.width = shared.width.next_multiple_of(32));
        // Heads may be smaller then.
        config.extras.rotary_dims = config.extras.rotary_dims.map(|dims| dims.min(16));
    }
}

/// Puts a mixture of experts of any kind into a configuration, chosen by every loop or by loop 1 for all.
pub fn experts(config: &mut ModelConfig, rng: &mut Rng) {
    let layers = config.num_hidden_layers;
    let (count, size) = (rng.range(1, 4), rng.range(2, 3));
    let keep = rng.range(1, count);
    let groups = Some(Groups { count, keep }).filter(|_| count > 1 && rng.flip());
    let most = groups.map_or(count * size, |groups| groups.keep * size);
    config.moe = Some(Moe {
        score: if rng.flip() { Score::Softmax } else { Score::Sigmoid },
        normalize: rng.flip(),
        scale: 0.5 + rng.unit(),
        choice_bias: rng.flip(),
        groups,
        shared: rng.flip().then(|| SharedExpert { width: rng.range(1, 20), gate: rng.flip() }),
        dense_layers: if layers > 1 && rng.flip() { vec![rng.range(0, layers - 1)] } else { Vec::new() },
        ..Moe::new(count * size, rng.range(1, most.min(4)), rng.range(1, 24))
    });
    config.extras.mlp_bias = false;
    config.extras.qk_norms = [QkNorms::None, QkNorms::Head, QkNorms::Whole][rng.range(0, 2)];
    if rng.range(0, 3) == 0 {
        let dims = 2 * rng.range(1, config.head_dim / 2);
        config.extras.rotary_dims = Some(dims).filter(|dims| *dims < config.head_dim);
    }
    if rng.range(0, 3) == 0 {
        let mut factor = || 0.3 + rng.unit();
        config.extras.multipliers =
            Some(Multipliers { embedding: factor(), attention: factor(), residual: factor(), logits: factor() });
    }
    if config.recipe.count > 1 && rng.flip() {
        config.recipe.experts = ExpertMode::Shared;
    }
}

/// One of the kinds of scaling, or none; contexts are short, so that frequencies on all sides of a ramp occur.
fn rope_scaling(rng: &mut Rng) -> Option<RopeScaling> {
    let factor = 1.5 + 4.0 * rng.unit();
    let original_max_position_embeddings = rng.range(8, 200);
    match rng.range(0, 3) {
        0 => None,
        1 => Some(RopeScaling::Linear { factor }),
        2 => Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 2.0 + rng.unit(),
            original_max_position_embeddings,
        }),
        _ => Some(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast: 8.0,
            beta_slow: 1.0,
            attention_factor: 1.0 + 0.2 * rng.unit(),
            truncate: rng.flip(),
        }),
    }
}

/// A configuration of random odd sizes around a given recipe.
pub fn config_with(rng: &mut Rng, recipe: Recipe) -> ModelConfig {
    let kv_heads = rng.range(1, 3);
    let sizes = Sizes {
        vocab_size: rng.range(5, 70),
        hidden_size: rng.range(3, 41),
        intermediate_size: rng.range(1, 50),
        num_hidden_layers: rng.range(1, 3),
        num_attention_heads: kv_heads * rng.range(1, 3),
        num_key_value_heads: kv_heads,
        head_dim: 2 * rng.range(1, 11),
    };
    ModelConfig { tie_word_embeddings: rng.flip(), ..ModelConfig::new(sizes, recipe) }
}

/// A checkpoint in memory with random weights whose states stay of order one.
pub fn checkpoint(config: &ModelConfig, rng: &mut Rng) -> Checkpoint {
    let specs = tensors::expected(config);
    let data: Vec<Vec<f32>> = specs
        .iter()
        .map(|s| {
            let scale = 1.0 / (*s.shape.last().unwrap() as f32).sqrt();
            (0..s.elements())
                .map(|_| match s.role {
                    tensors::Role::Norm => 1.0 + 0.1 * rng.normal(),
                    tensors::Role::Embedding | tensors::Role::Bias => rng.normal(),
                    _ => scale * rng.normal(),
                })
                .collect()
        })
        .collect();
    let tensors = specs.into_iter().zip(&data).map(|(s, d)| (s.name, s.shape, d.as_slice()));
    Checkpoint::from_f32(config.clone(), tensors, None).unwrap()
}
