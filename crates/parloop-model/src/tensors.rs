//! The tensors of a checkpoint: names, shapes, and what each is for.

use crate::ModelConfig;
use crate::layer::LayerParts;
pub use crate::layer::{Role, Spec, layer_name};

/// The embedding's name.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The final norm's name; also applied between loops.
pub const FINAL_NORM: &str = "model.norm.weight";
/// The output head's name; absent when tied.
pub const HEAD: &str = "lm_head.weight";

/// The exit gate's weight, `[1, d]`.
pub const EXIT_GATE: &str = "model.early_exit_gate.weight";
/// The exit gate's bias, `[1]`.
pub const EXIT_BIAS: &str = "model.early_exit_gate.bias";

/// Every tensor that a checkpoint of this configuration must hold, in the order in which it is written.
pub fn expected(c: &ModelConfig) -> Vec<Spec> {
    let (d, v) = (c.hidden_size, c.vocab_size);
    let mut specs = vec![spec(EMBEDDING.into(), &[v, d], Role::Embedding)];
    for n in 0..c.num_hidden_layers {
        LayerParts::of(c, n).each(|part| specs.push(part.spec(n)));
    }
    if c.recipe.exit.is_some() {
        specs.push(spec(EXIT_GATE.into(), &[1, d], Role::Gate));
        specs.push(spec(EXIT_BIAS.into(), &[1], Role::Bias));
    }
    specs.push(spec(FINAL_NORM.into(), &[d], Role::Norm));
    if !c.tie_word_embeddings {
        specs.push(spec(HEAD.into(), &[v, d], Role::Head));
    }
    specs
}

fn spec(name: String, shape: &[usize], role: Role) -> Spec {
    Spec { name, shape: shape.to_vec(), role }
}

/// Number of parameters of a configuration.
pub fn parameters(c: &ModelConfig) -> u64 {
    expected(c).iter().map(|s| s.elements() as u64).sum()
}

/// Of these the parameters that a row meets: of a mixture its k experts.
pub fn active_parameters(c: &ModelConfig) -> u64 {
    let Some(moe) = &c.moe else { return parameters(c) };
    let left_out = (moe.experts - moe.top_k) * 3 * moe.width * c.hidden_size;
    let layers = (0..c.num_hidden_layers).filter(|n| moe.in_layer(*n)).count();
    parameters(c) - (left_out * layers) as u64
}
