//! The tensors of a checkpoint: names, shapes, and what each is for.

use crate::{GateKind, ModelConfig};

/// What a tensor is for; decides how it is stored, packed and trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `[V, d]`, looked up by token id (and used as the head when tied).
    Embedding,
    /// `[out, in]`, applied to every row.
    Matrix,
    /// `[d]`, the weight of an RMSNorm.
    Norm,
    /// `[H, d]` or `[H, D]`, the gate of G-SWA; `[1, d]`, the exit gate.
    Gate,
    /// Added to the result of a product or of a gate.
    Bias,
    /// `[V, d]`, the output head.
    Head,
}

/// A tensor that a checkpoint of some configuration must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The checkpoint's name.
    pub name: String,
    /// Row-major shape, `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl Spec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

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

/// The name of layer `n`'s tensor with the given ending.
pub fn layer(n: usize, ending: &str) -> String {
    format!("model.layers.{n}.{ending}")
}

/// Every tensor that a checkpoint of this configuration must hold, in the order in which it is written.
pub fn expected(c: &ModelConfig) -> Vec<Spec> {
    let (d, ff, v) = (c.hidden_size, c.intermediate_size, c.vocab_size);
    let (q, kv, h) = (c.query_width(), c.kv_width(), c.num_attention_heads);
    let mut specs = vec![spec(EMBEDDING.into(), &[v, d], Role::Embedding)];
    for n in 0..c.num_hidden_layers {
        let mut add = |ending: &str, shape: &[usize], role| specs.push(spec(layer(n, ending), shape, role));
        let product = |add: &mut dyn FnMut(&str, &[usize], Role), name: &str, shape: [usize; 2], bias: bool| {
            add(&format!("{name}.weight"), &shape, Role::Matrix);
            if bias {
                add(&format!("{name}.bias"), &shape[..1], Role::Bias);
            }
        };
        let block = &c.block;
        add("input_layernorm.weight", &[d], Role::Norm);
        product(&mut add, "self_attn.q_proj", [q, d], block.attention_bias);
        product(&mut add, "self_attn.k_proj", [kv, d], block.attention_bias);
        product(&mut add, "self_attn.v_proj", [kv, d], block.attention_bias);
        product(&mut add, "self_attn.o_proj", [d, q], block.attention_bias);
        if let Some(local) = c.recipe.local {
            let width = if local.gate == GateKind::Hidden { d } else { c.head_dim };
            add("self_attn.plt_gate.weight", &[h, width], Role::Gate);
            add("self_attn.plt_gate.bias", &[h], Role::Bias);
            if local.gate == GateKind::Hidden {
                add("self_attn.plt_gate.gate_norm.weight", &[d], Role::Norm);
            }
        }
        if block.sandwich_norms {
            add("input_layernorm_2.weight", &[d], Role::Norm);
        }
        add("post_attention_layernorm.weight", &[d], Role::Norm);
        product(&mut add, "mlp.gate_proj", [ff, d], block.mlp_bias);
        product(&mut add, "mlp.up_proj", [ff, d], block.mlp_bias);
        product(&mut add, "mlp.down_proj", [d, ff], block.mlp_bias);
        if block.sandwich_norms {
            add("post_attention_layernorm_2.weight", &[d], Role::Norm);
        }
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
