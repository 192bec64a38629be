//! The tensors of one layer, listed once.
//!
//! [`LayerParts`] is that list, whatever stands in it: descriptions ([`Part`]), names and shapes, tensors of a file,
//! packed weights, parameters that are trained. Loading, hashing, packing, the reference, training and both kinds of
//! files go through it with [`LayerParts::try_map`] or [`LayerParts::list`]. So another tensor is a field, a line of the
//! walk and a row of [`LayerParts::of`], all of them in this file; only what computes with it is elsewhere.

use crate::config::{Extras, QkNorms, Sizes};
use crate::{GateKind, ModelConfig, Moe, Recipe, SharedExpert};
use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::LazyLock;

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
    /// `[E, d]`, from which experts are chosen; `[1, d]`, the gate of a shared expert.
    Router,
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

/// The name of layer `n`'s tensor with the given ending.
pub fn layer_name(n: usize, ending: &str) -> String {
    format!("model.layers.{n}.{ending}")
}

/// A product: its matrix, and the vector added to its result if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear<M, V = M> {
    /// `[out, in]`
    pub weight: M,
    /// `[out]`
    pub bias: Option<V>,
}

/// The gate between the global and the local branch (`docs/model.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate<M, V = M> {
    /// `sigmoid(W . RMSNorm(x) + b)`, x the residual stream.
    Hidden {
        /// `[H, d]`
        weight: M,
        /// `[H]`
        bias: V,
        /// `[d]`
        norm: V,
    },
    /// `sigmoid(<w_head, q_head> + b)`, q after RoPE.
    Query {
        /// `[H, D]`
        weight: V,
        /// `[H]`
        bias: V,
    },
}

/// What follows attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedForward<M, V = M> {
    /// SwiGLU: `down_proj(silu(gate_proj(x)) * up_proj(x))`.
    Dense {
        /// `[ff, d]`
        gate_proj: Linear<M, V>,
        /// `[ff, d]`
        up_proj: Linear<M, V>,
        /// `[d, ff]`
        down_proj: Linear<M, V>,
    },
    /// A mixture of experts ([`crate::experts`]).
    Experts(Experts<M, V>),
}

/// The SwiGLU of an expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expert<M> {
    /// `[width, d]`
    pub gate_proj: M,
    /// `[width, d]`
    pub up_proj: M,
    /// `[d, width]`
    pub down_proj: M,
}

/// A router and what it chooses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts<M, V = M> {
    /// `[E, d]`
    pub router: M,
    /// `[E]`, added to the scores for the choice, where the model has it.
    pub choice_bias: Option<V>,
    /// E of them.
    pub experts: Vec<Expert<M>>,
    /// What every row takes beside its experts.
    pub shared: Option<Expert<M>>,
    /// `[1, d]`, the gate of the shared expert, where the model has one.
    pub shared_gate: Option<M>,
}

impl<M> Expert<M> {
    fn try_map<'a, A, E>(&'a self, matrix: &mut impl FnMut(&'a M) -> Result<A, E>) -> Result<Expert<A>, E> {
        Ok(Expert {
            gate_proj: matrix(&self.gate_proj)?,
            up_proj: matrix(&self.up_proj)?,
            down_proj: matrix(&self.down_proj)?,
        })
    }
}

impl<M, V> Experts<M, V> {
    fn try_map<'a, A, B, E>(
        &'a self,
        matrix: &mut impl FnMut(&'a M) -> Result<A, E>,
        vector: &mut impl FnMut(&'a V) -> Result<B, E>,
    ) -> Result<Experts<A, B>, E> {
        Ok(Experts {
            router: matrix(&self.router)?,
            choice_bias: self.choice_bias.as_ref().map(vector).transpose()?,
            experts: self.experts.iter().map(|expert| expert.try_map(matrix)).collect::<Result<_, E>>()?,
            shared: self.shared.as_ref().map(|expert| expert.try_map(matrix)).transpose()?,
            shared_gate: self.shared_gate.as_ref().map(matrix).transpose()?,
        })
    }
}

/// The tensors of one layer. Those that all rows are multiplied with are an `M`, the others a `V`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerParts<M, V = M> {
    /// `[d]`, the norm before attention.
    pub input_norm: V,
    /// `[H x D, d]`
    pub q: Linear<M, V>,
    /// `[G x D, d]`
    pub k: Linear<M, V>,
    /// `[G x D, d]`
    pub v: Linear<M, V>,
    /// `[D]` or `[H x D]`, the norm of each query head or of all before RoPE, where the model has them.
    pub q_norm: Option<V>,
    /// `[D]` or `[G x D]`, the norm of each key head or of all before RoPE, where the model has them.
    pub k_norm: Option<V>,
    /// `[d, H x D]`
    pub o: Linear<M, V>,
    /// The gate of later loops, where the recipe has a window.
    pub gate: Option<Gate<M, V>>,
    /// `[d]`, the norm of attention's result, where the model has sandwich norms.
    pub attention_out_norm: Option<V>,
    /// `[d]`, the norm before the feed-forward.
    pub post_norm: V,
    /// What follows attention.
    pub feed_forward: FeedForward<M, V>,
    /// `[d]`, the norm of the feed-forward's result, where the model has sandwich norms.
    pub feed_forward_out_norm: Option<V>,
}

impl<M, V> Linear<M, V> {
    fn try_map<'a, A, B, E>(
        &'a self,
        matrix: &mut impl FnMut(&'a M) -> Result<A, E>,
        vector: &mut impl FnMut(&'a V) -> Result<B, E>,
    ) -> Result<Linear<A, B>, E> {
        Ok(Linear { weight: matrix(&self.weight)?, bias: self.bias.as_ref().map(vector).transpose()? })
    }
}

impl<M, V> Gate<M, V> {
    fn try_map<'a, A, B, E>(
        &'a self,
        matrix: &mut impl FnMut(&'a M) -> Result<A, E>,
        vector: &mut impl FnMut(&'a V) -> Result<B, E>,
    ) -> Result<Gate<A, B>, E> {
        Ok(match self {
            Self::Hidden { weight, bias, norm } => {
                Gate::Hidden { weight: matrix(weight)?, bias: vector(bias)?, norm: vector(norm)? }
            }
            Self::Query { weight, bias } => Gate::Query { weight: vector(weight)?, bias: vector(bias)? },
        })
    }

    /// What the gate looks at.
    pub fn kind(&self) -> GateKind {
        match self {
            Self::Hidden { .. } => GateKind::Hidden,
            Self::Query { .. } => GateKind::Query,
        }
    }

    /// `[H]`
    pub fn bias(&self) -> &V {
        match self {
            Self::Hidden { bias, .. } | Self::Query { bias, .. } => bias,
        }
    }
}

impl<M, V> FeedForward<M, V> {
    fn try_map<'a, A, B, E>(
        &'a self,
        matrix: &mut impl FnMut(&'a M) -> Result<A, E>,
        vector: &mut impl FnMut(&'a V) -> Result<B, E>,
    ) -> Result<FeedForward<A, B>, E> {
        Ok(match self {
            Self::Dense { gate_proj, up_proj, down_proj } => FeedForward::Dense {
                gate_proj: gate_proj.try_map(matrix, vector)?,
                up_proj: up_proj.try_map(matrix, vector)?,
                down_proj: down_proj.try_map(matrix, vector)?,
            },
            Self::Experts(experts) => FeedForward::Experts(experts.try_map(matrix, vector)?),
        })
    }
}

impl<M, V> LayerParts<M, V> {
    /// The same list of other things. Goes through the parts in the order in which checkpoints hold them.
    ///
    /// # Errors
    /// The first that a function returns.
    pub fn try_map<'a, A, B, E>(
        &'a self,
        mut matrix: impl FnMut(&'a M) -> Result<A, E>,
        mut vector: impl FnMut(&'a V) -> Result<B, E>,
    ) -> Result<LayerParts<A, B>, E> {
        let (matrix, vector) = (&mut matrix, &mut vector);
        Ok(LayerParts {
            input_norm: vector(&self.input_norm)?,
            q: self.q.try_map(matrix, vector)?,
            k: self.k.try_map(matrix, vector)?,
            v: self.v.try_map(matrix, vector)?,
            q_norm: self.q_norm.as_ref().map(&mut *vector).transpose()?,
            k_norm: self.k_norm.as_ref().map(&mut *vector).transpose()?,
            o: self.o.try_map(matrix, vector)?,
            gate: self.gate.as_ref().map(|gate| gate.try_map(matrix, vector)).transpose()?,
            attention_out_norm: self.attention_out_norm.as_ref().map(&mut *vector).transpose()?,
            post_norm: vector(&self.post_norm)?,
            feed_forward: self.feed_forward.try_map(matrix, vector)?,
            feed_forward_out_norm: self.feed_forward_out_norm.as_ref().map(&mut *vector).transpose()?,
        })
    }

    /// Every matrix and every other part, in order.
    pub fn list(&self) -> Vec<Piece<&M, &V>> {
        let list = RefCell::new(Vec::new());
        let add = |piece| {
            list.borrow_mut().push(piece);
            Ok::<_, Infallible>(())
        };
        let Ok(_) = self.try_map(|m| add(Piece::Matrix(m)), |v| add(Piece::Vector(v)));
        list.into_inner()
    }

    /// What rows are multiplied with, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &M> {
        self.list().into_iter().filter_map(|piece| if let Piece::Matrix(m) = piece { Some(m) } else { None })
    }
}

/// One of a layer's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<M, V> {
    /// Rows are multiplied with it.
    Matrix(M),
    /// A norm, a bias, or the weight of a query gate.
    Vector(V),
}

impl<T> LayerParts<T> {
    /// Calls `f` with every part, in order.
    pub fn each<'a>(&'a self, mut f: impl FnMut(&'a T)) {
        for piece in self.list() {
            let (Piece::Matrix(part) | Piece::Vector(part)) = piece;
            f(part);
        }
    }
}

/// What is to be known of a layer's tensor: it is the same in every layer that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name after `model.layers.{n}.`.
    pub name: String,
    /// Its name after `blk.{n}.` in a GGUF file, where the experts of a layer are one tensor.
    pub gguf: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl Part {
    fn new((name, gguf): (&str, &str), ending: &str, shape: &[usize], role: Role) -> Self {
        let (name, gguf) = (format!("{name}.{ending}"), format!("{gguf}.{ending}"));
        Self { name, gguf, shape: shape.to_vec(), role }
    }

    fn norm(names: (&str, &str), size: usize) -> Self {
        Self::new(names, "weight", &[size], Role::Norm)
    }

    fn linear(names: (&str, &str), shape: [usize; 2], bias: bool) -> Linear<Self> {
        let bias = bias.then(|| Self::new(names, "bias", &shape[..1], Role::Bias));
        Linear { weight: Self::new(names, "weight", &shape, Role::Matrix), bias }
    }

    fn matrix((name, gguf): (&str, &str), shape: [usize; 2], role: Role) -> Self {
        Self::new((name, gguf), "weight", &shape, role)
    }

    /// The tensor in layer `n`.
    pub fn spec(&self, n: usize) -> Spec {
        Spec { name: layer_name(n, &self.name), shape: self.shape.clone(), role: self.role }
    }
}

impl LayerParts<Part> {
    /// The tensors that layer `n` of a model has. In pairs: the name in checkpoint folders, the name in GGUF files.
    pub fn of(c: &ModelConfig, n: usize) -> Self {
        let (d, ff, h) = (c.hidden_size, c.intermediate_size, c.num_attention_heads);
        let (q, kv, extras) = (c.query_width(), c.kv_width(), &c.extras);
        let gate = |kind| {
            let names = ("self_attn.plt_gate", "loop_gate");
            let width = if kind == GateKind::Hidden { d } else { c.head_dim };
            let weight = Part::new(names, "weight", &[h, width], Role::Gate);
            let bias = Part::new(names, "bias", &[h], Role::Bias);
            match kind {
                GateKind::Hidden => Gate::Hidden {
                    weight,
                    bias,
                    norm: Part::norm(("self_attn.plt_gate.gate_norm", "loop_gate_norm"), d),
                },
                GateKind::Query => Gate::Query { weight, bias },
            }
        };
        let head_norm = |names, all| match extras.qk_norms {
            QkNorms::None => None,
            QkNorms::Head => Some(Part::norm(names, c.head_dim)),
            QkNorms::Whole => Some(Part::norm(names, all)),
        };
        let sandwich = |names| extras.sandwich_norms.then(|| Part::norm(names, d));
        Self {
            input_norm: Part::norm(("input_layernorm", "attn_norm"), d),
            q: Part::linear(("self_attn.q_proj", "attn_q"), [q, d], extras.attention_bias),
            k: Part::linear(("self_attn.k_proj", "attn_k"), [kv, d], extras.attention_bias),
            v: Part::linear(("self_attn.v_proj", "attn_v"), [kv, d], extras.attention_bias),
            q_norm: head_norm(("self_attn.q_norm", "attn_q_norm"), q),
            k_norm: head_norm(("self_attn.k_norm", "attn_k_norm"), kv),
            o: Part::linear(("self_attn.o_proj", "attn_output"), [d, q], extras.attention_output_bias),
            gate: c.recipe.local.map(|local| gate(local.gate)),
            attention_out_norm: sandwich(("input_layernorm_2", "post_attention_norm")),
            post_norm: Part::norm(("post_attention_layernorm", "ffn_norm"), d),
            feed_forward: match &c.moe {
                Some(moe) if moe.in_layer(n) => FeedForward::Experts(Experts::of(moe, d)),
                _ => FeedForward::Dense {
                    gate_proj: Part::linear(("mlp.gate_proj", "ffn_gate"), [ff, d], extras.mlp_bias),
                    up_proj: Part::linear(("mlp.up_proj", "ffn_up"), [ff, d], extras.mlp_bias),
                    down_proj: Part::linear(("mlp.down_proj", "ffn_down"), [d, ff], extras.mlp_bias),
                },
            },
            feed_forward_out_norm: sandwich(("post_attention_layernorm_2", "post_ffw_norm")),
        }
    }

    /// Every tensor that a layer of any model may have, of experts the first: what tables of names are made of.
    pub fn every() -> &'static [Part] {
        static EVERY: LazyLock<Vec<Part>> = LazyLock::new(|| {
            let sizes = Sizes {
                vocab_size: 1,
                hidden_size: 1,
                intermediate_size: 1,
                num_hidden_layers: 1,
                num_attention_heads: 1,
                num_key_value_heads: 1,
                head_dim: 2,
            };
            let mut config = ModelConfig::new(sizes, Recipe::plt(2));
            config.extras = Extras {
                attention_bias: true,
                attention_output_bias: true,
                mlp_bias: true,
                qk_norms: QkNorms::Head,
                sandwich_norms: true,
                ..Extras::default()
            };
            let mut every: Vec<Part> = Vec::new();
            LayerParts::of(&config, 0).each(|part| every.push(part.clone()));
            let shared = Some(SharedExpert { width: 1, gate: true });
            config.moe = Some(Moe { choice_bias: true, shared, ..Moe::new(1, 1, 1) });
            LayerParts::of(&config, 0).each(|part| {
                if !every.contains(part) {
                    every.push(part.clone());
                }
            });
            every
        });
        &EVERY
    }

    /// These tensors in layer `n`, of which they are.
    pub fn specs(&self, n: usize) -> LayerParts<Spec> {
        let spec = |part: &Part| Ok::<_, Infallible>(part.spec(n));
        let Ok(specs) = self.try_map(spec, spec);
        specs
    }
}

/// Where the names of an expert's tensors have its number: `mlp.experts.{e}.gate_proj.weight`.
pub(crate) const EXPERTS: &str = "mlp.experts.";

impl Experts<Part> {
    fn of(moe: &Moe, d: usize) -> Self {
        let expert = |name: &str, gguf: &str, width: usize| {
            let part = |one: &str, short: &str, shape| {
                Part::matrix((&format!("{name}.{one}_proj"), &format!("ffn_{short}_{gguf}")), shape, Role::Matrix)
            };
            Expert {
                gate_proj: part("gate", "gate", [width, d]),
                up_proj: part("up", "up", [width, d]),
                down_proj: part("down", "down", [d, width]),
            }
        };
        let gate = moe.shared.filter(|shared| shared.gate);
        let choice_bias = moe.choice_bias.then(|| Part {
            name: "mlp.gate.e_score_correction_bias".into(),
            gguf: "exp_probs_b.bias".into(),
            shape: vec![moe.experts],
            role: Role::Bias,
        });
        Self {
            router: Part::matrix(("mlp.gate", "ffn_gate_inp"), [moe.experts, d], Role::Router),
            choice_bias,
            experts: (0..moe.experts).map(|e| expert(&format!("{EXPERTS}{e}"), "exps", moe.width)).collect(),
            shared: moe.shared.map(|shared| expert("mlp.shared_expert", "shexp", shared.width)),
            shared_gate: gate
                .map(|_| Part::matrix(("mlp.shared_expert_gate", "ffn_gate_inp_shexp"), [1, d], Role::Router)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_part_has_names_of_its_own() {
        let every = LayerParts::every();
        for of in [|part: &Part| part.name.clone(), |part: &Part| part.gguf.clone()] {
            let names: HashSet<String> = every.iter().map(of).collect();
            assert_eq!(names.len(), every.len());
        }
        // Nothing that a model has is missing among them.
        for gate in [GateKind::Hidden, GateKind::Query] {
            let local = Some(crate::Local { left: 3, gate });
            let config = crate::family::parse(include_str!("../../../tests/goldens/plt2/config.json")).unwrap().config;
            let config = ModelConfig { recipe: Recipe { local, ..Recipe::plt(2) }, ..config };
            LayerParts::of(&config, 0).each(|part| assert!(every.iter().any(|p| p.name == part.name), "{}", part.name));
        }
    }

    #[test]
    fn matrices_are_what_rows_are_multiplied_with() {
        let config = crate::family::parse(include_str!("../../../tests/goldens/plt2-query-gate/config.json"));
        for kind in [GateKind::Hidden, GateKind::Query] {
            let mut config = config.as_ref().unwrap().config.clone();
            config.recipe.local.iter_mut().for_each(|local| local.gate = kind);
            let parts = LayerParts::of(&config, 1);
            let mut seen = Vec::new();
            for piece in parts.list() {
                let (part, product) = match piece {
                    Piece::Matrix(part) => (part, true),
                    Piece::Vector(part) => (part, false),
                };
                let hidden_gate = part.role == Role::Gate && kind == GateKind::Hidden;
                assert_eq!(product, part.role == Role::Matrix || hidden_gate, "{}", part.name);
                seen.push(part.name.clone());
            }
            // The order of `each`, of `specs`, and of the files is one.
            let mut named = Vec::new();
            parts.specs(1).each(|spec| named.push(spec.name.clone()));
            let files: Vec<String> = crate::tensors::expected(&config)
                .into_iter()
                .map(|spec| spec.name)
                .filter(|name| name.starts_with("model.layers.1."))
                .collect();
            assert_eq!(named, files);
            assert_eq!(named, seen.iter().map(|name| layer_name(1, name)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_walk_stops_at_the_first_error() {
        let config = crate::family::parse(include_str!("../../../tests/goldens/plt2/config.json")).unwrap().config;
        let (mut matrices, parts) = (0, LayerParts::of(&config, 0));
        let stopped = parts.try_map(
            |part| {
                matrices += 1;
                if part.name.contains("o_proj") { Err(part.name.clone()) } else { Ok(()) }
            },
            |_| Ok(()),
        );
        assert_eq!((stopped.unwrap_err().as_str(), matrices), ("self_attn.o_proj.weight", 4));
    }
}
